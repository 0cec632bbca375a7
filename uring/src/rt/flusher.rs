//! Threads that a disk of this machine depends on.

use std::io;

/// `PR_SET_IO_FLUSHER` of `include/uapi/linux/prctl.h`, since Linux 5.6.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Tells the kernel that the calling thread serves a block device of this machine, see `PR_SET_IO_FLUSHER(2const)`: memory
/// that it asks for is then never made by writing to a disk, which may be the very one that waits for this thread. Threads
/// that the kernel starts for its ring from then on inherit it.
///
/// # Errors
/// `PermissionDenied` without `CAP_SYS_RESOURCE`, `InvalidInput` on kernels that do not know it.
pub fn serve_block_device() -> io::Result<()> {
    let (on, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: it takes no pointers, and changes nothing but how this thread's memory is allocated.
    match unsafe { libc::prctl(PR_SET_IO_FLUSHER, on, unused, unused, unused) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `PF_MEMALLOC_NOIO` of `include/linux/sched.h`.
    const MEMALLOC_NOIO: u64 = 0x0008_0000;

    fn allocates_without_io() -> bool {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("/proc is there");
        // After the command, which may hold anything but is the only field in brackets: see proc_pid_stat(5).
        let fields = stat.rsplit_once(')').expect("a command").1;
        let flags: u64 = fields.split_whitespace().nth(6).and_then(|f| f.parse().ok()).expect("flags");
        flags & MEMALLOC_NOIO != 0
    }

    #[test]
    fn a_thread_is_marked_where_that_is_permitted() {
        let marked = std::thread::spawn(|| {
            assert!(!allocates_without_io());
            let marked = serve_block_device();
            assert_eq!(allocates_without_io(), marked.is_ok());
            marked
        });
        match marked.join().expect("ends") {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("!!! SKIPPED: without CAP_SYS_RESOURCE no thread can be marked");
            }
            Err(error) => panic!("{error}"),
        }
        assert!(!allocates_without_io(), "one thread, not all");
    }
}
