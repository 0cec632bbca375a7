//! The daemon's life: start everything in order, wait for the signal to stop, stop everything in reverse.
//!
//! ```text
//! lock the pool ─► sockets ─► reactors ─► recover ─► volumes of --create ─► accept, maintenance, control ─► ready
//! SIGHUP ─► what can change of the configuration does
//! SIGTERM ─► no new clients, requests in flight finish ─► control stops ─► checkpoint ─► reactors end
//! ```
//!
//! Threads: `reactor-N` move data, `control` answers HTTP, and the main thread waits for signals. Where a service manager
//! listens, `watch` tells it that they still do.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cairn_api::event::EventKind;
use cairn_api::info::{Info, NbdEndpoint};
use cairn_api::pool::MAIN_POOL;
use cairn_api::report::count;
use cairn_cow::Options;
use cairn_uring::{Handle, Reactor, ReactorThread};
use nix::sys::signal::{SigSet, Signal};
use sd_notify::NotifyState;

use crate::config::Config;
use crate::control::{self, ControlThread, PoolEngine, Porter};
use crate::descriptors::connections_allowed;
use crate::devices::{Devices, ServedDevices};
use crate::disk::{Found, PoolDisk};
use crate::events::{About, Events};
use crate::keeper::{PoolFiles as _, PoolKeeper, on};
use crate::listeners::{Listeners, SocketFile};
use crate::log::Log;
use crate::pools::{PoolSlot, refuse_oversized};
use crate::reload;
use crate::serve::NbdServer;
use crate::staging::is_hidden;
use crate::systemd::{Manager, Passed, Pulse, Watch, summary};
use crate::volumes::Volumes;

/// How long sessions may take to finish what is in flight when the daemon stops: longer than they take themselves.
const SESSION_PATIENCE: Duration = Duration::from_secs(15);
/// How long the reactors may take to end once the pool is closed. Nothing that matters is left to them by then.
const REACTOR_PATIENCE: Duration = Duration::from_secs(2);
/// Reactors when the configuration does not say: more than this and the pool's one lock is what they wait for.
const MOST_DEFAULT_REACTORS: usize = 8;

/// Starts the daemon and runs it until it is told to stop. The error is a text for people.
///
/// # Errors
/// When something prevents the start, or the pool cannot be closed cleanly.
pub fn run(config: Config, log: &Log) -> Result<(), String> {
    let manager = Arc::new(Manager::from_env());
    let ended = serve_until_told(config, log, &manager);
    if let Err(why) = &ended {
        manager.tell(&[NotifyState::Status(why)]);
    }
    ended
}

fn serve_until_told(mut config: Config, log: &Log, manager: &Arc<Manager>) -> Result<(), String> {
    let passed = Passed::from_env()?;
    // Before any thread starts, so that all inherit it: only this thread takes these signals.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Without a file there is nothing to reload, and a closed terminal is no reason to leave the pool as a crash would.
    // Under nohup it is no reason to stop either; a signal that is blocked would arrive even so.
    if !is_ignored(Signal::SIGHUP) {
        signals.add(Signal::SIGHUP);
    }
    signals.thread_block().map_err(|e| format!("cannot block signals: {e}"))?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    if let Some(folder) = &config.dev {
        std::fs::create_dir_all(folder)
            .map_err(|e| format!("cannot make the folder {}: {e}", folder.display()))?;
    }
    let connections = connections_allowed(config.nbd.max_connections);
    // The pool's lock comes before all sockets: it is what keeps a second daemon away. The sockets come before anything
    // is done to the pool, so that a start which cannot succeed changes nothing.
    let (disk, found) = PoolDisk::open(&config.pool.path, config.pool.create)?;
    let listeners = Listeners::bind(&config, passed)?;
    let reactors = start_reactors(&config)?;
    let daemon = Daemon::start(&config, disk, found, listeners, reactors, connections)?;
    daemon.announce(&config);
    manager.tell(&[NotifyState::Ready, NotifyState::Status(&daemon.summary())]);
    let watch = daemon.watch(manager)?;
    let signal = loop {
        let signal = signals.wait().map_err(|e| format!("cannot wait for signals: {e}"))?;
        if signal != Signal::SIGHUP || config.file.is_none() {
            break signal;
        }
        let mut reloading = vec![NotifyState::Reloading];
        reloading.extend(NotifyState::monotonic_usec_now());
        manager.tell(&reloading);
        daemon.reload(&mut config, log);
        manager.tell(&[NotifyState::Ready]);
    };
    tracing::info!(%signal, "stopping");
    drop(watch);
    manager.tell(&[
        NotifyState::Stopping,
        NotifyState::Status("finishing what is in flight, closing the pools"),
    ]);
    daemon.stop()
}

