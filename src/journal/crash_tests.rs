//! Crashes on a simulated disk: what the writer wrote and the disk kept is what replay gives back.
//!
//! The disk keeps any subset of the 512-byte sectors of writes that had not completed. Every failure names its seed, and
//! `RINGQ_JOURNAL_SEED=n cargo test journal` runs that one alone.

use super::record::HEADER_SIZE;
use super::*;
use crate::ids::Salt;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;

pub const SALT: Salt = Salt([0x5a; 16]);
pub const SHARD: ShardId = ShardId(3);
const SECTOR: usize = 512;

/// xorshift64*: enough for tests, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Four segments in memory.
#[derive(Clone)]
pub struct Disk {
    segments: Vec<Vec<u8>>,
    /// A segment whose reads fail.
    pub unreadable: Option<u32>,
}

impl Disk {
    pub fn new(blocks: u64) -> Disk {
        let size = (blocks * BLOCK_SIZE) as usize;
        Disk { segments: vec![vec![0; size]; SEGMENTS as usize], unreadable: None }
    }

    pub fn config(&self, salt: Salt, unsynced: bool) -> WriterConfig {
        let segment_size = self.segment_size();
        WriterConfig { shard: SHARD, salt, segment_size, segments: SEGMENTS, depth: 4, unsynced }
    }

