//! A record: one batch of mutations as it lies in the journal.
//!
//! A record starts at a multiple of 4096 and is padded with zeros to the next one. All integers are little-endian.
//!
//! ```text
//! offset size
//!      0    8  magic, "RINGQJNL"
//!      8    2  format version, 1
//!     10    2  flags: bit 0 unsynced; the others are 0
//!     12    2  shard
//!     14    2  0
//!     16   16  salt of the generation
//!     32    8  sequence
//!     40    8  durable_through
//!     48    4  size of the mutations, bytes
//!     52    4  crc32c over salt and mutations
//!     56    4  0
//!     60    4  crc32c over bytes 0 to 59, the salt among them
//!     64       mutations
//! ```
//!
//! There are two checksums so that a header can be trusted without what follows it: looking for records costs one read of a
//! block each, however long a header that lies claims to be; and a header is evidence even if its mutations were torn. The
//! second contains the first, so a record is still checked as a whole. The salt is there in full beside being mixed into the
//! checksums because 32 bits would be too few to tell generations apart.
//!
//! Invariant: [`decode`] accepts exactly what [`encode`] made with the same salt, up to the strength of the checksums, and no
//! bytes make it panic. Does not know where records lie or in which order.
//!
//! Step 6 of a message's path.

#![forbid(unsafe_code)]

use super::{BLOCK_SIZE, PageBuffer};
use crate::ids::{Salt, Seq, ShardId};

/// Bytes of a record before its mutations.
pub const HEADER_SIZE: usize = 64;

const MAGIC: [u8; 8] = *b"RINGQJNL";
const VERSION: u16 = 1;
const FLAG_UNSYNCED: u16 = 1;

/// What a record says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Whose it is.
    pub shard: ShardId,
    /// Its number, one more than that of the record before it.
    pub seq: Seq,
    /// Every record up to and including this number was complete, and synced unless the run was unsynced, before this one was
    /// built: its replies may have been sent. Always less than `seq`.
    pub durable_through: Seq,
    /// The daemon ran with `-N`: replies did not wait for a sync, and the kernel wrote records back in any order.
    pub unsynced: bool,
}

/// A record, borrowed from the bytes it was found in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// What it says of itself.
    pub header: Header,
    /// Mutations, encoded as in the module `mutation`. Empty in a covering record.
    pub mutations: &'a [u8],
}

/// Why bytes are no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Invalid {
    /// There was never a record here, or its header is damaged.
    #[error("there is no record")]
    Absent,
    /// The record is of another start.
    #[error("the record is of another generation")]
    Salt,
    /// The header is not what was written.
    #[error("the record's header is damaged")]
    Header,
    /// The header is sound, but the mutations go on past the end of the bytes.
    #[error("the record is cut off")]
    Short,
    /// The header is sound, the mutations are not what was written.
    #[error("the record's mutations are damaged")]
    Mutations,
}

/// A sound header and what it says of the mutations behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Announced {
    pub header: Header,
    pub payload_size: usize,
    checksum: u32,
}

impl Announced {
    /// Whether these are the mutations that were written with the header.
    pub fn covers(&self, mutations: &[u8], salt: &Salt) -> bool {
        mutations.len() == self.payload_size && checksum(mutations, salt) == self.checksum
    }
}

/// What a record with so many bytes of mutations takes in the journal, bytes: a multiple of [`BLOCK_SIZE`].
pub fn record_size(payload_size: usize) -> u64 {
    (HEADER_SIZE as u64 + payload_size as u64).next_multiple_of(BLOCK_SIZE)
}

/// Builds a record in `into`, which is then exactly as long as the record.
pub fn encode(header: &Header, salt: &Salt, mutations: &[u8], into: &mut PageBuffer) {
    assert!(header.durable_through < header.seq, "a record cannot tell of its own replies");
    let size = u32::try_from(mutations.len()).expect("a batch is shorter than 4 GiB");
    let end = HEADER_SIZE + mutations.len();
    into.reset(end);
    let bytes = into.bytes_mut();
    let flags = if header.unsynced { FLAG_UNSYNCED } else { 0 };
    bytes[..HEADER_SIZE].fill(0);
    bytes[0..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[10..12].copy_from_slice(&flags.to_le_bytes());
    bytes[12..14].copy_from_slice(&header.shard.0.to_le_bytes());
    bytes[16..32].copy_from_slice(&salt.0);
    bytes[32..40].copy_from_slice(&header.seq.0.to_le_bytes());
    bytes[40..48].copy_from_slice(&header.durable_through.0.to_le_bytes());
    bytes[48..52].copy_from_slice(&size.to_le_bytes());
    bytes[52..56].copy_from_slice(&checksum(mutations, salt).to_le_bytes());
    let head = crc32c::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&head.to_le_bytes());
    bytes[HEADER_SIZE..end].copy_from_slice(mutations);
    bytes[end..].fill(0);
}

/// Reads the record at the start of `bytes`, which may go on behind it.
///
/// # Errors
/// When there is no whole record of this generation.
pub fn decode<'a>(bytes: &'a [u8], salt: &Salt) -> Result<Record<'a>, Invalid> {
    let announced = decode_header(bytes, salt)?;
    let mutations = bytes[HEADER_SIZE..].get(..announced.payload_size).ok_or(Invalid::Short)?;
    if !announced.covers(mutations, salt) {
        return Err(Invalid::Mutations);
    }
    Ok(Record { header: announced.header, mutations })
}

