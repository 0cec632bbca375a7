//! Files and block devices: positional reads and writes, barriers, space.
//!
//! Every operation runs on the reactor of the thread that polls it, so one [`File`] may serve several reactors. With
//! `O_DIRECT` the caller aligns addresses, offsets and lengths; where a short transfer has to be continued, that
//! happens at an aligned offset again, repeating the bytes of the block that was cut.
//!
//! **Files in memory** (tmpfs, ramfs) are read, written and synchronised right where the future is polled, by plain
//! system calls: there is no device to wait for, so the call is a copy, while the ring, which cannot know that, hands
//! each operation to a worker thread and back. Of large and of many small copies in a row the task takes a rest, so that
//! the others and the sockets have their turn. Pages of a tmpfs that were swapped out are waited for, as every page fault
//! of the process is. Reserving and punching go to the ring as everywhere: they take time in proportion.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};

use crate::buf::{ALIGN, IoBuf, IoBufMut};
use crate::rt::{Op, OpData};
use crate::scatter::{MAX_BYTES, Scatter};

/// How [`File::open`] opens a file; all flags are off by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Create the file if it doesn't exist.
    pub create: bool,
    /// Create the file; fail if it exists.
    pub create_new: bool,
    /// Cut an existing file to nothing.
    pub truncate: bool,
    /// Past the page cache (`O_DIRECT`).
    pub direct: bool,
    /// Permissions of a created file, before the umask; `0o600` by default.
    pub mode: u32,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            read: false,
            write: false,
            create: false,
            create_new: false,
            truncate: false,
            direct: false,
            mode: 0o600,
        }
    }
}

#[derive(Debug)]
struct Inner {
    file: std::fs::File,
    direct: bool,
    /// Its bytes are memory: see the module's documentation.
    in_memory: bool,
}

impl Inner {
    fn new(file: std::fs::File, direct: bool) -> Self {
        let in_memory = is_in_memory(&file);
        Self { file, direct, in_memory }
    }

    fn fd(&self) -> Fd {
        Fd(self.file.as_raw_fd())
    }

    /// One `pread` into `buf[skip..]`, as far as one call goes, here and now.
    fn read_now<B: IoBufMut>(&self, buf: &mut B, skip: usize, offset: u64) -> io::Result<usize> {
        let start = buf.as_mut_ptr().wrapping_add(skip);
        let len = (buf.len() - skip).min(COPIED_PER_CALL);
        // SAFETY: writes to a part of the range that by `IoBufMut` nobody else uses while we have the buffer.
        let count = unsafe { libc::pread(self.file.as_raw_fd(), start.cast(), len, to_off_t(offset)?) };
        to_count(count)
    }

    /// One `pwrite` of `buf[skip..]`, as far as one call goes, here and now.
    fn write_now<B: IoBuf>(&self, buf: &B, skip: usize, offset: u64) -> io::Result<usize> {
        let start = buf.as_ptr().wrapping_add(skip);
        let len = (buf.len() - skip).min(COPIED_PER_CALL);
        // SAFETY: reads a part of the range that by `IoBuf` is initialised and not written to while we have the buffer.
        let count = unsafe { libc::pwrite(self.file.as_raw_fd(), start.cast(), len, to_off_t(offset)?) };
        to_count(count)
    }

    /// One `pwritev` of what `scatter` lists, here and now.
    ///
    /// # Safety
    ///
    /// The buffers that `scatter` was made of are alive and not written to.
    unsafe fn writev_now(&self, scatter: &Scatter, offset: u64) -> io::Result<usize> {
        let (ranges, count) = scatter.ranges();
        let (fd, offset) = (self.file.as_raw_fd(), to_off_t(offset)?);
        let count = i32::try_from(count).expect("at most MAX_RANGES");
        // SAFETY: `count` ranges, each initialised, alive and not written to by the caller's promise.
        to_count(unsafe { libc::pwritev(fd, ranges, count, offset) })
    }

    /// `fdatasync` or `fsync`, here and now.
    fn sync_now(&self, flags: FsyncFlags) -> io::Result<()> {
        if flags.contains(FsyncFlags::DATASYNC) { self.file.sync_data() } else { self.file.sync_all() }
    }
}

