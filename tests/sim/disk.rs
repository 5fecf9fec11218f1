//! A disk for journals in memory: what tests play for the engine ([`crate::world`]).
//!
//! Invariant: a write is there when it was made, and only then; what is torn of writes under way is the world's business.

use ringq::journal::{ReadSegment, SEGMENTS};
use std::io;

/// One shard's journal as the medium has it. It outlives crashes.
pub struct Disk {
    segments: Vec<Vec<u8>>,
}

impl Disk {
    pub fn new(segment_size: u64) -> Disk {
        Disk { segments: (0..SEGMENTS).map(|_| vec![0; segment_size as usize]).collect() }
    }

    pub fn write(&mut self, segment: u32, offset: usize, bytes: &[u8]) {
        self.segments[segment as usize][offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// One bit, counted from the start of the segment in circles, becomes the other.
    pub fn flip(&mut self, segment: u32, bit: usize) {
        let bytes = &mut self.segments[segment as usize];
        let at = bit / 8 % bytes.len();
        bytes[at] ^= 1 << (bit % 8);
    }
}

impl ReadSegment for Disk {
    fn segments(&self) -> u32 {
        self.segments.len() as u32
    }

    fn segment_size(&self) -> u64 {
        self.segments[0].len() as u64
    }

    fn read(&mut self, segment: u32, offset: u64, into: &mut [u8]) -> io::Result<()> {
        into.copy_from_slice(&self.segments[segment as usize][offset as usize..][..into.len()]);
        Ok(())
    }
}
