//! Mutations: what a shard's requests changed, as bytes.
//!
//! A batch of mutations is a plain concatenation of the encodings below, in the order in which they happened. The same
//! bytes go to the store and, read back, come from it (`Put` is also the form in which stored messages are loaded), so
//! there is one encoding of a message in memory and on the way to disk. All integers are little-endian.
//!
//! ```text
//! Put         1 · queue u64 · message u64 · put_ms u64 · flags u32 · len u32 · crc32c u32 · body
//! Take        2 · queue u64 · message u64
//! Create      3 · queue u64 · created_ms u64 · name_len u8 · name
//! Delete      4 · queue u64
//! Purge       5 · queue u64 · below u64 · count u64
//! Ids         6 · end u64
//! Corrupt     7 · queue u64 · message u64
//! Unsent      8 · queue u64
//! Passed      9 · queue u64 · count u64
//! Put        10 · as 1, and expires_ms u64 behind crc32c: a message that expires
//! Leave      11 · queue u64 · message u64 · why u8
//! Return     12 · queue u64 · message u64 · deliveries u32
//! Configure  13 · name_len u8 · name · len u16 · settings
//! Group      14 · queue u64 · of u64 · created_ms u64 · offered u64 · name_len u8 · name
//! Pass       15 · queue u64 · message u64 · low u64 · why u8
//! Free       16 · queue u64 · message u64
//! Sweep      17 · queue u64 · freed u64
//! Move       18 · queue u64 · message u64 · number u64 · why u8 · name_len u8 · target
//! Moved      19 · queue u64 · number u64
//! Accept     20 · source u64 · number u64 · name_len u8 · target
//! ```
//!
//! Invariant: every mutation that names a queue but `Create`, `Group`, `Accept` names one that a `Create` or `Group` introduced before it, in
//! this batch, an earlier one, or the store. Puts of one queue need not come in order of id: a message that came back from a
//! client that was gone is recorded late. Does not know who writes the bytes where.
//!
//! A *group* is a queue of its own, with counters and a name (`q/group=g`), whose messages are those of the queue it is of. From the first
//! `Group` on, and until the last of a queue's groups was deleted and swept, its plain readers are a group of it like the others:
//! then messages leave it by `Pass`, and are removed by `Free` and `Sweep`; before and after by `Take` and `Leave`, which are both in one.
//!
//! Step 5 to 6 of a message's path.

use crate::ids::{MessageId, QueueId};

