//! What is being done to volumes at this moment, for their status.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::volumes::Key;

/// What takes longer than a look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Activity {
    /// It grows, and whoever uses it is told.
    Extending,
    /// It is being deleted.
    Deleting,
}

/// What is being done. A handful at a time.
#[derive(Default)]
pub(crate) struct Activities {
    doing: Mutex<Vec<(Key, Activity)>>,
}

impl Activities {
    /// Something begins; it ends when the result is dropped.
    pub(crate) fn begin(self: &Arc<Self>, volume: Key, activity: Activity) -> Doing {
        self.doing.lock().push((volume, activity));
        Doing { all: Arc::clone(self), what: (volume, activity) }
    }

    /// What is being done to a volume, the latest thing.
    pub(crate) fn of(&self, volume: Key) -> Option<Activity> {
        self.doing.lock().iter().rev().find(|(doing, _)| *doing == volume).map(|(_, activity)| *activity)
    }
}

/// See [`Activities::begin`].
pub(crate) struct Doing {
    all: Arc<Activities>,
    what: (Key, Activity),
}

impl Drop for Doing {
    fn drop(&mut self) {
        let mut doing = self.all.doing.lock();
        if let Some(at) = doing.iter().position(|what| *what == self.what) {
            doing.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_cow::VersionId;

    use super::*;

    #[test]
    fn the_latest_that_has_not_ended_is_shown() {
        let (all, volume) = (Arc::new(Activities::default()), ([1; 16], VersionId(7)));
        let first = all.begin(volume, Activity::Extending);
        let second = all.begin(volume, Activity::Deleting);
        assert_eq!(all.of(volume), Some(Activity::Deleting));
        assert_eq!(all.of(([2; 16], VersionId(7))), None);
        drop(first);
        assert_eq!(all.of(volume), Some(Activity::Deleting));
        drop(second);
        assert_eq!(all.of(volume), None);
    }
}
