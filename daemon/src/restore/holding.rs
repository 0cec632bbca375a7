//! Keeping what a restore reads in its repository, although the backup may be deleted meanwhile.
//!
//! A repository that this daemon may only read cannot be asked for that. Then the restore goes on all the same, and
//! whoever deletes the backup and collects what it led to takes the rest of the volume away.

use std::time::Duration;

use cairn_backup::HOLD_RENEWAL;
use cairn_cow::Disk;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::fetches::{Source, Trouble, asked};
use super::volume::Restore;

/// How long a repository that did not take a hold is left alone.
const PAUSE: Duration = Duration::from_secs(10 * 60);

/// Does the `work` of restoring a volume, and holds its backup until that is over.
pub(crate) async fn while_held<D: Disk>(restore: &Restore<D>, work: impl Future<Output = ()>) {
    // A restore that is over does not have it any more.
    let Ok(source) = restore.fetches.source() else { return work.await };
    let done = Notify::new();
    let work = async {
        work.await;
        done.notify_one();
    };
    // What was begun to hold it must not come after the end of that.
    tokio::join!(work, hold(restore, &*source, &done));
    if !restore.is_over() {
        return;
    }
    if let Err(Trouble::Away(why) | Trouble::Damaged(why)) = asked(source.release()).await {
        // The repository forgets it after a month.
        tracing::debug!("what keeps a backup's contents stays for a while: {why}");
    }
}

async fn hold<D: Disk>(restore: &Restore<D>, source: &dyn Source, done: &Notify) {
    let mut told = false;
    loop {
        let held = asked(source.hold()).await;
        if let Err(Trouble::Away(why) | Trouble::Damaged(why)) = &held
            && !told
        {
            let volume = restore.name();
            tracing::warn!(volume, "the backup must not be deleted before it is restored: {why}");
        }
        told = held.is_err();
        let pause = if told { PAUSE } else { HOLD_RENEWAL };
        if timeout(pause, done.notified()).await.is_ok() {
            return;
        }
    }
}
