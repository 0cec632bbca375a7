//! A volume that nobody works on and that leaves little room, so that what is freed is used again at once.

use std::time::Duration;

use cairn_cow::sim::Rng;
use cairn_cow::{BLOCK_SIZE, ErrorKind, VersionId};

use crate::engine::{self, BLOCK_SECTORS, Pool};
use crate::world::SharedWorld;

/// Its name.
pub(crate) const NAME: &str = "ballast";
/// What is written there: no writer comes to this number.
const ID: u64 = u64::MAX;
/// Its size: more than any pool here holds.
const SIZE: u64 = 1 << 30;
/// Blocks of a write that fills a pool.
const PIECE: u64 = 16;
/// Blocks of it that are looked at after a death.
const LOOKS: usize = 2;

/// Fills the pool until it has room for about `slack` blocks.
///
/// # Panics
/// When the pool fails.
pub(crate) async fn fill(pool: &Pool, world: &SharedWorld, slack: u64) {
    let volume = pool.create_volume(NAME, SIZE, "").await;
    let id = volume.unwrap_or_else(|e| panic!("creating a volume: {e:?}")).id;
    let mut blocks = 0;
    let full = loop {
        let (sector, count) = (blocks * BLOCK_SECTORS, PIECE * BLOCK_SECTORS);
        match engine::write(pool, 0, id, sector, count, ID).await {
            Ok(_) => blocks += PIECE,
            Err(e) => break e,
        }
        if let Err(e) = pool.maintain(Duration::from_millis(100)).await {
            break e;
        }
    };
    assert_eq!(full.kind(), ErrorKind::NoSpace, "filling the pool: {full:?}");
    let kept = blocks.saturating_sub(slack).max(1);
    let (from, to) = (kept * BLOCK_SIZE, (blocks + PIECE) * BLOCK_SIZE);
    pool.trim(id, from, to - from).await.unwrap_or_else(|e| panic!("trimming: {e:?}"));
    pool.flush().await.unwrap_or_else(|e| panic!("flushing: {e:?}"));
    world.with(|w| w.ballast = Some((id, kept)));
}

/// It stays as it is; some of it is looked at, another part each time.
///
/// # Panics
/// When it has changed.
pub(crate) async fn assert_same(pool: &Pool, (id, blocks): (VersionId, u64), mut rng: Rng) {
    for _ in 0..LOOKS {
        let sector = rng.below(blocks) * BLOCK_SECTORS;
        let ids = engine::read(pool, id, sector, 1).await;
        let ids = ids.unwrap_or_else(|e| panic!("reading what nobody works on: {e:?}"));
        assert_eq!(ids, [Some(ID)], "what nobody works on has changed in sector {sector}");
    }
}
