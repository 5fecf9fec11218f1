//! A history as it happens: the world, the clients' side of it, and the model beside it. After every step it is looked at what came of it.
//!
//! Invariant: what happens depends on the plan alone, and a step that makes no sense where it comes does nothing.

use crate::action::Action;
use crate::checks::{self, Broken, Verdict};
use crate::clients::Clients;
use crate::facts::{FEW, Facts, GATE};
use crate::model::Model;
use crate::plan::{Plan, Setup};
use crate::request::{Request, queue_of};
use crate::rng::Rng;
use crate::world::{Options, Sealed, World};
use ringq::journal::BLOCK_SIZE;
use ringq::limits;
use ringq::proto::Dialect;
use ringq::store::Store;
use std::collections::BTreeMap;

/// Requests of a client that may wait for replies when it asks for more: with the number of clients it bounds what a batch can be.
const ASKED_MAX: usize = 16;

/// Longer than any wait, and any time for which a read is open, ms.
const LONG_MS: u64 = 4000;

/// Messages one client opens at most.
pub const OPEN_READS_MAX: usize = 8;

/// Where a message can be, as `stats queue` counts it.
const PLACES: [&str; 10] =
    ["gets", "ready", "open", "moving", "deleted", "corrupt", "expired", "discarded", "dead_lettered", "skipped"];

pub struct Trial {
    pub world: World,
    pub facts: Facts,
    pub model: Model,
    pub clients: Clients,
    /// How many steps were done.
    pub now: usize,
    /// The model as it was before `batches`.
    before: Model,
    /// Not everybody's: a crash may undo them.
    batches: Vec<Sealed>,
    is_full: Vec<bool>,
    /// Loads have failed, so that a get may have been told so.
    pub has_failed_loads: bool,
}

/// Numbers by name.
type Stats = BTreeMap<String, u64>;

impl Trial {
    pub fn new(setup: &Setup) -> Result<Trial, Broken> {
        let mut world = World::new(Options {
            shards: setup.shards,
            memory_share: setup.memory_share,
            body_size_max: 64 << 10,
            segment_size: setup.segment_blocks * BLOCK_SIZE,
            journal_depth: setup.depth,
            open_reads_max: OPEN_READS_MAX,
            unconfirmed_max: setup.unconfirmed_max,
            flush_all: true,
            ..Options::default()
        });
        world.holds_sends = setup.slow;
        world.sealed = Some(Vec::new());
        let mut trial = Trial {
            clients: Clients::default(),
            facts: Facts::default(),
            model: Model::default(),
            now: 0,
            before: Model::default(),
            batches: Vec::new(),
            is_full: vec![false; usize::from(setup.shards)],
            has_failed_loads: false,
            world,
        };
        trial.clients.by_id = setup.by_id;
        (0..setup.clients).for_each(|_| trial.clients.enter(&mut trial.world, Dialect::MemcacheQ));
        (0..setup.kestrels).for_each(|_| trial.clients.enter(&mut trial.world, Dialect::Kestrel));
        for limit in
            [format!("config {} max_admissions={}", GATE.0, GATE.1), format!("config {} max_messages={}", FEW.0, FEW.1)]
        {
            trial.step(&Action::Ask { client: 0, request: Request::Line(limit) })?;
            trial.step(&Action::Send { client: 0, size: usize::MAX })?;
        }
        trial.step(&Action::Rest)?;
        Ok(trial)
    }

    /// A whole history and its end.
    pub fn run(plan: &Plan) -> Verdict {
        let mut trial = Trial::new(&plan.setup)?;
        plan.actions.iter().try_for_each(|action| trial.step(action))?;
        trial.finish()
    }

