//! The journal. Either a journal that was written, torn and damaged, where what a replay must find is known; or arbitrary segments in which
//! whoever wrote them knew salt and checksums.
//!
//! Promises: what is passed on was appended, in order and without a gap; a record that was acknowledged is passed on, or the start refused; a
//! torn end is not taken for damage; no bytes make a replay panic, or read outside of the journal.

use crate::disk::Disk;
use arbitrary::{Result, Unstructured};
use ringq::ids::{Position, Salt, Seq, ShardId};
use ringq::journal::record::{HEADER_SIZE, decode};
use ringq::journal::{
    BLOCK_SIZE, ReadSegment, ReplayError, Room, SEGMENTS, START, Write, Writer, WriterConfig, replay,
};
use std::convert::Infallible;

const SHARD: ShardId = ShardId(3);
const SALT: Salt = Salt(*b"of this one life");
const BLOCK: usize = BLOCK_SIZE as usize;
const SEGMENT_BLOCKS: usize = 4;
const SEGMENT_SIZE: usize = SEGMENT_BLOCKS * BLOCK;

/// Flipped bits in one life, so few that no checksum misses them.
const FLIPS_MAX: usize = 3;

/// Records in one life.
const RECORDS_MAX: usize = 64;

pub fn run(bytes: &[u8]) {
    let mut choices = Unstructured::new(bytes);
    // What ends too early says nothing more.
    let _ = match choices.arbitrary::<u8>() {
        Ok(kind) if kind.is_multiple_of(3) => forged(&mut choices),
        Ok(_) => written(&mut choices),
        Err(_) => Ok(()),
    };
}

/// A record as it was given to the disk.
struct Appended {
    seq: Seq,
    durable_through: Seq,
    segment: u32,
    offset: usize,
    end: Position,
    bytes: Vec<u8>,
    payload_size: usize,
}

struct Life {
    disk: Disk,
    writer: Writer,
    unsynced: bool,
    appended: Vec<Appended>,
    under_way: Vec<Write>,
    durable: Seq,
    /// Where a start goes on.
    from: Position,
}

fn written(choices: &mut Unstructured<'_>) -> Result<()> {
    let unsynced = choices.ratio(1, 4)?;
    let config = WriterConfig {
        shard: SHARD,
        salt: SALT,
        segment_size: SEGMENT_SIZE as u64,
        segments: SEGMENTS,
        depth: 3,
        unsynced,
    };
    let mut life = Life {
        disk: Disk::new(SEGMENT_SIZE as u64),
        writer: Writer::new(config),
        unsynced,
        appended: Vec::new(),
        under_way: Vec::new(),
        durable: Seq(0),
        from: START,
    };
    let end = life.live(choices);
    life.tear(choices)?;
    life.check(false);
    end?;
    if life.damage(choices)? {
        life.check(true);
    }
    Ok(())
}