/// One change of a shard's durable state, borrowed from its encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutation<'a> {
    /// A message was appended to its queue: `puts` rises.
    Put(Put<'a>),
    /// A plain get took the message, or an open read of it was confirmed: `gets` rises. Only where there are no groups.
    Take {
        /// Its queue.
        queue: QueueId,
        /// The message.
        message: MessageId,
    },
    /// A queue began its life.
    Create {
        /// Its id, used from now on.
        queue: QueueId,
        /// Wall clock, milliseconds since the epoch.
        created_ms: u64,
        /// Its name, 1 to 250 bytes.
        name: &'a [u8],
    },
    /// A queue's life ended: its row and all its messages go.
    Delete {
        /// The queue.
        queue: QueueId,
    },
    /// All messages of the queue with ids below `below` were dropped: `deleted` rises by `count`.
    Purge {
        /// The queue, which stays.
        queue: QueueId,
        /// First id that is not dropped. No later message has one below it.
        below: MessageId,
        /// How many messages were dropped.
        count: u64,
    },
    /// Message and queue ids below `end` are reserved.
    Ids {
        /// First id not reserved.
        end: u64,
    },
    /// A stored message failed its checksum and was set aside: `corrupt` rises. Its bytes stay in the store.
    Corrupt {
        /// Its queue.
        queue: QueueId,
        /// The message.
        message: MessageId,
    },
    /// A message counted in `gets` whose reply its client did not live to see: `gets_unsent` rises.
    Unsent {
        /// Its queue.
        queue: QueueId,
    },
    /// Messages went from their putters straight to those who waited for them: `puts` and `gets` rise by `count`.
    Passed {
        /// Their queue.
        queue: QueueId,
        /// How many.
        count: u64,
    },
    /// The message left its queue for another reason than a `Take`: the counter of that reason rises. Only where there are no groups.
    Leave {
        /// Its queue.
        queue: QueueId,
        /// The message.
        message: MessageId,
        /// The reason.
        why: Why,
    },
    /// An open read of the message was given back: it was delivered so many times.
    Return {
        /// The queue or group it was read from.
        queue: QueueId,
        /// The message.
        message: MessageId,
        /// How many times, at least 1.
        deliveries: u32,
    },
    /// The settings of all queues of this name, now and later. Empty: there are none.
    Configure {
        /// The name, 1 to 250 bytes.
        name: &'a [u8],
        /// As [`crate::queue::Settings`] encodes them.
        settings: &'a [u8],
    },
    /// A group began its life: all `offered` messages that the queue has stored are ready for it.
    Group {
        /// Its id.
        queue: QueueId,
        /// Whose messages it reads.
        of: QueueId,
        /// Wall clock, milliseconds since the epoch.
        created_ms: u64,
        /// How many messages there are: `puts` of the group begins with them.
        offered: u64,
        /// Its name, `q/group=g`, at most 255 bytes.
        name: &'a [u8],
    },
    /// A reader of a queue with groups is done with the message, for that reason. The message stays for the others.
    Pass {
        /// The group, or the queue itself for its plain readers.
        queue: QueueId,
        /// The message.
        message: MessageId,
        /// Everything below is passed too.
        low: MessageId,
        /// The reason.
        why: Why,
    },
    /// All readers of a queue with groups have passed the message: it goes.
    Free {
        /// The queue, not a group.
        queue: QueueId,
        /// The message.
        message: MessageId,
    },
    /// What all readers of a queue with groups have passed goes, because one of them was deleted or purged.
    Sweep {
        /// The queue, not a group.
        queue: QueueId,
        /// How many messages go.
        freed: u64,
    },
    /// The message is on its way to a queue of another shard. It is still here, and at the next start ready again unless it was accepted there.
    Move {
        /// The queue or group it leaves.
        queue: QueueId,
        /// The message.
        message: MessageId,
        /// Of this transfer; rises over those from this queue.
        number: u64,
        /// Why it goes: what it is counted as when it was accepted.
        why: Why,
        /// The name of the queue it goes to.
        target: &'a [u8],
    },
    /// The message of this transfer was accepted; the `Leave` or `Pass` that counts it follows in the same batch.
    Moved {
        /// The queue or group it leaves.
        queue: QueueId,
        /// Of the transfer.
        number: u64,
    },
    /// The transfer with this number, and all before it from there to this target, were accepted; the `Put` follows in the same batch.
    Accept {
        /// The queue or group the message comes from, of whichever shard.
        source: QueueId,
        /// Of the transfer.
        number: u64,
        /// The name of the queue it goes to.
        target: &'a [u8],
    },
}

/// Why a message left a queue, or a reader is done with it: the counter that rises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Why {
    /// It was taken, or its open read confirmed: `gets`.
    Got = 0,
    /// Its time was over: `expired`.
    Expired = 1,
    /// It made room for younger ones, or its deliveries were used up and there is no queue for such: `discarded`.
    Discarded = 2,
    /// Its deliveries were used up and it went to another queue: `dead_lettered`.
    DeadLettered = 3,
    /// It was never for this reader: `skipped`.
    Skipped = 4,
}

impl Why {
    /// The reason with this number.
    pub fn of(byte: u8) -> Option<Why> {
        [Why::Got, Why::Expired, Why::Discarded, Why::DeadLettered, Why::Skipped]
            .into_iter()
            .find(|why| *why as u8 == byte)
    }
}

/// A message on its way to, or from, the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Put<'a> {
    /// Its queue.
    pub queue: QueueId,
    /// Its place in the queue's order.
    pub message: MessageId,
    /// When it was put: wall clock, milliseconds since the epoch.
    pub put_ms: u64,
    /// The client's flags, returned as sent.
    pub flags: u32,
    /// When it expires: wall clock, milliseconds since the epoch. 0: never.
    pub expires_ms: u64,
    /// CRC-32C over all else; see [`Put::checksum`].
    pub crc32c: u32,
    /// The message itself.
    pub body: &'a [u8],
}

/// Bytes of an encoded `Put` before its body, of a message that does not expire.
pub const PUT_HEADER_SIZE: usize = 1 + 8 + 8 + 8 + 4 + 4 + 4;

/// Bytes of an encoded `Take`.
pub const TAKE_SIZE: usize = 1 + 8 + 8;

/// Bytes of an encoded `Passed`.
pub const PASSED_SIZE: usize = 1 + 8 + 8;

/// The bytes are not a sequence of mutations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed mutation at byte {offset}")]
pub struct Malformed {
    /// Where in the batch.
    pub offset: usize,
}

