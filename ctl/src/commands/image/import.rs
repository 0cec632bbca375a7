//! Importing: read here, written to an export that the daemon makes for it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use cairn_api::image::{CreateImport, GrowImport, Image, Import, SECTOR_BYTES};
use cairn_api::path;
use cairn_image::nbd::{Connection, DiskTarget, Grow};
use cairn_image::{Input, Opened, Options, Reading, copy, open, round_up};

use super::fields_of;
use super::transfer::Transfer;
use crate::args;
use crate::client::{Answer, Client};
use crate::commands::nbd_endpoint;
use crate::failure::Failure;
use crate::output::Output;
use crate::render::images;

/// The longest name of a file that is kept.
const MOST_NAME_CHARS: usize = 60;

/// Opens what the command line names, and gives it a name to keep.
fn open_input(path: &Path) -> Result<(Input, String), Failure> {
    if path == Path::new("-") {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().map(File::from);
        let stdin = stdin.map_err(|e| Failure::local("io", format!("cannot read standard input: {e}")))?;
        let is_file = stdin.metadata().is_ok_and(|metadata| metadata.is_file());
        let input = if is_file { Input::File(stdin) } else { Input::Stream(Box::new(stdin)) };
        return Ok((input, "-".to_owned()));
    }
    let unreadable = |e| Failure::local("io", format!("cannot open {}: {e}", path.display()));
    let file = File::open(path).map_err(unreadable)?;
    let kind = std::os::unix::fs::FileTypeExt::is_fifo(&file.metadata().map_err(unreadable)?.file_type());
    let input = if kind { Input::Stream(Box::new(file)) } else { Input::File(file) };
    Ok((input, name_of(path)))
}

/// A file's name as text on one line.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(OsStr::new("?")).to_string_lossy();
    name.chars().map(|c| if c.is_control() { '?' } else { c }).take(MOST_NAME_CHARS).collect()
}

pub(super) async fn import(args: args::ImportImage, client: &Client, output: &Output) -> Result<(), Failure> {
    let args::ImportImage { file, name, format, max_size, pool, fields } = args;
    let (input, shown) = open_input(&file)?;
    let mut transfer = Transfer::new(output)?;
    let options = Options { format, max_size: max_size.bytes().min(cairn_image::MAX_DISK_BYTES) };
    let (format, reading, size) = transfer
        .run(move |watch| {
            let Opened { format, source } = open(input, &options)?;
            let (reading, size) = Reading::start(source, options.max_size, watch)?;
            Ok((format, reading, size))
        })
        .await?;
    let request = CreateImport {
        name: name.clone(),
        size: size.map_or(SECTOR_BYTES, round_up),
        format,
        file: shown,
        fields: fields_of(fields),
        pool,
    };
    let begun = client.post::<Import>(path::IMPORTS, &request).await?.value;
    transfer.expect(size);
    let written = write(begun, reading, size, &mut transfer, client).await;
    drop(transfer);
    match written {
        Ok(made) => output.answer(&made, |image, _| images::imported(image)),
        Err(failure) => {
            // The daemon gives it up by itself, too; what went wrong first counts.
            let _ = client.delete(&path::import(&name)).await;
            Err(failure)
        }
    }
}

/// Writes all that is read, and makes it an image.
async fn write(
    begun: Import,
    mut reading: Reading,
    size: Option<u64>,
    transfer: &mut Transfer,
    client: &Client,
) -> Result<Answer<Image>, Failure> {
    let Import { image, export, .. } = begun;
    let endpoint = nbd_endpoint(client).await?;
    let grow = size.is_none().then(|| grow(image.name.clone(), client));
    let connection = transfer
        .run(move |watch| {
            let mut target = DiskTarget::new(Connection::open(&endpoint, &export)?, grow);
            copy(&mut reading, &mut target, watch)?;
            Ok(target.into_connection())
        })
        .await?;
    let made = client.start::<Image>(&path::import_sub(&image.name, "complete")).await;
    // Not before: it is what tells the daemon that somebody is there.
    drop(connection);
    made
}

/// Has the daemon make the image larger as more and more of a stream comes. Runs on the thread that writes.
fn grow(name: String, client: &Client) -> Grow {
    let (client, runtime) = (client.clone(), tokio::runtime::Handle::current());
    let path = Arc::new(path::import_sub(&name, "grow"));
    Box::new(move |end| {
        let request = GrowImport { size: round_up(end) };
        let grown = runtime.block_on(client.post::<Image>(&path, &request));
        grown.map(|image| image.value.size).map_err(|failure| cairn_image::Error::server(failure.to_string()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_one_line() {
        assert_eq!(name_of(Path::new("/a/b/disk.img")), "disk.img");
        assert_eq!(name_of(Path::new("a\nb")), "a?b");
        assert_eq!(name_of(Path::new("/")), "?");
        assert_eq!(name_of(Path::new(&"ä".repeat(100))).chars().count(), MOST_NAME_CHARS);
    }
}
