//! A volume that takes up room: an image that somebody copies in, which makes the pool grow, or one that leaves room for some
//! blocks only, so that what is freed is used again at once.

use std::sync::Arc;

use cairn_cow::sim::{Handle, Rng};
use cairn_cow::{BLOCK_SIZE, ErrorKind, Lsn, Result, VersionId};

use crate::engine::{self, BLOCK_SECTORS, Pool};
use crate::pattern::ZERO;
use crate::world::{Ballast, Holes, SharedWorld};

/// Its name.
pub(crate) const NAME: &str = "ballast";
/// What is written there: no writer comes to this number.
const ID: u64 = u64::MAX;
/// Its size: more than any pool here holds.
const SIZE: u64 = 1 << 30;
/// Blocks of a write that fills a pool.
const PIECE: u64 = 16;
/// Pieces after which whoever copies an image flushes.
const PIECES_A_FLUSH: u64 = 3;
/// One block in so many is a hole in a pool that has aged.
const HOLES: u64 = 5;
/// Pieces that are given back at once at most, ...
const PIECES_AT_ONCE: u64 = 4;
/// ... and events until then, and until they are taken again.
const COMES: u64 = 200;
const GOES: u64 = 200;
/// Blocks of it that are looked at after a death.
const LOOKS: usize = 2;

async fn create(pool: &Pool) -> VersionId {
    let volume = pool.create_volume(NAME, SIZE, "").await;
    volume.unwrap_or_else(|e| panic!("creating a volume: {e:?}")).id
}

/// Writes a piece behind so many blocks.
async fn add(pool: &Pool, id: VersionId, blocks: u64) -> Result<Lsn> {
    let (sector, count) = (blocks * BLOCK_SECTORS, PIECE * BLOCK_SECTORS);
    engine::write(pool, 0, id, sector, count, ID).await
}

/// Whether there was room.
fn fitted<T>(answer: Result<T>) -> Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NoSpace => Ok(false),
        Err(e) => Err(e),
    }
}

fn went_well<T>(answer: Result<T>) -> bool {
    fitted(answer).unwrap_or_else(|e| panic!("filling the pool: {e:?}"))
}

/// Fills the pool until `full`, or until nothing fits any more, and returns how many blocks it then holds.
async fn add_until(pool: &Pool, id: VersionId, mut blocks: u64, full: impl Fn() -> bool) -> u64 {
    while !full()
        && went_well(add(pool, id, blocks).await)
        && went_well(pool.maintain(engine::BETWEEN_CALLS).await)
    {
        blocks += PIECE;
    }
    blocks
}

/// Fills the pool until `full` says that it is, or until nothing fits any more.
///
/// # Panics
/// When the pool fails.
pub(crate) async fn fill_until(pool: &Pool, world: &SharedWorld, full: impl Fn() -> bool) {
    let id = create(pool).await;
    let blocks = add_until(pool, id, 0, full).await;
    pool.flush().await.unwrap_or_else(|e| panic!("flushing: {e:?}"));
    world.with(|w| w.ballast = Some(Ballast { id, blocks, holes: None }));
}

/// Fills the pool until it has room for about `slack` blocks. Those, and the ones that it keeps for itself, are not at its
/// end but all over, as in a pool that has aged: in one that was filled from the front, whole segments are empty, and what
/// is freed has long to wait for its turn.
///
/// # Panics
/// When the pool fails.
pub(crate) async fn fill(pool: &Pool, world: &SharedWorld, slack: u64) {
    let id = create(pool).await;
    let first = add_until(pool, id, 0, || false).await;
    for block in (0..first).step_by(HOLES as usize) {
        pool.trim(id, block * BLOCK_SIZE, BLOCK_SIZE).await.unwrap_or_else(|e| panic!("trimming: {e:?}"));
    }
    // A checkpoint, and what it gives back.
    engine::assert_well(pool).await;
    let has_room = || pool.status().free > (slack + PIECE) * BLOCK_SIZE;
    let end = add_until(pool, id, first, || !has_room()).await;
    pool.flush().await.unwrap_or_else(|e| panic!("flushing: {e:?}"));
    let holes = Holes { passing: (end - first) / PIECE };
    world.with(|w| w.ballast = Some(Ballast { id, blocks: first, holes: Some(holes) }));
}

