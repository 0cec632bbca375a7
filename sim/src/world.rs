//! What was asked of the pool and what it answered: the oracle's side of the story.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use cairn_cow::{Error, ErrorKind, Options, VersionId};

use crate::engine::{self, BLOCK_SECTORS};
use crate::oracle::{Contents, History, Time};
use crate::pattern::SECTOR;

/// How a life ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Death {
    /// Unsynced writes may be gone; what is there after it is durable.
    Power,
    /// Completed writes are there; a later power loss may still take them.
    Process,
    /// The death of a process for which a barrier had failed. The disk gives back what it may yet lose, so the pool goes
    /// back to what was flushed; what is there then is durable.
    Failure,
}

/// What is known about a snapshot's contents.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    /// They were read and must never change.
    Exactly(Rc<Contents>),
    /// It was answered, and nobody has read it yet.
    Answered { asked: Time, answered: Time },
    /// It was never answered, yet it is there.
    Unanswered { asked: Time },
}

/// What a volume or snapshot is described with and keeps as an attribute, both at once: when it was written; 0 for none.
pub(crate) type Label = Time;

/// One snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) id: VersionId,
    pub(crate) size: u64,
    pub(crate) label: Label,
    pub(crate) known: Known,
}

/// One volume.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) id: VersionId,
    pub(crate) size: u64,
    pub(crate) label: Label,
    pub(crate) history: History,
    pub(crate) snapshots: BTreeMap<String, Snapshot>,
    /// Where writers write: few places, so that they meet, at the seams of blocks and leaves.
    pub(crate) hot: Vec<Range<u64>>,
    /// Somebody has asked to delete it.
    pub(crate) doomed: bool,
}

pub(crate) type SharedVolume = Rc<RefCell<Volume>>;

/// The control operation that was asked for and not answered; there is at most one.
#[derive(Clone, Debug)]
pub(crate) enum Pending {
    Nothing,
    Create { name: String, size: u64, label: Label },
    Clone { name: String, size: u64, label: Label, contents: Rc<Contents> },
    DeleteVolume { name: String },
    Resize { name: String, size: u64 },
    Snapshot { asked: Time, of: Vec<(String, String)> },
    DeleteSnapshot { volume: String, name: String },
    Rollback { volume: String, asked: Time },
    Edit(Edit),
}

/// Another name and label for a volume, or for one of its snapshots.
#[derive(Clone, Debug)]
pub(crate) struct Edit {
    pub(crate) volume: String,
    pub(crate) snapshot: Option<String>,
    pub(crate) name: String,
    pub(crate) label: Label,
}

impl Edit {
    /// Whether a snapshot may be found under another name once this has happened.
    pub(crate) fn renames(&self, volume: &str, snapshot: &str) -> bool {
        self.volume == volume && self.snapshot.as_deref().is_none_or(|renamed| renamed == snapshot)
    }
}

/// A volume that takes up room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ballast {
    pub(crate) id: VersionId,
    /// Blocks that hold what was written there, and were flushed ...
    pub(crate) blocks: u64,
    /// ... but for some that are holes in a pool that has aged.
    pub(crate) holes: Option<Holes>,
}

/// What a pool is like that has aged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holes {
    /// Pieces behind the ballast that come and go.
    pub(crate) passing: u64,
}

/// How much there is at once. What is small is looked at in no time, and shows most of what can go wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) most_volumes: usize,
    pub(crate) most_snapshots: usize,
    /// Sectors of a place that writers write to.
    pub(crate) hot: u64,
    /// Bytes of records in one batch: with few, writers often wait for the batch before.
    pub(crate) batch_bytes: usize,
    /// Bytes of map nodes in memory: with few, nodes are read while others change what they are stored in.
    pub(crate) map_cache_bytes: u64,
}

impl Scale {
    pub(crate) const SMALL: Scale =
        Scale { most_volumes: 2, most_snapshots: 2, hot: 24, batch_bytes: 2 << 10, map_cache_bytes: 0 };
    pub(crate) const LARGE: Scale = Scale {
        most_volumes: 4,
        most_snapshots: 10,
        hot: 99,
        batch_bytes: usize::MAX,
        map_cache_bytes: 2 << 20,
    };

    /// How a pool is opened that is so large.
    pub(crate) fn options(self) -> Options {
        Options { batch_bytes: self.batch_bytes, map_cache_bytes: self.map_cache_bytes, ..engine::options() }
    }
}

/// The oracle's state, shared by all tasks of one life and kept over deaths.
pub(crate) struct World {
    pub(crate) scale: Scale,
    pub(crate) volumes: BTreeMap<String, SharedVolume>,
    pub(crate) pending: Pending,
    /// The volume that [`crate::ballast`] made, if there is one.
    pub(crate) ballast: Option<Ballast>,
    /// The number that is on the pool's note, and the one that somebody last wanted there; see [`crate::note`].
    pub(crate) note: (u64, u64),
    /// The bytes that the pool may take, and those that somebody last wanted.
    pub(crate) limit: (u64, u64),
    /// Notes that are to be written without a pause.
    pub(crate) burst: u64,
    /// One writer has the volumes to itself.
    pub(crate) alone: bool,
    /// What the pool may answer because of its disk: nothing as long as that is healthy.
    pub(crate) excuses: &'static [ErrorKind],
    /// Whoever works on the pool is to come to an end.
    pub(crate) over: bool,
    /// Writers flush once where they would so many times, or with 0 after every write: batches of few records, or of many.
    pub(crate) patience: u64,
    /// All that was answered before this time was flushed.
    pub(crate) flushed: Time,
    clock: Time,
    next_write: u64,
    next_name: u64,
}

