//! Sockets that the service manager listens on already and hands over: clients that come while the daemon is away wait.
//!
//! The configuration says what each is for: a socket stands in for the one of the same path or address there. Where it
//! has a name of ours (`FileDescriptorName=control` or `nbd`), that must say the same.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};

use crate::listeners::Bound;

/// What clients of a socket speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// HTTP.
    Control,
    /// NBD.
    Nbd,
}

impl Purpose {
    /// What a socket's name says; nothing when it is not one of ours, as the unit's, which is what it has by default.
    fn of_name(name: &str) -> Option<Purpose> {
        [Purpose::Control, Purpose::Nbd].into_iter().find(|purpose| purpose.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Purpose::Control => "control",
            Purpose::Nbd => "nbd",
        }
    }
}

/// Where a socket is.
#[derive(PartialEq, Eq, Debug)]
enum Place {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Unix(path) => path.display().fmt(f),
            Place::Tcp(address) => address.fmt(f),
        }
    }
}

struct Socket {
    name: String,
    place: Place,
    listener: Bound,
}

/// What was handed over and is not in use yet.
#[derive(Default)]
pub(crate) struct Passed(Vec<Socket>);

impl Passed {
    /// What the environment speaks of: the first call has it all. To be made before anything is opened, which could have
    /// the number of a socket that was promised and is not there.
    ///
    /// # Errors
    /// A text for people that says which socket cannot be used.
    pub(crate) fn from_env() -> Result<Passed, String> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Ok(Passed::default());
        }
        let promised = sd_notify::listen_fds_with_names()
            .map_err(|e| format!("the sockets that LISTEN_FDS promises are not there: {e}"))?;
        let owned = promised.map(|(fd, name)| {
            // SAFETY: it is open, which was just seen, and by the protocol it is this process's. Nothing was opened before
            // that could own it, and nobody takes it a second time.
            (unsafe { OwnedFd::from_raw_fd(fd) }, name)
        });
        Passed::new(owned)
    }

    /// As if these had been handed over.
    #[cfg(test)]
    pub(crate) fn of(sockets: Vec<(OwnedFd, &str)>) -> Passed {
        let named = sockets.into_iter().map(|(fd, name)| (fd, name.to_owned()));
        Passed::new(named).expect("sockets that listen")
    }

    fn new(sockets: impl Iterator<Item = (OwnedFd, String)>) -> Result<Passed, String> {
        let sockets = sockets.map(|(fd, name)| {
            let (place, listener) = listener(fd)
                .map_err(|why| format!("the service manager passed something named {name:?} that {why}"))?;
            Ok(Socket { name, place, listener })
        });
        Ok(Passed(sockets.collect::<Result<_, String>>()?))
    }

    /// The socket at `path`, if it was handed over.
    ///
    /// # Errors
    /// When it was under the name of another purpose.
    pub(crate) fn take_unix(
        &mut self,
        purpose: Purpose,
        path: &Path,
    ) -> Result<Option<UnixListener>, String> {
        match self.take(purpose, &Place::Unix(path.to_owned()))? {
            Some(Bound::Unix(listener)) => Ok(Some(listener)),
            _ => Ok(None),
        }
    }

    /// The socket at `address`, if it was handed over.
    ///
    /// # Errors
    /// When it was under the name of another purpose.
    pub(crate) fn take_tcp(&mut self, address: SocketAddr) -> Result<Option<TcpListener>, String> {
        match self.take(Purpose::Nbd, &Place::Tcp(address))? {
            Some(Bound::Tcp(listener)) => Ok(Some(listener)),
            _ => Ok(None),
        }
    }

    fn take(&mut self, purpose: Purpose, place: &Place) -> Result<Option<Bound>, String> {
        let Some(at) = self.0.iter().position(|socket| socket.place == *place) else { return Ok(None) };
        let socket = self.0.swap_remove(at);
        match Purpose::of_name(&socket.name) {
            Some(named) if named != purpose => Err(format!(
                "the service manager passed the socket {place} as {:?}, and the configuration has it for {:?}: correct \
                 FileDescriptorName= in the .socket unit, or the configuration",
                named.name(),
                purpose.name(),
            )),
            _ => Ok(Some(socket.listener)),
        }
    }

    /// To be called when the configuration has taken its own.
    ///
    /// # Errors
    /// When there are sockets left that nobody would serve.
    pub(crate) fn nothing_left(&self) -> Result<(), String> {
        let Some(Socket { name, place, .. }) = self.0.first() else { return Ok(()) };
        let key = match (Purpose::of_name(name), place) {
            (Some(Purpose::Control), _) => "[control] \"socket\"",
            (Some(Purpose::Nbd), Place::Unix(_)) => "[nbd] \"unix\"",
            (None, Place::Unix(_)) => "[control] \"socket\" or [nbd] \"unix\"",
            (_, Place::Tcp(_)) => "[nbd] \"tcp\"",
        };
        Err(format!(
            "the service manager passed the socket {place} (named {name:?}), which the configuration does not have: write \
             it there as {key}, or take it out of the .socket unit"
        ))
    }
}

