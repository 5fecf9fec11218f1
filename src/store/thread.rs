//! The store thread: serves every shard's requests with one store, one transaction after the other.
//!
//! No one waits for a checkpoint but the journal's room, and many wait for the journal's next write on the same device. So a
//! checkpoint is applied in small slices with pauses between them, which grow shorter as more waits.
//!
//! Invariant: batches of one shard are applied in order, each in exactly one [`Store::apply`] that succeeded, and are
//! answered only after it returned. A load sees what was applied before it and nothing else. After a failed apply nothing is
//! answered; a full file system is no failure, the same slice is tried until there is room.
//!
//! Step 10 of a message's path.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::ballast::Ballast;
use super::checkpoint::{Applied, Backlog};
use super::{Error, Load, Reply, Request, Store};
use crate::ids::ShardId;

/// Requests taken before work is done on them. Shards wait for their answers, so more than this never serves anyone.
const REQUESTS_MAX: usize = 16_384;

/// Silence after which a slice of tidying may begin. Whoever comes then waits for one slice at most.
const TIDY_AFTER: Duration = Duration::from_millis(5);

/// Tidying goes on at least this often when there is no silence; otherwise a busy server would never free anything.
const TIDY_EVERY: Duration = Duration::from_millis(100);

/// How often the file system is asked for its free space, at most.
const FREE_CHECK_EVERY: Duration = Duration::from_millis(100);

/// A pause is looked at again at least this often: what waits can become much while nobody has anything to send here, and puts
/// wait for the end of a pause that was right when it began.
const PAUSE_LOOK_EVERY: Duration = Duration::from_millis(5);

/// How long a write that found no room waits until it is tried again.
const FULL_RETRY_AFTER: Duration = Duration::from_millis(100);

/// How the store thread works.
#[derive(Clone, Copy, Debug)]
pub struct ThreadConfig {
    /// How many shards send requests; their ids are below it.
    pub shards: u16,
    /// Bytes of mutations in one transaction, unless one batch alone has more. It holds up the loads that come meanwhile.
    pub slice_size_max: usize,
    /// Bytes of mutations of one shard that may wait: where pauses have shrunk to nothing.
    pub backlog_size_max: usize,
    /// How many times as long as a transaction took the pause behind it is, as long as less than half the backlog waits.
    pub pace: u32,
    /// Longest pause: a device that stalls once must not stop checkpoints for a multiple of that.
    pub pause_max: Duration,
    /// Bytes of free space on the file system below which shards are told [`Reply::Full`]. 0 never.
    pub free_size_min: u64,
    /// What is added to the thread's nice value, so that shards on the same core go first.
    pub nice: i32,
}

impl Default for ThreadConfig {
    fn default() -> Self {
        ThreadConfig {
            shards: 1,
            slice_size_max: 1 << 20,
            backlog_size_max: 64 << 20,
            pace: 3,
            pause_max: Duration::from_secs(1),
            free_size_min: 0,
            nice: 5,
        }
    }
}

/// Starts the thread. It ends with `Ok` when all senders of `requests` are gone and what they sent is in the store, and with
/// the store's error as soon as it has one; the process has to stop then. A full file system is an error only when the
/// senders are gone; what is not in the store then is in the journals.
///
/// `pressure` is how many bytes of mutations each shard has that the store has not: the more some shard has, the shorter the
/// pauses.
///
/// Shards are told [`Reply::Full`] when there is no room for puts: free space has fallen below the floor and has not risen
/// to five quarters of it again, or the ballast is not whole, or a write finds no room. Until then they may take it that
/// there is room.
///
/// # Errors
/// [`Error::Io`] when the system has no room for another thread.
///
/// # Panics
/// The thread panics when the numbers of a shard's batches do not rise, or its id is not one of `config.shards`.
pub fn spawn(
    store: impl Store + Send + 'static,
    ballast: Ballast,
    requests: Receiver<Request>,
    reply: impl Fn(ShardId, Reply) + Send + 'static,
    pressure: Arc<[AtomicUsize]>,
    config: ThreadConfig,
) -> Result<JoinHandle<Result<(), Error>>, Error> {
    Builder::new()
        .name("ringq-store".to_owned())
        .spawn(move || {
            // On Linux this is the calling thread's alone. A thread that stays as nice as the others only competes more.
            if let Err(error) = rustix::process::nice(config.nice) {
                tracing::warn!("the store thread keeps its priority: {error}");
            }
            Worker::new(store, ballast, reply, pressure, config).run(&requests)
        })
        .map_err(|source| Error::Io { operation: "starting the store thread", source })
}