    fn step(&mut self, action: &Action) -> Verdict {
        self.now += 1;
        let shards = self.world.shards();
        match action {
            Action::Ask { client, request } => self.ask(*client, request),
            Action::Send { client, size } => self.clients.send(&mut self.world, *client, *size),
            Action::Come { client, size } => self.world.come(self.clients.connection(*client), *size),
            Action::Sent { client } => drop(self.world.complete_send(self.clients.connection(*client))),
            Action::Shut { client } => self.clients.shut(&mut self.world, *client),
            Action::Reset { client } => self.hang_up(*client, false)?,
            Action::Break { client } => self.hang_up(*client, true)?,
            Action::Turn { shard } => drop(self.world.turn(shard % shards)),
            Action::Write { shard, at } => {
                let shard = shard % shards;
                let under_way = self.world.writes_under_way(shard);
                if under_way > 0 {
                    self.world.write(shard, at % under_way);
                }
            }
            Action::Checkpoint { shard } => self.world.checkpoint(shard % shards),
            Action::Apply { shard, count } => drop(self.world.apply_slice(shard % shards, *count)),
            Action::Deliver => drop(self.world.deliver()),
            Action::Load => drop(self.world.load()),
            Action::FailLoad if self.world.has_loads() => {
                self.has_failed_loads = true;
                self.world.fail_load();
            }
            Action::FailLoad => {}
            Action::Cover { shard } => drop(self.world.cover(shard % shards)),
            Action::Advance { ms } => self.world.advance(*ms),
            Action::SetClock { by_ms } => self.world.set_wall_clock(*by_ms),
            Action::Full { shard, full } => {
                self.is_full[shard % shards] = *full;
                self.world.set_full_of(shard % shards, *full);
            }
            Action::Rot { at } => {
                let rotten = self.world.rot(*at);
                self.facts.rotten.extend(rotten.map(|(_, message)| message.0));
            }
            Action::Flip { shard, segment, bit } => self.look_at_damage(shard % shards, *segment, *bit)?,
            Action::Crash { shards, piece_size, kept_of_8, seed, replayed } => {
                self.crash(*shards, *piece_size, *kept_of_8, *seed, replayed)?;
            }
            Action::Rest => self.rest()?,
        }
        self.facts.wall_ms_max = self.facts.wall_ms_max.max(self.world.wall_ms());
        self.clients.note_clock(self.world.wall_ms());
        self.look()
    }

    fn ask(&mut self, client: usize, request: &Request) {
        if self.clients.asked(client) < ASKED_MAX {
            let at = self.now;
            self.clients.ask(&mut self.facts, client, request, at, self.world.wall_ms());
        }
    }

    /// After every step: what journals say of it, and what clients hear.
    fn look(&mut self) -> Verdict {
        self.follow()?;
        self.check_memory()?;
        self.hear()?;
        self.clients.replace_ended(&mut self.world)
    }

    /// What was sealed goes into the model.
    fn follow(&mut self) -> Verdict {
        for batch in self.world.sealed.as_mut().expect("it is wanted").drain(..) {
            self.model.follow(batch.shard, batch.seq.0, &batch.mutations, &self.facts)?;
            self.batches.push(batch);
        }
        Ok(())
    }

    fn check_memory(&mut self) -> Verdict {
        let Options { memory_share, body_size_max, .. } = self.world.options;
        // Puts stop at half of the share; the batch that they are in, and what it takes to remove what is there, may come on top.
        let unstored_max = memory_share / 2 + body_size_max + limits::BATCH_SIZE;
        for shard in 0..self.world.shards() {
            let what = "mutations that the store has not confirmed";
            checks::memory_stays_in_its_bound(what, self.world.unstored_size(shard), unstored_max)?;
        }
        // And one reply, to a get of up to four names.
        let sent_max = limits::OUTPUT_SIZE_MAX + 4 * (body_size_max + limits::NAME_LEN_MAX + 64);
        for slot in 0..self.clients.len() {
            let size = self.world.sending_size(self.clients.connection(slot));
            checks::memory_stays_in_its_bound("a send", size, sent_max)?;
        }
        Ok(())
    }

