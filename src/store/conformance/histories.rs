//! Random histories, played against a model of a few plain maps.
//!
//! A failing one prints its seed; `RINGQ_SEED=n cargo test random_histories` plays that one again.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// The model the random histories are compared with.
#[derive(Default)]
struct Model {
    queues: BTreeMap<QueueId, (QueueRow, BTreeMap<u64, Vec<u8>>)>,
    ids_end: u64,
    next_id: u64,
    /// Messages that have an id and are put later, after younger ones.
    held: Vec<(QueueId, u64)>,
    /// Messages that were damaged in the store, there still or not.
    damaged: BTreeSet<(QueueId, u64)>,
}

/// A small generator (SplitMix64), so that a seed means the same history everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.below(of.len() as u64) as usize])
    }
}

impl Model {
    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Does one random thing that a shard could do, and appends its mutation.
    fn step(&mut self, random: &mut Random, out: &mut Vec<u8>) {
        let live: Vec<QueueId> = self.queues.keys().copied().collect();
        let queue = random.pick(&live);
        let Some(queue) = queue.filter(|_| live.len() > 3 || random.below(8) > 0) else {
            return self.create(random, out);
        };
        match random.below(100) {
            0..48 => {
                let message = self.id();
                match random.below(12) {
                    0 => self.held.push((queue, message)),
                    _ => self.put(queue, message, random, out),
                }
            }
            48..50 => {
                let Some((queue, message)) = random.pick(&self.held) else { return };
                self.held.retain(|(_, other)| *other != message);
                if self.queues.contains_key(&queue) {
                    self.put(queue, message, random, out);
                }
            }
            50..85 => self.leave(queue, random, out),
            85..88 => self.change(Mutation::Unsent { queue }, queue, out),
            88..90 => self.change(Mutation::Passed { queue, count: random.below(9) }, queue, out),
            90..94 => self.purge(queue, random, out),
            94..96 => {
                self.queues.remove(&queue);
                Mutation::Delete { queue }.encode(out);
            }
            _ => {
                self.ids_end = self.ids_end.max(random.below(1000));
                Mutation::Ids { end: self.ids_end }.encode(out);
            }
        }
    }

    fn change(&mut self, mutation: Mutation<'_>, queue: QueueId, out: &mut Vec<u8>) {
        let (row, _) = self.queues.get_mut(&queue).unwrap();
        row.counters.apply(&mutation);
        mutation.encode(out);
    }

    fn create(&mut self, random: &mut Random, out: &mut Vec<u8>) {
        let name = format!("name-{}", random.below(8)).into_bytes();
        if self.queues.values().all(|(row, _)| row.name != name) {
            let queue = QueueId(self.id());
            create(queue, &name).encode(out);
            let row = QueueRow { name, queue, created_ms: 100 + queue.0, ..QueueRow::default() };
            self.queues.insert(queue, (row, BTreeMap::new()));
        }
    }

    fn put(&mut self, queue: QueueId, message: u64, random: &mut Random, out: &mut Vec<u8>) {
        // Small ones share a page, large ones have pages of their own.
        let size = match random.below(40) {
            0..2 => random.below(100_000),
            2..8 => random.below(20_000),
            _ => random.below(200),
        };
        let body = vec![random.next() as u8; size as usize];
        let mutation = put(queue, message, &body);
        self.change(mutation, queue, out);
        let stored = encode(&[mutation]);
        self.queues.get_mut(&queue).unwrap().1.insert(message, stored);
    }

    /// A message is taken, mostly from the head, or set aside.
    fn leave(&mut self, queue: QueueId, random: &mut Random, out: &mut Vec<u8>) {
        let messages = &mut self.queues.get_mut(&queue).unwrap().1;
        let ids: Vec<u64> = messages.keys().copied().collect();
        let chosen = if random.below(3) == 0 { random.pick(&ids) } else { ids.first().copied() };
        let Some(message) = chosen else { return };
        messages.remove(&message);
        let corrupt = Mutation::Corrupt { queue, message: MessageId(message) };
        let is_corrupt = random.below(20) == 0 || self.damaged.contains(&(queue, message));
        self.change(if is_corrupt { corrupt } else { take(queue, message) }, queue, out);
    }

    fn purge(&mut self, queue: QueueId, random: &mut Random, out: &mut Vec<u8>) {
        let below = 1 + random.below(self.next_id + 1);
        let messages = &mut self.queues.get_mut(&queue).unwrap().1;
        let kept = messages.split_off(&below);
        let count = std::mem::replace(messages, kept).len() as u64;
        self.change(Mutation::Purge { queue, below: MessageId(below), count }, queue, out);
    }