struct Worker<S, R> {
    store: S,
    ballast: Ballast,
    reply: R,
    /// For each shard, the bytes that it has and the store has not, whether they were sent here or not.
    pressure: Arc<[AtomicUsize]>,
    config: ThreadConfig,
    loads: Vec<Load>,
    backlog: Backlog,
    last_write: Write,
    tidy: Tidy,
    room: Room,
}

/// The newest transaction.
struct Write {
    ended: Instant,
    took: Duration,
}

/// When to remove rows that no one misses.
struct Tidy {
    has_work: bool,
    last: Instant,
}

/// What is known of the room for writes.
struct Room {
    /// Whether free space is below the floor.
    is_below: bool,
    /// When to repeat the write that found no room.
    retry_at: Option<Instant>,
    /// What the shards were told.
    is_full: bool,
    checked: Instant,
}

/// Whether more requests may come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Senders {
    Alive,
    Gone,
}

impl<S: Store, R: Fn(ShardId, Reply)> Worker<S, R> {
    fn new(store: S, ballast: Ballast, reply: R, pressure: Arc<[AtomicUsize]>, config: ThreadConfig) -> Self {
        let now = Instant::now();
        Worker {
            store,
            ballast,
            reply,
            pressure,
            config,
            loads: Vec::new(),
            backlog: Backlog::new(config.shards),
            last_write: Write { ended: now, took: Duration::ZERO },
            // An earlier run may have left rows to remove.
            tidy: Tidy { has_work: true, last: now },
            room: Room { is_below: false, retry_at: None, is_full: false, checked: now },
        }
    }

    fn run(mut self, requests: &Receiver<Request>) -> Result<(), Error> {
        // Before anyone hears of it: a first start makes the ballast.
        while self.grow_ballast()? {}
        self.check_free();
        loop {
            let senders = self.receive(requests);
            let is_idle = self.loads.is_empty() && self.backlog.is_empty();
            self.answer_loads();
            if senders == Senders::Gone {
                return self.finish();
            }
            if self.slice_wait().is_some_and(|wait| wait.is_zero()) {
                let result = self.apply_slice();
                self.go_on_if_full(result)?;
            }
            if self.is_tidy_due(is_idle) {
                let result = self.tidy();
                self.go_on_if_full(result)?;
            }
            if self.room.checked.elapsed() >= FREE_CHECK_EVERY {
                if self.backlog.is_empty() {
                    self.grow_ballast()?;
                }
                self.check_free();
            }
        }
    }

    /// Waits for a request, or until something else is to be done, and takes everything that is waiting.
    fn receive(&mut self, requests: &Receiver<Request>) -> Senders {
        let first = match self.wait_max() {
            Some(wait) => requests.recv_timeout(wait),
            None => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match first {
            Ok(request) => self.take(request),
            Err(RecvTimeoutError::Timeout) => return Senders::Alive,
            Err(RecvTimeoutError::Disconnected) => return Senders::Gone,
        }
        for _ in 1..REQUESTS_MAX {
            match requests.try_recv() {
                Ok(request) => self.take(request),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Senders::Gone,
            }
        }
        Senders::Alive
    }

    /// How long there is nothing to do unless a request comes; `None` for as long as none does.
    fn wait_max(&self) -> Option<Duration> {
        let tidy = self.tidy.has_work.then(|| TIDY_AFTER.max(self.pause_left()));
        // Other programs make room, too, and no commit tells us.
        let free = self.room.is_full.then_some(FREE_CHECK_EVERY);
        let slice = self.slice_wait().map(|wait| wait.min(PAUSE_LOOK_EVERY));
        [slice, tidy, free].into_iter().flatten().min()
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Load(load) => self.loads.push(load),
            Request::Checkpoint { batches, urgent } => self.backlog.push(batches, urgent),
            Request::Ping { shard, number } => (self.reply)(shard, Reply::Alive(number)),
            Request::FreeFloor(size) => {
                self.config.free_size_min = size;
                self.check_free();
            }
        }
    }

