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

/// What of a record is flushed, for cut after cut: what a flush covers is applied once.
pub struct Flushed<'record> {
    operations: &'record [Operation],
    /// For each operation that is a write, the place of the first flush that covers it; no place if there is none.
    covered_by: Vec<usize>,
    /// Places of writes that some flush covers, in the order in which those come.
    covered: Vec<usize>,
    /// So many of these are in `bytes`.
    applied: usize,
    bytes: Vec<u8>,
    /// Pages that are not as they were: all others are holes in the image.
    written: Vec<bool>,
}

impl<'record> Flushed<'record> {
    /// A disk of zeros, of `size` bytes, to which nothing was applied yet.
    pub fn new(operations: &'record [Operation], size: usize) -> Flushed<'record> {
        let mut covered_by = vec![usize::MAX; operations.len()];
        let mut covered = Vec::new();
        let mut answered = Vec::new();
        for (place, operation) in operations.iter().enumerate() {
            match operation {
                Operation::Write(..) => {}
                Operation::Answer(write) => answered.push(*write),
                Operation::Flush => {
                    answered.sort_unstable();
                    answered.iter().for_each(|write| covered_by[*write] = place);
                    covered.append(&mut answered);
                }
            }
        }
        let written = vec![false; size.div_ceil(PAGE_SIZE)];
        Flushed { operations, covered_by, covered, applied: 0, bytes: vec![0; size], written }
    }

    /// How many writes were under way when a flush came that would have covered them a moment later.
    pub fn under_way(&self) -> usize {
        let next_flush = |write: usize| {
            self.operations[write..]
                .iter()
                .position(|operation| matches!(operation, Operation::Flush))
                .map(|at| write + at)
        };
        self.covered
            .iter()
            .filter(|write| next_flush(**write).is_some_and(|flush| flush < self.covered_by[**write]))
            .count()
    }

    /// Writes the image after the first `cut` operations to a file. Cuts come in rising order.
    ///
    /// Each grain of each write that no flush covers gets there or does not, and those that do in any order.
    ///
    /// # Errors
    /// Of the file.
    pub fn image_at(&mut self, cut: usize, seed: u64, path: &Path) -> io::Result<()> {
        let is_covered = |write: &usize| self.covered_by[*write] < cut;
        let until = self.covered.partition_point(is_covered);
        assert!(until >= self.applied, "cuts come in rising order");
        for write in &self.covered[self.applied..until] {
            let Operation::Write(offset, bytes) = &self.operations[*write] else {
                panic!("a write is at place {write}")
            };
            let offset = *offset as usize;
            self.bytes[offset..][..bytes.len()].copy_from_slice(bytes);
            self.written[offset / PAGE_SIZE..(offset + bytes.len()).div_ceil(PAGE_SIZE)].fill(true);
        }
        self.applied = until;
        let image = File::create(path)?;
        image.set_len(self.bytes.len() as u64)?;
        for (page, bytes) in self.bytes.chunks(PAGE_SIZE).enumerate().filter(|(page, _)| self.written[*page]) {
            image.write_all_at(bytes, (page * PAGE_SIZE) as u64)?;
        }
        let uncovered = (0..cut).filter(|place| !is_covered(place)).map(|place| &self.operations[place]);
        for (offset, piece) in unflushed(uncovered, &mut Random(seed)) {
            image.write_all_at(piece, offset)?;
        }
        Ok(())
    }
}

/// What gets to the disk of these operations, in the order in which it does: a place and bytes.
fn unflushed<'record>(
    operations: impl Iterator<Item = &'record Operation>,
    rng: &mut Random,
) -> Vec<(u64, &'record [u8])> {
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

#[test]
fn a_flush_covers_what_was_answered_before_it_and_nothing_else() {
    let write = |offset: u64, byte: u8| Operation::Write(offset, vec![byte; 512].into());
    let (at, both) = (SUPERBLOCK_END, SUPERBLOCK_END + 512);
    // The first is answered before the flush, the second, which was under way, behind it.
    let operations =
        [write(at, 1), write(both, 2), Operation::Answer(0), Operation::Flush, Operation::Answer(1), Operation::Flush];
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("image");
    let seen = |cut: usize| {
        let mut bytes: Vec<[u8; 2]> = Vec::new();
        for seed in 0..64 {
            Flushed::new(&operations, 8192).image_at(cut, seed, &path).expect("an image");
            let image = std::fs::read(&path).expect("the image");
            bytes.push([image[at as usize], image[both as usize]]);
        }
        bytes.sort_unstable();
        bytes.dedup();
        bytes
    };
    let anything = [[0, 0], [0, 2], [1, 0], [1, 2]];
    assert_eq!(seen(0), [[0, 0]]);
    assert_eq!((seen(2), seen(3)), (anything.to_vec(), anything.to_vec()));
    assert_eq!((seen(4), seen(5)), (vec![[1, 0], [1, 2]], vec![[1, 0], [1, 2]]));
    assert_eq!(seen(6), [[1, 2]]);
    assert_eq!(Flushed::new(&operations, 8192).under_way(), 1);
}
