//! `cairn image ...`

use std::path::PathBuf;

use cairn_api::Size;
use cairn_api::image::{ImageFormat, ImageStatus};
use clap::{Args, Subcommand};

use super::values::{Export, Exported, ListFilter, Spec, Switch, one_of};

#[derive(Subcommand, Debug)]
pub(crate) enum Image {
    /// Import an image from a file or a stream
    #[command(after_help = "\
Examples:
  cairn image import debian-13.qcow2 debian-13 --os-type linux
  cairn image import disk.img web --format raw
  curl -s URL/disk.tar.gz | cairn image import - web

Formats: raw, qcow2, vmdk, vhd, vhdx and raw.tar.gz, told by what the file holds. From a stream (-): raw and
raw.tar.gz. Of a disk that others have written to, say --format raw: its first bytes may pass for another format.
Images that name other files (backing files, extents) are refused. Sizes are rounded up to 512 bytes.")]
    Import(ImportImage),
    /// Export an image, a volume or a snapshot to a file or a stream
    #[command(after_help = "\
Examples:
  cairn image export web@monday web.qcow2
  cairn image export web web.tar.gz
  cairn image export image:debian-13 - --format raw | ssh host 'cat > disk.img'

A volume is exported as it is at that moment. The file appears when it is complete; one that is there already is
replaced then.")]
    Export {
        /// What to export; "image:NAME" and "volume:NAME" where there are both of one name
        #[arg(value_name = "VOL[@SNAP]|IMAGE")]
        what: Exported,
        /// Where to; - for standard output
        file: PathBuf,
        /// raw, qcow2 or raw.tar.gz; told by the file's name unless given
        #[arg(long)]
        format: Option<ImageFormat>,
    },
    /// Make an image of a volume or snapshot, at once
    #[command(after_help = "\
Examples:
  cairn image create golden --from web@monday --os-type linux --protected
  cairn image create golden --from web")]
    Create {
        /// The new image's name: letters, digits, '.', '_' and '-', at most 128
        name: String,
        /// The snapshot, or the volume as it is now
        #[arg(long, value_name = "VOL[@SNAP]")]
        from: Export,
        #[command(flatten)]
        fields: ImageFields,
    },
    /// List images: all, or those to which all of this applies
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  cairn image list
  cairn image list --os-type linux --tag release --sort -created --limit 10"
    )]
    List(ImageFilter),
    /// Show one image
    Show {
        /// The image
        name: String,
    },
    /// Name or describe an image differently, or change what it asks for
    #[command(after_help = "\
Examples:
  cairn image edit golden --name golden-2 --description 'with the new kernel'
  cairn image edit golden --protected on")]
    Edit {
        /// The image
        name: String,
        #[command(flatten)]
        changes: ImageChanges,
    },
    /// Delete images that are not protected; volumes made from them live on
    #[command(visible_alias = "rm", after_help = "Example:\n  cairn image delete old older --force")]
    Delete {
        /// The images
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Also those from which volumes were made, and those that are being imported
        #[arg(long)]
        force: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct ImportImage {
    /// The file; - for standard input
    pub(crate) file: PathBuf,
    /// The new image's name: letters, digits, '.', '_' and '-', at most 128
    pub(crate) name: String,
    /// The file's format; told by what it holds unless given
    #[arg(long)]
    pub(crate) format: Option<ImageFormat>,
    /// Refuse a larger disk
    #[arg(long, value_name = "SIZE", default_value = "64T")]
    pub(crate) max_size: Size,
    /// The pool to make it in; the first one unless given
    #[arg(long)]
    pub(crate) pool: Option<String>,
    #[command(flatten)]
    pub(crate) fields: ImageFields,
}

#[derive(Args, Debug)]
pub(crate) struct ImageFields {
    /// Free text
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub(crate) description: String,
    /// What system is on it, for example linux
    #[arg(long, value_name = "WORD")]
    pub(crate) os_type: Option<String>,
    /// The least size of volumes made from it
    #[arg(long, value_name = "SIZE", default_value = "0", hide_default_value = true)]
    pub(crate) min_disk: Size,
    /// The memory that a machine needs for it
    #[arg(long, value_name = "SIZE", default_value = "0", hide_default_value = true)]
    pub(crate) min_memory: Size,
    /// Refuse to delete it
    #[arg(long)]
    pub(crate) protected: bool,
    /// What to say about it; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(crate) tags: Vec<Spec>,
}

/// Which images.
#[derive(Args, Debug)]
pub(crate) struct ImageFilter {
    #[command(flatten)]
    pub(crate) list: ListFilter,
    /// In this status: importing or available
    #[arg(long, value_parser = image_status)]
    pub(crate) status: Option<ImageStatus>,
    /// With this system
    #[arg(long, value_name = "WORD")]
    pub(crate) os_type: Option<String>,
    /// In this pool
    #[arg(long)]
    pub(crate) pool: Option<String>,
    /// Those that are protected, or the others
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    pub(crate) protected: Option<Switch>,
    /// Order by name, size, used, created, status, os-type or pool, several with commas; with - from the other end
    #[arg(long, value_name = "KEY,...", allow_hyphen_values = true)]
    pub(crate) sort: Option<String>,
}

fn image_status(text: &str) -> Result<ImageStatus, String> {
    one_of(text, &[ImageStatus::Importing, ImageStatus::Available], ImageStatus::as_str)
}

/// At least one of them.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct ImageChanges {
    /// A new name
    #[arg(long = "name", value_name = "NEW")]
    pub(crate) new_name: Option<String>,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// What system is on it; an empty word for none
    #[arg(long, value_name = "WORD")]
    pub(crate) os_type: Option<String>,
    /// The least size of volumes made from it
    #[arg(long, value_name = "SIZE")]
    pub(crate) min_disk: Option<Size>,
    /// The memory that a machine needs for it
    #[arg(long, value_name = "SIZE")]
    pub(crate) min_memory: Option<Size>,
    /// Whether deleting it is refused
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    pub(crate) protected: Option<Switch>,
    /// A tag to set, or with nothing after the = to take away; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(crate) tags: Vec<Spec>,
}
