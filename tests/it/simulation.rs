//! The whole way of a message, crashes included, from one seed: engines, journals on a disk that tears what it is writing,
//! checkpoints in slices, and starts that die themselves.
//!
//! Clients, and what is asked of their histories, are those of [`crate::random`]. Here the order of everything between a batch and the
//! store is drawn, too: which journal write completes next, when a checkpoint begins, how much of it a transaction takes. A crash comes
//! between any two steps and leaves any 512-byte or 4-KiB pieces of the writes under way. Journals are so small that they are
//! written over many times, by several generations and shard counts.
//!
//! Replay one run with `RINGQ_SEED=n cargo test --test it simulation`; make more with `RINGQ_RUNS=n`.

use crate::random::{History, Rng};
use crate::world::Options;
use ringq::journal::BLOCK_SIZE;

/// Runs unless `RINGQ_RUNS` says otherwise.
const RUNS: u64 = 80;

const STEPS: usize = 4000;

/// Requests of a client that may wait for replies when it sends up to eight more: with six clients it bounds what a batch can be.
const ASKED_MAX: usize = 16;

struct Simulation {
    history: History,
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let mut rng = Rng::new(seed);
        // Segments hold what all clients together can have asked for, or a batch and the body that ends it.
        let (body_size, segment_blocks) = [(20, 8), (300, 24), (60_000, 300)][rng.below(3)];
        let options = Options {
            shards: 1 + rng.below(3) as u16,
            memory_share: [1 << 20, 2 << 20, 32 << 20][rng.below(3)],
            body_size_max: 100_000,
            segment_size: segment_blocks * BLOCK_SIZE,
            journal_depth: 1 + rng.below(5),
            // All that return at once fit a segment, too.
            open_reads_max: 8,
            ..Options::default()
        };
        let mut history = History::with(rng, options, body_size, ASKED_MAX);
        history.crashes = 1 + history.rng.below(6);
        Simulation { history }
    }

    fn step(&mut self) {
        let shard = self.below(self.history.world.shards());
        if self.below(8) == 0 {
            self.history.pass_time();
        }
        self.history.send();
        match self.below(100) {
            0..25 => self.history.ask(),
            25..48 => drop(self.history.world.turn(shard)),
            48..65 => self.write(shard),
            65..69 => self.history.world.checkpoint(shard),
            69..80 => {
                let count = 1 + self.below(4);
                self.history.world.apply_slice(shard, count);
            }
            80..86 => drop(self.history.world.deliver()),
            86..92 => drop(self.history.world.load()),
            92 => drop(self.history.world.cover(shard)),
            93 if self.history.hang_ups && self.below(10) == 0 => self.history.hang_up(),
            94 if self.history.crashes > 0 && self.below(8) == 0 => self.crash(),
            _ => self.history.hear(),
        }
    }

    fn below(&mut self, end: usize) -> usize {
        self.history.rng.below(end)
    }

    fn write(&mut self, shard: usize) {
        let under_way = self.history.world.writes_under_way(shard);
        if under_way > 0 {
            let at = self.below(under_way);
            self.history.world.write(shard, at);
        }
    }

    fn crash(&mut self) {
        // What came before the power went was heard.
        self.history.hear();
        let piece_size = [512, BLOCK_SIZE as usize][self.below(2)];
        // Between nothing and everything, so that long runs of both occur.
        let kept = self.below(9);
        let History { rng, world, .. } = &mut self.history;
        world.tear(piece_size, || rng.below(8) < kept);
        for _ in 0..self.below(3) {
            let records_max = self.below(20);
            self.history.world.die_in_replay(records_max);
        }
        self.history.crash();
    }
}

fn run(seed: u64) {
    eprintln!("replay: RINGQ_SEED={seed} cargo test --test it simulation");
    let mut simulation = Simulation::new(seed);
    for _ in 0..STEPS {
        simulation.step();
    }
    simulation.history.finish();
}

#[test]
fn no_crash_loses_doubles_or_reorders_what_was_acknowledged() {
    if let Ok(seed) = std::env::var("RINGQ_SEED") {
        return run(seed.parse().expect("RINGQ_SEED is a number"));
    }
    let runs = std::env::var("RINGQ_RUNS").map_or(RUNS, |n| n.parse().expect("RINGQ_RUNS is a number"));
    (1..=runs).for_each(run);
}
