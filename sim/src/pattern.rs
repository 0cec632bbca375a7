//! Sectors that name the write they come from and the place it was meant for.
//!
//! Every word of a sector depends on both, so a torn, shifted, stale or foreign sector is told from a whole one.

use cairn_cow::sim::{Rng, SECTOR_BYTES};

/// Bytes of a sector.
pub const SECTOR: u64 = SECTOR_BYTES as u64;

/// Between two words of a sector: any large odd number.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The id that stands for zeroes.
pub const ZERO: u64 = 0;

/// Fills whole sectors with what write `id` puts at `first_sector` and on.
pub fn fill(buf: &mut [u8], id: u64, first_sector: u64) {
    assert_ne!(id, ZERO, "zeroes are nobody's write");
    for (sector, bytes) in (first_sector..).zip(buf.chunks_exact_mut(SECTOR_BYTES)) {
        bytes[..8].copy_from_slice(&id.to_le_bytes());
        for (word, expected) in bytes[8..].chunks_exact_mut(8).zip(words(id, sector)) {
            word.copy_from_slice(&expected.to_le_bytes());
        }
    }
}

/// What follows the id: no two sectors have a word in common at any places, but by the chance of 64 bits. Sectors are
/// compared by the million, so it is no more than an addition a word.
fn words(id: u64, sector: u64) -> impl Iterator<Item = u64> {
    let first = Rng::new(id.rotate_left(32) ^ sector).next_u64();
    (0..).map(move |place: u64| first.wrapping_add(place.wrapping_mul(STEP)))
}

/// The id of the write that a sector at place `sector` holds, [`ZERO`] for zeroes, `None` for anything else.
pub fn decode(bytes: &[u8], sector: u64) -> Option<u64> {
    let id = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    if id == ZERO {
        return bytes.iter().all(|&b| b == 0).then_some(ZERO);
    }
    let words = bytes[8..].chunks_exact(8).zip(words(id, sector));
    let wrong = words.fold(0, |wrong, (word, expected)| {
        wrong | (u64::from_le_bytes(word.try_into().expect("eight bytes")) ^ expected)
    });
    (wrong == 0).then_some(id)
}