impl Put<'_> {
    /// The checksum that travels with a message from its put to its delivery: of ids, time, flags, when it expires, and the body. A message
    /// that never expires has that 0 in it, although it is not stored: otherwise the time could be taken for the body's beginning.
    pub fn checksum(&self) -> u32 {
        let mut head = [0u8; 36];
        head[0..8].copy_from_slice(&self.queue.0.to_le_bytes());
        head[8..16].copy_from_slice(&self.message.0.to_le_bytes());
        head[16..24].copy_from_slice(&self.put_ms.to_le_bytes());
        head[24..28].copy_from_slice(&self.flags.to_le_bytes());
        head[28..36].copy_from_slice(&self.expires_ms.to_le_bytes());
        crc32c::crc32c_append(crc32c::crc32c(&head), self.body)
    }

    /// The same put with the checksum that fits it.
    #[must_use]
    pub fn sealed(self) -> Self {
        Put { crc32c: self.checksum(), ..self }
    }

    /// Whether the checksum fits what it covers.
    pub fn is_intact(&self) -> bool {
        self.crc32c == self.checksum()
    }

    /// Bytes of its encoding.
    pub fn encoded_size(&self) -> usize {
        PUT_HEADER_SIZE + if self.expires_ms == 0 { 0 } else { 8 } + self.body.len()
    }
}

impl Mutation<'_> {
    /// Appends the encoding to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Mutation::Put(put) => {
                let mut head = [0u8; PUT_HEADER_SIZE + 8];
                let expires = put.expires_ms > 0;
                head[0] = if expires { 10 } else { 1 };
                head[1..9].copy_from_slice(&put.queue.0.to_le_bytes());
                head[9..17].copy_from_slice(&put.message.0.to_le_bytes());
                head[17..25].copy_from_slice(&put.put_ms.to_le_bytes());
                head[25..29].copy_from_slice(&put.flags.to_le_bytes());
                let len = u32::try_from(put.body.len()).expect("a body is at most 128 MiB");
                head[29..33].copy_from_slice(&len.to_le_bytes());
                head[33..37].copy_from_slice(&put.crc32c.to_le_bytes());
                head[37..45].copy_from_slice(&put.expires_ms.to_le_bytes());
                out.extend_from_slice(if expires { &head } else { &head[..PUT_HEADER_SIZE] });
                out.extend_from_slice(put.body);
            }
            Mutation::Take { queue, message } => words(out, 2, &[queue.0, message.0]),
            Mutation::Create { queue, created_ms, name } => {
                words(out, 3, &[queue.0, created_ms]);
                name_to(out, name);
            }
            Mutation::Delete { queue } => words(out, 4, &[queue.0]),
            Mutation::Purge { queue, below, count } => words(out, 5, &[queue.0, below.0, count]),
            Mutation::Ids { end } => words(out, 6, &[end]),
            Mutation::Corrupt { queue, message } => words(out, 7, &[queue.0, message.0]),
            Mutation::Unsent { queue } => words(out, 8, &[queue.0]),
            Mutation::Passed { queue, count } => words(out, 9, &[queue.0, count]),
            Mutation::Leave { queue, message, why } => {
                words(out, 11, &[queue.0, message.0]);
                out.push(why as u8);
            }
            Mutation::Return { queue, message, deliveries } => {
                words(out, 12, &[queue.0, message.0]);
                out.extend_from_slice(&deliveries.to_le_bytes());
            }
            Mutation::Configure { name, settings } => {
                out.push(13);
                name_to(out, name);
                let len = u16::try_from(settings.len()).expect("settings are smaller than 64 KiB");
                out.extend_from_slice(&len.to_le_bytes());
                out.extend_from_slice(settings);
            }
            Mutation::Group { queue, of, created_ms, offered, name } => {
                words(out, 14, &[queue.0, of.0, created_ms, offered]);
                name_to(out, name);
            }
            Mutation::Pass { queue, message, low, why } => {
                words(out, 15, &[queue.0, message.0, low.0]);
                out.push(why as u8);
            }
            Mutation::Free { queue, message } => words(out, 16, &[queue.0, message.0]),
            Mutation::Sweep { queue, freed } => words(out, 17, &[queue.0, freed]),
            Mutation::Move { queue, message, number, why, target } => {
                words(out, 18, &[queue.0, message.0, number]);
                out.push(why as u8);
                name_to(out, target);
            }
            Mutation::Moved { queue, number } => words(out, 19, &[queue.0, number]),
            Mutation::Accept { source, number, target } => {
                words(out, 20, &[source.0, number]);
                name_to(out, target);
            }
        }
    }
}