    pub fn write(&mut self, segment: u32, offset: u64, bytes: &[u8]) {
        let offset = offset as usize;
        self.segments[segment as usize][offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    pub fn flip(&mut self, segment: u32, offset: u64) {
        self.segments[segment as usize][offset as usize] ^= 0x10;
    }
}

impl ReadSegment for Disk {
    fn segments(&self) -> u32 {
        self.segments.len() as u32
    }

    fn segment_size(&self) -> u64 {
        self.segments[0].len() as u64
    }

    fn read(&mut self, segment: u32, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if self.unreadable == Some(segment) {
            return Err(io::Error::other("a bad sector"));
        }
        let offset = offset as usize;
        into.copy_from_slice(&self.segments[segment as usize][offset..offset + into.len()]);
        Ok(())
    }
}

/// Writes a record whole and completes it.
pub fn write_all(disk: &mut Disk, writer: &mut Writer, write: Write) {
    disk.write(write.segment, write.offset, write.buffer.bytes());
    writer.written(write.token, write.buffer);
}

type Read = (Outcome, Vec<(Seq, Vec<u8>)>);

/// Replays from a position and returns the records.
pub fn read_back(disk: &mut Disk, from: Position) -> Result<Read, ReplayError<Infallible>> {
    read_generation(disk, SALT, from)
}

fn read_generation(disk: &mut Disk, salt: Salt, from: Position) -> Result<Read, ReplayError<Infallible>> {
    let mut records = Vec::new();
    let mut expected = from;
    let outcome = replay(disk, SHARD, &salt, from, &mut |seq, mutations, end| {
        assert_eq!(seq, expected.seq);
        assert_eq!(end.seq.0, seq.0 + 1);
        expected = end;
        records.push((seq, mutations.to_vec()));
        Ok(())
    })?;
    assert_eq!((outcome.end, outcome.records), (expected, records.len() as u64));
    Ok((outcome, records))
}

/// One run of a daemon, as the disk and the clients see it.
struct Run {
    disk: Disk,
    salt: Salt,
    writer: Writer,
    unsynced: bool,
    /// Every record appended: where it begins, where the journal goes on, what it holds, what it knew to be acknowledged.
    appended: Vec<Appended>,
    /// Writes the disk has not completed.
    under_way: Vec<Write>,
    /// What an unsynced run wrote and the disk may not have yet: the newest bytes of sectors.
    cached: BTreeMap<(u32, usize), Vec<u8>>,
    /// Up to here replies were sent.
    acknowledged: Seq,
    /// Up to here the disk has what was written.
    synced: Seq,
    /// Where the store's last checkpoint ended.
    stored: Position,
}

#[derive(Clone, Debug)]
struct Appended {
    segment: u32,
    offset: u64,
    end: Position,
    mutations: Vec<u8>,
    durable_through: Seq,
}

impl Run {
    fn new(disk: Disk, salt: Salt, unsynced: bool, depth: usize) -> Run {
        let writer = Writer::new(WriterConfig { depth, ..disk.config(salt, unsynced) });
        Run {
            disk,
            salt,
            writer,
            unsynced,
            appended: Vec::new(),
            under_way: Vec::new(),
            cached: BTreeMap::new(),
            acknowledged: Seq(0),
            synced: Seq(0),
            stored: START,
        }
    }

    fn step(&mut self, random: &mut Random) {
        match random.below(8) {
            0..=2 => self.append(random),
            3..=5 => self.complete(random),
            6 => self.checkpoint(random),
            _ => self.sync(),
        }
    }

    fn append(&mut self, random: &mut Random) {
        let largest = self.disk.segment_size() - HEADER_SIZE as u64;
        let size = match random.below(6) {
            0 => 0,
            1..=3 => random.below(300),
            4 => random.below(3 * BLOCK_SIZE).min(largest),
            _ => random.below(largest + 1),
        };
        let mutations: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
        match self.writer.room(mutations.len()) {
            Room::Now => {}
            Room::Busy => return,
            Room::Full => return self.checkpoint(random),
        }
        let seq = Seq(self.appended.len() as u64 + 1);
        let write = self.writer.append(seq, self.acknowledged, &mutations);
        let (segment, offset, end) = (write.segment, write.offset, write.end);
        self.appended.push(Appended { segment, offset, end, mutations, durable_through: self.acknowledged });
        self.under_way.push(write);
    }

    fn complete(&mut self, random: &mut Random) {
        if self.under_way.is_empty() {
            return;
        }
        let write = self.under_way.swap_remove(random.below(self.under_way.len() as u64) as usize);
        if self.unsynced {
            for (at, sector) in write.buffer.bytes().chunks(SECTOR).enumerate() {
                let place = (write.segment, write.offset as usize + at * SECTOR);
                self.cached.insert(place, sector.to_vec());
            }
        } else {
            self.disk.write(write.segment, write.offset, write.buffer.bytes());
        }
        if let Some(seq) = self.writer.written(write.token, write.buffer) {
            assert!(seq > self.acknowledged);
            self.acknowledged = seq;
            if !self.unsynced {
                self.synced = seq;
            }
        }
    }

    /// The store takes some of what was acknowledged.
    fn checkpoint(&mut self, random: &mut Random) {
        let new = self.acknowledged.0 + 1 - self.stored.seq.0.min(self.acknowledged.0 + 1);
        if new == 0 {
            return;
        }
        let through = self.stored.seq.0 + random.below(new);
        self.stored = self.appended[through as usize - 1].end;
        self.writer.release(Seq(through));
    }

    fn sync(&mut self) {
        for ((segment, offset), sector) in std::mem::take(&mut self.cached) {
            self.disk.write(segment, offset as u64, &sector);
        }
        self.synced = self.acknowledged;
    }

    /// The power goes: any sectors of what was not complete are on the disk.
    fn crash(&mut self, random: &mut Random) {
        // Between nothing and everything, so that long runs of both occur.
        let kept = random.below(9);
        let mut keep = |disk: &mut Disk, segment: u32, offset: usize, sector: &[u8]| {
            if random.below(8) < kept {
                disk.write(segment, offset as u64, sector);
            }
        };
        for ((segment, offset), sector) in std::mem::take(&mut self.cached) {
            keep(&mut self.disk, segment, offset, &sector);
        }
        for write in std::mem::take(&mut self.under_way) {
            for (at, sector) in write.buffer.bytes().chunks(SECTOR).enumerate() {
                keep(&mut self.disk, write.segment, write.offset as usize + at * SECTOR, sector);
            }
        }
    }

    /// What replay gives back must be what was appended from the checkpoint on, and all that was promised.
    fn check(&mut self) {
        let (outcome, records) = read_generation(&mut self.disk, self.salt, self.stored).expect("no damage");
        self.check_prefix(&records);
        let promised = if self.unsynced { self.synced } else { self.acknowledged };
        assert!(outcome.end.seq > promised, "record {promised} is lost");
        if let Some(torn) = outcome.torn {
            assert_eq!(torn.seq, outcome.end.seq);
            assert_eq!(torn.unsynced, self.unsynced);
            let missing = &self.appended[torn.seq.0 as usize - 1];
            let possible = [(missing.segment, missing.offset), (outcome.end.segment, outcome.end.offset)];
            assert!(possible.contains(&(torn.segment, torn.offset)));
        }
    }

    fn check_prefix(&self, records: &[(Seq, Vec<u8>)]) {
        let first = self.stored.seq.0;
        assert!(records.len() <= self.appended.len() + 1 - first as usize, "more than was appended");
        for (at, (seq, mutations)) in records.iter().enumerate() {
            assert_eq!(seq.0, first + at as u64);
            assert!(*mutations == self.appended[seq.0 as usize - 1].mutations, "record {seq} has changed");
        }
    }
}

fn seeds(count: u64) -> std::ops::Range<u64> {
    match std::env::var("RINGQ_JOURNAL_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("RINGQ_JOURNAL_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..count,
    }
}

/// Names the seed when the test fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again: RINGQ_JOURNAL_SEED={} cargo test journal", self.0);
        }
    }
}

/// Several lives of one disk, each ended by a crash in the middle of what it does.
fn lives(seed: u64, mut each: impl FnMut(&mut Run, &mut Random)) {
    let _named = Named(seed);
    let mut random = Random::new(seed);
    let mut disk = Disk::new(1 + random.below(12));
    for life in 0..4 {
        let mut salt = SALT;
        salt.0[0] = life;
        let mut run = Run::new(disk, salt, random.below(3) == 0, 1 + random.below(4) as usize);
        for _ in 0..random.below(250) {
            run.step(&mut random);
        }
        run.crash(&mut random);
        each(&mut run, &mut random);
        disk = run.disk;
    }
}

