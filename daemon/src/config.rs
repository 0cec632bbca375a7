//! The daemon's command line and configuration file, down to one checked [`Config`].
//!
//! Everything that can be found wrong without opening the pool is found here, so that `--check-config` says what a
//! start would say: unknown keys, sizes and addresses that do not parse, with the file, the line and the key.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use cairn_api::Size;
use cairn_api::access::Role;
use cairn_api::name;
use cairn_manual::About;
use clap::{Parser, Subcommand};
use serde::{Deserialize, Deserializer, de};
use tracing_subscriber::EnvFilter;

use crate::access::{Grant, Grantee};
use crate::offline::Offline;

/// The pool's file in the folder of `--dev`.
pub(crate) const POOL_FILE: &str = "pool.cairn";
/// How far a pool may grow unless told otherwise. The file is sparse and takes what is written, no more.
pub const DEFAULT_LIMIT: u64 = 1 << 40;
/// Memory for map nodes unless told otherwise: the inner nodes of hundreds of TiB, or the leaves of 64 GiB.
pub const DEFAULT_MAP_CACHE: u64 = 256 << 20;
/// How long a reactor polls before it sleeps, unless told otherwise.
const DEFAULT_POLL: Duration = Duration::from_micros(50);
/// The same while it waits for a disk: longer than a local one takes for most requests.
const DEFAULT_POLL_DISK: Duration = Duration::from_micros(200);
/// The longest time a reactor may be told to poll: beyond it, polling costs a core and gains nothing.
const MAX_POLL_US: u64 = 1000;
/// More reactors than any machine has cores.
const MAX_REACTORS: usize = 256;
/// NBD connections at once unless told otherwise.
const DEFAULT_CONNECTIONS: usize = 1024;
/// Bounds of the memory for data that was read, unless told otherwise.
const LEAST_READ_CACHE: u64 = 64 << 20;
const MOST_READ_CACHE: u64 = 16 << 30;
const DEFAULT_FILTER: &str = "info";

const EXAMPLES: &str = "\
Examples:
  cairnd --dev ./dev --create demo:10G      everything in ./dev, no configuration
  cairnd --config /etc/cairn/cairnd.toml    in production
  cairnd --config cairnd.toml --check-config
  cairnd check /srv/pool.cairn              a pool that no daemon uses";

/// cairn's daemon: virtual disks over NBD, with snapshots and clones, from one file or block device.
#[derive(Parser, Debug)]
#[command(name = "cairnd", version, after_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("mode").required(true).args(["dev", "config"])))]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do instead of serving a pool
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Keep everything in DIR: pool.cairn, control.sock and nbd.sock; the folder is made when missing
    #[arg(long, value_name = "DIR")]
    pub dev: Option<PathBuf>,

    /// Create this volume unless it exists, for example demo:10G; may be given several times
    #[arg(long, value_name = "NAME:SIZE", conflicts_with = "config")]
    pub create: Vec<NewVolume>,

    /// Read the configuration from FILE
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Check the configuration, say what is wrong with it, and exit
    #[arg(long, conflicts_with = "dev")]
    pub check_config: bool,
}

/// What else there is to do than to serve a pool.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Look at a pool or repair it.
    #[command(flatten)]
    Offline(Offline),
    /// Tell of the command line.
    #[command(flatten)]
    About(About),
}

impl Cli {
    /// The configuration that the command line asks for.
    ///
    /// # Errors
    /// When the file cannot be read or something in it is wrong.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        match (self.dev, self.config) {
            (Some(folder), _) => Config::dev(&folder, self.create),
            (None, Some(file)) => Config::load(&file),
            // clap requires one of the two.
            (None, None) => Err(ConfigError("give either --dev DIR or --config FILE".to_owned())),
        }
    }
}

/// A volume that `--create` asks for: `NAME:SIZE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewVolume {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

impl FromStr for NewVolume {
    type Err = String;

