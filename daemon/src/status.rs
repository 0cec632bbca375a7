//! Block status: what lies where in an export (`base:allocation`), and what changed there since a snapshot.
//!
//! | context | what its bit 0 says of a range |
//! |---|---|
//! | `cairn:changed:SNAPSHOT` | it may differ from this snapshot of the same volume |
//! | `cairn:changed:VOLUME@SNAPSHOT` | the same, of a volume that one is a clone of the other's, over any number of steps |
//! | `qemu:dirty-bitmap:...` | the very same under the name by which QEMU exports dirty bitmaps, whose one flag is bit 0, too |
//!
//! So whatever pulls incremental backups from QEMU can pull them from cairn: name a snapshot where it wants a bitmap.
//! What a client selects is a version, not a name ([`context`]): when the snapshot is deleted the client gets errors,
//! and never the difference to a later one of that name.

use cairn_cow::{ChangeExtent, Disk, Error, ErrorKind, Extent, ExtentKind, Pool, Result, VersionId};
use cairn_nbd::{Context, ContextKey, StatusExtent, StatusQuery, proto};

use crate::restore::Restore;

/// How much of a volume is looked at before other connections of the reactor have their turn. A request may be about
/// all of a volume of many TiB.
pub(crate) const PIECE: u64 = 1 << 30;

/// What the names of contexts begin with that tell changes, each after the wildcards that list them. The namespaces are
/// ours and QEMU's.
const CHANGED: [(&str, &str); 2] = [("cairn:", "cairn:changed:"), ("qemu:", "qemu:dirty-bitmap:")];
/// The flag of a range that may differ; a range without it is the same.
const MAY_DIFFER: u64 = 1;
/// Snapshots of a volume up to which their contexts are listed unasked. `nbdinfo` asks for them all, with `--list` of
/// every snapshot's export: beyond this, the prefix stands for them until a client asks for what is behind it.
const MOST_UNASKED: usize = 64;

/// The contexts that LIST_META_CONTEXT answers these queries with, `base:allocation` aside.
pub(crate) fn contexts<D: Disk>(pool: &Pool<D>, id: VersionId, queries: &[&str]) -> Vec<String> {
    let asked = |(namespace, prefix)| queries.iter().any(|query| [namespace, prefix].contains(query));
    let unasked = queries.is_empty();
    let snapshots = if unasked || CHANGED.into_iter().any(asked) {
        // Only a version that is being deleted has none to tell of.
        pool.bases(id).unwrap_or_default()
    } else {
        Vec::new()
    };
    let mut names = Vec::new();
    for (namespace, prefix) in CHANGED {
        if unasked && snapshots.len() > MOST_UNASKED {
            names.push(prefix.to_owned());
        } else if unasked || asked((namespace, prefix)) {
            names.extend(snapshots.iter().map(|snapshot| format!("{prefix}{snapshot}")));
        }
    }
    for query in queries {
        let known = || names.iter().any(|name| name == query);
        if context(pool, id, query).is_some() && !known() {
            names.push((*query).to_owned());
        }
    }
    names
}

/// What stands for the context of exactly this name: the version it compares with.
pub(crate) fn context<D: Disk>(pool: &Pool<D>, id: VersionId, name: &str) -> Option<ContextKey> {
    let snapshot = CHANGED.iter().find_map(|(_, prefix)| name.strip_prefix(prefix))?;
    let base = pool.base(id, snapshot).ok()?;
    Some(ContextKey(base.0.into()))
}

/// Answers a status about a range inside a version: at most as many extents as asked for, from its start. What is yet to be
/// restored may be anything: it counts as data, and as changed.
pub(crate) async fn of<D: Disk>(
    pool: &Pool<D>,
    id: VersionId,
    query: StatusQuery<'_>,
    restore: Option<&Restore<D>>,
) -> Result<Vec<StatusExtent>> {
    // How much of a range can be looked up, or what to say of its beginning.
    let known = |offset: u64, len: u64, unknown: u64| match restore.map(|r| r.stretch(offset..offset + len)) {
        None => Ok(len),
        Some((true, until)) => Ok(until - offset),
        Some((false, until)) => Err(vec![StatusExtent { len: until - offset, flags: unknown }]),
    };
    match query.context {
        Context::Allocation => {
            let flags = |kind| match kind {
                ExtentKind::Data => 0,
                ExtentKind::Zero => proto::allocation::ZERO,
                ExtentKind::Hole => proto::allocation::HOLE | proto::allocation::ZERO,
            };
            let status = |e: Extent| StatusExtent { len: e.len, flags: flags(e.kind) };
            let look_up = async |offset, len, max| match known(offset, len, 0) {
                Ok(len) => Ok(pool.extents(id, offset, len, max).await?.into_iter().map(status).collect()),
                Err(unknown) => Ok(unknown),
            };
            in_pieces(query, look_up).await
        }
        Context::Named { name, key: ContextKey(key) } => {
            let unknown = || Error::new(ErrorKind::NotFound, format!("'{name}' stands for no version"));
            let base = VersionId(u32::try_from(key).map_err(|_| unknown())?);
            let status =
                |e: ChangeExtent| StatusExtent { len: e.len, flags: if e.changed { MAY_DIFFER } else { 0 } };
            let look_up = async |offset, len, max| match known(offset, len, MAY_DIFFER) {
                Ok(len) => {
                    Ok(pool.changes(base, id, offset, len, max).await?.into_iter().map(status).collect())
                }
                Err(unknown) => Ok(unknown),
            };
            in_pieces(query, look_up).await
        }
    }
}

