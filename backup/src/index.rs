//! Which pack holds which blob: index objects, and the index in memory that they make together.
//!
//! Index objects only repeat what the packs' footers say, so that a handful of large reads replaces one for each
//! pack. Any of them may be missing, damaged or out of date: packs that none names are asked for their footers, and
//! packs that are gone are left out.
//!
//! An index object's contents: number of packs (4); for each its id (16), kind (1), size of the object (8), number of
//! blobs (4), and the entries as in the pack's footer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::blob;
use crate::codec::Fields;
use crate::core::Core;
use crate::envelope::{self, Kind};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{BlobId, ObjectId, PackId};
use crate::keys::{BlobKind, Keys};
use crate::pack::{self, PackRecord};

/// Where a blob lies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Place {
    pub(crate) pack: PackId,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

impl Place {
    /// Whether a blob may lie there. A hint that somebody else wrote may say anything.
    pub(crate) fn is_possible(&self) -> bool {
        self.len as usize <= blob::MAX_STORED && self.offset.checked_add(self.len).is_some()
    }
}

/// A pack that is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackInfo {
    pub(crate) id: PackId,
    pub(crate) kind: BlobKind,
    pub(crate) size: u64,
    /// By the store's clock, in milliseconds since 1970.
    pub(crate) modified: i64,
    /// A collection wants to delete it: nothing new may rely on it.
    pub(crate) condemned: bool,
}

/// A copy of a blob. 28 bytes, for there are four million in a TiB of data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    prefix: [u8; 16],
    pub(crate) pack: u32,
    offset: u32,
    pub(crate) len: u32,
}

/// All that is in the packs.
#[derive(Default)]
pub(crate) struct Index {
    packs: Vec<PackInfo>,
    /// In order of blobs; copies of one blob in the order in which they are preferred.
    slots: Vec<Slot>,
}

impl Index {
    pub(crate) fn packs(&self) -> &[PackInfo] {
        &self.packs
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The places in [`Index::slots`] of a blob's copies; the first is the one that counts.
    pub(crate) fn copies(&self, id: &BlobId) -> std::ops::Range<usize> {
        let prefix = id.prefix();
        let start = self.slots.partition_point(|slot| slot.prefix < prefix);
        let count = self.slots[start..].iter().take_while(|slot| slot.prefix == prefix).count();
        start..start + count
    }

    /// The places in [`Index::slots`] of each blob's copies, blob after blob.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let mut start = 0;
        self.slots.chunk_by(|a, b| a.prefix == b.prefix).map(move |copies| {
            let range = start..start + copies.len();
            start = range.end;
            range
        })
    }

    /// Whether a copy lies in a condemned pack. The first copy does only if all do.
    pub(crate) fn is_condemned(&self, slot: usize) -> bool {
        self.packs[self.slots[slot].pack as usize].condemned
    }

    pub(crate) fn place(&self, slot: &Slot) -> Place {
        Place { pack: self.packs[slot.pack as usize].id, offset: slot.offset, len: slot.len }
    }

    /// Every place of a blob, those in condemned packs last.
    pub(crate) fn places(&self, id: &BlobId) -> impl Iterator<Item = Place> {
        self.slots[self.copies(id)].iter().map(|slot| self.place(slot))
    }

    /// A place of a blob that something new may rely on.
    pub(crate) fn usable(&self, id: &BlobId) -> Option<Place> {
        let slot = self.slots[self.copies(id)].first()?;
        (!self.packs[slot.pack as usize].condemned).then(|| self.place(slot))
    }

    fn build(
        mut packs: Vec<PackInfo>,
        mut slots: Vec<Slot>,
        listed: &HashMap<PackId, Listed>,
        marks: &HashSet<PackId>,
    ) -> Index {
        let mut kept = Vec::with_capacity(packs.len());
        let mut moved = vec![u32::MAX; packs.len()];
        for (old, pack) in packs.drain(..).enumerate() {
            if let Some(found) = listed.get(&pack.id) {
                moved[old] = kept.len() as u32;
                kept.push(PackInfo { modified: found.modified, condemned: marks.contains(&pack.id), ..pack });
            }
        }
        slots.retain_mut(|slot| {
            slot.pack = moved[slot.pack as usize];
            slot.pack != u32::MAX
        });
        slots.sort_unstable_by_key(|slot| {
            let pack = &kept[slot.pack as usize];
            (slot.prefix, pack.condemned, pack.id, slot.offset)
        });
        Index { packs: kept, slots }
    }
}

/// An index object as it was found.
pub(crate) struct IndexObject {
    pub(crate) id: ObjectId,
    /// The packs it names; none if it is damaged.
    pub(crate) packs: Vec<PackId>,
    pub(crate) damaged: bool,
}

/// A pack that a collection wants to delete.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Mark {
    pub(crate) pack: PackId,
    pub(crate) modified: i64,
}

