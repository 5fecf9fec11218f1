//! A shard's way to durability: batches go into its journal at once and into the store by checkpoints.
//!
//! A batch is appended to the journal as one record; when the record and all before it are written, the batch's replies may
//! leave. Batches are kept here, in memory, until a checkpoint hands them to the store, which frees their place in the
//! journal.
//!
//! Invariants: a batch is handed to the store only when the journal has it; the store gets batches in order, each once; what
//! the store has not confirmed is never overwritten.
//!
//! Does not know what a batch holds, and decides nothing about replies.
//!
//! Step 6 and 7 of a message's path.

use crate::clock::Now;
use crate::ids::Seq;
use crate::journal::{Files, PageBuffer, Room, SyncMethod, Write, Writer, WriterConfig};
use crate::kept::Kept;
use crate::ring::{FileId, Ring, WriteSync};
use crate::stats::JournalStats;
use crate::store::Request;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// After so much silence a covering record says that everything before it was acknowledged, ms.
const COVER_AFTER_MS: u64 = 1000;

/// In an unsynced run what the page cache holds is synced this often, ms.
const SYNC_EVERY_MS: u64 = 1000;

/// A write that found no space is tried again after this, ms.
const RETRY_AFTER_MS: u64 = 100;

/// What a shard's durability is told once.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How records are placed.
    pub writer: WriterConfig,
    /// Bytes of kept batches that start a checkpoint.
    pub checkpoint_size: usize,
    /// `-C`, ms: a batch is kept no longer than this. 0: only as long as there is room.
    pub checkpoint_every_ms: u64,
}

/// A shard's journal and what of it the store does not have.
pub struct Durability {
    config: Config,
    writer: Writer,
    /// The segments as the ring knows them.
    segments: Vec<FileId>,
    /// And as an operator knows them.
    paths: Vec<PathBuf>,
    method: Method,
    /// Journalled or on its way there, not handed to the store.
    kept: Kept,
    /// When the oldest kept batch came, monotonic ms.
    kept_since_ms: u64,
    durable: Seq,
    /// The newest batch that holds anything.
    last_content: Seq,
    /// What the newest record says is durable.
    covered: Seq,
    last_write_ms: u64,
    /// The newest batch of all.
    newest: Seq,
    /// Someone waits for everything up to this batch to be in the store.
    urgent: Option<Seq>,
    /// The newest batch handed to the store.
    handed: Seq,
    /// What the checkpoint that runs began with, bytes.
    handed_size: usize,
    /// The newest batch that the store has.
    stored: Seq,
    /// The store was told to hurry with everything up to this batch.
    hurried: Seq,
    stats: JournalStats,
    retries: Vec<(Write, u64)>,
    places: VecDeque<Submitted>,
}

/// A write under way: its name, its place, and when it was submitted.
struct Submitted {
    token: u32,
    segment: u32,
    offset: u64,
    at_us: u64,
}

/// What came of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// The newest durable batch, if there are more than before.
    pub durable: Option<Seq>,
    /// When it was submitted, monotonic µs.
    pub at_us: u64,
}

/// How a record reaches its file.
enum Method {
    /// Through the ring, durable when it completes.
    Ring(WriteSync),
    /// `-N`: into the page cache, by a system call that does not wait for the device. A buffered write through the ring would go
    /// through the kernel's worker threads.
    PageCache { files: Vec<OwnedFd>, is_dirty: bool, syncing: usize, synced_ms: u64 },
}

impl Durability {
    /// Begins with an empty journal.
    ///
    /// # Errors
    /// When the files' descriptors cannot be duplicated.
    pub fn new(config: Config, files: &Files, ring: &mut Ring) -> io::Result<Durability> {
        let mut segments = Vec::new();
        for descriptor in files.descriptors() {
            segments.push(ring.add_file(descriptor.try_clone()?));
        }
        let method = match files.sync_method() {
            SyncMethod::DirectDsync => Method::Ring(WriteSync::Dsync),
            SyncMethod::WriteThenFdatasync => Method::Ring(WriteSync::Fdatasync),
            SyncMethod::PageCache => {
                let files: io::Result<_> = files.descriptors().iter().map(OwnedFd::try_clone).collect();
                Method::PageCache { files: files?, is_dirty: false, syncing: 0, synced_ms: 0 }
            }
        };
        Ok(Durability {
            config,
            writer: Writer::new(config.writer),
            segments,
            paths: files.paths().to_vec(),
            method,
            kept: Kept::new(config.writer.shard),
            kept_since_ms: 0,
            durable: Seq(0),
            last_content: Seq(0),
            covered: Seq(0),
            last_write_ms: 0,
            newest: Seq(0),
            urgent: None,
            handed: Seq(0),
            handed_size: 0,
            stored: Seq(0),
            hurried: Seq(0),
            stats: JournalStats::default(),
            retries: Vec::new(),
            places: VecDeque::new(),
        })
    }

