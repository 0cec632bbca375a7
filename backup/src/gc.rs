//! Garbage collection, in two phases that may lie days apart.
//!
//! *Condemn*: packs that nothing refers to get a mark; of packs that are mostly garbage, what is needed is copied to
//! new ones first. From then on writers store again what they need and find only there. *Delete*: packs with a mark
//! are deleted, after everything that is referred to by now has another copy in a pack without one. A mark is never
//! taken back while its pack is there.
//!
//! Safety rests on the order of steps alone (see `commit.rs` and `docs/BACKUP-FORMAT.md`); delays, ages and sessions,
//! all by the store's own clock, only keep collections from making work for writers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::blob;
use crate::core::Core;
use crate::envelope::{self, Kind};
use crate::error::{Error, ErrorKind, Result};
use crate::hold::ABANDONED_AFTER;
use crate::ids::{ObjectId, PackId};
use crate::index::{self, Index, Mark, PackInfo, View};
use crate::limit::{Cancel, Limiter};
use crate::pack::{self, PackRecord};
use crate::roots::{Live, Roots};
use crate::session::{self, Session, Work};
use crate::upload::{Known, Uploader};

/// How to collect.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// Packs younger than this are left alone although nothing refers to them: the packs of a backup that was
    /// interrupted and will be made again.
    pub keep_unreferenced: Duration,
    /// Time between condemning a pack and deleting it. None is safe too, but then a backup under way may have to store
    /// chunks again.
    pub delete_delay: Duration,
    /// Packs of which less than this percentage is needed are rewritten.
    pub rewrite_below: u8,
    /// Only say what would be done.
    pub dry_run: bool,
    /// How fast rewritten packs may go up.
    pub limiter: Option<Limiter>,
    /// How to stop it.
    pub cancel: Cancel,
}

impl Default for GcOptions {
    fn default() -> GcOptions {
        GcOptions {
            keep_unreferenced: Duration::from_secs(24 * 3600),
            delete_delay: Duration::from_secs(3600),
            rewrite_below: 50,
            dry_run: false,
            limiter: None,
            cancel: Cancel::new(),
        }
    }
}

impl GcOptions {
    /// Everything at once, for a repository that nobody else is writing to.
    pub fn at_once() -> GcOptions {
        GcOptions { keep_unreferenced: Duration::ZERO, delete_delay: Duration::ZERO, ..GcOptions::default() }
    }
}

/// What a collection did; in a dry run, what it would do as far as can be told.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct GcReport {
    /// Packs and their bytes before.
    pub packs: u64,
    /// Bytes in all packs before.
    pub bytes: u64,
    /// Bytes that backups need.
    pub needed_bytes: u64,
    /// Packs condemned now; they are deleted by a later collection unless the delay is none.
    pub condemned: u64,
    /// Packs rewritten because most of them was garbage or because they were small.
    pub rewritten: u64,
    /// Packs deleted.
    pub deleted: u64,
    /// Bytes that this freed.
    pub freed_bytes: u64,
    /// Condemned packs that wait: for the delay, or for writers who began before.
    pub waiting: u64,
    /// Condemned packs that stay because they hold the only copy of something that backups need and that is damaged.
    pub kept_damaged: u64,
    /// Pending manifests, holds, sessions and labels removed that somebody had left behind.
    pub leftovers: u64,
    /// Index objects replaced by fewer.
    pub indexes_merged: u64,
    /// What backups need and is not there or damaged, in words. Verify says which backups.
    pub damage: Vec<String>,
}

/// Times of stores may have a grain of a second; what lies closer counts as at once.
const CLOCK_GRAIN: i64 = 2000;
/// What is left behind of a commit is removed after this long, in milliseconds.
const PENDING_FOR: i64 = 24 * 3600 * 1000;
/// Packs smaller than this are put together when there are enough of them.
const SMALL_PACK: u64 = pack::TARGET as u64 / 4;
const ENOUGH_SMALL: usize = 16;
/// Packs that one index object names at most.
const PACKS_PER_INDEX: usize = 64;
/// An index object naming fewer packs than this is small.
const SMALL_INDEX: usize = 16;
const ENOUGH_SMALL_INDEXES: usize = 8;

