//! Batches of mutations that LMDB and the store in memory both get, such as honest shards write and such as they never would. Each byte is a
//! choice.
//!
//! Promises: no batch makes a store panic; what both have taken, both have, also after LMDB was closed and opened again. What a reader has of
//! messages that were never put, which no shard writes, the stores need not agree on.

use arbitrary::{Result, Unstructured};
use ringq::ids::{MessageId, Position, QueueId, Salt, Seq, ShardId};
use ringq::mutation::{Mutation, Put, Why};
use ringq::store::lmdb::{Lmdb, LmdbConfig};
use ringq::store::memory::MemoryStore;
use ringq::store::{Batch, Error, Load, Loaded, Store, Taken};
use std::collections::HashSet;

static BODY: [u8; 300] = [b'x'; 300];

/// Transactions in one life of a store.
const JOBS_MAX: usize = 8;

const NAMES: [&[u8]; 3] = [b"a", b"b", b"c"];
const GROUPS: [&[u8]; 2] = [b"a/group=g", b"a/group=h"];

pub fn run(bytes: &[u8]) {
    let mut choices = Unstructured::new(bytes);
    let directory = tempfile::Builder::new().prefix("ringq-fuzz-").tempdir().expect("a temporary directory");
    let open = || Lmdb::open(directory.path(), &LmdbConfig::default()).expect("nothing was damaged");
    let (mut lmdb, mut memory) = (open(), MemoryStore::new());
    for store in [&mut lmdb as &mut dyn Store, &mut memory] {
        store.begin_journals(&[Salt([7; 16])]).expect("an empty store");
    }
    let (mut next, mut seen) = (1, Seen::default());
    for _ in 0..JOBS_MAX {
        if choices.is_empty() {
            break;
        }
        let Ok(batches) = job(&mut choices, &mut next, &mut seen) else { break };
        let Ok(taken) = Taken::of(&batches) else { break };
        let results = [lmdb.apply(&batches, &taken), memory.apply(&batches, &taken)];
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            assert!(matches!(error, Error::Damaged(_)), "{error}");
        }
        // Whatever contradicts itself ends the server; the stores need not find the same contradictions.
        if results.iter().any(std::result::Result::is_err) {
            return;
        }
        if seen.never_put {
            continue;
        }
        compare(&mut lmdb, &mut memory);
    }
    drop(lmdb);
    let mut lmdb = open();
    if seen.never_put {
        lmdb.recover().expect("it was written");
        return;
    }
    compare(&mut lmdb, &mut memory);
    let settled = [lmdb.settle_moves(), memory.settle_moves()];
    if settled.iter().all(std::result::Result::is_ok) {
        compare(&mut lmdb, &mut memory);
        while lmdb.tidy().expect("nothing was damaged") {}
        compare(&mut lmdb, &mut memory);
    }
}

/// What batches have said of messages.
#[derive(Default)]
struct Seen {
    put: HashSet<(QueueId, MessageId)>,
    /// These are not put any more: none is put twice, after it was taken, or below what was purged.
    spoken_of: HashSet<(QueueId, MessageId)>,
    /// A reader has passed a message that was never put.
    never_put: bool,
}

fn job(choices: &mut Unstructured<'_>, next: &mut u64, seen: &mut Seen) -> Result<Vec<Batch>> {
    let mut batches = Vec::new();
    for _ in 0..choices.int_in_range(1..=3u8)? {
        let mut mutations = Vec::new();
        for _ in 0..choices.int_in_range(1..=12u8)? {
            mutation(choices, seen, &mut mutations)?;
        }
        let end = Position { seq: Seq(*next + 1), segment: 0, offset: 4096 };
        batches.push(Batch { shard: ShardId(0), seq: Seq(*next), mutations, end });
        *next += 1;
    }
    Ok(batches)
}

