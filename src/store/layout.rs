//! Keys and values of the database as bytes: format version 3, as docs/STORAGE.md tables it.
//!
//! Invariant: keys of one queue's messages sort by message id and lie together, since both ids are big-endian there; every
//! other integer is little-endian. Decoding never panics: bytes of another shape are `None`. Reads and writes nothing.

use super::{Batch, Error, JournalRow};
use crate::ids::{MessageId, Position, QueueId, Salt, Seq, ShardId};
use crate::mutation::{Mutation, Put, Why};
use crate::queue::Counters;
use smallvec::SmallVec;

/// The format this code reads and writes.
pub(super) const FORMAT: u32 = 3;

/// The format before it, which is carried over: its queues' rows are shorter.
pub(super) const FORMAT_BEFORE: u32 = 2;

/// Key in `meta` of the format version, u32.
pub(super) const FORMAT_KEY: &[u8] = b"format";

/// Key in `meta` of the first id no shard ever reserved, u64.
pub(super) const IDS_KEY: &[u8] = b"ids";

/// Start of the keys in `meta` that mark a deleted queue whose rows are not all removed yet.
const DROP_PREFIX: &[u8; 5] = b"drop:";

/// Start of the keys in `meta` of the shards' journals.
const JOURNAL_PREFIX: &[u8; 8] = b"journal:";

/// Bytes of a journal's row: salt, number of the next record, its segment, its offset.
const JOURNAL_ROW_SIZE: usize = 16 + 8 + 4 + 8;

/// Bytes of a message's key: queue id, message id.
pub(super) const MESSAGE_KEY_SIZE: usize = 16;

/// A message's record.
const RECORD_PLAIN: u8 = 1;

/// The same, with when it expires behind the rest of its header.
const RECORD_EXPIRING: u8 = 2;

/// Bytes of that.
const EXPIRES_SIZE: usize = 8;

/// Bytes of a plain record before its body: kind, put_ms, flags, crc32c.
pub(super) const RECORD_HEADER_SIZE: usize = 1 + 8 + 4 + 4;

/// Bytes of a queue's row: id, created_ms, purged_below, head, newest, bytes, of, low, freed, counters.
const ROW_SIZE: usize = COUNTERS_OFFSET + Counters::SIZE;

/// Where in a queue's row its counters are.
const COUNTERS_OFFSET: usize = 9 * 8;

/// Bytes of a row in the format before: id to bytes, five counters, and a length that was always 0.
const ROW_BEFORE_SIZE: usize = 6 * 8 + 5 * 8 + 2;

/// A message's key in `late` and `corrupt`; in `messages` and `holes` that of a run's first message.
pub(super) type MessageKey = [u8; MESSAGE_KEY_SIZE];

/// Key of a message, or of the run that begins with it.
pub(super) fn message_key(queue: QueueId, message: MessageId) -> MessageKey {
    let mut key = [0; MESSAGE_KEY_SIZE];
    key[..8].copy_from_slice(&queue.0.to_be_bytes());
    key[8..].copy_from_slice(&message.0.to_be_bytes());
    key
}

/// The message that a key of this queue names; `None` for keys of other queues and of another size.
pub(super) fn message_of_key(queue: QueueId, key: &[u8]) -> Option<MessageId> {
    let key: &MessageKey = key.try_into().ok()?;
    let (of, message) = key.split_at(8);
    let message = MessageId(u64::from_be_bytes(message.try_into().ok()?));
    (of == queue.0.to_be_bytes()).then_some(message)
}

/// What stands before the body in a message's record.
pub(super) fn record_header(put: &Put<'_>) -> SmallVec<[u8; RECORD_HEADER_SIZE + EXPIRES_SIZE]> {
    let expires = put.expires_ms > 0;
    let mut header = SmallVec::new();
    header.push(if expires { RECORD_EXPIRING } else { RECORD_PLAIN });
    header.extend_from_slice(&put.put_ms.to_le_bytes());
    header.extend_from_slice(&put.flags.to_le_bytes());
    header.extend_from_slice(&put.crc32c.to_le_bytes());
    if expires {
        header.extend_from_slice(&put.expires_ms.to_le_bytes());
    }
    header
}