    fn from_str(text: &str) -> Result<NewVolume, String> {
        let Some((volume, size)) = text.split_once(':') else {
            return Err("expected NAME:SIZE, for example demo:10G".to_owned());
        };
        name::check(volume)?;
        let size: Size = size.parse().map_err(|e: cairn_api::size::ParseSizeError| e.to_string())?;
        if size.bytes() == 0 {
            return Err("a volume cannot be empty: give a size such as 10G".to_owned());
        }
        Ok(NewVolume { name: volume.to_owned(), size: size.bytes() })
    }
}

impl NewVolume {
    /// Whether the volume is to be created, given the size of the volume that has its name already, if any.
    ///
    /// # Errors
    /// When there is one of another size: `--create` states what shall be, and must not silently resize.
    pub fn is_missing(&self, present_size: Option<u64>) -> Result<bool, ConfigError> {
        match present_size {
            None => Ok(true),
            Some(size) if size == self.size => Ok(false),
            Some(size) => Err(ConfigError(format!(
                "--create {name}:{}: volume {name:?} exists and has {} ({size} bytes); use that size, or another \
                 name, or leave --create out and grow it with \"cairn volume resize\"",
                Size(self.size).exact(),
                Size(size),
                name = self.name,
            ))),
        }
    }
}

/// Everything the daemon needs to know to start.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// The folder of `--dev`.
    pub dev: Option<PathBuf>,
    /// The file that this was read from, to be read again when it has changed.
    pub file: Option<PathBuf>,
    /// Where the data is.
    pub pool: Pool,
    /// Where NBD clients connect.
    pub nbd: Nbd,
    /// Where control clients connect.
    pub control: Control,
    /// Threads and memory.
    pub runtime: Runtime,
    /// What is logged and how.
    pub log: Log,
    /// Who may do what.
    pub access: Access,
    /// Where changes are written down.
    pub audit: Audit,
    /// Volumes to create unless they exist.
    pub create: Vec<NewVolume>,
}

/// `[pool]`: where the data is.
#[derive(Clone, PartialEq, Debug)]
pub struct Pool {
    /// The file or block device.
    pub path: PathBuf,
    /// Make a pool when the file is missing or empty.
    pub create: bool,
    /// Bytes that a new pool may grow to. A pool on a block device is also bounded by its size.
    pub limit: u64,
}

/// `[nbd]`: where NBD clients connect.
#[derive(Clone, PartialEq, Debug)]
pub struct Nbd {
    /// Unix sockets.
    pub unix: Vec<PathBuf>,
    /// Addresses. There is neither encryption nor a password on them.
    pub tcp: Vec<SocketAddr>,
    /// Connections at once, all sockets together.
    pub max_connections: usize,
}

/// `[control]`: where control clients connect.
#[derive(Clone, PartialEq, Debug)]
pub struct Control {
    /// The Unix socket.
    pub socket: PathBuf,
}

/// `[runtime]`: threads and memory.
#[derive(Clone, PartialEq, Debug)]
pub struct Runtime {
    /// Reactor threads; `None` for one a core.
    pub reactors: Option<usize>,
    /// How long a reactor with nothing to do polls before it sleeps; zero for never.
    pub poll: Duration,
    /// The same while a disk works for it.
    pub poll_disk: Duration,
    /// Bytes of memory for map nodes.
    pub map_cache: u64,
    /// Bytes of memory for data that was read; 0 for none.
    pub read_cache: u64,
}

/// `[log]`: what is logged and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`) or a filter as `tracing-subscriber` takes it. Already
    /// checked.
    pub filter: String,
}

/// `[access]`: who may do what.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// What root and the daemon's user allow others; none where whoever can connect may do everything.
    pub grants: Option<Vec<Grant>>,
}

/// `[audit]`: where changes are written down.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Audit {
    /// The file; none for nowhere.
    pub log: Option<PathBuf>,
}

