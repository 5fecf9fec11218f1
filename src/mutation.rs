//! Mutations: what a shard's requests changed, as bytes.
//!
//! A batch of mutations is a plain concatenation of the encodings below, in the order in which they happened. The same
//! bytes go to the store and, read back, come from it (`Put` is also the form in which stored messages are loaded), so
//! there is one encoding of a message in memory and on the way to disk. All integers are little-endian.
//!
//! ```text
//! Put     1 · queue u64 · message u64 · put_ms u64 · flags u32 · len u32 · crc32c u32 · body
//! Take    2 · queue u64 · message u64
//! Create  3 · queue u64 · created_ms u64 · name_len u8 · name
//! Delete  4 · queue u64
//! Purge   5 · queue u64 · below u64 · count u64
//! Ids     6 · end u64
//! Corrupt 7 · queue u64 · message u64
//! Unsent  8 · queue u64
//! Passed  9 · queue u64 · count u64
//! ```
//!
//! Invariant: every `Put`, `Take`, `Purge`, `Corrupt`, `Unsent`, `Passed` names a queue that a `Create` introduced before it, in
//! this batch, an earlier one, or the store. Puts of one queue need not come in order of id: a message that came back from a
//! client that was gone is recorded late. Does not know who writes the bytes where.
//!
//! Step 5 to 6 of a message's path.

use crate::ids::{MessageId, QueueId};

/// One change of a shard's durable state, borrowed from its encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutation<'a> {
    /// A message was appended to its queue: `puts` rises.
    Put(Put<'a>),
    /// A plain get took the message: `gets` rises.
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
        /// First id that is not dropped.
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
    /// CRC-32C over ids, time, flags and body; see [`checksum`].
    pub crc32c: u32,
    /// The message itself.
    pub body: &'a [u8],
}

/// Bytes of an encoded `Put` before its body.
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

/// The checksum that travels with a message from its put to its delivery.
pub fn checksum(queue: QueueId, message: MessageId, put_ms: u64, flags: u32, body: &[u8]) -> u32 {
    let mut head = [0u8; 28];
    head[0..8].copy_from_slice(&queue.0.to_le_bytes());
    head[8..16].copy_from_slice(&message.0.to_le_bytes());
    head[16..24].copy_from_slice(&put_ms.to_le_bytes());
    head[24..28].copy_from_slice(&flags.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), body)
}

impl Put<'_> {
    /// Whether the checksum fits what it covers.
    pub fn is_intact(&self) -> bool {
        self.crc32c == checksum(self.queue, self.message, self.put_ms, self.flags, self.body)
    }
}

impl Mutation<'_> {
    /// Appends the encoding to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Mutation::Put(put) => {
                let mut head = [0u8; PUT_HEADER_SIZE];
                head[0] = 1;
                head[1..9].copy_from_slice(&put.queue.0.to_le_bytes());
                head[9..17].copy_from_slice(&put.message.0.to_le_bytes());
                head[17..25].copy_from_slice(&put.put_ms.to_le_bytes());
                head[25..29].copy_from_slice(&put.flags.to_le_bytes());
                let len = u32::try_from(put.body.len()).expect("a body is at most 128 MiB");
                head[29..33].copy_from_slice(&len.to_le_bytes());
                head[33..37].copy_from_slice(&put.crc32c.to_le_bytes());
                out.extend_from_slice(&head);
                out.extend_from_slice(put.body);
            }
            Mutation::Take { queue, message } => words(out, 2, &[queue.0, message.0]),
            Mutation::Create { queue, created_ms, name } => {
                words(out, 3, &[queue.0, created_ms]);
                out.push(u8::try_from(name.len()).expect("a name is at most 250 bytes"));
                out.extend_from_slice(name);
            }
            Mutation::Delete { queue } => words(out, 4, &[queue.0]),
            Mutation::Purge { queue, below, count } => words(out, 5, &[queue.0, below.0, count]),
            Mutation::Ids { end } => words(out, 6, &[end]),
            Mutation::Corrupt { queue, message } => words(out, 7, &[queue.0, message.0]),
            Mutation::Unsent { queue } => words(out, 8, &[queue.0]),
            Mutation::Passed { queue, count } => words(out, 9, &[queue.0, count]),
        }
    }
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
            1 => {
                let queue = QueueId(reader.u64()?);
                let message = MessageId(reader.u64()?);
                let put_ms = reader.u64()?;
                let flags = reader.u32()?;
                let len = reader.u32()? as usize;
                let crc32c = reader.u32()?;
                let body = reader.take(len)?;
                Mutation::Put(Put { queue, message, put_ms, flags, crc32c, body })
            }
            2 => Mutation::Take { queue: QueueId(reader.u64()?), message: MessageId(reader.u64()?) },
            3 => {
                let queue = QueueId(reader.u64()?);
                let created_ms = reader.u64()?;
                let len = reader.u8()? as usize;
                Mutation::Create { queue, created_ms, name: reader.take(len)? }
            }
            4 => Mutation::Delete { queue: QueueId(reader.u64()?) },
            5 => {
                Mutation::Purge { queue: QueueId(reader.u64()?), below: MessageId(reader.u64()?), count: reader.u64()? }
            }
            6 => Mutation::Ids { end: reader.u64()? },
            7 => Mutation::Corrupt { queue: QueueId(reader.u64()?), message: MessageId(reader.u64()?) },
            8 => Mutation::Unsent { queue: QueueId(reader.u64()?) },
            9 => Mutation::Passed { queue: QueueId(reader.u64()?), count: reader.u64()? },
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
        let crc32c = checksum(queue, message, 11, 13, b"body");
        for mutation in [
            Mutation::Ids { end: 1 << 33 },
            Mutation::Create { queue, created_ms: 5, name: b"name" },
            Mutation::Put(Put { queue, message, put_ms: 11, flags: 13, crc32c, body: b"body" }),
            Mutation::Take { queue, message },
            Mutation::Unsent { queue },
            Mutation::Passed { queue, count: 4 },
            Mutation::Corrupt { queue, message },
            Mutation::Purge { queue, below: message, count: 3 },
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
        let put = Put { queue, message, put_ms: 0, flags: 0, crc32c: 0, body: b"body" };
        assert_eq!(size(Mutation::Put(put)), PUT_HEADER_SIZE + 4);
    }

    #[test]
    fn an_unknown_kind_is_malformed() {
        assert_eq!(Decoder::new(&[0]).next(), Some(Err(Malformed { offset: 0 })));
        assert_eq!(Decoder::new(&[99, 1, 2]).next(), Some(Err(Malformed { offset: 0 })));
    }

    #[test]
    fn a_flipped_bit_breaks_the_checksum() {
        let mut put = Put {
            queue: QueueId(1),
            message: MessageId(2),
            put_ms: 3,
            flags: 4,
            crc32c: checksum(QueueId(1), MessageId(2), 3, 4, b"abc"),
            body: b"abc",
        };
        assert!(put.is_intact());
        put.body = b"abb";
        assert!(!put.is_intact());
        put.body = b"abc";
        put.flags = 5;
        assert!(!put.is_intact());
    }
}
