//! Defects that are planted on purpose, to see that the tests would find them: `cargo xtask mutants`.
//!
//! None is ever active unless the feature `mutants` is on, which no program that holds data has; without it
//! `planted` is `false` for the compiler, too.

macro_rules! defects {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// One thing that the engine does wrong.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Defect {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Defect {
            /// All there are.
            pub const ALL: &[Defect] = &[$(Defect::$name,)+];

            /// What is wrong, in one sentence.
            pub fn what(self) -> &'static str {
                match self {
                    $(Defect::$name => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

defects! {
    /// A batch of the journal counts as durable without a barrier.
    BatchBarrierOmitted,
    /// Of a batch that goes over the ring's end the second part is not written.
    BatchCutAtTheRingsEnd,
    /// A batch says of itself that it is durable.
    BatchConfirmsItself,
    /// A batch is sealed although the one before it is not durable.
    BatchesOverlap,
    /// Records are appended while a batch is written together with the data of its only record.
    LogLeftOpen,
    /// The next batch is written before one that was written with its data has had its barrier.
    AheadForgotten,
    /// A batch is written together with its data before the memory that outlives the process tells that it is not durable.
    AheadUnannounced,
    /// A batch of the journal is believed whatever its checksum says.
    BatchChecksumIgnored,
    /// A batch of the journal is believed whatever its number is.
    BatchNumberIgnored,
    /// Who waits for somebody else's flush is told at once.
    FlushNotWaitedFor,
    /// A flush is done when all but the last record are durable.
    FlushOneRecordShort,
    /// A barrier that has failed does not fence the pool.
    FenceForgotten,
    /// A barrier that has failed is tried again, and believed when it succeeds.
    FailedBarrierTriedAgain,
    /// A barrier that has failed is not noted for the next process.
    FailedBarrierNotNoted,
    /// When opening's barrier fails, a last batch without records counts as durable because it was read.
    LastBatchVouchesForItself,
    /// Recovery believes what it reads though a barrier has failed for the process before.
    FailedBarrierIgnored,
    /// Recovery does not write again the superblocks that it has read.
    SuperblocksNotConfirmed,
    /// Recovery does not look whether the data of the last writes is there.
    DataNotVerified,
    /// Of data in several places recovery verifies the first only.
    OnlyFirstRunVerified,
    /// Opening relies on what it read without a barrier.
    OpeningBarrierOmitted,
    /// Recovery does not look whether the pool file grew as the journal says.
    GrowthNotVerified,
    /// What recovery cut off the journal may be seen again.
    CutNotMadeGood,
    /// A batch of which a power loss has left a part may become whole by the next one.
    TornBatchLeft,
    /// Replay gives back what a batch freed before the disk says that the batch is durable.
    ReplayFreesTooEarly,
    /// What a process that died had in its shadow is not taken over.
    ShadowNotTaken,
    /// Of the two batches that a process that died may have had in its shadow, one is taken over.
    ShadowTakenInPart,
    /// A process that dies may leave in its shadow a part of what is one change.
    GroupLeftInPart,
    /// Replay does not give back the nodes of deleted versions.
    ReplayLeaksNodes,
    /// The pool file grows after the journal says so.
    GrowthLoggedFirst,
    /// A checkpoint freezes the state before it seals the batch that belongs to it.
    FrozenBeforeItsBatch,
    /// A checkpoint writes its superblock without a barrier before it.
    CheckpointBarrierOmitted,
    /// Both superblocks are written before one barrier.
    SuperblocksTogether,
    /// The second superblock is never written.
    SecondSuperblockForgotten,
    /// A checkpoint writes the space map over the one in use.
    SpaceMapInPlace,
    /// What a checkpoint replaces is reusable before its superblock is durable.
    ReplacedNodesFreedEarly,
    /// What a checkpoint replaces is reusable while somebody reads it.
    ReplacedFreedUnderReaders,
    /// What a checkpoint wrote although it was replaced meanwhile is not given back.
    ReplacedUnderWayLeaks,
    /// A checkpoint may be given blocks that were freed after it froze.
    CheckpointUnguarded,
    /// A checkpoint stores blocks of writes under way as used.
    FlightsStoredAsUsed,
    /// A checkpoint stores freed blocks as used.
    LimboStoredAsUsed,
    /// Freed blocks are reusable at once.
    FreedAtOnce,
    /// Freed blocks are reusable before the batch that frees them is durable.
    FreedBeforeDurable,
    /// Freed blocks are reusable while somebody reads them.
    FreedUnderReaders,
    /// The read cache is not told that a block is used anew.
    CacheNotToldOfReuse,
    /// A volume frees blocks that its snapshots hold.
    SharedBlocksFreed,
    /// A snapshot does not begin a new epoch.
    EpochNotRaised,
    /// A rollback does not begin a new epoch.
    RollbackKeepsEpoch,
    /// What was born in the epoch after the last snapshot counts as the snapshot's, too.
    FloorOneTooHigh,
    /// A clone does not count among those that descend from its snapshot.
    CloneNotCounted,
    /// A version is given back by addresses that no durable checkpoint knows.
    ReapedDuringCheckpoint,
    /// Deleting a version frees blocks that its successor holds.
    ReapFreesSuccessors,
    /// Deleting a version frees blocks that its predecessors hold.
    ReapFreesPredecessors,
    /// Two writes of parts of one block do not wait for each other, and do not look whether it has changed.
    PartsNotMerged,
    /// A write of a part of a block does not look whether the block has changed.
    ChangedBlockMergedOver,
    /// Zeroes are written to blocks that somebody may take meanwhile.
    ZeroedUnclaimed,
    /// Blocks of a write that did not happen are not given back.
    AbandonedBlocksLeak,
    /// A write of a part of a block keeps nothing of what was behind it.
    TailOfABlockLost,
    /// A trim takes the block that it begins in the middle of.
    TrimRoundsOutward,
    /// A trim is not written to the journal.
    TrimNotLogged,
    /// Trimmed blocks are not given back.
    TrimLeaks,
    /// A group of snapshots loses its last one when it is replayed.
    GroupReplayedInPart,
    /// Data is served whatever its checksum says.
    DataServedUnverified,
    /// A node of the map is believed whatever its checksum says.
    NodeChecksumIgnored,
    /// A block of the catalog is believed whatever its checksum says.
    CatalogChecksumIgnored,
    /// A block of the space map is believed whatever its checksum says.
    SpaceMapChecksumIgnored,
}

impl Defect {
    /// Those that need so rare a moment that a minute of simulation finds them by luck only.
    pub const RARE: &[Defect] = &[Defect::LastBatchVouchesForItself, Defect::TornBatchLeft];
}

#[cfg(feature = "mutants")]
mod active {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Defect;

    /// One more than the active one's number.
    static ACTIVE: AtomicU8 = AtomicU8::new(0);

    /// From now on the engine has this defect, in all of the process, and no other.
    pub fn plant(defect: Option<Defect>) {
        ACTIVE.store(defect.map_or(0, |defect| defect as u8 + 1), Ordering::Relaxed);
    }

    pub(crate) fn planted(defect: Defect) -> bool {
        ACTIVE.load(Ordering::Relaxed) == defect as u8 + 1
    }
}

#[cfg(feature = "mutants")]
pub use active::plant;
#[cfg(feature = "mutants")]
pub(crate) use active::planted;

/// Whether the engine has this defect.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub(crate) const fn planted(_: Defect) -> bool {
    false
}
