//! Sectors that name the write they come from and the place it was meant for.
//!
//! Every word of a sector depends on both, so a torn, shifted, stale or foreign sector is told from a whole one.

use cairn_cow::sim::{Rng, SECTOR_BYTES};

/// Bytes of a sector.
pub const SECTOR: u64 = SECTOR_BYTES as u64;

/// The id that stands for zeroes.
pub const ZERO: u64 = 0;

/// Fills whole sectors with what write `id` puts at `first_sector` and on.
pub fn fill(buf: &mut [u8], id: u64, first_sector: u64) {
    assert_ne!(id, ZERO, "zeroes are nobody's write");
    for (sector, bytes) in (first_sector..).zip(buf.chunks_exact_mut(SECTOR_BYTES)) {
        bytes[..8].copy_from_slice(&id.to_le_bytes());
        Rng::new(id.rotate_left(32) ^ sector).fill(&mut bytes[8..]);
    }
}

/// The id of the write that a sector at place `sector` holds, [`ZERO`] for zeroes, `None` for anything else.
pub fn decode(bytes: &[u8], sector: u64) -> Option<u64> {
    let id = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    if id == ZERO {
        return bytes.iter().all(|&b| b == 0).then_some(ZERO);
    }
    let mut expected = [0; SECTOR_BYTES];
    fill(&mut expected, id, sector);
    (bytes == expected).then_some(id)
}
