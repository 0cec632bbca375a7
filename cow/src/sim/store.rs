//! What the simulated disk holds: the durable image, what is on its way there, and what a power loss makes of both.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Rng, SECTOR_BYTES};

pub(super) const PAGE_BYTES: usize = 4096;
pub(super) const PAGE_SIZE: u64 = PAGE_BYTES as u64;

/// Shared between the images before and after a crash, so that a crash copies only what it changes.
pub(super) type Page = Arc<[u8; PAGE_BYTES]>;

/// Pages of a [`Chunk`].
const CHUNK_PAGES: u64 = 64;

type Chunk = [Option<Page>; CHUNK_PAGES as usize];

/// Pages by their numbers. A copy shares them in chunks, so that it takes next to nothing: most of them are only looked at.
#[derive(Clone, Default)]
struct Pages(BTreeMap<u64, Arc<Chunk>>);

impl Pages {
    fn get(&self, page: u64) -> Option<&Page> {
        self.0.get(&(page / CHUNK_PAGES))?[(page % CHUNK_PAGES) as usize].as_ref()
    }

    fn place(&mut self, page: u64) -> &mut Option<Page> {
        let chunk = self.0.entry(page / CHUNK_PAGES).or_insert_with(|| Arc::new([const { None }; _]));
        &mut Arc::make_mut(chunk)[(page % CHUNK_PAGES) as usize]
    }

    fn insert(&mut self, page: u64, contents: Page) {
        *self.place(page) = Some(contents);
    }

    /// Only the pages below this one stay.
    fn cut(&mut self, end: u64) {
        self.0.split_off(&end.div_ceil(CHUNK_PAGES));
        if !end.is_multiple_of(CHUNK_PAGES)
            && let Some(last) = self.0.get_mut(&(end / CHUNK_PAGES))
        {
            let beyond = (end % CHUNK_PAGES) as usize..;
            if last[beyond.clone()].iter().any(Option::is_some) {
                Arc::make_mut(last)[beyond].fill(None);
            }
        }
    }

    /// The numbers of all there are, in order.
    fn numbers(&self) -> impl Iterator<Item = u64> {
        self.0.iter().flat_map(|(chunk, pages)| {
            (chunk * CHUNK_PAGES..).zip(pages.iter()).filter(|(_, page)| page.is_some()).map(|(at, _)| at)
        })
    }
}

/// One unsynced write of a page, in the order of completion.
#[derive(Clone)]
struct Version {
    seq: u64,
    page: Page,
    /// A sync covered it and failed: no later one will make it durable.
    abandoned: bool,
}

/// Invariant: the versions of a page are all newer than its durable contents, and sorted by `seq`.
#[derive(Clone, Default)]
pub(super) struct Store {
    durable: Pages,
    unsynced: BTreeMap<u64, Vec<Version>>,
    durable_len: u64,
    /// Unsynced growths: completion and length.
    growths: Vec<(u64, u64)>,
    next_seq: u64,
}

/// A write that a crash cuts off.
pub(super) struct InFlight {
    pub(super) page: u64,
    pub(super) contents: Page,
}

/// How a crash treats what was not synced. Pure chaos alone would hardly ever leave a long run of writes whole, and
/// so never reach the states in which much survived.
enum Loss {
    Everything,
    /// All completed writes made it, those in flight by chance.
    OnlyInFlight,
    /// Whole pages, by this chance of 8.
    Pages(u64),
    /// Sectors, by this chance of 8; one in so many is garbage.
    Sectors(u64, u64),
    /// What completed before this point of time made it, nothing after it.
    After(u64),
    /// What completed before this point of time is lost, everything after it made it.
    Before(u64),
}

impl Store {
    pub(super) fn with_len(len: u64) -> Store {
        Store { durable_len: len, ..Store::default() }
    }

    pub(super) fn len(&self) -> u64 {
        self.growths.last().map_or(self.durable_len, |&(_, len)| len)
    }

    /// The number of the next completion: what completed so far has a smaller one.
    pub(super) fn now(&self) -> u64 {
        self.next_seq
    }

    fn tick(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq - 1
    }

    pub(super) fn page(&self, page: u64) -> Option<&Page> {
        self.unsynced.get(&page).and_then(|v| v.last()).map(|v| &v.page).or_else(|| self.durable.get(page))
    }

