//! Carries out requests, one at a time per worker.

use std::rc::Rc;

use cairn_uring::AlignedBuf;

use super::connection::{Connection, Permit, Verdict};
use super::reply::{ReplyTo, fit_status};
use crate::error::Errno;
use crate::export::{Demand, Export, StatusExtent, StatusQuery, ZeroFlags};
use crate::handshake::SelectedContext;
use crate::proto::{ContextId, HeaderStyle, MAX_STATUS_EXTENTS};
use crate::shutdown::{Either, race};
use crate::transport::Transport;

/// A request with everything it needs.
pub(super) struct Job<E: Export, T: Transport> {
    pub(super) permit: Permit<E, T>,
    pub(super) to: ReplyTo,
    pub(super) work: Work,
}

/// What to do. All offsets are that of the reply.
pub(super) enum Work {
    Read { len: u32, whole: bool },
    Write { len: u32, buf: AlignedBuf, fua: bool },
    Flush,
    Trim { len: u64, fua: bool },
    Cache { len: u64 },
    WriteZeroes { len: u64, flags: ZeroFlags },
    BlockStatus { len: u64, one: bool, only: Option<Vec<ContextId>> },
}

/// A worker task: takes jobs until there will be none.
pub(super) async fn run<E: Export, T: Transport>(conn: Rc<Connection<E, T>>, index: usize) {
    let _ended = conn.task_guard();
    while let Some(Job { permit, to, work }) = conn.next_job(index).await {
        if !is_admitted(&conn, index, &work).await {
            permit.give_up();
            continue;
        }
        if let Err(errno) = perform(&conn, to, work).await {
            conn.count(|c| c.errors += 1);
            conn.send(|out| to.failure(out, errno, ""));
        }
        permit.settle();
    }
}

/// Waits until `work` may begin, by the export's limit or in spite of it; `false` when it is not to begin any more.
async fn is_admitted<E: Export, T: Transport>(conn: &Connection<E, T>, index: usize, work: &Work) -> bool {
    let demand = match *work {
        Work::Read { len, .. } => Demand::Read(len),
        Work::Write { len, .. } => Demand::Write(len),
        Work::Trim { len, .. } => Demand::Trim(len),
        Work::WriteZeroes { len, .. } => Demand::WriteZeroes(len),
        Work::Flush | Work::Cache { .. } | Work::BlockStatus { .. } => return true,
    };
    if !conn.export.is_throttled() {
        return true;
    }
    match race(conn.export.admit(demand), conn.end_of_waiting(index)).await {
        Either::First(()) => true,
        Either::Second(verdict) => verdict == Verdict::Begin,
    }
}

/// Carries out one request and, if it succeeds, sends all of its reply. An error is for the caller to send.
async fn perform<E: Export, T: Transport>(
    conn: &Connection<E, T>,
    to: ReplyTo,
    work: Work,
) -> Result<(), Errno> {
    let (export, offset) = (&conn.export, to.offset);
    match work {
        Work::Read { len, whole } => {
            let reply = export.read(offset, len).await.map_err(only_common)?;
            let mut sent = Ok(0);
            conn.send(|out| sent = to.contents(out, len, whole, reply));
            let bytes = sent?;
            conn.count(|c| c.bytes_read += bytes);
            return Ok(());
        }
        Work::BlockStatus { len, one, only } => {
            return block_status(conn, to, len, one, only.as_deref()).await;
        }
        Work::Write { len, buf, fua } => {
            export.write(offset, len, buf, fua).await.map_err(only_common)?;
            conn.count(|c| c.bytes_written += u64::from(len));
        }
        Work::Flush => export.flush().await.map_err(only_common)?,
        Work::Trim { len, fua } => export.trim(offset, len, fua).await.map_err(only_common)?,
        Work::Cache { len } => export.cache(offset, len).await.map_err(only_common)?,
        Work::WriteZeroes { len, flags } => {
            export.write_zeroes(offset, len, flags).await.map_err(|errno| {
                if flags.fast && errno == Errno::NotSup { errno } else { only_common(errno) }
            })?;
        }
    }
    conn.send(|out| to.success(out));
    Ok(())
}

/// One chunk for every context, or every one in `only`. The chunks sent before an error stay valid.
async fn block_status<E: Export, T: Transport>(
    conn: &Connection<E, T>,
    to: ReplyTo,
    len: u64,
    one: bool,
    only: Option<&[ContextId]>,
) -> Result<(), Errno> {
    let wanted = |context: &&SelectedContext| only.is_none_or(|only| only.contains(&context.id));
    let max_extents = if one { 1 } else { max_extents(len, conn.limits().max_extents) };
    let mut contexts = conn.contexts.iter().filter(wanted).peekable();
    while let Some(selected) = contexts.next() {
        let query = StatusQuery { context: selected.context(), offset: to.offset, len, max_extents };
        let mut extents = conn.export.block_status(query).await.map_err(only_common)?;
        fit_status(&mut extents, len, max_extents, conn.style)?;
        let done = contexts.peek().is_none();
        conn.send(|out| to.status(out, done, selected.id, &extents));
    }
    Ok(())
}

/// Most extents one chunk of a block status about `len` bytes may have.
fn max_extents(len: u64, limit: usize) -> usize {
    // No more than bytes, and never zero.
    let limit = limit.clamp(1, MAX_STATUS_EXTENTS);
    usize::try_from(len).map_or(limit, |len| len.clamp(1, limit))
}

/// Memory one block status may take at most: extents as the backend gives them, and as they are sent.
pub(super) fn status_cost(len: u64, one: bool, limit: usize, contexts: usize, style: HeaderStyle) -> u64 {
    let extents = if one { 1 } else { max_extents(len, limit) };
    let wire = if style == HeaderStyle::Extended { 16 } else { 8 };
    (extents * size_of::<StatusExtent>() + contexts * AlignedBuf::footprint(extents * wire)) as u64
}

/// The error values that every command may return; the others have their place elsewhere in the specification and
/// would mislead a client here.
fn only_common(errno: Errno) -> Errno {
    match errno {
        Errno::NotSup | Errno::Overflow => Errno::Inval,
        Errno::NoMem => Errno::Io,
        errno => errno,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_bounded_by_limit_length_and_specification() {
        assert_eq!(max_extents(u64::MAX, 1 << 16), 1 << 16);
        assert_eq!(max_extents(100, 1 << 16), 100);
        assert_eq!(max_extents(u64::MAX, usize::MAX), 1 << 20);
        assert_eq!(max_extents(1, 0), 1);
        assert_eq!(status_cost(u64::MAX, true, 1 << 16, 2, HeaderStyle::Extended), 16 + 2 * 4096);
        assert_eq!(status_cost(u64::MAX, false, 1 << 16, 1, HeaderStyle::Extended), 2 << 20);
    }

    #[test]
    fn misplaced_errors_become_common_ones() {
        assert_eq!(only_common(Errno::NotSup), Errno::Inval);
        assert_eq!(only_common(Errno::Overflow), Errno::Inval);
        assert_eq!(only_common(Errno::NoSpc), Errno::NoSpc);
    }
}
