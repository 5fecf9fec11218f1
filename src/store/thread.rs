//! The store thread: serves every shard's requests with one store, one transaction after the other.
//!
//! Group commit needs no timer here: while a commit runs, requests pile up in the channel, and all of them go into the
//! next one. Only with a commit delay (acknowledgements that do not wait for commits) are batches held back to be fewer.
//!
//! Invariant: batches of one shard are applied in order, each in exactly one [`Store::apply`], and are answered only after
//! it returned. A load sees what was applied before it and nothing else. After a failed apply nothing is answered.
//!
//! Step 6 to 7 of a message's path.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::{Batch, Error, Load, Reply, Request, Store};
use crate::ids::{Seq, ShardId};

/// Mutations in one apply. A transaction that changes more holds up the loads behind it and the memory in front of it.
const APPLY_SIZE_MAX: usize = 64 << 20;

/// Requests taken before work is done on them. Shards wait for their answers, so more than this never serves anyone.
const REQUESTS_MAX: usize = 16_384;

/// A larger buffer is freed instead of going back to its shard, where one large message would keep it forever.
const SPENT_CAPACITY_MAX: usize = 1 << 20;

/// Silence after which a slice of tidying may begin. Whoever comes then waits for one slice at most.
const TIDY_AFTER: Duration = Duration::from_millis(5);

/// Tidying goes on at least this often when there is no silence; otherwise a busy server would never free anything.
const TIDY_EVERY: Duration = Duration::from_millis(100);

/// How often the file system is asked for its free space, at most.
const FREE_CHECK_EVERY: Duration = Duration::from_millis(100);

/// How the store thread works.
#[derive(Clone, Copy, Debug)]
pub struct ThreadConfig {
    /// How many shards send requests; their ids are below it.
    pub shards: u16,
    /// How long a batch may wait for others. Zero commits as soon as the commit before it is done.
    pub commit_delay: Duration,
    /// Bytes of mutations that end the delay early: some MiB are enough that a commit's two flushes no longer matter beside
    /// the writing, and shards must not be left waiting for the memory that a commit gives back.
    pub delayed_size_max: usize,
    /// Bytes of free space on the file system below which shards are told [`Reply::Full`]. 0 never.
    pub free_size_min: u64,
}

/// Starts the thread. It ends with `Ok` when all senders of `requests` are gone and what they sent is durable, and with
/// the store's error as soon as it has one; the process has to stop then. Shards are told [`Reply::Full`] when free space
/// falls below the floor and again when it has risen to five quarters of it; until then they may take it that there is room.
///
/// # Errors
/// [`Error::Io`] when the system has no room for another thread.
///
/// # Panics
/// The thread panics when a shard's batches are not numbered from 1 without gaps, or its id is not one of `config.shards`.
pub fn spawn(
    store: impl Store + Send + 'static,
    requests: Receiver<Request>,
    reply: impl Fn(ShardId, Reply) + Send + 'static,
    config: ThreadConfig,
) -> Result<JoinHandle<Result<(), Error>>, Error> {
    Builder::new()
        .name("ringq-store".to_owned())
        .spawn(move || Worker::new(store, reply, config).run(&requests))
        .map_err(|source| Error::Io { operation: "starting the store thread", source })
}

struct Worker<S, R> {
    store: S,
    reply: R,
    config: ThreadConfig,
    loads: Vec<Load>,
    /// Batches not applied yet, in order of arrival, and what they encode together.
    pending: Vec<Batch>,
    pending_size: usize,
    /// When the oldest pending batch came.
    pending_since: Instant,
    /// Newest batch received, by shard.
    received: Vec<Seq>,
    tidy: Tidy,
    free: Free,
}

/// When to remove rows that no one misses.
struct Tidy {
    has_work: bool,
    last: Instant,
}

/// What is known of the file system's free space.
struct Free {
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
    fn new(store: S, reply: R, config: ThreadConfig) -> Self {
        let now = Instant::now();
        Worker {
            store,
            reply,
            config,
            loads: Vec::new(),
            pending: Vec::new(),
            pending_size: 0,
            pending_since: now,
            received: vec![Seq(0); usize::from(config.shards)],
            // An earlier run may have left rows to remove.
            tidy: Tidy { has_work: true, last: now },
            free: Free { is_full: false, checked: now },
        }
    }