impl Config {
    /// The configuration of `cairnd --dev FOLDER`. Paths come out absolute, so that what the daemon prints can be
    /// pasted elsewhere.
    ///
    /// # Errors
    /// When the folder's path cannot be made absolute, or two `--create` name one volume.
    pub fn dev(folder: &Path, create: Vec<NewVolume>) -> Result<Config, ConfigError> {
        let folder = absolute(folder)?;
        for (at, volume) in create.iter().enumerate() {
            if create[..at].iter().any(|earlier| earlier.name == volume.name) {
                return Err(ConfigError(format!("--create names the volume {:?} twice", volume.name)));
            }
        }
        Ok(Config {
            pool: Pool { path: folder.join(POOL_FILE), create: true, limit: DEFAULT_LIMIT },
            nbd: Nbd {
                unix: vec![folder.join("nbd.sock")],
                tcp: Vec::new(),
                max_connections: DEFAULT_CONNECTIONS,
            },
            control: Control { socket: folder.join("control.sock") },
            runtime: FileRuntime::default().check(),
            log: Log { filter: DEFAULT_FILTER.to_owned() },
            access: Access::default(),
            audit: Audit::default(),
            create,
            dev: Some(folder),
            file: None,
        })
    }

    /// Reads and checks a configuration file. Relative paths in it are relative to the folder it is in.
    ///
    /// # Errors
    /// When the file cannot be read, or naming the file, the line and the key, when something in it is wrong.
    pub fn load(file: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|e| ConfigError(format!("cannot read the configuration {}: {e}", file.display())))?;
        let whole = absolute(file)?;
        let folder = whole.parent().unwrap_or(Path::new("/"));
        let config = Config::parse(&text, &file.display().to_string(), folder)?;
        Ok(Config { file: Some(whole), ..config })
    }

    fn parse(text: &str, file: &str, folder: &Path) -> Result<Config, ConfigError> {
        // toml's own message names the line and column and shows the line with the key.
        let parsed: File =
            toml::from_str(text).map_err(|e| ConfigError(format!("{file}: {}", e.to_string().trim_end())))?;
        let config = Config {
            dev: None,
            file: None,
            pool: Pool {
                path: folder.join(parsed.pool.path),
                create: parsed.pool.create,
                limit: parsed.pool.limit.0,
            },
            nbd: Nbd {
                unix: parsed.nbd.unix.iter().map(|path| folder.join(path)).collect(),
                tcp: parsed.nbd.tcp.iter().map(|address| address.0).collect(),
                max_connections: parsed.nbd.max_connections.0,
            },
            control: Control { socket: folder.join(parsed.control.socket) },
            runtime: parsed.runtime.check(),
            log: Log { filter: parsed.log.filter.0 },
            access: parsed.access.check().map_err(|sentence| ConfigError(format!("{file}: {sentence}")))?,
            audit: Audit { log: parsed.audit.log.map(|path| folder.join(path)) },
            create: Vec::new(),
        };
        config.check().map_err(|sentence| ConfigError(format!("{file}: {sentence}")))?;
        Ok(config)
    }

    /// What no single key shows.
    fn check(&self) -> Result<(), String> {
        if self.nbd.unix.is_empty() && self.nbd.tcp.is_empty() {
            return Err("[nbd] has neither \"unix\" nor \"tcp\": nobody could connect".to_owned());
        }
        let mut paths = vec![&self.pool.path, &self.control.socket];
        paths.extend(&self.nbd.unix);
        paths.extend(&self.audit.log);
        for (at, path) in paths.iter().enumerate() {
            if paths[..at].contains(path) {
                return Err(format!("{} is given for two purposes", path.display()));
            }
        }
        for (at, address) in self.nbd.tcp.iter().enumerate() {
            if self.nbd.tcp[..at].contains(address) {
                return Err(format!("[nbd] \"tcp\" has {address} twice"));
            }
        }
        Ok(())
    }

    /// What is allowed but should be said at every start.
    pub fn warnings(&self) -> Vec<String> {
        let open = self.nbd.tcp.iter().filter(|address| !address.ip().is_loopback());
        let open = open.map(|address| {
            format!(
                "NBD on {address} can be reached from the network without encryption or password: \
                 let only trusted hosts reach it"
            )
        });
        let unknown = self.nbd.tcp.iter().filter(|_| self.access.grants.is_some()).map(|address| {
            format!("NBD on {address} does not know who connects: [access] does not hold there")
        });
        open.chain(unknown).collect()
    }
}

fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path)
        .map_err(|e| ConfigError(format!("cannot make {} absolute: {e}", path.display())))
}

/// What is wrong with the configuration: a text that names the place, ready to be printed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    pool: FilePool,
    nbd: FileNbd,
    #[serde(default)]
    control: FileControl,
    #[serde(default)]
    runtime: FileRuntime,
    #[serde(default)]
    log: FileLog,
    #[serde(default)]
    access: FileAccess,
    #[serde(default)]
    audit: FileAudit,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePool {
    path: PathBuf,
    #[serde(default)]
    create: bool,
    #[serde(default = "default_limit")]
    limit: FileSize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileNbd {
    #[serde(default)]
    unix: Vec<PathBuf>,
    #[serde(default)]
    tcp: Vec<Address>,
    #[serde(default = "default_connections")]
    max_connections: Bounded<1, 65_536>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileControl {
    socket: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileRuntime {
    reactors: Bounded<0, MAX_REACTORS>,
    poll_us: Bounded<0, { MAX_POLL_US as usize }>,
    poll_disk_us: Bounded<0, { MAX_POLL_US as usize }>,
    map_cache: FileSize,
    read_cache: Option<FileSize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileLog {
    filter: Filter,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct FileAccess {
    grant: Option<Vec<FileGrant>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileGrant {
    user: Option<Account>,
    group: Option<Account>,
    role: FileRole,
    #[serde(default)]
    projects: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FileRole {
    Reader,
    Member,
    Administrator,
}

/// A name or an id.
#[derive(Deserialize)]
#[serde(untagged)]
enum Account {
    Name(String),
    Id(u32),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct FileAudit {
    log: Option<PathBuf>,
}

impl Account {
    fn text(self) -> String {
        match self {
            Account::Name(name) => name,
            Account::Id(id) => id.to_string(),
        }
    }
}

impl FileAccess {
    fn check(self) -> Result<Access, String> {
        let Some(grants) = self.grant else { return Ok(Access::default()) };
        let numbered = |(at, grant): (usize, FileGrant)| {
            grant.check().map_err(|why| format!("[access] \"grant\" number {}: {why}", at + 1))
        };
        Ok(Access { grants: Some(grants.into_iter().enumerate().map(numbered).collect::<Result<_, _>>()?) })
    }
}

impl FileGrant {
    fn check(self) -> Result<Grant, String> {
        let FileGrant { user, group, role, projects } = self;
        let to = match (user, group) {
            (Some(user), None) => Grantee::User(user.text()),
            (None, Some(group)) => Grantee::Group(group.text()),
            _ => return Err("it is for a \"user\" or for a \"group\": give one of them".to_owned()),
        };
        for project in &projects {
            name::check(project).map_err(|why| format!("in \"projects\": {why}"))?;
        }
        let role = match (role, projects.is_empty()) {
            (FileRole::Reader, _) => Role::Reader,
            (FileRole::Member, false) => Role::Member,
            (FileRole::Member, true) => {
                return Err("a member is one of some projects: projects = [\"web\"]".to_owned());
            }
            (FileRole::Administrator, true) => Role::Administrator,
            (FileRole::Administrator, false) => {
                return Err("an administrator is one of everything: leave \"projects\" out".to_owned());
            }
        };
        Ok(Grant { to, role, projects })
    }
}

fn default_limit() -> FileSize {
    FileSize(DEFAULT_LIMIT)
}

fn default_connections() -> Bounded<1, 65_536> {
    Bounded(DEFAULT_CONNECTIONS)
}

impl Default for FileControl {
    fn default() -> FileControl {
        FileControl { socket: PathBuf::from("/run/cairn/control.sock") }
    }
}

impl Default for FileRuntime {
    fn default() -> FileRuntime {
        FileRuntime {
            reactors: Bounded(0),
            poll_us: Bounded(DEFAULT_POLL.as_micros() as usize),
            poll_disk_us: Bounded(DEFAULT_POLL_DISK.as_micros() as usize),
            map_cache: FileSize(DEFAULT_MAP_CACHE),
            read_cache: None,
        }
    }
}

impl Default for FileLog {
    fn default() -> FileLog {
        FileLog { filter: Filter(DEFAULT_FILTER.to_owned()) }
    }
}

impl FileRuntime {
    fn check(self) -> Runtime {
        Runtime {
            reactors: (self.reactors.0 > 0).then_some(self.reactors.0),
            poll: Duration::from_micros(self.poll_us.0 as u64),
            poll_disk: Duration::from_micros(self.poll_disk_us.0 as u64),
            map_cache: self.map_cache.0,
            read_cache: self.read_cache.map_or_else(default_read_cache, |size| size.0),
        }
    }
}

/// An eighth of the machine's memory: peers leave caching to the kernel, which takes all that is free.
fn default_read_cache() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    total.map_or(LEAST_READ_CACHE, |kib| (kib * 1024 / 8).clamp(LEAST_READ_CACHE, MOST_READ_CACHE))
}

/// `"10G"` or plain bytes.
struct FileSize(u64);

impl<'de> Deserialize<'de> for FileSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FileSize, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = FileSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"10G\", or bytes")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<FileSize, E> {
                text.parse::<Size>().map(|size| FileSize(size.bytes())).map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<FileSize, E> {
                u64::try_from(bytes).map(FileSize).map_err(|_| E::custom("a size cannot be negative"))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// `"127.0.0.1:10809"`, `"[::1]:10809"`.
struct Address(SocketAddr);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Address).map_err(|_| {
            de::Error::custom(format!(
                "{text:?} is not an address and port such as \"127.0.0.1:10809\" or \"[::1]:10809\""
            ))
        })
    }
}

/// A number within bounds, both allowed.
struct Bounded<const MIN: usize, const MAX: usize>(usize);

impl<'de, const MIN: usize, const MAX: usize> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bounded<MIN, MAX>, D::Error> {
        let number = i64::deserialize(deserializer)?;
        match usize::try_from(number) {
            Ok(n) if (MIN..=MAX).contains(&n) => Ok(Bounded(n)),
            _ => Err(de::Error::custom(format!("{number} is not between {MIN} and {MAX}"))),
        }
    }
}

/// A log filter that parses.
struct Filter(String);

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Filter, D::Error> {
        let text = String::deserialize(deserializer)?;
        match EnvFilter::try_new(&text) {
            Ok(_) => Ok(Filter(text)),
            Err(e) => Err(de::Error::custom(format!("{text:?} is not a log filter: {e}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
        [pool]
        path = "/var/lib/cairn/pool.cairn"
        create = true
        limit = "4T"

        [nbd]
        unix = ["/run/cairn/nbd.sock", "second.sock"]
        tcp = ["127.0.0.1:10809", "[::1]:10809"]
        max_connections = 64

        [control]
        socket = "/run/cairn/control.sock"

        [runtime]
        reactors = 4
        poll_us = 0
        poll_disk_us = 1000
        map_cache = 1073741824
        read_cache = "2G"

        [log]
        filter = "info,cairn_cow=debug"

        [audit]
        log = "audit.log"

        [[access.grant]]
        user = "alice"
        role = "member"
        projects = ["web", "db"]

        [[access.grant]]
        group = 70
        role = "reader"
    "#;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, "cairnd.toml", Path::new("/etc/cairn")).map_err(|e| e.to_string())
    }

    fn cli(args: &[&str]) -> Result<Cli, String> {
        Cli::try_parse_from([&["cairnd"], args].concat()).map_err(|e| e.to_string())
    }

    #[test]
    fn every_key_arrives() {
        let config = parse(FULL).expect("is right");
        assert_eq!(config.pool.path, Path::new("/var/lib/cairn/pool.cairn"));
        assert!(config.pool.create);
        assert_eq!(config.pool.limit, 4 << 40);
        let second = PathBuf::from("/etc/cairn/second.sock");
        assert_eq!(config.nbd.unix, [PathBuf::from("/run/cairn/nbd.sock"), second]);
        assert_eq!(
            config.nbd.tcp.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["127.0.0.1:10809", "[::1]:10809"]
        );
        assert_eq!(config.nbd.max_connections, 64);
        assert_eq!(
            config.runtime,
            Runtime {
                reactors: Some(4),
                poll: Duration::ZERO,
                poll_disk: Duration::from_millis(1),
                map_cache: 1 << 30,
                read_cache: 2 << 30
            }
        );
        assert_eq!(config.log.filter, "info,cairn_cow=debug");
        assert_eq!(config.audit.log.as_deref(), Some(Path::new("/etc/cairn/audit.log")));
        let projects = vec!["web".to_owned(), "db".to_owned()];
        let alice = Grant { to: Grantee::User("alice".into()), role: Role::Member, projects };
        let readers = Grant { to: Grantee::Group("70".into()), role: Role::Reader, projects: Vec::new() };
        assert_eq!(config.access.grants, Some(vec![alice, readers]));
        assert_eq!(config.warnings().len(), 2, "addresses know nobody");
        assert!(config.warnings()[1].contains("[access] does not hold there"));
    }

    #[test]
    fn the_rest_has_defaults() {
        let config = parse("[pool]\npath = \"p\"\n[nbd]\ntcp = [\"0.0.0.0:10809\"]").expect("is enough");
        assert_eq!(config.pool, Pool { path: "/etc/cairn/p".into(), create: false, limit: DEFAULT_LIMIT });
        assert_eq!(config.control.socket, Path::new("/run/cairn/control.sock"));
        assert_eq!(config.runtime.reactors, None);
        assert_eq!((config.runtime.poll, config.runtime.poll_disk), (DEFAULT_POLL, DEFAULT_POLL_DISK));
        assert_eq!(config.log.filter, "info");
        assert_eq!((&config.access.grants, &config.audit.log), (&None, &None));
        assert_eq!(config.warnings().len(), 1, "an open port is said");
        assert!(config.warnings()[0].contains("0.0.0.0:10809"));
    }

    #[test]
    fn errors_name_file_line_and_key() {
        for (text, parts) in [
            (
                "[pool]\npath = \"p\"\nlimit = \"10X\"\n[nbd]\nunix = [\"s\"]",
                &["line 3", "limit", "is not a size"][..],
            ),
            ("[pool]\npath = \"p\"\nlimit = -1\n[nbd]\nunix = [\"s\"]", &["line 3", "limit", "negative"]),
            (
                "[pool]\npath = \"p\"\nlimmit = 1\n[nbd]\nunix = [\"s\"]",
                &["line 3", "unknown field `limmit`"],
            ),
            ("[pool]\npath = \"p\"\n[nbd]\ntcp = [\"localhost\"]", &["line 4", "tcp", "is not an address"]),
            (
                "[pool]\npath = \"p\"\n[nbd]\nunix = [\"s\"]\n[runtime]\nreactors = 1000",
                &["line 6", "reactors", "between 0 and 256"],
            ),
            ("[pool]\npath = \"p\"\n[nbd]\nunix = [\"s\"]\n[log]\nfilter = \"a=b=c\"", &["line 6", "filter"]),
            ("[nbd]\nunix = [\"s\"]", &["missing field `pool`"]),
            ("[pool]\npath = \"p\"\n[nbd]", &["neither \"unix\" nor \"tcp\""]),
            ("[pool]\npath = \"p\"\n[nbd]\nunix = [\"p\"]", &["/etc/cairn/p", "two purposes"]),
            ("[pool]\npath = \"p\"\n[nbd]\ntcp = [\"[::1]:1\", \"[::1]:1\"]", &["[::1]:1 twice"]),
            (&granted("user = \"a\"\nrole = \"owner\""), &["line 7", "role", "`member`"]),
            (&granted("user = \"a\"\nrole = \"member\""), &["number 1", "one of some projects"]),
            (&granted("role = \"reader\""), &["number 1", "\"user\" or for a \"group\""]),
            (&granted("user = \"a\"\ngroup = \"b\"\nrole = \"reader\""), &["number 1", "give one of them"]),
            (&granted("user = 1\nrole = \"administrator\"\nprojects = [\"a\"]"), &["leave \"projects\" out"]),
            (
                &granted("user = 1\nrole = \"reader\"\nprojects = [\"a b\"]"),
                &["in \"projects\"", "contains ' '"],
            ),
            ("[pool\n", &["line 1"]),
            ("[pool]\npath = 7\n", &["line 2", "path"]),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.starts_with("cairnd.toml: "), "{error}");
            for part in parts {
                assert!(error.contains(part), "{text:?}\nlacks {part:?}:\n{error}");
            }
        }
    }

    fn granted(grant: &str) -> String {
        format!("[pool]\npath = \"p\"\n[nbd]\nunix = [\"s\"]\n[[access.grant]]\n{grant}")
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::load(Path::new("/does/not/exist.toml")).expect_err("there is none");
        assert!(
            error.to_string().starts_with("cannot read the configuration /does/not/exist.toml:"),
            "{error}"
        );
    }

    #[test]
    fn dev_mode_needs_nothing_else() {
        let cli = cli(&["--dev", "/tmp/d", "--create", "demo:10G", "--create", "b:513"]).expect("is right");
        let config = cli.into_config().expect("is right");
        assert_eq!(config.dev.as_deref(), Some(Path::new("/tmp/d")));
        assert_eq!(config.pool, Pool { path: "/tmp/d/pool.cairn".into(), create: true, limit: 1 << 40 });
        assert_eq!(config.nbd.unix, [PathBuf::from("/tmp/d/nbd.sock")]);
        assert_eq!(config.control.socket, Path::new("/tmp/d/control.sock"));
        let demo = NewVolume { name: "demo".into(), size: 10 << 30 };
        assert_eq!(config.create, [demo, NewVolume { name: "b".into(), size: 513 }]);
    }

    #[test]
    fn relative_dev_folders_become_absolute() {
        let config = Config::dev(Path::new("./dev"), Vec::new()).expect("is right");
        assert!(config.control.socket.is_absolute());
    }

    #[test]
    fn the_command_line_refuses_what_makes_no_sense() {
        for (args, part) in [
            (&[][..], "--dev <DIR>|--config <FILE>"),
            (&["--dev", "d", "--config", "f"], "cannot be used with"),
            (&["--config", "f", "--create", "a:1G"], "cannot be used with"),
            (&["--create", "a:1G"], "--dev"),
            (&["--dev", "d", "--check-config"], "cannot be used with"),
            (&["--dev", "d", "--create", "demo"], "expected NAME:SIZE"),
            (&["--dev", "d", "--create", "demo:10X"], "is not a size"),
            (&["--dev", "d", "--create", "demo:0"], "cannot be empty"),
            (&["--dev", "d", "--create", "a b:1G"], "contains ' '"),
        ] {
            let error = cli(args).expect_err("makes no sense");
            assert!(error.contains(part), "{args:?}\nlacks {part:?}:\n{error}");
        }
        let twice = cli(&["--dev", "d", "--create", "a:1G", "--create", "a:2G"]).expect("parses");
        assert!(twice.into_config().expect_err("twice").to_string().contains("twice"));
    }

    #[test]
    fn create_is_idempotent_and_never_resizes() {
        let volume = NewVolume { name: "demo".into(), size: 10 << 30 };
        assert_eq!(volume.is_missing(None), Ok(true));
        assert_eq!(volume.is_missing(Some(10 << 30)), Ok(false));
        let error = volume.is_missing(Some(5 << 30)).expect_err("another size").to_string();
        assert!(error.contains("\"demo\" exists and has 5.0 GiB (5368709120 bytes)"), "{error}");
    }
}
