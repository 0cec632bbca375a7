//! The pool's layout on disk and its fixed blocks; docs/FORMAT.md gives every byte and the argument for crash safety.
//!
//! ```text
//! block 0          superblock, first copy
//! block 256        superblock, second copy: away from the first, so that one bad track does not take both
//! block 512        journal ring
//! first_segment    segments, each: space map slot A, space map slot B, then data and metadata blocks
//! ```

use crate::codec::{Reader, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{BLOCK_BYTES, BLOCK_SIZE, BatchSeq, BlockAddr, Lsn};

/// The version of the format that this code writes and the newest it reads.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Incompatible features this code knows; any other bit set means that the pool must not be opened.
const KNOWN_INCOMPAT: u64 = INCOMPAT_ATTRIBUTES;
/// The catalog holds attributes, and the journal may.
pub(crate) const INCOMPAT_ATTRIBUTES: u64 = 1;
/// Read-only-compatible features this code knows; any other bit set means that the pool must not be written.
const KNOWN_RO_COMPAT: u64 = 0;

const MAGIC: [u8; 8] = *b"cairnblk";
/// Bytes of the header that superblocks, journal batches, space map slots and catalog blocks begin with.
pub(crate) const HEADER_BYTES: usize = 48;
/// Where the two superblocks stand.
pub(crate) const SUPERBLOCKS: [BlockAddr; 2] = [BlockAddr(0), BlockAddr(256)];
/// Where the journal ring begins.
pub(crate) const JOURNAL_START: u64 = 512;
/// Blocks at a segment's start that hold its two space map slots.
pub(crate) const SEGMENT_HEADER_BLOCKS: u64 = 2;
/// Blocks of a segment unless a pool is created with others: 64 MiB.
pub(crate) const DEFAULT_SEGMENT_BLOCKS: u32 = 16384;
/// The largest segment whose space map fits its slot.
pub(crate) const MAX_SEGMENT_BLOCKS: u32 = 32256;
/// Addresses have 40 bits.
pub(crate) const MAX_POOL_BLOCKS: u64 = 1 << 40;

const _: () = assert!(HEADER_BYTES + 16 + (MAX_SEGMENT_BLOCKS as usize).div_ceil(8) <= BLOCK_BYTES);
const _: () = assert!(MAX_SEGMENT_BLOCKS.is_multiple_of(64) && DEFAULT_SEGMENT_BLOCKS.is_multiple_of(64));

/// A pool's identity, random, seeding every checksum so that blocks of another pool are never taken for ours.
pub(crate) type PoolId = [u8; 16];

/// What a headed block is, so that one kind is never read as another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Kind {
    Superblock = 1,
    Journal = 2,
    SpaceMap = 3,
    Catalog = 4,
}

/// Why a headed block was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HeaderFault {
    /// No magic: nothing of cairn's was ever here.
    Foreign,
    /// Of cairn, but damaged, misplaced, of another pool or of another kind.
    Damaged,
}

/// The checksum of a map node: seeded with pool, address and level, so that a misdirected or stale write is seen.
pub(crate) fn node_crc(pool: &PoolId, addr: BlockAddr, level: u8, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(pool);
    hasher.update(&addr.0.to_le_bytes());
    hasher.update(&[level]);
    hasher.update(bytes);
    hasher.finalize()
}

