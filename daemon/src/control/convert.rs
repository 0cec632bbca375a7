//! From the engine's words to the API's.

use std::collections::{HashMap, HashSet};

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::pool::{CheckReport, Loss, LossKind, PoolStatus};
use cairn_api::snapshot::{DiffExtent, ExtentKind, TreeKind, TreeNode};
use cairn_cow::{self as cow, ErrorKind, Pool};
use jiff::Timestamp;

use super::sessions::{InUse, Target};
use crate::images::is_image;
use crate::pools::PoolSlot;
use crate::room;
use crate::staging::is_hidden;

/// An engine's error with its cause in the sentence and, by its kind, what to do about it.
pub(crate) fn error(error: &cow::Error) -> ApiError {
    let (code, hint) = explain(error.kind());
    let api = ApiError::new(code, error.with_cause());
    match hint {
        Some(hint) => api.with_hint(hint),
        None => api,
    }
}

/// What the engine answers, as the API says it.
pub(super) fn api<T>(result: cow::Result<T>) -> Result<T, ApiError> {
    result.map_err(|e| error(&e))
}

fn explain(kind: ErrorKind) -> (ErrorCode, Option<&'static str>) {
    match kind {
        ErrorKind::NotFound => (
            ErrorCode::NotFound,
            Some("\"cairn volume list\", \"cairn snapshot list\" and \"cairn pool list\" show what there is"),
        ),
        ErrorKind::Exists => (ErrorCode::Exists, Some("choose another name")),
        ErrorKind::InvalidArgument => (ErrorCode::InvalidArgument, None),
        ErrorKind::OutOfRange => (ErrorCode::OutOfRange, None),
        ErrorKind::Conflict => (ErrorCode::Conflict, None),
        ErrorKind::NoSpace => (
            ErrorCode::NoSpace,
            Some("delete snapshots or volumes, or make room on the file system that holds the pool"),
        ),
        ErrorKind::ReadOnly => (ErrorCode::ReadOnly, None),
        ErrorKind::Fenced => (
            ErrorCode::Fenced,
            Some(
                "look at the disk and the daemon's log, then restart cairnd: it recovers what was confirmed",
            ),
        ),
        ErrorKind::Corrupt => {
            (ErrorCode::Corrupt, Some("run \"cairn pool check --data\" to see what is affected"))
        }
        ErrorKind::Io => (ErrorCode::Io, Some("see the daemon's log and the kernel's")),
        ErrorKind::Busy => (ErrorCode::Busy, Some("wait for it to end, then try again")),
        ErrorKind::Cancelled => (ErrorCode::Cancelled, None),
        ErrorKind::Shrink => (ErrorCode::Shrink, Some("a volume can only grow: give a larger size")),
        ErrorKind::HasSnapshots => (
            ErrorCode::HasSnapshots,
            Some(
                "delete them, too (--with-snapshots, ?snapshots=true), or have them live on (--keep-snapshots, ?keep_snapshots=true)",
            ),
        ),
        ErrorKind::NotAPool => (ErrorCode::NotAPool, None),
        ErrorKind::Unsupported => (ErrorCode::Unsupported, None),
        ErrorKind::Truncated => (ErrorCode::Truncated, None),
    }
}

/// The answer to an operation on something that others use.
pub(super) fn in_use(target: &Target, why: &InUse) -> ApiError {
    let detach = format!("cairn volume detach {}", target.export());
    let hint = match why {
        InUse::Connected(_) | InUse::Taken(_) => {
            format!("disconnect the NBD clients first, or have the daemon do it: {detach}")
        }
        InUse::Attached(_) => format!("detach it first: {detach}"),
        InUse::Held => "wait for it to end, then try again".to_owned(),
        InUse::Gone => return ApiError::new(ErrorCode::NotFound, format!("there is no {target} any more")),
    };
    ApiError::new(ErrorCode::Busy, format!("{target} is in use: {why}")).with_hint(hint)
}

/// Why everything in a pool that refuses writes is in error.
pub(super) fn fenced(why: &str) -> String {
    format!("its pool refuses writes: {why}")
}

