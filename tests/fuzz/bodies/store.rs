//! The store's rows. The first byte chooses what kind of row the rest is, and whether a checksum is made to fit, so that not only the checksum
//! keeps bytes out.
//!
//! Promises: no bytes make a reader panic; a row that is read is written again as it was; a row that is refused is refused whole.

use ringq::ids::{QueueId, ShardId};
use ringq::store::codec::{Kind, drop_key, journal_key, rewritten};

const KINDS: [Kind; 8] =
    [Kind::Record, Kind::Run, Kind::Holes, Kind::Queue, Kind::Move, Kind::Accepted, Kind::Journal, Kind::Drop];

/// Bytes of a key made of two ids.
const IDS_SIZE: usize = 16;

/// Bytes before a run's index, and of a message in it.
const RUN_HEADER_SIZE: usize = 9;
const RUN_ENTRY_SIZE: usize = 8;

pub fn run(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    let kind = KINDS[usize::from(choice & 15) % KINDS.len()];
    let key_size = match kind {
        Kind::Journal | Kind::Drop => 8,
        Kind::Queue => 1,
        _ => IDS_SIZE,
    };
    let Some((key, value)) = rest.split_at_checked(key_size) else { return };
    let (mut key, mut value) = (key.to_vec(), value.to_vec());
    let number = |key: &[u8]| u64::from_be_bytes(*key.first_chunk().expect("eight bytes"));
    match kind {
        Kind::Journal if choice & 16 == 16 => key = journal_key(ShardId(number(&key) as u16)),
        Kind::Drop if choice & 16 == 16 => key = drop_key(QueueId(number(&key))),
        Kind::Run | Kind::Holes if choice & 16 == 16 => seal(kind, &key, &mut value),
        _ => {}
    }
    let Some((key_again, value_again)) = rewritten(kind, &key, &value) else { return };
    assert!(key_again == key, "{kind:?}: the key {} became {}", key.escape_ascii(), key_again.escape_ascii());
    match kind {
        // It has no value, or another one now, which is read as such.
        Kind::Drop => {}
        _ => assert!(value_again == value, "{kind:?}: {} became {}", value.escape_ascii(), value_again.escape_ascii()),
    }
}

/// Makes the checksum at the beginning fit.
fn seal(kind: Kind, key: &[u8], value: &mut [u8]) {
    let covered = match kind {
        Kind::Run => {
            let Some(len) = value.get(5..9) else { return };
            let len = u32::from_le_bytes(len.try_into().expect("four bytes")) as usize;
            RUN_HEADER_SIZE + len.saturating_mul(RUN_ENTRY_SIZE)
        }
        _ => value.len(),
    };
    let Some(covered) = value.get(4..covered) else { return };
    let mut head = [0; IDS_SIZE];
    for (to, from) in head.chunks_exact_mut(8).zip(key.chunks_exact(8)) {
        to.iter_mut().zip(from.iter().rev()).for_each(|(to, from)| *to = *from);
    }
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&head), covered);
    value[..4].copy_from_slice(&checksum.to_le_bytes());
}
