//! cairn's daemon as a library, so that its control side can be tested and driven without a pool.
//!
//! | room | what it holds |
//! |---|---|
//! | [`config`] | the command line and the configuration file, down to one checked [`config::Config`] |
//! | [`control`] | the control socket: HTTP, its routes, and the engine behind them |
//! | [`disk`] | the pool's file or device, locked, through io_uring |
//! | [`volumes`], [`pools`] | what both sides work on: pools by name, who uses their volumes, how much they may |
//! | `settings` | types, QoS rules and other pools, as they are kept in the engine's attributes |
//! | [`keeper`] | opening pools, their background duties, closing them |
//! | [`room`] | how full pools are, and the file systems below them |
//! | [`qos`] | limits to a volume's I/O |
//! | `images` | images, as they are kept among the engine's volumes |
//! | `staging` | volumes that a client fills before anybody sees them |
//! | `remains` | what is left of volumes whose snapshots live on |
//! | [`exports`] | volumes, snapshots and images as NBD exports |
//! | `courtesy` | bulk transfers give way to volumes' clients |
//! | `restore` | volumes that serve while they are being restored from a backup |
//! | `listeners` | the sockets, bound before the pool is touched |
//! | `descriptors` | the limit on file descriptors, and the connections it allows |
//! | [`serve`] | accepting NBD clients and spreading them over the reactors |
//! | `checks` | whether pools are sound |
//! | `scrubs` | reading all that pools hold, in the background |
//! | [`kernel`], [`devices`] | volumes as the kernel's block devices, through its nbd driver |
//! | [`log`] | where the log goes, in which form, and how much of it |
//! | `reload` | what a changed configuration means for a daemon that runs |
//! | [`run`] | starting, announcing, stopping |
//! | [`offline`] | checking, repairing and dumping a pool that no daemon uses |
//! | `status` | what lies where in an export, and what changed there since a snapshot |
//! | `survivor` | memory in which the next daemon finds what this one answered, should it be killed |
//! | [`access`] | who may do what |
//! | `audit` | who asked for which change and what came of it, in a file |
//! | [`events`] | what happened, for whoever asks and whoever listens |
//! | [`figures`] | what volumes' clients do, counted |
//! | `activity` | what is being done to volumes at this moment |
//! | `systemd` | what the daemon and the service manager have to say to each other, sockets passed by it |
//! | `jobs` | what takes its time, under way and ended |
//! | `seldom` | log lines said once in a while |

pub mod access;
mod activity;
mod audit;
mod checks;
pub mod config;
pub mod control;
mod courtesy;
mod descriptors;
pub mod devices;
pub mod disk;
pub mod events;
pub mod exports;
pub mod figures;
mod habit;
mod images;
mod jobs;
pub mod keeper;
pub mod kernel;
mod listeners;
pub mod log;
pub mod offline;
pub mod pools;
pub mod qos;
mod reload;
mod remains;
mod restore;
pub mod room;
pub mod run;
mod scrubs;
mod seldom;
pub mod serve;
mod settings;
mod staging;
mod status;
mod survivor;
mod systemd;
pub mod volumes;
