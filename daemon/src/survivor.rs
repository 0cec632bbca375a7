//! Memory that outlives the daemon: a file on `/dev/shm`, from which the next daemon learns what this one had answered but
//! not yet written to the pool's journal, should this one be killed.
//!
//! The file is named after the pool's file or device, so that it is found whatever path leads there; the pool's lock keeps
//! a second daemon away from it. What is in it, and whether to believe it, is the engine's affair.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cairn_cow::Survivor;
use cairn_uring::buf::SharedMemory;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::geteuid;

use crate::disk::FileId;

/// Where every Linux has a file system in memory; a reboot empties it.
const FOLDER: &str = "/dev/shm";

/// The file for the pool that is this file or device.
pub(crate) fn path_for(pool: FileId) -> PathBuf {
    let user = geteuid();
    let name = match pool {
        FileId::File { on, inode } => format!("cairn-{user}-{on:x}-{inode:x}"),
        FileId::Device { number } => format!("cairn-{user}-device-{number:x}"),
    };
    Path::new(FOLDER).join(name)
}

/// Memory of `len` bytes in the file at `path`, with what was left there if it had that length.
///
/// # Errors
/// When there is no such memory here, or none that can be trusted.
pub(crate) fn open(path: &Path, len: usize) -> io::Result<Box<dyn Survivor>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits()).open(path)?;
    check(&file)?;
    if file.metadata()?.len() != len as u64 {
        file.set_len(0)?;
    }
    // Taken now: memory that is not there when it is touched would end the process.
    if let Err(errno) = fallocate(&file, FallocateFlags::empty(), 0, len as i64) {
        drop(std::fs::remove_file(path));
        return Err(errno.into());
    }
    let memory = SharedMemory::of(&file, len)?;
    Ok(Box::new(InMemoryFile { memory, path: path.to_owned() }))
}

/// What a daemon that died left in the file at `path`, if there is one to be trusted; nothing is changed.
pub(crate) fn peek(path: &Path) -> Option<Vec<u8>> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits());
    let mut file = options.open(path).ok()?;
    check(&file).ok()?;
    let mut left = Vec::new();
    file.read_to_end(&mut left).ok()?;
    Some(left)
}

/// Anybody may put a file there.
fn check(file: &File) -> io::Result<()> {
    let found = file.metadata()?;
    if !found.is_file() || found.uid() != geteuid().as_raw() || found.nlink() != 1 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file there is not this user's"));
    }
    if fstatfs(file)?.filesystem_type() != TMPFS_MAGIC {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "it is not on a file system in memory"));
    }
    Ok(())
}

struct InMemoryFile {
    memory: SharedMemory,
    path: PathBuf,
}

impl Survivor for InMemoryFile {
    fn load(&self, at: usize, into: &mut [u8]) {
        self.memory.load(at, into);
    }

    fn store(&mut self, at: usize, bytes: &[u8]) {
        self.memory.store(at, bytes);
    }

    fn discard(self: Box<Self>) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the memory for the next daemon");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder in memory.
    fn folder() -> tempfile::TempDir {
        tempfile::tempdir_in(FOLDER).expect("a folder in memory")
    }

    #[test]
    fn the_next_one_finds_what_was_stored_until_it_is_discarded() {
        let folder = folder();
        let path = folder.path().join("memory");
        open(&path, 8192).expect("opens").store(100, b"cairn");
        let found = open(&path, 8192).expect("opens");
        let mut seen = vec![0; 8192];
        found.load(0, &mut seen);
        assert_eq!(&seen[99..106], b"\0cairn\0");
        found.discard();
        assert!(!path.exists());
    }

    #[test]
    fn memory_of_another_length_is_new() {
        let folder = folder();
        let path = folder.path().join("memory");
        open(&path, 8192).expect("opens").store(0, b"cairn");
        let mut seen = vec![1; 12_288];
        open(&path, 12_288).expect("opens").load(0, &mut seen);
        assert!(seen.iter().all(|b| *b == 0));
    }

    #[test]
    fn what_others_may_have_put_there_is_refused() {
        let folder = folder();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::fs::write(&target, b"precious").expect("a file");
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        assert!(open(&link, 4096).is_err());
        std::fs::remove_file(&link).expect("goes");
        std::fs::hard_link(&target, &link).expect("a second name");
        assert!(open(&link, 4096).is_err());
        assert_eq!(std::fs::read(&target).expect("is there"), b"precious");
        let on_disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
        let file_system = fstatfs(File::open(on_disk.path()).expect("opens")).expect("tells");
        if file_system.filesystem_type() != TMPFS_MAGIC {
            assert!(open(&on_disk.path().join("memory"), 4096).is_err());
        }
    }
}
