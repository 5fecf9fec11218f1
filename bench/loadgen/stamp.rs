//! Stamp: what the front of a verified message says about it, and its check sum.
//!
//! ```text
//!  0  4  magic "RQB1"
//!  4  4  CRC-32C of everything after it, to the end of the message
//!  8  4  run       16  4  queue     24  8  sequence, counted per producer and queue from 0
//! 12  4  producer  20  4  size of the message in bytes
//! ```
//! Numbers are little-endian. The rest of the message is filler that depends on the sequence, so that a body that
//! belongs to another message is noticed as well.

/// Bytes of a stamp; a verified message is at least as long.
pub const STAMP_SIZE: usize = 32;

const MAGIC: &[u8; 4] = b"RQB1";

/// Filler is cut from a table of this many bytes, a prime so that starts do not line up with message sizes.
const FILLER_STARTS: u64 = 65_521;

/// Identifies one message of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The run that made it.
    pub run: u32,
    /// The connection that put it.
    pub producer: u32,
    /// The queue it was put into.
    pub queue: u32,
    /// How many messages this producer put into this queue before it.
    pub sequence: u64,
}

/// Bytes to fill messages with.
#[derive(Debug)]
pub struct Filler {
    bytes: Vec<u8>,
}

impl Filler {
    /// Filler for messages up to `size_max` bytes: printable, so that a dump of the wire can be read.
    pub fn new(size_max: usize) -> Filler {
        let mut random = crate::size_range::Random::new(0x52_69_6E_67);
        let printable = |_| b' ' + (random.next() % 95) as u8;
        Filler { bytes: (0..FILLER_STARTS as usize + size_max).map(printable).collect() }
    }

    /// Appends `size` bytes of filler that depend on `sequence`.
    pub fn append(&self, out: &mut Vec<u8>, sequence: u64, size: usize) {
        let start = (sequence.wrapping_mul(97) % FILLER_STARTS) as usize;
        out.extend_from_slice(&self.bytes[start..start + size]);
    }

    /// Appends a stamped message of `size` bytes, at least `STAMP_SIZE`.
    pub fn append_stamped(&self, out: &mut Vec<u8>, stamp: Stamp, size: usize) {
        assert!(size >= STAMP_SIZE);
        let start = out.len();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&stamp.run.to_le_bytes());
        out.extend_from_slice(&stamp.producer.to_le_bytes());
        out.extend_from_slice(&stamp.queue.to_le_bytes());
        out.extend_from_slice(&(size as u32).to_le_bytes());
        out.extend_from_slice(&stamp.sequence.to_le_bytes());
        self.append(out, stamp.sequence, size - STAMP_SIZE);
        let crc = crc32c::crc32c(&out[start + 8..]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }
}

impl Stamp {
    /// Reads the stamp of a whole message; `None` when the message is damaged or never had one.
    pub fn read(body: &[u8]) -> Option<Stamp> {
        if body.len() < STAMP_SIZE || &body[..4] != MAGIC {
            return None;
        }
        let number = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().expect("four bytes"));
        let sound = number(4) == crc32c::crc32c(&body[8..]) && number(20) as usize == body.len();
        let sequence = u64::from_le_bytes(body[24..32].try_into().expect("eight bytes"));
        sound.then(|| Stamp { run: number(8), producer: number(12), queue: number(16), sequence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 1, producer: 2, queue: 3, sequence: 4 };

    fn stamped(size: usize) -> Vec<u8> {
        let mut body = Vec::new();
        Filler::new(1000).append_stamped(&mut body, STAMP, size);
        assert_eq!(body.len(), size);
        body
    }

    #[test]
    fn a_stamp_reads_back() {
        for size in [STAMP_SIZE, STAMP_SIZE + 1, 1000] {
            assert_eq!(Stamp::read(&stamped(size)), Some(STAMP));
        }
    }

    #[test]
    fn any_changed_bit_is_noticed() {
        let body = stamped(60);
        for bit in 0..body.len() * 8 {
            let mut damaged = body.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Stamp::read(&damaged), None, "bit {bit}");
        }
    }

    #[test]
    fn any_other_length_is_noticed() {
        let body = stamped(60);
        for size in 0..60 {
            assert_eq!(Stamp::read(&body[..size]), None, "{size} bytes");
        }
        assert_eq!(Stamp::read(&[body, vec![0]].concat()), None);
    }
}
