//! A FUSE file system with one file, `disk`, that records every write and every flush in the order in which they were done.
//!
//! Invariant: requests are served one after the other. What stands before a flush in the record is on the disk once the flush is
//! recorded; what stands behind the last flush may be there in part, or not at all.

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    WriteFlags,
};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::io;
use std::mem;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

/// The name of the one file.
pub const DISK: &str = "disk";
const DISK_INODE: INodeNo = INodeNo(2);
const CACHED: Duration = Duration::from_secs(3600);

/// What was done to the disk.
#[derive(Clone, Debug)]
pub enum Operation {
    /// These bytes were written at this offset, in bytes.
    Write(u64, Box<[u8]>),
    /// All that was written before is on the disk.
    Flush,
}

/// A moment of the load: where in the record it was, and its place among all moments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moment {
    /// Operations that were recorded by then. What a client was told before rests on these alone.
    pub operations: usize,
    /// Rises from moment to moment.
    pub tick: u64,
}

/// All operations so far, and what the disk reads as now.
struct Recorded {
    operations: Vec<Operation>,
    now: Vec<u8>,
    ticks: u64,
}

/// The record of one disk; clones share it.
#[derive(Clone)]
pub struct Record(Arc<Mutex<Recorded>>);

impl Record {
    /// An empty record of a disk of zeros of so many bytes.
    pub fn new(size: usize) -> Record {
        Record(Arc::new(Mutex::new(Recorded { operations: Vec::new(), now: vec![0; size], ticks: 0 })))
    }

    /// The moment that is now.
    pub fn moment(&self) -> Moment {
        let mut recorded = self.lock();
        recorded.ticks += 1;
        Moment { operations: recorded.operations.len(), tick: recorded.ticks }
    }

    /// Takes the operations out: there can be a lot of them.
    pub fn take_operations(&self) -> Vec<Operation> {
        mem::take(&mut self.lock().operations)
    }

    /// Mounts the disk as the file [`DISK`] in a directory, until the answer is dropped.
    ///
    /// # Errors
    /// Of the mount: no root, or no /dev/fuse.
    pub fn mount(&self, directory: &Path) -> io::Result<BackgroundSession> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("ringq-powercut".to_string())];
        fuser::spawn_mount(self.clone(), directory, &config)
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().expect("the recorder does not panic")
    }

    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let (kind, perm, size) = match inode {
            DISK_INODE => (FileType::RegularFile, 0o600, self.lock().now.len() as u64),
            _ => (FileType::Directory, 0o700, 0),
        };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Record {
    fn lookup(&self, _: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == DISK {
            true => reply.entry(&CACHED, &self.attributes(DISK_INODE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&CACHED, &self.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let recorded = self.lock();
        let start = recorded.now.len().min(offset as usize);
        let end = recorded.now.len().min(start + size as usize);
        reply.data(&recorded.now[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut recorded = self.lock();
        match recorded.now.get_mut(offset as usize..offset as usize + data.len()) {
            Some(place) => {
                place.copy_from_slice(data);
                recorded.operations.push(Operation::Write(offset, data.into()));
                reply.written(data.len() as u32);
            }
            None => reply.error(Errno::ENOSPC),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.lock().operations.push(Operation::Flush);
        reply.ok();
    }

    /// A close, which makes nothing durable.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