/// Whether whoever started this process had it ignore `signal`.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    // A mask in hexadecimal, bit 0 for signal 1: see proc_pid_status(5).
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal as u32 - 1) & 1 == 1
}

fn start_reactors(config: &Config) -> Result<Vec<ReactorThread>, String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = config.runtime.reactors.unwrap_or(cores.min(MOST_DEFAULT_REACTORS));
    (0..count)
        .map(|i| {
            let defaults = cairn_uring::Config::default();
            let settings = cairn_uring::Config {
                poll: config.runtime.poll,
                poll_disk: config.runtime.poll_disk,
                name: format!("reactor-{i}"),
                // Its volumes would hang and its signals go unanswered: better dead, and restarted.
                abort_on_panic: true,
                ..defaults
            };
            Reactor::start(settings).map_err(|e| match e.raw_os_error() {
                Some(code) if code == nix::errno::Errno::ENOSYS as i32 || code == nix::errno::Errno::EPERM as i32 => {
                    format!("cannot set up io_uring: {e}; cairn needs Linux 6.1 or newer with io_uring allowed (sysctl kernel.io_uring_disabled=0)")
                }
                _ => format!("cannot set up io_uring: {e}"),
            })
        })
        .collect()
}

struct Daemon {
    volumes: Arc<Volumes<PoolDisk>>,
    keeper: Arc<PoolKeeper>,
    devices: Arc<ServedDevices>,
    reactors: Vec<ReactorThread>,
    server: Arc<NbdServer>,
    control: ControlThread,
    porter: Porter,
    endpoints: Vec<NbdEndpoint>,
    nbd_files: Vec<SocketFile>,
}