/// Collects garbage.
pub(crate) async fn run(core: &Arc<Core>, options: &GcOptions) -> Result<GcReport> {
    core.writable()?;
    let session = if options.dry_run { None } else { Some(Session::begin(core, Work::Collect).await?) };
    // The store's clock, which also stamps what is compared with it.
    let now = session.as_ref().map_or_else(crate::repository::now, |session| session.began);
    let mut collection = Collection { core, options, now, report: GcReport::default() };
    let done = collection.run().await;
    if let Some(session) = session {
        session.end().await;
    }
    done.map(|()| collection.report)
}

struct Collection<'a> {
    core: &'a Arc<Core>,
    options: &'a GcOptions,
    now: i64,
    report: GcReport,
}

/// What is there and what is needed, as one look after the marks shows it.
struct Look {
    /// Marks seen before anything else was looked at: only their packs may be deleted after this look.
    marks: Vec<Mark>,
    view: View,
    roots: Roots,
    live: Live,
    sessions: Vec<session::Found>,
}

impl Collection<'_> {
    async fn run(&mut self) -> Result<()> {
        let mut look = self.look().await?;
        self.report.packs = look.view.listed.len() as u64;
        self.report.bytes = look.view.listed.values().sum();
        self.report.needed_bytes = look.live.bytes_per_pack(&look.view.index).iter().sum();
        self.report.damage = look.live.unreadable.iter().map(ToString::to_string).collect();
        self.report.damage.extend(look.live.missing.iter().map(|(_, id)| format!("no pack holds {id}")));
        let mut gone = self.delete(&look).await?;
        let condemned = self.condemn(&look).await?;
        if condemned > 0 && self.options.delete_delay.is_zero() && !self.options.dry_run {
            self.options.cancel.check()?;
            look = self.look().await?;
            gone.extend(self.delete(&look).await?);
        }
        if !self.options.dry_run {
            self.merge_indexes(&look, &gone).await?;
            self.clear_leftovers(&look).await?;
        }
        Ok(())
    }

    async fn look(&self) -> Result<Look> {
        let cancel = &self.options.cancel;
        let marks = cancel.or(index::list_marks(self.core)).await?;
        let view = cancel.or(View::load(self.core)).await?;
        let sessions = cancel.or(session::list(self.core)).await?;
        let roots = cancel.or(Roots::load(self.core)).await?;
        if let Some((name, _, error)) =
            roots.damaged.iter().find(|(name, ..)| name.starts_with(Kind::Backup.folder()))
        {
            let context =
                format!("{name} is damaged, so nobody knows what it needs: delete that backup first");
            return Err(hurting(Error::new(ErrorKind::Corrupt, context), error));
        }
        let live = cancel.or(Live::mark(self.core, &view.index, &roots)).await?;
        // Below a node that cannot be read there may be anything. A pending manifest is another matter: its writer
        // sees for itself what is missing, and goes through its volume again.
        let backups: HashSet<_> = roots.backups.iter().map(|backup| backup.id).collect();
        if let Some(error) =
            live.unreadable.iter().find(|e| e.backups().iter().any(|id| backups.contains(id)))
        {
            let context =
                format!("nobody knows what a damaged backup needs: repair or delete it first ({error})");
            return Err(hurting(Error::new(ErrorKind::Corrupt, context), error));
        }
        Ok(Look { marks, view, roots, live, sessions })
    }

    /// When the oldest writer that is at work began.
    fn oldest_writer(&self, look: &Look) -> Option<i64> {
        let writers = look.sessions.iter().filter(|s| s.work == Work::Backup && s.alive(self.now));
        writers.map(|session| session.began).min()
    }

    /// Deletes packs whose mark is old enough, after saving what is needed.
    async fn delete(&mut self, look: &Look) -> Result<HashSet<PackId>> {
        let oldest_writer = self.oldest_writer(look);
        let (mut due, mut waiting) = (Vec::new(), 0);
        for mark in &look.marks {
            let delay = i64::try_from(self.options.delete_delay.as_millis()).unwrap_or(i64::MAX);
            let old = self.options.delete_delay.is_zero() || mark.modified.saturating_add(delay) <= self.now;
            let known = oldest_writer.is_none_or(|began| began > mark.modified.saturating_add(CLOCK_GRAIN));
            if old && known {
                due.push(mark.pack);
            } else {
                waiting += 1;
            }
        }
        self.report.waiting = waiting;
        if self.options.dry_run {
            self.report.deleted += due.len() as u64;
            self.report.freed_bytes += due.iter().filter_map(|pack| look.view.listed.get(pack)).sum::<u64>();
            return Ok(HashSet::new());
        }
        let kept = self.rescue(look, &due).await?;
        let mut gone = HashSet::new();
        for id in due {
            if kept.contains(&id) {
                self.report.kept_damaged += 1;
                continue;
            }
            self.options.cancel.check()?;
            self.core.store.delete(&pack::name(id)).await?;
            self.core.store.delete(&Kind::Condemned.name(id)).await?;
            if let Some(size) = look.view.listed.get(&id) {
                self.report.deleted += 1;
                self.report.freed_bytes += size;
            }
            gone.insert(id);
        }
        Ok(gone)
    }

    /// Copies what is needed and only in condemned packs; the packs that have to stay because something in them could
    /// not be copied.
    async fn rescue(&self, look: &Look, due: &[PackId]) -> Result<HashSet<PackId>> {
        let index = &look.view.index;
        let due: HashSet<_> = due.iter().copied().collect();
        let mut only_here = vec![false; index.packs().len()];
        for copies in index.blobs().filter(|copies| Self::only_condemned(look, copies)) {
            for slot in &index.slots()[copies] {
                only_here[slot.pack as usize] = true;
            }
        }
        let needed: Vec<_> = (0u32..)
            .zip(index.packs())
            .filter(|(number, pack)| only_here[*number as usize] && due.contains(&pack.id))
            .map(|(number, pack)| (number, *pack))
            .collect();
        let mut kept = self.copy(look, &needed).await?;
        if !look.live.missing.is_empty() {
            // What is missing may be in a pack that does not say what it holds.
            let readable: HashSet<_> = index.packs().iter().map(|pack| pack.id).collect();
            kept.extend(
                due.iter().filter(|id| !readable.contains(*id) && look.view.listed.contains_key(*id)),
            );
        }
        Ok(kept)
    }

    /// Whether a blob is needed and every copy is in a condemned pack. Then each of these packs is read for it before
    /// it goes, whichever copy counts: another collection may rely on another.
    fn only_condemned(look: &Look, copies: &std::ops::Range<usize>) -> bool {
        look.live.contains(copies.start) && look.view.index.is_condemned(copies.start)
    }

    /// Marks packs that are not needed, and those that are better rewritten after doing that. How many.
    async fn condemn(&mut self, look: &Look) -> Result<u64> {
        let index = &look.view.index;
        let keep = i64::try_from(self.options.keep_unreferenced.as_millis()).unwrap_or(i64::MAX);
        let oldest_writer = self.oldest_writer(look);
        let settled = |pack: &PackInfo| {
            let old = keep == 0 || pack.modified.saturating_add(keep) <= self.now;
            let nobodys = oldest_writer.is_none_or(|began| pack.modified.saturating_add(CLOCK_GRAIN) < began);
            !pack.condemned && old && nobodys
        };
        let (mut garbage, mut rewrite, mut small) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
        for (number, (pack, needed)) in index.packs().iter().zip(look.live.bytes_per_pack(index)).enumerate()
        {
            let number = number as u32;
            if !settled(pack) {
                continue;
            }
            if needed == 0 {
                garbage.push(pack.id);
            } else if needed * 100 < pack.size * u64::from(self.options.rewrite_below) {
                rewrite.push((number, *pack));
            } else if pack.size < SMALL_PACK {
                small[pack.kind as usize - 1].push((number, *pack));
            }
        }
        for small in small {
            if small.len() >= ENOUGH_SMALL {
                rewrite.extend(small);
            }
        }
        if !self.options.dry_run {
            match self.copy(look, &rewrite).await {
                Ok(damaged) => rewrite.retain(|(_, pack)| !damaged.contains(&pack.id)),
                // What nobody needs has to go before there is room for copies.
                Err(error) if error.kind() == ErrorKind::NoSpace && !garbage.is_empty() => {
                    tracing::debug!(%error, "no room to rewrite packs");
                    rewrite.clear();
                }
                Err(error) => return Err(error),
            }
        }
        self.report.rewritten += rewrite.len() as u64;
        garbage.extend(rewrite.iter().map(|(_, pack)| pack.id));
        self.report.condemned += garbage.len() as u64;
        if !self.options.dry_run {
            let core = self.core;
            index::for_each_parallel(garbage.clone(), |id| condemn(core, id)).await?;
        }
        Ok(garbage.len() as u64)
    }

    /// Copies the needed blobs of packs to new ones, and has these in an index. Answers the packs of which something
    /// is damaged: what cannot be verified is not copied.
    async fn copy(&self, look: &Look, packs: &[(u32, PackInfo)]) -> Result<HashSet<PackId>> {
        let mut damaged = HashSet::new();
        if packs.is_empty() {
            return Ok(damaged);
        }
        // An empty index: nothing that is there already is good enough.
        let known = Known::new(Arc::new(Index::default()));
        let options = self.options;
        let mut uploader =
            Uploader::new(self.core.clone(), known, options.limiter.clone(), options.cancel.clone());
        for (number, info) in packs {
            let Some(object) = self.core.store.find(&pack::name(info.id)).await? else {
                // Another collection was faster: it saved what was needed when it looked, or its writer will.
                damaged.insert(info.id);
                continue;
            };
            if !self.copy_pack(look, *number, info, &object, &mut uploader).await? {
                damaged.insert(info.id);
            }
        }
        uploader.finish().await?;
        Ok(damaged)
    }

    /// Whether all that is needed of one pack could be copied.
    async fn copy_pack(
        &self,
        look: &Look,
        number: u32,
        info: &PackInfo,
        object: &Bytes,
        uploader: &mut Uploader,
    ) -> Result<bool> {
        let Ok(record) = parse(self.core, info, object) else { return Ok(false) };
        let index = &look.view.index;
        let mut whole = true;
        for entry in &record.entries {
            let copies = index.copies(&entry.id);
            let here = |slot: usize| index.slots()[slot].pack == number;
            let needed = copies.clone().any(|slot| here(slot) && look.live.contains(slot))
                || info.condemned && Self::only_condemned(look, &copies);
            if !needed {
                continue;
            }
            let stored = &object[entry.offset as usize..(entry.offset + entry.len) as usize];
            if blob::decode(&self.core.keys, info.kind, &entry.id, stored).is_some() {
                uploader.add(info.kind, entry.id, stored).await?;
            } else {
                whole = false;
            }
        }
        Ok(whole)
    }

    /// Writes few index objects instead of many small, outdated or damaged ones.
    async fn merge_indexes(&mut self, look: &Look, gone: &HashSet<PackId>) -> Result<()> {
        let there = |id: &PackId| look.view.listed.contains_key(id) && !gone.contains(id);
        let mut replace: Vec<ObjectId> = Vec::new();
        let mut urgent = look.view.orphans.iter().any(|record| there(&record.id));
        for object in &look.view.objects {
            let alive = object.packs.iter().filter(|id| there(id)).count();
            let outdated = object.damaged || alive * 2 <= object.packs.len();
            urgent |= outdated;
            if outdated || alive < SMALL_INDEX {
                replace.push(object.id);
            }
        }
        if !urgent && replace.len() < ENOUGH_SMALL_INDEXES {
            return Ok(());
        }
        let mut seen = HashSet::new();
        let mut records: Vec<PackRecord> = Vec::new();
        let mut fresh = look.view.orphans.clone();
        for id in &replace {
            match index::read_object(self.core, *id).await {
                Ok(found) => fresh.extend(found.into_iter().flatten()),
                Err(error) if error.kind() == ErrorKind::Corrupt => {}
                Err(error) => return Err(error),
            }
            fresh.retain(|record| there(&record.id) && seen.insert(record.id));
            records.append(&mut fresh);
            while records.len() >= PACKS_PER_INDEX {
                index::write_object(self.core, &records.drain(..PACKS_PER_INDEX).collect::<Vec<_>>()).await?;
            }
        }
        fresh.retain(|record| there(&record.id) && seen.insert(record.id));
        records.append(&mut fresh);
        for records in records.chunks(PACKS_PER_INDEX) {
            index::write_object(self.core, records).await?;
        }
        for id in &replace {
            self.core.store.delete(&Kind::Index.name(*id)).await?;
        }
        self.report.indexes_merged += replace.len() as u64;
        Ok(())
    }

    /// Removes what writers that died left behind.
    async fn clear_leftovers(&mut self, look: &Look) -> Result<()> {
        let mut leftovers = Vec::new();
        let old = |modified: i64| modified.saturating_add(PENDING_FOR) <= self.now;
        leftovers.extend(
            look.roots
                .pending
                .iter()
                .filter(|(_, modified)| old(*modified))
                .map(|(b, _)| Kind::Pending.name(b.id)),
        );
        let abandoned = |renewed: i64| renewed.saturating_add(ABANDONED_AFTER) <= self.now;
        let held = look.roots.held.iter().filter(|(_, _, renewed)| abandoned(*renewed));
        leftovers.extend(held.map(|(hold, ..)| Kind::Hold.name(hold)));
        // What nobody can read keeps nothing either. A damaged backup does not come this far.
        leftovers.extend(
            look.roots
                .damaged
                .iter()
                .filter(|(_, modified, _)| old(*modified))
                .map(|(name, ..)| name.clone()),
        );
        leftovers.extend(look.sessions.iter().filter(|s| old(s.renewed)).map(|session| session.name.clone()));
        let backups: HashSet<String> =
            look.roots.backups.iter().map(|backup| Kind::Labels.name(backup.id)).collect();
        let labels = self.core.store.list(Kind::Labels.folder()).await?;
        leftovers.extend(
            labels
                .into_iter()
                .filter(|o| old(o.modified) && !backups.contains(&o.name))
                .map(|object| object.name),
        );
        self.report.leftovers += leftovers.len() as u64;
        for name in leftovers {
            self.core.store.delete(&name).await?;
        }
        self.report.freed_bytes += self.core.store.remove_litter(self.options.keep_unreferenced).await?;
        Ok(())
    }
}

/// The error, naming the backups that its cause does.
fn hurting(error: Error, cause: &Error) -> Error {
    cause.backups().iter().fold(error, |error, id| error.hurting(*id))
}

/// Marks a pack.
pub(crate) async fn condemn(core: &Core, id: PackId) -> Result<()> {
    let name = Kind::Condemned.name(id);
    core.store.put(&name, envelope::seal(&core.keys, Kind::Condemned, &name, b"{}")?).await
}

/// What a whole pack says of itself.
pub(crate) fn parse(core: &Core, info: &PackInfo, object: &[u8]) -> Result<PackRecord> {
    let size = object.len() as u64;
    let kind = pack::parse_header(&core.keys, info.id, object)?;
    let tail = object.len() - pack::tail_size(info.id, size, object)?;
    pack::parse_tail(&core.keys, info.id, kind, size, &object[tail..])
}
