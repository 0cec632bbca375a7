//! Writing large objects into a folder: past the page cache, a piece at a time.
//!
//! Through the cache a pack reaches the disk in one burst, at the latest when it is synced, and whoever else uses that
//! disk waits behind it: a volume's p99 beside a backup was 57 ms. A piece takes the disk for a fraction of a
//! millisecond.
//!
//! Each sync also commits the journal of the file system, for which everybody who writes to it waits: with two for each
//! pack, the p99 of a volume's writes beside them was 1,155 µs, without any 481, and 362 alone. So what need not be there
//! yet is only staged, and many are settled at once.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

/// Bytes that the disk gets at once.
const PIECE: usize = 64 << 10;
/// What file systems want addresses, offsets and lengths to be multiples of.
const ALIGN: usize = 4096;
/// Names that may be taken by what cut-off writes left.
const NAMES: u32 = 1000;

/// From this size on an object is worth it.
pub(crate) const LEAST: usize = 1 << 20;

/// A file that is written but neither durable nor under its name. Removed when it is dropped before it is [settled](settle).
#[derive(Debug)]
pub(crate) struct Staged {
    file: File,
    /// Where it is; `None` once it has its name.
    at: Option<PathBuf>,
    path: PathBuf,
    root: PathBuf,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(at) = &self.at {
            // What stays is removed as litter.
            let _ = fs::remove_file(at);
        }
    }
}

/// Writes a file as `object_store` does: whole and durable when it has its name.
pub(crate) fn put(root: &Path, name: &str, contents: &[u8]) -> io::Result<()> {
    settle(vec![stage(root, name, contents)?])
}

/// Writes a file that is to have the name `name` below `root`.
pub(crate) fn stage(root: &Path, name: &str, contents: &[u8]) -> io::Result<Staged> {
    let path = root.join(name);
    make_folders(root, &path)?;
    let (at, file) = make(&path)?;
    let staged = Staged { file, at: Some(at), path, root: root.to_owned() };
    write(&staged.file, contents)?;
    Ok(staged)
}

/// Makes files durable and gives them their names, durably, too.
pub(crate) fn settle(mut files: Vec<Staged>) -> io::Result<()> {
    files.iter().try_for_each(|staged| staged.file.sync_all())?;
    let mut folders = BTreeSet::new();
    for Staged { at, path, root, .. } in &mut files {
        if let Some(at) = &*at {
            fs::rename(at, &*path)?;
        }
        *at = None;
        // Its folder may be new, too, and whoever made it may have died since.
        folders.extend(path.ancestors().skip(1).take_while(|folder| folder.starts_with(&*root)));
    }
    folders.into_iter().try_for_each(|folder| File::open(folder)?.sync_all())
}

/// Makes the folders between `root` and a file, but not `root`: if that is gone, nothing is to be written in its place.
fn make_folders(root: &Path, path: &Path) -> io::Result<()> {
    let missing = |folder: &&Path| folder.starts_with(root) && *folder != root && !folder.is_dir();
    let folders: Vec<&Path> = path.ancestors().skip(1).take_while(missing).collect();
    for folder in folders.into_iter().rev() {
        match fs::create_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
    }
    Ok(())
}

/// Makes the file under the kind of name that marks unfinished ones.
fn make(path: &Path) -> io::Result<(PathBuf, File)> {
    for number in 1..NAMES {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("#{number}"));
        let staged = PathBuf::from(name);
        let open = |flags: OFlag| {
            let flags = (flags | OFlag::O_CLOEXEC).bits();
            OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(&staged)
        };
        match open(OFlag::O_DIRECT) {
            Ok(file) => return Ok((staged, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // No such thing on this file system, which may have made the file all the same.
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                let _ = fs::remove_file(&staged);
                return open(OFlag::empty()).map(|file| (staged, file));
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn write(file: &File, contents: &[u8]) -> io::Result<()> {
    let mut memory = vec![0; PIECE + ALIGN];
    let from = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
    let buf = &mut memory[from..from + PIECE];
    let mut at = 0;
    for piece in contents.chunks(PIECE) {
        let whole = piece.len().next_multiple_of(ALIGN);
        buf[..piece.len()].copy_from_slice(piece);
        buf[piece.len()..whole].fill(0);
        file.write_all_at(&buf[..whole], at)?;
        at += whole as u64;
    }
    file.set_len(contents.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_hold_what_was_put_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        for len in [0, 1, 4095, 4096, PIECE, PIECE + 1, 3 * PIECE + 5000] {
            let contents: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
            let name = format!("packs/ab/{len}");
            let path = folder.path().join(&name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // A write that was cut off.
            fs::write(folder.path().join(format!("packs/ab/{len}#1")), "litter").unwrap();
            put(folder.path(), &name, &contents).unwrap();
            assert!(fs::read(&path).unwrap() == contents, "{len}");
            put(folder.path(), &name, b"again").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"again");
        }
        let left = fs::read_dir(folder.path().join("packs/ab")).unwrap().count();
        assert_eq!(left, 14, "seven files and what was there before");
        let in_folder = || fs::read_dir(folder.path().join("packs/cd")).unwrap().count();
        let staged: Vec<_> = ["packs/cd/a", "packs/ce/b", "packs/cd/c"]
            .iter()
            .map(|name| stage(folder.path(), name, name.as_bytes()).unwrap())
            .collect();
        assert!(!folder.path().join("packs/cd/a").exists(), "it has no name yet");
        drop(stage(folder.path(), "packs/cd/d", b"given up").unwrap());
        assert_eq!(in_folder(), 2, "what was given up is gone");
        settle(staged).unwrap();
        assert_eq!(fs::read(folder.path().join("packs/ce/b")).unwrap(), b"packs/ce/b");
        assert_eq!(in_folder(), 2, "under their names, and nothing else");
        put(folder.path(), "index/x", b"i").unwrap();
        assert!(put(folder.path(), "index/x/y", b"i").is_err(), "a file is no folder");
        let gone = folder.path().join("gone");
        assert!(put(&gone, "index/x", b"i").is_err() && !gone.exists(), "what is gone is not made again");
    }
}
