//! What the Linux kernel's own NBD client makes of cairn: file systems on `/dev/nbd0` in a guest that runs cairnd.
//!
//! | file | who attaches | what is proved |
//! |---|---|---|
//! | `life` | nbd-client | file systems with snapshots, clones, trims and a recovery |
//! | `power` | both | a power failure loses nothing that was synced |
//! | `attach` | cairnd | a volume is one device's, and grows under a mounted file system |
//! | `restart` | cairnd | file systems outlive the daemon, ended or killed, without an error |
//! | `detach` | cairnd | detaching keeps what was synced, from inside, from outside and by force |
//! | `refusal` | cairnd | what users are told when the kernel refuses |
//! | `manual` | both | the commands in docs/USING.md can be followed as they stand |

mod attach;
mod detach;
mod life;
mod manual;
mod power;
mod refusal;
mod restart;

/// Without a journal to replay a test of recovery proves nothing.
#[track_caller]
fn assert_replayed(kernel_log: &str, message: &str) {
    assert!(kernel_log.contains(message), "no \"{message}\" in the kernel's log:\n{kernel_log}");
}
