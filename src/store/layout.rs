//! Keys and values of the database as bytes: format version 4, as docs/STORAGE.md tables it.
//!
//! Invariant: keys of one queue's messages sort by message id and lie together, since both ids are big-endian there; every
//! other integer is little-endian. Decoding never panics: bytes of another shape are `None`. Reads and writes nothing.

use super::{Accepted, Batch, Error, JournalRow};
use crate::ids::{MessageId, Position, QueueId, Salt, Seq, ShardId};
use crate::mutation::{Mutation, PUT_HEADER_SIZE, Put, Why};
use crate::queue::Counters;

/// The format this code reads and writes.
pub(super) const FORMAT: u32 = 4;

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

/// A record of a message that does not expire.
const RECORD_PLAIN: u8 = 1;

/// A record of a message that expires.
const RECORD_EXPIRING: u8 = 2;

/// Bytes of a plain record before its body: kind, put_ms, flags, crc32c.
pub(super) const RECORD_HEADER_SIZE: usize = 1 + 8 + 4 + 4;

/// Bytes of an expiring record before its body: as a plain one, and expires_ms.
const EXPIRING_HEADER_SIZE: usize = RECORD_HEADER_SIZE + 8;

/// Bytes of a queue's row: id, created_ms, purged_below, head, newest, bytes, of, low, freed, counters, whether it is grouped.
const ROW_SIZE: usize = COUNTERS_OFFSET + Counters::SIZE + 1;

/// Where in a queue's row its counters are.
const COUNTERS_OFFSET: usize = 9 * 8;

/// A message's key in `late` and `corrupt`; in `messages` and `holes` that of a run's first message; in `passed` and `returned` that of a
/// reader and a message; in `moves` that of a reader and a transfer's number.
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
pub(super) struct RecordHeader {
    bytes: [u8; EXPIRING_HEADER_SIZE],
    size: usize,
}

impl AsRef<[u8]> for RecordHeader {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.size]
    }
}

/// Bytes of [`record_header`].
pub(super) fn record_header_size(put: &Put<'_>) -> usize {
    if put.expires_ms == 0 { RECORD_HEADER_SIZE } else { EXPIRING_HEADER_SIZE }
}

/// What stands before the body in the record of this message.
pub(super) fn record_header(put: &Put<'_>) -> RecordHeader {
    let (mut bytes, size) = ([0; EXPIRING_HEADER_SIZE], record_header_size(put));
    bytes[0] = if put.expires_ms == 0 { RECORD_PLAIN } else { RECORD_EXPIRING };
    bytes[1..9].copy_from_slice(&put.put_ms.to_le_bytes());
    bytes[9..13].copy_from_slice(&put.flags.to_le_bytes());
    bytes[13..17].copy_from_slice(&put.crc32c.to_le_bytes());
    bytes[17..].copy_from_slice(&put.expires_ms.to_le_bytes());
    RecordHeader { bytes, size }
}

/// Bytes of the body in a stored record, whatever else is damaged in it. Damage to the kind makes it up to 8 too small, never too
/// large: no more bytes may seem to leave a queue than came.
pub(super) fn body_size(record: &[u8]) -> u64 {
    let header = if record.first() == Some(&RECORD_PLAIN) { RECORD_HEADER_SIZE } else { EXPIRING_HEADER_SIZE };
    record.len().saturating_sub(header) as u64
}

/// Bytes of the encoded put of a stored record.
pub(super) fn encoded_size(record: &[u8]) -> usize {
    PUT_HEADER_SIZE - RECORD_HEADER_SIZE + record.len()
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
    let put = Put { queue, message, put_ms, flags, expires_ms, crc32c, body };
    (record_header_size(&put) == record.len() - body.len()).then_some(put)
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
    /// Of a reader of a queue with groups: it has passed all messages below.
    pub(super) low: MessageId,
    /// Of a queue with groups: messages that all readers have passed and that are gone.
    pub(super) freed: u64,
    pub(super) counters: Counters,
    /// Whether its plain readers are one reader of several: it has groups, or had and was not swept since.
    pub(super) is_grouped: bool,
    /// Its groups. Not stored: their own rows say it.
    pub(super) groups: Vec<QueueId>,
}