#[test]
fn whatever_a_crash_leaves_all_that_was_acknowledged_comes_back() {
    for seed in seeds(1500) {
        lives(seed, |run, _| run.check());
    }
}

#[test]
fn damage_to_a_record_known_acknowledged_is_refused_with_its_place() {
    let mut refused = 0;
    for seed in seeds(1500) {
        lives(seed, |run, random| {
            let first = run.stored.seq.0 as usize;
            if run.unsynced || run.acknowledged.0 < first as u64 {
                return;
            }
            let damaged = first + random.below(run.acknowledged.0 + 1 - first as u64) as usize;
            let record = run.appended[damaged - 1].clone();
            // Only records that are complete are sure to tell.
            let known = (run.appended.iter().take(run.acknowledged.0 as usize).skip(damaged))
                .any(|later| later.durable_through.0 >= damaged as u64);
            let mut disk = run.disk.clone();
            disk.flip(record.segment, record.offset + random.below((HEADER_SIZE + record.mutations.len()) as u64));
            match read_generation(&mut disk, run.salt, run.stored) {
                Err(ReplayError::Corrupt { segment, offset, seq, evidence, .. }) => {
                    assert_eq!((segment, offset, seq.0), (record.segment, record.offset, damaged as u64));
                    let teller = &run.appended[evidence.seq.0 as usize - 1];
                    assert_eq!((evidence.segment, evidence.offset), (teller.segment, teller.offset));
                    assert!(teller.durable_through >= seq);
                    refused += 1;
                }
                Ok((outcome, records)) => {
                    assert!(!known, "the loss of record {damaged} went unseen");
                    assert_eq!(outcome.end.seq.0, damaged as u64);
                    run.check_prefix(&records);
                }
                Err(error) => panic!("{error}"),
            }
        });
    }
    assert!(refused > 500 || std::env::var("RINGQ_JOURNAL_SEED").is_ok(), "only {refused} refused");
}

/// Laps the journal, so that older records lie behind the newest, then flips every byte in turn.
#[test]
fn every_flipped_byte_is_refused_or_costs_only_what_cannot_be_told() {
    let mut run = Run::new(Disk::new(3), SALT, false, 2);
    let mut random = Random::new(3);
    while run.appended.len() < 40 || run.acknowledged.0 < run.stored.seq.0 + 3 {
        if run.writer.is_half_full() || run.writer.room(3 * 4096 - HEADER_SIZE) == Room::Full {
            run.checkpoint(&mut random);
        }
        run.append(&mut random);
        run.complete(&mut random);
    }
    while !run.under_way.is_empty() {
        run.complete(&mut random);
    }
    let (first, last) = (run.stored.seq.0, run.appended.len() as u64);
    let (mut refused, mut lost) = (0, 0);
    for segment in 0..SEGMENTS {
        for offset in 0..run.disk.segment_size() {
            let hit = (first..=last).find(|seq| {
                let record = &run.appended[*seq as usize - 1];
                let covered = record.offset..record.offset + (HEADER_SIZE + record.mutations.len()) as u64;
                record.segment == segment && covered.contains(&offset)
            });
            run.disk.flip(segment, offset);
            let result = read_back(&mut run.disk, run.stored);
            run.disk.flip(segment, offset);
            let Some(hit) = hit else {
                // Padding, or bytes that are no longer needed.
                assert_eq!(result.expect("nothing of worth was hit").0.end.seq.0, last + 1);
                continue;
            };
            let is_known = run.appended[hit as usize..].iter().any(|later| later.durable_through.0 >= hit);
            let record = &run.appended[hit as usize - 1];
            match result {
                Err(ReplayError::Corrupt { segment, offset, seq, .. }) => {
                    assert!(is_known);
                    assert_eq!((segment, offset, seq.0), (record.segment, record.offset, hit));
                    refused += 1;
                }
                Err(error) => panic!("{error}"),
                Ok((outcome, records)) => {
                    assert!(!is_known, "the loss of record {hit} went unseen");
                    assert_eq!(outcome.end.seq.0, hit);
                    run.check_prefix(&records);
                    lost += 1;
                }
            }
        }
    }
    assert!(refused > 0 && lost > 0, "{refused} refused, {lost} lost");
}

/// What a covering record is for.
#[test]
fn behind_a_covering_record_no_acknowledged_record_can_be_lost_unseen() {
    let mut disk = Disk::new(4);
    let mut writer = Writer::new(disk.config(SALT, false));
    let mut ends = vec![START];
    for (seq, mutations) in [(1, &b"one"[..]), (2, b"two"), (3, b"")] {
        let write = writer.append(Seq(seq), Seq(seq - 1), mutations);
        ends.push(write.end);
        write_all(&mut disk, &mut writer, write);
    }
    for start in &ends[..2] {
        let mut disk = disk.clone();
        disk.flip(0, start.offset + 64);
        assert!(matches!(read_back(&mut disk, START), Err(ReplayError::Corrupt { .. })));
    }
}
