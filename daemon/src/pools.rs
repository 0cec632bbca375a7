//! The daemon's pools by their names, and which of them holds a volume.
//!
//! The first one, [`MAIN_POOL`], is what the daemon was started on. It also keeps, in its attributes, what belongs to no
//! single volume: types, QoS rules, and where the other pools are. A volume's name is unique over all pools, so that
//! an export name has one meaning.

use std::collections::BTreeSet;
use std::sync::Arc;

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::pool::MAIN_POOL;
use cairn_api::size::Size;
use cairn_cow::{Disk, Error, ErrorKind, Holder, MAX_VOLUME_BYTES, Pool, Result};
use parking_lot::{Mutex, RwLock};

use crate::images;
use crate::room::Room;
use crate::staging::is_hidden;

/// One pool that was asked for.
pub struct PoolSlot<D: Disk> {
    /// Unique in the daemon.
    pub name: String,
    /// The file or device.
    pub path: String,
    /// The pool, or why it could not be opened.
    pub pool: std::result::Result<Arc<Pool<D>>, String>,
    /// What the file system below it has left.
    pub room: Room,
}

impl<D: Disk> PoolSlot<D> {
    /// Nothing is known yet of what is below it.
    pub fn new(
        name: impl Into<String>,
        path: impl Into<String>,
        pool: std::result::Result<Arc<Pool<D>>, String>,
    ) -> PoolSlot<D> {
        PoolSlot { name: name.into(), path: path.into(), pool, room: Room::default() }
    }
}

impl<D: Disk> Clone for PoolSlot<D> {
    fn clone(&self) -> PoolSlot<D> {
        PoolSlot {
            name: self.name.clone(),
            path: self.path.clone(),
            pool: self.pool.clone(),
            room: self.room.clone(),
        }
    }
}

/// Refuses a volume of `size` bytes that the pool `name` could not hold were it full, and nothing else there. Several volumes may
/// have more together than their pool.
///
/// # Errors
/// That one, which says the pool's limit.
pub(crate) fn refuse_oversized<D: Disk>(
    (name, pool): (&str, &Pool<D>),
    size: u64,
) -> std::result::Result<(), ApiError> {
    let limit = pool.status().limit;
    // What no pool takes is said by the pool.
    if size <= limit || size > MAX_VOLUME_BYTES {
        return Ok(());
    }
    let (size, limit) = (Size(size).exact(), Size(limit).exact());
    let why = format!("{size} is more than the pool '{name}' can ever hold: its limit is {limit}");
    Err(ApiError::new(ErrorCode::InvalidArgument, why)
        .with_hint(format!("choose a smaller size, or raise the limit: cairn pool grow {name} --limit SIZE")))
}

/// All pools. Locked for a look at a short list, never over I/O.
pub struct Pools<D: Disk> {
    main: Arc<Pool<D>>,
    slots: RwLock<Vec<PoolSlot<D>>>,
    changing: Arc<Mutex<Vec<Place>>>,
}

/// Where a pool is to be, or was: its name and its path.
#[derive(Clone, PartialEq, Eq)]
struct Place {
    name: String,
    path: String,
}

/// A name and a path that no pool is added under until this is dropped. Opening and closing a pool take as long as its disk
/// takes, and others must be able to go on meanwhile.
pub struct Reserved {
    place: Place,
    all: Arc<Mutex<Vec<Place>>>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(at) = all.iter().position(|place| *place == self.place) {
            all.swap_remove(at);
        }
    }
}

impl<D: Disk> Pools<D> {
    /// The first pool, found at `path`.
    pub fn new(main: Arc<Pool<D>>, path: String) -> Pools<D> {
        let first = PoolSlot::new(MAIN_POOL, path, Ok(Arc::clone(&main)));
        Pools { main, slots: RwLock::new(vec![first]), changing: Arc::default() }
    }

    /// The first pool.
    pub fn main(&self) -> &Arc<Pool<D>> {
        &self.main
    }

    /// Every pool, the first one first, the others by name.
    pub fn slots(&self) -> Vec<PoolSlot<D>> {
        self.slots.read().clone()
    }

    /// Every pool that is open, with its name.
    pub fn open(&self) -> Vec<(String, Arc<Pool<D>>)> {
        let slots = self.slots.read();
        slots.iter().filter_map(|s| Some((s.name.clone(), Arc::clone(s.pool.as_ref().ok()?)))).collect()
    }

    /// One pool.
    ///
    /// # Errors
    /// `NotFound` without such a pool, `Io` for one that could not be opened.
    pub fn get(&self, name: &str) -> Result<Arc<Pool<D>>> {
        let opened = self.slot(name)?.pool;
        opened
            .map_err(|why| Error::new(ErrorKind::Io, format!("the pool '{name}' could not be opened: {why}")))
    }