/// Bytes of the record of this put.
pub(super) fn record_size(put: &Put<'_>) -> usize {
    RECORD_HEADER_SIZE + if put.expires_ms > 0 { EXPIRES_SIZE } else { 0 } + put.body.len()
}

/// Bytes of the body in a stored record, whatever else is damaged in it.
pub(super) fn body_size(record: &[u8]) -> u64 {
    let header = RECORD_HEADER_SIZE + if record.first() == Some(&RECORD_EXPIRING) { EXPIRES_SIZE } else { 0 };
    record.len().saturating_sub(header) as u64
}

/// The message of a record; `None` when it is too short or of an unknown kind. Its checksum is not looked at.
pub(super) fn decode_record(queue: QueueId, message: MessageId, record: &[u8]) -> Option<Put<'_>> {
    let (header, rest) = record.split_first_chunk::<RECORD_HEADER_SIZE>()?;
    let (expires_ms, body) = match header[0] {
        RECORD_PLAIN => (0, rest),
        RECORD_EXPIRING => {
            let (expires_ms, body) = rest.split_first_chunk()?;
            (u64::from_le_bytes(*expires_ms), body)
        }
        _ => return None,
    };
    let put_ms = u64::from_le_bytes(header[1..9].try_into().ok()?);
    let flags = u32::from_le_bytes(header[9..13].try_into().ok()?);
    let crc32c = u32::from_le_bytes(header[13..17].try_into().ok()?);
    Some(Put { queue, message, put_ms, flags, expires_ms, crc32c, body })
}

/// A queue's row in `queues`, with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: Vec<u8>,
    pub(super) queue: QueueId,
    pub(super) created_ms: u64,
    /// Messages of runs below this id were purged, though their runs may still lie there. 0 when there are no such runs.
    pub(super) purged_below: MessageId,
    /// Messages of runs below this id are gone.
    pub(super) head: MessageId,
    /// The highest id that a run of it ever had.
    pub(super) newest: MessageId,
    /// The bodies of its messages that are stored, added up.
    pub(super) bytes: u64,
    /// The queue it is a group of; 0: it is none.
    pub(super) of: QueueId,
    /// Of a group, and of a queue with groups: everything below is passed.
    pub(super) low: MessageId,
    /// Of a queue with groups: messages that all have passed and that are gone.
    pub(super) freed: u64,
    pub(super) counters: Counters,
}

impl Row {
    /// The row of a queue that begins its life.
    pub(super) fn new(name: &[u8], queue: QueueId, created_ms: u64) -> Row {
        let none = MessageId(0);
        let (name, counters) = (name.to_vec(), Counters::default());
        let of = QueueId(0);
        Row {
            name,
            queue,
            created_ms,
            purged_below: none,
            head: none,
            newest: none,
            bytes: 0,
            of,
            low: none,
            freed: 0,
            counters,
        }
    }

    /// Messages of runs below this id are gone, for one reason or the other.
    pub(super) fn gone_below(&self) -> MessageId {
        self.head.max(self.purged_below)
    }

    /// Of its stored messages some with bodies of so many bytes are gone.
    pub(super) fn lose(&mut self, bytes: u64) -> Result<(), Error> {
        let left = self.bytes.checked_sub(bytes);
        self.bytes =
            left.ok_or_else(|| Error::Damaged(format!("queue {}: more bytes left it than came", self.queue)))?;
        Ok(())
    }

    /// The value stored under the queue's name.
    pub(super) fn encode(&self) -> [u8; ROW_SIZE] {
        let mut bytes = [0; ROW_SIZE];
        bytes[0..8].copy_from_slice(&self.queue.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.created_ms.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.purged_below.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.head.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.newest.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.of.0.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.low.0.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.freed.to_le_bytes());
        bytes[COUNTERS_OFFSET..].copy_from_slice(&self.counters.encode());
        bytes
    }

    /// What a row of the format before says in this one; `None` when the value has another shape.
    pub(super) fn carry_over(value: &[u8]) -> Option<[u8; ROW_SIZE]> {
        let value: &[u8; ROW_BEFORE_SIZE] = value.try_into().ok()?;
        let mut bytes = [0; ROW_SIZE];
        bytes[..48].copy_from_slice(&value[..48]);
        // The counters that there were are the first of those there are.
        bytes[COUNTERS_OFFSET..][..40].copy_from_slice(&value[48..88]);
        Some(bytes)
    }