/// What a descriptor is, or why it is nothing to serve clients on.
fn listener(fd: OwnedFd) -> Result<(Place, Bound), String> {
    match getsockopt(&fd, sockopt::SockType) {
        Ok(SockType::Stream) => {}
        Ok(_) => return Err("is not a stream socket: use ListenStream= in the .socket unit".to_owned()),
        Err(_) => return Err("is not a socket".to_owned()),
    }
    if getsockopt(&fd, sockopt::AcceptConn) != Ok(true) {
        return Err("does not listen: use Accept=no in the .socket unit".to_owned());
    }
    let unknown = |e: &dyn fmt::Display| format!("is at no address that can be told: {e}");
    let address: SockaddrStorage =
        getsockname(std::os::fd::AsRawFd::as_raw_fd(&fd)).map_err(|e| unknown(&e))?;
    match address.family() {
        Some(AddressFamily::Unix) => {
            let listener = UnixListener::from(fd);
            let address = listener.local_addr().map_err(|e| unknown(&e))?;
            let path = address.as_pathname().ok_or("has no path: abstract sockets are open to everybody")?;
            Ok((Place::Unix(path.to_owned()), Bound::Unix(listener)))
        }
        Some(AddressFamily::Inet | AddressFamily::Inet6) => {
            let listener = TcpListener::from(fd);
            let address = listener.local_addr().map_err(|e| unknown(&e))?;
            Ok((Place::Tcp(address), Bound::Tcp(listener)))
        }
        _ => Err("is neither a Unix nor a TCP socket".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn sockets_are_known_by_where_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let unix = UnixListener::bind(&path).expect("binds");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = tcp.local_addr().expect("an address");
        let mut all = Passed::of(vec![(unix.into(), "control"), (tcp.into(), "cairnd.socket")]);
        assert!(all.take_unix(Purpose::Nbd, &folder.path().join("other")).expect("none").is_none());
        let error = all.nothing_left().expect_err("both are");
        assert!(
            error.contains("[control] \"socket\"") && error.contains(&path.display().to_string()),
            "{error}"
        );
        assert!(all.take_unix(Purpose::Control, &path).expect("fits").is_some());
        let error = all.nothing_left().expect_err("one is");
        assert!(error.contains("[nbd] \"tcp\"") && error.contains(&address.to_string()), "{error}");
        assert!(all.take_tcp(address).expect("fits").is_some());
        assert_eq!(all.nothing_left(), Ok(()));
    }

    #[test]
    fn a_name_that_says_something_else_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let unix = UnixListener::bind(&path).expect("binds");
        let mut all = Passed::of(vec![(unix.into(), "nbd")]);
        let error = all.take_unix(Purpose::Control, &path).expect_err("is another's");
        assert!(error.contains("FileDescriptorName="), "{error}");
    }

    #[test]
    fn what_nobody_can_be_served_on_is_refused() {
        let file: OwnedFd = tempfile::tempfile().expect("a file").into();
        let udp: OwnedFd = UdpSocket::bind("127.0.0.1:0").expect("binds").into();
        let (connected, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        for (fd, part) in
            [(file, "not a socket"), (udp, "ListenStream="), (OwnedFd::from(connected), "Accept=no")]
        {
            let error = Passed::new([(fd, "nbd".to_owned())].into_iter()).err().expect("is refused");
            assert!(error.contains(part) && error.contains("\"nbd\""), "{error}");
        }
    }
}
