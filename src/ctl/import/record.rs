//! The bytes of a spool: its header, and records of messages and of what has become of them. Pure.
//!
//! Invariant: a record is accepted only where it was written, in the file it was written to: its checksum covers its offset and the
//! file's salt. So bytes that a body brought along are never taken for a record.
//!
//! Integers are little-endian. A record begins with 16 bytes: checksum (CRC-32C of salt, offset and all that follows the checksum) u32,
//! kind u8, length of the name u8, zero u16, and two u32. A message has flags and size of the body there, and name and body
//! follow; a mark has the first number and the count of the messages that are done. Messages are numbered from 0 in the order of the file.

/// The size of the header: magic, version u32, salt u64, CRC-32C of these u32.
pub(super) const HEADER_SIZE: usize = 24;

pub(super) const MAGIC: &[u8; 8] = b"RINGQSPL";

pub(super) const VERSION: u32 = 1;

const HEAD_SIZE: usize = 16;
const KIND_MESSAGE: u8 = 1;
const KIND_DONE: u8 = 2;

/// What one file's records have in common and no other file's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Salt(pub(super) u64);

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Record<'a> {
    Message {
        queue: &'a [u8],
        flags: u32,
        body: &'a [u8],
    },
    /// These messages need not be offered any more.
    Done {
        first: u32,
        count: u32,
    },
}

/// What the first bytes of a file are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Header {
    /// A spool's header.
    Whole(Salt),
    /// The beginning of one whose writing was cut short, or nothing at all: no record has ever followed.
    Unfinished,
    /// A spool of another version.
    Unknown(u32),
    /// Something else.
    Foreign,
}

pub(super) fn encode_header(salt: Salt) -> [u8; HEADER_SIZE] {
    let mut bytes = [0; HEADER_SIZE];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..20].copy_from_slice(&salt.0.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..20]);
    bytes[20..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

pub(super) fn decode_header(bytes: &[u8]) -> Header {
    let is_begun = bytes.iter().all(|byte| *byte == 0) || bytes.iter().zip(MAGIC).all(|(byte, magic)| byte == magic);
    let Some(header) = bytes.first_chunk::<HEADER_SIZE>() else {
        return if is_begun { Header::Unfinished } else { Header::Foreign };
    };
    if bytes.len() == HEADER_SIZE && bytes.iter().all(|byte| *byte == 0) {
        return Header::Unfinished;
    }
    if !header.starts_with(MAGIC) {
        return Header::Foreign;
    }
    match u32_at(header, 8) {
        VERSION if crc32c::crc32c(&header[..20]) == u32_at(header, 20) => {
            Header::Whole(Salt(u64::from_le_bytes(header[12..20].try_into().expect("eight bytes"))))
        }
        VERSION => Header::Foreign,
        version => Header::Unknown(version),
    }
}

/// The bytes of a record that begins at `offset` of its file.
pub(super) fn encode(salt: Salt, offset: u64, record: Record<'_>) -> Vec<u8> {
    let (kind, name, first, second, body): (u8, &[u8], u32, u32, &[u8]) = match record {
        Record::Message { queue, flags, body } => {
            (KIND_MESSAGE, queue, flags, u32::try_from(body.len()).expect("a body has at most 128 MiB"), body)
        }
        Record::Done { first, count } => (KIND_DONE, &[], first, count, &[]),
    };
    let name_len = u8::try_from(name.len()).expect("a name has at most 250 bytes");
    let mut bytes = Vec::with_capacity(HEAD_SIZE + name.len() + body.len());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&[kind, name_len, 0, 0]);
    bytes.extend_from_slice(&first.to_le_bytes());
    bytes.extend_from_slice(&second.to_le_bytes());
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(body);
    let checksum = checksum(salt, offset, &bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The record at the start of `bytes`, which stand at `offset` of the file, and its size; none if it is not whole or not what was written.
pub(super) fn decode(salt: Salt, offset: u64, bytes: &[u8]) -> Option<(Record<'_>, usize)> {
    let head = bytes.first_chunk::<HEAD_SIZE>()?;
    let (kind, name_len) = (head[4], usize::from(head[5]));
    let (first, second) = (u32_at(head, 8), u32_at(head, 12));
    let size = match kind {
        KIND_MESSAGE => HEAD_SIZE + name_len + second as usize,
        KIND_DONE => HEAD_SIZE,
        _ => return None,
    };
    let bytes = bytes.get(..size)?;
    if checksum(salt, offset, &bytes[4..]) != u32_at(head, 0) {
        return None;
    }
    let record = if kind == KIND_MESSAGE {
        let (queue, body) = bytes[HEAD_SIZE..].split_at(name_len);
        Record::Message { queue, flags: first, body }
    } else {
        Record::Done { first, count: second }
    };
    Some((record, size))
}

fn checksum(salt: Salt, offset: u64, bytes: &[u8]) -> u32 {
    let seed = crc32c::crc32c_append(crc32c::crc32c(&salt.0.to_le_bytes()), &offset.to_le_bytes());
    crc32c::crc32c_append(seed, bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = Salt(7);
    const MESSAGE: Record<'_> = Record::Message { queue: b"q\xff", flags: u32::MAX, body: b"a\0\r\n" };

    #[test]
    fn records_are_read_as_they_were_written_and_nowhere_else() {
        for record in
            [MESSAGE, Record::Message { queue: b"q", flags: 0, body: b"" }, Record::Done { first: 3, count: 9 }]
        {
            let bytes = encode(SALT, 40, record);
            assert_eq!(decode(SALT, 40, &bytes), Some((record, bytes.len())));
            assert_eq!(decode(SALT, 41, &bytes), None, "at another offset");
            assert_eq!(decode(Salt(8), 40, &bytes), None, "in another file");
            for end in 0..bytes.len() {
                assert_eq!(decode(SALT, 40, &bytes[..end]), None, "cut at {end}");
            }
            for bit in 0..8 * bytes.len() {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(decode(SALT, 40, &flipped), None, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_header_is_whole_or_begun_or_something_else() {
        let header = encode_header(SALT);
        assert_eq!(decode_header(&header), Header::Whole(SALT));
        for end in 0..HEADER_SIZE {
            assert_eq!(decode_header(&header[..end]), Header::Unfinished, "cut at {end}");
        }
        assert_eq!(decode_header(&[0; HEADER_SIZE]), Header::Unfinished);
        for foreign in [&b"#!/bin/sh"[..], b"a text of more than twenty-four bytes", &[0; HEADER_SIZE + 1]] {
            assert_eq!(decode_header(foreign), Header::Foreign);
        }
        for byte in 0..HEADER_SIZE {
            let mut flipped = header;
            flipped[byte] ^= 1;
            let expected = if (8..12).contains(&byte) { Header::Unknown(u32_at(&flipped, 8)) } else { Header::Foreign };
            assert_eq!(decode_header(&flipped), expected, "byte {byte}");
        }
    }
}
