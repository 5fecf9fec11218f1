//! The writer: where a shard's records go, and when they count.
//!
//! The segments form a ring. A record goes behind the one before it, or to the start of the next segment when the rest of its
//! segment is too short. Writes may complete in any order; records count in order. A segment is used again once
//! everything in it is in the store.
//!
//! Invariant: no byte of a record that is under way or not yet in the store is written again. Does no I/O: [`Write`] says
//! what to write where, [`Writer::written`] that it was.
//!
//! Step 6 to 7 of a message's path.

#![forbid(unsafe_code)]

use super::record::{self, Header, record_size};
use super::{BLOCK_SIZE, PageBuffer, START};
use crate::ids::{Position, Salt, Seq, ShardId};
use crate::limits;
use std::collections::VecDeque;

/// Memory a buffer may own and still be kept for reuse, bytes: a batch is handed on at [`limits::BATCH_SIZE`], and what ends it
/// may be as large again. A buffer for a larger message is given back.
const KEPT_BUFFER_SIZE_MAX: usize = 2 * limits::BATCH_SIZE;

/// What a writer is told once.
#[derive(Clone, Copy, Debug)]
pub struct WriterConfig {
    /// Whose journal it is.
    pub shard: ShardId,
    /// The generation, already durable in the store.
    pub salt: Salt,
    /// Size of one segment, bytes.
    pub segment_size: u64,
    /// How many there are: a multiple of 4, so that half and three quarters of the journal are whole segments.
    pub segments: u32,
    /// Records that may be under way at once.
    pub depth: usize,
    /// `-N`.
    pub unsynced: bool,
}

/// Whether a record can be appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// Yes.
    Now,
    /// When a write under way has completed.
    Busy,
    /// When the store has more of the journal: the segment it would go to is still needed. A checkpoint must run.
    Full,
}

/// A record to be written.
#[derive(Debug)]
pub struct Write {
    /// Names the write to [`Writer::written`].
    pub token: u32,
    /// The segment to write to.
    pub segment: u32,
    /// Byte offset in it, a multiple of [`BLOCK_SIZE`].
    pub offset: u64,
    /// Where the journal goes on after the record: what the store keeps with its mutations.
    pub end: Position,
    /// All of [`PageBuffer::bytes`] is to be written. It may take several writes, and one that failed for lack of space may be
    /// repeated: the record counts when all are done.
    pub buffer: PageBuffer,
}

#[derive(Debug)]
struct UnderWay {
    seq: Seq,
    token: u32,
    is_written: bool,
}

/// The places of a shard's records, from the first of a generation on.
#[derive(Debug)]
pub struct Writer {
    config: WriterConfig,
    /// Where the last record ended, and the number of the next.
    next: Position,
    /// For each segment the newest record in it; 0: none.
    newest: Vec<Seq>,
    /// The newest record that is in the store, as are all before it.
    released: Seq,
    /// From the oldest record that does not count yet to the newest.
    under_way: VecDeque<UnderWay>,
    /// Empty buffers, at most `depth`.
    spare: Vec<PageBuffer>,
}

impl Writer {
    /// Begins a generation at [`START`].
    pub fn new(config: WriterConfig) -> Writer {
        assert!(config.segments > 0 && config.segments.is_multiple_of(4), "quarters are whole segments");
        assert!(config.segment_size > 0 && config.segment_size.is_multiple_of(BLOCK_SIZE), "segments are whole blocks");
        assert!(config.depth > 0, "something must be written");
        Writer {
            config,
            next: START,
            newest: vec![Seq(0); config.segments as usize],
            released: Seq(0),
            under_way: VecDeque::with_capacity(config.depth),
            spare: Vec::with_capacity(config.depth),
        }
    }

