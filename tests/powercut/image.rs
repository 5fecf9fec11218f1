//! The disk as a power cut leaves it: all that was flushed, and a seeded choice of what was written since.
//!
//! Invariant: the same record, cut and seed make the same image.

use crate::recorder::Operation;

/// What a disk writes whole, in bytes: some keep pages together, others sectors only.
pub const GRAINS: [usize; 2] = [4096, 512];

/// The image after the first `cut` operations, for a disk of `size` bytes.
///
/// Each grain of each write since the last flush gets there or does not, and those that do in any order.
pub fn at_cut(operations: &[Operation], cut: usize, size: usize, seed: u64) -> Vec<u8> {
    let mut rng = Random(seed);
    let done = &operations[..cut];
    let flushed = done.iter().rposition(|operation| matches!(operation, Operation::Flush)).map_or(0, |flush| flush + 1);
    let mut image = vec![0; size];
    for operation in &done[..flushed] {
        if let Operation::Write(offset, bytes) = operation {
            image[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
    }
    let grain = GRAINS[rng.below(GRAINS.len())];
    let mut pieces = Vec::new();
    for operation in &done[flushed..] {
        if let Operation::Write(offset, bytes) = operation {
            pieces.extend(
                bytes.chunks(grain).enumerate().map(|(index, piece)| (*offset as usize + index * grain, piece)),
            );
        }
    }
    // From hardly anything to nearly everything.
    let kept_of_eight = rng.below(9);
    pieces.retain(|_| rng.below(8) < kept_of_eight);
    for last in (1..pieces.len()).rev() {
        pieces.swap(last, rng.below(last + 1));
    }
    for (offset, piece) in pieces {
        image[offset..][..piece.len()].copy_from_slice(piece);
    }
    image
}

/// SplitMix64: the same numbers from the same seed on every machine.
pub struct Random(pub u64);

impl Random {
    /// The next number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}