impl Life {
    fn live(&mut self, choices: &mut Unstructured<'_>) -> Result<()> {
        while self.appended.len() < RECORDS_MAX && !choices.is_empty() {
            match choices.int_in_range(0..=7u8)? {
                0..=3 => self.append(choices)?,
                4..=6 if !self.under_way.is_empty() => {
                    let at = choices.choose_index(self.under_way.len())?;
                    let write = self.under_way.remove(at);
                    self.disk.write(write.segment, write.offset as usize, write.buffer.bytes());
                    self.durable = self.writer.written(write.token, write.buffer).unwrap_or(self.durable);
                }
                7 if self.durable > Seq(0) => {
                    let stored = Seq(choices.int_in_range(1..=self.durable.0)?);
                    self.writer.release(stored);
                    let last = self.appended.iter().find(|it| it.seq == stored).expect("it was appended");
                    if last.end.seq > self.from.seq {
                        self.from = last.end;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn append(&mut self, choices: &mut Unstructured<'_>) -> Result<()> {
        let size = choices.int_in_range(0..=SEGMENT_SIZE - HEADER_SIZE)?;
        if self.writer.room(size) != Room::Now {
            return Ok(());
        }
        let seq = Seq(self.appended.len() as u64 + 1);
        let durable_through = Seq(choices.int_in_range(0..=self.durable.0)?);
        let mutations: Vec<u8> = (0..size).map(|at| (at / 7) as u8 ^ seq.0 as u8).collect();
        let write = self.writer.append(seq, durable_through, &mutations);
        assert!(
            write.offset.is_multiple_of(BLOCK_SIZE)
                && write.offset as usize + write.buffer.bytes().len() <= SEGMENT_SIZE
        );
        self.appended.push(Appended {
            seq,
            durable_through,
            segment: write.segment,
            offset: write.offset as usize,
            end: write.end,
            bytes: write.buffer.bytes().to_vec(),
            payload_size: size,
        });
        self.under_way.push(write);
        Ok(())
    }

    /// The power goes: of what is under way some blocks are on the disk.
    fn tear(&mut self, choices: &mut Unstructured<'_>) -> Result<()> {
        for write in std::mem::take(&mut self.under_way) {
            for (at, block) in write.buffer.bytes().chunks(BLOCK).enumerate() {
                if choices.ratio(1, 2)? {
                    self.disk.write(write.segment, write.offset as usize + at * BLOCK, block);
                }
            }
        }
        Ok(())
    }

    /// Returns whether there was any.
    fn damage(&mut self, choices: &mut Unstructured<'_>) -> Result<bool> {
        let flips = choices.int_in_range(0..=FLIPS_MAX)?;
        for _ in 0..flips {
            let (segment, at) = (choices.int_in_range(0..=SEGMENTS - 1)?, choices.int_in_range(0..=SEGMENT_SIZE - 1)?);
            let bit = 1 << choices.int_in_range(0..=7u8)?;
            let mut byte = [0];
            self.disk.read(segment, at as u64, &mut byte).expect("memory");
            self.disk.write(segment, at, &[byte[0] ^ bit]);
        }
        let is_lost = choices.ratio(1, 3)?;
        if is_lost {
            let (segment, block) =
                (choices.int_in_range(0..=SEGMENTS - 1)?, choices.int_in_range(0..=SEGMENT_BLOCKS - 1)?);
            self.disk.write(segment, block * BLOCK, &[0; BLOCK]);
        }
        Ok(flips > 0 || is_lost)
    }

    /// What is on the disk where so many bytes of the record belong.
    fn is_there(&mut self, at: usize, size: usize) -> bool {
        let Appended { segment, offset, .. } = self.appended[at];
        let mut found = vec![0; size];
        self.disk.read(segment, offset as u64, &mut found).expect("memory");
        found == self.appended[at].bytes[..size]
    }

    /// Replays, and compares with what is known.
    fn check(&mut self, is_damaged: bool) {
        let first = self.from.seq.0 as usize - 1;
        let all = self.appended.len();
        let is_whole: Vec<bool> =
            (first..all).map(|at| self.is_there(at, HEADER_SIZE + self.appended[at].payload_size)).collect();
        let has_header: Vec<bool> = (first..all).map(|at| self.is_there(at, HEADER_SIZE)).collect();
        let readable = is_whole.iter().take_while(|is_whole| **is_whole).count();
        let missing = Seq((first + readable) as u64 + 1);

        let mut passed_on = Vec::new();
        let mut each = |seq, mutations: &[u8], end| -> std::result::Result<(), Infallible> {
            passed_on.push((seq, mutations.to_vec(), end));
            Ok(())
        };
        let outcome = replay(&mut self.disk, SHARD, &SALT, self.from, &mut each);
        assert_eq!(passed_on.len(), readable, "all readable records are passed on");
        for ((seq, mutations, end), appended) in passed_on.iter().zip(&self.appended[first..]) {
            assert_eq!((*seq, *end), (appended.seq, appended.end));
            assert!(
                *mutations == appended.bytes[HEADER_SIZE..][..appended.payload_size],
                "record {seq} is what it was"
            );
        }
        let behind = (first..all).zip(&has_header).skip(readable).filter(|(_, has_header)| **has_header);
        let rest: Vec<usize> = behind.map(|(at, _)| at).collect();
        let is_acknowledged = rest.iter().any(|at| self.appended[*at].durable_through >= missing);
        match outcome {
            Ok(outcome) => {
                assert!(self.unsynced || !is_acknowledged, "record {missing} was acknowledged, and is dropped");
                assert_eq!((outcome.records, outcome.end.seq), (readable as u64, missing));
                let dropped = outcome.torn.map_or(0, |torn| torn.dropped_records);
                assert_eq!(dropped, rest.len() as u64, "what is dropped is counted");
                assert!(is_damaged || missing > self.durable, "what is durable is passed on");
            }
            Err(ReplayError::Corrupt { seq, evidence, .. }) => {
                assert!(is_damaged, "nothing was damaged");
                assert!(is_acknowledged && !self.unsynced, "record {missing} may not have been acknowledged");
                assert!(seq == missing && evidence.seq > missing);
            }
            Err(other) => panic!("{other}"),
        }
    }
}

/// Segments with headers and payloads that somebody made up who knows salt and checksums.
fn forged(choices: &mut Unstructured<'_>) -> Result<()> {
    let mut disk = Disk::new(SEGMENT_SIZE as u64);
    for _ in 0..choices.int_in_range(0..=16usize)? {
        let (segment, block) = (choices.int_in_range(0..=SEGMENTS - 1)?, choices.int_in_range(0..=SEGMENT_BLOCKS - 1)?);
        let payload_len = choices.int_in_range(0..=64usize)?;
        let payload = choices.bytes(payload_len.min(choices.len()))?;
        let claimed = if choices.ratio(3, 4)? { payload.len() as u32 } else { choices.arbitrary()? };
        let bytes = header(choices, claimed, payload)?;
        disk.write(segment, block * BLOCK, &bytes);
        let decoded = decode(&bytes, &SALT);
        assert!(decoded.is_err() || decoded.is_ok_and(|it| it.mutations.len() == claimed as usize));
    }
    let from = Position {
        seq: Seq(choices.int_in_range(0..=4)?),
        segment: choices.int_in_range(0..=SEGMENTS)?,
        offset: choices.int_in_range(0..=SEGMENT_BLOCKS as u64 + 1)? * BLOCK_SIZE,
    };
    let mut next = from.seq;
    let mut each = |seq: Seq, _: &[u8], end: Position| -> std::result::Result<(), Infallible> {
        assert_eq!(seq, next, "records are passed on without a gap");
        assert!(end.segment < SEGMENTS && end.offset <= SEGMENT_SIZE as u64 && end.offset.is_multiple_of(BLOCK_SIZE));
        next = Seq(seq.0 + 1);
        assert_eq!(end.seq, next);
        Ok(())
    };
    let outcome = replay(&mut disk, SHARD, &SALT, from, &mut each);
    if let Ok(outcome) = outcome {
        assert_eq!(outcome.end.seq, next);
    }
    Ok(())
}

fn header(choices: &mut Unstructured<'_>, claimed: u32, payload: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER_SIZE];
    let seq = if choices.ratio(7, 8)? { choices.int_in_range(0..=8u64)? } else { choices.arbitrary()? };
    let durable_through = if choices.ratio(7, 8)? { choices.int_in_range(0..=8u64)? } else { choices.arbitrary()? };
    let [version, flags, shard]: [u16; 3] = match choices.int_in_range(0..=15u8)? {
        0 => choices.arbitrary()?,
        1..=4 => [1, 1, SHARD.0],
        _ => [1, 0, SHARD.0],
    };
    bytes[0..8].copy_from_slice(b"RINGQJNL");
    bytes[8..10].copy_from_slice(&version.to_le_bytes());
    bytes[10..12].copy_from_slice(&flags.to_le_bytes());
    bytes[12..14].copy_from_slice(&shard.to_le_bytes());
    bytes[16..32].copy_from_slice(&SALT.0);
    bytes[32..40].copy_from_slice(&seq.to_le_bytes());
    bytes[40..48].copy_from_slice(&durable_through.to_le_bytes());
    bytes[48..52].copy_from_slice(&claimed.to_le_bytes());
    let payload_checksum = crc32c::crc32c_append(crc32c::crc32c(&SALT.0), payload);
    bytes[52..56].copy_from_slice(&payload_checksum.to_le_bytes());
    let head = crc32c::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&head.to_le_bytes());
    bytes.extend_from_slice(payload);
    Ok(bytes)
}
