//! The pool's disk: one file or block device, locked against a second daemon, reached through io_uring.

use std::fs::{Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::{Deref, DerefMut, Range};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_cow::{Buf, Disk, Survivor};
use cairn_uring::AlignedBuf;
use cairn_uring::fs::File;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};
use nix::unistd::{Whence, lseek};
use parking_lot::Mutex;

use crate::survivor;

/// How long a start waits for what a daemon that was killed still holds: the kernel lets go of its files and sockets only
/// once all the I/O it had in flight has ended, which is after the process is gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// The engine's buffers are the reactor's.
#[derive(Debug)]
pub struct PoolBuf(pub AlignedBuf);

impl Deref for PoolBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for PoolBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Buf for PoolBuf {
    fn split_off(&mut self, at: usize) -> PoolBuf {
        PoolBuf(self.0.split_off(at))
    }

    fn join(&mut self, next: PoolBuf) {
        self.0.join(next.0);
    }
}

/// Which file or device something is, by whatever names it is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FileId {
    /// A file: its file system and its number there.
    File { on: u64, inode: u64 },
    /// A block device, of which there may be any number of nodes.
    Device { number: u64 },
}

impl FileId {
    /// What a path leads to.
    pub(crate) fn of(path: &Path) -> io::Result<FileId> {
        path.metadata().map(|metadata| FileId::from(&metadata))
    }
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> FileId {
        if metadata.file_type().is_block_device() {
            FileId::Device { number: metadata.rdev() }
        } else {
            FileId::File { on: metadata.dev(), inode: metadata.ino() }
        }
    }
}

/// A file or device that this process alone uses.
pub struct PoolDisk {
    file: File,
    id: FileId,
    len: AtomicU64,
    device: bool,
    /// Writing to space that was only reserved takes longer than writing there again.
    new_is_slow: bool,
    /// Taken where the length is set to a value rather than extended, so that it never shrinks.
    setting_len: Mutex<()>,
    /// Holds the lock; the kernel lets go of it when the process ends, however it ends.
    _lock: Flock<std::fs::File>,
}

/// What was found at the pool's path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// A file that this call made, or one that holds nothing but zeroes, as the first start leaves it when it is killed
    /// half-way; or a device that begins with zeroes: a pool may be made here.
    Blank {
        /// Whether the file did not exist before.
        created: bool,
    },
    /// Something; opening tells whether it is a pool.
    Something,
}

