//! The simulated disk: operations wait until the scheduler completes them, and a crash may come at any time.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::fault::{Effect, Fault, Op};
use super::store::{InFlight, PAGE_BYTES, PAGE_SIZE, Page, Store};
use super::{Rng, SECTOR_BYTES};
use crate::{Buf, Disk, Survivor};

/// What fresh buffers hold, so that code that forgets to fill one is noticed.
const POISON: u8 = 0xdb;
const EINVAL: i32 = 22;

/// Memory for the simulated disk's I/O. It knows where in its allocation it starts, so that I/O on memory that a
/// real disk would refuse for its alignment is refused here, too.
#[derive(Debug)]
pub struct SimBuf {
    memory: Memory,
    start: usize,
}

#[derive(Debug)]
enum Memory {
    Bytes(Vec<u8>),
    /// Shared with the disk, and perhaps others, until it is changed: most I/O is of one page, and most pages are only looked at.
    Page(Page),
}

thread_local! {
    static POISONED: Page = Arc::new([POISON; PAGE_BYTES]);
}

impl Deref for SimBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Bytes(bytes) => bytes,
            Memory::Page(page) => &**page,
        }
    }
}

impl DerefMut for SimBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Bytes(bytes) => bytes,
            Memory::Page(page) => &mut Arc::make_mut(page)[..],
        }
    }
}

impl Buf for SimBuf {
    fn split_off(&mut self, at: usize) -> SimBuf {
        SimBuf { memory: Memory::Bytes(self.bytes().split_off(at)), start: self.start + at }
    }

    fn join(&mut self, next: SimBuf) {
        assert_eq!(self.start + self.len(), next.start, "only a piece that was split off here can be joined");
        self.bytes().extend_from_slice(&next);
    }
}

impl SimBuf {
    fn new(len: usize) -> SimBuf {
        let memory = match len {
            PAGE_BYTES => Memory::Page(POISONED.with(Arc::clone)),
            _ => Memory::Bytes(vec![POISON; len]),
        };
        SimBuf { memory, start: 0 }
    }

    /// Memory whose length can change.
    fn bytes(&mut self) -> &mut Vec<u8> {
        if let Memory::Page(page) = &self.memory {
            self.memory = Memory::Bytes(page.to_vec());
        }
        match &mut self.memory {
            Memory::Bytes(bytes) => bytes,
            Memory::Page(_) => unreachable!("it has just become bytes"),
        }
    }

    fn suits_direct_io(&self) -> bool {
        self.start.is_multiple_of(PAGE_BYTES) && self.len().is_multiple_of(PAGE_BYTES)
    }

    /// What it holds, in pages.
    fn pages(&self) -> impl Iterator<Item = Page> {
        let (page, bytes) = match &self.memory {
            Memory::Bytes(bytes) => (None, &**bytes),
            Memory::Page(page) => (Some(Arc::clone(page)), &[][..]),
        };
        page.into_iter().chain(bytes.chunks_exact(PAGE_BYTES).map(|bytes| {
            let mut page = [0; PAGE_BYTES];
            page.copy_from_slice(bytes);
            Arc::new(page)
        }))
    }
}

/// How many operations have completed, failed ones included, and what they moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Barriers.
    pub syncs: u64,
    /// Growths.
    pub grows: u64,
    /// Bytes that the reads asked for.
    pub bytes_read: u64,
    /// Bytes that the writes carried.
    pub bytes_written: u64,
}

/// A handle to a simulated disk; clones are the same disk. See [`super`] for what it may do to its data.
///
/// By itself it completes every operation at once. Attached to a [`super::Sim`], operations wait for the scheduler.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    store: Store,
    /// What [`Disk::grow`] can reach.
    limit: u64,
    /// It says of all space that it was never written.
    always_new: bool,
    power: Power,
    pending: Vec<Pending>,
    faults: Vec<Fault>,
    /// Operations that a fault has hit.
    hits: u64,
    syncs_failed: u64,
    counts: Counts,
    last_written: Range<u64>,
    rng: Rng,
    slow_share: u64,
    survivor: SharedSurvivor,
    /// There is memory that outlives the process.
    survives: bool,
    /// Stores to that memory until the process dies, and by what chance the disk's writes are carried out then.
    death: Option<(u64, Rng)>,
}

/// What is to be done with a disk whose process has died.
type AtDeath = Box<dyn FnOnce(SimDisk)>;

thread_local! {
    /// That of the one death on this thread that was asked for last; a disk can be sent, what is done with it need not be.
    static AT_DEATH: Cell<Option<AtDeath>> = const { Cell::new(None) };
}

