//! What a changed configuration means for a daemon that runs.

use crate::config::{Access, Audit, Config, Control, Log, Nbd, Pool, Runtime};

/// When a key's new value holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holds {
    /// As soon as it is read.
    Now,
    /// When the daemon is started again.
    Restarted,
    /// When a pool is made. What is to hold for one that is there is said to the daemon in another way.
    NewPool,
}

/// The keys that differ, and when the new values hold.
pub(crate) fn changes(old: &Config, new: &Config) -> Vec<(&'static str, Holds)> {
    // Field by field, so that a new one is not forgotten here.
    let Config { dev: _, file: _, pool, nbd, control, runtime, log, access, audit, create: _ } = old;
    let Pool { path, create, limit } = pool;
    let Nbd { unix, tcp, max_connections } = nbd;
    let Control { socket } = control;
    let Runtime { reactors, poll, poll_disk, map_cache, read_cache } = runtime;
    let Log { filter } = log;
    let Access { grants } = access;
    let Audit { log: audit_log } = audit;
    let keys = [
        ("pool.path", *path != new.pool.path, Holds::Restarted),
        ("pool.create", *create != new.pool.create, Holds::NewPool),
        ("pool.limit", *limit != new.pool.limit, Holds::NewPool),
        ("nbd.unix", *unix != new.nbd.unix, Holds::Restarted),
        ("nbd.tcp", *tcp != new.nbd.tcp, Holds::Restarted),
        ("nbd.max_connections", *max_connections != new.nbd.max_connections, Holds::Now),
        ("control.socket", *socket != new.control.socket, Holds::Restarted),
        ("runtime.reactors", *reactors != new.runtime.reactors, Holds::Restarted),
        ("runtime.poll_us", *poll != new.runtime.poll, Holds::Restarted),
        ("runtime.poll_disk_us", *poll_disk != new.runtime.poll_disk, Holds::Restarted),
        ("runtime.map_cache", *map_cache != new.runtime.map_cache, Holds::Restarted),
        ("runtime.read_cache", *read_cache != new.runtime.read_cache, Holds::Restarted),
        ("access.grant", *grants != new.access.grants, Holds::Now),
        ("audit.log", *audit_log != new.audit.log, Holds::Restarted),
        ("log.filter", *filter != new.log.filter, Holds::Now),
    ];
    keys.into_iter().filter(|(_, differs, _)| *differs).map(|(key, _, holds)| (key, holds)).collect()
}

/// Says in the log what becomes of each change.
pub(crate) fn report(changes: &[(&'static str, Holds)]) {
    if changes.is_empty() {
        tracing::info!("the configuration was read again and has not changed");
    }
    for (key, holds) in changes {
        match holds {
            Holds::Now => tracing::info!("{key} has changed and holds now"),
            Holds::Restarted => tracing::warn!("{key} has changed and needs a restart"),
            Holds::NewPool => {
                tracing::info!(
                    "{key} has changed and holds for a pool that is made; \"cairn pool grow\" is for this one"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_change_is_found_and_nothing_else() {
        let old = Config::dev(Path::new("/d"), Vec::new()).expect("a configuration");
        assert_eq!(changes(&old, &old), []);
        let mut new = old.clone();
        new.log.filter = "debug".to_owned();
        new.nbd.max_connections += 1;
        new.runtime.poll += Duration::from_micros(1);
        new.pool.limit += 1;
        assert_eq!(
            changes(&old, &new),
            [
                ("pool.limit", Holds::NewPool),
                ("nbd.max_connections", Holds::Now),
                ("runtime.poll_us", Holds::Restarted),
                ("log.filter", Holds::Now),
            ]
        );
    }
}