    /// Whether a record with so many bytes of mutations can be appended.
    pub fn room(&self, payload_size: usize) -> Room {
        let (segment, _) = self.place(payload_size);
        let in_it = self.newest[segment as usize];
        if segment != self.next.segment && in_it > self.released {
            return Room::Full;
        }
        // What is in the store may still be under way to the journal; a place is never written twice at the same time.
        let overlaps = segment != self.next.segment && self.under_way.front().is_some_and(|oldest| oldest.seq <= in_it);
        if overlaps || self.under_way.len() == self.config.depth { Room::Busy } else { Room::Now }
    }

    /// Builds the next record and gives it its place. `durable_through` is the newest record whose replies may have been sent.
    /// To be called when [`Writer::room`] says [`Room::Now`], with `seq` one more than last time.
    pub fn append(&mut self, seq: Seq, durable_through: Seq, mutations: &[u8]) -> Write {
        assert_eq!(seq, self.next.seq, "records are appended in order");
        assert_eq!(self.room(mutations.len()), Room::Now, "records are appended when there is room");
        let (segment, offset) = self.place(mutations.len());
        let mut buffer = self.spare.pop().unwrap_or_default();
        let header = Header { shard: self.config.shard, seq, durable_through, unsynced: self.config.unsynced };
        record::encode(&header, &self.config.salt, mutations, &mut buffer);
        let end = Position { seq: Seq(seq.0 + 1), segment, offset: offset + buffer.bytes().len() as u64 };
        // Few are under way at once, so the low half of the number is enough to tell them apart.
        let token = seq.0 as u32;
        self.next = end;
        self.newest[segment as usize] = seq;
        self.under_way.push_back(UnderWay { seq, token, is_written: false });
        Write { token, segment, offset, end, buffer }
    }

    /// Takes note that a record is written whole, and durably so unless the run is unsynced. Returns the newest record that
    /// counts now, when there are more than before: it and all before it are written.
    pub fn written(&mut self, token: u32, buffer: PageBuffer) -> Option<Seq> {
        let write = self.under_way.iter_mut().find(|write| write.token == token).expect("a write is under way");
        assert!(!write.is_written, "a write completes once");
        write.is_written = true;
        if buffer.capacity() <= KEPT_BUFFER_SIZE_MAX && self.spare.len() < self.config.depth {
            self.spare.push(buffer);
        }
        let mut newest = None;
        while self.under_way.front().is_some_and(|write| write.is_written) {
            newest = self.under_way.pop_front().map(|write| write.seq);
        }
        newest
    }

    /// Takes note that the store has every record up to and including `through`, durably.
    pub fn release(&mut self, through: Seq) {
        assert!(through < self.next.seq, "the store has only what was appended");
        self.released = self.released.max(through);
    }

    /// Records appended that do not count yet.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// What cannot be written again before the store has more, bytes: segments with something that the store has not, and the
    /// current one up to here.
    pub fn used_size(&self) -> u64 {
        self.needed_segments() * self.config.segment_size + self.next.offset
    }

    /// All there is, bytes.
    pub fn capacity(&self) -> u64 {
        u64::from(self.config.segments) * self.config.segment_size
    }

    /// Whether a checkpoint should run so that the journal does not fill up.
    pub fn is_half_full(&self) -> bool {
        self.used_size() >= self.capacity() / 2
    }

    /// Whether a record with so many bytes of mutations would reach into the last quarter, which is kept for removals: a full
    /// journal must not keep anyone from emptying queues.
    pub fn is_reserved_for_removals(&self, payload_size: usize) -> bool {
        let (segment, offset) = self.place(payload_size);
        let end = offset + record_size(payload_size);
        let before = if segment == self.next.segment {
            self.needed_segments()
        } else {
            self.needed_segments() + u64::from(self.is_needed(self.next.segment))
        };
        before * self.config.segment_size + end > self.capacity() / 4 * 3
    }

    fn place(&self, payload_size: usize) -> (u32, u64) {
        let size = record_size(payload_size);
        assert!(size <= self.config.segment_size, "a record fits a segment");
        if self.next.offset + size <= self.config.segment_size {
            (self.next.segment, self.next.offset)
        } else {
            ((self.next.segment + 1) % self.config.segments, 0)
        }
    }