/// What outlives the process: pages, of which those without a page are zeroes; none until somebody asks for them. Those that died
/// at different moments share what is alike.
type SharedSurvivor = Arc<Mutex<Vec<Option<Page>>>>;

struct SimSurvivor {
    pages: SharedSurvivor,
    disk: Weak<Mutex<State>>,
}

impl SimSurvivor {
    /// Something is about to be stored: perhaps the process dies before that.
    fn pass_death(&self) {
        let Some(disk) = self.disk.upgrade() else { return };
        let mut state = disk.lock();
        let dead = match state.death.take() {
            Some((0, mut rng)) => state.kill(&mut rng),
            others => {
                state.death = others.map(|(stores, rng)| (stores - 1, rng));
                return;
            }
        };
        drop(state);
        if let Some(at_death) = AT_DEATH.take() {
            at_death(dead);
        }
    }
}

impl Survivor for SimSurvivor {
    fn load(&self, at: usize, into: &mut [u8]) {
        let pages = self.pages.lock();
        for (page, within, range) in pieces(at as u64, into.len()) {
            let into = &mut into[range];
            match &pages[page as usize] {
                Some(page) => into.copy_from_slice(&page[within..within + into.len()]),
                None => into.fill(0),
            }
        }
    }

    fn store(&mut self, at: usize, bytes: &[u8]) {
        self.pass_death();
        let mut pages = self.pages.lock();
        for (page, within, range) in pieces(at as u64, bytes.len()) {
            let piece = &bytes[range];
            let page = pages[page as usize].get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(page)[within..within + piece.len()].copy_from_slice(piece);
        }
    }

    fn zero(&mut self, len: usize) {
        self.pass_death();
        let mut pages = self.pages.lock();
        assert_eq!(len.div_ceil(PAGE_BYTES), pages.len(), "all of it becomes zeroes");
        pages.fill(None);
    }

