//! The daemon itself.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A place where NBD clients connect.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NbdEndpoint {
    /// A Unix socket's absolute path.
    Unix(String),
    /// An address and port.
    Tcp(String),
}

impl NbdEndpoint {
    /// The NBD URI of an export here, as `nbdinfo`, `nbdcopy`, `qemu-img` and `fio` take it.
    ///
    /// See `doc/uri.md` of NetworkBlockDevice/nbd. A socket's path is written as it is but for the characters that
    /// would end the query; `@` in an export's name needs no encoding in a path.
    pub fn uri(&self, export: &str) -> String {
        match self {
            NbdEndpoint::Unix(path) => {
                let path =
                    path.replace('%', "%25").replace('&', "%26").replace('#', "%23").replace('+', "%2B");
                format!("nbd+unix:///{export}?socket={}", path.replace(' ', "%20"))
            }
            NbdEndpoint::Tcp(address) => match address.strip_suffix(":10809") {
                Some(host) => format!("nbd://{host}/{export}"),
                None => format!("nbd://{address}/{export}"),
            },
        }
    }
}

/// What the daemon is and where it listens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Info {
    /// The daemon's version.
    #[schema(example = "0.1.0")]
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    pub started: Timestamp,
    /// The pool's file or device.
    pub pool: String,
    /// The control socket's path.
    pub control: String,
    /// Where NBD clients connect.
    pub nbd: Vec<NbdEndpoint>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_what_clients_take() {
        let unix = NbdEndpoint::Unix("/run/cairn/nbd.sock".into());
        assert_eq!(unix.uri("demo"), "nbd+unix:///demo?socket=/run/cairn/nbd.sock");
        assert_eq!(unix.uri("demo@s1"), "nbd+unix:///demo@s1?socket=/run/cairn/nbd.sock");
        let odd = NbdEndpoint::Unix("/tmp/a b&c".into());
        assert_eq!(odd.uri("v"), "nbd+unix:///v?socket=/tmp/a%20b%26c");
        assert_eq!(NbdEndpoint::Tcp("127.0.0.1:10809".into()).uri("v"), "nbd://127.0.0.1/v");
        assert_eq!(NbdEndpoint::Tcp("[::1]:10810".into()).uri("v"), "nbd://[::1]:10810/v");
    }
}