/// Fills in the header of `block`, whose contents after it are complete. The checksum covers all of `block`.
pub(crate) fn seal(block: &mut [u8], kind: Kind, pool: &PoolId, addr: BlockAddr, generation: u64) {
    block[0..8].copy_from_slice(&MAGIC);
    block[8..12].copy_from_slice(&(kind as u32).to_le_bytes());
    block[12..16].fill(0);
    block[16..32].copy_from_slice(pool);
    block[32..40].copy_from_slice(&addr.0.to_le_bytes());
    block[40..48].copy_from_slice(&generation.to_le_bytes());
    let crc = crc32fast::hash(block);
    block[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// The fields of a header, before its checksum is known to be right.
pub(crate) struct RawHeader {
    pub(crate) kind: u32,
    pub(crate) pool: PoolId,
    pub(crate) addr: BlockAddr,
    pub(crate) generation: u64,
}

/// Reads a header without judging it.
pub(crate) fn peek(block: &[u8]) -> Result<RawHeader, HeaderFault> {
    if block.len() < HEADER_BYTES || block[0..8] != MAGIC {
        return Err(HeaderFault::Foreign);
    }
    let u32_at = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"));
    Ok(RawHeader {
        kind: u32_at(8),
        pool: block[16..32].try_into().expect("sixteen bytes"),
        addr: BlockAddr(u64_at(32)),
        generation: u64_at(40),
    })
}

/// Whether the checksum over all of `block` is right.
pub(crate) fn crc_is_right(block: &[u8]) -> bool {
    let stored = u32::from_le_bytes(block[12..16].try_into().expect("four bytes"));
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&block[..12]);
    hasher.update(&[0; 4]);
    hasher.update(&block[16..]);
    hasher.finalize() == stored
}

/// Accepts a headed block of this kind, pool and place, and returns its generation.
pub(crate) fn unseal(block: &[u8], kind: Kind, pool: &PoolId, addr: BlockAddr) -> Result<u64, HeaderFault> {
    let header = peek(block)?;
    let ours = header.kind == kind as u32 && header.pool == *pool && header.addr == addr;
    if ours && crc_is_right(block) { Ok(header.generation) } else { Err(HeaderFault::Damaged) }
}

/// Sizes and places that never change after a pool was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Geometry {
    pub(crate) segment_blocks: u32,
    pub(crate) journal_blocks: u64,
}

impl Geometry {
    pub(crate) fn first_segment(&self) -> u64 {
        JOURNAL_START + self.journal_blocks
    }

    pub(crate) fn segment_start(&self, segment: usize) -> BlockAddr {
        BlockAddr(self.first_segment() + segment as u64 * u64::from(self.segment_blocks))
    }

    /// The segment and the block's index in it; `None` for an address that no segment below `segments` holds, or
    /// that is one of a segment's own two blocks.
    pub(crate) fn locate(&self, addr: BlockAddr, segments: usize) -> Option<(usize, u32)> {
        let past = addr.0.checked_sub(self.first_segment())?;
        let segment = usize::try_from(past / u64::from(self.segment_blocks)).ok()?;
        let index = past % u64::from(self.segment_blocks);
        (segment < segments && index >= SEGMENT_HEADER_BLOCKS).then_some((segment, index as u32))
    }

    /// Bytes of a pool with this many segments.
    pub(crate) fn bytes_with(&self, segments: usize) -> u64 {
        self.segment_start(segments).offset()
    }

    /// How many whole segments fit in this many bytes.
    pub(crate) fn segments_in(&self, bytes: u64) -> usize {
        let blocks = (bytes / BLOCK_SIZE).saturating_sub(self.first_segment());
        usize::try_from(blocks / u64::from(self.segment_blocks)).unwrap_or(usize::MAX)
    }
}

/// What a superblock says: the one place from which everything else is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Superblock {
    pub(crate) pool: PoolId,
    /// Counts checkpoints.
    pub(crate) generation: u64,
    pub(crate) geometry: Geometry,
    /// Features without which the pool cannot be read.
    pub(crate) incompat: u64,
    /// Bytes the pool may grow to.
    pub(crate) limit: u64,
    pub(crate) created_ms: u64,
    /// The first block of the catalog's chain.
    pub(crate) catalog: BlockAddr,
    /// Replay starts at this block of the ring, counted since the pool was made, not modulo its length ...
    pub(crate) journal_pos: u64,
    /// ... with this batch ...
    pub(crate) journal_seq: BatchSeq,
    /// ... whose first record has this number.
    pub(crate) journal_lsn: Lsn,
}

impl Superblock {
    pub(crate) fn encode(&self, addr: BlockAddr, block: &mut [u8]) {
        let mut w = Writer::default();
        w.u32(FORMAT_VERSION);
        w.u32(self.geometry.segment_blocks);
        w.u64(0); // compatible features
        w.u64(0); // read-only-compatible features
        w.u64(self.incompat);
        w.u64(self.geometry.journal_blocks);
        w.u64(self.limit);
        w.u64(self.created_ms);
        w.u64(self.catalog.0);
        w.u64(self.journal_pos);
        w.u64(self.journal_seq.0);
        w.u64(self.journal_lsn.0);
        block.fill(0);
        block[HEADER_BYTES..HEADER_BYTES + w.len()].copy_from_slice(&w.into_bytes());
        seal(block, Kind::Superblock, &self.pool, addr, self.generation);
    }