    fn hang_up(&mut self, client: usize, breaks: bool) -> Verdict {
        self.hear()?;
        self.clients.hang_up(&mut self.world, client, breaks);
        Ok(())
    }

    /// What a start would make of a journal with one other bit: nothing, or what was written, as far as it goes.
    fn look_at_damage(&mut self, shard: usize, segment: u32, bit: usize) -> Verdict {
        let Ok(read) = self.world.read_damaged(shard, segment, bit) else { return Ok(()) };
        let is_written = |seq, mutations: &[u8]| {
            let sealed = self.batches.iter().find(|batch| batch.shard == shard && batch.seq == seq);
            sealed.map_or(&[][..], |batch| &batch.mutations) == mutations
        };
        let first_wrong = read.iter().position(|batch| !is_written(batch.seq, &batch.mutations));
        checks::damaged_journal_is_refused_or_right(shard, read.len(), first_wrong)
    }

    fn crash(&mut self, shards: u16, piece_size: usize, kept_of_8: usize, seed: u64, replayed: &[usize]) -> Verdict {
        // What came before the power went was heard.
        self.look()?;
        let acknowledged: Vec<u64> = (0..self.world.shards()).map(|shard| self.world.durable(shard).0).collect();
        let mut rng = Rng::new(seed);
        self.world.tear(piece_size, || rng.below(8) < kept_of_8);
        for records_max in replayed {
            self.world.die_in_replay(*records_max);
        }
        self.world.crash(shards.clamp(1, 3));
        let survived: Vec<u64> = self.world.survived.iter().map(|seq| seq.0).collect();
        for (shard, (acknowledged, survived)) in acknowledged.iter().zip(&survived).enumerate() {
            checks::stored_message_survives_crash(shard, *acknowledged, *survived)?;
        }
        self.model = self.before.clone();
        for batch in self.batches.drain(..).filter(|batch| batch.seq.0 <= survived[batch.shard]) {
            self.model.follow(batch.shard, batch.seq.0, &batch.mutations, &self.facts)?;
        }
        self.model.settle_moves(&self.facts)?;
        self.settle()?;
        self.facts.begin_life();
        self.is_full = vec![false; self.world.shards()];
        self.clients.begin_life(&mut self.world);
        Ok(())
    }

    /// All that the model has is in the store.
    fn settle(&mut self) -> Verdict {
        let found = self.world.store.recover().expect("a store in memory");
        let store = &self.world.store;
        let ids_of = |queue| store.message_ids(ringq::ids::QueueId(queue)).into_iter().map(|id| id.0).collect();
        self.model.check_store(&found, ids_of)?;
        self.model.settle_marks();
        self.before = self.model.clone();
        self.batches.clear();
        Ok(())
    }

    // --- rest ---

    fn come_to_rest(&mut self) -> Verdict {
        let held = std::mem::replace(&mut self.world.holds_sends, false);
        self.world.settle();
        self.world.holds_sends = held;
        self.follow()?;
        self.hear()
    }

    /// Everything happens, and then the server is looked at from all sides.
    fn rest(&mut self) -> Verdict {
        self.come_to_rest()?;
        self.world.check();
        self.settle()?;
        let unanswered = self.clients.unanswered();
        checks::every_request_is_answered(&unanswered)?;
        let probe = self.world.connect();
        let waiters = self.clients.waiters();
        let (seen, all) = self.look_at_all(probe)?;
        let mut open = 0;
        for (reader, stats) in seen {
            let unread = self.model.unread(&reader);
            let of = |name: &str| stats.get(name).copied().unwrap_or(0);
            let sum = PLACES.iter().map(|place| of(place)).sum();
            let present = of("ready") + of("open") + of("moving");
            let counted = [("puts", of("puts")), ("unread", present)];
            checks::counters_balance(&reader, &counted, &[("puts", sum), ("unread", unread)])?;
            open += of("open");
            let is_kept = queue_of(&reader) == reader && self.facts.may_be_for_groups(&reader);
            if !is_kept && !self.is_full.contains(&true) {
                checks::nobody_waits_while_ready(&reader, waiters.get(&reader).copied().unwrap_or(0), of("ready"))?;
            }
        }
        checks::counters_balance("the server", &[("open_reads", all["open_reads"])], &[("open_reads", open)])?;
        self.world.reset(probe);
        self.check_takers()
    }

