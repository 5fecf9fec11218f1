//! A FUSE file system with one file, `disk`, that records every write, the answer to it and every flush in the order in which they came.
//!
//! Invariant: a flush covers the writes that were answered before it was asked for, and no others: of those that were under way then, as of those
//! that came later, the disk may have a part, or nothing. So one thread reads requests and answers writes, one at a time, and only while no
//! other request has come for a millisecond: whatever is read later was asked for later, if the loop device has not needed longer to hand it over.

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, Session, WriteFlags,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

/// The name of the one file.
pub const DISK: &str = "disk";
const DISK_INODE: INodeNo = INodeNo(2);
const CACHED: Duration = Duration::from_secs(3600);
/// How long a write is under way when nothing else is asked for, ns: enough for a flush that was asked for meanwhile to come through the loop device.
const UNDER_WAY_NS: i64 = 1_000_000;
/// How many writes may be under way: more than the loop device has.
const UNDER_WAY_MAX: u16 = 256;
/// A write that is not answered by then was followed by a request that this file system does not know.
const FORGOTTEN_AFTER: Duration = Duration::from_millis(50);

/// What was done to the disk.
#[derive(Clone, Debug)]
pub enum Operation {
    /// These bytes were written at this offset, in bytes.
    Write(u64, Box<[u8]>),
    /// The write at this place in the record was answered.
    Answer(usize),
    /// All writes that were answered before are on the disk.
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
    /// Writes that are under way, by their places in the record.
    under_way: VecDeque<(usize, ReplyWrite)>,
}

impl Recorded {
    fn answer_one(&mut self) {
        let Some((place, reply)) = self.under_way.pop_front() else { return };
        let Operation::Write(_, bytes) = &self.operations[place] else { panic!("a write is at place {place}") };
        reply.written(bytes.len() as u32);
        self.operations.push(Operation::Answer(place));
    }
}

/// The record of one disk; clones share it.
#[derive(Clone)]
pub struct Record {
    recorded: Arc<Mutex<Recorded>>,
    /// Where requests come from.
    requests: Arc<OnceLock<OwnedFd>>,
}

impl Record {
    /// An empty record of a disk of zeros of so many bytes.
    pub fn new(size: usize) -> Record {
        let recorded = Recorded { operations: Vec::new(), now: vec![0; size], ticks: 0, under_way: VecDeque::new() };
        Record { recorded: Arc::new(Mutex::new(recorded)), requests: Arc::default() }
    }

    /// The moment that is now.
    pub fn moment(&self) -> Moment {
        let mut recorded = self.lock();
        recorded.ticks += 1;
        Moment { operations: recorded.operations.len(), tick: recorded.ticks }
    }

    /// Takes the operations out: there can be a lot of them. Nothing is done to the disk any more.
    pub fn take_operations(&self) -> Vec<Operation> {
        let mut recorded = self.lock();
        assert!(recorded.under_way.is_empty(), "all writes are answered");
        mem::take(&mut recorded.operations)
    }

    /// Mounts the disk as the file [`DISK`] in a directory, until the answer is dropped.
    ///
    /// # Errors
    /// Of the mount: no root, or no /dev/fuse.
    pub fn mount(&self, directory: &Path) -> io::Result<BackgroundSession> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("ringq-powercut".to_string())];
        let session = Session::new(self.clone(), directory, &config)?;
        let requests = session.as_fd().try_clone_to_owned()?;
        self.requests.set(requests).expect("a record is of one mount");
        self.remember_forgotten();
        session.spawn()
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().expect("the recorder does not panic")
    }

    /// Answers writes until another request is there, which is read first. To be called behind every request.
    fn answer_while_idle(&self) {
        while !self.lock().under_way.is_empty() {
            let requests = self.requests.get().expect("it is mounted");
            let timeout = Timespec { tv_sec: 0, tv_nsec: UNDER_WAY_NS };
            match poll(&mut [PollFd::new(requests, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => self.lock().answer_one(),
                _ => return,
            }
        }
    }

    /// Requests that are not among those below leave a write unanswered, if one was under way and nothing comes after them.
    fn remember_forgotten(&self) {
        let recorded = Arc::downgrade(&self.recorded);
        thread::spawn(move || {
            let mut seen = None;
            while let Some(recorded) = recorded.upgrade() {
                let mut recorded = recorded.lock().expect("the recorder does not panic");
                let first = recorded.under_way.front().map(|(place, _)| *place);
                if first.is_some() && first == seen {
                    recorded.answer_one();
                }
                seen = recorded.under_way.front().map(|(place, _)| *place);
                drop(recorded);
                thread::sleep(FORGOTTEN_AFTER);
            }
        });
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
    /// Has the loop device go on with the next request while a write is under way.
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let refused = |_| {
            io::Error::other("this kernel's FUSE has no asynchronous direct I/O, without which nothing is under way")
        };
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(refused)?;
        config.set_max_background(UNDER_WAY_MAX).map_err(|_| io::Error::other("FUSE has fewer requests under way"))?;
        Ok(())
    }

    fn lookup(&self, _: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == DISK {
            true => reply.entry(&CACHED, &self.attributes(DISK_INODE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
        self.answer_while_idle();
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&CACHED, &self.attributes(inode));
        self.answer_while_idle();
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
        self.answer_while_idle();
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
        drop(recorded);
        self.answer_while_idle();
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
                let place = recorded.operations.len();
                recorded.operations.push(Operation::Write(offset, data.into()));
                recorded.under_way.push_back((place, reply));
            }
            None => reply.error(Errno::ENOSPC),
        }
        drop(recorded);
        self.answer_while_idle();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.lock().operations.push(Operation::Flush);
        reply.ok();
        self.answer_while_idle();
    }

    /// A close, which makes nothing durable.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
        self.answer_while_idle();
    }
}