/// A handle to the [`World`].
#[derive(Clone)]
pub(crate) struct SharedWorld(Rc<RefCell<World>>);

impl World {
    /// The next moment.
    pub(crate) fn tick(&mut self) -> Time {
        self.clock += 1;
        self.clock
    }

    /// The latest moment.
    pub(crate) fn now(&self) -> Time {
        self.clock
    }

    /// An id for a write.
    pub(crate) fn write_id(&mut self) -> u64 {
        self.next_write += 1;
        self.next_write
    }

    /// A name; old ones come back now and then.
    pub(crate) fn name(&mut self) -> String {
        self.next_name += 1;
        format!("n{}", self.next_name % 23)
    }

    /// Whether the disk is one that fails.
    pub(crate) fn is_troubled(&self) -> bool {
        !self.excuses.is_empty()
    }

    /// Whether the disk may be to blame for an error.
    pub(crate) fn excuses(&self, error: &Error) -> bool {
        self.excuses.contains(&error.kind())
    }

    pub(crate) fn add(&mut self, name: &str, id: VersionId, size: u64, label: Label, contents: &Contents) {
        let mut volume = Volume {
            name: name.to_owned(),
            id,
            size,
            label,
            history: History::starting_with(contents),
            snapshots: BTreeMap::new(),
            hot: Vec::new(),
            doomed: false,
        };
        let hot = self.scale.hot;
        volume.heat(0, hot);
        if size > 4 << 20 {
            volume.heat((1 << 20) / SECTOR - hot, 2 * hot);
        }
        volume.heat_tail(hot);
        self.volumes.insert(name.to_owned(), Rc::new(RefCell::new(volume)));
    }

    /// What was to be called and labelled differently is.
    pub(crate) fn edited(&mut self, Edit { volume: of, snapshot, name, label }: Edit) {
        let Some(volume) = self.volumes.get(&of).cloned() else { return };
        let mut inside = volume.borrow_mut();
        match snapshot {
            Some(old) => {
                if let Some(snapshot) = inside.snapshots.remove(&old) {
                    inside.snapshots.insert(name, Snapshot { label, ..snapshot });
                }
            }
            None => {
                inside.label = label;
                inside.name.clone_from(&name);
                self.volumes.remove(&of);
                self.volumes.insert(name, Rc::clone(&volume));
            }
        }
    }
}

impl SharedWorld {
    /// A world in which nothing has happened but that a pool was made of so many bytes at most.
    pub(crate) fn new(scale: Scale, limit: u64) -> SharedWorld {
        SharedWorld(Rc::new(RefCell::new(World {
            scale,
            volumes: BTreeMap::new(),
            pending: Pending::Nothing,
            ballast: None,
            excuses: &[],
            over: false,
            note: (0, 0),
            limit: (limit, limit),
            burst: 0,
            alone: false,
            patience: 1,
            flushed: 0,
            clock: 0,
            next_write: 0,
            next_name: 0,
        })))
    }

    /// The same world once more, to try something out in.
    pub(crate) fn fork(&self) -> SharedWorld {
        let world = self.0.borrow();
        let volumes = world
            .volumes
            .iter()
            .map(|(name, volume)| (name.clone(), Rc::new(RefCell::new(volume.borrow().clone()))));
        SharedWorld(Rc::new(RefCell::new(World {
            volumes: volumes.collect(),
            pending: world.pending.clone(),
            ..*world
        })))
    }

    /// Looks at or changes the world; never across an await.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        f(&mut self.0.borrow_mut())
    }
}

impl Volume {
    fn heat(&mut self, first: u64, count: u64) {
        let sectors = self.size / SECTOR;
        let range = first.min(sectors)..(first + count).min(sectors);
        if !range.is_empty() {
            self.hot.push(range);
            self.touch_hot_blocks();
        }
    }

    /// Some writers write whole blocks, also where a hot range begins or ends within one.
    fn touch_hot_blocks(&mut self) {
        for range in &self.hot {
            let blocks =
                range.start / BLOCK_SECTORS * BLOCK_SECTORS..range.end.next_multiple_of(BLOCK_SECTORS);
            self.history.touch(blocks.start..blocks.end.min(self.size / SECTOR));
        }
    }

    /// Makes the end of the volume a place where writers write.
    pub(crate) fn heat_tail(&mut self, hot: u64) {
        self.heat((self.size / SECTOR).saturating_sub(hot), hot);
    }

    /// What it may hold changes from what is known to this.
    pub(crate) fn restart_history(&mut self, contents: &Contents) {
        self.history = self.history.restarted(contents);
        self.touch_hot_blocks();
    }
}