    /// Whether a batch of this size can be taken now.
    pub fn has_room(&self, size: usize) -> bool {
        self.writer.room(size) == Room::Now
    }

    /// Whether the rest of the journal is kept for removals.
    pub fn refuses_puts(&self) -> bool {
        self.writer.is_reserved_for_removals(0)
    }

    /// Writes a batch to the journal. Returns the newest durable batch, if the write was done at once.
    ///
    /// # Errors
    /// When the write failed: nothing more may be acknowledged.
    pub fn take(&mut self, ring: &mut Ring, now: Now, seq: Seq, mutations: &[u8]) -> io::Result<Option<Seq>> {
        let write = self.writer.append(seq, self.durable, mutations);
        self.covered = self.durable;
        self.newest = seq;
        self.last_write_ms = now.mono_ms;
        if !mutations.is_empty() {
            self.last_content = seq;
        }
        if self.kept.is_empty() {
            self.kept_since_ms = now.mono_ms;
        }
        self.kept.push(seq, mutations, write.end);
        self.stats.records += 1;
        self.stats.bytes += write.buffer.bytes().len() as u64;
        self.write(ring, now, write)
    }

    fn write(&mut self, ring: &mut Ring, now: Now, write: Write) -> io::Result<Option<Seq>> {
        match &mut self.method {
            Method::Ring(sync) => {
                let Write { token, segment, offset, .. } = write;
                self.places.push_back(Submitted { token, segment, offset, at_us: now.mono_us });
                let file = self.segments[write.segment as usize];
                ring.write(file, write.offset, write.buffer, *sync, write.token);
                Ok(None)
            }
            Method::PageCache { files, is_dirty, .. } => {
                *is_dirty = true;
                match write_all(&files[write.segment as usize], write.buffer.bytes(), write.offset) {
                    Err(error) if is_full(&error) => {
                        self.retries.push((write, now.mono_ms + RETRY_AFTER_MS));
                        return Ok(None);
                    }
                    result => result.map_err(|error| self.unwritten(write.segment, write.offset, error))?,
                }
                let durable = self.writer.written(write.token, write.buffer);
                self.note_durable(durable);
                Ok(durable)
            }
        }
    }

    /// A write through the ring is done.
    ///
    /// # Errors
    /// When the write failed: nothing more may be acknowledged. A device without space is waited for.
    pub fn on_written(
        &mut self,
        now: Now,
        token: u32,
        buffer: PageBuffer,
        result: io::Result<()>,
    ) -> io::Result<Written> {
        let at = self.places.iter().position(|place| place.token == token).expect("a write completes once");
        let Submitted { segment, offset, at_us, .. } = self.places.remove(at).expect("just found");
        match result {
            Ok(()) => {
                let durable = self.writer.written(token, buffer);
                self.note_durable(durable);
                Ok(Written { durable, at_us })
            }
            // A file system that shares or compresses blocks can need space even for what was allocated.
            Err(error) if is_full(&error) => {
                let end = crate::journal::START;
                self.retries.push((Write { token, segment, offset, end, buffer }, now.mono_ms + RETRY_AFTER_MS));
                Ok(Written { durable: None, at_us })
            }
            Err(error) => Err(self.unwritten(segment, offset, error)),
        }
    }

    /// The error of a write, with its place.
    fn unwritten(&self, segment: u32, offset: u64, error: io::Error) -> io::Error {
        let path = self.paths[segment as usize].display();
        io::Error::new(error.kind(), format!("{path} cannot be written at byte {offset}: {error}"))
    }

    fn note_durable(&mut self, durable: Option<Seq>) {
        self.durable = self.durable.max(durable.unwrap_or_default());
    }

    /// A background sync of an unsynced run is done.
    ///
    /// # Errors
    /// The sync's: what was acknowledged may be gone, so the server must stop.
    pub fn on_synced(&mut self, result: io::Result<()>) -> io::Result<()> {
        if let Method::PageCache { syncing, .. } = &mut self.method {
            *syncing -= 1;
        }
        // Which of the files it was the ring does not say.
        result.map_err(|error| {
            let paths = self.paths[0].with_file_name("segment-*");
            io::Error::new(error.kind(), format!("{} cannot be synced: {error}", paths.display()))
        })
    }

    /// The store has everything up to `seq`, and gives the buffers back that it was in.
    pub fn on_checkpointed(&mut self, seq: Seq, spent: Vec<Vec<u8>>) {
        self.kept.recycle(spent);
        self.stored = seq;
        if self.stored >= self.handed {
            self.handed_size = 0;
        }
        self.writer.release(seq);
    }

    /// What is counted, and where it stands.
    pub fn stats(&self) -> JournalStats {
        JournalStats {
            used: self.writer.used_size(),
            capacity: self.writer.capacity(),
            writes: self.writer.under_way() as u64,
            unstored: (self.kept.size() + self.handed_size) as u64,
            ..self.stats
        }
    }

