//! Exporting: read over NBD, written here.

use std::path::{Path, PathBuf};

use cairn_api::image::{EXPORT_PREFIX, Image, ImageFormat, PassingSnapshot};
use cairn_api::path;
use cairn_api::volume::Volume;
use cairn_image::nbd::{Connection, DiskSource, data_ranges};
use cairn_image::{self as disk_image, MAX_DISK_BYTES, Reading, copy, create, format_of_name, round_up};
use serde_json::json;

use super::transfer::Transfer;
use crate::args::{Export, Exported};
use crate::client::{Client, Wait};
use crate::commands::destination::Destination;
use crate::commands::nbd_endpoint;
use crate::failure::Failure;
use crate::output::Output;
use crate::render::images;

/// What is read, and the snapshot that was taken for it.
struct Chosen {
    /// The NBD export.
    export: String,
    passing: Option<PassingSnapshot>,
}

pub(super) async fn export(
    what: Exported,
    file: PathBuf,
    format: Option<ImageFormat>,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let to_stdout = file == Path::new("-");
    let format = match format.or_else(|| format_of_name(&file.to_string_lossy())) {
        Some(format) => format,
        None if to_stdout => ImageFormat::Raw,
        None => {
            let name = file.display();
            return Err(Failure::Usage(format!(
                "{name} does not tell a format: give --format raw, qcow2 or raw.tar.gz"
            )));
        }
    };
    let place = if to_stdout { Destination::stdout()? } else { Destination::file(&file)? };
    let mut transfer = Transfer::new(output)?;
    let Chosen { export, passing } = choose(&what, client).await?;
    let written = write(export, format, image_in(&place)?, &mut transfer, client).await;
    drop(transfer);
    if let Some(PassingSnapshot { volume, snapshot, .. }) = &passing {
        // The daemon deletes it by itself, too.
        let _ = client.delete(&path::snapshot(volume, snapshot)).await;
    }
    let size = written?;
    place.keep()?;
    match (to_stdout, output.json) {
        (true, _) => Ok(()),
        (false, true) => {
            let shown = json!({
                "exported": what.to_string(), "file": file.to_string_lossy(), "format": format, "size": size,
            });
            output.print(&format!("{shown}\n"))
        }
        (false, false) => output.print(&images::exported(&what.to_string(), &file, format, size)),
    }
}

/// Reads an export and writes all of it as `format`. Returns the size of the disk.
async fn write(
    export: String,
    format: ImageFormat,
    destination: disk_image::Destination,
    transfer: &mut Transfer,
    client: &Client,
) -> Result<u64, Failure> {
    let endpoint = nbd_endpoint(client).await?;
    let (mut reading, mut target, size) = transfer
        .run(move |watch| {
            let mut connection = Connection::open(&endpoint, &export)?;
            let ranges = data_ranges(&mut connection)?;
            let size = connection.size();
            let target = create(format, destination, size, ranges.clone())?;
            let source = Box::new(DiskSource::of_ranges(connection, ranges));
            let (reading, _) = Reading::start(source, MAX_DISK_BYTES, watch)?;
            Ok((reading, target, size))
        })
        .await?;
    transfer.expect(Some(size));
    transfer.run(move |watch| copy(&mut reading, &mut *target, watch)).await?;
    Ok(if format == ImageFormat::Qcow2 { round_up(size) } else { size })
}

/// Finds out what a name stands for; of a volume, takes a snapshot to be read.
async fn choose(what: &Exported, client: &Client) -> Result<Chosen, Failure> {
    let image = |name: &str| Chosen { export: format!("{EXPORT_PREFIX}{name}"), passing: None };
    match what {
        Exported::Image(name) => Ok(image(name)),
        Exported::Export(export @ Export { snapshot: Some(_), .. }) => {
            Ok(Chosen { export: export.to_string(), passing: None })
        }
        Exported::Export(Export { volume, snapshot: None }) => of_volume(volume, client).await,
        Exported::Either(name) => {
            let is_image = is_there::<Image>(&path::image(name), client).await?;
            let is_volume = is_there::<Volume>(&path::volume(name), client).await?;
            match (is_image, is_volume) {
                (true, false) => Ok(image(name)),
                (false, true) => of_volume(name, client).await,
                (true, true) => {
                    Err(Failure::local("ambiguous", format!("there are a volume and an image called {name}"))
                        .with_hint(format!("say which: image:{name} or volume:{name}")))
                }
                (false, false) => Err(Failure::local(
                    "not-found",
                    format!("there is neither a volume nor an image '{name}'"),
                )
                .with_hint("\"cairn volume list\" and \"cairn image list\" show what there is")),
            }
        }
    }
}

async fn of_volume(name: &str, client: &Client) -> Result<Chosen, Failure> {
    let request = path::volume_sub(name, "passing-snapshot");
    let passing = client.start::<PassingSnapshot>(&request).await?.value;
    Ok(Chosen { export: format!("{}@{}", passing.volume, passing.snapshot), passing: Some(passing) })
}

async fn is_there<T: serde::de::DeserializeOwned>(path: &str, client: &Client) -> Result<bool, Failure> {
    match client.get::<T>(path, Wait::Short).await {
        Ok(_) => Ok(true),
        Err(Failure::Told { code, .. }) if code == "not-found" => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// The place as what takes an image.
fn image_in(place: &Destination) -> Result<disk_image::Destination, Failure> {
    let file = place.handle()?;
    Ok(match place {
        Destination::Stdout(_) => disk_image::Destination::Stream(Box::new(file)),
        Destination::File(..) => disk_image::Destination::File(file),
    })
}
