//! Tally: what one thread counted and timed.
//!
//! Rates count what was answered between the warm-up and the deadline. Latencies also include what was sent before the
//! deadline and answered after it, or a server that stalls near the end would look better than it is. Nothing from
//! before the end of the warm-up counts in either.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hdrhistogram::Histogram;

use crate::clock::SECOND_NS;
use crate::options::Plan;

/// Latencies from 100 ns to ten minutes at three digits.
const LATENCY_MIN_NS: u64 = 100;
const LATENCY_MAX_NS: u64 = 600 * SECOND_NS;

/// Kinds of unexpected answers kept apart; a server that answers each request differently must not fill the memory.
const KINDS_MAX: usize = 100;

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A message into a queue.
    Put,
    /// A message out of a queue, with all requests that takes.
    Get,
}

/// Successful operations of one kind.
#[derive(Debug)]
pub struct OperationTally {
    /// Latencies in nanoseconds.
    pub latency: Histogram<u64>,
    /// Answered within the measurement.
    pub completed: u64,
    /// Bytes of message bodies, within the measurement.
    pub bytes: u64,
}

/// One second of a run.
#[derive(Debug)]
pub struct Interval {
    /// Puts accepted.
    pub puts: u64,
    /// Messages received.
    pub gets: u64,
    /// Gets that found nothing.
    pub misses: u64,
    /// Latencies of puts and gets in nanoseconds, at two digits.
    pub latency: Histogram<u32>,
}

/// What the main thread sees of all threads while they run.
#[derive(Debug, Default)]
pub struct Progress {
    /// Requests written, all threads.
    pub sent: AtomicU64,
    /// Requests answered, all threads.
    pub answered: AtomicU64,
    /// The finished seconds, by their number since the start.
    pub intervals: Mutex<Vec<Interval>>,
}

/// The counts of one thread.
#[derive(Debug)]
pub struct Tally {
    /// Puts.
    pub put: OperationTally,
    /// Gets that brought a message.
    pub get: OperationTally,
    /// Gets that found nothing, within the measurement.
    pub misses: u64,
    /// Answers that are neither success nor *nothing there*, over the whole run, by their words.
    pub unexpected: BTreeMap<String, u64>,
    /// Operations answered after the warm-up in whatever way; what CPU time is divided by.
    pub answered: u64,
    /// How long after its due time each request was sent, in nanoseconds; empty in a closed loop.
    pub lag: Histogram<u64>,
    /// Requests that were due before the deadline and never sent.
    pub overdue: u64,
    /// When the last successful operation was answered.
    pub last_ns: u64,
    /// Whether it was the deadline that ended the run, rather than a count or an empty queue.
    pub reached_deadline: bool,
    warmup_ns: u64,
    deadline_ns: u64,
    interval: Interval,
    interval_number: usize,
    progress: Arc<Progress>,
    sent_published: u64,
    sent: u64,
    answered_all: u64,
    answered_published: u64,
}

impl OperationTally {
    fn new() -> OperationTally {
        OperationTally { latency: latency_histogram(), completed: 0, bytes: 0 }
    }

    fn merge(&mut self, other: &OperationTally) {
        self.latency.add(&other.latency).expect("all latency histograms have the same bounds");
        self.completed += other.completed;
        self.bytes += other.bytes;
    }
}

impl Interval {
    fn new() -> Interval {
        let latency = Histogram::new_with_bounds(1000, LATENCY_MAX_NS, 2).expect("valid bounds");
        Interval { puts: 0, gets: 0, misses: 0, latency }
    }

    fn merge(&mut self, other: &Interval) {
        self.puts += other.puts;
        self.gets += other.gets;
        self.misses += other.misses;
        self.latency.add(&other.latency).expect("all interval histograms have the same bounds");
    }

    fn clear(&mut self) {
        (self.puts, self.gets, self.misses) = (0, 0, 0);
        self.latency.reset();
    }
}

fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_MIN_NS, LATENCY_MAX_NS, 3).expect("valid bounds")
}