    fn run(mut self, requests: &Receiver<Request>) -> Result<(), Error> {
        self.check_free();
        loop {
            let senders = self.receive(requests);
            let is_idle = self.loads.is_empty() && self.pending.is_empty();
            self.answer_loads();
            if senders == Senders::Gone {
                return self.apply_all();
            }
            if self.is_commit_due() {
                self.apply_some()?;
                self.tidy.has_work = true;
            }
            self.tidy(is_idle)?;
            if self.free.checked.elapsed() >= FREE_CHECK_EVERY {
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
            if self.pending_size >= APPLY_SIZE_MAX {
                break;
            }
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
        let commit = self.has_pending().then(|| self.config.commit_delay.saturating_sub(self.pending_since.elapsed()));
        let commit = if self.is_commit_due() { Some(Duration::ZERO) } else { commit };
        let tidy = self.tidy.has_work.then_some(TIDY_AFTER);
        // Other programs make room, too, and no commit tells us.
        let free = self.free.is_full.then_some(FREE_CHECK_EVERY);
        [commit, tidy, free].into_iter().flatten().min()
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Load(load) => self.loads.push(load),
            Request::Checkpoint(batch) => {
                let received = &mut self.received[usize::from(batch.shard.0)];
                received.0 += 1;
                assert_eq!(batch.seq, *received, "a batch of shard {} is missing or out of order", batch.shard);
                if self.pending.is_empty() {
                    self.pending_since = Instant::now();
                }
                self.pending_size += batch.mutations.len();
                self.pending.push(batch);
            }
        }
    }

    fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    fn is_commit_due(&self) -> bool {
        self.has_pending()
            && (self.pending_size >= self.config.delayed_size_max
                || self.pending_since.elapsed() >= self.config.commit_delay)
    }

    /// Loads go first: a get waits for each of them, and a commit takes longer than all of them.
    fn answer_loads(&mut self) {
        for load in self.loads.drain(..) {
            let result = self.store.load(&load);
            (self.reply)(load.shard, Reply::Loaded { queue: load.queue, result });
        }
    }

    fn apply_all(&mut self) -> Result<(), Error> {
        while self.has_pending() {
            self.apply_some()?;
        }
        Ok(())
    }

    /// Applies the oldest pending batches, as many as one apply may hold, and tells their shards.
    fn apply_some(&mut self) -> Result<(), Error> {
        let len = share_len(&self.pending);
        self.store.apply(&self.pending[..len])?;
        let mut answers: Vec<Option<(Seq, Vec<Vec<u8>>)>> = vec![None; self.received.len()];
        for batch in self.pending.drain(..len) {
            self.pending_size -= batch.mutations.len();
            let (seq, spent) = answers[usize::from(batch.shard.0)].get_or_insert_default();
            *seq = batch.seq;
            let mut buffer = batch.mutations;
            if buffer.capacity() <= SPENT_CAPACITY_MAX {
                buffer.clear();
                spent.push(buffer);
            }
        }
        for (shard, answer) in (0..self.config.shards).zip(answers) {
            if let Some((seq, spent)) = answer {
                (self.reply)(ShardId(shard), Reply::Checkpointed { seq, spent });
            }
        }
        Ok(())
    }

    fn tidy(&mut self, is_idle: bool) -> Result<(), Error> {
        if self.tidy.has_work && (is_idle || self.tidy.last.elapsed() >= TIDY_EVERY) {
            self.tidy.has_work = self.store.tidy()?;
            self.tidy.last = Instant::now();
        }
        Ok(())
    }

    fn check_free(&mut self) {
        self.free.checked = Instant::now();
        let is_full = is_full(self.free.is_full, self.store.free_size(), self.config.free_size_min);
        if is_full != self.free.is_full {
            self.free.is_full = is_full;
            for shard in 0..self.config.shards {
                (self.reply)(ShardId(shard), Reply::Full(is_full));
            }
        }
    }
}

/// How many of the batches, from the first, go into one apply: at least one, however large.
fn share_len(batches: &[Batch]) -> usize {
    let mut size = 0;
    let len = batches.iter().take_while(|batch| {
        size += batch.mutations.len();
        size <= APPLY_SIZE_MAX
    });
    len.count().max(1).min(batches.len())
}

/// The gap between the two marks keeps a file system at the floor from being full and not full by turns.
fn is_full(was_full: bool, free_size: u64, free_size_min: u64) -> bool {
    let enough = if was_full { free_size_min.saturating_add(free_size_min / 4) } else { free_size_min };
    free_size < enough
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;
    use crate::ids::{MessageId, QueueId};
    use crate::mutation::{Mutation, Put, checksum};
    use crate::store::memory::MemoryStore;

    const QUEUE: QueueId = QueueId(1);
    const DELAYED_SIZE: usize = 2 << 20;
    const AT_ONCE: ThreadConfig =
        ThreadConfig { shards: 2, commit_delay: Duration::ZERO, delayed_size_max: DELAYED_SIZE, free_size_min: 0 };
    /// Longer than any test: only something else than time ends it.
    const NEVER: Duration = Duration::from_secs(86_400);

    fn encoded(mutations: &[Mutation<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        mutations.iter().for_each(|mutation| mutation.encode(&mut bytes));
        bytes
    }

    fn batch(shard: u16, seq: u64, mutations: Vec<u8>) -> Request {
        Request::Checkpoint(Batch { shard: ShardId(shard), seq: Seq(seq), mutations })
    }

    fn put(message: u64, body: &[u8]) -> Vec<u8> {
        let message = MessageId(message);
        let crc32c = checksum(QUEUE, message, 1, 2, body);
        encoded(&[Mutation::Put(Put { queue: QUEUE, message, put_ms: 1, flags: 2, crc32c, body })])
    }

    fn ids(end: u64) -> Vec<u8> {
        encoded(&[Mutation::Ids { end }])
    }

    /// A store with one empty queue, the ends of its thread's channels, and the thread once it is started.
    struct Bench {
        store: MemoryStore,
        requests: Option<Sender<Request>>,
        waiting: Option<Receiver<Request>>,
        replies: Receiver<(ShardId, Reply)>,
        reply: Option<Sender<(ShardId, Reply)>>,
    }

    impl Bench {
        fn new() -> Bench {
            let mut store = MemoryStore::new();
            let create = encoded(&[Mutation::Create { queue: QUEUE, created_ms: 1, name: b"q" }]);
            store.apply(&[Batch { shard: ShardId(0), seq: Seq(0), mutations: create }]).unwrap();
            let (requests, waiting) = channel();
            let (reply, replies) = channel();
            Bench { store, requests: Some(requests), waiting: Some(waiting), replies, reply: Some(reply) }
        }

        fn send(&self, request: Request) {
            self.requests.as_ref().unwrap().send(request).unwrap();
        }

        fn start(&mut self, config: ThreadConfig) -> JoinHandle<Result<(), Error>> {
            let reply = self.reply.take().unwrap();
            let answer = move |shard, answer| reply.send((shard, answer)).unwrap();
            spawn(self.store.clone(), self.waiting.take().unwrap(), answer, config).unwrap()
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
                (shard, Reply::Checkpointed { seq, spent }) => {
                    assert!(spent.iter().all(Vec::is_empty));
                    (shard.0, seq.0, spent.len())
                }
                other => panic!("expected a checkpoint, got {other:?}"),
            }
        }
    }

    #[test]
    fn waiting_batches_of_all_shards_go_into_one_apply_and_one_answer_each() {
        let mut bench = Bench::new();
        bench.send(batch(0, 1, put(1, b"a")));
        bench.send(batch(1, 1, ids(10)));
        bench.send(batch(0, 2, put(2, b"b")));
        let thread = bench.start(AT_ONCE);
        assert_eq!(bench.checkpointed(), (0, 2, 2));
        assert_eq!(bench.checkpointed(), (1, 1, 1));
        assert_eq!(bench.applies(), [3]);
        bench.send(batch(0, 3, put(3, b"c")));
        assert_eq!(bench.checkpointed(), (0, 3, 1));
        assert_eq!(bench.applies(), [3, 1]);
        bench.finish(thread).unwrap();
        assert_eq!(bench.store.message_ids(QUEUE), [1, 2, 3].map(MessageId));
    }

    #[test]
    fn a_load_is_answered_before_a_batch_that_came_first() {
        let mut bench = Bench::new();
        bench.send(batch(0, 1, put(1, b"a")));
        let load =
            Load { shard: ShardId(1), queue: QUEUE, after: MessageId(0), below: MessageId(u64::MAX), size_max: 1000 };
        bench.send(Request::Load(load));
        let thread = bench.start(AT_ONCE);
        match bench.replies.recv().unwrap() {
            (ShardId(1), Reply::Loaded { queue: QUEUE, result }) => assert_eq!(result.unwrap().messages, []),
            other => panic!("expected the load's answer, got {other:?}"),
        }
        assert_eq!(bench.checkpointed(), (0, 1, 1));
        bench.send(Request::Load(load));
        match bench.replies.recv().unwrap() {
            (_, Reply::Loaded { result, .. }) => assert_eq!(result.unwrap().messages, put(1, b"a")),
            other => panic!("expected the load's answer, got {other:?}"),
        }
        bench.finish(thread).unwrap();
    }

    #[test]
    fn an_error_of_apply_ends_the_thread_without_an_answer() {
        let mut bench = Bench::new();
        bench.store.fail_next_apply();
        bench.send(batch(0, 1, put(1, b"a")));
        let thread = bench.start(AT_ONCE);
        assert!(matches!(thread.join().unwrap(), Err(Error::Io { .. })));
        assert!(bench.replies.recv().is_err(), "nothing is answered");
        assert_eq!(bench.store.message_ids(QUEUE), []);
    }

    #[test]
    fn a_commit_delay_collects_until_the_batches_are_large() {
        let mut bench = Bench::new();
        bench.send(batch(0, 1, put(1, b"a")));
        let thread = bench.start(ThreadConfig { commit_delay: NEVER, ..AT_ONCE });
        bench.send(batch(0, 2, put(2, b"b")));
        bench.send(batch(1, 1, put(3, &vec![b'x'; DELAYED_SIZE])));
        assert_eq!(bench.checkpointed(), (0, 2, 2));
        // The large buffer is not given back.
        assert_eq!(bench.checkpointed(), (1, 1, 0));
        assert_eq!(bench.applies(), [3]);
        bench.finish(thread).unwrap();
    }

    #[test]
    fn a_commit_delay_ends_by_itself() {
        let mut bench = Bench::new();
        let thread = bench.start(ThreadConfig { commit_delay: Duration::from_millis(2), ..AT_ONCE });
        bench.send(batch(0, 1, put(1, b"a")));
        assert_eq!(bench.checkpointed(), (0, 1, 1));
        bench.finish(thread).unwrap();
    }

    #[test]
    fn what_is_pending_when_all_senders_are_gone_is_applied() {
        let mut bench = Bench::new();
        bench.send(batch(0, 1, put(1, b"a")));
        let thread = bench.start(ThreadConfig { commit_delay: NEVER, ..AT_ONCE });
        bench.finish(thread).unwrap();
        assert_eq!(bench.checkpointed(), (0, 1, 1));
        assert_eq!(bench.store.message_ids(QUEUE), [MessageId(1)]);
    }

    #[test]
    fn shards_hear_when_space_runs_out_and_when_it_is_back() {
        let mut bench = Bench::new();
        bench.store.set_free_size(999);
        let thread = bench.start(ThreadConfig { free_size_min: 1000, ..AT_ONCE });
        for shard in 0..2 {
            assert!(matches!(bench.replies.recv().unwrap(), (ShardId(s), Reply::Full(true)) if s == shard));
        }
        bench.store.set_free_size(1250);
        for shard in 0..2 {
            assert!(matches!(bench.replies.recv().unwrap(), (ShardId(s), Reply::Full(false)) if s == shard));
        }
        bench.finish(thread).unwrap();
    }

    #[test]
    fn fullness_ends_only_well_above_the_floor() {
        assert!(!is_full(false, 1000, 1000));
        assert!(is_full(false, 999, 1000));
        assert!(is_full(true, 1249, 1000));
        assert!(!is_full(true, 1250, 1000));
        assert!(!is_full(false, 0, 0));
    }

    #[test]
    fn one_apply_is_bounded_but_takes_a_batch_of_any_size() {
        let sized = |sizes: &[usize]| -> Vec<Batch> {
            let batch = |size: &usize| Batch { shard: ShardId(0), seq: Seq(1), mutations: vec![0; *size] };
            sizes.iter().map(batch).collect()
        };
        let third = APPLY_SIZE_MAX / 3;
        assert_eq!(share_len(&sized(&[third, third, third, third])), 3);
        assert_eq!(share_len(&sized(&[APPLY_SIZE_MAX + 1, 1])), 1);
        assert_eq!(share_len(&sized(&[1, APPLY_SIZE_MAX])), 1);
        assert_eq!(share_len(&sized(&[1])), 1);
    }

    /// Has rows to remove until it was asked often enough, and again after each apply.
    struct Untidy {
        slices: usize,
        asked: Sender<usize>,
    }

    impl Store for Untidy {
        fn apply(&mut self, _: &[Batch]) -> Result<(), Error> {
            self.slices += 1;
            Ok(())
        }

        fn load(&mut self, _: &Load) -> Result<crate::store::Loaded, Error> {
            Ok(crate::store::Loaded::default())
        }

        fn recover(&mut self) -> Result<crate::store::Recovered, Error> {
            Ok(crate::store::Recovered::default())
        }

        fn tidy(&mut self) -> Result<bool, Error> {
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
        let thread = spawn(Untidy { slices: 3, asked }, waiting, |_, _| {}, AT_ONCE).unwrap();
        assert_eq!([slices.recv(), slices.recv(), slices.recv()], [Ok(2), Ok(1), Ok(0)]);
        requests.send(batch(0, 1, Vec::new())).unwrap();
        assert_eq!(slices.recv(), Ok(0));
        drop(requests);
        thread.join().unwrap().unwrap();
        assert!(slices.recv().is_err(), "a tidy store is left alone");
    }
}
