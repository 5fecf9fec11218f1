//! A page buffer: bytes at an address that direct I/O accepts.
//!
//! Invariant: it starts at a multiple of [`BLOCK_SIZE`] and its length is one. The bytes stay where they are when the
//! buffer is moved, so a write under way may go on reading them. Does not clear what it held before: reuse is the point.
//!
//! Step 6 of a message's path.

#![forbid(unsafe_code)]

/// What direct I/O asks of addresses, offsets and sizes on common devices, and a page of the page cache, bytes.
pub const BLOCK_SIZE: u64 = 4096;

/// One block, where direct I/O wants it.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

const _: () = assert!(size_of::<Page>() as u64 == BLOCK_SIZE && align_of::<Page>() as u64 == BLOCK_SIZE);

/// A growable buffer of whole blocks.
#[derive(Default)]
pub struct PageBuffer {
    /// All pages ever needed at once.
    pages: Vec<Page>,
    /// How many of them are in use.
    len: usize,
}

impl PageBuffer {
    /// An empty buffer, which owns no memory.
    pub fn new() -> PageBuffer {
        PageBuffer::default()
    }

    /// Makes the buffer as long as whole blocks that hold `size` bytes. What is in it then is unspecified: zeros or bytes of
    /// earlier uses.
    pub fn reset(&mut self, size: usize) {
        self.len = size.div_ceil(size_of::<Page>());
        if self.pages.len() < self.len {
            // What it held is of no use, so nothing is to be moved.
            if self.pages.capacity() < self.len {
                self.pages = Vec::with_capacity(self.len);
            }
            self.pages.resize(self.len, bytemuck::Zeroable::zeroed());
        }
    }

    /// The blocks in use.
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.pages[..self.len])
    }

    /// The blocks in use.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.pages[..self.len])
    }

    /// Memory it owns, bytes.
    pub fn capacity(&self) -> usize {
        self.pages.capacity() * size_of::<Page>()
    }
}

impl std::fmt::Debug for PageBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageBuffer({} of {} bytes)", self.bytes().len(), self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_whole_blocks_at_an_aligned_address() {
        let mut buffer = PageBuffer::new();
        for (size, expected) in [(0, 0), (1, 4096), (4096, 4096), (4097, 8192), (1, 4096), (1 << 20, 1 << 20)] {
            buffer.reset(size);
            assert_eq!(buffer.bytes().len(), expected);
            assert_eq!(buffer.bytes_mut().len(), expected);
            assert!(expected == 0 || buffer.bytes().as_ptr().addr().is_multiple_of(4096));
        }
    }

    #[test]
    fn a_shorter_use_keeps_the_memory() {
        let mut buffer = PageBuffer::new();
        buffer.reset(100_000);
        let (place, capacity) = (buffer.bytes().as_ptr(), buffer.capacity());
        buffer.reset(10);
        buffer.reset(100_000);
        let moved = buffer;
        assert_eq!((moved.bytes().as_ptr(), moved.capacity()), (place, capacity));
    }
}