#[derive(Clone, Copy)]
struct Listed {
    size: u64,
    modified: i64,
}

/// The packs as they are found at one time.
pub(crate) struct View {
    pub(crate) index: Arc<Index>,
    pub(crate) objects: Vec<IndexObject>,
    /// Packs that no index object names, as a writer that was cut off leaves them.
    pub(crate) orphans: Vec<PackRecord>,
    /// What was damaged: index objects, packs' footers, sizes that differ.
    pub(crate) damage: Vec<(String, Error)>,
    /// Every pack that is listed, also those whose footer cannot be read, with its size.
    pub(crate) listed: HashMap<PackId, u64>,
}

/// Requests under way at once where many small objects are read.
const PARALLEL: usize = 12;
/// How often a listing of index objects that are being replaced is begun again.
const LIST_AGAIN: usize = 5;

impl View {
    /// Looks at all packs. The order is what the argument in `docs/BACKUP-FORMAT.md` needs: marks before packs. A pack
    /// that is then listed without a mark was not condemned when marks were listed.
    pub(crate) async fn load(core: &Arc<Core>) -> Result<View> {
        let marks = list_marks(core).await?;
        let mut gathered = Gathered::default();
        let objects = gathered.read_objects(core).await?;
        let listed: HashMap<PackId, Listed> = list_packs(core).await?.into_iter().collect();
        let mut damage = std::mem::take(&mut gathered.damage);
        for pack in &gathered.packs {
            if let Some(found) = listed.get(&pack.id).filter(|found| found.size != pack.size) {
                let name = pack::name(pack.id);
                let what = format!("the pack has {} bytes of {}", found.size, pack.size);
                damage.push((name.clone(), Error::corrupt(&name, what)));
            }
        }
        let known: HashSet<PackId> = gathered.packs.iter().map(|pack| pack.id).collect();
        let orphans: Vec<_> = listed
            .iter()
            .filter(|(id, _)| !known.contains(*id))
            .map(|(id, found)| (*id, found.size))
            .collect();
        let orphans = read_footers(core, orphans, &mut damage).await?;
        for record in &orphans {
            gathered.add(record);
        }
        let condemned = marks.iter().map(|mark| mark.pack).collect();
        let index = Arc::new(Index::build(gathered.packs, gathered.slots, &listed, &condemned));
        let listed = listed.into_iter().map(|(id, found)| (id, found.size)).collect();
        Ok(View { index, objects, orphans, damage, listed })
    }
}

/// The marks of condemned packs.
pub(crate) async fn list_marks(core: &Core) -> Result<Vec<Mark>> {
    let folder = Kind::Condemned.folder();
    let mark = |object: crate::objects::Object| {
        let pack = object.name.strip_prefix(folder)?.parse().ok()?;
        Some(Mark { pack, modified: object.modified })
    };
    core.store.list_as(folder, mark).await
}

async fn list_packs(core: &Core) -> Result<Vec<(PackId, Listed)>> {
    let found = core
        .store
        .list_as(pack::FOLDER, |object| Some((pack::id_of(&object.name)?, object.size, object.modified)))
        .await?;
    Ok(found.into_iter().map(|(id, size, modified)| (id, Listed { size, modified })).collect())
}

/// The packs that are there, without looking into them.
pub(crate) async fn list_pack_ids(core: &Core) -> Result<HashSet<PackId>> {
    Ok(core.store.list_as(pack::FOLDER, |object| pack::id_of(&object.name)).await?.into_iter().collect())
}

#[derive(Default)]
struct Gathered {
    packs: Vec<PackInfo>,
    numbers: HashMap<PackId, u32>,
    slots: Vec<Slot>,
    damage: Vec<(String, Error)>,
}

impl Gathered {
    fn add(&mut self, record: &PackRecord) {
        let number = self.packs.len() as u32;
        if *self.numbers.entry(record.id).or_insert(number) != number {
            return;
        }
        let (id, kind, size) = (record.id, record.kind, record.size);
        self.packs.push(PackInfo { id, kind, size, modified: 0, condemned: false });
        self.slots.extend(record.entries.iter().map(|entry| Slot {
            prefix: entry.id.prefix(),
            pack: number,
            offset: entry.offset,
            len: entry.len,
        }));
    }