impl Daemon {
    fn start(
        config: &Config,
        disk: PoolDisk,
        found: Found,
        listeners: Listeners,
        reactors: Vec<ReactorThread>,
        connections: usize,
    ) -> Result<Daemon, String> {
        let Listeners { nbd, endpoints, nbd_files, control, control_file } = listeners;
        let first = reactors[0].handle().clone();
        let options = Options {
            lanes: reactors.len(),
            map_cache_bytes: config.runtime.map_cache,
            read_cache_bytes: config.runtime.read_cache,
            ..Options::default()
        };
        let events = Arc::<Events>::default();
        let keeper = Arc::new(PoolKeeper::new(first.clone(), options, Arc::clone(&events)));
        if matches!(found, Found::Blank { .. }) && !config.pool.create {
            let shown = config.pool.path.display();
            return Err(format!("{shown} is empty: set create = true under [pool] to make a pool of it"));
        }
        let main = keeper.open(MAIN_POOL, &config.pool.path, disk, found, config.pool.limit)?;
        let volumes = Volumes::telling(main, config.pool.path.display().to_string(), events);
        open_other_pools(&volumes, &keeper);
        for slot in volumes.pools.slots() {
            take_up(&slot, &volumes, &first)?;
        }
        volumes.apply_limits();
        create_volumes(config, &volumes, &first)?;
        let socket = &config.control.socket;
        let handles = reactors.iter().map(|r| r.handle().clone()).collect();
        let porter = Porter::new(config)?;
        let server = NbdServer::new(Arc::clone(&volumes), handles, connections, porter.clone());
        let devices = Arc::new(ServedDevices::start(Arc::clone(&volumes), Arc::clone(&server))?);
        // Before other clients come: what a device was attached to is its own.
        devices.reattach(&volumes);
        for listener in nbd {
            let server = Arc::clone(&server);
            let accepting = first.spawn_with(move || async move {
                match listener.into_listener() {
                    Ok(listener) => server.accept(listener).await,
                    Err(error) => tracing::error!(%error, "cannot listen for NBD clients"),
                }
            });
            accepting.map_err(|_| "a reactor has stopped".to_owned())?;
        }
        keeper.maintain(&volumes.pools.slots()[0])?;
        let info = Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: jiff::Timestamp::now(),
            pool: config.pool.path.display().to_string(),
            control: socket.display().to_string(),
            nbd: endpoints.clone(),
        };
        let reached: Arc<dyn Devices> = devices.clone();
        let engine = PoolEngine::new(Arc::clone(&volumes), first, keeper.clone(), Some(reached), info);
        let control = control::start(
            control,
            control_file.path(),
            Arc::new(engine),
            porter.clone().giving_way(&volumes.courtesy),
        )
        .map_err(|e| format!("cannot start the control thread: {e}"))?;
        // The control thread removes its socket itself.
        control_file.leave();
        Ok(Daemon { volumes, keeper, devices, reactors, server, control, porter, endpoints, nbd_files })
    }

    /// Says that everything serves, and what to type next. The first words are for scripts that wait for them.
    fn announce(&self, config: &Config) {
        let about = format!("cairnd {} serves", env!("CARGO_PKG_VERSION"));
        self.volumes.events.tell(EventKind::DaemonStarted, About::default(), about);
        let mut volumes = self.volumes.pools.main().volumes();
        volumes.retain(|volume| !is_hidden(&volume.attributes));
        let count = count(volumes.len() as u64, "volume");
        let mut text = format!("cairnd ready: {count} in {}\n", config.pool.path.display());
        if let (Some(folder), Some(endpoint)) = (&config.dev, self.endpoints.first()) {
            let asked_for = config.create.first().map(|wanted| wanted.name.as_str());
            let name = asked_for.or(volumes.first().map(|v| v.name.as_str())).unwrap_or("demo");
            let cairn = format!("{} --dev {}", command_line(), quote(&folder.display().to_string()));
            let uri = quote(&endpoint.uri(name));
            let mut hint = |what: &str, command: String| text += &format!("\n  # {what}\n  {command}\n");
            if volumes.is_empty() {
                hint("make a volume", format!("{cairn} volume create {name} --size 10G"));
            }
            hint("copy it out; with the two swapped, in", format!("nbdcopy -p {uri} {name}.img"));
            if let NbdEndpoint::Unix(path) = endpoint {
                let path = quote(path);
                hint("attach it as a disk", format!("sudo nbd-client -unix {path} -N {name} /dev/nbd0"));
            }
            hint("take a snapshot", format!("{cairn} snapshot create {name} first"));
        }
        // Nobody may be reading.
        let _ = io::Write::write_all(&mut io::stdout(), text.as_bytes());
    }

    /// Reads the configuration again and has in force of it what can be.
    fn reload(&self, config: &mut Config, log: &Log) {
        let Some(new) = config.file.as_deref().map(Config::load) else { return };
        let new = match new {
            Ok(new) => new,
            Err(error) => {
                return tracing::error!(
                    "the daemon goes on as it was, since the new configuration is wrong: {error}"
                );
            }
        };
        // With the new filter from here on, so that one which is to show more does.
        log.set_filter(&new.log.filter);
        self.porter.set_access(&new);
        if let Some(audit) = &self.porter.audit {
            audit.reopen();
        }
        reload::report(&reload::changes(config, &new));
        if config.nbd.max_connections != new.nbd.max_connections {
            self.server.set_most(connections_allowed(new.nbd.max_connections));
        }
        // What needs a restart stays as it runs, and is said to differ the next time, too.
        config.log = new.log;
        config.access = new.access;
        config.nbd.max_connections = new.nbd.max_connections;
    }

    fn summary(&self) -> String {
        summary(&self.volumes, self.server.connections() as u64)
    }

    /// Tells the service manager how it goes from now on.
    fn watch(&self, manager: &Arc<Manager>) -> Result<Option<Watch>, String> {
        let reactors = self.reactors.iter().map(|reactor| reactor.handle().clone()).collect();
        let pulse = Pulse::new(reactors, self.control.runtime().clone());
        let (volumes, server) = (Arc::clone(&self.volumes), Arc::clone(&self.server));
        let status = move || summary(&volumes, server.connections() as u64);
        Watch::start(Arc::clone(manager), sd_notify::watchdog_enabled(), pulse, status)
            .map_err(|e| format!("cannot start the thread that reports to the service manager: {e}"))
    }

    fn stop(self) -> Result<(), String> {
        self.volumes.events.tell(EventKind::DaemonStopping, About::default(), "cairnd is about to stop");
        self.devices.stop();
        let left = self.server.stop(SESSION_PATIENCE);
        if left > 0 {
            tracing::warn!(left, "NBD sessions did not end in time and are cut off");
        }
        self.control.stop();
        self.volumes.jobs.close();
        if let Some(audit) = &self.porter.audit {
            audit.close();
        }
        self.volumes.restores.stop();
        drop(self.nbd_files);
        self.keeper.stop();
        let mut closed = Ok(());
        for slot in self.volumes.pools.slots() {
            match self.keeper.close(&slot) {
                Ok(()) => tracing::info!(pool = slot.name, "the pool is closed"),
                Err(error) => closed = Err(error),
            }
        }
        if left == 0 {
            end_reactors(self.reactors)?;
        }
        closed
    }
}

