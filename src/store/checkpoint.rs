//! Checkpoints: what has to be brought into the store, and how it is cut into slices, a transaction each.
//!
//! A shard hands over batches in jobs. A slice is some consecutive batches of one job; shards take turns, so that none waits
//! for another's whole job. What a job both puts and takes is found out once for all its slices ([`Taken`]) and
//! never reaches the database, wherever the cuts fall.
//!
//! Invariant: the batches of a shard leave in the order in which they came, each once. Knows neither time nor I/O, except for
//! [`replay`], which a start calls before there is a thread to pace anything.

use std::collections::VecDeque;

use super::ballast::Ballast;
use super::{Batch, Error, Store, Taken};
use crate::ids::{Seq, ShardId};
use crate::mutation::{Decoder, Malformed, Mutation};

/// All mutations of the batches, in order.
pub(super) fn mutations(batches: &[Batch]) -> impl Iterator<Item = Result<Mutation<'_>, Error>> {
    batches
        .iter()
        .flat_map(|batch| Decoder::new(&batch.mutations).map(|mutation| mutation.map_err(|e| malformed(batch, e))))
}

/// What a batch that cannot be read means.
pub(super) fn malformed(batch: &Batch, error: Malformed) -> Error {
    Error::Damaged(format!("batch {} of shard {}: {error}", batch.seq, batch.shard))
}

/// Brings into the store what a crash left in the journals, in slices of at most `slice_size_max` bytes of mutations (or one
/// batch). Batches of one shard are in order and go on where its [`super::JournalRow`] says; shards may be mixed.
///
/// # Errors
/// As [`Store::apply`]. One that [`Error::is_storage_full`] says that the ballast did not help; what was applied is durable, and
/// the next start goes on behind it.
pub fn replay(
    store: &mut impl Store,
    ballast: &mut Ballast,
    batches: &[Batch],
    slice_size_max: usize,
) -> Result<(), Error> {
    let taken = Taken::of(batches)?;
    let mut rest = batches;
    while !rest.is_empty() {
        let (slice, after) = rest.split_at(slice_len(rest, slice_size_max));
        while let Err(error) = store.apply(slice, &taken) {
            ballast.make_room(error)?;
        }
        rest = after;
    }
    Ok(())
}

/// How many of the batches, from the first, go into one slice: at least one, however large. Bytes bound its time, too: a removal takes
/// 17 bytes, and costs less than the messages that as many bytes could hold.
fn slice_len(batches: &[Batch], size_max: usize) -> usize {
    let mut size = 0;
    let len = batches.iter().take_while(|batch| {
        size += batch.mutations.len();
        size <= size_max
    });
    len.count().max(1).min(batches.len())
}

/// The jobs that wait, by shard.
pub(super) struct Backlog {
    lanes: Vec<Lane>,
    /// Whose turn it is, if it has something.
    turn: usize,
    /// The lane and the number of batches of the slice that was handed out.
    slice: Option<(usize, usize)>,
    /// Bytes of mutations that wait.
    size: usize,
    /// Jobs that wait without patience.
    urgent: usize,
    /// Of finished jobs, for their memory.
    spare: Vec<Taken>,
}

/// A shard's jobs.
struct Lane {
    /// Newest batch received.
    received: Seq,
    jobs: VecDeque<Job>,
}

struct Job {
    batches: Vec<Batch>,
    /// How many of them are in the store.
    applied: usize,
    /// Found out when the first slice is cut.
    taken: Option<Taken>,
    is_urgent: bool,
}

/// What goes into one transaction.
pub(super) struct Slice<'a> {
    pub(super) batches: &'a [Batch],
    pub(super) taken: &'a Taken,
}

/// A slice that is in the store.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) shard: ShardId,
    /// The number of its last batch.
    pub(super) seq: Seq,
    /// How many batches it had.
    pub(super) len: usize,
    /// Their bytes, of no use any more but as memory.
    pub(super) spent: Vec<Vec<u8>>,
}

impl Backlog {
    pub(super) fn new(shards: u16) -> Backlog {
        let lane = || Lane { received: Seq(0), jobs: VecDeque::new() };
        let lanes = std::iter::repeat_with(lane).take(usize::from(shards)).collect();
        Backlog { lanes, turn: 0, slice: None, size: 0, urgent: 0, spare: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.jobs.is_empty())
    }

