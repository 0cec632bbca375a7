//! The pool's disk: one file or block device, locked against a second daemon, reached through io_uring.

use std::fs::OpenOptions;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_cow::{Buf, Disk};
use cairn_uring::AlignedBuf;
use cairn_uring::fs::File;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

/// How long a start waits for a lock that somebody holds.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

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

/// A file or device that this process alone uses.
pub struct PoolDisk {
    file: File,
    len: AtomicU64,
    device: bool,
    /// Holds the lock; the kernel lets go of it when the process ends, however it ends.
    _lock: Flock<std::fs::File>,
}

/// What was found at the pool's path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// A file that this call made, or an empty one, or a device that begins with zeroes: a pool may be made here.
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
        let existed = path.exists();
        let shown = path.display();
        if !existed && !create {
            return Err(format!("there is no pool at {shown}: set create = true under [pool] to make one"));
        }
        let open = |flags: OFlag| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(create)
                .truncate(false)
                // Disks hold secrets: nobody but the daemon's user reads them.
                .mode(0o600)
                .custom_flags((flags | OFlag::O_CLOEXEC).bits())
                .open(path)
        };
        let file = match open(OFlag::O_DIRECT) {
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                tracing::warn!(
                    "the file system of {shown} has no direct I/O: the page cache is used, which costs speed"
                );
                open(OFlag::empty())
            }
            opened => opened,
        };
        let file = file.map_err(|e| format!("cannot open the pool {shown}: {e}"))?;
        let kind = file.metadata().map_err(|e| format!("cannot look at {shown}: {e}"))?.file_type();
        let device = kind.is_block_device();
        if !device && !kind.is_file() {
            return Err(format!("{shown} is neither a file nor a block device"));
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
        let blank = if device { begins_with_zeroes(path)? } else { len == 0 };
        let found = if blank { Found::Blank { created: !existed } } else { Found::Something };
        Ok((PoolDisk { file, len: AtomicU64::new(len), device, _lock: lock }, found))
    }

    /// The size of a block device, which bounds a pool on it.
    pub fn device_size(&self) -> Option<u64> {
        self.device.then(|| self.len())
    }
}

/// Takes the lock, waiting a little for a daemon that was killed: the kernel lets go of its files only once all the
/// I/O it had in flight has ended, which is after the process is gone.
fn lock(mut file: std::fs::File) -> Result<Flock<std::fs::File>, Errno> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file = back,
            Err((_, errno)) => return Err(errno),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the first MiB and a bit of a device is blank, so that making a pool there destroys nothing that any
/// common file system, partition table or volume manager keeps.
fn begins_with_zeroes(path: &Path) -> Result<bool, String> {
    use std::io::Read;
    let mut start = Vec::new();
    let read = std::fs::File::open(path).and_then(|f| f.take(2 << 20).read_to_end(&mut start));
    read.map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    Ok(start.iter().all(|b| *b == 0))
}

/// Undoes the making of a pool that failed half-way, so that the next start finds what this one found.
pub fn discard_unfinished(path: &PathBuf, created: bool) {
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
        if bufs.len() == 1 {
            let (result, buf) = self.file.write_all_at(bufs.remove(0).0, offset).await;
            return (result, vec![PoolBuf(buf)]);
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
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.file.allocate(now, len - now).await?;
        self.len.fetch_max(len, Ordering::AcqRel);
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }
}