/// Copies more and more of an image in, or what comes and goes in a pool that has aged, until the world ends or its disk fails.
pub(crate) async fn work_forever(handle: Handle, pool: Arc<Pool>, world: SharedWorld, rng: Rng) {
    let Some(ballast) = world.with(|w| w.ballast) else { return };
    let worked = match ballast.holes {
        None => copy(&handle, &pool, &world, ballast, rng).await,
        Some(holes) => come_and_go(&handle, &pool, &world, ballast, holes, rng).await,
    };
    if let Err(e) = worked {
        assert!(world.with(|w| w.excuses(&e)), "working on the ballast: {e:?}");
    }
}

/// Gives some of what is behind the ballast back, many blocks at once, and takes as much again.
async fn come_and_go(
    handle: &Handle,
    pool: &Pool,
    world: &SharedWorld,
    Ballast { id, blocks, .. }: Ballast,
    Holes { passing }: Holes,
    mut rng: Rng,
) -> Result<()> {
    while passing > 0 && !world.with(|w| w.over) {
        handle.sleep(rng.below(COMES)).await;
        let first = rng.below(passing);
        let pieces = (1 + rng.below(PIECES_AT_ONCE)).min(passing - first);
        let flushes = rng.chance(1, 2);
        let at = |piece| blocks + (first + piece) * PIECE;
        for piece in 0..pieces {
            fitted(pool.trim(id, at(piece) * BLOCK_SIZE, PIECE * BLOCK_SIZE).await)?;
            // What one batch has freed can be used again when the next is durable.
            if flushes {
                pool.flush().await?;
            }
        }
        handle.sleep(rng.below(GOES)).await;
        for piece in 0..pieces {
            fitted(add(pool, id, at(piece)).await)?;
        }
    }
    Ok(())
}

/// Begins again where the pool is full.
async fn copy(
    handle: &Handle,
    pool: &Pool,
    world: &SharedWorld,
    Ballast { id, mut blocks, .. }: Ballast,
    mut rng: Rng,
) -> Result<()> {
    while !world.with(|w| w.over) {
        for _ in 0..PIECES_A_FLUSH {
            handle.sleep(rng.below(40)).await;
            if fitted(add(pool, id, blocks).await)? {
                blocks += PIECE;
                continue;
            }
            let kept = world.with(|w| {
                let ballast = w.ballast.as_mut().expect("it does not go away");
                ballast.blocks -= ballast.blocks / 8;
                ballast.blocks
            });
            let end = (blocks + PIECE) * BLOCK_SIZE;
            // It may have been done in part.
            fitted(pool.trim(id, kept * BLOCK_SIZE, end - kept * BLOCK_SIZE).await)?;
            blocks = kept;
        }
        pool.flush().await?;
        world.with(|w| w.ballast = Some(Ballast { id, blocks, holes: None }));
    }
    Ok(())
}

/// Whether what begins like this was written here.
pub(crate) fn is_of_it(page: &[u8]) -> bool {
    page.starts_with(&ID.to_le_bytes())
}

/// What was flushed stays as it is; some of it is looked at, another part each time.
///
/// # Panics
/// When it has changed.
pub(crate) async fn assert_same(pool: &Pool, Ballast { id, blocks, holes }: Ballast, mut rng: Rng) {
    for _ in 0..LOOKS {
        let block = rng.below(blocks.max(1));
        if block == blocks {
            return;
        }
        let sector = block * BLOCK_SECTORS;
        let ids = engine::read(pool, id, sector, 1).await;
        let ids = ids.unwrap_or_else(|e| panic!("reading what nobody works on: {e:?}"));
        let expected = if holes.is_some() && block.is_multiple_of(HOLES) { ZERO } else { ID };
        assert_eq!(ids, [Some(expected)], "what nobody works on has changed in sector {sector}");
    }
}
