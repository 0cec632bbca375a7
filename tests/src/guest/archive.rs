//! Archives as the kernel unpacks them into its first file system: cpio, in the format `newc`.

use std::collections::BTreeSet;
use std::path::Path;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// An archive under construction.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    names: BTreeSet<String>,
}

impl Archive {
    /// Adds a file, executable, at an absolute path, and the folders above it. What is there already stays.
    pub(super) fn file(&mut self, path: &str, contents: &[u8]) {
        let folder = Path::new(path).parent().and_then(Path::to_str).unwrap_or("/");
        self.folder(folder);
        if self.names.insert(path.to_owned()) {
            self.entry(path, PROGRAM, contents);
        }
    }

    /// The finished archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("/TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn folder(&mut self, path: &str) {
        let mut above: Vec<&Path> = Path::new(path).ancestors().collect();
        // The root is there; of the others, outer ones come first.
        above.pop();
        for folder in above.into_iter().rev().filter_map(Path::to_str) {
            if self.names.insert(folder.to_owned()) {
                self.entry(folder, FOLDER, &[]);
            }
        }
    }

    /// A header of 13 fields with eight hexadecimal digits each, the name with its NUL, the contents; both padded to
    /// four bytes.
    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        let name = path.trim_start_matches('/');
        let size = u32::try_from(contents.len()).expect("a file of less than 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a short name");
        let (links, nothing) = (1, 0);
        self.bytes.extend_from_slice(b"070701");
        for field in [
            self.entries,
            mode,
            nothing, // owner
            nothing, // group
            links,
            nothing, // time
            size,
            nothing, // device: major,
            nothing, // and minor
            nothing, // device node: major,
            nothing, // and minor
            name_size,
            nothing, // checksum, which this format doesn't have
        ] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_each_name_once_outer_folders_first() {
        let mut archive = Archive::default();
        archive.file("/usr/bin/one", b"1");
        archive.file("/usr/bin/two", b"22222");
        archive.file("/usr/bin/one", b"again");
        archive.file("/init", b"");
        let bytes = archive.finish();

        let number = |at: usize| {
            let digits = std::str::from_utf8(&bytes[at..at + 8]).expect("digits");
            usize::from_str_radix(digits, 16).expect("hexadecimal")
        };
        let mut found = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701", "an entry begins at {at}");
            let (mode, size, name_size) = (number(at + 14), number(at + 54), number(at + 94));
            let name = std::str::from_utf8(&bytes[at + 110..at + 110 + name_size - 1]).expect("a name");
            let data = (at + 110 + name_size).next_multiple_of(4);
            found.push((name.to_owned(), mode, bytes[data..data + size].to_vec()));
            at = (data + size).next_multiple_of(4);
        }
        let file = |name: &str, data: &[u8]| (name.to_owned(), PROGRAM as usize, data.to_vec());
        let folder = |name: &str| (name.to_owned(), FOLDER as usize, Vec::new());
        assert_eq!(
            found,
            [
                folder("usr"),
                folder("usr/bin"),
                file("usr/bin/one", b"1"),
                file("usr/bin/two", b"22222"),
                file("init", b""),
                ("TRAILER!!!".to_owned(), 0, Vec::new()),
            ]
        );
    }
}
