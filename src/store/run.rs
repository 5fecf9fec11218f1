//! Runs: messages of one queue, packed into one value in order of their ids; and the holes that removals leave in them.
//!
//! A run is an index and behind it the messages' records. The index has a checksum of its own, so that damage to a record
//! harms one message and damage to the index is never taken for messages. docs/STORAGE.md has the tables.
//!
//! Invariant: a [`Run`] has at least one message, its ids rise, and its records fill the value; [`Run::decode`] takes nothing
//! else, whatever the bytes. Reads and writes nothing, and does not look at what a record says.

use crate::ids::{MessageId, QueueId};

/// Where a run ends, bytes with the 16 that LMDB puts before it: so many pages, all full but for the last message that did not fit.
/// A message that is larger is a run by itself.
pub(super) const RUN_SIZE_MAX: usize = (64 << 10) - 16;

/// The only kind of run so far.
const KIND: u8 = 1;

/// Bytes before a run's index: crc32c, kind, length.
const HEADER_SIZE: usize = 4 + 1 + 4;

/// Bytes of a message in the index: its id less the first one's, and where its record ends.
const ENTRY_SIZE: usize = 4 + 4;

type Entry = [u8; ENTRY_SIZE];

/// The checksum of what is only valid for one run: which one, and the bytes.
fn checksum(queue: QueueId, first: MessageId, bytes: &[u8]) -> u32 {
    let mut head = [0; 16];
    head[..8].copy_from_slice(&queue.0.to_le_bytes());
    head[8..].copy_from_slice(&first.0.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Messages packed into one value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    first: MessageId,
    index: &'a [Entry],
    records: &'a [u8],
}

impl<'a> Run<'a> {
    /// The run stored under these ids; `None` when it cannot be trusted: which messages it has is not known then.
    pub(super) fn decode(queue: QueueId, first: MessageId, value: &'a [u8]) -> Option<Run<'a>> {
        let (header, rest) = value.split_first_chunk::<HEADER_SIZE>()?;
        let index_size = usize::try_from(u32_at(header, 5)).ok()?.checked_mul(ENTRY_SIZE)?;
        let (index, records) = rest.split_at_checked(index_size)?;
        if header[4] != KIND || u32_at(header, 0) != checksum(queue, first, &value[4..HEADER_SIZE + index_size]) {
            return None;
        }
        let run = Run { first, index: index.as_chunks().0, records };
        let is_filled = run.end(run.len().checked_sub(1)?) == records.len();
        let rises = run.index.is_sorted_by(|a, b| u32_at(a, 0) < u32_at(b, 0) && u32_at(a, 4) <= u32_at(b, 4));
        let fits = first.0.checked_add(u64::from(run.delta(run.len() - 1))).is_some();
        (is_filled && rises && fits && run.delta(0) == 0).then_some(run)
    }

    /// How many messages there are, removed ones too.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// A message's id, less that of the first.
    pub(super) fn delta(&self, at: usize) -> u32 {
        u32_at(&self.index[at], 0)
    }

    pub(super) fn id(&self, at: usize) -> MessageId {
        MessageId(self.first.0 + u64::from(self.delta(at)))
    }

    pub(super) fn last(&self) -> MessageId {
        self.id(self.len() - 1)
    }

    /// Where the first message from `id` on is; the length if there is none.
    pub(super) fn position(&self, id: MessageId) -> usize {
        let Some(delta) = id.0.checked_sub(self.first.0) else { return 0 };
        self.index.partition_point(|entry| u64::from(u32_at(entry, 0)) < delta)
    }

    /// A message's record, which may be damaged.
    pub(super) fn record(&self, at: usize) -> &'a [u8] {
        let begin = at.checked_sub(1).map_or(0, |before| self.end(before));
        &self.records[begin..self.end(at)]
    }

    /// The record of a message, if the run has it.
    pub(super) fn find(&self, id: MessageId) -> Option<&'a [u8]> {
        let at = self.position(id);
        (at < self.len() && self.id(at) == id).then(|| self.record(at))
    }

    /// Bytes of all records.
    pub(super) fn size(&self) -> usize {
        self.records.len()
    }

    fn end(&self, at: usize) -> usize {
        u32_at(&self.index[at], 4) as usize
    }
}

/// The head of a run while it is written: all but the records.
#[derive(Default)]
pub(super) struct Index {
    bytes: Vec<u8>,
    first: MessageId,
    records_size: usize,
}