/// Ends the reactors in good order if they can be in time; else the end of the process ends them.
fn end_reactors(reactors: Vec<ReactorThread>) -> Result<(), String> {
    for reactor in &reactors {
        reactor.handle().shutdown();
    }
    let deadline = Instant::now() + REACTOR_PATIENCE;
    for reactor in reactors {
        while !reactor.is_finished() {
            if Instant::now() >= deadline {
                tracing::warn!(
                    "tasks of a reactor did not end in time and are left to the end of the process"
                );
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        reactor.join().map_err(|e| format!("a reactor failed: {e}"))?;
    }
    Ok(())
}

/// How this user would start the command line, as far as can be told.
fn command_line() -> String {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(|folder| folder.join("cairn")));
    match beside {
        Some(path) if path.exists() => quote(&path.display().to_string()),
        _ if std::env::var_os("CARGO").is_some() => "cargo run -q --release --bin cairn --".to_owned(),
        _ => "cairn".to_owned(),
    }
}

/// Quotes a word for a shell where it needs it.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Opens the pools that were added to the first one. The daemon serves what it can: a pool that is missing is said to be.
fn open_other_pools(volumes: &Volumes<PoolDisk>, keeper: &PoolKeeper) {
    for (name, path) in volumes.settings().pools {
        let opened = keeper.add(&name, &path, false, None).map_err(|error| error.message).and_then(|slot| {
            let obstacle = slot.pool.as_ref().ok().and_then(|pool| volumes.pools.obstacle(pool));
            let Some(why) = obstacle else { return Ok(slot) };
            keeper.remove(&slot)?;
            Err(why)
        });
        let slot = opened.unwrap_or_else(|why| {
            tracing::error!(pool = name, "the pool is not there, nor are its volumes: {why}");
            PoolSlot::new(name, path, Err(why))
        });
        volumes.pools.add(slot);
    }
}

/// Deletes what clients of the last daemon have not finished, and takes up the restores that it had under way. That this
/// fails is no reason not to serve the rest.
fn take_up(
    slot: &PoolSlot<PoolDisk>,
    volumes: &Arc<Volumes<PoolDisk>>,
    reactor: &Handle,
) -> Result<(), String> {
    let Ok(pool) = &slot.pool else { return Ok(()) };
    let (name, pool, volumes) = (slot.name.clone(), Arc::clone(pool), Arc::clone(volumes));
    for error in on(reactor, move || async move { volumes.take_up(&name, &pool).await })? {
        tracing::warn!(
            pool = slot.name,
            "what the last daemon has left cannot be deleted: {}",
            error.with_cause()
        );
    }
    Ok(())
}

fn create_volumes(config: &Config, volumes: &Volumes<PoolDisk>, reactor: &Handle) -> Result<(), String> {
    for wanted in &config.create {
        let present = volumes.pools.of_volume(&wanted.name).and_then(|(_, pool)| pool.volume(&wanted.name));
        if wanted.is_missing(present.ok().map(|v| v.size)).map_err(|e| e.to_string())? {
            if volumes.pools.slots().iter().any(|slot| slot.pool.is_err()) {
                let name = &wanted.name;
                tracing::warn!("the volume {name} is not created: it may be in the pool that is not there");
                continue;
            }
            let (pool, name, size) = (Arc::clone(volumes.pools.main()), wanted.name.clone(), wanted.size);
            refuse_oversized((MAIN_POOL, &pool), size)
                .map_err(|e| format!("cannot create the volume {}: {}", wanted.name, e.message))?;
            let made = on(reactor, move || async move { pool.create_volume(&name, size, "").await })?;
            made.map_err(|e| format!("cannot create the volume {}: {}", wanted.name, e.with_cause()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_ignored_from_the_start_are_known() {
        // What Rust's own start-up code ignores, and what nobody does.
        assert!(is_ignored(Signal::SIGPIPE));
        assert!(!is_ignored(Signal::SIGSEGV));
    }
}