/// Whether the file system that has `file` keeps it in memory.
fn is_in_memory(file: &std::fs::File) -> bool {
    // SAFETY: all zeroes is a valid `statfs`, made of numbers only.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: writes one `statfs`, where the pointer says.
    let outcome = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut about) };
    // A block device's node lies in a tmpfs too, and says nothing of the device.
    outcome == 0
        && [TMPFS_MAGIC, RAMFS_MAGIC].contains(&(about.f_type as u64))
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
}

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of linux/magic.h.
const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58f6;

/// What may be copied on a thread before its loop has a turn, in bytes.
const COPIED_PER_TURN: usize = 1 << 20;
/// What one call may copy: a longer transfer goes on with the next. A multiple of every alignment.
const COPIED_PER_CALL: usize = COPIED_PER_TURN / 2;
const _: () = assert!(COPIED_PER_CALL.is_multiple_of(ALIGN));
/// What a copy counts for at least.
const LEAST_COPY: usize = 16 << 10;

thread_local! {
    /// Bytes copied since the loop had a turn.
    static COPIED: Cell<usize> = const { Cell::new(0) };
}

/// Takes note of a copy. From time to time it waits for the loop's next turn, so that a task that finds nothing to wait
/// for does not keep the others waiting.
async fn copied(len: usize) {
    let copied = COPIED.get() + len.max(LEAST_COPY);
    if copied < COPIED_PER_TURN {
        return COPIED.set(copied);
    }
    COPIED.set(0);
    Op::new(Turn).await;
}