impl PoolDisk {
    /// Opens and locks `path`, making an empty file of it when `create` and nothing is there.
    ///
    /// # Errors
    /// A sentence for people: no such file, no permission, or another process has it.
    pub fn open(path: &Path, create: bool) -> Result<(PoolDisk, Found), String> {
        let present = path.metadata();
        let existed = present.is_ok();
        let was_device = present.is_ok_and(|m| m.file_type().is_block_device());
        let shown = path.display();
        if !existed && !create {
            return Err(format!("there is no pool at {shown}: set create = true under [pool] to make one"));
        }
        // The kernel then refuses a device that is mounted or part of another one, and keeps others from mounting it.
        let exclusive = if was_device { OFlag::O_EXCL } else { OFlag::empty() };
        let open = |flags: OFlag| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(create && !was_device)
                .truncate(false)
                // Disks hold secrets: nobody but the daemon's user reads them.
                .mode(0o600)
                .custom_flags((flags | exclusive | OFlag::O_CLOEXEC).bits())
                .open(path)
        };
        let open = |flags| patiently(|| open(flags), |e| e.raw_os_error() == Some(Errno::EBUSY as i32));
        let file = match open(OFlag::O_DIRECT) {
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                tracing::warn!(
                    "the file system of {shown} has no direct I/O: the page cache is used, which costs speed"
                );
                open(OFlag::empty())
            }
            opened => opened,
        };
        let file = file.map_err(|e| match e.raw_os_error() {
            Some(code) if code == Errno::EBUSY as i32 => {
                format!("the device {shown} is in use: mounted, part of another device, or another cairnd's")
            }
            _ => format!("cannot open the pool {shown}: {e}"),
        })?;
        let metadata = file.metadata().map_err(|e| format!("cannot look at {shown}: {e}"))?;
        let (id, kind) = (FileId::from(&metadata), metadata.file_type());
        let device = kind.is_block_device();
        if !device && !kind.is_file() {
            return Err(format!("{shown} is neither a file nor a block device"));
        }
        if device && !was_device {
            return Err(format!("{shown} became a device while it was opened: start again"));
        }
        let second = file.try_clone().map_err(|e| format!("cannot open the pool {shown}: {e}"))?;
        let lock = lock(second).map_err(|errno| match errno {
            Errno::EWOULDBLOCK => {
                format!("the pool {shown} is in use by another cairnd: stop that one first")
            }
            errno => format!("cannot lock the pool {shown}: {errno}"),
        })?;
        let file = File::from_std(file);
        let len = file.len().map_err(|e| format!("cannot tell the size of {shown}: {e}"))?;
        let new_is_slow = !device && marks_reserved_space(&file);
        let blank = if device { begins_with_zeroes(path) } else { is_all_zeroes(path) };
        let blank = blank.map_err(|e| format!("cannot read {shown}: {e}"))?;
        let found = if blank { Found::Blank { created: !existed } } else { Found::Something };
        let setting_len = Mutex::new(());
        Ok((
            PoolDisk { file, id, len: AtomicU64::new(len), device, new_is_slow, setting_len, _lock: lock },
            found,
        ))
    }

    /// Makes a file empty, so that a pool made in it finds the space it needs or no pool is made. A device stays.
    ///
    /// # Errors
    /// What `ftruncate(2)` says.
    pub fn clear(&self) -> io::Result<()> {
        if !self.device {
            let _alone = self.setting_len.lock();
            self.file.set_len(0)?;
            self.len.store(0, Ordering::Release);
        }
        Ok(())
    }

    /// Grows the file without taking the space for it, where the file system cannot promise space.
    fn grow_sparsely(&self, len: u64) -> io::Result<()> {
        let _alone = self.setting_len.lock();
        if len > self.len() {
            self.file.set_len(len)?;
            self.len.store(len, Ordering::Release);
        }
        Ok(())
    }

    /// Which file or device it is.
    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// The size of a block device, which bounds a pool on it.
    pub fn device_size(&self) -> Option<u64> {
        self.device.then(|| self.len())
    }
}

/// Whether the file system notes of reserved space that nothing was written there, and takes it back when something is.
fn marks_reserved_space(file: &File) -> bool {
    // Those that write elsewhere what is written again gain nothing by the first time.
    fstatfs(file).is_ok_and(|about| [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC].contains(&about.filesystem_type()))
}

/// The size of a block device now, and none for a file.
pub(crate) fn device_size(path: &Path) -> io::Result<Option<u64>> {
    let mut file = std::fs::File::open(path)?;
    if !file.metadata()?.file_type().is_block_device() {
        return Ok(None);
    }
    file.seek(SeekFrom::End(0)).map(Some)
}

/// Takes the lock, waiting a little for a daemon that was killed.
fn lock(file: std::fs::File) -> Result<Flock<std::fs::File>, Errno> {
    let mut file = Some(file);
    let mut attempt = || {
        let taken = file.take().ok_or(Errno::EBADF)?;
        Flock::lock(taken, FlockArg::LockExclusiveNonblock).map_err(|(back, errno)| {
            file = Some(back);
            errno
        })
    };
    patiently(&mut attempt, |errno| *errno == Errno::EWOULDBLOCK)
}

/// Repeats what fails because of what a daemon that was killed may still hold, for a while.
pub(crate) fn patiently<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    may_pass: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(error) if may_pass(&error) && Instant::now() < deadline => {}
            outcome => return outcome,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the first MiB and a bit of a device is blank, so that making a pool there destroys nothing that any
/// common file system, partition table or volume manager keeps.
fn begins_with_zeroes(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    std::fs::File::open(path)?.take(2 << 20).read_to_end(&mut start)?;
    Ok(start.iter().all(|b| *b == 0))
}