    pub(super) fn write(&mut self, page: u64, contents: Page) {
        let seq = self.tick();
        self.unsynced.entry(page).or_default().push(Version { seq, page: contents, abandoned: false });
    }

    pub(super) fn grow(&mut self, len: u64) {
        if len > self.len() {
            let seq = self.tick();
            self.growths.push((seq, len));
        }
    }

    /// Everything completed before `covered` is durable, but for what an earlier failure abandoned.
    pub(super) fn barrier(&mut self, covered: u64) {
        let durable = &mut self.durable;
        self.unsynced.retain(|&page, versions| {
            if let Some(last) = versions.iter().rposition(|v| v.seq < covered && !v.abandoned) {
                durable.insert(page, Arc::clone(&versions[last].page));
                versions.drain(..=last);
            }
            !versions.is_empty()
        });
        let done = self.growths.partition_point(|&(seq, _)| seq < covered);
        if let Some((_, len)) = self.growths.drain(..done).next_back() {
            self.durable_len = len;
        }
    }

    /// A sync of everything completed before `covered` failed.
    pub(super) fn abandon(&mut self, covered: u64) {
        for version in self.unsynced.values_mut().flatten() {
            if version.seq < covered {
                version.abandoned = true;
            }
        }
    }

    /// Changes what is stored, wherever it is stored, behind the disk's back.
    pub(super) fn damage(&mut self, page: u64, change: impl Fn(&mut [u8; PAGE_BYTES])) {
        let durable = self.durable.place(page).get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
        change(Arc::make_mut(durable));
        for version in self.unsynced.get_mut(&page).into_iter().flatten() {
            change(Arc::make_mut(&mut version.page));
        }
    }

