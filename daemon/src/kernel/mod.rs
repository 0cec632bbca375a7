//! Volumes as block devices of the kernel: `/dev/nbdN`, attached by the daemon itself.
//!
//! The kernel's nbd driver is a client like any other once it has a connected socket. The daemon makes a pair of
//! sockets, serves one end on a reactor without negotiation ([`cairn_nbd::serve_attached`]) and gives the other to the
//! driver over generic netlink, with the size and the flags that negotiation would have told.
//!
//! ```text
//!   file system                                 control side
//!        │                                           │ attach, resize, detach
//!   /dev/nbdN ── nbd driver ◄── netlink ── KernelDevices ── Serve (yours)
//!                    │                               ▲         │
//!                    └────────── socket pair ────────┼─────► reactor
//!                                                    └── Link: how the session ended
//! ```
//!
//! | room | what it holds |
//! |---|---|
//! | `identity` | names: [`DeviceIndex`], and [`BackendId`], the mark a device carries of what serves it |
//! | `message` | the driver's messages, to and from bytes |
//! | `netlink` | sending them: [`Driver`], and [`Netlink`], which is the kernel's |
//! | `sysfs` | what the kernel says of its devices in `/sys/block`: [`Sysfs`] |
//! | `attach` | [`KernelDevices`]: attach, resize, detach, find again after a restart |
//! | `keeper` | the thread that replaces connections that were lost |
//! | `error` | [`KernelError`], each with what to do |
//!
//! # What the driver does, and what follows
//!
//! From `drivers/block/nbd.c` of Linux 6.1 to 6.14.
//!
//! * When a socket closes, the driver marks that connection dead, keeps the requests and waits for a new socket, up to
//!   the *dead connection timeout*, after which it fails them. That is what a restart of the daemon lives on. Without
//!   that timeout it fails them at once, so it is always set.
//! * Requests sent on a connection that died are sent again when their *request timeout* has passed since they were
//!   first sent: 30 seconds unless set. So a restart under load can cost some of them that long, but no error.
//! * With one connection and no request timeout, slowness alone breaks nothing. With several, the driver takes a request
//!   that outlasts the timeout for lost, closes its connection and sends it on another one, while the first may still be
//!   at work here and finish *later*. So with several connections the timeout is set far above what a request may take:
//!   [`Settings::request_timeout`].
//! * The driver receives on each connection in an endless work item of the device's `nbdN-recv` workqueue, and queues
//!   those of one message at once. If the kernel cannot start workers for them within some ten milliseconds, being short
//!   of processors or memory, the queue's one rescuer thread takes them all, to run one after the other
//!   (`rescuer_thread` in `kernel/workqueue.c`): it receives on one connection for ever, and what comes on the others is
//!   never taken. The request timeout ends that without an error, as it closes such a connection, which is then replaced.
//!   So with several connections there has to be a timeout; one connection, the default, cannot suffer from this.
//! * `RECONFIGURE` puts new sockets in the places of dead connections and drops surplus ones. It sets the size *before*
//!   that and, in newer kernels, waits for all requests to end when it does: in one message with sockets that are to
//!   bring the requests to their end, it would wait for itself. So sockets and size never go in one message.
//! * The driver refuses to reconfigure a device for anyone who does not name its backend identifier. Sysfs shows it as
//!   `/sys/block/nbdN/backend`, so it is all a new daemon needs to find its devices.
//! * `DISCONNECT` fails what is in flight and forgets what the page cache had yet to write, mounted or not. So a
//!   detachment that is not forced first claims the device for itself, as mount does, and syncs it.
//! * Looking the driver's family up loads the module, where modules may be loaded on demand.
//!
//! # Invariants
//!
//! * Nothing here runs on a reactor: netlink messages to the driver can wait for requests the reactors answer.
//! * A connection is replaced only after its session has ended, with every request in it: of two copies of a request
//!   the first has ended before the second begins.
//! * Devices whose mark is not that of one of the daemon's pools are never touched.

mod attach;
mod error;
mod identity;
mod keeper;
mod message;
mod netlink;
mod sysfs;

pub use attach::{AttachRequest, Attached, KernelDevices, Reattached, Serve, Settings};
pub use error::{KernelError, KernelErrorKind};
pub use identity::{BackendId, DeviceIndex, NotADevice, VolumeKey};
pub use keeper::{Link, LinkEnd};
pub use message::DeviceStatus;
pub use netlink::{Connect, Driver, Netlink, Reconfigure};
pub use sysfs::{Device, Sysfs};