/// Engine times are milliseconds since 1970. One that no calendar holds comes from a damaged clock, not from the
/// pool: it is shown as 1970.
pub(crate) fn time(ms: u64) -> Timestamp {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

/// One place of the tree; of an image its one snapshot stands for it. `images` are the names of images by those of their
/// volumes, `recycled` those of volumes in the recycle bin, which are deleted to whoever looks at a tree, and `left` those of
/// which only the snapshots are there.
pub(super) fn tree_node(
    node: cow::TreeNode,
    images: &HashMap<String, String>,
    recycled: &HashSet<String>,
    left: &HashSet<String>,
) -> Option<TreeNode> {
    Some(TreeNode {
        id: node.id.0,
        parent: node.parent.map(|id| id.0),
        kind: match node.kind {
            cow::TreeKind::Head { volume } if images.contains_key(&volume) => return None,
            cow::TreeKind::Head { volume } | cow::TreeKind::Snapshot { volume, .. }
                if recycled.contains(&volume) =>
            {
                TreeKind::Ghost
            }
            cow::TreeKind::Head { volume } if left.contains(&volume) => TreeKind::Ghost,
            cow::TreeKind::Head { volume } => TreeKind::Head { volume },
            cow::TreeKind::Snapshot { volume, .. } if images.contains_key(&volume) => {
                TreeKind::Image { image: images[&volume].clone() }
            }
            cow::TreeKind::Snapshot { volume, name } => TreeKind::Snapshot { volume, name },
            cow::TreeKind::Ghost => TreeKind::Ghost,
        },
        size: node.size,
        created: time(node.created_ms),
    })
}

pub(super) fn diff_extent(extent: cow::DiffExtent) -> DiffExtent {
    DiffExtent {
        offset: extent.offset,
        len: extent.len,
        kind: match extent.kind {
            cow::ExtentKind::Hole => ExtentKind::Hole,
            cow::ExtentKind::Zero => ExtentKind::Zero,
            cow::ExtentKind::Data => ExtentKind::Data,
        },
    }
}

pub(super) fn pool_status<D: cow::Disk>(pool: &Pool<D>, slot: &PoolSlot<D>) -> PoolStatus {
    let status = pool.status();
    let available = slot.room.available();
    let free = room::free(&status, available);
    let (mut images, mut hidden, mut of_hidden) = (0, 0, 0);
    for volume in pool.volumes().into_iter().filter(|volume| is_hidden(&volume.attributes)) {
        images += u64::from(is_image(&volume.attributes));
        hidden += 1;
        of_hidden += volume.snapshots as u64;
    }
    PoolStatus {
        name: slot.name.clone(),
        path: slot.path.clone(),
        fill: room::fill(status.used, free),
        available,
        id: status.id,
        format: status.format,
        limit: status.limit,
        size: status.size,
        used: status.used,
        free,
        reserve: status.reserve,
        // Hidden ones may come and go between the two looks at the pool.
        volumes: (status.volumes as u64).saturating_sub(hidden),
        snapshots: (status.snapshots as u64).saturating_sub(of_hidden),
        images,
        pending_deletes: status.pending_deletes as u64,
        fenced: status.fenced,
        journal_used: status.journal_used,
        journal_size: status.journal_size,
        checkpoints: status.checkpoints,
        barriers: status.barriers,
        checksum_errors: status.checksum_errors,
    }
}

pub(crate) fn check_report(report: cow::CheckReport) -> CheckReport {
    CheckReport {
        clean: report.is_clean(),
        versions: report.versions as u64,
        nodes: report.nodes,
        data_blocks: report.data_blocks,
        data_verified: report.data_verified,
        leaked: report.leaked,
        error_count: report.error_count,
        errors: report.errors,
        losses: report.losses.into_iter().map(loss).collect(),
        lost_bytes: report.lost_bytes,
    }
}

pub(crate) fn loss(loss: cow::Loss) -> Loss {
    let cow::Loss { volume, snapshot, offset, len, kind } = loss;
    let kind = match kind {
        cow::LossKind::Data => LossKind::Data,
        cow::LossKind::Map => LossKind::Map,
    };
    Loss { volume, snapshot, offset, len, kind }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn every_kind_keeps_its_code() {
        use ErrorKind::*;
        for (kind, status) in [
            (NotFound, 404),
            (Exists, 409),
            (InvalidArgument, 400),
            (OutOfRange, 400),
            (NoSpace, 507),
            (ReadOnly, 403),
            (Fenced, 503),
            (Corrupt, 500),
            (Io, 500),
            (Busy, 409),
            (Conflict, 409),
            (Shrink, 409),
            (HasSnapshots, 409),
            (NotAPool, 500),
            (Unsupported, 409),
            (Truncated, 500),
        ] {
            let api = error(&cow::Error::new(kind, "a sentence"));
            assert_eq!(api.code.as_str(), kind.code(), "the API's code is the engine's");
            assert_eq!(api.code.http_status(), status, "{kind:?}");
            assert_eq!(api.message, "a sentence");
        }
    }

    #[test]
    fn the_cause_is_told_once() {
        let cause = io::Error::from_raw_os_error(28);
        let api = error(&cow::Error::io("growing the pool", cause));
        assert_eq!(api.code, ErrorCode::NoSpace);
        assert_eq!(api.message, "growing the pool: No space left on device (os error 28)");
        assert!(api.hint.is_some());
    }

    #[test]
    fn times_cannot_break_an_answer() {
        assert_eq!(time(1_700_000_000_123).to_string(), "2023-11-14T22:13:20.123Z");
        assert_eq!(time(u64::MAX), Timestamp::UNIX_EPOCH);
        assert_eq!(time(i64::MAX as u64), Timestamp::UNIX_EPOCH);
    }
}