    /// Pages that hold anything, in order.
    pub(super) fn stored_pages(&self) -> Vec<u64> {
        let mut pages: Vec<u64> = self.durable.numbers().chain(self.unsynced.keys().copied()).collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    pub(super) fn truncate(&mut self, len: u64) {
        let pages = len.div_ceil(PAGE_SIZE);
        self.durable.cut(pages);
        self.unsynced.split_off(&pages);
        self.growths.clear();
        self.durable_len = len.min(self.durable_len);
    }

    /// How many pages hold something that a crash may lose.
    pub(super) fn unsynced_pages(&self) -> usize {
        self.unsynced.len()
    }

    /// The image after the power failed; `grow` is the length of a growth in flight.
    pub(super) fn crash(&self, in_flight: &[InFlight], grow: Option<u64>, rng: &mut Rng) -> Store {
        let loss = match rng.below(8) {
            0 => Loss::Everything,
            1 => Loss::OnlyInFlight,
            2 => Loss::Pages(1 + rng.below(7)),
            3 | 4 => Loss::Sectors(1 + rng.below(7), if rng.chance(1, 3) { 2 } else { 32 }),
            5 | 6 => Loss::After(self.some_time(rng)),
            _ => Loss::Before(self.some_time(rng)),
        };
        let mut candidates: BTreeMap<u64, Vec<&Version>> =
            self.unsynced.iter().map(|(page, versions)| (*page, versions.iter().collect())).collect();
        let cut_off: Vec<Version> = in_flight
            .iter()
            .map(|w| Version { seq: u64::MAX, page: Arc::clone(&w.contents), abandoned: false })
            .collect();
        for (write, version) in in_flight.iter().zip(&cut_off) {
            candidates.entry(write.page).or_default().push(version);
        }
        let durable_len = self.len_after_crash(&loss, grow, rng);
        let mut durable = self.durable.clone();
        for (page, versions) in candidates {
            let old = self.durable.get(page);
            if let Some(survivor) = surviving_page(&loss, old, &versions, rng) {
                durable.insert(page, survivor);
            }
        }
        durable.cut(durable_len.div_ceil(PAGE_SIZE));
        Store { durable, durable_len, ..Store::default() }
    }

    /// How many changes [`Store::crash_keeping`] asks about.
    pub(super) fn unsynced_changes(&self, in_flight: &[InFlight], grow: Option<u64>) -> usize {
        let written = self.unsynced.values().map(Vec::len).sum::<usize>();
        self.growths.len() + usize::from(grow.is_some()) + written + in_flight.len()
    }

    /// The image after the power failed, with the changes that `keep` wants; it is asked with the number of each: growths
    /// first, then writes in the order of their pages, then those in flight.
    pub(super) fn crash_keeping(
        &self,
        in_flight: &[InFlight],
        grow: Option<u64>,
        mut keep: impl FnMut(usize) -> bool,
    ) -> Store {
        let mut numbers = 0..;
        let mut keep = || numbers.next().is_some_and(&mut keep);
        let growths = self.growths.iter().map(|&(_, len)| len).chain(grow);
        let durable_len = growths.filter(|_| keep()).max().unwrap_or(self.durable_len);
        let mut durable = self.durable.clone();
        let written =
            self.unsynced.iter().flat_map(|(page, versions)| versions.iter().map(|v| (*page, &v.page)));
        for (page, contents) in written.chain(in_flight.iter().map(|write| (write.page, &write.contents))) {
            if keep() {
                durable.insert(page, Arc::clone(contents));
            }
        }
        durable.cut(durable_len.div_ceil(PAGE_SIZE));
        Store { durable, durable_len, ..Store::default() }
    }

    /// A point of time among the unsynced completions, or just after them.
    fn some_time(&self, rng: &mut Rng) -> u64 {
        let first = self.unsynced.values().flatten().map(|v| v.seq).min().unwrap_or(self.next_seq);
        first + rng.below(self.next_seq - first + 1)
    }

    fn len_after_crash(&self, loss: &Loss, grow: Option<u64>, rng: &mut Rng) -> u64 {
        let unsynced = self.growths.iter().copied().chain(grow.map(|len| (u64::MAX, len)));
        match *loss {
            Loss::Everything => self.durable_len,
            Loss::After(time) => {
                unsynced.filter(|&(seq, _)| seq < time).map(|(_, len)| len).max().unwrap_or(self.durable_len)
            }
            Loss::OnlyInFlight | Loss::Pages(_) | Loss::Sectors(..) | Loss::Before(_) => {
                let kept: Vec<u64> =
                    std::iter::once(self.durable_len).chain(unsynced.map(|(_, l)| l)).collect();
                kept[rng.index(kept.len())]
            }
        }
    }

    /// The image after the process died: what completed stays, what was in flight may have been carried out.
    pub(super) fn kill(&self, in_flight: &[InFlight], grow: Option<u64>, rng: &mut Rng) -> Store {
        let mut after = self.clone();
        for write in in_flight {
            if rng.chance(1, 2) {
                after.write(write.page, Arc::clone(&write.contents));
            }
        }
        if let Some(len) = grow.filter(|_| rng.chance(1, 2)) {
            after.grow(len);
        }
        after
    }
}

/// What is left of a page with unsynced versions; `None` keeps the durable contents.
fn surviving_page(loss: &Loss, old: Option<&Page>, versions: &[&Version], rng: &mut Rng) -> Option<Page> {
    let newest = |keep: &mut dyn FnMut(&Version) -> bool| {
        versions.iter().rev().find(|v| keep(v)).map(|v| Arc::clone(&v.page))
    };
    match *loss {
        Loss::Everything => None,
        Loss::OnlyInFlight => newest(&mut |v| v.seq != u64::MAX || rng.chance(1, 2)),
        Loss::Pages(chance) => newest(&mut |_| rng.chance(chance, 8)),
        Loss::After(time) => newest(&mut |v| v.seq < time),
        Loss::Before(time) => newest(&mut |v| v.seq >= time && (v.seq != u64::MAX || rng.chance(1, 2))),
        Loss::Sectors(chance, garbage) => {
            let mut torn = old.map_or([0; PAGE_BYTES], |page| **page);
            for (index, sector) in torn.chunks_exact_mut(SECTOR_BYTES).enumerate() {
                if rng.chance(1, garbage) {
                    rng.fill(sector);
                } else if let Some(v) = versions.iter().rev().find(|_| rng.chance(chance, 8)) {
                    sector.copy_from_slice(&v.page[index * SECTOR_BYTES..][..SECTOR_BYTES]);
                }
            }
            Some(Arc::new(torn))
        }
    }
}