impl Index {
    /// Begins a run in the memory it has.
    pub(super) fn begin(&mut self, first: MessageId) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&[0; HEADER_SIZE]);
        self.first = first;
        self.records_size = 0;
    }

    /// Adds a message whose id is above those before it. `false`: it has to begin another run.
    #[must_use]
    pub(super) fn push(&mut self, id: MessageId, record_size: usize) -> bool {
        let size = self.size() + ENTRY_SIZE + record_size;
        if self.bytes.len() > HEADER_SIZE && size > RUN_SIZE_MAX {
            return false;
        }
        let Ok(delta) = u32::try_from(id.0 - self.first.0) else { return false };
        self.records_size += record_size;
        let end = u32::try_from(self.records_size).expect("a body is at most 128 MiB");
        self.bytes.extend_from_slice(&delta.to_le_bytes());
        self.bytes.extend_from_slice(&end.to_le_bytes());
        true
    }

    /// Bytes of the run, with its records.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() + self.records_size
    }

    /// What stands before the records.
    pub(super) fn seal(&mut self, queue: QueueId) -> &[u8] {
        let len = u32::try_from((self.bytes.len() - HEADER_SIZE) / ENTRY_SIZE).expect("a call has fewer messages");
        self.bytes[4] = KIND;
        self.bytes[5..HEADER_SIZE].copy_from_slice(&len.to_le_bytes());
        let crc32c = checksum(queue, self.first, &self.bytes[4..]);
        self.bytes[..4].copy_from_slice(&crc32c.to_le_bytes());
        &self.bytes
    }
}

/// Reads the holes stored for a run, ids less that of the first, rising; `false` when they cannot be trusted.
#[must_use]
pub(super) fn decode_holes(queue: QueueId, first: MessageId, value: &[u8], holes: &mut Vec<u32>) -> bool {
    holes.clear();
    let Some((crc32c, rest)) = value.split_first_chunk() else { return false };
    let (deltas, beyond) = rest.as_chunks();
    holes.extend(deltas.iter().map(|delta| u32::from_le_bytes(*delta)));
    u32::from_le_bytes(*crc32c) == checksum(queue, first, rest) && beyond.is_empty() && holes.is_sorted_by(|a, b| a < b)
}