    /// How much waits for the store, bytes, where `memory_max` is all there may be. A journal that is full of small records is as
    /// pressing as memory that is full of messages.
    pub fn pressure(&self, memory_max: usize) -> usize {
        let filled = self.writer.used_size() as f64 / self.writer.capacity() as f64;
        (self.kept.size() + self.handed_size).max((filled * memory_max as f64) as usize)
    }

    /// `-C` has changed, ms.
    pub fn set_checkpoint_every(&mut self, every_ms: u64) {
        self.config.checkpoint_every_ms = every_ms;
    }

    /// Someone waits until everything up to `through` is in the store.
    pub fn hurry(&mut self, through: Seq) {
        if through > self.hurried {
            self.urgent = self.urgent.max(Some(through));
        }
    }

    /// Hurries with all there is.
    pub fn hurry_all(&mut self) {
        self.hurry(self.newest);
    }

    /// What is to be handed to the store now, if anything.
    pub fn checkpoint(&mut self, now: Now) -> Option<Request> {
        let every = self.config.checkpoint_every_ms;
        let is_old = every > 0 && now.mono_ms >= self.kept_since_ms + every && !self.kept.is_empty();
        let is_large = self.kept.size() >= self.config.checkpoint_size || self.writer.is_half_full();
        // One at a time: while it runs, what comes is collected, so that the next one is as large as it can be.
        let is_due = (is_old || is_large) && self.handed <= self.stored;
        if !is_due && self.urgent.is_none() {
            return None;
        }
        self.kept.close();
        let has_batches = self.kept.has_through(self.durable);
        // Without batches it hurries those that were handed over before.
        let hurries = self.urgent.is_some_and(|through| has_batches || self.handed >= through);
        if !(hurries || is_due && has_batches) {
            return None;
        }
        let before = self.kept.size();
        let batches = self.kept.take_through(self.durable);
        self.handed_size += before - self.kept.size();
        self.kept_since_ms = now.mono_ms;
        self.handed = batches.last().map_or(self.handed, |batch| batch.seq);
        self.stats.checkpoints += u64::from(has_batches);
        if let Some(through) = self.urgent.take_if(|through| self.handed >= *through) {
            self.hurried = through;
        }
        Some(Request::Checkpoint { batches, urgent: hurries })
    }

    /// Whether the store has been handed what it does not have yet.
    pub fn is_checkpointing(&self) -> bool {
        self.handed > self.stored
    }

    /// Whether a covering record is due: an empty batch that says what was acknowledged.
    pub fn wants_cover(&self, now: Now) -> bool {
        self.may_cover() && now.mono_ms >= self.last_write_ms + COVER_AFTER_MS
    }

    /// Whether a covering record would say anything, and can be written.
    pub fn may_cover(&self) -> bool {
        self.last_content > self.covered && self.writer.under_way() == 0 && self.has_room(0)
    }

    /// Whether something has been appended that does not count yet.
    pub fn is_writing(&self) -> bool {
        self.writer.under_way() > 0
    }

    /// Does what time has made due: writes that failed for lack of space, and the sync of an unsynced run. Returns the newest
    /// durable batch, if a write was done at once.
    ///
    /// # Errors
    /// As [`Durability::take`].
    pub fn on_time(&mut self, ring: &mut Ring, now: Now) -> io::Result<Option<Seq>> {
        let mut durable = None;
        while let Some(at) = self.retries.iter().position(|(_, due)| *due <= now.mono_ms) {
            let (write, _) = self.retries.swap_remove(at);
            durable = durable.max(self.write(ring, now, write)?);
        }
        if let Method::PageCache { is_dirty, syncing, synced_ms, .. } = &mut self.method
            && *is_dirty
            && *syncing == 0
            && now.mono_ms >= *synced_ms + SYNC_EVERY_MS
        {
            *is_dirty = false;
            *synced_ms = now.mono_ms;
            *syncing = self.segments.len();
            self.segments.iter().for_each(|segment| ring.sync(*segment));
        }
        Ok(durable)
    }

    /// When [`Durability::on_time`], a checkpoint or a covering record is due, monotonic ms.
    pub fn next_deadline(&self) -> Option<u64> {
        let cover = self.may_cover().then_some(self.last_write_ms + COVER_AFTER_MS);
        let every = self.config.checkpoint_every_ms;
        // While a checkpoint runs, its end is what wakes the shard: a time that has passed would keep it awake.
        let may_begin = every > 0 && !self.kept.is_empty() && self.handed <= self.stored;
        let checkpoint = may_begin.then_some(self.kept_since_ms + every);
        let retry = self.retries.iter().map(|(_, due)| *due).min();
        let sync = match &self.method {
            Method::PageCache { is_dirty: true, syncing: 0, synced_ms, .. } => Some(synced_ms + SYNC_EVERY_MS),
            _ => None,
        };
        [cover, checkpoint, retry, sync].into_iter().flatten().min()
    }
}

/// The only failure of a write that may pass.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(size) => {
                bytes = &bytes[size..];
                offset += size as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
