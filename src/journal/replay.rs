//! Replay: reads a journal back at start, and tells a torn tail from damage.
//!
//! Records are read one behind the other from where the store's last checkpoint ended. At the first place without the expected
//! record the whole journal is searched for later ones. If one of them says that replies of the missing record may have been
//! sent, the missing record was acknowledged and has been damaged since: the start is refused. Otherwise it is the torn
//! tail of a crash: no one was told of it, and it is dropped with what follows. In an unsynced run nothing of this can be
//! told, as the kernel wrote in any order: what follows is dropped, and counted.
//!
//! Invariant: what is passed on are the records from the given position on, in order, without a gap, as they were appended.
//! Memory is bounded by one record and one chunk; time by one read of the journal and one more of its headers.
//!
//! Does not know where the bytes come from: [`ReadSegment`] is files or a simulated disk.

#![forbid(unsafe_code)]

use super::record::{self, Announced, HEADER_SIZE, record_size};
use super::{BLOCK_SIZE, segment_name};
use crate::ids::{Position, Salt, Seq, ShardId};
use std::io;
use std::ops::Range;

/// Read at once when what is needed is smaller, bytes.
const CHUNK_SIZE: u64 = 256 << 10;

/// A journal that can be read.
pub trait ReadSegment {
    /// How many segments there are.
    fn segments(&self) -> u32;

    /// Size of each, bytes: a multiple of [`BLOCK_SIZE`].
    fn segment_size(&self) -> u64;

    /// Fills `into` from a segment's bytes. Never asked for bytes outside.
    ///
    /// # Errors
    /// When the medium fails.
    fn read(&mut self, segment: u32, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

/// Takes a record: its number, its mutations, and where the journal goes on behind it.
pub type Receive<'a, E> = dyn FnMut(Seq, &[u8], Position) -> Result<(), E> + 'a;

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Records passed on.
    pub records: u64,
    /// Where the next record was expected.
    pub end: Position,
    /// What was dropped behind the last record; none after a clean end.
    pub torn: Option<Torn>,
}

/// The end of a journal that was being written when the daemon or the machine died.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Torn {
    /// Where the first dropped record was expected.
    pub segment: u32,
    /// Where in the segment, bytes.
    pub offset: u64,
    /// Its number.
    pub seq: Seq,
    /// Dropped records of which at least the header was found.
    pub dropped_records: u64,
    /// The daemon ran with `-N`, so what was dropped may have been acknowledged.
    pub unsynced: bool,
}

/// Why a journal cannot be replayed. What was passed on before is right all the same.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError<E> {
    /// An acknowledged record is damaged.
    #[error(
        "{} is damaged at byte {offset}: record {seq} was acknowledged, as record {} at byte {} of {} tells, but cannot be read. \
         Check the device; then restore the whole data directory from a copy, or the bytes of this file",
        segment_name(*shard, *segment), evidence.seq, evidence.offset, segment_name(*shard, evidence.segment)
    )]
    Corrupt {
        /// Whose journal.
        shard: ShardId,
        /// The damaged segment.
        segment: u32,
        /// Where the damaged record begins in it, bytes.
        offset: u64,
        /// Its number.
        seq: Seq,
        /// The record that tells, and where it begins.
        evidence: Position,
    },
    /// The store's position is not in the journal.
    #[error(
        "the journal of shard {shard} has {segments} segments of {segment_size} bytes, but the database goes on at byte {} of \
         segment {}. The files in journal/{shard} are not those the database was used with: restore the whole data directory \
         from one copy",
        from.offset, from.segment
    )]
    Position {
        /// Whose journal.
        shard: ShardId,
        /// Segments it has.
        segments: u32,
        /// Their size, bytes.
        segment_size: u64,
        /// Where the store says that it goes on.
        from: Position,
    },
    /// The medium failed.
    #[error("{} cannot be read at byte {offset}: {source}. Check the device", segment_name(*shard, *segment))]
    Read {
        /// Whose journal.
        shard: ShardId,
        /// Of which segment.
        segment: u32,
        /// Where in it, bytes.
        offset: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The receiver of the records failed.
    #[error(transparent)]
    Apply(E),
}