fn to_off_t(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// A system call's count as the crate's.
fn to_count(count: isize) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// A regular file or block device. Clones are the same open file; so is what [`try_clone`](File::try_clone) gives, with a
/// descriptor and reference count of its own (the better choice for another thread: nothing is shared then but
/// inside the kernel).
#[derive(Clone, Debug)]
pub struct File {
    inner: Arc<Inner>,
}

impl File {
    /// Takes an open file over.
    pub fn from_std(file: std::fs::File) -> File {
        // SAFETY: asks for the flags of a descriptor we own.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
        let direct = flags >= 0 && flags & libc::O_DIRECT != 0;
        Self { inner: Arc::new(Inner::new(file, direct)) }
    }

    /// Opens a file. Blocks; for set-up, not for the data path.
    ///
    /// # Errors
    ///
    /// What `open(2)` says; `EINVAL` also when the file system has no `O_DIRECT`.
    pub fn open(path: &Path, options: OpenOptions) -> io::Result<File> {
        let file = std::fs::OpenOptions::new()
            .read(options.read)
            .write(options.write)
            .create(options.create)
            .create_new(options.create_new)
            .truncate(options.truncate)
            .mode(options.mode)
            .custom_flags(if options.direct { libc::O_DIRECT } else { 0 })
            .open(path)?;
        Ok(Self { inner: Arc::new(Inner::new(file, options.direct)) })
    }

    /// The same open file by a new descriptor.
    ///
    /// # Errors
    ///
    /// When the process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<File> {
        let Inner { ref file, direct, in_memory } = *self.inner;
        let inner = Inner { file: file.try_clone()?, direct, in_memory };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether it was opened with `O_DIRECT`.
    pub fn is_direct(&self) -> bool {
        self.inner.direct
    }

    /// One read into `buf`. May be short; 0 bytes is the end of the file.
    ///
    /// # Errors
    ///
    /// What `pread(2)` says.
    pub async fn read_at<B: IoBufMut>(&self, buf: B, offset: u64) -> (io::Result<usize>, B) {
        if let Err(error) = check_range(offset, buf.len()) {
            return (Err(error), buf);
        }
        self.read_part(buf, 0, offset).await
    }

    /// Fills `buf`.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when the file ends before, with the buffer's contents unspecified; else what `pread(2)` says.
    pub async fn read_exact_at<B: IoBufMut>(&self, mut buf: B, offset: u64) -> (io::Result<()>, B) {
        if let Err(error) = check_range(offset, buf.len()) {
            return (Err(error), buf);
        }
        let mut progress = Progress::new(buf.len(), self.inner.direct);
        while let Some(done) = progress.next() {
            let result;
            (result, buf) = self.read_part(buf, done, offset).await;
            if let Err(error) = progress.advance(result, io::ErrorKind::UnexpectedEof) {
                return (Err(error), buf);
            }
        }
        (Ok(()), buf)
    }

    /// Writes all of `buf`.
    ///
    /// # Errors
    ///
    /// `WriteZero` when the file takes nothing; else what `pwrite(2)` says. A part may have been written.
    pub async fn write_all_at<B: IoBuf>(&self, mut buf: B, offset: u64) -> (io::Result<()>, B) {
        if let Err(error) = check_range(offset, buf.len()) {
            return (Err(error), buf);
        }
        let mut progress = Progress::new(buf.len(), self.inner.direct);
        while let Some(done) = progress.next() {
            let result;
            (result, buf) = self.write_part(buf, done, offset).await;
            if let Err(error) = progress.advance(result, io::ErrorKind::WriteZero) {
                return (Err(error), buf);
            }
        }
        (Ok(()), buf)
    }

    /// Writes all of `bufs`, one behind the other. They may be more, and larger, than one system call takes. With
    /// `O_DIRECT` every one of them is aligned.
    ///
    /// # Errors
    ///
    /// As [`write_all_at`](File::write_all_at).
    pub async fn writev_all_at<B: IoBuf>(&self, mut bufs: Vec<B>, offset: u64) -> (io::Result<()>, Vec<B>) {
        let len = bufs.iter().map(IoBuf::len).fold(0, usize::saturating_add);
        if let Err(error) = check_range(offset, len) {
            return (Err(error), bufs);
        }
        let mut progress = Progress::new(len, self.inner.direct);
        while let Some(done) = progress.next() {
            let result;
            let at = offset + done as u64;
            if self.inner.in_memory {
                let scatter = Scatter::up_to(COPIED_PER_CALL, &bufs, done);
                // SAFETY: made of `bufs`, which stay here and are not written to.
                result = unsafe { self.inner.writev_now(&scatter, at) };
                drop(scatter);
                copied(*result.as_ref().unwrap_or(&0)).await;
            } else {
                let scatter = Scatter::new(&bufs, done);
                let write = Writev { file: Arc::clone(&self.inner), bufs, scatter, offset: at };
                (result, bufs) = Op::new(write).await;
            }
            if let Err(error) = progress.advance(result, io::ErrorKind::WriteZero) {
                return (Err(error), bufs);
            }
        }
        (Ok(()), bufs)
    }

    /// Makes all completed writes durable, with the metadata needed to read them back (`fdatasync`).
    ///
    /// # Errors
    ///
    /// When that failed. What was written since the last success is then in doubt, and stays so even when a later call
    /// succeeds.
    pub async fn sync_data(&self) -> io::Result<()> {
        self.sync(FsyncFlags::DATASYNC).await
    }

    /// As [`sync_data`](File::sync_data), with all metadata (`fsync`).
    ///
    /// # Errors
    ///
    /// As [`sync_data`](File::sync_data).
    pub async fn sync_all(&self) -> io::Result<()> {
        self.sync(FsyncFlags::empty()).await
    }

    /// Reserves space for a range, growing the file where it reaches past its end (`fallocate` mode 0). What was not
    /// written reads as zeroes.
    ///
    /// # Errors
    ///
    /// What `fallocate(2)` says: `ENOSPC`, or `EOPNOTSUPP` where the file system or device can't.
    pub async fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.fallocate(0, offset, len).await
    }

    /// Gives a range's space back; it reads as zeroes afterwards. The file's length stays.
    ///
    /// # Errors
    ///
    /// What `fallocate(2)` says: `EOPNOTSUPP` where the file system or device can't.
    pub async fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.fallocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, len).await
    }

    /// Length in bytes of a regular file or block device.
    ///
    /// # Errors
    ///
    /// When the kernel can't say, and `InvalidInput` for any other kind of file.
    #[expect(clippy::len_without_is_empty, reason = "no container; nobody asks a disk whether it is empty")]
    pub fn len(&self) -> io::Result<u64> {
        let metadata = self.inner.file.metadata()?;
        if metadata.is_file() {
            return Ok(metadata.len());
        }
        if !metadata.file_type().is_block_device() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither a regular file nor a block device",
            ));
        }
        let mut bytes = 0_u64;
        // SAFETY: BLKGETSIZE64 writes one 64-bit number, where the pointer says.
        if unsafe { libc::ioctl(self.inner.file.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(bytes)
    }

    /// Cuts or (sparsely) grows a regular file. Blocks; for set-up, not for the data path.
    ///
    /// # Errors
    ///
    /// What `ftruncate(2)` says.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.file.set_len(len)
    }

    async fn read_part<B: IoBufMut>(&self, mut buf: B, skip: usize, offset: u64) -> (io::Result<usize>, B) {
        let offset = offset + skip as u64;
        if self.inner.in_memory {
            let result = self.inner.read_now(&mut buf, skip, offset);
            copied(*result.as_ref().unwrap_or(&0)).await;
            return (result, buf);
        }
        Op::new(Read { file: Arc::clone(&self.inner), buf, skip, offset }).await
    }

    async fn write_part<B: IoBuf>(&self, buf: B, skip: usize, offset: u64) -> (io::Result<usize>, B) {
        let offset = offset + skip as u64;
        if self.inner.in_memory {
            let result = self.inner.write_now(&buf, skip, offset);
            copied(*result.as_ref().unwrap_or(&0)).await;
            return (result, buf);
        }
        Op::new(Write { file: Arc::clone(&self.inner), buf, skip, offset }).await
    }

    async fn sync(&self, flags: FsyncFlags) -> io::Result<()> {
        if self.inner.in_memory {
            let result = self.inner.sync_now(flags);
            copied(0).await;
            return result;
        }
        Op::new(Fsync { file: Arc::clone(&self.inner), flags }).await
    }

    async fn fallocate(&self, mode: i32, offset: u64, len: u64) -> io::Result<()> {
        Op::new(Fallocate { file: Arc::clone(&self.inner), mode, offset, len }).await
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.file.as_fd()
    }
}

