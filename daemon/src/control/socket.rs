//! Unix sockets that only their owner can open, made without a moment in which others could.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};

/// `sun_path` has 108 bytes, the last one NUL (unix(7)).
const MAX_PATH_BYTES: usize = 107;
/// Connections the kernel queues; it caps the figure at `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// Binds and listens on a Unix socket at `path` that only the daemon's user may connect to (mode 0600).
///
/// A socket that a dead daemon left behind is replaced; one that somebody still listens on is not, and neither is
/// anything else. What excludes two daemons on one pool is the pool's lock: take that first.
///
/// # Errors
/// `AddrInUse` when somebody listens there, `AlreadyExists` when a file that is no socket is in the way,
/// `InvalidInput` when the path is longer than a socket's path can be; each with a sentence that names the path.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if path.as_os_str().as_bytes().len() > MAX_PATH_BYTES {
        let sentence = format!(
            "the socket path {} is longer than the {MAX_PATH_BYTES} bytes that Unix sockets allow; use a shorter folder",
            path.display()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
    }
    let context = |e: io::Error| {
        io::Error::new(e.kind(), format!("cannot listen on the socket {}: {e}", path.display()))
    };
    clear_stale(path)?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| context(e.into()))?;
    // Linux gives the socket file the mode of the unbound socket, less the umask: so it is never open to others,
    // where a chmod after bind would leave a moment, and changing the umask would affect other threads.
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| context(e.into()))?;
    let address = UnixAddr::new(path).map_err(|e| context(e.into()))?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &address).map_err(|e| context(e.into()))?;
    let backlog = Backlog::new(BACKLOG).map_err(|e| context(e.into()))?;
    listen(&fd, backlog).map_err(|e| context(e.into()))?;
    Ok(UnixListener::from(fd))
}

fn clear_stale(path: &Path) -> io::Result<()> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io::Error::new(e.kind(), format!("cannot look at {}: {e}", path.display()))),
    };
    if !kind.is_socket() {
        let sentence = format!("{} exists and is not a socket; move it away", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, sentence));
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(|e| {
            io::Error::new(e.kind(), format!("cannot remove the stale socket {}: {e}", path.display()))
        }),
        Ok(_) => {
            let sentence = format!("a daemon is already listening on {}", path.display());
            Err(io::Error::new(io::ErrorKind::AddrInUse, sentence))
        }
        Err(e) => Err(io::Error::new(e.kind(), format!("cannot tell who owns {}: {e}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_owner_may_connect() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let _listener = bind_unix(&path).expect("binds");
        let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).expect("listens");
    }

    #[test]
    fn a_dead_daemons_socket_is_replaced_and_a_live_ones_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        drop(bind_unix(&path).expect("binds"));
        assert!(path.exists(), "closing does not remove the file");
        let listener = bind_unix(&path).expect("replaces the stale one");
        let error = bind_unix(&path).expect_err("somebody listens");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("already listening"), "{error}");
        drop(listener);
    }

    #[test]
    fn nothing_else_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        std::fs::write(&path, "precious").expect("writes");
        let error = bind_unix(&path).expect_err("it is a file");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).expect("is still there"), b"precious");
        let long = folder.path().join("x".repeat(120));
        let error = bind_unix(&long).expect_err("too long");
        assert!(error.to_string().contains("107 bytes"), "{error}");
        let nowhere = bind_unix(&folder.path().join("no/such/folder/s")).expect_err("no folder");
        assert!(nowhere.to_string().contains("cannot"), "{nowhere}");
    }
}
