//! Having the daemon bring a backup back, in a volume that serves at once.
//!
//! The repository is not even opened here: the daemon needs it as long as the restore takes, so it must be able to reach it
//! and says what is wrong if it cannot.

use cairn_api::path;
use cairn_api::volume::{CreateRestore, Volume};

use crate::client::Client;
use crate::commands::repository::Place;
use crate::commands::uri;
use crate::failure::Failure;
use crate::output::Output;
use crate::render::volumes;

pub(super) async fn restore(
    place: Place,
    backup: String,
    name: String,
    volume_type: Option<String>,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let absolute = |path: std::path::PathBuf| {
        let failed =
            |e| Failure::local("io", format!("the key file {} cannot be found: {e}", path.display()));
        let path = std::path::absolute(&path).map_err(failed)?;
        path.into_os_string().into_string().map_err(|path| {
            Failure::local("invalid-argument", format!("the key file {path:?} has a name that is not UTF-8"))
        })
    };
    let key_file = place.key_file.map(absolute).transpose()?;
    let request =
        CreateRestore { name, repo: place.url, backup, key_file, volume_type, ..CreateRestore::default() };
    let made = client.post::<Volume>(path::RESTORES, &request).await?;
    let uri = uri(client, output, &made.value.name).await?;
    output.answer(&made, |volume, look| volumes::restoring(volume, uri.as_deref(), look))
}