    /// Accepts one copy; the error is for a copy whose checksum is right but whose contents this code can't use.
    pub(crate) fn decode(addr: BlockAddr, block: &[u8]) -> Result<Result<Superblock, HeaderFault>> {
        let header = match peek(block) {
            Ok(header) => header,
            Err(fault) => return Ok(Err(fault)),
        };
        if header.kind != Kind::Superblock as u32 || header.addr != addr || !crc_is_right(block) {
            return Ok(Err(HeaderFault::Damaged));
        }
        let mut r = Reader::new(&block[HEADER_BYTES..], "superblock");
        let version = r.u32()?;
        if version > FORMAT_VERSION {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the pool has format {version}, this cairn reads up to {FORMAT_VERSION}: use a newer cairn"
                ),
            ));
        }
        let segment_blocks = r.u32()?;
        let _compat = r.u64()?;
        let ro_compat = r.u64()?;
        let incompat = r.u64()?;
        if incompat & !KNOWN_INCOMPAT != 0 || ro_compat & !KNOWN_RO_COMPAT != 0 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the pool uses features this cairn lacks (incompat {incompat:#x}, ro-compat {ro_compat:#x}): use a newer cairn"
                ),
            ));
        }
        let journal_blocks = r.u64()?;
        let limit = r.u64()?;
        let created_ms = r.u64()?;
        let catalog = BlockAddr(r.u64()?);
        let journal_pos = r.u64()?;
        let journal_seq = BatchSeq(r.u64()?);
        let journal_lsn = Lsn(r.u64()?);
        let sane = (64..=MAX_SEGMENT_BLOCKS).contains(&segment_blocks)
            && segment_blocks.is_multiple_of(64)
            && (256..=1 << 18).contains(&journal_blocks)
            && catalog.0 < MAX_POOL_BLOCKS
            && journal_seq.0 >= 1
            && [header.generation, journal_pos, journal_seq.0, journal_lsn.0].iter().all(|n| *n < 1 << 62);
        if !sane {
            return Err(r.bad("its geometry makes no sense"));
        }
        Ok(Ok(Superblock {
            pool: header.pool,
            generation: header.generation,
            geometry: Geometry { segment_blocks, journal_blocks },
            incompat,
            limit,
            created_ms,
            catalog,
            journal_pos,
            journal_seq,
            journal_lsn,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        Superblock {
            pool: [7; 16],
            generation: 3,
            geometry: Geometry { segment_blocks: 256, journal_blocks: 256 },
            incompat: INCOMPAT_ATTRIBUTES,
            limit: 1 << 40,
            created_ms: 5,
            catalog: BlockAddr(600),
            journal_pos: 77,
            journal_seq: BatchSeq(9),
            journal_lsn: Lsn(1000),
        }
    }

    #[test]
    fn a_superblock_reads_back_and_any_flipped_bit_is_seen() {
        let mut block = vec![0; BLOCK_BYTES];
        sample().encode(SUPERBLOCKS[1], &mut block);
        assert_eq!(Superblock::decode(SUPERBLOCKS[1], &block).unwrap().unwrap(), sample());
        assert_eq!(Superblock::decode(SUPERBLOCKS[0], &block).unwrap(), Err(HeaderFault::Damaged));
        for at in 0..BLOCK_BYTES {
            block[at] ^= 0x10;
            assert!(Superblock::decode(SUPERBLOCKS[1], &block).unwrap().is_err(), "byte {at}");
            block[at] ^= 0x10;
        }
    }

    #[test]
    fn addresses_outside_the_segments_are_not_located() {
        let g = sample().geometry;
        assert_eq!(g.locate(BlockAddr(0), 4), None);
        assert_eq!(g.locate(g.segment_start(1), 4), None, "a space map slot");
        assert_eq!(g.locate(g.segment_start(1) + 2, 4), Some((1, 2)));
        assert_eq!(g.locate(g.segment_start(4) + 2, 4), None, "past the last segment");
        assert_eq!(g.segments_in(g.bytes_with(5)), 5);
        assert_eq!(g.segments_in(g.bytes_with(5) - 1), 4);
    }
}
