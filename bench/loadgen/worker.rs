//! Worker: one thread of the load generator with its share of the connections, on a ring of its own.
//!
//! All threads connect first and start together, so that no connection is measured while others still connect.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Barrier, OnceLock};

use anyhow::{Context, Result, bail};

use crate::audit::Audit;
use crate::clock::Clock;
use crate::connection::{Connection, Thread, connect};
use crate::options::{Plan, Workload};
use crate::pacer::{Pacer, Signal};
use crate::session::{Load, Role, Session};
use crate::stamp::Filler;
use crate::tally::{Progress, Tally};

/// Submission slots of a ring: a read and a write of 2,000 connections in one go.
const RING_ENTRIES: u32 = 4096;

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
    let mut ring = tokio_uring::uring_builder();
    // The thread is in the kernel often enough; interrupting it for each completion only costs.
    ring.setup_coop_taskrun();
    let mut builder = tokio_uring::builder();
    builder.entries(RING_ENTRIES).uring_builder(&ring);
    let runtime = tokio_uring::Runtime::new(&builder).context("cannot set up io_uring")?;
    runtime.block_on(work_on_ring(run, number, events))
}

async fn work_on_ring(run: &Run, number: usize, events: &Sender<Event>) -> Result<Outcome> {
    let indices = share(run.plan.connections, run.plan.threads, number);
    let streams = indices.clone().map(|_| connect(&run.plan.target)).collect::<Result<Vec<_>>>()?;
    let _ = events.send(Event::Connected);
    run.start.wait();
    let clock = *run.clock.get().expect("the main thread sets the clock before the start");

    let signals: Vec<Rc<Signal>> = streams.iter().map(|_| Rc::default()).collect();
    let thread = Rc::new(Thread {
        load: RefCell::new(new_load(run, indices.clone())),
        clock,
        pacer: Pacer::new(clock, signals.clone()).context("cannot make a timer")?,
    });
    let (done, mut results) = tokio::sync::mpsc::unbounded_channel();
    let paced = thread.clone();
    let pacer_done = done.clone();
    tokio_uring::spawn(async move {
        let _ = pacer_done.send(paced.pacer.run().await.context("the timer failed"));
    });
    let mut tasks = 0;
    for (place, (stream, index)) in streams.into_iter().zip(indices).enumerate() {
        let session = Session::new(run.plan.clone(), index);
        let producer = session.is_producer().then(|| run.producers.clone());
        let connection = Rc::new(Connection::new(stream, session, signals[place].clone(), place));
        let (reader, reader_thread, reader_done) = (connection.clone(), thread.clone(), done.clone());
        tokio_uring::spawn(async move {
            let _ = reader_done.send(reader.read_answers(reader_thread).await);
        });
        let (writer_thread, writer_done) = (thread.clone(), done.clone());
        tokio_uring::spawn(async move {
            let result = connection.write_requests(writer_thread).await;
            if let Some(producers) = producer {
                producers.fetch_sub(1, Ordering::Release);
            }
            let _ = writer_done.send(result);
        });
        tasks += 2;
    }
    for _ in 0..tasks {
        results.recv().await.expect("this function holds a sender")?;
    }
    let mut load = thread.load.replace(new_load(run, 0..0));
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
