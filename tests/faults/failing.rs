//! A FUSE file system in memory whose reads, writes and syncs fail when they are told to, as those of a bad device.
//!
//! Invariant: a request that fails has changed nothing; all others do what they say, and what was written outlives every server.

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const CACHED: Duration = Duration::from_secs(3600);
const BLOCK_SIZE: u32 = 4096;

/// What is asked of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Ask {
    Read,
    Write,
    Sync,
}

/// What fails.
#[derive(Clone, Debug)]
pub struct Fault {
    /// This,
    pub ask: Ask,
    /// of files whose path begins so,
    pub path: &'static str,
    /// after so many more that succeed.
    pub spared: usize,
}

/// A directory or a file.
struct Node {
    /// From the top, without the mount point.
    path: String,
    mode: u32,
    /// Of a directory, by name.
    entries: Option<BTreeMap<OsString, INodeNo>>,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct State {
    /// By inode number less 1. Those that were removed stay, for who has them open.
    nodes: Vec<Node>,
    fault: Option<Fault>,
    /// How often it has come.
    failed: usize,
}

/// The file system; clones share it.
#[derive(Clone)]
pub struct Failing(Arc<Mutex<State>>);

impl Failing {
    /// An empty one that works.
    pub fn new() -> Failing {
        let top = Node { path: String::new(), mode: 0o755, entries: Some(BTreeMap::new()), bytes: Vec::new() };
        Failing(Arc::new(Mutex::new(State { nodes: vec![top], ..State::default() })))
    }

    /// Mounts it until the answer is dropped.
    ///
    /// # Errors
    /// Of the mount.
    pub fn mount(&self, directory: &Path) -> io::Result<BackgroundSession> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("ringq-faults".to_owned())];
        fuser::spawn_mount(self.clone(), directory, &config)
    }

    /// From now on this fails, and nothing else.
    pub fn fail(&self, fault: Option<Fault>) {
        let mut state = self.lock();
        state.fault = fault;
        state.failed = 0;
    }

    /// How often the fault has come.
    pub fn failed(&self) -> usize {
        self.lock().failed
    }

    /// The inodes of files whose path begins so.
    pub fn inodes(&self, path: &str) -> Vec<INodeNo> {
        let state = self.lock();
        let found = state.nodes.iter().enumerate().filter(|(_, node)| node.path.starts_with(path));
        found.map(|(at, _)| INodeNo(at as u64 + 1)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("the file system does not panic")
    }
}

impl State {
    fn node(&mut self, inode: INodeNo) -> &mut Node {
        &mut self.nodes[inode.0 as usize - 1]
    }

    /// Whether this request is one that fails.
    fn fails(&mut self, ask: Ask, inode: INodeNo) -> bool {
        let path = self.node(inode).path.clone();
        match &mut self.fault {
            Some(fault) if fault.ask == ask && path.starts_with(fault.path) => {
                let is_spared = fault.spared > 0;
                fault.spared = fault.spared.saturating_sub(1);
                self.failed += usize::from(!is_spared);
                !is_spared
            }
            _ => false,
        }
    }

    fn make(&mut self, parent: INodeNo, name: &OsStr, mode: u32, is_directory: bool) -> FileAttr {
        let path = format!("{}/{}", self.node(parent).path, name.display());
        self.nodes.push(Node {
            path: path.trim_start_matches('/').to_owned(),
            mode,
            entries: is_directory.then(BTreeMap::new),
            bytes: Vec::new(),
        });
        let inode = INodeNo(self.nodes.len() as u64);
        self.node(parent).entries.as_mut().expect("a directory").insert(name.to_owned(), inode);
        self.attributes(inode)
    }

    fn remove(&mut self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let entries = self.node(parent).entries.as_mut().ok_or(Errno::ENOTDIR)?;
        let inode = entries.remove(name).ok_or(Errno::ENOENT)?;
        self.node(inode).path.push_str(" (removed)");
        Ok(())
    }

    fn attributes(&mut self, inode: INodeNo) -> FileAttr {
        let node = self.node(inode);
        let size = node.bytes.len() as u64;
        FileAttr {
            ino: inode,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if node.entries.is_some() { FileType::Directory } else { FileType::RegularFile },
            perm: (node.mode & 0o7777) as u16,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK_SIZE,
            flags: 0,
        }
    }
}

fn answer(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Failing {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = self.lock();
        let found = state.node(parent).entries.as_ref().and_then(|entries| entries.get(name).copied());
        match found {
            Some(inode) => reply.entry(&CACHED, &state.attributes(inode), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&CACHED, &self.lock().attributes(inode));
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.lock();
        let node = state.node(inode);
        node.mode = mode.unwrap_or(node.mode);
        node.bytes.resize(size.map_or(node.bytes.len(), |size| size as usize), 0);
        reply.attr(&CACHED, &state.attributes(inode));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        reply.entry(&CACHED, &self.lock().make(parent, name, mode, true), Generation(0));
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: i32, reply: ReplyCreate) {
        let attributes = self.lock().make(parent, name, mode, false);
        reply.created(&CACHED, &attributes, Generation(0), FileHandle(0), FopenFlags::empty());
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.lock().remove(parent, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.lock().remove(parent, name));
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut state = self.lock();
        let entries = state.node(inode).entries.clone().unwrap_or_default();
        for (at, (name, inode)) in entries.into_iter().enumerate().skip(offset as usize) {
            let kind = state.attributes(inode).kind;
            if reply.add(inode, at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = self.lock();
        if state.fails(Ask::Read, inode) {
            return reply.error(Errno::EIO);
        }
        let bytes = &state.node(inode).bytes;
        let start = bytes.len().min(offset as usize);
        reply.data(&bytes[start..bytes.len().min(start + size as usize)]);
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.lock();
        if state.fails(Ask::Write, inode) {
            return reply.error(Errno::EIO);
        }
        let bytes = &mut state.node(inode).bytes;
        let end = offset as usize + data.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[offset as usize..end].copy_from_slice(data);
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let fails = self.lock().fails(Ask::Sync, inode);
        answer(reply, if fails { Err(Errno::EIO) } else { Ok(()) });
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let fails = self.lock().fails(Ask::Sync, inode);
        answer(reply, if fails { Err(Errno::EIO) } else { Ok(()) });
    }

    /// A close, which makes nothing durable.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        let mut state = self.lock();
        let bytes = &mut state.node(inode).bytes;
        bytes.resize(bytes.len().max((offset + length) as usize), 0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = 1 << 20;
        reply.statfs(blocks, blocks, blocks, blocks, blocks, BLOCK_SIZE, 255, BLOCK_SIZE);
    }
}