/// `_IOR(0x12, 114, size_t)` of linux/fs.h: a device's length in bytes, a 64-bit number despite the `size_t`.
const BLKGETSIZE64: libc::Ioctl = libc::_IOR::<usize>(0x12, 114);

/// Refuses ranges past what a file offset can say; the greatest number would even mean "at the file's position".
fn check_range(offset: u64, len: usize) -> io::Result<()> {
    match offset.checked_add(len as u64) {
        Some(end) if i64::try_from(end).is_ok() => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "range past the greatest file offset")),
    }
}

/// What is left of a transfer that may come in parts.
struct Progress {
    done: usize,
    len: usize,
    direct: bool,
}

impl Progress {
    fn new(len: usize, direct: bool) -> Self {
        Self { done: 0, len, direct }
    }

    /// Where the next part begins; `None` when all is done.
    fn next(&self) -> Option<usize> {
        (self.done < self.len).then_some(self.done)
    }

    /// Books a part's result. A part that gets no further is the error `stuck`.
    fn advance(&mut self, result: io::Result<usize>, stuck: io::ErrorKind) -> io::Result<()> {
        let count = match result {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        };
        let reached = self.done + count;
        // O_DIRECT continues at a block's start. At the end of a file that is not a multiple of the block, reading the
        // last block again gets no further, which ends the loop.
        let next = if self.direct && reached < self.len { reached - reached % ALIGN } else { reached };
        if next <= self.done {
            return Err(stuck.into());
        }
        self.done = next;
        Ok(())
    }
}