    fn is_needed(&self, segment: u32) -> bool {
        self.newest[segment as usize] > self.released
    }

    /// Other segments than the current one that are needed.
    fn needed_segments(&self) -> u64 {
        (0..self.config.segments).filter(|s| *s != self.next.segment && self.is_needed(*s)).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Salt;

    const SEGMENT: u64 = 4 * BLOCK_SIZE;
    /// Mutations of a record that takes one block, and a whole segment.
    const BLOCK: usize = 100;
    const WHOLE: usize = SEGMENT as usize - record::HEADER_SIZE;

    fn writer(depth: usize) -> Writer {
        Writer::new(WriterConfig {
            shard: ShardId(0),
            salt: Salt([1; 16]),
            segment_size: SEGMENT,
            segments: 4,
            depth,
            unsynced: false,
        })
    }

    fn append(writer: &mut Writer, size: usize) -> Write {
        writer.append(writer.next.seq, Seq(0), &vec![1; size])
    }

    fn append_and_write(writer: &mut Writer, size: usize) -> Position {
        let write = append(writer, size);
        assert_eq!(writer.written(write.token, write.buffer), Some(Seq(write.end.seq.0 - 1)));
        write.end
    }

    #[test]
    fn records_lie_one_behind_the_other() {
        let mut writer = writer(8);
        let first = append(&mut writer, BLOCK);
        let second = append(&mut writer, 5000);
        assert_eq!((first.segment, first.offset), (0, 0));
        assert_eq!(first.end, Position { seq: Seq(2), segment: 0, offset: 4096 });
        assert_eq!((second.segment, second.offset), (0, 4096));
        assert_eq!(second.end, Position { seq: Seq(3), segment: 0, offset: 3 * 4096 });
        assert_eq!(second.buffer.bytes().len(), 8192);
    }

    #[test]
    fn a_record_that_does_not_fit_the_rest_begins_the_next_segment() {
        let mut writer = writer(8);
        append(&mut writer, BLOCK);
        let whole = append(&mut writer, WHOLE);
        assert_eq!((whole.segment, whole.offset), (1, 0));
        assert_eq!(whole.end, Position { seq: Seq(3), segment: 1, offset: SEGMENT });
        let next = append(&mut writer, 0);
        assert_eq!((next.segment, next.offset), (2, 0));
    }

    #[test]
    fn records_count_in_order_though_writes_complete_in_any() {
        let mut writer = writer(4);
        let mut writes: Vec<Write> = (0..4).map(|_| append(&mut writer, BLOCK)).collect();
        let mut complete = |at: usize| {
            let write = writes.remove(at);
            writer.written(write.token, write.buffer)
        };
        assert_eq!(complete(2), None);
        assert_eq!(complete(0), Some(Seq(1)));
        assert_eq!(complete(1), None);
        assert_eq!(complete(0), Some(Seq(4)));
        assert_eq!(writer.under_way(), 0);
    }

    #[test]
    fn depth_bounds_the_records_under_way() {
        let mut writer = writer(2);
        let (first, second) = (append(&mut writer, BLOCK), append(&mut writer, BLOCK));
        assert_eq!(writer.room(BLOCK), Room::Busy);
        writer.written(second.token, second.buffer);
        assert_eq!(writer.room(BLOCK), Room::Busy, "the second does not count before the first");
        writer.written(first.token, first.buffer);
        assert_eq!(writer.room(BLOCK), Room::Now);
    }

    #[test]
    fn a_segment_is_used_again_when_the_store_has_all_of_it() {
        let mut writer = writer(1);
        let ends: Vec<Position> = (0..16).map(|_| append_and_write(&mut writer, BLOCK)).collect();
        assert_eq!(ends[15], Position { seq: Seq(17), segment: 3, offset: SEGMENT });
        assert_eq!(writer.room(BLOCK), Room::Full);
        writer.release(Seq(3));
        assert_eq!(writer.room(BLOCK), Room::Full, "one record of the segment is missing in the store");
        writer.release(Seq(4));
        assert_eq!(writer.room(BLOCK), Room::Now);
        assert_eq!(append_and_write(&mut writer, BLOCK), Position { seq: Seq(18), segment: 0, offset: 4096 });
        append_and_write(&mut writer, BLOCK);
        assert_eq!(writer.room(WHOLE), Room::Full, "the next segment is still needed");
        writer.release(Seq(2));
        assert_eq!(writer.room(BLOCK), Room::Now, "what was released stays released");
    }

    #[test]
    fn a_place_with_a_write_under_way_is_not_given_again() {
        let mut writer = writer(8);
        let stuck = append(&mut writer, WHOLE);
        for _ in 1..4 {
            append(&mut writer, WHOLE);
        }
        writer.release(Seq(4));
        assert_eq!(writer.room(WHOLE), Room::Busy);
        assert_eq!(writer.written(stuck.token, stuck.buffer), Some(Seq(1)));
        assert_eq!(writer.room(WHOLE), Room::Now);
    }

    #[test]
    fn use_falls_when_segments_are_released() {
        let mut writer = writer(1);
        assert_eq!((writer.used_size(), writer.capacity()), (0, 4 * SEGMENT));
        for _ in 0..6 {
            append_and_write(&mut writer, BLOCK);
        }
        assert_eq!(writer.used_size(), 6 * BLOCK_SIZE);
        assert!(!writer.is_half_full());
        for _ in 0..2 {
            append_and_write(&mut writer, BLOCK);
        }
        assert!(writer.is_half_full());
        writer.release(Seq(8));
        assert_eq!(writer.used_size(), SEGMENT);
        assert!(!writer.is_half_full());
    }

    #[test]
    fn the_last_quarter_is_reserved() {
        let mut writer = writer(1);
        for _ in 0..11 {
            append_and_write(&mut writer, BLOCK);
        }
        assert!(!writer.is_reserved_for_removals(BLOCK));
        assert!(writer.is_reserved_for_removals(5000), "it would begin the fourth segment");
        append_and_write(&mut writer, BLOCK);
        assert!(writer.is_reserved_for_removals(0));
        assert_eq!(writer.room(BLOCK), Room::Now, "removals may use it");
        writer.release(Seq(4));
        assert!(!writer.is_reserved_for_removals(BLOCK));
    }

    /// Otherwise a put could wait for a checkpoint that nothing starts.
    #[test]
    fn nothing_is_refused_before_the_journal_is_half_full() {
        let mut random = crate::journal::crash_tests::Random::new(2);
        let mut writer = writer(1);
        let mut refused = 0;
        for _ in 0..20_000 {
            let size = random.below(WHOLE as u64 + 1) as usize;
            if writer.room(size) == Room::Full || writer.is_reserved_for_removals(size) {
                assert!(writer.is_half_full());
                refused += 1;
            }
            if writer.room(size) == Room::Full || (writer.is_half_full() && random.below(3) == 0) {
                writer.release(Seq(writer.next.seq.0 - 1 - random.below(2).min(writer.next.seq.0 - 1)));
            } else {
                append_and_write(&mut writer, size);
            }
        }
        assert!(refused > 100, "{refused}");
    }

    #[test]
    fn buffers_are_reused_unless_they_are_large() {
        let mut writer = Writer::new(WriterConfig { segment_size: 16 << 20, ..writer(1).config });
        let write = append(&mut writer, BLOCK);
        let place = write.buffer.bytes().as_ptr();
        writer.written(write.token, write.buffer);
        let write = append(&mut writer, BLOCK);
        assert_eq!(write.buffer.bytes().as_ptr(), place);
        writer.written(write.token, write.buffer);
        assert_eq!(writer.spare.len(), 1);
        let large = append(&mut writer, 3 * limits::BATCH_SIZE);
        writer.written(large.token, large.buffer);
        assert_eq!(writer.spare.len(), 0);
    }

    #[test]
    #[should_panic(expected = "in order")]
    fn a_record_out_of_order_is_our_fault() {
        writer(1).append(Seq(2), Seq(0), b"");
    }
}
