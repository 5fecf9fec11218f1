//! Random histories, played against a model of a few plain maps.
//!
//! A failing one prints its seed; `RINGQ_SEED=n cargo test random_histories` plays that one again.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// The model the random histories are compared with.
#[derive(Default)]
struct Model {
    /// Queues and groups. What is stored, by message, is with the queue.
    queues: BTreeMap<QueueId, (QueueRow, BTreeMap<u64, Vec<u8>>)>,
    /// What each reader of a queue with groups has not passed.
    unpassed: BTreeMap<QueueId, BTreeSet<u64>>,
    returned: BTreeMap<(QueueId, u64), u32>,
    /// On their way to other queues, in the order of their numbers.
    moving: Vec<Moving>,
    accepted: BTreeMap<(QueueId, &'static [u8]), u64>,
    settings: BTreeMap<Vec<u8>, Vec<u8>>,
    ids_end: u64,
    next_id: u64,
    /// Messages that have an id and are put later, after younger ones.
    held: Vec<(QueueId, u64)>,
    /// Messages that were damaged in the store, there still or not.
    damaged: BTreeSet<(QueueId, u64)>,
}

#[derive(Clone, Copy)]
struct Moving {
    reader: QueueId,
    message: u64,
    number: u64,
    why: Why,
    target: &'static [u8],
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

    /// Does one random thing that a shard could do, and appends its mutations.
    fn step(&mut self, random: &mut Random, out: &mut Vec<u8>) {
        let readers: Vec<QueueId> = self.queues.keys().copied().collect();
        let queues: Vec<QueueId> = readers.iter().copied().filter(|queue| self.owner(*queue) == *queue).collect();
        let chosen = random.pick(&readers).zip(random.pick(&queues));
        let Some((reader, queue)) = chosen.filter(|_| queues.len() > 3 || random.below(8) > 0) else {
            return self.create(random, out);
        };
        match random.below(100) {
            0..42 => {
                let message = self.id();
                match random.below(12) {
                    0 => self.held.push((queue, message)),
                    _ => self.put(queue, message, random, out),
                }
            }
            42..44 => {
                let Some((queue, message)) = random.pick(&self.held) else { return };
                self.held.retain(|(_, other)| *other != message);
                if self.queues.contains_key(&queue) {
                    self.put(queue, message, random, out);
                }
            }
            44..77 => self.leave(reader, random, out),
            77..80 => self.change(Mutation::Unsent { queue: reader }, reader, out),
            80 if self.groups(queue).is_empty() => {
                self.change(Mutation::Passed { queue, count: random.below(9) }, queue, out);
            }
            80..82 => self.begin_group(queue, random, out),
            82..85 => self.purge(reader, random, out),
            85..87 => self.delete(reader, out),
            87..91 => self.give_back(reader, random, out),
            91..94 => self.begin_move(reader, random, out),
            94..96 => self.accept(random, out),
            96..98 => self.end_move(random, out),
            98 => self.configure(random, out),
            _ => {
                self.ids_end = self.ids_end.max(random.below(1000));
                Mutation::Ids { end: self.ids_end }.encode(out);
            }
        }
    }

    fn row(&mut self, queue: QueueId) -> &mut QueueRow {
        &mut self.queues.get_mut(&queue).unwrap().0
    }

    fn change(&mut self, mutation: Mutation<'_>, queue: QueueId, out: &mut Vec<u8>) {
        self.row(queue).counters.apply(&mutation);
        mutation.encode(out);
    }

    fn owner(&self, reader: QueueId) -> QueueId {
        let of = self.queues[&reader].0.of;
        if of.0 == 0 { reader } else { of }
    }

    fn groups(&self, queue: QueueId) -> Vec<QueueId> {
        self.queues.values().filter(|(row, _)| row.of == queue).map(|(row, _)| row.queue).collect()
    }

    fn readers(&self, owner: QueueId) -> Vec<QueueId> {
        std::iter::once(owner).chain(self.groups(owner)).collect()
    }

    /// What a reader has, in order.
    fn present(&self, reader: QueueId) -> Vec<u64> {
        match self.unpassed.get(&reader) {
            Some(unpassed) => unpassed.iter().copied().collect(),
            None => self.queues[&reader].1.keys().copied().collect(),
        }
    }

    /// What a reader has and may part with.
    fn free_to_go(&self, reader: QueueId) -> Vec<u64> {
        let is_moving = |message| self.moving.iter().any(|it| it.reader == reader && it.message == message);
        self.present(reader).into_iter().filter(|message| !is_moving(*message)).collect()
    }