    fn discard(self: Box<Self>) {
        self.pages.lock().clear();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Power {
    /// Operations complete when they are first polled.
    Immediate,
    /// Operations wait for the scheduler.
    Scheduled,
    /// No operation completes any more.
    Off,
}

enum Work {
    Read {
        offset: u64,
        buf: SimBuf,
    },
    Write {
        offset: u64,
        bufs: Vec<SimBuf>,
    },
    /// Covers what had completed before this point of the store's time.
    Sync {
        covered: u64,
    },
    Grow {
        len: u64,
    },
}

struct Outcome {
    result: io::Result<()>,
    bufs: Vec<SimBuf>,
}

#[derive(Default)]
struct Slot {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

/// An operation that was issued. It owns its memory, also when whoever asked for it went away.
struct Pending {
    work: Work,
    slot: Arc<Mutex<Slot>>,
    /// It takes very long.
    slow: bool,
}

/// Of so many operations, [`SimDisk::schedule`] says how many take very long.
const SLOW_OF: u64 = 64;

/// How many operations wait for the scheduler.
#[derive(Clone, Copy, Default)]
pub(super) struct Waiting {
    pub(super) quick: usize,
    pub(super) slow: usize,
}

impl SimDisk {
    /// An empty file on a file system that has room for `room` bytes.
    pub fn file(room: u64) -> SimDisk {
        SimDisk::holding(Store::default(), room)
    }

    /// A device of `len` bytes, all zeroes; it cannot grow.
    pub fn device(len: u64) -> SimDisk {
        SimDisk::holding(Store::with_len(len), len)
    }

    fn holding(store: Store, limit: u64) -> SimDisk {
        let state = State {
            store,
            limit,
            always_new: false,
            power: Power::Immediate,
            pending: Vec::new(),
            faults: Vec::new(),
            hits: 0,
            syncs_failed: 0,
            counts: Counts::default(),
            last_written: 0..0,
            rng: Rng::new(0),
            slow_share: 0,
            survivor: SharedSurvivor::default(),
            survives: true,
            death: None,
        };
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// The disk after a power loss at this moment; this handle's disk stays as it is. Faults do not carry over.
    pub fn crash(&self, rng: &mut Rng) -> SimDisk {
        let state = self.state.lock();
        state.again_with(state.store.crash(&state.in_flight(), state.growth_in_flight(), rng))
    }

    /// How many writes to pages, and growths, a power loss may take away now.
    pub fn unsynced_changes(&self) -> usize {
        let state = self.state.lock();
        state.store.unsynced_changes(&state.in_flight(), state.growth_in_flight())
    }

    /// The disk after a power loss at this moment of which `keep` says, for each of the [`SimDisk::unsynced_changes`],
    /// whether it has reached the disk, whole.
    pub fn crash_keeping(&self, keep: impl FnMut(usize) -> bool) -> SimDisk {
        let state = self.state.lock();
        state.again_with(state.store.crash_keeping(&state.in_flight(), state.growth_in_flight(), keep))
    }

    /// The disk after the death of the process that used it, with the memory that outlives that. Faults do not carry
    /// over.
    pub fn kill(&self, rng: &mut Rng) -> SimDisk {
        self.state.lock().kill(rng)
    }

    /// Once so much more was stored in the memory that outlives the process, gives `at_death` the disk as it would be had the
    /// process died before it stores more, in the middle of whatever it does then. This handle's disk goes on. For one disk
    /// of a thread at a time.
    pub fn if_it_died_after(&self, stores: u64, rng: Rng, at_death: impl FnOnce(SimDisk) + 'static) {
        self.state.lock().death = Some((stores, rng));
        AT_DEATH.set(Some(Box::new(at_death)));
    }

    /// What outlived the process is now what `other` has of it, as if this disk had been used meanwhile by a process that
    /// could not reach it.
    pub fn remember(&self, other: &SimDisk) {
        let theirs = other.state.lock().survivor.lock().clone();
        *self.state.lock().survivor.lock() = theirs;
    }

    /// The bytes that the last write to complete was for.
    pub fn last_written(&self) -> Range<u64> {
        self.state.lock().last_written.clone()
    }

    /// Whether a barrier was asked for that has not ended.
    pub fn is_syncing(&self) -> bool {
        self.state.lock().pending.iter().any(|pending| matches!(pending.work, Work::Sync { .. }))
    }

    /// From now on there is no memory that outlives the process, as on a host that gives none.
    pub fn forget_all(&self) {
        let mut state = self.state.lock();
        state.survives = false;
        state.survivor.lock().clear();
    }

    /// From now on it says of all of its space that it was never written.
    pub fn be_always_new(&self) {
        self.state.lock().always_new = true;
    }

    /// Adds a rule; of several that fit an operation the first injected one wins.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// From now on the disk behaves.
    pub fn clear_faults(&self) {
        self.state.lock().faults.clear();
    }

    /// Does something, all of it before anything else, while the disk behaves; its rules come back as they were.
    pub fn without_faults<T>(&self, work: impl FnOnce() -> T) -> T {
        let faults = std::mem::take(&mut self.state.lock().faults);
        let done = work();
        self.state.lock().faults = faults;
        done
    }

    /// How many barriers have failed so far.
    pub fn syncs_failed(&self) -> u64 {
        self.state.lock().syncs_failed
    }

    /// How many operations a fault has hit so far.
    pub fn faults_hit(&self) -> u64 {
        self.state.lock().hits
    }

    /// Changes how far the disk can grow: the file system's free space.
    pub fn set_room(&self, bytes: u64) {
        self.state.lock().limit = bytes;
    }

    /// Flips bit `bit` (0-7) of the byte at `offset`, wherever that byte is stored.
    pub fn flip_bit(&self, offset: u64, bit: u8) {
        let within = (offset % PAGE_SIZE) as usize;
        self.state.lock().store.damage(offset / PAGE_SIZE, |page| page[within] ^= 1 << (bit % 8));
    }

    /// Overwrites what is stored at `offset`, behind the disk's back and durably.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.state.lock();
        for (page, within, range) in pieces(offset, bytes.len()) {
            let piece = &bytes[range];
            state.store.damage(page, |p| p[within..within + piece.len()].copy_from_slice(piece));
        }
    }

    /// What a read would see now, without counting as one; zeroes past the end.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let state = self.state.lock();
        let mut out = vec![0; len];
        for (page, within, range) in pieces(offset, len) {
            if let Some(stored) = state.store.page(page) {
                let piece = &mut out[range];
                piece.copy_from_slice(&stored[within..within + piece.len()]);
            }
        }
        out
    }

    /// The pages of [`BLOCK_BYTES`](crate::BLOCK_BYTES) that hold anything, in order.
    pub fn stored_pages(&self) -> Vec<u64> {
        self.state.lock().store.stored_pages()
    }

    /// Cuts the disk off at `len` bytes, durably.
    pub fn truncate(&self, len: u64) {
        self.state.lock().store.truncate(len);
    }

    /// What has been done so far.
    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// How many 4096-byte pages hold something that a power loss may take away.
    pub fn unsynced_pages(&self) -> usize {
        self.state.lock().store.unsynced_pages()
    }

    /// Operations now wait for a scheduler, and the disk's own choices follow `rng`; of 64 operations so many take very long.
    pub(super) fn schedule(&self, rng: Rng, slow_share: u64) {
        let mut state = self.state.lock();
        state.power = Power::Scheduled;
        state.rng = rng;
        state.slow_share = slow_share;
    }

    /// No operation completes any more; those in flight stay so.
    pub(super) fn power_off(&self) {
        self.state.lock().power = Power::Off;
    }

    /// How many operations wait for [`SimDisk::complete`].
    pub(super) fn waiting(&self) -> Waiting {
        let state = self.state.lock();
        if state.power != Power::Scheduled {
            return Waiting::default();
        }
        let slow = state.pending.iter().filter(|pending| pending.slow).count();
        Waiting { quick: state.pending.len() - slow, slow }
    }

    /// Carries out the waiting operation at `index` of the slow or of the quick ones, in order of issue.
    pub(super) fn complete(&self, index: usize, slow: bool) {
        let mut state = self.state.lock();
        let mut places = (0..state.pending.len()).filter(|&at| state.pending[at].slow == slow);
        let at = places.nth(index).unwrap_or_else(|| unreachable!("the scheduler counted them"));
        let Pending { work, slot, .. } = state.pending.remove(at);
        let outcome = state.carry_out(work);
        drop(state);
        let mut slot = slot.lock();
        slot.outcome = Some(outcome);
        let waker = slot.waker.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn operation(&self, work: impl FnOnce(&State) -> Work) -> Operation<'_, impl FnOnce(&State) -> Work> {
        Operation { disk: self, stage: Stage::New(Some(work)) }
    }
}

impl Disk for SimDisk {
    type Buf = SimBuf;

    fn alloc(&self, len: usize) -> SimBuf {
        SimBuf::new(len)
    }

    async fn read(&self, offset: u64, buf: SimBuf) -> (io::Result<()>, SimBuf) {
        let mut outcome = self.operation(move |_| Work::Read { offset, buf }).await;
        let buf = outcome.bufs.pop().unwrap_or_else(|| unreachable!("a read returns its buffer"));
        (outcome.result, buf)
    }

    async fn write(&self, offset: u64, bufs: Vec<SimBuf>) -> (io::Result<()>, Vec<SimBuf>) {
        let outcome = self.operation(move |_| Work::Write { offset, bufs }).await;
        (outcome.result, outcome.bufs)
    }

    async fn sync(&self) -> io::Result<()> {
        self.operation(|state| Work::Sync { covered: state.store.now() }).await.result
    }

    async fn grow(&self, len: u64) -> io::Result<()> {
        self.operation(move |_| Work::Grow { len }).await.result
    }

    fn unwritten(&self, range: Range<u64>) -> Option<Range<u64>> {
        self.state.lock().always_new.then_some(range)
    }

    fn survivor(&self, len: usize) -> Option<Box<dyn Survivor>> {
        let state = self.state.lock();
        if !state.survives {
            return None;
        }
        let shared = Arc::clone(&state.survivor);
        shared.lock().resize(len.div_ceil(PAGE_BYTES), None);
        Some(Box::new(SimSurvivor { pages: shared, disk: Arc::downgrade(&self.state) }))
    }

    fn len(&self) -> u64 {
        self.state.lock().store.len()
    }
}

enum Stage<F> {
    /// Not issued: it will be when first polled.
    New(Option<F>),
    Issued(Arc<Mutex<Slot>>),
}

struct Operation<'a, F> {
    disk: &'a SimDisk,
    stage: Stage<F>,
}

impl<F> Unpin for Operation<'_, F> {}

impl<F: FnOnce(&State) -> Work> Future for Operation<'_, F> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let disk = self.disk;
        match &mut self.stage {
            Stage::New(work) => {
                let work = work.take().unwrap_or_else(|| unreachable!("polled after completion"));
                let mut state = disk.state.lock();
                let work = work(&state);
                if state.power == Power::Immediate {
                    return Poll::Ready(state.carry_out(work));
                }
                state.assert_alone(&work);
                let slot = Arc::new(Mutex::new(Slot { outcome: None, waker: Some(cx.waker().clone()) }));
                let share = state.slow_share;
                let slow = share > 0 && state.rng.chance(share, SLOW_OF);
                state.pending.push(Pending { work, slot: Arc::clone(&slot), slow });
                drop(state);
                self.stage = Stage::Issued(slot);
                Poll::Pending
            }
            Stage::Issued(slot) => {
                let mut slot = slot.lock();
                match slot.outcome.take() {
                    Some(outcome) => Poll::Ready(outcome),
                    None => {
                        slot.waker = Some(cx.waker().clone());
                        Poll::Pending
                    }
                }
            }
        }
    }
}