/// Ids are few, so that mutations meet.
fn mutation(choices: &mut Unstructured<'_>, seen: &mut Seen, out: &mut Vec<u8>) -> Result<()> {
    let queue = QueueId(choices.int_in_range(1..=3)?);
    let group = QueueId(choices.int_in_range(11..=12)?);
    let reader = if choices.ratio(1, 2)? { queue } else { group };
    let message = MessageId(choices.int_in_range(1..=24)?);
    let why = Why::of(choices.int_in_range(0..=4)?).expect("there are five");
    let number = choices.int_in_range(0..=4u64)?;
    let target = *choices.choose(&NAMES)?;
    let mutation = match choices.int_in_range(0..=24u8)? {
        0..=8 => {
            let body = &BODY[..choices.int_in_range(0..=BODY.len())?];
            let expires_ms = number / 4;
            if !seen.spoken_of.insert((queue, message)) {
                return Ok(());
            }
            seen.put.insert((queue, message));
            Mutation::Put(Put { queue, message, put_ms: 3, flags: 4, expires_ms, crc32c: 0, body }.sealed())
        }
        9 => Mutation::Take { queue, message },
        10 | 11 => Mutation::Create { queue, created_ms: 1, name: NAMES[queue.0 as usize - 1] },
        12 => Mutation::Delete { queue: reader },
        13 => Mutation::Purge { queue: reader, below: message, count: number },
        14 => Mutation::Ids { end: message.0 + 1 },
        15 => Mutation::Corrupt { queue: reader, message },
        16 => Mutation::Unsent { queue: reader },
        17 => Mutation::Passed { queue, count: number },
        18 => Mutation::Leave { queue, message, why },
        19 => Mutation::Return { queue: reader, message, deliveries: 1 + number as u32 },
        20 => Mutation::Configure { name: target, settings: &b"trace=on"[..8 * (number as usize % 2)] },
        21 => {
            let name = GROUPS[group.0 as usize - 11];
            Mutation::Group { queue: group, of: QueueId(1), created_ms: 2, offered: number, name }
        }
        22 => Mutation::Pass { queue: reader, message, low: MessageId(number), why },
        23 if number < 3 => Mutation::Free { queue, message },
        23 => Mutation::Sweep { queue, freed: number - 3 },
        _ => match number {
            0 | 1 => Mutation::Move { queue: reader, message, number, why, target },
            2 => Mutation::Moved { queue: reader, number },
            _ => Mutation::Accept { source: reader, number, target },
        },
    };
    let is_of_reader = !matches!(mutation, Mutation::Take { .. } | Mutation::Leave { .. } | Mutation::Free { .. });
    let of = if reader == group && is_of_reader { QueueId(1) } else { queue };
    match mutation {
        Mutation::Purge { .. } => seen.spoken_of.extend((1..message.0).map(|id| (of, MessageId(id)))),
        Mutation::Take { .. }
        | Mutation::Leave { .. }
        | Mutation::Free { .. }
        | Mutation::Corrupt { .. }
        | Mutation::Pass { .. }
        | Mutation::Return { .. }
        | Mutation::Move { .. } => drop(seen.spoken_of.insert((of, message))),
        _ => {}
    }
    let passes = matches!(mutation, Mutation::Pass { .. } | Mutation::Corrupt { .. });
    seen.never_put |= passes && !seen.put.contains(&(of, message));
    mutation.encode(out);
    Ok(())
}

fn compare(lmdb: &mut Lmdb, memory: &mut MemoryStore) {
    let mut found = [lmdb.recover().expect("it was written"), memory.recover().expect("it is in memory")];
    for found in &mut found {
        found.queues.sort_by(|a, b| a.name.cmp(&b.name));
        found.settings.sort();
        found.accepted.sort_by(|a, b| (a.source, &a.target).cmp(&(b.source, &b.target)));
    }
    assert_eq!(found[0], found[1], "LMDB (left) and memory have the same");
    for row in &found[0].queues {
        let of = if row.of.0 == 0 { row.queue } else { row.of };
        let (after, below) = (MessageId(0), MessageId(u64::MAX));
        let load = Load { shard: ShardId(0), queue: row.queue, of, after, below, size_max: 1 << 20 };
        let loaded: [std::result::Result<Loaded, Error>; 2] = [lmdb.load(&load), memory.load(&load)];
        if let [Ok(left), Ok(right)] = loaded {
            assert_eq!(left, right, "what {} has", row.name.escape_ascii());
        }
    }
}