    /// What is known of one pool.
    ///
    /// # Errors
    /// `NotFound` without such a pool.
    pub fn slot(&self, name: &str) -> Result<PoolSlot<D>> {
        let found = self.slots.read().iter().find(|slot| slot.name == name).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no pool '{name}'")))
    }

    /// The pool that holds a volume, and its name. An image is no volume.
    ///
    /// # Errors
    /// `NotFound` when none does, naming the pools that could not be looked into.
    pub fn of_volume(&self, volume: &str) -> Result<(String, Arc<Pool<D>>)> {
        let slots = self.slots.read();
        let mut closed = Vec::new();
        for slot in slots.iter() {
            match &slot.pool {
                Ok(pool) if has_volume(pool, volume) => return Ok((slot.name.clone(), Arc::clone(pool))),
                Ok(_) => {}
                Err(_) => closed.push(slot.name.as_str()),
            }
        }
        let mut text = no_volume(volume);
        if !closed.is_empty() {
            text += &format!(", unless it is in a pool that could not be opened ({})", closed.join(", "));
        }
        Err(Error::new(ErrorKind::NotFound, text))
    }

    /// Why a pool that was opened cannot be one of these: it is a copy of one, or has a volume or an image of a name that
    /// is taken.
    pub fn obstacle(&self, opened: &Pool<D>) -> Option<String> {
        let present = self.open();
        if let Some((name, _)) = present.iter().find(|(_, pool)| pool.id() == opened.id()) {
            return Some(format!("it is the pool '{name}', or a copy of it"));
        }
        let there =
            |what, name| Some(format!("it has {what} '{name}', which there is already in another pool"));
        let names = |pool: &Pool<D>| -> BTreeSet<String> {
            pool.volumes().iter().filter_map(images::image).map(|image| image.name).collect()
        };
        let taken: BTreeSet<String> = present.iter().flat_map(|(_, pool)| names(pool)).collect();
        if let Some(image) = names(opened).into_iter().find(|name| taken.contains(name)) {
            return there("an image", image);
        }
        let taken = |name: &String| present.iter().any(|(_, pool)| pool.has_volume(name));
        there("a volume", opened.volumes().into_iter().map(|volume| volume.name).find(taken)?)
    }

    /// Sets a name and a path aside for a pool that is to be added.
    ///
    /// # Errors
    /// `Exists` when a pool has one of them, `Busy` when one that has is just being added or removed.
    pub fn reserve(&self, name: &str, path: &str) -> std::result::Result<Reserved, ApiError> {
        let mut changing = self.changing.lock();
        if changing.iter().any(|place| place.name == name || place.path == path) {
            let why = format!("a pool '{name}', or one on {path}, is just being added or removed");
            return Err(
                ApiError::new(ErrorCode::Busy, why).with_hint("try again when that is done: cairn pool list")
            );
        }
        let slots = self.slots.read();
        if slots.iter().any(|slot| slot.name == name) {
            return Err(ApiError::new(ErrorCode::Exists, format!("there is already a pool '{name}'"))
                .with_hint("choose another name"));
        }
        if let Some(other) = slots.iter().find(|slot| slot.path == path) {
            return Err(ApiError::new(
                ErrorCode::Exists,
                format!("{path} is the pool '{}' already", other.name),
            ));
        }
        let place = Place { name: name.to_owned(), path: path.to_owned() };
        changing.push(place.clone());
        Ok(Reserved { place, all: Arc::clone(&self.changing) })
    }

    /// Adds a pool behind the first one.
    pub fn add(&self, slot: PoolSlot<D>) {
        let mut slots = self.slots.write();
        let at = slots[1..].partition_point(|present| present.name < slot.name) + 1;
        slots.insert(at, slot);
    }

    /// Forgets a pool, but never the first one. Its name and path stay set aside until the second result is dropped.
    pub fn remove(&self, name: &str) -> Option<(PoolSlot<D>, Reserved)> {
        let mut changing = self.changing.lock();
        let mut slots = self.slots.write();
        let at = slots[1..].iter().position(|slot| slot.name == name)?;
        let slot = slots.remove(at + 1);
        let place = Place { name: slot.name.clone(), path: slot.path.clone() };
        changing.push(place.clone());
        Some((slot, Reserved { place, all: Arc::clone(&self.changing) }))
    }
}

/// Whether a pool has a volume of this name that users see as one.
fn has_volume<D: Disk>(pool: &Pool<D>, name: &str) -> bool {
    pool.attributes(Holder::Volume(name)).is_ok_and(|attributes| !is_hidden(&attributes))
}
/// What is said of a name that no volume has.
pub(crate) fn no_volume(volume: &str) -> String {
    format!("there is no volume '{volume}'")
}