/// Looks a range up in pieces, with a turn for everybody else in between; the pieces do not show. `look_up` gets an
/// offset, a length and the most extents that are of use, and answers with those from the offset on.
async fn in_pieces(
    query: StatusQuery<'_>,
    look_up: impl AsyncFn(u64, u64, usize) -> Result<Vec<StatusExtent>>,
) -> Result<Vec<StatusExtent>> {
    let max = query.max_extents;
    let mut found: Vec<StatusExtent> = Vec::new();
    let (mut at, end) = (query.offset, query.offset + query.len);
    while at < end {
        let piece = PIECE.min(end - at);
        // One more than there is room for: the last one may go on in the next piece until something else follows.
        let extents = look_up(at, piece, max - found.len() + 1).await?;
        let start = at;
        for extent in extents {
            at += extent.len;
            let full = found.len() == max;
            match found.last_mut() {
                Some(previous) if previous.flags == extent.flags => previous.len += extent.len,
                _ if full => return Ok(found),
                _ => found.push(extent),
            }
        }
        if at == start {
            break;
        }
        cairn_uring::yield_now().await;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use cairn_cow::sim::SimDisk;
    use cairn_cow::{CreateOptions, Options};
    use cairn_uring::{Config, Reactor};

    use super::*;

    const BLOCK: u64 = 4096;
    const HOLE: u64 = proto::allocation::HOLE | proto::allocation::ZERO;

    fn with_pool(f: impl AsyncFnOnce(SimDisk, &Pool<SimDisk>)) {
        let mut reactor = Reactor::new(Config::default()).expect("a reactor");
        reactor.block_on(async {
            let disk = SimDisk::file(1 << 30);
            let create = CreateOptions { limit: 1 << 30, journal_bytes: None, segment_blocks: None };
            let options = Options {
                lanes: 1,
                map_cache_bytes: 1 << 20,
                read_cache_bytes: 1 << 20,
                ..Options::default()
            };
            let pool = Pool::create(disk.clone(), [7; 16], create, options).await.expect("a pool");
            f(disk, &pool).await;
        });
    }

    async fn write(disk: &SimDisk, pool: &Pool<SimDisk>, id: VersionId, offset: u64, blocks: u64) {
        let len = (blocks * BLOCK) as usize;
        let mut buf = disk.alloc(len);
        buf.fill(1);
        pool.write(0, id, offset, len, buf).await.expect("is written");
    }

    fn extent(len: u64, flags: u64) -> StatusExtent {
        StatusExtent { len, flags }
    }

    fn id_of(pool: &Pool<SimDisk>, name: &str) -> VersionId {
        pool.resolve(name).expect("is there").id
    }

    #[test]
    fn the_status_of_a_large_disk_does_not_show_its_pieces() {
        with_pool(async |disk, pool| {
            let size = 10 * PIECE;
            pool.create_volume("v", size, "").await.expect("a volume");
            let id = id_of(pool, "v");
            pool.create_snapshots(&[("v", "empty")], "").await.expect("a snapshot");
            let key = context(pool, id, "cairn:changed:empty").expect("is there");
            let changed = Context::Named { name: "cairn:changed:empty", key };
            let ask = async |context, offset, len, max_extents| {
                of(pool, id, StatusQuery { context, offset, len, max_extents }, None).await.expect("is told")
            };
            for (context, nothing) in [(Context::Allocation, HOLE), (changed, 0)] {
                assert_eq!(ask(context, 0, size, 1).await, [extent(size, nothing)]);
                assert_eq!(ask(context, BLOCK, 0, 1).await, []);
            }

            // Data on both sides of a boundary between pieces.
            write(&disk, pool, id, PIECE - BLOCK, 2).await;
            for (context, nothing, written) in [(Context::Allocation, HOLE, 0), (changed, 0, MAY_DIFFER)] {
                let before = extent(PIECE - BLOCK, nothing);
                let data = extent(2 * BLOCK, written);
                let after = extent(9 * PIECE - BLOCK, nothing);
                assert_eq!(ask(context, 0, size, 9).await, [before, data, after]);
                assert_eq!(ask(context, 0, size, 3).await, [before, data, after]);
                assert_eq!(ask(context, 0, size, 2).await, [before, data]);
                assert_eq!(ask(context, 0, size, 1).await, [before]);
                assert_eq!(ask(context, PIECE - BLOCK, size - PIECE + BLOCK, 1).await, [data]);
            }
        });
    }

    #[test]
    fn contexts_are_the_snapshots_that_an_export_can_be_compared_with() {
        with_pool(async |_, pool| {
            pool.create_volume("v", PIECE, "").await.expect("a volume");
            pool.create_volume("stranger", PIECE, "").await.expect("a volume");
            pool.create_snapshots(&[("v", "a"), ("stranger", "s")], "").await.expect("snapshots");
            pool.create_snapshots(&[("v", "b")], "").await.expect("a snapshot");
            pool.clone_volume("v", "a", "copy", None).await.expect("a clone");
            let (ours, theirs) =
                (["cairn:changed:a", "cairn:changed:b"], ["qemu:dirty-bitmap:a", "qemu:dirty-bitmap:b"]);
            for export in ["v", "v@a", "v@b"] {
                let list = |queries: &[&str]| contexts(pool, id_of(pool, export), queries);
                assert_eq!(list(&[]), [ours, theirs].concat());
                assert_eq!(list(&["qemu:", "cairn:"]), [ours, theirs].concat());
                assert_eq!(list(&["cairn:changed:", "cairn:changed:a"]), ours);
                assert_eq!(list(&["qemu:dirty-bitmap:b", "base:", "cairn:nothing:a"]), theirs[1..]);
            }

            let of_volume = |name: &str| context(pool, id_of(pool, "v"), name);
            let base = |name: &str| Some(ContextKey(id_of(pool, name).0.into()));
            assert_eq!(of_volume("cairn:changed:a"), base("v@a"));
            assert_eq!(of_volume("qemu:dirty-bitmap:b"), base("v@b"));
            for unknown in ["", "c", "v", "v@c", "stranger@s", "copy@a", "@a", "a@"] {
                assert_eq!(of_volume(&format!("cairn:changed:{unknown}")), None, "{unknown}");
            }
            assert_eq!(of_volume("a"), None);
            let of_clone = |name: &str| context(pool, id_of(pool, "copy"), name);
            assert_eq!(of_clone("cairn:changed:a"), None, "a clone begins without snapshots of its own");
            assert_eq!(of_clone("cairn:changed:v@b"), base("v@b"));
            assert_eq!(
                contexts(pool, id_of(pool, "copy"), &["qemu:dirty-bitmap:v@a", "cairn:"]),
                ["qemu:dirty-bitmap:v@a"]
            );
        });
    }

    #[test]
    fn contexts_of_many_snapshots_are_listed_when_asked_for() {
        with_pool(async |_, pool| {
            pool.create_volume("v", PIECE, "").await.expect("a volume");
            for number in 0..=MOST_UNASKED {
                let list = contexts(pool, id_of(pool, "v"), &[]);
                assert_eq!(list.len(), 2 * number);
                pool.create_snapshots(&[("v", &number.to_string())], "").await.expect("a snapshot");
            }
            assert_eq!(contexts(pool, id_of(pool, "v"), &[]), ["cairn:changed:", "qemu:dirty-bitmap:"]);
            let asked = contexts(pool, id_of(pool, "v"), &["cairn:changed:"]);
            assert_eq!(asked.len(), MOST_UNASKED + 1);
            assert_eq!(asked[MOST_UNASKED], format!("cairn:changed:{MOST_UNASKED}"));
        });
    }

    #[test]
    fn a_deleted_snapshot_is_an_error_also_when_its_name_is_taken_again() {
        with_pool(async |disk, pool| {
            pool.create_volume("v", PIECE, "").await.expect("a volume");
            let id = id_of(pool, "v");
            pool.create_snapshots(&[("v", "a")], "").await.expect("a snapshot");
            let name = "cairn:changed:a";
            let key = context(pool, id, name).expect("is there");
            write(&disk, pool, id, 0, 1).await;
            let query = StatusQuery {
                context: Context::Named { name, key },
                offset: 0,
                len: 2 * BLOCK,
                max_extents: 2,
            };
            assert_eq!(
                of(pool, id, query, None).await.expect("is told"),
                [extent(BLOCK, MAY_DIFFER), extent(BLOCK, 0)]
            );
            pool.delete_snapshot("v", "a").await.expect("is deleted");
            pool.create_snapshots(&[("v", "a")], "").await.expect("a snapshot");
            assert_eq!(of(pool, id, query, None).await.expect_err("is gone").kind(), ErrorKind::NotFound);
            let again = context(pool, id, name).expect("is there");
            let query = StatusQuery { context: Context::Named { name, key: again }, ..query };
            assert_eq!(of(pool, id, query, None).await.expect("is told"), [extent(2 * BLOCK, 0)]);
        });
    }
}