    /// Bytes of mutations that wait.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Whether someone waits for it without patience.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent > 0
    }

    /// Takes in a job. Panics when its batches are not of one shard, or not behind those of its last job.
    pub(super) fn push(&mut self, batches: Vec<Batch>, is_urgent: bool) {
        if let Some(first) = batches.first() {
            let shard = first.shard;
            let lane = &mut self.lanes[usize::from(shard.0)];
            for batch in &batches {
                assert_eq!(batch.shard, shard, "a job is of one shard");
                assert!(batch.seq > lane.received, "a batch of shard {shard} is out of order");
                lane.received = batch.seq;
                self.size += batch.mutations.len();
            }
            lane.jobs.push_back(Job { batches, applied: 0, taken: None, is_urgent: false });
        }
        if is_urgent {
            self.hurry();
        }
    }

    /// Everything that waits is urgent now: an urgent job must not wait for a patient one before it.
    fn hurry(&mut self) {
        for job in self.lanes.iter_mut().flat_map(|lane| &mut lane.jobs) {
            self.urgent += usize::from(!job.is_urgent);
            job.is_urgent = true;
        }
    }

    /// The slice whose turn it is, of at most `size_max` bytes of mutations or one batch; `None` when nothing waits. It is the
    /// same one until it is [`Backlog::applied`].
    ///
    /// # Errors
    /// [`Error::Damaged`] when a batch of its job cannot be read.
    pub(super) fn slice(&mut self, size_max: usize) -> Result<Option<Slice<'_>>, Error> {
        if self.slice.is_none() {
            let len = self.lanes.len();
            let next = (0..len).map(|ahead| (self.turn + ahead) % len).find(|at| !self.lanes[*at].jobs.is_empty());
            let Some(at) = next else { return Ok(None) };
            let job = &mut self.lanes[at].jobs[0];
            if job.taken.is_none() {
                let mut taken = self.spare.pop().unwrap_or_default();
                taken.refill(&job.batches)?;
                job.taken = Some(taken);
            }
            self.slice = Some((at, slice_len(&job.batches[job.applied..], size_max)));
        }
        Ok(self.slice.map(|(at, len)| {
            let job = &self.lanes[at].jobs[0];
            let taken = job.taken.as_ref().expect("found out when the slice was cut");
            Slice { batches: &job.batches[job.applied..][..len], taken }
        }))
    }

    /// The slice handed out last is in the store. Its batches' memory is given back with what is said of it.
    pub(super) fn applied(&mut self) -> Applied {
        let (at, len) = self.slice.take().expect("a slice was handed out");
        let jobs = &mut self.lanes[at].jobs;
        let job = &mut jobs[0];
        let batches = &mut job.batches[job.applied..][..len];
        let (shard, seq) = batches.last().map(|batch| (batch.shard, batch.seq)).expect("a slice has batches");
        // Slice by slice, not with the job.
        let spent: Vec<_> = batches.iter_mut().map(|batch| std::mem::take(&mut batch.mutations)).collect();
        self.size -= spent.iter().map(Vec::len).sum::<usize>();
        job.applied += len;
        if job.applied == job.batches.len() {
            self.urgent -= usize::from(job.is_urgent);
            self.spare.extend(job.taken.take());
            jobs.pop_front();
        }
        self.turn = at + 1;
        Applied { shard, seq, len, spent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{MessageId, Position, QueueId};
    use crate::mutation::Put;
    use crate::store::memory::MemoryStore;

    const QUEUE: QueueId = QueueId(1);

    fn put(queue: QueueId, message: u64) -> Mutation<'static> {
        let message = MessageId(message);
        Mutation::Put(Put { queue, message, put_ms: 1, flags: 0, expires_ms: 0, crc32c: 0, body: b"" }.sealed())
    }

    fn take(message: u64) -> Mutation<'static> {
        Mutation::Take { queue: QUEUE, message: MessageId(message) }
    }

    fn batch(shard: u16, seq: u64, mutations: &[Mutation<'_>]) -> Batch {
        let mut bytes = Vec::new();
        mutations.iter().for_each(|mutation| mutation.encode(&mut bytes));
        let end = Position { seq: Seq(seq + 1), segment: 0, offset: seq * 4096 };
        Batch { shard: ShardId(shard), seq: Seq(seq), mutations: bytes, end }
    }

    /// Batches that cannot be read but have that size.
    fn sized(shard: u16, first: u64, sizes: &[usize]) -> Vec<Batch> {
        let ids = |size: &usize| vec![Mutation::Ids { end: 1 }; size / 9];
        sizes.iter().zip(first..).map(|(size, seq)| batch(shard, seq, &ids(size))).collect()
    }

    /// Shard and newest number of each slice until nothing waits.
    fn drain(backlog: &mut Backlog, size_max: usize) -> Vec<(u16, u64, usize)> {
        let mut slices = Vec::new();
        while backlog.slice(size_max).unwrap().is_some() {
            let applied = backlog.applied();
            slices.push((applied.shard.0, applied.seq.0, applied.len));
        }
        assert!(backlog.is_empty());
        assert_eq!((backlog.size(), backlog.is_urgent()), (0, false));
        slices
    }

    #[test]
    fn a_slice_is_bounded_but_takes_a_batch_of_any_size() {
        let len = |sizes: &[usize]| slice_len(&sized(0, 1, sizes), 90);
        assert_eq!(len(&[27, 27, 27, 27]), 3);
        assert_eq!(len(&[99, 9]), 1);
        assert_eq!(len(&[9, 90]), 1);
        assert_eq!(len(&[9]), 1);
        assert_eq!(len(&[0, 0, 90, 9]), 3);
    }

    #[test]
    fn shards_take_turns_and_each_keeps_its_order() {
        let mut backlog = Backlog::new(3);
        backlog.push(sized(2, 1, &[90, 90, 45, 45]), false);
        backlog.push(sized(2, 5, &[9]), false);
        backlog.push(sized(0, 1, &[90, 90]), false);
        assert_eq!(backlog.size(), 6 * 90 - 90 + 9);
        let expected = [(0, 1, 1), (2, 1, 1), (0, 2, 1), (2, 2, 1), (2, 4, 2), (2, 5, 1)];
        assert_eq!(drain(&mut backlog, 90), expected);
    }

    #[test]
    fn a_slice_is_the_same_until_it_is_applied() {
        let mut backlog = Backlog::new(2);
        backlog.push(sized(1, 1, &[90]), false);
        assert_eq!(backlog.slice(90).unwrap().unwrap().batches[0].shard, ShardId(1));
        backlog.push(sized(0, 1, &[90]), false);
        assert_eq!(backlog.slice(90).unwrap().unwrap().batches[0].shard, ShardId(1));
        assert_eq!(drain(&mut backlog, 90), [(1, 1, 1), (0, 1, 1)]);
    }

    #[test]
    fn an_urgent_job_hurries_everything_before_it() {
        let mut backlog = Backlog::new(2);
        backlog.push(sized(0, 1, &[90, 90]), false);
        assert!(!backlog.is_urgent());
        backlog.push(sized(1, 1, &[90]), true);
        backlog.push(sized(1, 2, &[90]), false);
        for _ in 0..3 {
            assert!(backlog.is_urgent());
            backlog.slice(90).unwrap().unwrap();
            backlog.applied();
        }
        assert!(!backlog.is_urgent(), "what came after it is patient");
        backlog.push(Vec::new(), true);
        assert!(backlog.is_urgent(), "an empty urgent job hurries what waits");
        assert_eq!(drain(&mut backlog, 90), [(1, 2, 1)]);
        backlog.push(Vec::new(), true);
        assert_eq!(drain(&mut backlog, 90), []);
    }

    #[test]
    fn a_replay_cut_short_goes_on_where_it_was() {
        let mut store = MemoryStore::new();
        store.begin_journals(&[Default::default()]).unwrap();
        let create = Mutation::Create { queue: QUEUE, created_ms: 1, name: b"q" };
        let batches = [
            batch(0, 1, &[create, put(QUEUE, 1), put(QUEUE, 2)]),
            batch(0, 2, &[put(QUEUE, 3), take(1)]),
            batch(0, 3, &[take(2), take(3), put(QUEUE, 4)]),
        ];
        for crash_after in 0..=batches.len() {
            let (before, after) = batches.split_at(crash_after);
            let mut store = store.fork();
            // What the thread did before the crash: with the takes of all batches in sight.
            let taken = Taken::of(&batches).unwrap();
            before.iter().for_each(|batch| store.apply(std::slice::from_ref(batch), &taken).unwrap());
            replay(&mut store, &mut Ballast::none(), after, 1).unwrap();
            let recovered = store.recover().unwrap();
            assert_eq!(store.message_ids(QUEUE), [MessageId(4)], "crash after {crash_after}");
            assert_eq!(recovered.queues[0].counters.present(), 1);
            assert_eq!(recovered.journals[0].position, batches[2].end);
        }
    }

    #[test]
    fn a_replay_without_room_says_so() {
        let mut store = MemoryStore::new();
        store.begin_journals(&[Default::default()]).unwrap();
        store.fill(1);
        let batches = [batch(0, 1, &[Mutation::Ids { end: 5 }])];
        let error = replay(&mut store, &mut Ballast::none(), &batches, 1).unwrap_err();
        assert!(error.is_storage_full(), "{error}");
        replay(&mut store, &mut Ballast::none(), &batches, 1).unwrap();
        assert_eq!(store.recover().unwrap().ids_end, 5);
    }
}