/// Whether a file holds nothing but zeroes, so that making a pool in it destroys nothing. Reads what is allocated, up to
/// the first byte that is something.
fn is_all_zeroes(path: &Path) -> io::Result<bool> {
    let mut file = std::fs::File::open(path)?;
    let mut chunk = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        match lseek(&file, at, Whence::SeekData) {
            // Only a hole is left, or nothing.
            Err(Errno::ENXIO) => return Ok(true),
            Err(errno) => return Err(errno.into()),
            Ok(data) => at = data,
        }
        file.seek(SeekFrom::Start(at.cast_unsigned()))?;
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok(true);
        }
        if chunk[..read].iter().any(|b| *b != 0) {
            return Ok(false);
        }
        at += read as i64;
    }
}

/// Undoes the making of a pool that failed half-way, so that the next start finds what this one found.
pub fn discard_unfinished(path: &Path, created: bool) {
    let is_file = path.metadata().is_ok_and(|m| m.is_file());
    let undone = match (is_file, created) {
        (false, _) => Ok(()),
        (true, true) => std::fs::remove_file(path),
        (true, false) => OpenOptions::new().write(true).open(path).and_then(|f| f.set_len(0)),
    };
    if let Err(error) = undone {
        tracing::warn!(path = %path.display(), %error, "cannot remove the unfinished pool");
    }
}

impl Disk for PoolDisk {
    type Buf = PoolBuf;

    fn alloc(&self, len: usize) -> PoolBuf {
        PoolBuf(AlignedBuf::new(len))
    }

    async fn read(&self, offset: u64, buf: PoolBuf) -> (io::Result<()>, PoolBuf) {
        let (result, buf) = self.file.read_exact_at(buf.0, offset).await;
        (result, PoolBuf(buf))
    }

    async fn write(&self, offset: u64, mut bufs: Vec<PoolBuf>) -> (io::Result<()>, Vec<PoolBuf>) {
        if bufs.len() == 1
            && let Some(buf) = bufs.pop()
        {
            // The caller's list goes back with the buffer in it: the usual write allocates nothing here.
            let (result, buf) = self.file.write_all_at(buf.0, offset).await;
            bufs.push(PoolBuf(buf));
            return (result, bufs);
        }
        let (result, bufs) = self.file.writev_all_at(bufs.into_iter().map(|b| b.0).collect(), offset).await;
        (result, bufs.into_iter().map(PoolBuf).collect())
    }

    async fn sync(&self) -> io::Result<()> {
        self.file.sync_data().await
    }

    async fn grow(&self, len: u64) -> io::Result<()> {
        let now = self.len();
        if len <= now {
            return Ok(());
        }
        if self.device {
            // It may have been made larger since it was opened.
            let size = self.file.len()?;
            self.len.fetch_max(size, Ordering::AcqRel);
            return if len <= size { Ok(()) } else { Err(io::Error::from(io::ErrorKind::StorageFull)) };
        }
        match self.file.allocate(now, len - now).await {
            Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => self.grow_sparsely(len),
            Err(error) => Err(error),
            Ok(()) => {
                self.len.fetch_max(len, Ordering::AcqRel);
                Ok(())
            }
        }
    }

    fn unwritten(&self, range: Range<u64>) -> Option<Range<u64>> {
        if !self.new_is_slow {
            return None;
        }
        let seek = |at: u64, whence| {
            lseek(&self.file, at.try_into().map_err(|_| Errno::EINVAL)?, whence).map(i64::cast_unsigned)
        };
        let start = seek(range.start, Whence::SeekHole).ok()?;
        let end = match seek(start, Whence::SeekData) {
            Err(Errno::ENXIO) => range.end,
            data => data.ok()?.min(range.end),
        };
        (start < end).then_some(start..end)
    }

    fn survivor(&self, len: usize) -> Option<Box<dyn Survivor>> {
        let path = survivor::path_for(self.id);
        survivor::open(&path, len)
            .inspect_err(|error| {
                let path = path.display();
                tracing::warn!(
                    "no memory for the next daemon at {path}: {error}; should this one be killed, writes that it \
                     answered and nobody flushed are lost"
                );
            })
            .ok()
    }

    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn found(path: &Path) -> Found {
        PoolDisk::open(path, true).expect("opens").1
    }