impl Row {
    /// The row of a queue that begins its life.
    pub(super) fn new(name: &[u8], queue: QueueId, created_ms: u64) -> Row {
        let none = MessageId(0);
        Row {
            name: name.to_vec(),
            queue,
            created_ms,
            purged_below: none,
            head: none,
            newest: none,
            bytes: 0,
            of: QueueId(0),
            low: none,
            freed: 0,
            counters: Counters::default(),
            is_grouped: false,
            groups: Vec::new(),
        }
    }

    /// Messages of runs below this id are gone, for one reason or the other.
    pub(super) fn gone_below(&self) -> MessageId {
        self.head.max(self.purged_below)
    }

    /// The queue whose messages it reads.
    pub(super) fn owner(&self) -> QueueId {
        if self.of.0 == 0 { self.queue } else { self.of }
    }

    pub(super) fn role(&self) -> Role {
        Role::of(self.of, self.is_grouped)
    }

    /// Of its stored messages some with bodies of so many bytes are gone.
    pub(super) fn lose(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.bytes, "queue {}: no more bytes leave it than came", self.queue);
        // One kind of record damaged into the other seems 8 bytes larger, which is no reason to stop.
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// The value stored under the queue's name.
    pub(super) fn encode(&self) -> [u8; ROW_SIZE] {
        let mut bytes = [0; ROW_SIZE];
        let words = [
            self.queue.0,
            self.created_ms,
            self.purged_below.0,
            self.head.0,
            self.newest.0,
            self.bytes,
            self.of.0,
            self.low.0,
            self.freed,
        ];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes[COUNTERS_OFFSET..][..Counters::SIZE].copy_from_slice(&self.counters.encode());
        bytes[ROW_SIZE - 1] = u8::from(self.is_grouped);
        bytes
    }

    /// The row stored under `name`, without its groups; `None` when the value has another shape or breaks the law of conservation.
    pub(super) fn decode(name: &[u8], value: &[u8]) -> Option<Row> {
        let value: &[u8; ROW_SIZE] = value.try_into().ok()?;
        let word = |field: usize| u64::from_le_bytes(value[8 * field..][..8].try_into().expect("eight bytes"));
        let row = Row {
            name: name.to_vec(),
            queue: QueueId(word(0)),
            created_ms: word(1),
            purged_below: MessageId(word(2)),
            head: MessageId(word(3)),
            newest: MessageId(word(4)),
            bytes: word(5),
            of: QueueId(word(6)),
            low: MessageId(word(7)),
            freed: word(8),
            counters: Counters::decode(value[COUNTERS_OFFSET..][..Counters::SIZE].try_into().ok()?),
            is_grouped: value[ROW_SIZE - 1] == 1,
            groups: Vec::new(),
        };
        let left = row.counters.left().filter(|left| *left <= row.counters.puts)?;
        let is_possible = if row.is_grouped { row.of.0 == 0 && row.freed <= left } else { row.freed == 0 };
        (is_possible && value[ROW_SIZE - 1] <= 1).then_some(row)
    }
}

/// How messages leave a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// It has no groups: what leaves it is gone.
    Plain,
    /// It has groups: its plain readers pass messages as they do.
    Grouped,
    /// It is a group, and has no messages of its own.
    Group,
}

impl Role {
    pub(super) fn of(of: QueueId, is_grouped: bool) -> Role {
        match (of.0, is_grouped) {
            (0, false) => Role::Plain,
            (0, true) => Role::Grouped,
            _ => Role::Group,
        }
    }
}