/// Passes every record from `from` on to `each`.
///
/// # Errors
/// When an acknowledged record is damaged, the medium cannot be read, or `each` fails.
pub fn replay<E: std::error::Error + 'static>(
    source: &mut dyn ReadSegment,
    shard: ShardId,
    salt: &Salt,
    from: Position,
    each: &mut Receive<'_, E>,
) -> Result<Outcome, ReplayError<E>> {
    let (segments, segment_size) = (source.segments(), source.segment_size());
    let is_inside = from.segment < segments && from.offset <= segment_size && from.offset.is_multiple_of(BLOCK_SIZE);
    if !is_inside || from.seq == Seq(0) {
        return Err(ReplayError::Position { shard, segments, segment_size, from });
    }
    let failed = |failure: ReadFailure| {
        let ReadFailure { segment, offset, source } = failure;
        ReplayError::Read { shard, segment, offset, source }
    };
    let mut reader = Reader { source, shard, salt: *salt, segment: 0, start: 0, bytes: Vec::new() };
    let (mut at, mut records) = (from, 0);
    while let Some(found) = reader.find(at).map_err(failed)? {
        each(at.seq, &reader.bytes[found.mutations], found.end).map_err(ReplayError::Apply)?;
        at = found.end;
        records += 1;
    }
    let rest = reader.search(at).map_err(failed)?;
    if let Some(evidence) = rest.evidence
        && !rest.unsynced
    {
        let (segment, offset) = rest.place;
        return Err(ReplayError::Corrupt { shard, segment, offset, seq: at.seq, evidence });
    }
    let torn = (rest.records > 0).then_some(Torn {
        segment: rest.place.0,
        offset: rest.place.1,
        seq: at.seq,
        dropped_records: rest.records,
        unsynced: rest.unsynced,
    });
    Ok(Outcome { records, end: at, torn })
}

/// A valid record, its mutations in the reader's bytes.
struct Found {
    mutations: Range<usize>,
    end: Position,
}

/// What is behind the last valid record.
struct Rest {
    /// Headers of the missing record and later ones.
    records: u64,
    /// The run was unsynced.
    unsynced: bool,
    /// The first later record by which the missing one was acknowledged.
    evidence: Option<Position>,
    /// Where the missing record is, as far as can be told.
    place: (u32, u64),
}

struct ReadFailure {
    segment: u32,
    offset: u64,
    source: io::Error,
}

/// Reads the journal through one chunk.
struct Reader<'a> {
    source: &'a mut dyn ReadSegment,
    shard: ShardId,
    salt: Salt,
    /// Where the bytes are from.
    segment: u32,
    start: u64,
    bytes: Vec<u8>,
}