    /// How long the next slice has to wait; `None` when there is none.
    fn slice_wait(&self) -> Option<Duration> {
        match self.backlog.is_empty() {
            true => None,
            false if self.backlog.is_urgent() => Some(self.retry_left()),
            false => Some(self.pause_left()),
        }
    }

    /// How long nothing may be written, for the sake of the journals or for lack of room.
    fn pause_left(&self) -> Duration {
        let Write { ended, took } = self.last_write;
        let pressure = self.pressure.iter().map(|shard| shard.load(Ordering::Relaxed)).max();
        let waiting = self.backlog.size().max(pressure.unwrap_or(0));
        let pause = pause(took, &self.config, waiting);
        pause.saturating_sub(ended.elapsed()).max(self.retry_left())
    }

    fn retry_left(&self) -> Duration {
        self.room.retry_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()))
    }

    /// Loads go first: a get waits for each of them, and a commit takes longer than all of them.
    fn answer_loads(&mut self) {
        for load in self.loads.drain(..) {
            let result = self.store.load(&load);
            (self.reply)(load.shard, Reply::Loaded { queue: load.queue, result });
        }
    }

    /// Applies everything that waits; there is no one left to pause for.
    fn finish(mut self) -> Result<(), Error> {
        while !self.backlog.is_empty() {
            self.apply_slice()?;
        }
        Ok(())
    }

    /// Applies the next slice and tells its shard.
    fn apply_slice(&mut self) -> Result<(), Error> {
        let Some(slice) = self.backlog.slice(self.config.slice_size_max)? else { return Ok(()) };
        let begun = Instant::now();
        while let Err(error) = self.store.apply(slice.batches, slice.taken) {
            self.ballast.make_room(error)?;
        }
        let took_us = begun.elapsed().as_micros() as u64;
        let applied = self.backlog.applied();
        self.on_written(begun);
        self.tidy.has_work = true;
        let Applied { shard, seq, len, spent } = applied;
        (self.reply)(shard, Reply::Checkpointed { seq, len, spent, took_us });
        Ok(())
    }

    fn is_tidy_due(&self, is_idle: bool) -> bool {
        let is_time = is_idle || self.tidy.last.elapsed() >= TIDY_EVERY;
        self.tidy.has_work && is_time && !self.backlog.is_urgent() && self.pause_left().is_zero()
    }

    fn tidy(&mut self) -> Result<(), Error> {
        let begun = Instant::now();
        self.tidy.last = begun;
        loop {
            match self.store.tidy() {
                Ok(has_more) => {
                    self.tidy.has_work = has_more;
                    self.on_written(begun);
                    return Ok(());
                }
                Err(error) => self.ballast.make_room(error)?,
            }
        }
    }

    fn on_written(&mut self, begun: Instant) {
        let ended = Instant::now();
        self.last_write = Write { ended, took: ended - begun };
        self.room.retry_at = None;
        self.tell_room();
    }

    /// Turns the error of a write that found no room into a wait: the journals hold what it was to write.
    fn go_on_if_full(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        match result {
            Err(error) if error.is_storage_full() => {
                tracing::debug!("{error}; it will be tried again");
                self.room.retry_at = Some(Instant::now() + FULL_RETRY_AFTER);
                self.tell_room();
                Ok(())
            }
            result => result,
        }
    }

    /// Makes the ballast larger if that leaves the floor's free space. Whether it did.
    fn grow_ballast(&mut self) -> Result<bool, Error> {
        let needed = self.config.free_size_min.saturating_add(self.ballast.missing());
        if self.ballast.is_whole() || self.store.free_size() < needed {
            return Ok(false);
        }
        self.ballast.grow()
    }

    fn check_free(&mut self) {
        self.room.checked = Instant::now();
        self.room.is_below = is_below(self.room.is_below, self.store.free_size(), self.config.free_size_min);
        self.tell_room();
    }

    fn log_room(&self) {
        let floor = self.config.free_size_min;
        let why = match () {
            () if !self.room.is_full => return tracing::warn!("there is room for messages again: puts are accepted"),
            () if self.room.is_below => format!("{} bytes are free, --min-free is {floor}", self.store.free_size()),
            () => "the file system is full".into(),
        };
        tracing::warn!(
            "no room for messages: puts are refused and gets go on: {why}; free space in the file system of the data \
             directory (-H), or take messages"
        );
    }

    /// Tells the shards whether there is room for puts, if that has changed.
    fn tell_room(&mut self) {
        let is_full = self.room.is_below || self.room.retry_at.is_some() || !self.ballast.is_whole();
        if is_full != self.room.is_full {
            self.room.is_full = is_full;
            self.log_room();
            for shard in 0..self.config.shards {
                (self.reply)(ShardId(shard), Reply::Full(is_full));
            }
        }
    }
}

