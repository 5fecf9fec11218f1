//! The disk as a power cut leaves it: all that was flushed, and a seeded choice of what was written since.
//!
//! Invariant: the same record, cut and seed make the same image.

use crate::recorder::Operation;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What a disk writes whole, in bytes: some keep pages together, others sectors only.
const GRAINS: [usize; 2] = [4096, 512];
const PAGE_SIZE: usize = 4096;

/// Where the file system's superblock is. It is written whole or not at all: ext4 refuses a torn one until fsck has taken a copy of it, which
/// says nothing of the server.
const SUPERBLOCK_END: u64 = 4096;

/// What of a record is flushed, for cut after cut: the operations before the last flush are applied once.
pub struct Flushed<'record> {
    operations: &'record [Operation],
    applied: usize,
    bytes: Vec<u8>,
    /// Pages that are not as they were: all others are holes in the image.
    written: Vec<bool>,
}

impl<'record> Flushed<'record> {
    /// A disk of zeros, of `size` bytes, to which nothing was applied yet.
    pub fn new(operations: &'record [Operation], size: usize) -> Flushed<'record> {
        Flushed { operations, applied: 0, bytes: vec![0; size], written: vec![false; size.div_ceil(PAGE_SIZE)] }
    }

    /// Writes the image after the first `cut` operations to a file. Cuts come in rising order.
    ///
    /// Each grain of each write since the last flush gets there or does not, and those that do in any order.
    ///
    /// # Errors
    /// Of the file.
    pub fn image_at(&mut self, cut: usize, seed: u64, path: &Path) -> io::Result<()> {
        let done = &self.operations[..cut];
        let flushed =
            done.iter().rposition(|operation| matches!(operation, Operation::Flush)).map_or(0, |flush| flush + 1);
        assert!(flushed >= self.applied, "cuts come in rising order");
        for operation in &done[self.applied..flushed] {
            if let Operation::Write(offset, bytes) = operation {
                let offset = *offset as usize;
                self.bytes[offset..][..bytes.len()].copy_from_slice(bytes);
                self.written[offset / PAGE_SIZE..(offset + bytes.len()).div_ceil(PAGE_SIZE)].fill(true);
            }
        }
        self.applied = flushed;
        let image = File::create(path)?;
        image.set_len(self.bytes.len() as u64)?;
        for (page, bytes) in self.bytes.chunks(PAGE_SIZE).enumerate().filter(|(page, _)| self.written[*page]) {
            image.write_all_at(bytes, (page * PAGE_SIZE) as u64)?;
        }
        for (offset, piece) in unflushed(&done[flushed..], &mut Random(seed)) {
            image.write_all_at(piece, offset)?;
        }
        Ok(())
    }
}

/// What gets to the disk of these operations, in the order in which it does: a place and bytes.
fn unflushed<'record>(operations: &'record [Operation], rng: &mut Random) -> Vec<(u64, &'record [u8])> {
    let grain = GRAINS[rng.below(GRAINS.len())];
    let mut pieces = Vec::new();
    for operation in operations {
        if let Operation::Write(offset, bytes) = operation {
            let grain = if *offset < SUPERBLOCK_END { PAGE_SIZE } else { grain };
            pieces.extend((*offset..).step_by(grain).zip(bytes.chunks(grain)));
        }
    }
    // From nothing to everything.
    let kept_of_eight = rng.below(9);
    pieces.retain(|_| rng.below(8) < kept_of_eight);
    for last in (1..pieces.len()).rev() {
        pieces.swap(last, rng.below(last + 1));
    }
    pieces
}

/// SplitMix64: the same numbers from the same seed on every machine.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// The next number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