    /// The row stored under `name`; `None` when the value has another shape or breaks the law of conservation.
    pub(super) fn decode(name: &[u8], value: &[u8]) -> Option<Row> {
        let value: &[u8; ROW_SIZE] = value.try_into().ok()?;
        let word = |at: usize| Some(u64::from_le_bytes(value[at..at + 8].try_into().ok()?));
        let row = Row {
            name: name.to_vec(),
            queue: QueueId(word(0)?),
            created_ms: word(8)?,
            purged_below: MessageId(word(16)?),
            head: MessageId(word(24)?),
            newest: MessageId(word(32)?),
            bytes: word(40)?,
            of: QueueId(word(48)?),
            low: MessageId(word(56)?),
            freed: word(64)?,
            counters: Counters::decode(value[COUNTERS_OFFSET..].try_into().ok()?),
        };
        is_conserved(&row.counters).then_some(row)
    }
}

/// Whether no more messages left the queue than came; without it [`Counters::ready`] means nothing.
fn is_conserved(counters: &Counters) -> bool {
    counters.left().is_some_and(|left| left <= counters.puts)
}

/// Counts the mutation, which changes that queue; an error when no honest shard could have asked for it.
pub(super) fn count(counters: &mut Counters, queue: QueueId, mutation: &Mutation<'_>) -> Result<(), Error> {
    let is_possible = match mutation {
        Mutation::Purge { count, .. } => *count <= counters.present(),
        Mutation::Take { .. } | Mutation::Corrupt { .. } | Mutation::Leave { .. } | Mutation::Pass { .. } => {
            counters.present() > 0
        }
        _ => true,
    };
    if !is_possible {
        return Err(Error::Damaged(format!("queue {queue}: more messages left it than came")));
    }
    counters.apply(mutation);
    Ok(())
}

/// Key in `moves`: whose, and the number of the transfer.
pub(super) fn move_key(queue: QueueId, number: u64) -> MessageKey {
    message_key(queue, MessageId(number))
}

/// The value stored under [`move_key`]: message u64, why u8, the name of the target.
pub(super) fn encode_move(message: MessageId, why: Why, target: &[u8]) -> Vec<u8> {
    [&message.0.to_le_bytes()[..], &[why as u8], target].concat()
}

/// The inverse of [`encode_move`]; `None` when the value has another shape.
pub(super) fn decode_move(value: &[u8]) -> Option<(MessageId, Why, &[u8])> {
    let (message, rest) = value.split_first_chunk()?;
    let (why, target) = rest.split_first()?;
    Some((MessageId(u64::from_le_bytes(*message)), Why::of(*why)?, target))
}

/// Key in `accepted`: where transfers come from, and the name of the queue they go to.
pub(super) fn accepted_key(source: QueueId, target: &[u8]) -> Vec<u8> {
    [&source.0.to_be_bytes()[..], target].concat()
}

/// The inverse of [`accepted_key`]; `None` when the key has another shape.
pub(super) fn decode_accepted_key(key: &[u8]) -> Option<(QueueId, &[u8])> {
    let (source, target) = key.split_first_chunk()?;
    Some((QueueId(u64::from_be_bytes(*source)), target))
}

/// Key in `meta` that marks a deleted queue whose rows are not all removed yet.
pub(super) fn drop_key(queue: QueueId) -> [u8; 13] {
    let mut key = [0; 13];
    key[..5].copy_from_slice(DROP_PREFIX);
    key[5..].copy_from_slice(&queue.0.to_be_bytes());
    key
}

/// The inverse of [`drop_key`]; `None` for the other keys of `meta`.
pub(super) fn queue_of_drop_key(key: &[u8]) -> Option<QueueId> {
    let id = key.strip_prefix(DROP_PREFIX)?;
    Some(QueueId(u64::from_be_bytes(id.try_into().ok()?)))
}

/// Key in `meta` of a shard's journal.
pub(super) fn journal_key(shard: ShardId) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(JOURNAL_PREFIX);
    key[8..].copy_from_slice(&shard.0.to_be_bytes());
    key
}