impl Reader<'_> {
    /// The record expected at this position: there, or at the start of the next segment if it did not fit.
    fn find(&mut self, at: Position) -> Result<Option<Found>, ReadFailure> {
        for (segment, offset) in places(at, self.source.segments()) {
            let Some(announced) = self.header(segment, offset)? else { continue };
            let size = record_size(announced.payload_size);
            if announced.header.seq != at.seq || size > self.source.segment_size() - offset {
                continue;
            }
            let start = self.load(segment, offset, size)?;
            let mutations = start + HEADER_SIZE..start + HEADER_SIZE + announced.payload_size;
            if announced.covers(&self.bytes[mutations.clone()], &self.salt) {
                let end = Position { seq: Seq(at.seq.0 + 1), segment, offset: offset + size };
                return Ok(Some(Found { mutations, end }));
            }
        }
        Ok(None)
    }

    /// Looks at every block for headers of this generation, the record at this position being missing.
    fn search(&mut self, missing: Position) -> Result<Rest, ReadFailure> {
        let segments = self.source.segments();
        let next_start = ((missing.segment + 1) % segments, 0);
        let mut itself = None;
        let mut successor = None;
        let mut rest = Rest { records: 0, unsynced: false, evidence: None, place: (missing.segment, missing.offset) };
        for segment in 0..segments {
            for offset in (0..self.source.segment_size()).step_by(BLOCK_SIZE as usize) {
                let Some(Announced { header, .. }) = self.header(segment, offset)? else { continue };
                rest.unsynced |= header.unsynced;
                if header.seq < missing.seq {
                    continue;
                }
                rest.records += 1;
                if header.seq == missing.seq {
                    itself = Some((segment, offset));
                } else if header.seq.0 == missing.seq.0 + 1 {
                    successor = Some((segment, offset));
                }
                let is_first = rest.evidence.is_none_or(|first| header.seq < first.seq);
                if header.durable_through >= missing.seq && is_first {
                    rest.evidence = Some(Position { seq: header.seq, segment, offset });
                }
            }
        }
        // Without its header, where the next record lies tells whether the missing one had moved to the next segment.
        let has_moved = missing.offset == self.source.segment_size()
            || successor.is_some_and(|place| place.0 != missing.segment && place != next_start);
        if let Some(place) = itself {
            rest.place = place;
        } else if has_moved {
            rest.place = next_start;
        }
        Ok(rest)
    }

    /// A sound header of this journal's generation at this place.
    fn header(&mut self, segment: u32, offset: u64) -> Result<Option<Announced>, ReadFailure> {
        if offset >= self.source.segment_size() {
            return Ok(None);
        }
        let start = self.load(segment, offset, BLOCK_SIZE)?;
        let announced = record::decode_header(&self.bytes[start..], &self.salt).ok();
        Ok(announced.filter(|announced| announced.header.shard == self.shard))
    }

    /// Has so many bytes of a segment, all inside it, in `bytes`, and returns where they begin there.
    fn load(&mut self, segment: u32, offset: u64, size: u64) -> Result<usize, ReadFailure> {
        let is_loaded =
            segment == self.segment && offset >= self.start && offset + size <= self.start + self.bytes.len() as u64;
        if !is_loaded {
            let size = size.max(CHUNK_SIZE).min(self.source.segment_size() - offset);
            self.bytes.resize(usize::try_from(size).expect("a segment fits memory"), 0);
            let result = self.source.read(segment, offset, &mut self.bytes);
            if let Err(source) = result {
                self.bytes.clear();
                return Err(ReadFailure { segment, offset, source });
            }
            (self.segment, self.start) = (segment, offset);
        }
        Ok((offset - self.start) as usize)
    }
}

