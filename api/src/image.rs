//! Images: disks that never change, from which volumes are made.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::list::list_query;
use crate::schema::{self, FileName, Line, Name, OsType, word_enums};
use crate::tags::{TagChanges, Tags};

/// What the name of an image's NBD export begins with, before its own name. No volume's name has a colon in it.
pub const EXPORT_PREFIX: &str = "image:";

/// An image grows and is made in whole sectors of so many bytes, as every disk driver and image format counts them: what
/// is imported is filled up with zeroes to the next one.
pub const SECTOR_BYTES: u64 = 512;

word_enums! {
    /// A format of image files.
    ImageFormat {
        /// The disk's bytes, nothing else.
        Raw = "raw";
        /// QEMU's format.
        Qcow2 = "qcow2";
        /// VMware's format, as one file.
        Vmdk = "vmdk";
        /// The older format of Hyper-V, also called VPC.
        Vhd = "vhd";
        /// The newer format of Hyper-V.
        Vhdx = "vhdx";
        /// A raw disk in a compressed tar archive.
        RawTarGz = "raw.tar.gz";
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ImageFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<ImageFormat, String> {
        let known = ImageFormat::ALL.iter().find(|format| format.as_str() == text);
        known.copied().ok_or_else(|| {
            let words: Vec<_> = ImageFormat::ALL.iter().map(|format| format.as_str()).collect();
            format!("{text:?} is no format of images; there are {}", words.join(", "))
        })
    }
}

/// Whether an image can be used yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImageStatus {
    /// Its contents are being written. If whoever does that goes away, it goes, too.
    Importing,
    /// Complete, and from then on the same for ever.
    Available,
}

impl ImageStatus {
    /// The status as JSON and tables show it.
    pub fn as_str(self) -> &'static str {
        match self {
            ImageStatus::Importing => "importing",
            ImageStatus::Available => "available",
        }
    }
}

/// Where an image's contents came from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum ImageSource {
    /// A file.
    File {
        /// Its name, without folders; `-` for a stream.
        name: String,
    },
    /// A volume or a snapshot, by the names of that time.
    Volume {
        /// The volume.
        volume: String,
        /// The snapshot; without one, the volume as it was at that moment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<String>,
    },
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageSource::File { name } => f.write_str(name),
            ImageSource::Volume { volume, snapshot: None } => f.write_str(volume),
            ImageSource::Volume { volume, snapshot: Some(snapshot) } => write!(f, "{volume}@{snapshot}"),
        }
    }
}

/// One image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Unique among images; `image:NAME` is its read-only NBD export.
    #[schema(example = "debian-13")]
    pub name: String,
    /// Never reused; stays the same when the image is renamed.
    pub id: u32,
    /// Whether it can be used.
    pub status: ImageStatus,
    /// Bytes, a multiple of 512 for what was imported.
    pub size: u64,
    /// Bytes that hold data, those shared with volumes and snapshots included.
    pub mapped: u64,
    /// When it was made, or its import began.
    pub created: Timestamp,
    /// Free text.
    pub description: String,
    /// The format it came in; `raw` for one made of a volume.
    pub format: ImageFormat,
    /// What system is on it, a word of the user's choice.
    #[serde(default)]
    pub os_type: Option<String>,
    /// Bytes that a volume made from it has at least, and unless told otherwise; 0 for the image's own size.
    pub min_disk: u64,
    /// Bytes of memory that a machine which boots it needs; for whoever starts machines.
    pub min_memory: u64,
    /// Whether deleting it is refused.
    pub protected: bool,
    /// Where it came from.
    pub source: ImageSource,
    /// The pool that holds it, and the volumes that are made from it.
    pub pool: String,
    /// How many volumes there are that were made from it.
    pub volumes: u64,
    /// What users say about it.
    #[serde(default)]
    #[schema(value_type = schema::Tags)]
    pub tags: Tags,
}

/// Some images.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImageList {
    /// In the order that was asked for; without any by name.
    pub images: Vec<Image>,
    /// What to ask for `after` to have those that come next; not there when these are the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

list_query! {
    /// Which images to list: those to which all of this applies.
    ImageQuery,
    sort: ImageSort = "What they are sorted by: `name`, `size`, `used`, `created`, `status`, `os-type` or `pool`, several separated by commas; with `-` in front from the other end."
        for example "-created",
    after: Name = "Only those after this one: the `next` of the answer before, to the same query." {
        /// Its status.
        #[param(inline)]
        status: Option<ImageStatus>,
        /// What system is on it.
        #[param(value_type = Option<OsType>, inline)]
        os_type: Option<String>,
        /// Its pool.
        #[param(value_type = Option<Name>, inline)]
        pool: Option<String>,
        /// Whether deleting it is refused.
        protected: Option<bool>,
    }
}