    /// What each reader is said to have, and the server, at one time. Who asks wants the oldest message, which may be loaded for that, and
    /// have to leave, for another queue too, where somebody waits for it: then all are asked again.
    fn look_at_all(&mut self, probe: usize) -> Result<(Vec<(String, Stats)>, Stats), Broken> {
        loop {
            let before = self.stats(probe, "stats\r\n");
            let mut seen = Vec::new();
            let mut has_moved = false;
            for reader in self.model.readers() {
                let stats = self.stats(probe, &format!("stats queue {reader}\r\n"));
                has_moved |= self.world.sealed.as_ref().is_some_and(|sealed| !sealed.is_empty());
                seen.push((reader, stats));
            }
            self.come_to_rest()?;
            let all = self.stats(probe, "stats\r\n");
            if !has_moved && all["open_reads"] == before["open_reads"] {
                return Ok((seen, all));
            }
        }
    }

    fn stats(&mut self, probe: usize, request: &str) -> Stats {
        let held = std::mem::replace(&mut self.world.holds_sends, false);
        let answer = self.world.ask(probe, request);
        self.world.holds_sends = held;
        let words = answer.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        words.filter_map(|words| Some((words.get(1)?.to_string(), words.get(2)?.parse().ok()?))).collect()
    }

    /// What was taken has come to somebody, but for what clients that are gone have not heard.
    fn check_takers(&self) -> Verdict {
        let mut lost: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (reader, number, times) in self.model.taken() {
            if self.clients.delivered(reader, number) < times {
                lost.entry(reader).or_default().push(number);
            }
        }
        for (reader, lost) in lost {
            checks::taken_message_reaches_its_taker(reader, &lost, self.clients.unheard(reader))?;
        }
        Ok(())
    }

    /// Everything comes to rest; then one client takes all there is.
    fn finish(&mut self) -> Verdict {
        for shard in 0..self.world.shards() {
            self.step(&Action::Full { shard, full: false })?;
        }
        (0..self.clients.len()).for_each(|client| self.clients.send(&mut self.world, client, usize::MAX));
        // Gets that wait may stand behind each other.
        for _ in 0..=ASKED_MAX {
            self.step(&Action::Rest)?;
            self.step(&Action::Advance { ms: LONG_MS })?;
        }
        self.step(&Action::Rest)?;
        for client in 0..self.clients.len() {
            self.step(&Action::Reset { client })?;
        }
        self.step(&Action::Rest)?;
        self.step(&Action::Advance { ms: LONG_MS })?;
        self.step(&Action::Rest)?;
        let readers: Vec<String> = self.model.readers();
        let are_queues =
            |reader: &&String| queue_of(reader) == reader.as_str() && !self.facts.may_be_for_groups(reader);
        for queue in readers.iter().filter(are_queues).cloned().collect::<Vec<_>>() {
            let heard = |trial: &Trial| trial.clients.heard(0);
            let mut before = usize::MAX;
            while heard(self) != before {
                before = heard(self);
                self.ask(0, &Request::Line(format!("get {queue}")));
                self.clients.send(&mut self.world, 0, usize::MAX);
                self.step(&Action::Rest)?;
            }
            let probe = self.world.connect();
            let (seen, _) = self.look_at_all(probe)?;
            self.world.reset(probe);
            let ready = seen.iter().find(|(reader, _)| *reader == queue).and_then(|(_, stats)| stats.get("ready"));
            checks::every_message_comes_out(&queue, ready.copied().unwrap_or(0))?;
        }
        self.step(&Action::Rest)
    }
}
