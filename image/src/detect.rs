//! Which format a file has, told by its bytes.
//!
//! What begins like no format that is known is a raw disk. A disk's first bytes may have been written by whoever used it,
//! so that it passes for another format: who knows that a file is raw says so, and everybody else is protected by what
//! the formats' own rooms refuse.

use cairn_api::image::ImageFormat;

use crate::error::{Error, Result};
use crate::foreign::is_fixed_vhd;

/// Enough to tell all formats apart.
pub(crate) const HEAD_BYTES: usize = 512;

/// Formats that nothing here reads, by how they begin, and what to do about it.
const OTHERS: [(&[u8], &str, &str); 6] = [
    (b"\xfd7zXZ\0", "an xz archive", "unpack it: xz -dc FILE | cairn image import - NAME"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it: zstd -dc FILE | cairn image import - NAME"),
    (b"BZh", "a bzip2 archive", "unpack it: bzip2 -dc FILE | cairn image import - NAME"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (
        b"<<< Oracle VM VirtualBox Disk Image >>>",
        "a disk of VirtualBox",
        "convert it: qemu-img convert -O qcow2",
    ),
    (b"LUKS\xba\xbe", "an encrypted volume", "open it first, or import it as it is"),
];

/// The format of a file that begins with `head` and, where it can be looked at, ends with `tail`.
pub(crate) fn detect(head: &[u8], tail: Option<&[u8]>) -> Result<ImageFormat> {
    for (magic, what, hint) in OTHERS {
        if head.starts_with(magic) {
            return Err(Error::unsupported(format!("the file begins like {what}"))
                .with_hint(format!("{hint}; if it is a raw disk all the same: --format raw")));
        }
    }
    let begins = |magics: &[&[u8]]| magics.iter().any(|magic| head.starts_with(magic));
    Ok(if begins(&[b"QFI\xfb"]) {
        ImageFormat::Qcow2
    } else if begins(&[b"KDMV", b"COWD", b"# Disk DescriptorFile", b"# Disk Descriptor File"]) {
        ImageFormat::Vmdk
    } else if begins(&[b"vhdxfile"]) {
        ImageFormat::Vhdx
    } else if begins(&[b"conectix"]) || tail.is_some_and(is_fixed_vhd) {
        ImageFormat::Vhd
    } else if begins(&[b"\x1f\x8b"]) {
        ImageFormat::RawTarGz
    } else {
        ImageFormat::Raw
    })
}

/// The format that the ending of a file's name stands for.
pub fn format_of_name(name: &str) -> Option<ImageFormat> {
    let name = name.to_ascii_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if ends(&[".tar.gz", ".tgz"]) {
        Some(ImageFormat::RawTarGz)
    } else if ends(&[".qcow2"]) {
        Some(ImageFormat::Qcow2)
    } else if ends(&[".raw", ".img"]) {
        Some(ImageFormat::Raw)
    } else if ends(&[".vmdk"]) {
        Some(ImageFormat::Vmdk)
    } else if ends(&[".vhd"]) {
        Some(ImageFormat::Vhd)
    } else if ends(&[".vhdx"]) {
        Some(ImageFormat::Vhdx)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_apart_by_their_first_bytes() {
        for (head, format) in [
            (&b"QFI\xfb\0\0\0\x03"[..], ImageFormat::Qcow2),
            (b"KDMV\x01", ImageFormat::Vmdk),
            (b"# Disk DescriptorFile\nversion=1", ImageFormat::Vmdk),
            (b"vhdxfile", ImageFormat::Vhdx),
            (b"conectix", ImageFormat::Vhd),
            (b"\x1f\x8b\x08", ImageFormat::RawTarGz),
            (b"\xeb\x63\x90", ImageFormat::Raw),
            (b"", ImageFormat::Raw),
            (b"QFI", ImageFormat::Raw),
        ] {
            assert_eq!(detect(head, None).expect("known"), format, "{head:?}");
        }
        let packed = detect(b"\xfd7zXZ\0\0", None).expect_err("not a disk");
        assert!(packed.hint().is_some_and(|hint| hint.contains("xz -dc")), "{packed}");
    }

    #[test]
    fn names_say_what_to_write() {
        assert_eq!(format_of_name("a/b.qcow2"), Some(ImageFormat::Qcow2));
        assert_eq!(format_of_name("DISK.TAR.GZ"), Some(ImageFormat::RawTarGz));
        assert_eq!(format_of_name("disk.img"), Some(ImageFormat::Raw));
        assert_eq!(format_of_name("disk"), None);
        assert_eq!(format_of_name("disk.gz"), None);
    }
}