/// What users say about an image.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageFields {
    /// Free text, one line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(value_type = Line)]
    pub description: String,
    /// What system is on it: up to 64 characters on one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<OsType>)]
    pub os_type: Option<String>,
    /// Bytes that a volume made from it has at least.
    #[serde(default)]
    #[schema(maximum = 70368744177664u64)]
    pub min_disk: u64,
    /// Bytes of memory that it needs.
    #[serde(default)]
    #[schema(maximum = 70368744177664u64)]
    pub min_memory: u64,
    /// Refuse to delete it.
    #[serde(default)]
    pub protected: bool,
    /// What to say about it; as of a volume.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    #[schema(value_type = schema::Tags)]
    pub tags: Tags,
}

/// Asks for an image of a volume or snapshot. Nothing is copied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateImage {
    /// 1 to 128 characters: ASCII letters, digits, `.`, `_` and `-`, starting with a letter or digit.
    #[schema(example = "golden", value_type = Name)]
    pub name: String,
    /// The volume.
    #[schema(value_type = Name)]
    pub volume: String,
    /// Its snapshot; without one, the volume as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Name>)]
    pub snapshot: Option<String>,
    /// What to keep about it.
    #[serde(default)]
    pub fields: ImageFields,
}

/// Begins an import: asks for an image that is to be written over NBD.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateImport {
    /// 1 to 128 characters: ASCII letters, digits, `.`, `_` and `-`, starting with a letter or digit.
    #[schema(example = "debian-13", value_type = Name)]
    pub name: String,
    /// Bytes. May grow later, for a stream whose end is not known.
    #[schema(minimum = 512, maximum = 70368744177664u64, multiple_of = 512)]
    pub size: u64,
    /// The format of the file.
    pub format: ImageFormat,
    /// The file's name.
    #[schema(value_type = FileName)]
    pub file: String,
    /// What to keep about it.
    #[serde(default)]
    pub fields: ImageFields,
    /// The pool to make it in; the first one unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Name>)]
    pub pool: Option<String>,
}

/// An import under way. Connect to its export within ten seconds and stay connected, write, and complete it: an import
/// that nobody has been connected to for ten seconds is given up, and its image goes away.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Import {
    /// The image so far.
    pub image: Image,
    /// The job that it is.
    #[serde(default)]
    pub job: String,
    /// The NBD export to write the contents to; it reads as zeroes at first.
    pub export: String,
}

/// Asks to make an image that is being imported larger.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrowImport {
    /// The new size in bytes; not less than the present one.
    #[schema(minimum = 512, maximum = 70368744177664u64, multiple_of = 512)]
    pub size: u64,
}

/// What of an image is to change; what is left out stays. Its contents never change.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditImage {
    /// A new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Name>)]
    pub name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Line>)]
    pub description: Option<String>,
    /// What system is on it; an empty text for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<OsType>)]
    pub os_type: Option<String>,
    /// Bytes that a volume made from it has at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 70368744177664u64)]
    pub min_disk: Option<u64>,
    /// Bytes of memory that it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 70368744177664u64)]
    pub min_memory: Option<u64>,
    /// Whether deleting it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected: Option<bool>,
    /// Tags to set, or with `null` to take away.
    #[serde(default, skip_serializing_if = "TagChanges::is_empty")]
    #[schema(value_type = schema::TagChanges)]
    pub tags: TagChanges,
}

/// How to delete an image.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteImageQuery {
    /// Also when volumes were made from it, which live on, and when it is still being imported.
    #[serde(default)]
    pub force: bool,
}

/// A snapshot that was taken only to be read, and goes away when nobody has been connected to it for ten seconds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PassingSnapshot {
    /// The volume.
    pub volume: String,
    /// The snapshot's name. It may be deleted as any other.
    pub snapshot: String,
    /// Bytes.
    pub size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_the_same_words_everywhere() {
        for &format in ImageFormat::ALL {
            assert_eq!(format.as_str().parse(), Ok(format));
            let json = serde_json::to_string(&format).expect("serialises");
            assert_eq!(json, format!("\"{format}\""));
        }
        let error = "qcow".parse::<ImageFormat>().expect_err("not a format");
        assert!(error.contains("raw, qcow2, vmdk, vhd, vhdx, raw.tar.gz"), "{error}");
    }

    #[test]
    fn sources_are_shown_as_they_are_written() {
        let volume = |snapshot: Option<&str>| ImageSource::Volume {
            volume: "web".into(),
            snapshot: snapshot.map(str::to_owned),
        };
        assert_eq!(volume(None).to_string(), "web");
        assert_eq!(volume(Some("s")).to_string(), "web@s");
        let json = serde_json::to_string(&volume(None)).expect("serialises");
        assert_eq!(json, r#"{"kind":"volume","volume":"web"}"#);
    }
}
