//! Writes to files through the ring: the journal's way to the device.
//!
//! A write is one submission with the sync in it, or a write followed by a sync where the file system refuses
//! direct writes. It is reported once, when both are done.
//!
//! Invariant: a buffer given to [`Ring::write`] is not touched, moved or freed before the kernel is done with it.

use super::token::{Kind, Token};
use super::{Event, Ring};
use crate::page_buffer::PageBuffer;
use io_uring::{opcode, types};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// How a write is made durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteSync {
    /// With the write itself: RWF_DSYNC. Meant for descriptors opened with O_DIRECT.
    Dsync,
    /// By an fdatasync that follows it.
    Fdatasync,
}

/// A file of a ring, numbered from 0 in the order of [`Ring::add_file`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileId(pub u32);

/// Files and the writes under way to them.
#[derive(Default)]
pub(super) struct Files {
    files: Vec<OwnedFd>,
    writes: Vec<Option<FileWrite>>,
    free: Vec<u32>,
}

struct FileWrite {
    /// The caller's name for it.
    token: u32,
    file: FileId,
    buffer: PageBuffer,
    /// A sync is still to follow.
    wants_sync: bool,
    /// There is nothing to write: only a sync was asked for.
    is_sync: bool,
}

impl Files {
    fn insert(&mut self, write: FileWrite) -> u32 {
        match self.free.pop() {
            Some(index) => {
                self.writes[index as usize] = Some(write);
                index
            }
            None => {
                self.writes.push(Some(write));
                (self.writes.len() - 1) as u32
            }
        }
    }

    fn fd(&self, file: FileId) -> types::Fd {
        types::Fd(self.files[file.0 as usize].as_raw_fd())
    }

    /// Whether the kernel holds no buffer.
    pub fn is_idle(&self) -> bool {
        self.free.len() == self.writes.len()
    }

    /// Gives up the buffers that the kernel never let go of.
    pub fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.writes));
    }
}

impl Ring {
    /// Takes over a file to be written through the ring.
    pub fn add_file(&mut self, file: OwnedFd) -> FileId {
        self.files.files.push(file);
        FileId((self.files.files.len() - 1) as u32)
    }

    /// Writes a whole buffer at `offset` and makes it durable; answered by [`Event::Written`]. Several may be under way at once
    /// and complete in any order.
    pub fn write(&mut self, file: FileId, offset: u64, buffer: PageBuffer, sync: WriteSync, token: u32) {
        let bytes = buffer.bytes();
        let size = u32::try_from(bytes.len()).expect("a record is smaller than 4 GiB");
        let flags = if sync == WriteSync::Dsync { libc::RWF_DSYNC } else { 0 };
        let entry = opcode::Write::new(self.files.fd(file), bytes.as_ptr(), size).offset(offset).rw_flags(flags as _);
        let index = self.files.insert(FileWrite {
            token,
            file,
            buffer,
            wants_sync: sync == WriteSync::Fdatasync,
            is_sync: false,
        });
        self.push(entry.build().user_data(Token::new(Kind::Write, index, 0).pack()));
    }

    /// A write, or the sync after it, has completed.
    pub(super) fn on_file(&mut self, token: Token, result: Result<u32, Errno>) -> Option<Event<'static>> {
        let write = self.files.writes[token.index as usize].as_mut().expect("what completes was submitted");
        let size = write.buffer.bytes().len();
        let result = match result {
            Ok(written) if token.kind == Kind::Write && written as usize != size => {
                Err(io::Error::other(format!("only {written} of {size} bytes were written")))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        };
        if result.is_ok() && std::mem::take(&mut write.wants_sync) {
            let file = write.file;
            self.push_sync(file, token.index);
            return None;
        }
        self.files.free.push(token.index);
        let write = self.files.writes[token.index as usize].take().expect("just seen");
        if write.is_sync {
            return Some(Event::Synced { result });
        }
        Some(Event::Written { token: write.token, buffer: write.buffer, result })
    }

    /// Brings what was written to a file by other means to the device; answered by [`Event::Synced`].
    pub fn sync(&mut self, file: FileId) {
        let write = FileWrite { token: 0, file, buffer: PageBuffer::new(), wants_sync: false, is_sync: true };
        let index = self.files.insert(write);
        self.push_sync(file, index);
    }

    fn push_sync(&mut self, file: FileId, index: u32) {
        let sync = opcode::Fsync::new(self.files.fd(file)).flags(types::FsyncFlags::DATASYNC).build();
        self.push(sync.user_data(Token::new(Kind::Sync, index, 0).pack()));
    }
}
