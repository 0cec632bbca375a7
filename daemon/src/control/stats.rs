//! What volumes' clients have done, collected when somebody asks.

use cairn_api::stats::{LATENCY_BOUNDS_US, Stats, VolumeStats};
use cairn_cow::Disk;

use super::sessions::Target;
use crate::staging::is_hidden;
use crate::volumes::Volumes;

/// Of all volumes that users see.
pub(super) fn all<D: Disk>(volumes: &Volumes<D>) -> Stats {
    let mut shown = Vec::new();
    for (pool_name, pool) in volumes.pools.open() {
        for info in pool.volumes().into_iter().filter(|info| !is_hidden(&info.attributes)) {
            let (io, in_flight) = volumes.figures.of((pool.id(), info.id));
            let limits = volumes.throttle_stats(&pool, info.id);
            let used = volumes.sessions.attachments(&Target::Head { volume: info.name.clone() });
            shown.push(VolumeStats {
                pool: pool_name.clone(),
                id: info.id.0,
                size: info.size,
                used: info.mapped,
                connections: used.iter().map(|attachment| attachment.connections).sum(),
                consumers: used.into_iter().map(|attachment| attachment.consumer).collect(),
                checksum_errors: info.checksum_errors,
                in_flight,
                qos_waits: limits.waits,
                qos_waited_us: u64::try_from(limits.waited.as_micros()).unwrap_or(u64::MAX),
                qos_waiting: limits.waiting,
                io,
                volume: info.name,
            });
        }
    }
    let uptime_us = u64::try_from(volumes.figures.age().as_micros()).unwrap_or(u64::MAX);
    Stats { uptime_us, latency_bounds_us: LATENCY_BOUNDS_US.to_vec(), volumes: shown }
}