fn name_to(out: &mut Vec<u8>, name: &[u8]) {
    out.push(u8::try_from(name.len()).expect("a name is at most 255 bytes"));
    out.extend_from_slice(name);
}

fn words(out: &mut Vec<u8>, kind: u8, words: &[u64]) {
    out.push(kind);
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// Reads a batch: yields its mutations in order, and stops after the first malformed one.
pub struct Decoder<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Decoder<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Decoder { bytes, offset: 0 }
    }

    /// Where the next mutation begins.
    pub fn offset(&self) -> usize {
        self.offset
    }

    fn decode(&mut self) -> Option<Mutation<'a>> {
        let rest = &self.bytes[self.offset..];
        let mut reader = Reader { rest };
        let mutation = match reader.u8()? {
            kind @ (1 | 10) => {
                let queue = QueueId(reader.u64()?);
                let message = MessageId(reader.u64()?);
                let put_ms = reader.u64()?;
                let flags = reader.u32()?;
                let len = reader.u32()? as usize;
                let crc32c = reader.u32()?;
                let expires_ms = if kind == 10 { reader.u64().filter(|ms| *ms > 0)? } else { 0 };
                let body = reader.take(len)?;
                Mutation::Put(Put { queue, message, put_ms, flags, expires_ms, crc32c, body })
            }
            2 => Mutation::Take { queue: reader.queue()?, message: reader.message()? },
            3 => {
                let queue = QueueId(reader.u64()?);
                let created_ms = reader.u64()?;
                Mutation::Create { queue, created_ms, name: reader.name()? }
            }
            4 => Mutation::Delete { queue: reader.queue()? },
            5 => Mutation::Purge { queue: reader.queue()?, below: reader.message()?, count: reader.u64()? },
            6 => Mutation::Ids { end: reader.u64()? },
            7 => Mutation::Corrupt { queue: reader.queue()?, message: reader.message()? },
            8 => Mutation::Unsent { queue: reader.queue()? },
            9 => Mutation::Passed { queue: reader.queue()?, count: reader.u64()? },
            11 => Mutation::Leave { queue: reader.queue()?, message: reader.message()?, why: reader.why()? },
            12 => Mutation::Return { queue: reader.queue()?, message: reader.message()?, deliveries: reader.u32()? },
            13 => {
                let name = reader.name()?;
                let len = u16::from_le_bytes(reader.take(2)?.try_into().expect("two bytes"));
                Mutation::Configure { name, settings: reader.take(usize::from(len))? }
            }
            14 => Mutation::Group {
                queue: reader.queue()?,
                of: reader.queue()?,
                created_ms: reader.u64()?,
                offered: reader.u64()?,
                name: reader.name()?,
            },
            15 => Mutation::Pass {
                queue: reader.queue()?,
                message: reader.message()?,
                low: reader.message()?,
                why: reader.why()?,
            },
            16 => Mutation::Free { queue: reader.queue()?, message: reader.message()? },
            17 => Mutation::Sweep { queue: reader.queue()?, freed: reader.u64()? },
            18 => Mutation::Move {
                queue: reader.queue()?,
                message: reader.message()?,
                number: reader.u64()?,
                why: reader.why()?,
                target: reader.name()?,
            },
            19 => Mutation::Moved { queue: reader.queue()?, number: reader.u64()? },
            20 => Mutation::Accept { source: reader.queue()?, number: reader.u64()?, target: reader.name()? },
            _ => return None,
        };
        self.offset += rest.len() - reader.rest.len();
        Some(mutation)
    }
}

