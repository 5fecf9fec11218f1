//! Worker: one thread of the load generator with its share of the connections, on a ring of its own.
//!
//! All threads connect first and start together, so that no connection is measured while others still connect.

use std::ops::Range;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Barrier, OnceLock};

use anyhow::{Result, bail};

use crate::audit::Audit;
use crate::clock::Clock;
use crate::connection::Connections;
use crate::options::{Plan, Workload};
use crate::session::{Load, Role};
use crate::stamp::Filler;
use crate::tally::{Progress, Tally};

/// What all threads share.
#[derive(Debug)]
pub struct Run {
    /// What to do.
    pub plan: Arc<Plan>,
    /// Counts seen by the main thread while the run lasts.
    pub progress: Arc<Progress>,
    /// Where connected threads wait for the main thread to start the clock.
    pub start: Barrier,
    /// The run's clock, set before the start.
    pub clock: OnceLock<Clock>,
    /// Producers that have not finished.
    pub producers: Arc<AtomicUsize>,
}

impl Run {
    /// A run with all threads still to start.
    pub fn new(plan: Plan) -> Run {
        let producing = (0..plan.connections).filter(|&index| Role::of(&plan, index).0 != Role::Consumer).count();
        Run {
            progress: Arc::new(Progress::default()),
            start: Barrier::new(plan.threads + 1),
            clock: OnceLock::new(),
            producers: Arc::new(AtomicUsize::new(producing)),
            plan: Arc::new(plan),
        }
    }
}

/// What a thread tells the main thread.
#[derive(Debug)]
pub enum Event {
    /// All its connections are there; it waits for the start.
    Connected,
    /// It is done, or could not go on.
    Done(Result<Box<Outcome>>),
}

/// What a thread brings back.
#[derive(Debug)]
pub struct Outcome {
    /// Its counts.
    pub tally: Tally,
    /// Its books.
    pub audit: Audit,
}

/// Runs thread `number` of the run to its end.
pub fn work(run: &Run, number: usize, events: &Sender<Event>) {
    let outcome = work_pinned(run, number, events);
    // The receiver is gone only when the process ends over another thread's error.
    let _ = events.send(Event::Done(outcome.map(Box::new)));
}

fn work_pinned(run: &Run, number: usize, events: &Sender<Event>) -> Result<Outcome> {
    if !run.plan.pin.is_empty() {
        let cpu = run.plan.pin[number % run.plan.pin.len()];
        if !core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) {
            bail!("cannot pin a thread to CPU {cpu}");
        }
    }
    let indices = share(run.plan.connections, run.plan.threads, number);
    let connections = Connections::open(&run.plan, indices.clone(), new_load(run, indices))?;
    let _ = events.send(Event::Connected);
    run.start.wait();
    let clock = *run.clock.get().expect("the main thread sets the clock before the start");
    let mut load = connections.run(clock)?;
    load.tally.finish();
    Ok(Outcome { tally: load.tally, audit: load.audit })
}

fn new_load(run: &Run, indices: Range<usize>) -> Load {
    Load {
        tally: Tally::new(&run.plan, run.progress.clone()),
        audit: Audit::default(),
        budget: budget(&run.plan, indices),
        producers: run.producers.clone(),
        filler: Filler::new(run.plan.sizes.max),
    }
}

/// The connections of thread `number` of `threads`: neighbours, so that a mixed run has both roles on each thread.
fn share(connections: usize, threads: usize, number: usize) -> Range<usize> {
    number * connections / threads..(number + 1) * connections / threads
}

/// The part of the run's count that falls to the connections `indices`.
fn budget(plan: &Plan, indices: Range<usize>) -> u64 {
    let Some(count) = plan.count else { return u64::MAX };
    let only_gets = matches!(plan.workload, Workload::Drain | Workload::RoundTrip);
    let counted = if only_gets { Role::Consumer } else { Role::Producer };
    let counts = |index: &usize| matches!(Role::of(plan, *index).0, role if role == counted || role == Role::Both);
    let total = (0..plan.connections).filter(counts).count() as u128;
    let up_to = |end: usize| u128::from(count) * (0..end).filter(counts).count() as u128 / total;
    (up_to(indices.end) - up_to(indices.start)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use clap::Parser;

    #[test]
    fn shares_cover_all_connections_and_budgets_the_whole_count() {
        for arguments in
            ["fill -c 7 --threads 3 -n 100", "mixed -c 9 --threads 4 -n 1001", "drain -c 2 --threads 2 -n 3"]
        {
            let plan = Options::try_parse_from(std::iter::once("ringq-bench").chain(arguments.split(' '))).unwrap();
            let plan = Plan::new(&plan, 1).unwrap();
            let shares: Vec<_> =
                (0..plan.threads).map(|number| share(plan.connections, plan.threads, number)).collect();
            assert_eq!(shares.concat_len(), plan.connections, "{arguments}");
            assert_eq!(shares.iter().map(|share| budget(&plan, share.clone())).sum::<u64>(), plan.count.unwrap());
        }
    }

    trait ConcatLen {
        fn concat_len(&self) -> usize;
    }

    impl ConcatLen for Vec<Range<usize>> {
        /// The length of the ranges together, checked to follow one another.
        fn concat_len(&self) -> usize {
            assert!(self.windows(2).all(|pair| pair[0].end == pair[1].start));
            self.last().map_or(0, |last| last.end) - self[0].start
        }
    }
}
