//! Images.
//!
//! The daemon runs as a user of its own and opens no files for its clients: whoever imports or exports a file opens it
//! here, with the rights of the one who asks. The bytes go over NBD.
//!
//! | room | what it does |
//! |---|---|
//! | [`import`], [`export`] | moves images in and out |
//! | [`transfer`] | work on a thread of its own, with a progress bar, until it ends or somebody ends it |

mod export;
mod import;
mod transfer;

use cairn_api::image::{CreateImage, EditImage, Image, ImageFields, ImageList};
use cairn_api::path;

use super::delete_each;
use crate::args::{self, Spec, Switch};
use crate::client::{Client, Wait};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::images;

pub(super) async fn run(command: args::Image, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        args::Image::Import(import) => import::import(import, client, output).await,
        args::Image::Export { what, file, format } => {
            export::export(what, file, format, client, output).await
        }
        args::Image::Create { name, from, fields } => {
            let (volume, snapshot) = (from.volume, from.snapshot);
            let request = CreateImage { name, volume, snapshot, fields: fields_of(fields) };
            let made = client.post::<Image>(path::IMAGES, &request).await?;
            output.answer(&made, |image, _| images::created(image))
        }
        args::Image::List(filter) => {
            let path = listed(filter);
            let list = client.get::<ImageList>(&path, Wait::Short).await?;
            output.answer(&list, |list, look| images::list(list, path != path::IMAGES, look))
        }
        args::Image::Show { name } => {
            let shown = client.get::<Image>(&path::image(&name), Wait::Short).await?;
            output.answer(&shown, images::show)
        }
        args::Image::Edit { name, changes } => {
            let args::ImageChanges { new_name, description, os_type, min_disk, min_memory, protected, tags } =
                changes;
            let request = EditImage {
                name: new_name,
                description,
                os_type,
                min_disk: min_disk.map(|size| size.bytes()),
                min_memory: min_memory.map(|size| size.bytes()),
                protected: protected.map(Switch::is_on),
                tags: Spec::tag_changes(tags),
            };
            let edited = client.patch::<Image>(&path::image(&name), &request).await?;
            output.answer(&edited, |image, _| images::edited(image, &name))
        }
        args::Image::Delete { names, force } => {
            let force = force.then_some("true");
            let paths = names.iter().map(|name| path::with_query(path::image(name), &[("force", force)]));
            delete_each("image", &names, paths, client, output).await
        }
    }
}

/// The path of a list.
fn listed(filter: args::ImageFilter) -> String {
    let pairs = filter.list.query([
        ("status", filter.status.map(|status| status.as_str().to_owned())),
        ("os_type", filter.os_type),
        ("pool", filter.pool),
        ("protected", filter.protected.map(Switch::in_query)),
        ("sort", filter.sort),
    ]);
    path::with_query(path::IMAGES.to_owned(), &super::borrowed(&pairs))
}

fn fields_of(fields: args::ImageFields) -> ImageFields {
    let args::ImageFields { description, os_type, min_disk, min_memory, protected, tags } = fields;
    ImageFields {
        description,
        os_type,
        min_disk: min_disk.bytes(),
        min_memory: min_memory.bytes(),
        protected,
        tags: Spec::tags(tags),
    }
}