/// Reads a header without looking at what is behind it.
///
/// # Errors
/// When there is no sound header of this generation.
pub(super) fn decode_header(bytes: &[u8], salt: &Salt) -> Result<Announced, Invalid> {
    let bytes: &[u8; HEADER_SIZE] = bytes.first_chunk().ok_or(Invalid::Absent)?;
    if bytes[0..8] != MAGIC {
        return Err(Invalid::Absent);
    }
    if bytes[16..32] != salt.0 {
        return Err(Invalid::Salt);
    }
    let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (seq, durable_through, flags) = (Seq(u64_at(32)), Seq(u64_at(40)), u16_at(10));
    let is_ours = crc32c::crc32c(&bytes[..60]) == u32_at(60)
        && u16_at(8) == VERSION
        && flags & !FLAG_UNSYNCED == 0
        && durable_through < seq;
    if !is_ours {
        return Err(Invalid::Header);
    }
    let header = Header { shard: ShardId(u16_at(12)), seq, durable_through, unsynced: flags & FLAG_UNSYNCED != 0 };
    Ok(Announced { header, payload_size: u32_at(48) as usize, checksum: u32_at(52) })
}

fn checksum(mutations: &[u8], salt: &Salt) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.0), mutations)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = Salt([7; 16]);

    fn header() -> Header {
        Header { shard: ShardId(3), seq: Seq(0x0102_0304_0506), durable_through: Seq(99), unsynced: true }
    }

    fn encoded(mutations: &[u8]) -> Vec<u8> {
        let mut buffer = PageBuffer::new();
        encode(&header(), &SALT, mutations, &mut buffer);
        buffer.bytes().to_vec()
    }

    #[test]
    fn decoding_gives_back_what_was_encoded() {
        for size in [0, 1, 4031, 4032, 4033, 8128, 8129, 100_000] {
            let mutations: Vec<u8> = (0..size).map(|i| i as u8).collect();
            let bytes = encoded(&mutations);
            assert_eq!(bytes.len() as u64, record_size(size));
            assert_eq!(decode(&bytes, &SALT), Ok(Record { header: header(), mutations: &mutations }));
        }
    }

    #[test]
    fn fields_lie_where_the_table_says() {
        let bytes = encoded(b"mutations");
        assert_eq!(bytes[..8], *b"RINGQJNL");
        assert_eq!(bytes[8..16], [1, 0, 1, 0, 3, 0, 0, 0]);
        assert_eq!(bytes[16..32], [7; 16]);
        assert_eq!(bytes[32..48], [6, 5, 4, 3, 2, 1, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[48..52], [9, 0, 0, 0]);
        let salted = [&[7; 16][..], b"mutations"].concat();
        assert_eq!(bytes[52..56], crc32c::crc32c(&salted).to_le_bytes());
        assert_eq!(bytes[56..60], [0; 4]);
        assert_eq!(bytes[60..64], crc32c::crc32c(&bytes[..60]).to_le_bytes());
        assert_eq!(&bytes[64..73], b"mutations");
    }

    #[test]
    fn padding_is_zero_whatever_the_buffer_held() {
        let mut buffer = PageBuffer::new();
        buffer.reset(3 * 4096);
        buffer.bytes_mut().fill(0xaa);
        encode(&header(), &SALT, b"abc", &mut buffer);
        assert_eq!(buffer.bytes().len(), 4096);
        assert!(buffer.bytes()[HEADER_SIZE + 3..].iter().all(|b| *b == 0));
    }

    #[test]
    fn a_flipped_bit_of_header_or_mutations_is_refused() {
        let bytes = encoded(b"some mutations");
        for at in 0..HEADER_SIZE + 14 {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(decode(&damaged, &SALT).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn a_record_of_another_generation_is_refused() {
        let mut other = SALT;
        other.0[15] ^= 1;
        assert_eq!(decode(&encoded(b"abc"), &other), Err(Invalid::Salt));
    }

    #[test]
    fn a_cut_record_is_refused() {
        let bytes = encoded(&[1; 5000]);
        for len in (0..HEADER_SIZE).chain([HEADER_SIZE, 4096, HEADER_SIZE + 4999]) {
            let expected = if len < HEADER_SIZE { Invalid::Absent } else { Invalid::Short };
            assert_eq!(decode(&bytes[..len], &SALT), Err(expected), "length {len}");
        }
        assert!(decode(&bytes[..HEADER_SIZE + 5000], &SALT).is_ok());
    }

    /// Sound checksums over senseless fields: what only a faulty daemon would write.
    #[test]
    fn fields_no_record_may_have_are_refused() {
        type Change = fn(&mut [u8]);
        let changes: [Change; 3] = [|b| b[8] = 2, |b| b[10] = 2, |b| b[40..48].fill(0xff)];
        for change in changes {
            let mut bytes = encoded(b"abc");
            change(&mut bytes);
            let head = crc32c::crc32c(&bytes[..60]);
            bytes[60..64].copy_from_slice(&head.to_le_bytes());
            assert_eq!(decode(&bytes, &SALT), Err(Invalid::Header));
        }
        let mut bytes = encoded(b"abc");
        bytes[48..52].fill(0xff);
        let head = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&head.to_le_bytes());
        assert_eq!(decode(&bytes, &SALT), Err(Invalid::Short));
    }

    #[test]
    fn no_bytes_make_decoding_panic() {
        let mut random = crate::journal::crash_tests::Random::new(1);
        for _ in 0..20_000 {
            let mut bytes = encoded(b"abc");
            bytes.truncate(random.below(200) as usize);
            for _ in 0..random.below(8) {
                let at = random.below(200) as usize;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.next() as u8;
                }
            }
            if let Ok(record) = decode(&bytes, &SALT) {
                assert_eq!((record.header, record.mutations), (header(), &b"abc"[..]));
            }
        }
    }
}