impl Tally {
    /// An empty tally that shows its progress to the main thread.
    pub fn new(plan: &Plan, progress: Arc<Progress>) -> Tally {
        Tally {
            put: OperationTally::new(),
            get: OperationTally::new(),
            misses: 0,
            unexpected: BTreeMap::new(),
            answered: 0,
            lag: latency_histogram(),
            overdue: 0,
            last_ns: 0,
            reached_deadline: false,
            warmup_ns: plan.warmup_ns,
            deadline_ns: plan.deadline_ns.unwrap_or(u64::MAX),
            interval: Interval::new(),
            interval_number: 0,
            progress,
            sent_published: 0,
            sent: 0,
            answered_all: 0,
            answered_published: 0,
        }
    }

    /// A request was written; in an open loop it was due `lag_ns` ago.
    pub fn on_send(&mut self, lag_ns: Option<u64>) {
        self.sent += 1;
        if let Some(lag_ns) = lag_ns {
            self.lag.saturating_record(lag_ns);
        }
    }

    /// A put was accepted or a message received: `size` bytes, sent or due at `start_ns`.
    pub fn on_success(&mut self, operation: Operation, size: usize, start_ns: u64, now_ns: u64) {
        let latency_ns = now_ns.saturating_sub(start_ns);
        self.interval.latency.saturating_record(latency_ns);
        let measured = self.on_answer(now_ns);
        let tally = match operation {
            Operation::Put => {
                self.interval.puts += 1;
                &mut self.put
            }
            Operation::Get => {
                self.interval.gets += 1;
                &mut self.get
            }
        };
        self.last_ns = now_ns;
        if measured {
            // What is left in the queues after the deadline is fetched, but is no load.
            if start_ns < self.deadline_ns {
                tally.latency.saturating_record(latency_ns);
            }
            if now_ns <= self.deadline_ns {
                tally.completed += 1;
                tally.bytes += size as u64;
            }
        }
    }

    /// A get found nothing.
    pub fn on_miss(&mut self, now_ns: u64) {
        self.interval.misses += 1;
        if self.on_answer(now_ns) && now_ns <= self.deadline_ns {
            self.misses += 1;
        }
    }

    /// The server said something else.
    pub fn on_unexpected(&mut self, words: &[u8], now_ns: u64) {
        self.on_answer(now_ns);
        let kind = words[..words.len().min(100)].escape_ascii().to_string();
        let full = self.unexpected.len() >= KINDS_MAX && !self.unexpected.contains_key(&kind);
        *self.unexpected.entry(if full { "(other)".into() } else { kind }).or_default() += 1;
    }

    /// Whether the answer belongs to the measurement.
    fn on_answer(&mut self, now_ns: u64) -> bool {
        self.answered_all += 1;
        let measured = now_ns >= self.warmup_ns;
        self.answered += u64::from(measured);
        measured
    }

    /// Shows a second to the main thread when it is over. Called before the answers read at `now_ns` are counted.
    pub fn roll(&mut self, now_ns: u64) {
        let number = (now_ns / SECOND_NS) as usize;
        if number != self.interval_number {
            self.publish_interval();
            self.interval_number = number;
        }
    }

    /// Shows the counts to the main thread. Called when nothing is half counted: a connection without requests in
    /// flight must not look stalled.
    pub fn publish(&mut self) {
        let add = |shown: &AtomicU64, count: u64, published: &mut u64| {
            shown.fetch_add(count - *published, Ordering::Relaxed);
            *published = count;
        };
        add(&self.progress.sent, self.sent, &mut self.sent_published);
        add(&self.progress.answered, self.answered_all, &mut self.answered_published);
    }

    fn publish_interval(&mut self) {
        let mut intervals = self.progress.intervals.lock().expect("no thread panics while it publishes");
        if intervals.len() <= self.interval_number {
            intervals.resize_with(self.interval_number + 1, Interval::new);
        }
        intervals[self.interval_number].merge(&self.interval);
        self.interval.clear();
    }

    /// Publishes what is left when the thread's connections are done.
    pub fn finish(&mut self) {
        self.publish();
        self.publish_interval();
    }