/// The inverse of [`decode_holes`].
pub(super) fn encode_holes(queue: QueueId, first: MessageId, holes: &[u32], value: &mut Vec<u8>) {
    value.clear();
    value.extend_from_slice(&[0; 4]);
    holes.iter().for_each(|delta| value.extend_from_slice(&delta.to_le_bytes()));
    let crc32c = checksum(queue, first, &value[4..]);
    value[..4].copy_from_slice(&crc32c.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: QueueId = QueueId(5);
    const FIRST: MessageId = MessageId(10);

    fn run(records: &[(u64, &[u8])]) -> Vec<u8> {
        let mut index = Index::default();
        index.begin(MessageId(records[0].0));
        records.iter().for_each(|(id, record)| assert!(index.push(MessageId(*id), record.len())));
        let mut value = index.seal(QUEUE).to_vec();
        records.iter().for_each(|(_, record)| value.extend_from_slice(record));
        assert_eq!(value.len(), index.size());
        value
    }

    fn three() -> Vec<u8> {
        run(&[(10, b"ab"), (11, b""), (300, b"xyz")])
    }

    /// Gives bytes the checksum that makes them credible.
    fn resealed(mut value: Vec<u8>, index_size: usize) -> Vec<u8> {
        let crc32c = checksum(QUEUE, FIRST, &value[4..HEADER_SIZE + index_size]);
        value[..4].copy_from_slice(&crc32c.to_le_bytes());
        value
    }

    #[test]
    fn a_run_is_stored_as_the_table_says() {
        let value = three();
        assert_eq!(value[4..9], [1, 3, 0, 0, 0]);
        assert_eq!(value[9..25], [0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(value[25..], [34, 1, 0, 0, 5, 0, 0, 0, b'a', b'b', b'x', b'y', b'z']);
        let run = Run::decode(QUEUE, FIRST, &value).unwrap();
        assert_eq!((run.len(), run.last(), run.size()), (3, MessageId(300), 5));
        assert_eq!([0, 1, 2].map(|at| run.record(at)), [&b"ab"[..], b"", b"xyz"]);
        assert_eq!([0, 10, 11, 12, 300, 301].map(|id| run.position(MessageId(id))), [0, 0, 1, 2, 2, 3]);
        assert_eq!(run.position(MessageId(u64::MAX)), 3);
        assert_eq!([9, 10, 12, 300].map(|id| run.find(MessageId(id)).map(<[u8]>::len)), [None, Some(2), None, Some(3)]);
    }

    #[test]
    fn a_run_is_trusted_only_whole_and_in_its_place() {
        let value = three();
        for size in 0..value.len() {
            assert!(Run::decode(QUEUE, FIRST, &value[..size]).is_none(), "cut at {size}");
        }
        assert!(Run::decode(QUEUE, FIRST, &[&value[..], b"x"].concat()).is_none());
        assert!(Run::decode(QueueId(6), FIRST, &value).is_none());
        assert!(Run::decode(QUEUE, MessageId(11), &value).is_none());
        for at in 0..HEADER_SIZE + 3 * ENTRY_SIZE {
            for bit in 0..8 {
                let mut damaged = value.clone();
                damaged[at] ^= 1 << bit;
                assert!(Run::decode(QUEUE, FIRST, &damaged).is_none(), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn an_index_that_contradicts_itself_is_refused_whatever_its_checksum() {
        let (value, index_size) = (three(), 3 * ENTRY_SIZE);
        assert!(Run::decode(QUEUE, FIRST, &resealed(value.clone(), index_size)).is_some());
        // Kind, first delta, a delta that falls, ends that fall or pass the value.
        for (at, byte) in [(4, 2), (9, 1), (17, 0), (21, 1), (21, 6), (29, 4), (29, 6), (32, 255)] {
            let mut wrong = value.clone();
            wrong[at] = byte;
            assert!(Run::decode(QUEUE, FIRST, &resealed(wrong, index_size)).is_none(), "{byte} at {at}");
        }
        let mut empty = value[..HEADER_SIZE].to_vec();
        empty[5] = 0;
        assert!(Run::decode(QUEUE, FIRST, &resealed(empty, 0)).is_none());
        let last = run(&[(u64::MAX - 1, b""), (u64::MAX, b"")]);
        assert!(Run::decode(QUEUE, MessageId(u64::MAX - 1), &last).is_some());
        let mut beyond = last;
        beyond[17] = 2;
        let crc32c = checksum(QUEUE, MessageId(u64::MAX - 1), &beyond[4..]);
        beyond[..4].copy_from_slice(&crc32c.to_le_bytes());
        assert!(Run::decode(QUEUE, MessageId(u64::MAX - 1), &beyond).is_none());
    }

    #[test]
    fn a_run_ends_where_its_pages_or_its_ids_do() {
        let mut index = Index::default();
        index.begin(FIRST);
        assert!(index.push(FIRST, RUN_SIZE_MAX * 2), "the first message may have any size");
        assert!(!index.push(MessageId(11), 0));
        index.begin(FIRST);
        assert!(index.push(FIRST, 0));
        assert!(!index.push(MessageId(11), RUN_SIZE_MAX - HEADER_SIZE - 2 * ENTRY_SIZE + 1));
        assert!(index.push(MessageId(11), RUN_SIZE_MAX - HEADER_SIZE - 2 * ENTRY_SIZE));
        assert_eq!(index.size(), RUN_SIZE_MAX);
        index.begin(FIRST);
        assert!(index.push(FIRST, 1));
        assert!(!index.push(MessageId(11 + u64::from(u32::MAX)), 1));
        assert!(index.push(MessageId(10 + u64::from(u32::MAX)), 1));
    }

    #[test]
    fn holes_are_stored_as_the_table_says_and_trusted_only_whole_and_in_their_place() {
        let (mut value, mut holes) = (Vec::new(), vec![9]);
        encode_holes(QUEUE, FIRST, &[1, 290], &mut value);
        assert_eq!(value[4..], [1, 0, 0, 0, 34, 1, 0, 0]);
        assert!(decode_holes(QUEUE, FIRST, &value, &mut holes));
        assert_eq!(holes, [1, 290]);
        assert!(!decode_holes(QUEUE, MessageId(11), &value, &mut holes));
        for size in 0..value.len() {
            assert!(!decode_holes(QUEUE, FIRST, &value[..size], &mut holes), "cut at {size}");
        }
        for at in 0..value.len() {
            let mut damaged = value.clone();
            damaged[at] ^= 1;
            assert!(!decode_holes(QUEUE, FIRST, &damaged, &mut holes), "byte {at}");
        }
        encode_holes(QUEUE, FIRST, &[2, 2], &mut value);
        assert!(!decode_holes(QUEUE, FIRST, &value, &mut holes));
    }
}