impl State {
    /// The same disk, with what is left of its contents.
    fn again_with(&self, store: Store) -> SimDisk {
        let disk = SimDisk::holding(store, self.limit);
        disk.state.lock().always_new = self.always_new;
        disk
    }

    /// The disk after the death of the process.
    fn kill(&self, rng: &mut Rng) -> SimDisk {
        let killed = self.again_with(self.store.kill(&self.in_flight(), self.growth_in_flight(), rng));
        killed.state.lock().survivor.lock().clone_from(&self.survivor.lock());
        killed
    }

    /// The engine writes nothing to a place while anything else reads or writes there: blocks come back into use when nobody
    /// has anything to do with them any more. Most of the harm that breaking this does takes further accidents to be seen.
    fn assert_alone(&self, work: &Work) {
        let (op, touched) = work.target();
        for pending in &self.pending {
            let (other, taken) = pending.work.target();
            // What a read brings that nobody waits for any more does no harm.
            let awaited = other == Op::Write || Arc::strong_count(&pending.slot) > 1;
            let meet = touched.start < taken.end && taken.start < touched.end;
            let harmful = matches!((op, other), (Op::Write, Op::Read | Op::Write) | (Op::Read, Op::Write));
            assert!(
                !(meet && harmful && awaited),
                "{op:?} of bytes {touched:?} of the disk while a {other:?} of {taken:?} is under way"
            );
        }
    }

