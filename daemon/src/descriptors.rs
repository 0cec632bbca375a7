//! How many file descriptors the process may have, and how many connections that allows.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors for everything that is no NBD connection: the pool, the rings, the sockets, control connections.
const KEPT_FREE: u64 = 64;

/// Raises the limit on descriptors as far as the process may, and gives the most NBD connections there can be, which is
/// `wanted` unless the limit is in the way.
///
/// The soft limit is low (1024, as a rule) for the sake of programs that use select(2); others are meant to raise it.
pub(crate) fn connections_allowed(wanted: usize) -> usize {
    let limit = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(error) => {
                tracing::warn!(%error, soft, hard, "cannot raise the limit on file descriptors");
                soft
            }
        },
        Ok((soft, _)) => soft,
        Err(error) => {
            tracing::warn!(%error, "cannot tell the limit on file descriptors");
            return wanted;
        }
    };
    let most = within(wanted, limit);
    if most < wanted {
        tracing::warn!(
            "max_connections is {wanted}, and with a limit of {limit} file descriptors (LimitNOFILE=, ulimit -n) \
             there can be {most}"
        );
    }
    most
}

fn within(wanted: usize, limit: u64) -> usize {
    let room = limit.saturating_sub(KEPT_FREE).max(1);
    usize::try_from(room).map_or(wanted, |room| room.min(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        assert_eq!(within(1024, 1024), 960);
        assert_eq!(within(1024, 1_048_576), 1024);
        assert_eq!(within(1024, u64::MAX), 1024);
        assert_eq!(within(1024, 10), 1, "a daemon that serves nobody is of no use");
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        connections_allowed(1);
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("it can be asked for");
        assert_eq!(soft, hard);
    }
}