    fn compare(&self, store: &mut impl Store, random: &mut Random) {
        let bytes = |messages: &BTreeMap<u64, Vec<u8>>| messages.values().map(|stored| body_size(stored)).sum();
        let queues = self.queues.values().map(|(row, messages)| QueueRow { bytes: bytes(messages), ..row.clone() });
        let queues = queues.collect();
        let recovered = store.recover().unwrap();
        assert_eq!((recovered.queues, recovered.ids_end), (queues, self.ids_end));
        for (row, messages) in self.queues.values() {
            assert_eq!(row.counters.present(), messages.len() as u64);
            let size_max = random.below(5000) as usize;
            let (mut after, mut found, mut corrupt) = (0, Vec::new(), Vec::new());
            loop {
                let loaded = load(store, row.queue, after, LAST, size_max);
                if loaded.reached.0 == after {
                    break;
                }
                found.extend_from_slice(&loaded.messages);
                corrupt.extend(loaded.corrupt);
                after = loaded.reached.0;
            }
            let is_damaged = |message: &u64| self.damaged.contains(&(row.queue, *message));
            let intact = messages.iter().filter(|(message, _)| !is_damaged(message)).flat_map(|(_, stored)| stored);
            assert!(found == intact.copied().collect::<Vec<u8>>(), "queue {}", row.queue);
            let damaged = messages.iter().filter(|(message, _)| is_damaged(message));
            let damaged = damaged.map(|(message, stored)| (MessageId(*message), body_size(stored)));
            assert_eq!(corrupt, damaged.collect::<Vec<_>>(), "queue {}", row.queue);
        }
    }

    /// Damages a stored message.
    fn damage<S: Subject>(&mut self, store: &mut S::Store, random: &mut Random) {
        let stored = self.queues.iter().flat_map(|(queue, (_, messages))| messages.keys().map(|id| (*queue, *id)));
        let stored: Vec<(QueueId, u64)> = stored.collect();
        let Some(chosen) = random.pick(&stored) else { return };
        if self.damaged.insert(chosen) {
            S::corrupt(store, chosen.0, MessageId(chosen.1));
        }
    }
}

/// Of an encoded put.
fn body_size(stored: &[u8]) -> u64 {
    (stored.len() - PUT_HEADER_SIZE) as u64
}

fn play<S: Subject>(subject: &S, seed: u64) {
    let (mut random, mut model) = (Random(seed), Model::default());
    let mut store = begun(subject);
    let mut seq = 1;
    for _ in 0..60 {
        let count = random.below(8);
        let batches: Vec<Batch> = (seq..seq + count)
            .map(|seq| {
                let mut mutations = Vec::new();
                for _ in 0..random.below(15) {
                    model.step(&mut random, &mut mutations);
                }
                Batch { mutations, ..batch(0, seq, &[]) }
            })
            .collect();
        seq += count;
        store = checkpoint(subject, store, &batches, &mut random);
        match random.below(8) {
            0 => {
                drop(store);
                store = subject.open();
            }
            1 => drop(store.tidy().unwrap()),
            2 => tidy(&mut store),
            3 => model.damage::<S>(&mut store, &mut random),
            _ => {}
        }
        model.compare(&mut store, &mut random);
    }
}

/// Applies the batches in slices; after some there is a restart, which knows only of what is left.
fn checkpoint<S: Subject>(subject: &S, store: S::Store, batches: &[Batch], random: &mut Random) -> S::Store {
    let (mut store, mut rest) = (store, batches);
    let mut taken = Taken::of(rest).unwrap();
    while !rest.is_empty() {
        let (slice, after) = rest.split_at(1 + random.below(rest.len() as u64) as usize);
        apply_all(&mut store, slice, &taken);
        rest = after;
        if random.below(6) == 0 {
            drop(store);
            store = subject.open();
            taken = if random.below(2) == 0 { Taken::of(rest).unwrap() } else { Taken::none() };
        }
    }
    store
}

pub(super) fn random_histories<S: Subject>(subject: impl Fn() -> S) {
    let seeds = match std::env::var("RINGQ_SEED") {
        Ok(seed) => seed.parse::<u64>().map(|seed| seed..seed + 1).expect("RINGQ_SEED is a number"),
        Err(_) => 0..12,
    };
    for seed in seeds {
        // Shown only when a history fails.
        println!("again with: RINGQ_SEED={seed} cargo test random_histories");
        play(&subject(), seed);
    }
}