    fn carry_out(&mut self, work: Work) -> Outcome {
        self.count(&work);
        let (op, touched) = work.target();
        let effect = self.faults.iter_mut().find_map(|fault| fault.hit(op, &touched));
        self.hits += u64::from(effect.is_some());
        match work {
            Work::Read { offset, mut buf } => {
                let result = self.read(offset, &mut buf, effect);
                Outcome { result, bufs: vec![buf] }
            }
            Work::Write { offset, bufs } => {
                let result = self.write(offset, &bufs, effect);
                Outcome { result, bufs }
            }
            Work::Sync { covered } => Outcome { result: self.sync(covered, effect), bufs: Vec::new() },
            Work::Grow { len } => Outcome { result: self.grow(len, effect), bufs: Vec::new() },
        }
    }

    fn count(&mut self, work: &Work) {
        let counts = &mut self.counts;
        match work {
            Work::Read { buf, .. } => {
                counts.reads += 1;
                counts.bytes_read += buf.len() as u64;
            }
            Work::Write { bufs, .. } => {
                counts.writes += 1;
                counts.bytes_written += total(bufs);
            }
            Work::Sync { .. } => counts.syncs += 1,
            Work::Grow { .. } => counts.grows += 1,
        }
    }

    fn read(&mut self, offset: u64, buf: &mut SimBuf, effect: Option<Effect>) -> io::Result<()> {
        if let Some(error) = effect.and_then(Effect::error) {
            return Err(error);
        }
        if !offset.is_multiple_of(PAGE_SIZE) || !buf.suits_direct_io() {
            return Err(io::Error::from_raw_os_error(EINVAL));
        }
        let offset = match effect {
            Some(Effect::Lose) => return Ok(()),
            Some(Effect::Misdirect(bytes)) => offset.saturating_add_signed(bytes),
            _ => offset,
        };
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.store.len()) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "read past the end of the disk"));
        }
        if let (Memory::Page(page), true) = (&mut buf.memory, effect != Some(Effect::Flip)) {
            match self.store.page(offset / PAGE_SIZE) {
                Some(stored) => page.clone_from(stored),
                None => Arc::make_mut(page).fill(0),
            }
            return Ok(());
        }
        for (page, chunk) in (offset / PAGE_SIZE..).zip(buf.chunks_exact_mut(PAGE_BYTES)) {
            match self.store.page(page) {
                Some(stored) => chunk.copy_from_slice(&**stored),
                None => chunk.fill(0),
            }
        }
        if effect == Some(Effect::Flip) && !buf.is_empty() {
            let at = self.rng.index(buf.len());
            buf[at] ^= 1 << self.rng.below(8);
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, bufs: &[SimBuf], effect: Option<Effect>) -> io::Result<()> {
        if !offset.is_multiple_of(PAGE_SIZE) || !bufs.iter().all(SimBuf::suits_direct_io) {
            return Err(io::Error::from_raw_os_error(EINVAL));
        }
        let offset = match effect {
            Some(Effect::Lose) => return Ok(()),
            Some(Effect::Misdirect(bytes)) => offset.saturating_add_signed(bytes),
            _ => offset,
        };
        // A real file would grow; the engine never means that.
        if offset.checked_add(total(bufs)).is_none_or(|end| end > self.store.len()) {
            return Err(io::Error::other("write past the end of the disk"));
        }
        self.last_written = offset..offset + total(bufs);
        let error = effect.and_then(Effect::error);
        for (page, written) in (offset / PAGE_SIZE..).zip(bufs.iter().flat_map(SimBuf::pages)) {
            let contents = if error.is_some() {
                let mut torn = self.store.page(page).map_or([0; PAGE_BYTES], |stored| **stored);
                mix(&mut torn, &*written, &mut self.rng);
                Arc::new(torn)
            } else {
                written
            };
            self.store.write(page, contents);
        }
        error.map_or(Ok(()), Err)
    }

    fn sync(&mut self, covered: u64, effect: Option<Effect>) -> io::Result<()> {
        match effect {
            Some(Effect::Error(errno)) => {
                self.store.abandon(covered);
                self.syncs_failed += 1;
                Err(io::Error::from_raw_os_error(errno))
            }
            Some(Effect::Lose | Effect::Misdirect(_)) => Ok(()),
            Some(Effect::Flip) | None => {
                self.store.barrier(covered);
                Ok(())
            }
        }
    }

    fn grow(&mut self, len: u64, effect: Option<Effect>) -> io::Result<()> {
        match effect {
            Some(Effect::Error(errno)) => return Err(io::Error::from_raw_os_error(errno)),
            Some(Effect::Lose | Effect::Misdirect(_)) => return Ok(()),
            Some(Effect::Flip) | None => {}
        }
        if len > self.limit.max(self.store.len()) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left for the disk to grow"));
        }
        self.store.grow(len);
        Ok(())
    }

    /// Every page that a write in flight would change, in order of issue.
    fn in_flight(&self) -> Vec<InFlight> {
        let mut all = Vec::new();
        for pending in &self.pending {
            let Work::Write { offset, bufs } = &pending.work else { continue };
            // What will be refused anyway changes nothing.
            if !offset.is_multiple_of(PAGE_SIZE) || !bufs.iter().all(SimBuf::suits_direct_io) {
                continue;
            }
            let pages = bufs.iter().flat_map(SimBuf::pages);
            all.extend((offset / PAGE_SIZE..).zip(pages).map(|(page, contents)| InFlight { page, contents }));
        }
        all
    }

    fn growth_in_flight(&self) -> Option<u64> {
        let lens = self.pending.iter().filter_map(|pending| match pending.work {
            Work::Grow { len } if len <= self.limit => Some(len),
            _ => None,
        });
        lens.max().filter(|&len| len > self.store.len())
    }
}