    // A daemon that was killed while it made its pool left a file that the next one took for somebody else's.
    #[test]
    fn a_file_of_zeroes_is_as_good_as_an_empty_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pool");
        assert_eq!(found(&path), Found::Blank { created: true });
        assert_eq!(found(&path), Found::Blank { created: false });
        let file = OpenOptions::new().write(true).open(&path).expect("is there");
        file.set_len(1 << 40).expect("grows");
        file.write_all_at(&vec![0; 3 << 20], 1 << 30).expect("writes");
        assert_eq!(found(&path), Found::Blank { created: false });
        let (disk, _) = PoolDisk::open(&path, true).expect("opens");
        disk.clear().expect("clears");
        assert_eq!((disk.len(), path.metadata().expect("is there").len()), (0, 0));
    }

    #[test]
    fn one_byte_is_something() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pool");
        for at in [0, 4095, (2 << 20) + 1, (1 << 40) - 1] {
            let file = std::fs::File::create(&path).expect("makes a file");
            file.set_len(1 << 40).expect("grows");
            file.write_all_at(&vec![0; 3 << 20], 0).expect("writes");
            file.write_all_at(b"x", at).expect("writes");
            assert_eq!(found(&path), Found::Something, "at {at}");
        }
    }

    #[test]
    fn a_file_is_the_same_by_all_its_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let [one, hard, soft, other] = ["one", "hard", "soft", "other"].map(|name| folder.path().join(name));
        let (disk, _) = PoolDisk::open(&one, true).expect("opens");
        std::fs::hard_link(&one, &hard).expect("links");
        std::os::unix::fs::symlink(&one, &soft).expect("links");
        std::fs::copy(&one, &other).expect("copies");
        for name in [&one, &hard, &soft] {
            assert_eq!(FileId::of(name).expect("is there"), disk.id());
        }
        assert_ne!(FileId::of(&other).expect("is there"), disk.id());
        assert!(FileId::of(&folder.path().join("no")).is_err());
    }

    #[test]
    fn growing_without_allocation_never_shrinks() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pool");
        let (disk, _) = PoolDisk::open(&path, true).expect("opens");
        for (asked, is) in [(8192, 8192), (4096, 8192), (12_288, 12_288)] {
            disk.grow_sparsely(asked).expect("grows");
            assert_eq!((disk.len(), path.metadata().expect("is there").len()), (is, is));
        }
    }

    #[test]
    fn what_was_only_reserved_is_unwritten() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
        let (disk, _) = PoolDisk::open(&folder.path().join("pool"), true).expect("opens");
        let mut reactor = cairn_uring::Reactor::new(cairn_uring::Config::default()).expect("a reactor");
        reactor.block_on(async {
            disk.grow(1 << 20).await.expect("grows");
            let whole = disk.new_is_slow.then_some(0..1 << 20);
            assert_eq!(disk.unwritten(0..1 << 20), whole);
            let (result, _) = disk.write(8192, vec![disk.alloc(4096)]).await;
            result.expect("is written");
            let told =
                [0..1 << 20, 8192..1 << 20, 4096..8192, 8192..12_288].map(|range| disk.unwritten(range));
            let expected = [Some(0..8192), Some(12_288..1 << 20), Some(4096..8192), None];
            assert_eq!(told, if disk.new_is_slow { expected } else { [const { None }; 4] });
            disk.clear().expect("clears");
            assert_eq!(disk.unwritten(0..0), None);
        });
    }

    #[test]
    fn a_write_gives_its_list_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let (disk, _) = PoolDisk::open(&folder.path().join("pool"), true).expect("opens");
        let mut reactor = cairn_uring::Reactor::new(cairn_uring::Config::default()).expect("a reactor");
        reactor.block_on(async {
            disk.grow(1 << 20).await.expect("grows");
            assert_eq!(disk.len(), 1 << 20);
            let bufs = vec![disk.alloc(4096)];
            let (list, block) = (bufs.as_ptr(), bufs[0].as_ptr());
            let (result, bufs) = disk.write(4096, bufs).await;
            result.expect("is written");
            assert_eq!((bufs.as_ptr(), bufs[0].as_ptr(), bufs.len()), (list, block, 1));
        });
    }
}
