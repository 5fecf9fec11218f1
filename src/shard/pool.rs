//! Buffers for replies, kept for reuse.
//!
//! Invariant: `size` is the capacity of all that are kept, and at most [`limits::POOL_SIZE_MAX`].

use crate::limits;

/// Buffers for reuse, a bounded number of bytes of them.
#[derive(Default)]
pub(super) struct Pool {
    buffers: Vec<Vec<u8>>,
    size: usize,
}

impl Pool {
    /// An empty buffer.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.size -= buffer.capacity();
        buffer
    }

    /// Takes back a buffer, if it is of a size worth keeping and there is room.
    pub(super) fn put(&mut self, mut buffer: Vec<u8>) {
        let size = buffer.capacity();
        if (1..=limits::POOLED_BUFFER_SIZE_MAX).contains(&size) && self.size + size <= limits::POOL_SIZE_MAX {
            buffer.clear();
            self.size += size;
            self.buffers.push(buffer);
        }
    }
}