impl Work {
    fn target(&self) -> (Op, Range<u64>) {
        match self {
            Work::Read { offset, buf } => (Op::Read, *offset..offset.saturating_add(buf.len() as u64)),
            Work::Write { offset, bufs } => (Op::Write, *offset..offset.saturating_add(total(bufs))),
            Work::Sync { .. } => (Op::Sync, 0..u64::MAX),
            Work::Grow { .. } => (Op::Grow, 0..u64::MAX),
        }
    }
}

fn total(bufs: &[SimBuf]) -> u64 {
    bufs.iter().map(|buf| buf.len() as u64).sum()
}

/// Replaces some sectors of `base` by those of `new`.
fn mix(base: &mut [u8], new: &[u8], rng: &mut Rng) {
    for (old, new) in base.chunks_exact_mut(SECTOR_BYTES).zip(new.chunks_exact(SECTOR_BYTES)) {
        if rng.chance(1, 2) {
            old.copy_from_slice(new);
        }
    }
}

/// Cuts a range of bytes at page boundaries: page, offset in the page, and the piece's range in the whole.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % PAGE_SIZE) as usize;
        let piece = (PAGE_BYTES - within).min(len - done);
        let range = done..done + piece;
        done += piece;
        (piece > 0).then_some((at / PAGE_SIZE, within, range))
    })
}