/// The inverse of [`journal_key`]; `None` for the other keys of `meta`.
pub(super) fn shard_of_journal_key(key: &[u8]) -> Option<ShardId> {
    let id = key.strip_prefix(JOURNAL_PREFIX)?;
    Some(ShardId(u16::from_be_bytes(id.try_into().ok()?)))
}

/// The value stored under [`journal_key`].
pub(super) fn encode_journal(row: &JournalRow) -> [u8; JOURNAL_ROW_SIZE] {
    let mut bytes = [0; JOURNAL_ROW_SIZE];
    bytes[..16].copy_from_slice(&row.salt.0);
    bytes[16..24].copy_from_slice(&row.position.seq.0.to_le_bytes());
    bytes[24..28].copy_from_slice(&row.position.segment.to_le_bytes());
    bytes[28..].copy_from_slice(&row.position.offset.to_le_bytes());
    bytes
}

/// The inverse of [`encode_journal`]; `None` when the value has another shape.
pub(super) fn decode_journal(shard: ShardId, value: &[u8]) -> Option<JournalRow> {
    let value: &[u8; JOURNAL_ROW_SIZE] = value.try_into().ok()?;
    let position = Position {
        seq: Seq(u64::from_le_bytes(value[16..24].try_into().ok()?)),
        segment: u32::from_le_bytes(value[24..28].try_into().ok()?),
        offset: u64::from_le_bytes(value[28..].try_into().ok()?),
    };
    Some(JournalRow { shard, salt: Salt(value[..16].try_into().ok()?), position })
}

/// The rows of a generation of journals before its first record.
pub(super) fn first_rows(salts: &[Salt]) -> Vec<JournalRow> {
    let position = Position { seq: Seq(1), segment: 0, offset: 0 };
    let row = |(shard, &salt)| JournalRow { shard: ShardId(shard), salt, position };
    (0..=u16::MAX).zip(salts).map(row).collect()
}

