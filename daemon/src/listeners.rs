//! The daemon's sockets, bound before anything is done to the pool, and gone again if the start fails.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use cairn_api::info::NbdEndpoint;
use cairn_uring::net::Listener;

use crate::config::Config;
use crate::control;
use crate::disk::patiently;
use crate::systemd::{Passed, Purpose};

/// A socket that listens already; a reactor makes its own kind of it.
pub(crate) enum Bound {
    /// At a path.
    Unix(UnixListener),
    /// At an address.
    Tcp(TcpListener),
}

impl Bound {
    pub(crate) fn into_listener(self) -> io::Result<Listener> {
        match self {
            Bound::Unix(listener) => Listener::unix(listener),
            Bound::Tcp(listener) => Listener::tcp(listener),
        }
    }
}

/// A socket's file, removed when this is dropped if it is ours.
pub(crate) struct SocketFile(Option<PathBuf>);

impl SocketFile {
    /// Where it is, if it is ours.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.0.as_deref()
    }

    /// Leaves the file to somebody else.
    pub(crate) fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove the socket");
        }
    }
}

/// All sockets of a configuration. Clients that connect wait in the kernel's queue until they are accepted.
pub(crate) struct Listeners {
    /// For NBD clients.
    pub(crate) nbd: Vec<Bound>,
    /// Where those are, in the same order.
    pub(crate) endpoints: Vec<NbdEndpoint>,
    /// The files of those that have one.
    pub(crate) nbd_files: Vec<SocketFile>,
    /// For control clients.
    pub(crate) control: UnixListener,
    /// Its file.
    pub(crate) control_file: SocketFile,
}

impl Listeners {
    /// Binds them all, or none, but those that were `passed`: those listen already, and their files are not ours. The
    /// pool's lock must be held, which is what keeps a second daemon away.
    ///
    /// # Errors
    /// A text for people that names the socket.
    pub(crate) fn bind(config: &Config, mut passed: Passed) -> Result<Listeners, String> {
        let (mut nbd, mut endpoints, mut nbd_files) = (Vec::new(), Vec::new(), Vec::new());
        for path in &config.nbd.unix {
            let (listener, file) = unix(path, passed.take_unix(Purpose::Nbd, path)?)?;
            nbd.push(Bound::Unix(listener));
            nbd_files.push(file);
            endpoints.push(NbdEndpoint::Unix(path.display().to_string()));
        }
        for address in &config.nbd.tcp {
            let failed = |e| format!("cannot listen on {address}: {e}");
            let listener = match passed.take_tcp(*address)? {
                Some(listener) => listener,
                None => patiently(|| TcpListener::bind(address), in_use).map_err(failed)?,
            };
            let bound = listener.local_addr().map_err(failed)?;
            nbd.push(Bound::Tcp(listener));
            endpoints.push(NbdEndpoint::Tcp(bound.to_string()));
        }
        let path = &config.control.socket;
        let (control, control_file) = unix(path, passed.take_unix(Purpose::Control, path)?)?;
        passed.nothing_left()?;
        Ok(Listeners { nbd, endpoints, nbd_files, control, control_file })
    }
}

/// Whether somebody listens there, who may be a daemon that was killed: its sockets can outlive its lock on the pool.
fn in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

fn unix(path: &Path, passed: Option<UnixListener>) -> Result<(UnixListener, SocketFile), String> {
    if let Some(listener) = passed {
        return Ok((listener, SocketFile(None)));
    }
    let listener = patiently(|| control::bind_unix(path), in_use).map_err(|e| e.to_string())?;
    Ok((listener, SocketFile(Some(path.to_owned()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_bound_is_gone_when_the_next_cannot_be() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = Config::dev(folder.path(), Vec::new()).expect("a configuration");
        config.nbd.unix.push(folder.path().join("second.sock"));
        std::fs::write(&config.control.socket, "in the way").expect("writes");
        let error =
            Listeners::bind(&config, Passed::default()).err().expect("the control socket cannot be bound");
        assert!(error.contains("not a socket"), "{error}");
        for path in &config.nbd.unix {
            assert!(!path.exists(), "{} was left behind", path.display());
        }
        assert!(config.control.socket.exists(), "not ours to remove");

        std::fs::remove_file(&config.control.socket).expect("removes");
        let bound = Listeners::bind(&config, Passed::default()).expect("binds");
        assert_eq!((bound.nbd.len(), bound.endpoints.len()), (2, 2));
        let Listeners { nbd_files, control_file, .. } = bound;
        control_file.leave();
        drop(nbd_files);
        assert!(config.control.socket.exists());
        assert!(!config.nbd.unix[0].exists());
    }

    #[test]
    fn a_socket_that_was_passed_is_used_and_its_file_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Config::dev(folder.path(), Vec::new()).expect("a configuration");
        let passed = UnixListener::bind(&config.control.socket).expect("binds");
        let same = passed.try_clone().expect("a second descriptor");
        let bound = Listeners::bind(&config, Passed::of(vec![(same.into(), "control")])).expect("binds");
        assert!(bound.control_file.path().is_none(), "its file is not ours");
        drop((bound, passed));
        assert!(config.control.socket.exists(), "its file is not ours");
        assert!(!config.nbd.unix[0].exists(), "the other's is");

        let elsewhere = UnixListener::bind(folder.path().join("elsewhere")).expect("binds");
        let error = Listeners::bind(&config, Passed::of(vec![(elsewhere.into(), "nbd")])).err();
        assert!(error.expect("it is not in the configuration").contains("[nbd] \"unix\""));
        assert!(!config.nbd.unix[0].exists(), "what was bound is gone");
    }

    // The lock on the pool is let go of a moment before the sockets are.
    #[test]
    fn a_dying_daemons_socket_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Config::dev(folder.path(), Vec::new()).expect("a configuration");
        let dying = UnixListener::bind(&config.control.socket).expect("binds");
        let death = std::thread::spawn(move || {
            // The first attempt to bind shows as a connection.
            let asked = dying.accept();
            drop(dying);
            asked.map(drop)
        });
        let bound = Listeners::bind(&config, Passed::default());
        death.join().expect("the other thread").expect("somebody asked");
        assert!(bound.is_ok(), "{:?}", bound.err());
    }
}