    /// No message that is still to be put may be passed before.
    fn low_max(&self, owner: QueueId) -> u64 {
        let held = self.held.iter().filter(|(queue, _)| *queue == owner).map(|(_, message)| *message);
        held.min().unwrap_or(self.next_id + 1)
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

    fn begin_group(&mut self, of: QueueId, random: &mut Random, out: &mut Vec<u8>) {
        let (row, messages) = &self.queues[&of];
        let name = [&row.name[..], format!("/group={}", random.below(3)).as_bytes()].concat();
        if self.queues.values().any(|(row, _)| row.name == name) {
            return;
        }
        let (counters, stored) = (row.counters, messages.keys().copied().collect::<BTreeSet<u64>>());
        if self.groups(of).is_empty() {
            self.unpassed.insert(of, stored.clone());
            self.row(of).freed = counters.puts - counters.present();
        }
        let (queue, offered) = (QueueId(self.id()), stored.len() as u64);
        let row = QueueRow { name: name.clone(), queue, created_ms: 3, of, ..QueueRow::default() };
        self.queues.insert(queue, (row, BTreeMap::new()));
        self.unpassed.insert(queue, stored);
        self.change(Mutation::Group { queue, of, created_ms: 3, offered, name: &name }, queue, out);
    }

    fn put(&mut self, queue: QueueId, message: u64, random: &mut Random, out: &mut Vec<u8>) {
        // Small ones share a page, large ones have pages of their own.
        let size = match random.below(40) {
            0..2 => random.below(100_000),
            2..8 => random.below(20_000),
            _ => random.below(200),
        };
        let body = vec![random.next() as u8; size as usize];
        let mut mutation = put(queue, message, &body);
        if let Mutation::Put(put) = &mut mutation
            && random.below(3) == 0
        {
            *put = Put { expires_ms: 1 + random.next() / 2, ..*put }.sealed();
        }
        self.change(mutation, queue, out);
        let stored = encode(&[mutation]);
        self.queues.get_mut(&queue).unwrap().1.insert(message, stored);
        for reader in self.readers(queue) {
            if let Some(unpassed) = self.unpassed.get_mut(&reader) {
                unpassed.insert(message);
            }
            if reader != queue {
                self.row(reader).counters.apply(&mutation);
            }
        }
    }

    /// A message leaves a reader, mostly from the head, for some reason, or is set aside.
    fn leave(&mut self, reader: QueueId, random: &mut Random, out: &mut Vec<u8>) {
        let ids = self.free_to_go(reader);
        let chosen = if random.below(3) == 0 { random.pick(&ids) } else { ids.first().copied() };
        let Some(message) = chosen else { return };
        let is_damaged = self.damaged.contains(&(self.owner(reader), message));
        if is_damaged || random.below(20) == 0 {
            let corrupt = Mutation::Corrupt { queue: reader, message: MessageId(message) };
            self.depart(reader, message, corrupt, out);
        } else {
            let why = random.pick(&[Why::Got, Why::Expired, Why::Discarded, Why::DeadLettered, Why::Skipped]).unwrap();
            let is_eager = random.below(4) > 0;
            self.depart_for(reader, message, why, is_eager, out);
        }
    }

    /// `is_eager`: what is passed is told as far as it is known.
    fn depart_for(&mut self, reader: QueueId, message: u64, why: Why, is_eager: bool, out: &mut Vec<u8>) {
        let (queue, id) = (reader, MessageId(message));
        let Some(unpassed) = self.unpassed.get(&reader) else {
            let leave =
                if why == Why::Got { take(queue, message) } else { Mutation::Leave { queue, message: id, why } };
            return self.depart(reader, message, leave, out);
        };
        let first = unpassed.iter().copied().find(|other| *other != message).unwrap_or(u64::MAX);
        let low = if is_eager { first.min(self.low_max(self.owner(reader))) } else { 0 };
        self.row(reader).low.0 = self.row(reader).low.0.max(low);
        self.depart(reader, message, Mutation::Pass { queue, message: id, low: MessageId(low), why }, out);
    }

    fn depart(&mut self, reader: QueueId, message: u64, mutation: Mutation<'_>, out: &mut Vec<u8>) {
        self.change(mutation, reader, out);
        self.returned.remove(&(reader, message));
        let owner = self.owner(reader);
        match self.unpassed.get_mut(&reader) {
            Some(unpassed) => assert!(unpassed.remove(&message)),
            None => return drop(self.queues.get_mut(&owner).unwrap().1.remove(&message)),
        }
        if self.readers(owner).iter().all(|reader| !self.unpassed[reader].contains(&message)) {
            Mutation::Free { queue: owner, message: MessageId(message) }.encode(out);
            self.queues.get_mut(&owner).unwrap().1.remove(&message);
            self.row(owner).freed += 1;
        }
    }

    fn purge(&mut self, reader: QueueId, random: &mut Random, out: &mut Vec<u8>) {
        let mut below = 1 + random.below(self.next_id + 1);
        let owner = self.owner(reader);
        let count = match self.unpassed.get_mut(&reader) {
            Some(unpassed) => {
                let held = self.held.iter().filter(|(queue, _)| *queue == owner).map(|(_, message)| *message);
                below = below.min(held.min().unwrap_or(below));
                let kept = unpassed.split_off(&below);
                let count = std::mem::replace(unpassed, kept).len();
                self.row(reader).low.0 = self.row(reader).low.0.max(below);
                count
            }
            None => {
                let messages = &mut self.queues.get_mut(&reader).unwrap().1;
                let kept = messages.split_off(&below);
                std::mem::replace(messages, kept).len()
            }
        };
        self.change(Mutation::Purge { queue: reader, below: MessageId(below), count: count as u64 }, reader, out);
        self.returned.retain(|(queue, message), _| *queue != reader || *message >= below);
        self.moving.retain(|it| it.reader != reader || it.message >= below);
        if self.unpassed.contains_key(&reader) {
            self.sweep(owner, out);
        }
    }

    fn delete(&mut self, reader: QueueId, out: &mut Vec<u8>) {
        let owner = self.owner(reader);
        for group in self.groups(reader) {
            self.forget(group, out);
        }
        self.forget(reader, out);
        if owner != reader {
            self.sweep(owner, out);
        }
    }

    fn forget(&mut self, reader: QueueId, out: &mut Vec<u8>) {
        Mutation::Delete { queue: reader }.encode(out);
        self.queues.remove(&reader);
        self.unpassed.remove(&reader);
        self.returned.retain(|(queue, _), _| *queue != reader);
        self.moving.retain(|it| it.reader != reader);
    }

    fn sweep(&mut self, owner: QueueId, out: &mut Vec<u8>) {
        let readers = self.readers(owner);
        let messages = &mut self.queues.get_mut(&owner).unwrap().1;
        let before = messages.len();
        messages.retain(|message, _| readers.iter().any(|reader| self.unpassed[reader].contains(message)));
        let freed = (before - messages.len()) as u64;
        Mutation::Sweep { queue: owner, freed }.encode(out);
        self.row(owner).freed += freed;
        if readers == [owner] {
            self.unpassed.remove(&owner);
            let row = self.row(owner);
            (row.low, row.freed) = (MessageId(0), 0);
        }
    }

    fn give_back(&mut self, reader: QueueId, random: &mut Random, out: &mut Vec<u8>) {
        let Some(message) = random.pick(&self.free_to_go(reader)) else { return };
        let deliveries = 1 + random.below(5) as u32;
        Mutation::Return { queue: reader, message: MessageId(message), deliveries }.encode(out);
        self.returned.insert((reader, message), deliveries);
    }

    fn begin_move(&mut self, reader: QueueId, random: &mut Random, out: &mut Vec<u8>) {
        let Some(message) = random.pick(&self.free_to_go(reader)) else { return };
        let (number, target) = (self.id(), random.pick(&[&b"here"[..], b"there"]).unwrap());
        let why = random.pick(&[Why::Expired, Why::DeadLettered]).unwrap();
        Mutation::Move { queue: reader, message: MessageId(message), number, why, target }.encode(out);
        self.moving.push(Moving { reader, message, number, why, target });
    }

    fn is_accepted(&self, it: &Moving) -> bool {
        self.accepted.get(&(it.reader, it.target)).is_some_and(|number| it.number <= *number)
    }

    fn accept(&mut self, random: &mut Random, out: &mut Vec<u8>) {
        let waiting: Vec<Moving> = self.moving.iter().copied().filter(|it| !self.is_accepted(it)).collect();
        let Some(Moving { reader, number, target, .. }) = random.pick(&waiting) else { return };
        Mutation::Accept { source: reader, number, target }.encode(out);
        self.accepted.insert((reader, target), number);
    }

    fn end_move(&mut self, random: &mut Random, out: &mut Vec<u8>) {
        let accepted: Vec<Moving> = self.moving.iter().copied().filter(|it| self.is_accepted(it)).collect();
        let Some(Moving { reader, message, number, why, .. }) = random.pick(&accepted) else { return };
        Mutation::Moved { queue: reader, number }.encode(out);
        self.moving.retain(|it| (it.reader, it.number) != (reader, number));
        self.depart_for(reader, message, why, random.below(2) == 0, out);
    }

    /// What a start does when it has replayed everything.
    fn settle_moves(&mut self) {
        for it in std::mem::take(&mut self.moving) {
            if self.is_accepted(&it) {
                self.depart_for(it.reader, it.message, it.why, false, &mut Vec::new());
            }
        }
        self.accepted.retain(|(source, _), _| self.queues.contains_key(source));
    }

    fn configure(&mut self, random: &mut Random, out: &mut Vec<u8>) {
        let name = format!("name-{}", random.below(4)).into_bytes();
        let settings = vec![random.next() as u8; random.below(3) as usize];
        Mutation::Configure { name: &name, settings: &settings }.encode(out);
        match settings.is_empty() {
            true => drop(self.settings.remove(&name)),
            false => drop(self.settings.insert(name, settings)),
        }
    }

    /// The rows as a store has them.
    fn rows(&self) -> Vec<QueueRow> {
        let row = |(row, _): &(QueueRow, BTreeMap<u64, Vec<u8>>)| {
            let stored = &self.queues[&self.owner(row.queue)].1;
            let bytes = stored.values().map(|stored| body_size(stored)).sum();
            let passed = self.unpassed.get(&row.queue).map(|unpassed| {
                let passed = stored.keys().filter(|message| **message >= row.low.0 && !unpassed.contains(message));
                passed.map(|message| MessageId(*message)).collect()
            });
            QueueRow { bytes, passed: passed.unwrap_or_default(), ..row.clone() }
        };
        self.queues.values().map(row).collect()
    }

    fn compare(&self, store: &mut impl Store, random: &mut Random) {
        let recovered = store.recover().unwrap();
        assert_eq!((recovered.queues, recovered.ids_end), (self.rows(), self.ids_end));
        let settings = self.settings.iter().map(|(name, value)| (name.clone(), value.clone()));
        assert_eq!(recovered.settings, settings.collect::<Vec<_>>());
        let accepted = self.accepted.iter().map(|(&(source, target), &number)| (source, target.to_vec(), number));
        let found = recovered.accepted.into_iter().map(|row| (row.source, row.target, row.number));
        assert_eq!(found.collect::<Vec<_>>(), accepted.collect::<Vec<_>>());
        for (row, stored) in self.queues.values() {
            let (owner, present) = (self.owner(row.queue), self.present(row.queue));
            assert_eq!(row.counters.present(), present.len() as u64, "queue {}", row.queue);
            if self.unpassed.contains_key(&row.queue) && owner == row.queue {
                assert_eq!(row.counters.puts - row.freed, stored.len() as u64, "queue {}", row.queue);
            }
            let size_max = random.below(5000) as usize;
            let (mut after, mut found) = (0, Loaded::default());
            loop {
                let loaded = load(store, row.queue, after, LAST, size_max);
                if loaded.reached.0 == after {
                    break;
                }
                found.messages.extend_from_slice(&loaded.messages);
                found.corrupt.extend(loaded.corrupt);
                found.deliveries.extend(loaded.deliveries);
                after = loaded.reached.0;
            }
            let stored = &self.queues[&owner].1;
            let is_damaged = |message: &u64| self.damaged.contains(&(owner, *message));
            let intact = present.iter().filter(|message| !is_damaged(message));
            let expected: Vec<u8> = intact.clone().flat_map(|message| &stored[message]).copied().collect();
            assert!(found.messages == expected, "queue {}", row.queue);
            let deliveries = intact.filter_map(|message| {
                let deliveries = self.returned.get(&(row.queue, *message))?;
                Some((MessageId(*message), *deliveries))
            });
            assert_eq!(found.deliveries, deliveries.collect::<Vec<_>>(), "queue {}", row.queue);
            let damaged = present.iter().filter(|message| is_damaged(message));
            let damaged = damaged.map(|message| (MessageId(*message), body_size(&stored[message])));
            assert_eq!(found.corrupt, damaged.collect::<Vec<_>>(), "queue {}", row.queue);
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
    match Decoder::new(stored).next() {
        Some(Ok(Mutation::Put(put))) => put.body.len() as u64,
        other => panic!("a put was stored, not {other:?}"),
    }
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
                store.settle_moves().unwrap();
                model.settle_moves();
                assert_bytes(&mut store);
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