/// Moves the row of the batch's journal to where the batch ends; an error when the batch is not one that comes next.
pub(super) fn advance(journals: &mut [JournalRow], batch: &Batch) -> Result<(), Error> {
    let damaged = |what: &str| Error::Damaged(format!("batch {} of shard {}: {what}", batch.seq, batch.shard));
    let row = journals.iter_mut().find(|row| row.shard == batch.shard);
    let row = row.ok_or_else(|| damaged("the store knows of no journal of this shard"))?;
    // Counting a batch twice would not be noticed later.
    if batch.end.seq <= row.position.seq {
        return Err(damaged(&format!("the journal is in the store up to record {} already", row.position.seq)));
    }
    row.position = batch.end;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let counters = Counters { puts: 9, gets: 3, gets_unsent: 1, deleted: 2, corrupt: 1, ..Counters::default() };
        let (purged_below, head, newest) = (MessageId(7), MessageId(8), MessageId(9));
        Row { purged_below, head, newest, bytes: 10, counters, ..Row::new(b"q", QueueId(5), 6) }
    }

    #[test]
    fn a_row_is_stored_as_the_table_says() {
        let bytes = row().encode();
        assert_eq!(bytes.len(), 144);
        assert_eq!(bytes[..24], [5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[24..40], [8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((bytes[40], bytes[72]), (10, 9));
        assert_eq!(Row::decode(b"q", &bytes), Some(row()));
        let group = Row { of: QueueId(1), low: MessageId(2), freed: 3, ..row() };
        let bytes = group.encode();
        assert_eq!((bytes[48], bytes[56], bytes[64]), (1, 2, 3));
        assert_eq!(Row::decode(b"q", &bytes), Some(group));
    }

    #[test]
    fn a_row_of_another_shape_or_without_conservation_is_refused() {
        let bytes = row().encode();
        assert_eq!(Row::decode(b"q", &bytes[..143]), None);
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(Row::decode(b"q", &longer), None);
        let mut too_many_gets = bytes;
        too_many_gets[80] = 7;
        assert_eq!(Row::decode(b"q", &too_many_gets), None);
        let mut overflowing = bytes;
        overflowing[80..88].fill(0xff);
        assert_eq!(Row::decode(b"q", &overflowing), None);
    }

    #[test]
    fn a_row_of_the_format_before_says_the_same_in_this_one() {
        let mut before = [0; ROW_BEFORE_SIZE];
        for (at, word) in [5u64, 6, 7, 8, 9, 10, 9, 3, 1, 2, 1].into_iter().enumerate() {
            before[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
        }
        assert_eq!(Row::decode(b"q", &Row::carry_over(&before).unwrap()), Some(row()));
        assert_eq!(Row::carry_over(&before[1..]), None);
    }

    #[test]
    fn moves_are_stored_as_the_table_says() {
        let value = encode_move(MessageId(0x102), Why::DeadLettered, b"dead");
        assert_eq!(value, [2, 1, 0, 0, 0, 0, 0, 0, 3, b'd', b'e', b'a', b'd']);
        assert_eq!(decode_move(&value), Some((MessageId(0x102), Why::DeadLettered, &b"dead"[..])));
        assert_eq!(decode_move(&value[..8]), None);
        let key = accepted_key(QueueId(0x102), b"dead");
        assert_eq!(key, [0, 0, 0, 0, 0, 0, 1, 2, b'd', b'e', b'a', b'd']);
        assert_eq!(decode_accepted_key(&key), Some((QueueId(0x102), &b"dead"[..])));
        assert_eq!(decode_accepted_key(&key[..7]), None);
    }

    #[test]
    fn a_record_is_stored_as_the_table_says() {
        let put = Put {
            queue: QueueId(1),
            message: MessageId(2),
            put_ms: 3,
            flags: 4,
            expires_ms: 0,
            crc32c: 5,
            body: b"xy",
        };
        let mut record = record_header(&put).to_vec();
        record.extend_from_slice(put.body);
        assert_eq!(record, [1, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, b'x', b'y']);
        assert_eq!(decode_record(QueueId(1), MessageId(2), &record), Some(put));
        assert_eq!(decode_record(QueueId(1), MessageId(2), &record[..16]), None);
        assert_eq!((record_size(&put), body_size(&record)), (19, 2));
        let expiring = Put { expires_ms: 6, ..put };
        let mut record = record_header(&expiring).to_vec();
        record.extend_from_slice(put.body);
        assert_eq!(record[..1], [2]);
        assert_eq!(record[17..], [6, 0, 0, 0, 0, 0, 0, 0, b'x', b'y']);
        assert_eq!(decode_record(QueueId(1), MessageId(2), &record), Some(expiring));
        assert_eq!((record_size(&expiring), body_size(&record)), (27, 2));
        assert_eq!(decode_record(QueueId(1), MessageId(2), &record[..24]), None);
        record[0] = 3;
        assert_eq!(decode_record(QueueId(1), MessageId(2), &record), None);
    }

    #[test]
    fn keys_sort_by_queue_then_message() {
        let keys = [(1, 1), (1, 255), (1, 256), (1, u64::MAX), (2, 0), (256, 0)]
            .map(|(queue, message)| message_key(QueueId(queue), MessageId(message)));
        assert!(keys.is_sorted());
        assert_eq!(message_of_key(QueueId(1), &keys[2]), Some(MessageId(256)));
        assert_eq!(message_of_key(QueueId(2), &keys[2]), None);
        assert_eq!(message_of_key(QueueId(1), &keys[2][1..]), None);
    }

    #[test]
    fn a_drop_key_names_its_queue() {
        assert_eq!(queue_of_drop_key(&drop_key(QueueId(0x1234))), Some(QueueId(0x1234)));
        assert_eq!(queue_of_drop_key(FORMAT_KEY), None);
        assert_eq!(queue_of_drop_key(b"drop:1"), None);
    }

    #[test]
    fn a_journal_is_stored_as_the_table_says() {
        let position = Position { seq: Seq(0x102), segment: 3, offset: 4096 };
        let row = JournalRow { shard: ShardId(0x506), salt: Salt([9; 16]), position };
        assert_eq!(journal_key(row.shard), *b"journal:\x05\x06");
        assert_eq!(shard_of_journal_key(b"journal:\x05\x06"), Some(row.shard));
        assert_eq!(shard_of_journal_key(FORMAT_KEY), None);
        let bytes = encode_journal(&row);
        assert_eq!(bytes[..16], [9; 16]);
        assert_eq!(bytes[16..], [2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode_journal(row.shard, &bytes), Some(row));
        assert_eq!(decode_journal(row.shard, &bytes[1..]), None);
    }
}