/// Where the record of a position can be: at its offset, or at the start of the next segment, unless the place itself is a
/// segment's start, which every record fits.
fn places(at: Position, segments: u32) -> impl Iterator<Item = (u32, u64)> {
    let moved = (at.offset > 0).then_some(((at.segment + 1) % segments, 0));
    [(at.segment, at.offset)].into_iter().chain(moved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::crash_tests::{Disk, SALT, SHARD, read_back, write_all};
    use crate::journal::record::{Header, encode};
    use crate::journal::{PageBuffer, START, Writer};

    const BLOCK: usize = BLOCK_SIZE as usize;

    /// Appends records of these sizes and writes all; each says that all before it were acknowledged.
    fn journal(disk: &mut Disk, unsynced: bool, sizes: &[usize]) -> Vec<Position> {
        let mut writer = Writer::new(disk.config(SALT, unsynced));
        let mut starts = Vec::new();
        for (at, size) in sizes.iter().enumerate() {
            let seq = Seq(at as u64 + 1);
            let write = writer.append(seq, Seq(at as u64), &vec![at as u8; *size]);
            starts.push(Position { seq, segment: write.segment, offset: write.offset });
            write_all(disk, &mut writer, write);
        }
        starts
    }

    fn corrupt_place(disk: &mut Disk) -> Option<(u32, u64, Seq, Position)> {
        match read_back(disk, START) {
            Err(ReplayError::Corrupt { segment, offset, seq, evidence, .. }) => Some((segment, offset, seq, evidence)),
            _ => None,
        }
    }

    #[test]
    fn an_empty_journal_ends_cleanly_where_it_begins() {
        let (outcome, records) = read_back(&mut Disk::new(4), START).unwrap();
        assert_eq!(outcome, Outcome { records: 0, end: START, torn: None });
        assert!(records.is_empty());
    }

    #[test]
    fn records_come_back_in_order_across_segments() {
        let mut disk = Disk::new(4);
        let starts = journal(&mut disk, false, &[10, 2 * BLOCK, 0, 3 * BLOCK, 5]);
        assert_eq!(starts[2], Position { seq: Seq(3), segment: 1, offset: 0 });
        assert_eq!(starts[3], Position { seq: Seq(4), segment: 2, offset: 0 });
        let (outcome, records) = read_back(&mut disk, START).unwrap();
        assert_eq!(outcome.records, 5);
        assert_eq!(outcome.torn, None);
        assert_eq!(outcome.end, Position { seq: Seq(6), segment: 3, offset: 4096 });
        assert_eq!(records[3], (Seq(4), vec![3; 3 * BLOCK]));
        // Going on from a checkpoint gives the rest.
        let (outcome, records) = read_back(&mut disk, Position { seq: Seq(4), segment: 1, offset: 4096 }).unwrap();
        assert_eq!((outcome.records, records[0].0), (2, Seq(4)));
    }

    #[test]
    fn records_longer_than_a_chunk_and_across_chunks_come_back() {
        let mut disk = Disk::new(220);
        let chunk = CHUNK_SIZE as usize;
        let sizes = [chunk - 5 * BLOCK, 10 * BLOCK, 2 * chunk, 10, chunk, 3 * BLOCK, 10, 10];
        let starts = journal(&mut disk, false, &sizes);
        assert_eq!(starts[3].segment, 0);
        assert_eq!(starts[7].segment, 1);
        let (outcome, records) = read_back(&mut disk, START).unwrap();
        assert_eq!((outcome.records, outcome.torn), (8, None));
        for (at, (_, mutations)) in records.iter().enumerate() {
            assert_eq!(*mutations, vec![at as u8; sizes[at]]);
        }
        disk.flip(starts[3].segment, starts[3].offset + 64);
        assert_eq!(corrupt_place(&mut disk), Some((0, starts[3].offset, Seq(4), starts[4])));
    }

    #[test]
    fn a_damaged_record_that_a_later_one_knows_acknowledged_is_refused() {
        let mut disk = Disk::new(4);
        let starts = journal(&mut disk, false, &[10, 10, 10, 10, 10, 10]);
        disk.flip(starts[4].segment, starts[4].offset + 64);
        assert_eq!(corrupt_place(&mut disk), Some((1, 0, Seq(5), starts[5])));
        let error = read_back(&mut disk, START).unwrap_err().to_string();
        for part in ["journal/3/segment-1", "byte 0", "record 5", "record 6", "byte 4096"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_damaged_place_is_right_when_its_header_is_gone_too() {
        let mut disk = Disk::new(4);
        // The second record did not fit behind the first; the fourth lies behind the third.
        let starts = journal(&mut disk, false, &[10, 3 * BLOCK, 10, 10, 10]);
        for damaged in [1, 2, 3] {
            let mut disk = disk.clone();
            disk.flip(starts[damaged].segment, starts[damaged].offset);
            let place = (starts[damaged].segment, starts[damaged].offset, starts[damaged].seq, starts[damaged + 1]);
            assert_eq!(corrupt_place(&mut disk), Some(place));
        }
    }

    #[test]
    fn a_header_is_evidence_though_its_mutations_are_torn() {
        let mut disk = Disk::new(4);
        let starts = journal(&mut disk, false, &[10, 10, 10]);
        disk.flip(0, starts[1].offset);
        disk.flip(0, starts[2].offset + 64);
        assert_eq!(corrupt_place(&mut disk), Some((0, 4096, Seq(2), starts[2])));
    }

    #[test]
    fn the_last_record_is_a_torn_tail() {
        let mut disk = Disk::new(4);
        let starts = journal(&mut disk, false, &[10, 10, BLOCK]);
        disk.flip(0, starts[2].offset + 64);
        let (outcome, records) = read_back(&mut disk, START).unwrap();
        assert_eq!(records.len(), 2);
        let torn = Torn { segment: 0, offset: 8192, seq: Seq(3), dropped_records: 1, unsynced: false };
        assert_eq!(outcome, Outcome { records: 2, end: starts[2], torn: Some(torn) });
    }

    #[test]
    fn an_unsynced_run_drops_what_follows_and_counts_it() {
        let mut disk = Disk::new(4);
        let starts = journal(&mut disk, true, &[10, 10, 10, 10]);
        disk.flip(0, starts[1].offset + 64);
        let (outcome, _) = read_back(&mut disk, START).unwrap();
        assert_eq!(outcome.records, 1);
        let torn = Torn { segment: 0, offset: 4096, seq: Seq(2), dropped_records: 3, unsynced: true };
        assert_eq!(outcome.torn, Some(torn));
    }

    #[test]
    fn records_of_another_generation_or_shard_are_not_seen() {
        let mut disk = Disk::new(4);
        let mut buffer = PageBuffer::new();
        let header = Header { shard: SHARD, seq: Seq(1), durable_through: Seq(0), unsynced: false };
        encode(&header, &Salt([9; 16]), b"old", &mut buffer);
        disk.write(0, 0, buffer.bytes());
        encode(&Header { shard: ShardId(SHARD.0 + 1), ..header }, &SALT, b"other", &mut buffer);
        disk.write(0, 4096, buffer.bytes());
        encode(&Header { seq: Seq(9), durable_through: Seq(8), ..header }, &Salt([9; 16]), b"old", &mut buffer);
        disk.write(0, 8192, buffer.bytes());
        let (outcome, _) = read_back(&mut disk, START).unwrap();
        assert_eq!(outcome, Outcome { records: 0, end: START, torn: None });
    }

    /// A client knows the format but not the salt.
    #[test]
    fn a_message_that_contains_records_is_only_a_message() {
        let mut disk = Disk::new(16);
        let mut forged = PageBuffer::new();
        let header = Header { shard: SHARD, seq: Seq(3), durable_through: Seq(2), unsynced: true };
        encode(&header, &Salt([0; 16]), b"forged", &mut forged);
        // A record's mutations begin at byte 64: the forged records lie at the start of a block.
        let mut body = vec![0; BLOCK - HEADER_SIZE];
        for _ in 0..3 {
            body.extend_from_slice(forged.bytes());
        }
        let mut writer = Writer::new(disk.config(SALT, false));
        for seq in 1..=2 {
            let write = writer.append(Seq(seq), Seq(seq - 1), &body);
            write_all(&mut disk, &mut writer, write);
        }
        let second = record_size(body.len());
        let (outcome, records) = read_back(&mut disk, START).unwrap();
        assert_eq!((outcome.records, outcome.torn), (2, None));
        assert_eq!(records[1].1, body);
        disk.flip(0, second);
        assert_eq!(read_back(&mut disk, START).unwrap().0.torn, None);
        disk.flip(0, 0);
        let (outcome, _) = read_back(&mut disk, START).unwrap();
        assert_eq!(outcome, Outcome { records: 0, end: START, torn: None });
    }

    #[test]
    fn a_header_that_promises_more_than_the_segment_is_not_followed() {
        let mut disk = Disk::new(4);
        let mut buffer = PageBuffer::new();
        let header = Header { shard: SHARD, seq: Seq(1), durable_through: Seq(0), unsynced: false };
        encode(&header, &SALT, &[1; 2 * BLOCK], &mut buffer);
        disk.write(0, 3 * BLOCK_SIZE, &buffer.bytes()[..BLOCK]);
        let at = Position { offset: 3 * BLOCK_SIZE, ..START };
        let (outcome, _) = read_back(&mut disk, at).unwrap();
        assert_eq!((outcome.records, outcome.torn.unwrap().seq), (0, Seq(1)));
    }

    #[test]
    fn a_position_outside_the_journal_is_refused() {
        let mut disk = Disk::new(4);
        for from in [
            Position { segment: 4, ..START },
            Position { offset: 5 * BLOCK_SIZE, ..START },
            Position { offset: 100, ..START },
            Position { seq: Seq(0), ..START },
        ] {
            assert!(matches!(read_back(&mut disk, from), Err(ReplayError::Position { .. })), "{from:?}");
        }
        assert!(read_back(&mut disk, Position { offset: 4 * BLOCK_SIZE, ..START }).is_ok());
    }

    #[test]
    fn failures_of_the_medium_and_of_the_receiver_are_passed_on() {
        let mut disk = Disk::new(4);
        journal(&mut disk, false, &[10, 10, 10]);
        let mut seen = 0;
        let mut each = |_: Seq, _: &[u8], _: Position| {
            seen += 1;
            if seen == 2 { Err(io::Error::other("no")) } else { Ok(()) }
        };
        assert!(matches!(replay(&mut disk, SHARD, &SALT, START, &mut each), Err(ReplayError::Apply(_))));
        assert_eq!(seen, 2);
        disk.unreadable = Some(2);
        let error = read_back(&mut disk, START).unwrap_err();
        assert!(matches!(error, ReplayError::Read { segment: 2, offset: 0, .. }), "{error}");
    }
}