impl<'a> Iterator for Decoder<'a> {
    type Item = Result<Mutation<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.offset == self.bytes.len() {
            return None;
        }
        let offset = self.offset;
        match self.decode() {
            Some(mutation) => Some(Ok(mutation)),
            None => {
                self.offset = self.bytes.len();
                Some(Err(Malformed { offset }))
            }
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn queue(&mut self) -> Option<QueueId> {
        self.u64().map(QueueId)
    }

    fn message(&mut self) -> Option<MessageId> {
        self.u64().map(MessageId)
    }

    fn why(&mut self) -> Option<Why> {
        self.u8().and_then(Why::of)
    }

    fn name(&mut self) -> Option<&'a [u8]> {
        let len = self.u8()? as usize;
        self.take(len)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")))
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<u8> {
        let mut bytes = Vec::new();
        let (queue, message) = (QueueId(7), MessageId(9));
        let put = Put { queue, message, put_ms: 11, flags: 13, expires_ms: 0, crc32c: 0, body: b"body" };
        for mutation in [
            Mutation::Ids { end: 1 << 33 },
            Mutation::Create { queue, created_ms: 5, name: b"name" },
            Mutation::Put(put.sealed()),
            Mutation::Put(Put { expires_ms: 17, ..put }.sealed()),
            Mutation::Take { queue, message },
            Mutation::Unsent { queue },
            Mutation::Passed { queue, count: 4 },
            Mutation::Corrupt { queue, message },
            Mutation::Purge { queue, below: message, count: 3 },
            Mutation::Leave { queue, message, why: Why::Discarded },
            Mutation::Return { queue, message, deliveries: 3 },
            Mutation::Configure { name: b"name", settings: b"settings" },
            Mutation::Group { queue: QueueId(8), of: queue, created_ms: 6, offered: 2, name: b"name/group=g" },
            Mutation::Pass { queue, message, low: MessageId(10), why: Why::Skipped },
            Mutation::Free { queue, message },
            Mutation::Sweep { queue, freed: 4 },
            Mutation::Move { queue, message, number: 5, why: Why::Expired, target: b"other" },
            Mutation::Moved { queue, number: 5 },
            Mutation::Accept { source: queue, number: 5, target: b"other" },
            Mutation::Delete { queue },
        ] {
            mutation.encode(&mut bytes);
        }
        bytes
    }

    #[test]
    fn decoding_gives_back_what_was_encoded() {
        let bytes = one_of_each();
        let mut again = Vec::new();
        for mutation in Decoder::new(&bytes) {
            mutation.unwrap().encode(&mut again);
        }
        assert_eq!(bytes, again);
    }

    #[test]
    fn a_cut_batch_is_malformed_at_its_last_mutation() {
        let bytes = one_of_each();
        let starts: Vec<usize> = {
            let mut decoder = Decoder::new(&bytes);
            let mut starts = vec![0];
            while decoder.next().is_some() {
                starts.push(decoder.offset());
            }
            starts
        };
        for cut in 0..bytes.len() {
            let last = Decoder::new(&bytes[..cut]).last();
            if starts.contains(&cut) {
                assert!(last.is_none_or(|m| m.is_ok()), "cut at {cut}");
            } else {
                let offset = *starts.iter().rfind(|s| **s < cut).unwrap();
                assert_eq!(last, Some(Err(Malformed { offset })), "cut at {cut}");
            }
        }
    }

    #[test]
    fn named_sizes_are_those_of_the_encodings() {
        let size = |mutation: Mutation<'_>| {
            let mut bytes = Vec::new();
            mutation.encode(&mut bytes);
            bytes.len()
        };
        let (queue, message) = (QueueId(7), MessageId(9));
        assert_eq!(size(Mutation::Take { queue, message }), TAKE_SIZE);
        assert_eq!(size(Mutation::Passed { queue, count: 1 }), PASSED_SIZE);
        let put = Put { queue, message, put_ms: 0, flags: 0, expires_ms: 0, crc32c: 0, body: b"body" };
        assert_eq!(size(Mutation::Put(put)), PUT_HEADER_SIZE + 4);
        assert_eq!(size(Mutation::Put(put)), put.encoded_size());
        let expiring = Put { expires_ms: 1, ..put };
        assert_eq!(size(Mutation::Put(expiring)), expiring.encoded_size());
    }

    #[test]
    fn an_unknown_kind_is_malformed() {
        assert_eq!(Decoder::new(&[0]).next(), Some(Err(Malformed { offset: 0 })));
        assert_eq!(Decoder::new(&[99, 1, 2]).next(), Some(Err(Malformed { offset: 0 })));
    }

    #[test]
    fn a_flipped_bit_breaks_the_checksum() {
        let put = Put {
            queue: QueueId(1),
            message: MessageId(2),
            put_ms: 3,
            flags: 4,
            expires_ms: 0,
            crc32c: 0,
            body: b"abc",
        };
        let put = put.sealed();
        assert!(put.is_intact());
        assert!(!Put { body: b"abb", ..put }.is_intact());
        assert!(!Put { flags: 5, ..put }.is_intact());
        assert!(!Put { expires_ms: 1, ..put }.is_intact());
        assert!(Put { expires_ms: 1, ..put }.sealed().is_intact());
    }
}
