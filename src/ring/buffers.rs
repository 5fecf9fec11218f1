//! Provided buffers: a ring of equal buffers from which the kernel takes one when bytes arrive, so that an idle connection
//! owns none.
//!
//! One private mapping holds the ring the kernel reads (`struct io_uring_buf_ring`, its tail in the last two bytes of the
//! first entry) and, behind it, the buffers. Invariant: a buffer is either the kernel's (between tail and the kernel's own
//! head) or ours (from the completion that names it until [`Buffers::give_back`]); only our buffers are read here.

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// The one group of buffers of a ring.
pub(super) const GROUP: u16 = 0;

/// The kernel numbers buffers with 16 bits and takes half of that.
pub(super) const COUNT_MAX: u16 = 1 << 15;

/// Where the buffers may begin: on a page of the usual size.
const ALIGNMENT: usize = 4096;

/// A received run of bytes in a buffer that is ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub buffer: u16,
    pub size: u32,
}

/// The mapping and its accounting.
pub(super) struct Buffers {
    mapping: *mut u8,
    mapping_size: usize,
    /// Where the buffers begin in the mapping.
    memory_offset: usize,
    count: u16,
    buffer_size: u32,
    /// Ours to write; wraps around.
    tail: u16,
    /// Buffers no gathered completion has named: what the kernel still has, as far as we know.
    available: u16,
    leaked: bool,
}

impl Buffers {
    /// Maps `count` (a power of two) buffers of `buffer_size` bytes, all present in memory, and gives them to the kernel.
    ///
    /// # Errors
    /// When memory is short, or the kernel does not know provided buffer rings.
    pub fn register(submitter: &Submitter<'_>, count: u16, buffer_size: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two());
        assert!(count <= COUNT_MAX);
        assert!(buffer_size > 0);
        let memory_offset = (usize::from(count) * size_of::<BufRingEntry>()).next_multiple_of(ALIGNMENT);
        let mapping_size = memory_offset + usize::from(count) * buffer_size as usize;
        // Populated, because the first touch of a page costs far more than the receive that would cause it.
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: a new anonymous mapping at an address the kernel picks touches no memory in use.
        let mapping =
            unsafe { mmap_anonymous(std::ptr::null_mut(), mapping_size, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        let mut buffers = Buffers {
            mapping: mapping.cast(),
            mapping_size,
            memory_offset,
            count,
            buffer_size,
            tail: 0,
            available: 0,
            leaked: false,
        };
        // SAFETY: the ring of entries is page-aligned, zeroed and stays mapped until `Drop`, which the owner of the io_uring
        // runs after the registration ended with it.
        unsafe { submitter.register_buf_ring_with_flags(buffers.mapping as u64, count, GROUP, 0) }?;
        for buffer in 0..count {
            buffers.give_back(buffer);
        }
        Ok(buffers)
    }

    /// Buffers the kernel has, less those taken by completions not gathered yet.
    pub fn available(&self) -> u16 {
        self.available
    }

    /// How many there are.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// A gathered completion names one more buffer.
    pub fn taken(&mut self) {
        assert!(self.available > 0, "the kernel takes only what it was given");
        self.available -= 1;
    }

    /// The bytes of a lease.
    pub fn bytes(&self, lease: Lease) -> &[u8] {
        assert!(lease.buffer < self.count);
        assert!(lease.size <= self.buffer_size);
        let offset = self.memory_offset + usize::from(lease.buffer) * self.buffer_size as usize;
        // SAFETY: inside the mapping, which was zeroed at its creation; the kernel wrote it before the completion that made
        // the lease and does not write again before `give_back`, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.mapping.add(offset), lease.size as usize) }
    }

    /// Hands a buffer to the kernel.
    pub fn give_back(&mut self, buffer: u16) {
        assert!(buffer < self.count);
        assert!(self.available < self.count, "every buffer is given once");
        let entries: *mut BufRingEntry = self.mapping.cast();
        let place = usize::from(self.tail & (self.count - 1));
        let memory = self.mapping as usize + self.memory_offset + usize::from(buffer) * self.buffer_size as usize;
        // SAFETY: `place` is below `count`; the kernel does not read an entry at or past the tail, so it is ours alone. The
        // setters leave the reserved field alone, which in the first entry is the tail.
        let entry = unsafe { &mut *entries.add(place) };
        entry.set_addr(memory as u64);
        entry.set_len(self.buffer_size);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        self.available += 1;
        // SAFETY: `entries` is the first entry of a registered ring; its tail is two aligned bytes that only we write and
        // that the kernel reads with acquire.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(entries).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Never unmaps: for an owner that could not make sure the kernel is done with the memory.
    pub fn leak(&mut self) {
        self.leaked = true;
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: our own mapping; leases borrow `self`, and the owner has joined every operation that could write to it.
        // Unmapping fails only for arguments that are not a mapping.
        let _ = unsafe { munmap(self.mapping.cast(), self.mapping_size) };
    }
}