/// How long to leave the device to the journals after a transaction that took so long, while so many bytes wait.
fn pause(took: Duration, config: &ThreadConfig, backlog_size: usize) -> Duration {
    let longest = took.saturating_mul(config.pace).min(config.pause_max);
    let half = config.backlog_size_max / 2;
    if backlog_size <= half {
        return longest;
    }
    if backlog_size >= config.backlog_size_max {
        return Duration::ZERO;
    }
    let left = config.backlog_size_max - backlog_size;
    longest.mul_f64(left as f64 / (config.backlog_size_max - half) as f64)
}

/// The gap between the two marks keeps a file system at the floor from being full and not full by turns.
fn is_below(was_below: bool, free_size: u64, free_size_min: u64) -> bool {
    let enough = if was_below { free_size_min.saturating_add(free_size_min / 4) } else { free_size_min };
    free_size < enough
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;
    use crate::ids::{MessageId, Position, QueueId, Salt, Seq};
    use crate::mutation::{Mutation, Put};
    use crate::store::memory::MemoryStore;
    use crate::store::{Batch, Loaded, Recovered, Taken};

    const QUEUE: QueueId = QueueId(1);
    /// Small slices without pauses.
    const AT_ONCE: ThreadConfig = ThreadConfig {
        shards: 2,
        slice_size_max: 100,
        backlog_size_max: 1 << 20,
        pace: 0,
        pause_max: Duration::from_secs(86_400),
        free_size_min: 0,
        nice: 0,
    };
    /// Of what may wait, only the first slice is applied before any test would be over.
    const NEVER_AGAIN: ThreadConfig = ThreadConfig { pace: u32::MAX, ..AT_ONCE };

    fn encoded(mutations: &[Mutation<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        mutations.iter().for_each(|mutation| mutation.encode(&mut bytes));
        bytes
    }

    fn batch(shard: u16, seq: u64, mutations: Vec<u8>) -> Batch {
        let end = Position { seq: Seq(seq + 1), segment: 0, offset: 0 };
        Batch { shard: ShardId(shard), seq: Seq(seq), mutations, end }
    }

    fn checkpoint(batches: Vec<Batch>) -> Request {
        Request::Checkpoint { batches, urgent: false }
    }

    fn put(message: u64, body: &[u8]) -> Vec<u8> {
        let message = MessageId(message);
        encoded(&[Mutation::Put(
            Put { queue: QUEUE, message, put_ms: 1, flags: 2, expires_ms: 0, crc32c: 0, body }.sealed(),
        )])
    }

    fn take(message: u64) -> Vec<u8> {
        encoded(&[Mutation::Take { queue: QUEUE, message: MessageId(message) }])
    }

    fn load() -> Load {
        let (after, below) = (MessageId(0), MessageId(u64::MAX));
        Load { shard: ShardId(1), queue: QUEUE, of: QUEUE, after, below, size_max: 1000 }
    }

    /// A store with one empty queue, the ends of its thread's channels, and the thread once it is started.
    struct Bench {
        store: MemoryStore,
        ballast: Option<Ballast>,
        requests: Option<Sender<Request>>,
        waiting: Option<Receiver<Request>>,
        replies: Receiver<(ShardId, Reply)>,
        reply: Option<Sender<(ShardId, Reply)>>,
    }

    impl Bench {
        fn new() -> Bench {
            let mut store = MemoryStore::new();
            let create = encoded(&[Mutation::Create { queue: QUEUE, created_ms: 1, name: b"q" }]);
            store.begin_journals(&[Salt::default()]).unwrap();
            store.apply(&[batch(0, 1, create)], &Taken::none()).unwrap();
            store.begin_journals(&[Salt::default(); 2]).unwrap();
            let (requests, waiting) = channel();
            let (reply, replies) = channel();
            let (requests, waiting, reply) = (Some(requests), Some(waiting), Some(reply));
            Bench { store, ballast: None, requests, waiting, replies, reply }
        }

        fn send(&self, request: Request) {
            self.requests.as_ref().unwrap().send(request).unwrap();
        }

        fn start(&mut self, config: ThreadConfig) -> JoinHandle<Result<(), Error>> {
            let reply = self.reply.take().unwrap();
            let answer = move |shard, answer| reply.send((shard, answer)).unwrap();
            let ballast = self.ballast.take().unwrap_or_else(Ballast::none);
            spawn(self.store.clone(), ballast, self.waiting.take().unwrap(), answer, Arc::new([]), config).unwrap()
        }

        fn finish(&mut self, thread: JoinHandle<Result<(), Error>>) -> Result<(), Error> {
            self.requests = None;
            thread.join().unwrap()
        }

        /// How many batches each apply took, without the one that made the queue.
        fn applies(&self) -> Vec<usize> {
            self.store.applies()[1..].to_vec()
        }

        fn checkpointed(&self) -> (u16, u64, usize) {
            match self.replies.recv().unwrap() {
                (shard, Reply::Checkpointed { seq, len, .. }) => (shard.0, seq.0, len),
                other => panic!("expected a checkpoint, got {other:?}"),
            }
        }

        fn loaded(&self) -> Vec<u8> {
            match self.replies.recv().unwrap() {
                (ShardId(1), Reply::Loaded { queue: QUEUE, result }) => result.unwrap().messages,
                other => panic!("expected the load's answer, got {other:?}"),
            }
        }

        /// Both shards hear the same.
        fn assert_full(&self, expected: bool) {
            for shard in 0..2 {
                match self.replies.recv().unwrap() {
                    (ShardId(s), Reply::Full(full)) if s == shard => assert_eq!(full, expected),
                    other => panic!("expected to hear of room, got {other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_job_is_applied_in_slices_and_each_is_answered() {
        let mut bench = Bench::new();
        let body = [b'x'; 13];
        bench.send(checkpoint((1..=5).map(|seq| batch(0, seq, put(seq, &body))).collect()));
        bench.send(checkpoint(vec![batch(1, 1, encoded(&[Mutation::Ids { end: 10 }]))]));
        let thread = bench.start(AT_ONCE);
        assert_eq!(bench.checkpointed(), (0, 2, 2));
        assert_eq!(bench.checkpointed(), (1, 1, 1));
        assert_eq!(bench.checkpointed(), (0, 4, 2));
        assert_eq!(bench.checkpointed(), (0, 5, 1));
        bench.finish(thread).unwrap();
        assert_eq!(bench.applies(), [2, 1, 2, 1]);
        let recovered = bench.store.recover().unwrap();
        assert_eq!(recovered.journals.iter().map(|row| row.position.seq.0).collect::<Vec<_>>(), [6, 2]);
    }

    #[test]
    fn a_message_taken_in_a_later_slice_is_never_written() {
        let mut bench = Bench::new();
        let batches = vec![batch(0, 1, put(1, &[b'x'; 80])), batch(0, 2, put(2, &[b'x'; 80])), batch(0, 3, take(1))];
        bench.send(checkpoint(batches));
        let thread = bench.start(NEVER_AGAIN);
        assert_eq!(bench.checkpointed(), (0, 1, 1));
        assert_eq!(bench.store.message_ids(QUEUE), []);
        assert_eq!(bench.store.recover().unwrap().queues[0].counters.present(), 1);
        bench.finish(thread).unwrap();
        assert_eq!(bench.applies(), [1, 1, 1]);
        assert_eq!(bench.store.message_ids(QUEUE), [MessageId(2)]);
    }

    #[test]
    fn a_load_is_answered_before_a_batch_that_came_first() {
        let mut bench = Bench::new();
        bench.send(checkpoint(vec![batch(0, 1, put(1, b"a"))]));
        bench.send(Request::Load(load()));
        let thread = bench.start(AT_ONCE);
        assert!(bench.loaded().is_empty());
        assert_eq!(bench.checkpointed(), (0, 1, 1));
        bench.send(Request::Load(load()));
        assert_eq!(bench.loaded(), put(1, b"a"));
        bench.finish(thread).unwrap();
    }

    #[test]
    fn loads_are_answered_during_a_pause_and_an_urgent_job_ends_it() {
        let mut bench = Bench::new();
        let body = [b'x'; 80];
        bench.send(checkpoint(vec![batch(0, 1, put(1, &body)), batch(0, 2, put(2, &body))]));
        let thread = bench.start(NEVER_AGAIN);
        assert_eq!(bench.checkpointed(), (0, 1, 1));
        bench.send(Request::Load(load()));
        assert_eq!(bench.loaded(), put(1, &body));
        bench.send(Request::Checkpoint { batches: Vec::new(), urgent: true });
        assert_eq!(bench.checkpointed(), (0, 2, 1));
        bench.finish(thread).unwrap();
    }

    #[test]
    fn what_waits_when_all_senders_are_gone_is_applied() {
        let mut bench = Bench::new();
        bench.send(checkpoint((1..=3).map(|seq| batch(0, seq, put(seq, &[b'x'; 80]))).collect()));
        let thread = bench.start(NEVER_AGAIN);
        bench.finish(thread).unwrap();
        assert_eq!([bench.checkpointed(), bench.checkpointed(), bench.checkpointed()].map(|c| c.1), [1, 2, 3]);
        assert_eq!(bench.store.message_ids(QUEUE), [1, 2, 3].map(MessageId));
    }

    #[test]
    fn pauses_shrink_as_the_backlog_grows() {
        let config = ThreadConfig { pace: 3, backlog_size_max: 1000, ..AT_ONCE };
        let millis = |ms| Duration::from_millis(ms);
        for (backlog_size, expected) in [(0, 30), (500, 30), (750, 15), (900, 6), (1000, 0), (2000, 0)] {
            assert_eq!(pause(millis(10), &config, backlog_size), millis(expected), "{backlog_size}");
        }
        assert_eq!(pause(millis(10), &ThreadConfig { pause_max: millis(20), ..config }, 750), millis(10));
        assert_eq!(pause(millis(10), &ThreadConfig { pace: 0, ..config }, 0), millis(0));
        assert_eq!(pause(millis(10), &ThreadConfig { backlog_size_max: 0, ..config }, 1), millis(0));
    }

    #[test]
    fn an_error_of_apply_ends_the_thread_without_an_answer() {
        let mut bench = Bench::new();
        bench.store.fail_next_apply();
        bench.send(checkpoint(vec![batch(0, 1, put(1, b"a"))]));
        let thread = bench.start(AT_ONCE);
        assert!(matches!(thread.join().unwrap(), Err(Error::Io { .. })));
        assert!(bench.replies.recv().is_err(), "nothing is answered");
        assert_eq!(bench.store.message_ids(QUEUE), []);
    }

    #[test]
    fn a_job_that_cannot_be_read_is_refused_before_its_first_slice() {
        let mut bench = Bench::new();
        bench.send(checkpoint(vec![batch(0, 1, put(1, &[b'x'; 99])), batch(0, 2, vec![99])]));
        let thread = bench.start(AT_ONCE);
        assert!(matches!(thread.join().unwrap(), Err(Error::Damaged(_))));
        assert!(bench.applies().is_empty());
    }

    #[test]
    fn without_room_a_slice_is_tried_until_there_is() {
        let mut bench = Bench::new();
        bench.store.fill(usize::MAX);
        bench.send(checkpoint(vec![batch(0, 1, put(1, b"a"))]));
        let thread = bench.start(AT_ONCE);
        bench.assert_full(true);
        bench.send(Request::Load(load()));
        assert!(bench.loaded().is_empty(), "loads go on");
        bench.store.fill(0);
        bench.assert_full(false);
        assert_eq!(bench.checkpointed(), (0, 1, 1));
        bench.finish(thread).unwrap();
        assert_eq!(bench.store.message_ids(QUEUE), [MessageId(1)]);
    }

    #[test]
    fn the_ballast_makes_room_and_puts_wait_until_it_is_whole_again() {
        let temp = tempfile::tempdir().unwrap();
        let mut bench = Bench::new();
        bench.ballast = Some(Ballast::open(temp.path(), 4096).unwrap());
        let thread = bench.start(ThreadConfig { free_size_min: 1000, ..AT_ONCE });
        bench.send(checkpoint(vec![batch(0, 1, put(1, b"a"))]));
        assert_eq!(bench.checkpointed(), (0, 1, 1), "a ballast made at the start is not worth a word");
        bench.store.set_free_size(1000 + 4095);
        bench.store.fill(1);
        bench.send(checkpoint(vec![batch(0, 2, put(2, b"b"))]));
        bench.assert_full(true);
        assert_eq!(bench.checkpointed(), (0, 2, 1), "tried again at once");
        assert_eq!(temp.path().join("ballast").metadata().unwrap().len(), 0);
        bench.store.set_free_size(1000 + 4096);
        bench.assert_full(false);
        assert_eq!(temp.path().join("ballast").metadata().unwrap().len(), 4096);
        bench.finish(thread).unwrap();
    }

    #[test]
    fn without_room_at_the_end_the_journals_keep_what_is_left() {
        let mut bench = Bench::new();
        bench.store.fill(usize::MAX);
        bench.send(checkpoint(vec![batch(0, 1, put(1, b"a"))]));
        let thread = bench.start(AT_ONCE);
        assert!(bench.finish(thread).unwrap_err().is_storage_full());
        assert_eq!(bench.store.recover().unwrap().journals[0].position.seq, Seq(1));
    }

    #[test]
    fn shards_hear_when_space_runs_out_and_when_it_is_back() {
        let mut bench = Bench::new();
        bench.store.set_free_size(999);
        let thread = bench.start(ThreadConfig { free_size_min: 1000, ..AT_ONCE });
        bench.assert_full(true);
        bench.store.set_free_size(1250);
        bench.assert_full(false);
        bench.finish(thread).unwrap();
    }

    #[test]
    fn fullness_ends_only_well_above_the_floor() {
        assert!(!is_below(false, 1000, 1000));
        assert!(is_below(false, 999, 1000));
        assert!(is_below(true, 1249, 1000));
        assert!(!is_below(true, 1250, 1000));
        assert!(!is_below(false, 0, 0));
    }

    /// Has rows to remove until it was asked often enough, and again after each apply. Meets a full file system once.
    struct Untidy {
        slices: usize,
        is_full: bool,
        asked: Sender<usize>,
    }

    impl Store for Untidy {
        fn apply(&mut self, _: &[Batch], _: &Taken) -> Result<(), Error> {
            self.slices += 1;
            Ok(())
        }

        fn begin_journals(&mut self, _: &[Salt]) -> Result<(), Error> {
            Ok(())
        }

        fn settle_moves(&mut self) -> Result<(), Error> {
            Ok(())
        }

        fn load(&mut self, _: &Load) -> Result<Loaded, Error> {
            Ok(Loaded::default())
        }

        fn recover(&mut self) -> Result<Recovered, Error> {
            Ok(Recovered::default())
        }

        fn tidy(&mut self) -> Result<bool, Error> {
            if std::mem::take(&mut self.is_full) {
                return Err(Error::Io { operation: "testing", source: std::io::ErrorKind::StorageFull.into() });
            }
            self.slices -= 1;
            self.asked.send(self.slices).unwrap();
            Ok(self.slices > 0)
        }

        fn free_size(&self) -> u64 {
            u64::MAX
        }
    }

    #[test]
    fn tidying_goes_on_until_nothing_is_left_and_begins_again_after_an_apply() {
        let (asked, slices) = channel();
        let (requests, waiting) = channel();
        let store = Untidy { slices: 3, is_full: true, asked };
        let thread = spawn(store, Ballast::none(), waiting, |_, _| {}, Arc::new([]), AT_ONCE).unwrap();
        assert_eq!([slices.recv(), slices.recv(), slices.recv()], [Ok(2), Ok(1), Ok(0)]);
        requests.send(checkpoint(vec![batch(0, 1, Vec::new())])).unwrap();
        assert_eq!(slices.recv(), Ok(0));
        drop(requests);
        thread.join().unwrap().unwrap();
        assert!(slices.recv().is_err(), "a tidy store is left alone");
    }
}