    /// Adds the counts of another thread.
    pub fn merge(&mut self, other: &Tally) {
        self.put.merge(&other.put);
        self.get.merge(&other.get);
        self.misses += other.misses;
        for (kind, count) in &other.unexpected {
            *self.unexpected.entry(kind.clone()).or_default() += count;
        }
        self.answered += other.answered;
        self.lag.add(&other.lag).expect("all latency histograms have the same bounds");
        self.overdue += other.overdue;
        self.last_ns = self.last_ns.max(other.last_ns);
        self.reached_deadline |= other.reached_deadline;
    }

    /// Length of the measurement in nanoseconds, of a run that was over at `end_ns`: to the deadline, or to the last
    /// success when the run ended by itself.
    pub fn elapsed_ns(&self, end_ns: u64) -> u64 {
        let end_ns = match self.last_ns {
            _ if self.reached_deadline => self.deadline_ns,
            last_ns if last_ns > self.warmup_ns => last_ns,
            _ => end_ns,
        };
        end_ns.saturating_sub(self.warmup_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use clap::Parser;

    fn tally(arguments: &str) -> (Tally, Arc<Progress>) {
        let arguments = std::iter::once("ringq-bench").chain(arguments.split_whitespace());
        let plan = Plan::new(&Options::try_parse_from(arguments).unwrap(), 1).unwrap();
        let progress = Arc::new(Progress::default());
        (Tally::new(&plan, progress.clone()), progress)
    }

    #[test]
    fn only_the_measured_part_counts() {
        let (mut tally, _) = tally("fill -w 1 -d 1");
        for now_ns in [SECOND_NS / 2, SECOND_NS, 2 * SECOND_NS, 2 * SECOND_NS + 1] {
            tally.on_success(Operation::Put, 10, now_ns - 1000, now_ns);
        }
        tally.on_success(Operation::Put, 10, 2 * SECOND_NS + 1, 2 * SECOND_NS + 2);
        assert_eq!((tally.put.completed, tally.put.bytes), (2, 20));
        assert_eq!(tally.put.latency.len(), 3, "what was sent before the deadline has a latency");
        assert_eq!(tally.answered, 4);
    }

    #[test]
    fn a_run_that_ends_by_itself_is_as_long_as_its_work() {
        let (mut tally, _) = tally("fill -w 1 -d 10");
        tally.on_success(Operation::Put, 1, 0, 3 * SECOND_NS);
        assert_eq!(tally.elapsed_ns(9 * SECOND_NS), 2 * SECOND_NS);
        tally.reached_deadline = true;
        assert_eq!(tally.elapsed_ns(9 * SECOND_NS), 10 * SECOND_NS);
    }

    #[test]
    fn a_run_without_success_lasted_until_its_end() {
        let (mut tally, _) = tally("drain -w 1");
        tally.on_miss(SECOND_NS);
        assert_eq!(tally.elapsed_ns(SECOND_NS + 5), 5);
    }

    #[test]
    fn seconds_of_two_threads_add_up() {
        let (mut one, progress) = tally("fill");
        let mut other = Tally { interval: Interval::new(), progress: progress.clone(), ..tally("fill").0 };
        let put = |tally: &mut Tally, now_ns| {
            tally.roll(now_ns);
            tally.on_send(None);
            tally.on_success(Operation::Put, 1, 0, now_ns);
        };
        put(&mut one, 10);
        put(&mut one, SECOND_NS + 1);
        put(&mut other, SECOND_NS + 2);
        one.finish();
        other.finish();
        let intervals = progress.intervals.lock().unwrap();
        assert_eq!(intervals.iter().map(|interval| interval.puts).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(progress.sent.load(Ordering::Relaxed), 3);
        assert_eq!(progress.answered.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn unexpected_answers_are_kept_by_kind_and_bounded() {
        let (mut tally, _) = tally("fill");
        for number in 0..1000 {
            tally.on_unexpected(b"SERVER_ERROR out of storage", 1);
            tally.on_unexpected(format!("ERROR {number}").as_bytes(), 1);
        }
        assert_eq!(tally.unexpected["SERVER_ERROR out of storage"], 1000);
        assert_eq!(tally.unexpected.len(), KINDS_MAX + 1);
        assert_eq!(tally.unexpected.values().sum::<u64>(), 2000);
    }
}