    /// Reads every index object. One that vanishes was replaced by another: then the listing is begun again.
    async fn read_objects(&mut self, core: &Arc<Core>) -> Result<Vec<IndexObject>> {
        let folder = Kind::Index.folder();
        let mut objects: Vec<IndexObject> = Vec::new();
        let mut seen = HashSet::new();
        for _ in 0..LIST_AGAIN {
            let listed: Vec<ObjectId> =
                core.store.list_as(folder, |object| object.name.strip_prefix(folder)?.parse().ok()).await?;
            let fresh: Vec<_> = listed.into_iter().filter(|id| !seen.contains(id)).collect();
            let mut reads = stream::iter(fresh.into_iter().map(|id| {
                let core = core.clone();
                async move { (id, read_object(&core, id).await) }
            }))
            .buffer_unordered(PARALLEL);
            let mut vanished = false;
            while let Some((id, read)) = reads.next().await {
                match read {
                    Ok(Some(records)) => {
                        records.iter().for_each(|record| self.add(record));
                        let packs = records.iter().map(|record| record.id).collect();
                        objects.push(IndexObject { id, packs, damaged: false });
                    }
                    Ok(None) => vanished = true,
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        self.damage.push((Kind::Index.name(id), error));
                        objects.push(IndexObject { id, packs: Vec::new(), damaged: true });
                    }
                    Err(error) => return Err(error),
                }
                seen.insert(id);
            }
            if !vanished {
                break;
            }
        }
        Ok(objects)
    }
}

/// An index object's records; nothing if it is gone.
pub(crate) async fn read_object(core: &Core, id: ObjectId) -> Result<Option<Vec<PackRecord>>> {
    let name = Kind::Index.name(id);
    let Some(object) = core.store.find(&name).await? else { return Ok(None) };
    let contents = envelope::open(&core.keys, Kind::Index, &name, &object)?;
    decode(&contents).map(Some).ok_or_else(|| Error::corrupt(&name, "the index makes no sense"))
}

/// Reads the footers of packs that no index names.
async fn read_footers(
    core: &Arc<Core>,
    packs: Vec<(PackId, u64)>,
    damage: &mut Vec<(String, Error)>,
) -> Result<Vec<PackRecord>> {
    let mut reads = stream::iter(packs.into_iter().map(|(id, size)| {
        let core = core.clone();
        async move { (id, read_footer(&core, id, size).await) }
    }))
    .buffer_unordered(PARALLEL);
    let mut records = Vec::new();
    while let Some((id, read)) = reads.next().await {
        match read {
            Ok(record) => records.extend(record),
            Err(error) if error.kind() == ErrorKind::Corrupt => damage.push((pack::name(id), error)),
            Err(error) => return Err(error),
        }
    }
    Ok(records)
}

/// Bytes read from a pack's end in the hope that they hold all of its footer.
const TAIL_GUESS: u64 = 16 << 10;

/// What a pack says of itself; nothing if it is gone.
pub(crate) async fn read_footer(core: &Core, id: PackId, size: u64) -> Result<Option<PackRecord>> {
    let name = pack::name(id);
    let Some(head) = core.store.find_range(&name, 0..(pack::HEADER as u64).min(size)).await? else {
        return Ok(None);
    };
    let kind = pack::parse_header(&core.keys, id, &head)?;
    let Some(mut tail) = core.store.find_range(&name, size.saturating_sub(TAIL_GUESS)..size).await? else {
        return Ok(None);
    };
    let wanted = pack::tail_size(id, size, &tail)?;
    if wanted > tail.len() {
        match core.store.find_range(&name, size - wanted as u64..size).await? {
            Some(longer) => tail = longer,
            None => return Ok(None),
        }
    }
    pack::parse_tail(&core.keys, id, kind, size, &tail[tail.len() - wanted..]).map(Some)
}

/// Writes an index object for some packs, which must all be there.
pub(crate) async fn write_object(core: &Core, records: &[PackRecord]) -> Result<ObjectId> {
    let id = ObjectId::random()?;
    let name = Kind::Index.name(id);
    core.store.put(&name, encode(&core.keys, &name, records)?).await?;
    Ok(id)
}

fn encode(keys: &Keys, name: &str, records: &[PackRecord]) -> Result<bytes::Bytes> {
    let mut contents = Vec::new();
    contents.extend_from_slice(&(records.len() as u32).to_le_bytes());
    for record in records {
        contents.extend_from_slice(&record.id.0);
        contents.push(record.kind as u8);
        contents.extend_from_slice(&record.size.to_le_bytes());
        contents.extend_from_slice(&(record.entries.len() as u32).to_le_bytes());
        contents.extend_from_slice(&pack::encode_entries(&record.entries));
    }
    envelope::seal(keys, Kind::Index, name, &contents)
}

pub(crate) fn decode(contents: &[u8]) -> Option<Vec<PackRecord>> {
    let mut fields = Fields::new(contents);
    let count = fields.u32()?;
    let mut records = Vec::new();
    for _ in 0..count {
        let (id, kind, size) = (PackId(fields.array()?), BlobKind::from_byte(fields.u8()?)?, fields.u64()?);
        let entries = fields.u32()? as usize;
        records.push(PackRecord { id, kind, size, entries: pack::decode_entries(&mut fields, entries)? });
    }
    (fields.left() == 0).then_some(records)
}

/// Does something with many objects, some at a time.
pub(crate) async fn for_each_parallel<T, F>(items: Vec<T>, each: impl Fn(T) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    stream::iter(items.into_iter().map(each)).buffer_unordered(PARALLEL).try_collect::<()>().await
}