/// The kernel's result as the crate's.
pub(crate) fn to_result(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// Length of the part of a buffer that starts at `skip`, as far as one operation goes.
pub(crate) fn part_len(len: usize, skip: usize) -> u32 {
    u32::try_from((len - skip).min(MAX_BYTES)).expect("MAX_BYTES fits 32 bits")
}

struct Read<B> {
    file: Arc<Inner>,
    buf: B,
    skip: usize,
    offset: u64,
}

// SAFETY: owns the open file and, by `IoBufMut`, an immovable buffer that nobody else uses.
unsafe impl<B: IoBufMut> OpData for Read<B> {
    type Output = (io::Result<usize>, B);
    const WAITS_FOR_DISK: bool = true;

    fn entry(&mut self) -> squeue::Entry {
        let start = self.buf.as_mut_ptr().wrapping_add(self.skip);
        opcode::Read::new(self.file.fd(), start, part_len(self.buf.len(), self.skip))
            .offset(self.offset)
            .build()
    }

    fn complete(self, result: i32) -> Self::Output {
        (to_result(result), self.buf)
    }
}

struct Write<B> {
    file: Arc<Inner>,
    buf: B,
    skip: usize,
    offset: u64,
}

// SAFETY: owns the open file and, by `IoBuf`, an immovable buffer that nobody writes to.
unsafe impl<B: IoBuf> OpData for Write<B> {
    type Output = (io::Result<usize>, B);
    const WAITS_FOR_DISK: bool = true;

    fn entry(&mut self) -> squeue::Entry {
        let start = self.buf.as_ptr().wrapping_add(self.skip);
        opcode::Write::new(self.file.fd(), start, part_len(self.buf.len(), self.skip))
            .offset(self.offset)
            .build()
    }

    fn complete(self, result: i32) -> Self::Output {
        (to_result(result), self.buf)
    }
}

struct Writev<B> {
    file: Arc<Inner>,
    bufs: Vec<B>,
    scatter: Scatter,
    offset: u64,
}

// SAFETY: owns the open file, by `IoBuf` immovable buffers, and the list of their ranges, which is boxed.
unsafe impl<B: IoBuf> OpData for Writev<B> {
    type Output = (io::Result<usize>, Vec<B>);
    const WAITS_FOR_DISK: bool = true;

    fn entry(&mut self) -> squeue::Entry {
        let (ranges, count) = self.scatter.ranges();
        opcode::Writev::new(self.file.fd(), ranges, count).offset(self.offset).build()
    }

    fn complete(self, result: i32) -> Self::Output {
        (to_result(result), self.bufs)
    }
}

struct Fsync {
    file: Arc<Inner>,
    flags: FsyncFlags,
}

// SAFETY: owns the open file; refers to no memory.
unsafe impl OpData for Fsync {
    type Output = io::Result<()>;
    const WAITS_FOR_DISK: bool = true;

    fn entry(&mut self) -> squeue::Entry {
        opcode::Fsync::new(self.file.fd()).flags(self.flags).build()
    }

    fn complete(self, result: i32) -> Self::Output {
        to_result(result).map(drop)
    }
}

/// Nothing, which takes until the loop has had a turn.
struct Turn;

// SAFETY: refers to no memory and no descriptor.
unsafe impl OpData for Turn {
    type Output = ();

    fn entry(&mut self) -> squeue::Entry {
        opcode::Nop::new().build()
    }

    fn complete(self, _result: i32) -> Self::Output {}
}

struct Fallocate {
    file: Arc<Inner>,
    mode: i32,
    offset: u64,
    len: u64,
}

// SAFETY: owns the open file; refers to no memory.
unsafe impl OpData for Fallocate {
    type Output = io::Result<()>;
    const WAITS_FOR_DISK: bool = true;

    fn entry(&mut self) -> squeue::Entry {
        opcode::Fallocate::new(self.file.fd(), self.len).offset(self.offset).mode(self.mode).build()
    }

    fn complete(self, result: i32) -> Self::Output {
        to_result(result).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_transfers_continue_at_block_starts() {
        let mut progress = Progress::new(3 * ALIGN, true);
        progress.advance(Ok(ALIGN + 700), io::ErrorKind::WriteZero).unwrap();
        assert_eq!(progress.next(), Some(ALIGN));
        progress.advance(Err(io::ErrorKind::Interrupted.into()), io::ErrorKind::WriteZero).unwrap();
        assert_eq!(progress.next(), Some(ALIGN));
        let stuck = progress.advance(Ok(700), io::ErrorKind::UnexpectedEof).unwrap_err();
        assert_eq!(stuck.kind(), io::ErrorKind::UnexpectedEof);
        progress.advance(Ok(2 * ALIGN), io::ErrorKind::WriteZero).unwrap();
        assert_eq!(progress.next(), None);
    }

    #[test]
    fn buffered_transfers_continue_where_they_stopped() {
        let mut progress = Progress::new(100, false);
        progress.advance(Ok(7), io::ErrorKind::WriteZero).unwrap();
        assert_eq!(progress.next(), Some(7));
        let stuck = progress.advance(Ok(0), io::ErrorKind::WriteZero).unwrap_err();
        assert_eq!(stuck.kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_ioctl_is_the_one_of_the_kernel_headers() {
        assert_eq!(BLKGETSIZE64, 0x8008_1272);
    }

    #[test]
    fn ranges_end_at_the_greatest_offset() {
        check_range(i64::MAX as u64, 0).unwrap();
        check_range(i64::MAX as u64, 1).unwrap_err();
        check_range(u64::MAX, 0).unwrap_err();
        check_range(u64::MAX, 1).unwrap_err();
    }
}
