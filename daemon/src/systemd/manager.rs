//! The service manager's socket.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::seldom::Seldom;

/// The variable that names the socket.
const SOCKET: &str = "NOTIFY_SOCKET";
/// How often it is reported that nobody reads what is told.
static FAILURES: Seldom<()> = Seldom::new(Duration::from_secs(60));

/// Who started the daemon, if it wants to hear how that goes.
pub(crate) struct Manager {
    socket: Option<SocketAddr>,
}

impl Manager {
    /// The manager that the environment names.
    pub(crate) fn from_env() -> Manager {
        let Some(name) = std::env::var_os(SOCKET).filter(|name| !name.is_empty()) else {
            return Manager { socket: None };
        };
        Manager::at(&name).unwrap_or_else(|error| {
            tracing::warn!(?name, %error, "{SOCKET} names no socket, so that nobody is told how the daemon is");
            Manager { socket: None }
        })
    }

    /// The manager at a path, or, behind an `@`, under an abstract name, which `sd_notify::notify` does not know.
    fn at(name: &OsStr) -> io::Result<Manager> {
        let socket = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(name),
        };
        Ok(Manager { socket: Some(socket?) })
    }

    /// Whether anybody listens.
    pub(crate) fn listens(&self) -> bool {
        self.socket.is_some()
    }

    /// Tells it. That this fails is no reason to do anything else than otherwise.
    pub(crate) fn tell(&self, states: &[NotifyState<'_>]) {
        let Some(socket) = &self.socket else { return };
        // A line each: what has line breaks of its own would be taken for several.
        let lines: Vec<String> =
            states.iter().map(|s| s.to_string().replace(char::is_control, " ")).collect();
        let sent =
            UnixDatagram::unbound().and_then(|from| from.send_to_addr(lines.join("\n").as_bytes(), socket));
        if let Err(error) = sent
            && let Some(held_back) = FAILURES.due(())
        {
            tracing::warn!(%error, "cannot tell the service manager how the daemon is{held_back}");
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A manager, its other end, and the folder that it is in.
    pub(crate) fn pair() -> (Manager, UnixDatagram, TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let end = UnixDatagram::bind(&path).expect("binds");
        (Manager::at(path.as_os_str()).expect("a path"), end, folder)
    }

    pub(crate) fn next(end: &UnixDatagram) -> String {
        let mut buf = [0; 4096];
        let len = end.recv(&mut buf).expect("a message");
        String::from_utf8_lossy(&buf[..len]).into_owned()
    }

    #[test]
    fn states_are_lines_of_one_message() {
        let (manager, end, _folder) = pair();
        manager.tell(&[NotifyState::Ready, NotifyState::Status("in /a\nWATCHDOG=trigger")]);
        assert_eq!(next(&end), "READY=1\nSTATUS=in /a WATCHDOG=trigger");
    }

    #[test]
    fn abstract_names_are_understood() {
        let name = format!("cairn-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let end = UnixDatagram::bind_addr(&address).expect("binds");
        Manager::at(OsStr::new(&format!("@{name}"))).expect("a name").tell(&[NotifyState::Stopping]);
        assert_eq!(next(&end), "STOPPING=1");
    }

    #[test]
    fn a_manager_that_is_gone_is_no_obstacle() {
        let (manager, end, _folder) = pair();
        drop(end);
        manager.tell(&[NotifyState::Ready]);
    }
}