/// Counts the mutation, which changes that queue; an error when no honest shard could have asked for it.
pub(super) fn count(counters: &mut Counters, queue: QueueId, role: Role, mutation: &Mutation<'_>) -> Result<(), Error> {
    let fits_role = match mutation {
        Mutation::Take { .. } | Mutation::Leave { .. } | Mutation::Passed { .. } => role == Role::Plain,
        Mutation::Pass { .. } => role != Role::Plain,
        // It counts for the groups of its queue, too.
        Mutation::Put(put) => role != Role::Group || put.queue != queue,
        _ => true,
    };
    if !fits_role {
        return Err(Error::Damaged(format!(
            "queue {queue}: messages do not come and go so with its groups, or without"
        )));
    }
    let is_possible = match mutation {
        Mutation::Purge { count, .. } => *count <= counters.present(),
        Mutation::Take { .. } | Mutation::Leave { .. } | Mutation::Corrupt { .. } | Mutation::Pass { .. } => {
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

/// Counts messages that go because all readers of a queue have passed them; an error when its plain readers have not.
pub(super) fn free(freed: &mut u64, queue: QueueId, role: Role, counters: &Counters, count: u64) -> Result<(), Error> {
    let damaged = |what: &str| Error::Damaged(format!("queue {queue}: {what}"));
    if role != Role::Grouped {
        return Err(damaged("it has no groups that could have passed a message"));
    }
    let now = freed.checked_add(count).filter(|now| counters.left().is_some_and(|left| *now <= left));
    *freed = now.ok_or_else(|| damaged("more messages were freed than passed"))?;
    Ok(())
}

/// The value of `moves`: the message, why it leaves, where it goes.
pub(super) fn encode_move(message: MessageId, why: Why, target: &[u8]) -> Vec<u8> {
    let mut value = message.0.to_le_bytes().to_vec();
    value.push(why as u8);
    value.extend_from_slice(target);
    value
}

/// The inverse of [`encode_move`]; `None` when the value has another shape.
pub(super) fn decode_move(value: &[u8]) -> Option<(MessageId, Why, &[u8])> {
    let (message, rest) = value.split_first_chunk()?;
    let (why, target) = rest.split_first()?;
    Some((MessageId(u64::from_le_bytes(*message)), Why::of(*why)?, target))
}

/// Key in `accepted`: where messages come from, and the name of the queue that they go to.
pub(super) fn accepted_key(source: QueueId, target: &[u8]) -> Vec<u8> {
    [&source.0.to_be_bytes()[..], target].concat()
}

/// A row of `accepted`; `None` when it has another shape.
pub(super) fn decode_accepted(key: &[u8], value: &[u8]) -> Option<Accepted> {
    let (source, target) = key.split_first_chunk()?;
    let number = u64::from_le_bytes(value.try_into().ok()?);
    Some(Accepted { source: QueueId(u64::from_be_bytes(*source)), target: target.to_vec(), number })
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
        let (low, freed, is_grouped) = (MessageId(12), 4, true);
        let row = Row::new(b"q", QueueId(5), 6);
        Row { purged_below, head, newest, bytes: 10, low, freed, counters, is_grouped, ..row }
    }

    #[test]
    fn a_row_is_stored_as_the_table_says() {
        let bytes = row().encode();
        assert_eq!(bytes.len(), 145);
        let words: Vec<u64> = bytes[..144].chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words, [5, 6, 7, 8, 9, 10, 0, 12, 4, 9, 3, 1, 2, 1, 0, 0, 0, 0]);
        assert_eq!(bytes[144], 1);
        assert_eq!(Row::decode(b"q", &bytes), Some(row()));
        let group = Row { of: QueueId(3), freed: 0, is_grouped: false, ..row() };
        assert_eq!(group.encode()[48], 3);
        assert_eq!(Row::decode(b"q", &group.encode()), Some(group));
    }

    #[test]
    fn a_row_of_another_shape_or_without_conservation_is_refused() {
        let bytes = row().encode();
        assert_eq!(Row::decode(b"q", &bytes[..144]), None);
        assert_eq!(Row::decode(b"q", &[&bytes[..], &[0]].concat()), None);
        let with = |at: usize, byte: u8| {
            let mut bytes = bytes;
            bytes[at] = byte;
            Row::decode(b"q", &bytes)
        };
        assert_eq!(with(80, 7), None, "more were taken than came");
        assert_eq!(with(87, 255), None, "the sum overflows");
        assert_eq!(with(144, 2), None);
        assert_eq!(with(144, 0), None, "only what is grouped has freed messages");
        assert_eq!(with(48, 1), None, "no group has groups");
        assert_eq!(with(64, 7), None, "more were freed than left");
    }

    #[test]
    fn nothing_leaves_that_cannot_have_come_so() {
        let (queue, message, why) = (QueueId(1), MessageId(2), Why::Got);
        let attempt = |role, mutation: Mutation<'static>| {
            count(&mut Counters { puts: 1, ..Counters::default() }, queue, role, &mutation)
        };
        let (take, leave) = (Mutation::Take { queue, message }, Mutation::Leave { queue, message, why });
        let pass = Mutation::Pass { queue, message, low: MessageId(0), why };
        let put = |queue| {
            let body = &b""[..];
            Mutation::Put(Put { queue, message, put_ms: 0, flags: 0, expires_ms: 0, crc32c: 0, body })
        };
        for (role, fits) in [(Role::Plain, true), (Role::Grouped, false), (Role::Group, false)] {
            for mutation in [take, leave, Mutation::Passed { queue, count: 1 }] {
                assert_eq!(attempt(role, mutation).is_ok(), fits, "{role:?} {mutation:?}");
            }
            assert_eq!(attempt(role, pass).is_ok(), !fits);
            assert_eq!(attempt(role, put(queue)).is_ok(), role != Role::Group);
            assert!(attempt(role, put(QueueId(9))).is_ok());
            let removal = if fits { leave } else { pass };
            for mutation in [removal, Mutation::Corrupt { queue, message }] {
                let mut counters = Counters { puts: 1, ..Counters::default() };
                count(&mut counters, queue, role, &mutation).unwrap();
                assert!(count(&mut counters, queue, role, &mutation).is_err(), "only one had come");
            }
        }
        let counters = Counters { puts: 3, gets: 1, deleted: 1, ..Counters::default() };
        let attempt = |role, freed: u64, count| free(&mut { freed }, queue, role, &counters, count).is_ok();
        assert!(attempt(Role::Grouped, 0, 2) && attempt(Role::Grouped, 2, 0));
        assert!(!attempt(Role::Grouped, 1, 2) && !attempt(Role::Grouped, 1, u64::MAX));
        assert!(!attempt(Role::Plain, 0, 1) && !attempt(Role::Group, 0, 1));
    }

    #[test]
    fn a_transfer_is_stored_as_the_table_says() {
        let value = encode_move(MessageId(0x102), Why::DeadLettered, b"dead");
        assert_eq!(value, [2, 1, 0, 0, 0, 0, 0, 0, 3, b'd', b'e', b'a', b'd']);
        assert_eq!(decode_move(&value), Some((MessageId(0x102), Why::DeadLettered, &b"dead"[..])));
        assert_eq!(decode_move(&value[..8]), None);
        let key = accepted_key(QueueId(0x102), b"dead");
        assert_eq!(key, [0, 0, 0, 0, 0, 0, 1, 2, b'd', b'e', b'a', b'd']);
        let accepted = Accepted { source: QueueId(0x102), target: b"dead".to_vec(), number: 7 };
        assert_eq!(decode_accepted(&key, &7u64.to_le_bytes()), Some(accepted));
        assert_eq!(decode_accepted(&key, &[7]), None);
        assert_eq!(decode_accepted(&key[..7], &7u64.to_le_bytes()), None);
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
        let record_of = |put: &Put<'_>| [record_header(put).as_ref(), put.body].concat();
        let mut record = record_of(&put);
        assert_eq!(record, [1, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, b'x', b'y']);
        assert_eq!(decode_record(QueueId(1), MessageId(2), &record), Some(put));
        assert_eq!(decode_record(QueueId(1), MessageId(2), &record[..16]), None);
        assert_eq!((body_size(&record), encoded_size(&record)), (2, put.encoded_size()));
        record[0] = 3;
        assert_eq!(decode_record(QueueId(1), MessageId(2), &record), None);
        let put = Put { expires_ms: 6, ..put };
        let mut record = record_of(&put);
        assert_eq!(record[..17], [2, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!(record[17..], [6, 0, 0, 0, 0, 0, 0, 0, b'x', b'y']);
        assert_eq!(decode_record(QueueId(1), MessageId(2), &record), Some(put));
        assert_eq!(decode_record(QueueId(1), MessageId(2), &record[..24]), None);
        assert_eq!((body_size(&record), encoded_size(&record)), (2, put.encoded_size()));
        record[17] = 0;
        assert_eq!(decode_record(QueueId(1), MessageId(2), &record), None, "one that never expires has the other kind");
    }

    #[test]
    fn a_record_of_one_kind_is_not_one_of_the_other() {
        let (queue, message) = (QueueId(1), MessageId(2));
        let put = Put { queue, message, put_ms: 3, flags: 4, expires_ms: 6, crc32c: 0, body: b"12345678body" };
        for expires_ms in [0, 6] {
            let put = Put { expires_ms, ..put }.sealed();
            let mut record = [record_header(&put).as_ref(), put.body].concat();
            assert!(decode_record(queue, message, &record).is_some_and(|put| put.is_intact()));
            record[0] ^= RECORD_PLAIN ^ RECORD_EXPIRING;
            assert!(!decode_record(queue, message, &record).is_some_and(|put| put.is_intact()));
        }
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
