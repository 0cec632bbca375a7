//! How the daemon is, in a line for `systemctl status`.

use cairn_api::report::count;
use cairn_cow::Disk;

use crate::pools::PoolSlot;
use crate::room;
use crate::staging::is_hidden;
use crate::volumes::Volumes;

/// Volumes, NBD connections, and how full each pool is.
pub(crate) fn summary<D: Disk>(volumes: &Volumes<D>, connections: u64) -> String {
    let visible = |slot: &PoolSlot<D>| {
        let volumes = slot.pool.as_ref().map_or_else(|_| Vec::new(), |pool| pool.volumes());
        volumes.iter().filter(|volume| !is_hidden(&volume.attributes)).count() as u64
    };
    let slots = volumes.pools.slots();
    let volumes = slots.iter().map(visible).sum();
    let pools: Vec<String> = slots.iter().map(|slot| format!("pool {} {}", slot.name, state(slot))).collect();
    format!("{}, {}; {}", count(volumes, "volume"), count(connections, "NBD connection"), pools.join(", "))
}

fn state<D: Disk>(slot: &PoolSlot<D>) -> String {
    let Ok(pool) = &slot.pool else { return "cannot be opened".to_owned() };
    let status = pool.status();
    if status.fenced.is_some() {
        return "takes no writes until the daemon is restarted".to_owned();
    }
    let (used, free) = (u128::from(status.used), u128::from(room::free(&status, slot.room.available())));
    format!("{} % full", used * 100 / (used + free).max(1))
}
