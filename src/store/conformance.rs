//! What every store must do, run against LMDB in a directory of its own and against the store in memory.
//!
//! What concerns messages that are packed together is in [`runs`], groups are in [`readers`], transfers between queues in [`moves`];
//! [`histories`] plays random histories.

use std::collections::BTreeMap;
use std::path::Path;

use tempfile::TempDir;

use super::lmdb::{Lmdb, LmdbConfig};
use super::memory::MemoryStore;
use super::{Batch, Error, JournalRow, Load, Loaded, QueueRow, Recovered, Store, Taken};
use crate::ids::{MessageId, Position, QueueId, Salt, Seq, ShardId};
use crate::mutation::{Decoder, Mutation, PUT_HEADER_SIZE, Put, Why};
use crate::queue::Counters;

mod histories;
mod moves;
mod readers;
mod runs;

use histories::random_histories;
use moves::*;
use readers::*;
use runs::*;

/// A store and the ways a test can get at it from outside.
trait Subject {
    type Store: Store;

    /// Opens what the last store of this subject left, after it was dropped.
    fn open(&self) -> Self::Store;

    /// Another one, with nothing in it.
    fn again(&self) -> Self;

    /// Damages a stored message.
    fn corrupt(store: &mut Self::Store, queue: QueueId, message: MessageId);
}

struct InLmdb(TempDir);

impl InLmdb {
    fn new() -> InLmdb {
        InLmdb(tempfile::tempdir().unwrap())
    }
}

impl Subject for InLmdb {
    type Store = Lmdb;

    fn open(&self) -> Lmdb {
        open(self.0.path())
    }

    fn again(&self) -> InLmdb {
        InLmdb::new()
    }

    fn corrupt(store: &mut Lmdb, queue: QueueId, message: MessageId) {
        // The first byte of the time; any byte will do, and lmdb.rs tries them all.
        store.flip_byte(queue, message, 1);
    }
}

fn open(directory: &Path) -> Lmdb {
    Lmdb::open(directory, &LmdbConfig::default()).unwrap()
}

struct InMemory(MemoryStore);

impl InMemory {
    fn new() -> InMemory {
        InMemory(MemoryStore::new())
    }
}

impl Subject for InMemory {
    type Store = MemoryStore;

    fn open(&self) -> MemoryStore {
        self.0.clone()
    }

    fn again(&self) -> InMemory {
        InMemory::new()
    }

    fn corrupt(store: &mut MemoryStore, queue: QueueId, message: MessageId) {
        store.corrupt(queue, message);
    }
}

/// Makes each test of the suite a test of each store.
macro_rules! suite {
    ($($test:ident,)*) => {
        mod lmdb {
            $(#[test] fn $test() { super::$test(&super::InLmdb::new()); })*
            #[test] fn random_histories() { super::random_histories(super::InLmdb::new); }
        }
        mod memory {
            $(#[test] fn $test() { super::$test(&super::InMemory::new()); })*
            #[test] fn random_histories() { super::random_histories(super::InMemory::new); }
        }
    };
}

suite! {
    an_empty_store_has_nothing,
    what_was_put_is_loaded_and_counted,
    a_taken_message_is_only_counted,
    a_take_may_come_after_a_crash_between_two_calls,
    positions_of_the_journals_come_with_the_data,
    a_generation_of_journals_ends_the_one_before,
    a_message_set_aside_without_a_row_is_only_counted,
    takes_reach_messages_of_earlier_calls,
    loads_keep_their_bounds,
    a_large_message_is_loaded_though_it_is_larger_than_the_bound,
    a_purge_hides_messages_at_once_and_for_good,
    a_purge_counts_messages_that_were_never_written,
    a_deleted_queue_is_gone_and_its_name_is_free,
    a_queue_created_and_deleted_in_one_call_leaves_nothing,
    a_reply_may_outlive_its_queue,
    what_passed_by_is_only_counted,
    a_put_may_come_after_younger_ones,
    a_damaged_message_is_reported_and_set_aside,
    the_end_of_the_ids_only_rises,
    ten_thousand_queues_are_recovered,
    batches_of_several_shards_are_applied_together,
    malformed_bytes_change_nothing,
    contradictions_change_nothing,
    a_journal_that_does_not_go_on_changes_nothing,
    messages_of_all_sizes_are_loaded_in_order,
    a_load_begins_and_ends_anywhere,
    takes_out_of_order_leave_the_others,
    the_head_passes_what_was_taken_before,
    most_of_a_backlog_is_taken_out_of_order,
    a_message_set_aside_leaves_its_neighbours,
    a_damaged_message_stays_damaged_when_its_neighbours_go,
    a_purge_ends_among_messages_that_came_together,
    a_message_that_comes_late_has_its_place,
    a_late_message_is_not_hidden_by_those_taken_before,
    a_late_message_is_not_hidden_by_a_purge_before,
    a_late_message_leaves_like_others,
    a_late_message_is_not_put_twice,
    a_late_message_goes_with_its_queue,
    a_message_that_expires_is_loaded_as_it_was_put,
    a_message_leaves_for_a_reason_that_is_counted,
    a_group_has_what_its_queue_has,
    each_reader_passes_messages_for_itself,
    a_group_that_is_not_known_yet_has_passed_nothing,
    a_message_goes_when_all_have_passed_it,
    a_sweep_removes_what_all_have_passed,
    a_queue_without_its_last_group_is_an_ordinary_one,
    a_group_may_come_and_go_in_one_call,
    a_purge_of_one_reader_leaves_the_others,
    a_damaged_message_is_set_aside_by_each_reader,
    a_message_that_came_back_has_its_deliveries,
    what_a_job_puts_and_frees_leaves_nothing,
    contradictions_of_readers_change_nothing,
    settings_are_kept_by_name,
    how_far_a_way_has_come_only_rises,
    a_message_on_its_way_is_still_there,
    a_start_settles_what_was_accepted,
    a_start_settles_what_a_group_sent,
    what_is_no_longer_there_is_on_no_way,
}

const ONE: QueueId = QueueId(1);
const TWO: QueueId = QueueId(2);
const LAST: MessageId = MessageId(u64::MAX);

fn encode(mutations: &[Mutation<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    mutations.iter().for_each(|mutation| mutation.encode(&mut bytes));
    bytes
}

const SALTS: [Salt; 2] = [Salt([1; 16]), Salt([2; 16])];

/// A store that has nothing but two shards' journals.
fn begun<S: Subject>(subject: &S) -> S::Store {
    let mut store = subject.open();
    store.begin_journals(&SALTS).unwrap();
    store
}

fn position(seq: u64) -> Position {
    Position { seq: Seq(seq), segment: seq as u32 % 4, offset: seq * 4096 }
}

/// Where the shard's journal is in the store.
fn reached(store: &mut impl Store, shard: u16) -> u64 {
    let journals = store.recover().unwrap().journals;
    journals.iter().find(|row| row.shard.0 == shard).expect("the journal was begun").position.seq.0
}

fn batch(shard: u16, seq: u64, mutations: &[Mutation<'_>]) -> Batch {
    Batch { shard: ShardId(shard), seq: Seq(seq), mutations: encode(mutations), end: position(seq + 1) }
}

/// Applies one batch of shard 0.
fn apply(store: &mut impl Store, mutations: &[Mutation<'_>]) {
    let seq = reached(store, 0);
    apply_all(store, &[batch(0, seq, mutations)], &Taken::none());
}

/// Applies batches in one call, after which the bytes of every queue are those of the messages that it has.
fn apply_all(store: &mut impl Store, batches: &[Batch], taken: &Taken) {
    store.apply(batches, taken).unwrap();
    assert_bytes(store);
}

/// Every queue's bytes are what its messages, damaged ones too, add up to: those that some reader has not passed.
fn assert_bytes(store: &mut impl Store) {
    let rows = store.recover().unwrap().queues;
    for row in &rows {
        let owner = if row.of.0 == 0 { row.queue } else { row.of };
        let mut sizes = BTreeMap::new();
        for reader in rows.iter().filter(|reader| reader.queue == owner || reader.of == owner) {
            let Loaded { messages, corrupt, .. } = load(store, reader.queue, 0, LAST, usize::MAX);
            sizes.extend(corrupt);
            sizes.extend(Decoder::new(&messages).map(|mutation| match mutation.unwrap() {
                Mutation::Put(put) => (put.message, put.body.len() as u64),
                other => panic!("a load brought {other:?}"),
            }));
        }
        assert_eq!(row.bytes, sizes.values().sum::<u64>(), "queue {}", row.queue);
    }
}

fn create(queue: QueueId, name: &[u8]) -> Mutation<'_> {
    Mutation::Create { queue, created_ms: 100 + queue.0, name }
}

fn put(queue: QueueId, message: u64, body: &[u8]) -> Mutation<'_> {
    let (message, put_ms, flags) = (MessageId(message), 1000 + message, message as u32);
    Mutation::Put(Put { queue, message, put_ms, flags, expires_ms: 0, crc32c: 0, body }.sealed())
}

fn take(queue: QueueId, message: u64) -> Mutation<'static> {
    Mutation::Take { queue, message: MessageId(message) }
}

fn tidy(store: &mut impl Store) {
    while store.tidy().unwrap() {}
    assert_bytes(store);
}

fn load(store: &mut impl Store, queue: QueueId, after: u64, below: MessageId, size_max: usize) -> Loaded {
    store.load(&Load { shard: ShardId(0), queue, of: queue, after: MessageId(after), below, size_max }).unwrap()
}

/// Ids of a queue's intact messages, read from its head in one load.
fn ids(store: &mut impl Store, queue: QueueId) -> Vec<u64> {
    message_ids(&load(store, queue, 0, LAST, usize::MAX))
}

fn message_ids(loaded: &Loaded) -> Vec<u64> {
    Decoder::new(&loaded.messages)
        .map(|mutation| match mutation.unwrap() {
            Mutation::Put(put) => put.message.0,
            other => panic!("a load brought {other:?}"),
        })
        .collect()
}

fn counters(store: &mut impl Store, queue: QueueId) -> Counters {
    let recovered = store.recover().unwrap();
    recovered.queues.iter().find(|row| row.queue == queue).expect("the queue is there").counters
}

fn an_empty_store_has_nothing(subject: &impl Subject) {
    let mut store = subject.open();
    assert_eq!(store.recover().unwrap(), Recovered::default());
    assert_eq!(load(&mut store, ONE, 5, LAST, 1000), Loaded { reached: MessageId(5), ..Loaded::default() });
    assert!(!store.tidy().unwrap());
    assert!(store.free_size() > 0);
    store.apply(&[], &Taken::none()).unwrap();
}

fn what_was_put_is_loaded_and_counted(subject: &impl Subject) {
    let mut store = begun(subject);
    let mutations = [create(ONE, b"one"), put(ONE, 10, b"a"), put(ONE, 11, b""), put(ONE, 12, &[0, 255, b'\n'])];
    apply(&mut store, &mutations);
    for _ in 0..2 {
        let loaded = load(&mut store, ONE, 0, LAST, 1000);
        let expected = Loaded { messages: encode(&mutations[1..]), reached: MessageId(12), ..Loaded::default() };
        assert_eq!(loaded, expected);
        let counters = Counters { puts: 3, ..Counters::default() };
        let row =
            QueueRow { name: b"one".to_vec(), queue: ONE, created_ms: 101, counters, bytes: 4, ..QueueRow::default() };
        let recovered = store.recover().unwrap();
        assert_eq!((recovered.queues, recovered.ids_end), (vec![row], 0));
        drop(store);
        store = subject.open();
    }
}

fn a_taken_message_is_only_counted(subject: &impl Subject) {
    let mut store = begun(subject);
    let leave = Mutation::Leave { queue: ONE, message: MessageId(4), why: Why::Expired };
    let batches = [
        batch(0, 1, &[create(ONE, b"one"), put(ONE, 1, b"a"), put(ONE, 2, b"b"), put(ONE, 3, b"c"), put(ONE, 4, b"d")]),
        batch(0, 2, &[take(ONE, 1), Mutation::Unsent { queue: ONE }]),
        batch(0, 3, &[take(ONE, 3), leave]),
    ];
    let taken = Taken::of(&batches).unwrap();
    apply_all(&mut store, &batches[..2], &taken);
    assert_eq!(ids(&mut store, ONE), [2], "also what a later call takes is not written");
    let counted = Counters { puts: 4, gets: 1, gets_unsent: 1, ..Counters::default() };
    assert_eq!(counters(&mut store, ONE), counted);
    apply_all(&mut store, &batches[2..], &taken);
    drop(store);
    store = subject.open();
    assert_eq!(counters(&mut store, ONE), Counters { gets: 2, expired: 1, ..counted });
    assert_eq!(ids(&mut store, ONE), [2]);
}

fn a_take_may_come_after_a_crash_between_two_calls(subject: &impl Subject) {
    let mut store = begun(subject);
    let batches = [
        batch(
            0,
            1,
            &[create(ONE, b"one"), put(ONE, 1, b"a"), put(ONE, 2, b"b"), create(TWO, b"two"), put(TWO, 3, b"c")],
        ),
        batch(0, 2, &[Mutation::Delete { queue: TWO }]),
        batch(0, 3, &[take(ONE, 1), put(ONE, 4, b"d"), take(ONE, 4)]),
    ];
    apply_all(&mut store, &batches[..1], &Taken::of(&batches).unwrap());
    drop(store);
    store = subject.open();
    assert_eq!(reached(&mut store, 0), 2);
    apply_all(&mut store, &batches[1..], &Taken::of(&batches[1..]).unwrap());
    tidy(&mut store);
    assert_eq!(ids(&mut store, ONE), [2]);
    assert_eq!(counters(&mut store, ONE), Counters { puts: 3, gets: 2, ..Counters::default() });
    assert_eq!(store.recover().unwrap().queues.len(), 1);
}

fn positions_of_the_journals_come_with_the_data(subject: &impl Subject) {
    let mut store = begun(subject);
    let row = |shard: u16, seq| {
        let position = if seq == 1 { Position { seq: Seq(1), segment: 0, offset: 0 } } else { position(seq) };
        JournalRow { shard: ShardId(shard), salt: SALTS[usize::from(shard)], position }
    };
    assert_eq!(store.recover().unwrap().journals, [row(0, 1), row(1, 1)]);
    apply_all(&mut store, &[batch(1, 1, &[]), batch(1, 2, &[])], &Taken::none());
    assert_eq!(store.recover().unwrap().journals, [row(0, 1), row(1, 3)]);
    apply_all(&mut store, &[batch(1, 3, &[]), batch(0, 1, &[]), batch(1, 4, &[])], &Taken::none());
    drop(store);
    store = subject.open();
    assert_eq!(store.recover().unwrap().journals, [row(0, 2), row(1, 5)]);
}

fn a_generation_of_journals_ends_the_one_before(subject: &impl Subject) {
    let mut store = begun(subject);
    apply(&mut store, &[create(ONE, b"one"), put(ONE, 1, b"a")]);
    let salts = [Salt([7; 16])];
    store.begin_journals(&salts).unwrap();
    for _ in 0..2 {
        let position = Position { seq: Seq(1), segment: 0, offset: 0 };
        let expected = [JournalRow { shard: ShardId(0), salt: salts[0], position }];
        assert_eq!(store.recover().unwrap().journals, expected);
        drop(store);
        store = subject.open();
    }
    apply(&mut store, &[take(ONE, 1)]);
    assert_eq!(counters(&mut store, ONE).present(), 0);
    // Keys of shards sort as numbers.
    let salts: Vec<Salt> = (0..300u16).map(|shard| Salt([shard as u8; 16])).collect();
    store.begin_journals(&salts).unwrap();
    drop(store);
    store = subject.open();
    let journals = store.recover().unwrap().journals;
    assert_eq!(journals.iter().map(|row| row.salt).collect::<Vec<_>>(), salts);
    assert!(journals.iter().map(|row| row.shard.0).eq(0..300));
}

fn a_message_set_aside_without_a_row_is_only_counted(subject: &impl Subject) {
    let mut store = begun(subject);
    apply(&mut store, &[create(ONE, b"one"), put(ONE, 1, b"a"), put(ONE, 2, b"b")]);
    apply(&mut store, &[Mutation::Corrupt { queue: ONE, message: MessageId(9) }, take(ONE, 8)]);
    assert_eq!(counters(&mut store, ONE).present(), 0);
    assert_eq!(ids(&mut store, ONE), [1, 2]);
}

fn takes_reach_messages_of_earlier_calls(subject: &impl Subject) {
    let mut store = begun(subject);
    apply(&mut store, &[create(ONE, b"one"), put(ONE, 1, b"a"), put(ONE, 2, b"b"), put(ONE, 3, b"c")]);
    apply(&mut store, &[take(ONE, 2), take(ONE, 1), put(ONE, 4, b"d")]);
    drop(store);
    store = subject.open();
    assert_eq!(ids(&mut store, ONE), [3, 4]);
    apply(&mut store, &[take(ONE, 3), take(ONE, 4)]);
    assert!(ids(&mut store, ONE).is_empty());
    assert_eq!(counters(&mut store, ONE), Counters { puts: 4, gets: 4, ..Counters::default() });
}

fn loads_keep_their_bounds(subject: &impl Subject) {
    let mut store = begun(subject);
    apply(&mut store, &[create(TWO, b"two"), put(TWO, 1, b"other"), put(TWO, 99, b"other")]);
    apply(&mut store, &[create(ONE, b"one")]);
    for message in [10, 20, 30, 40] {
        apply(&mut store, &[put(ONE, message, b"1234567890")]);
    }
    let two = 2 * (PUT_HEADER_SIZE + 10);
    let mut bounded = |after, below, size_max| {
        let loaded = load(&mut store, ONE, after, MessageId(below), size_max);
        (message_ids(&loaded), loaded.reached.0)
    };
    assert_eq!(bounded(0, u64::MAX, two), (vec![10, 20], 20));
    assert_eq!(bounded(0, u64::MAX, two - 1), (vec![10], 10));
    assert_eq!(bounded(0, u64::MAX, 0), (vec![10], 10));
    assert_eq!(bounded(10, 40, usize::MAX), (vec![20, 30], 30));
    assert_eq!(bounded(11, 41, usize::MAX), (vec![20, 30, 40], 40));
    assert_eq!(bounded(40, u64::MAX, two), (vec![], 40));
    assert_eq!(bounded(20, 20, two), (vec![], 20));
    assert_eq!(bounded(30, 10, two), (vec![], 30));
    assert_eq!(bounded(u64::MAX, u64::MAX, two), (vec![], u64::MAX));
}

fn a_large_message_is_loaded_though_it_is_larger_than_the_bound(subject: &impl Subject) {
    let mut store = begun(subject);
    let large: Vec<u8> = (0..5u32 << 20).map(|i| (i ^ (i >> 8)) as u8).collect();
    let mutations = [create(ONE, b"one"), put(ONE, 1, &large), put(ONE, 2, b"small")];
    apply(&mut store, &mutations);
    drop(store);
    store = subject.open();
    let loaded = load(&mut store, ONE, 0, LAST, 1000);
    assert!(loaded.messages == encode(&mutations[1..2]), "the large body came back changed");
    apply(&mut store, &[take(ONE, 1)]);
    assert_eq!(ids(&mut store, ONE), [2]);
}

fn a_purge_hides_messages_at_once_and_for_good(subject: &impl Subject) {
    let mut store = begun(subject);
    apply(&mut store, &[create(ONE, b"one"), create(TWO, b"two"), put(ONE, 1, b"a"), put(ONE, 2, b"b")]);
    let purge = Mutation::Purge { queue: ONE, below: MessageId(4), count: 3 };
    apply(&mut store, &[put(TWO, 5, b"other"), put(ONE, 3, b"c"), purge, put(ONE, 6, b"d")]);
    assert_eq!(ids(&mut store, ONE), [6]);
    drop(store);
    store = subject.open();
    assert_eq!(ids(&mut store, ONE), [6]);
    assert_eq!(counters(&mut store, ONE), Counters { puts: 4, deleted: 3, ..Counters::default() });
    tidy(&mut store);
    drop(store);
    store = subject.open();
    assert_eq!(ids(&mut store, ONE), [6]);
    assert_eq!(ids(&mut store, TWO), [5]);
    apply(&mut store, &[take(ONE, 6)]);
    assert_eq!(counters(&mut store, ONE).present(), 0);
}

fn a_purge_counts_messages_that_were_never_written(subject: &impl Subject) {
    let mut store = begun(subject);
    let purge = Mutation::Purge { queue: ONE, below: MessageId(3), count: 1 };
    let batches = [
        batch(0, 1, &[create(ONE, b"one"), put(ONE, 1, b"a"), put(ONE, 2, b"b")]),
        batch(0, 2, &[take(ONE, 2), purge, put(ONE, 3, b"c")]),
    ];
    apply_all(&mut store, &batches, &Taken::of(&batches).unwrap());
    assert_eq!(ids(&mut store, ONE), [3]);
    assert_eq!(counters(&mut store, ONE), Counters { puts: 3, gets: 1, deleted: 1, ..Counters::default() });
}

fn a_deleted_queue_is_gone_and_its_name_is_free(subject: &impl Subject) {
    let mut store = begun(subject);
    apply(&mut store, &[create(ONE, b"name"), put(ONE, 1, b"a"), put(ONE, 2, b"b")]);
    let mutations = [put(ONE, 3, b"c"), take(ONE, 1), Mutation::Delete { queue: ONE }, create(TWO, b"name")];
    apply(&mut store, &mutations);
    apply(&mut store, &[put(TWO, 4, b"new")]);
    for _ in 0..2 {
        assert!(ids(&mut store, ONE).is_empty());
        assert_eq!(ids(&mut store, TWO), [4]);
        let queues = store.recover().unwrap().queues;
        assert_eq!(queues.iter().map(|row| row.queue).collect::<Vec<_>>(), [TWO]);
        drop(store);
        store = subject.open();
        tidy(&mut store);
    }
    assert!(!store.tidy().unwrap());
}

fn a_queue_created_and_deleted_in_one_call_leaves_nothing(subject: &impl Subject) {
    let mut store = begun(subject);
    let mutations = [create(ONE, b"name"), put(ONE, 1, b"a"), Mutation::Delete { queue: ONE }, create(TWO, b"name")];
    apply(&mut store, &mutations);
    tidy(&mut store);
    assert!(ids(&mut store, ONE).is_empty());
    assert_eq!(counters(&mut store, TWO), Counters::default());
    assert_eq!(store.recover().unwrap().queues.len(), 1);
}

fn a_reply_may_outlive_its_queue(subject: &impl Subject) {
    let mut store = begun(subject);
    apply(&mut store, &[create(ONE, b"one"), put(ONE, 1, b"a"), take(ONE, 1), Mutation::Delete { queue: ONE }]);
    apply(&mut store, &[Mutation::Unsent { queue: ONE }, create(TWO, b"two")]);
    assert_eq!(counters(&mut store, TWO), Counters::default());
}

fn what_passed_by_is_only_counted(subject: &impl Subject) {
    let mut store = begun(subject);
    apply(&mut store, &[create(ONE, b"one"), put(ONE, 1, b"a"), Mutation::Passed { queue: ONE, count: 5 }]);
    apply(&mut store, &[Mutation::Passed { queue: ONE, count: 2 }, take(ONE, 1)]);
    assert_eq!(counters(&mut store, ONE), Counters { puts: 8, gets: 8, ..Counters::default() });
    assert!(ids(&mut store, ONE).is_empty());
}

fn a_put_may_come_after_younger_ones(subject: &impl Subject) {
    let mut store = begun(subject);
    apply(&mut store, &[create(ONE, b"one"), put(ONE, 3, b"c"), put(ONE, 2, b"b"), put(ONE, 6, b"f")]);
    apply(&mut store, &[put(ONE, 5, b"e"), take(ONE, 2), create(TWO, b"two"), put(TWO, 8, b"h"), put(ONE, 1, b"a")]);
    assert_eq!(ids(&mut store, ONE), [1, 3, 5, 6]);
    apply(&mut store, &[put(ONE, 4, b"d"), put(TWO, 7, b"g"), put(ONE, 9, b"i"), take(ONE, 4)]);
    assert_eq!(ids(&mut store, ONE), [1, 3, 5, 6, 9]);
    assert_eq!(ids(&mut store, TWO), [7, 8]);
    assert_eq!(counters(&mut store, ONE), Counters { puts: 7, gets: 2, ..Counters::default() });
}

fn a_damaged_message_is_reported_and_set_aside<S: Subject>(subject: &S) {
    let mut store = begun(subject);
    let mutations = [create(ONE, b"one"), put(ONE, 1, b"a"), put(ONE, 2, b"b"), put(ONE, 3, b"c")];
    apply(&mut store, &mutations);
    S::corrupt(&mut store, ONE, MessageId(2));
    let loaded = load(&mut store, ONE, 0, LAST, usize::MAX);
    assert_eq!(message_ids(&loaded), [1, 3]);
    assert_eq!(loaded.corrupt, [(MessageId(2), 1)]);
    assert_eq!(loaded.reached, MessageId(3));
    // Alone, it still lets the load get on.
    let loaded = load(&mut store, ONE, 1, LAST, 0);
    assert_eq!((loaded.messages, loaded.corrupt, loaded.reached), (vec![], vec![(MessageId(2), 1)], MessageId(2)));
    apply(&mut store, &[Mutation::Corrupt { queue: ONE, message: MessageId(2) }]);
    drop(store);
    store = subject.open();
    let loaded = load(&mut store, ONE, 0, LAST, usize::MAX);
    assert_eq!((message_ids(&loaded), loaded.corrupt), (vec![1, 3], vec![]));
    let counters = counters(&mut store, ONE);
    assert_eq!(counters, Counters { puts: 3, corrupt: 1, ..Counters::default() });
    assert_eq!(counters.present(), 2);
    apply(&mut store, &[Mutation::Delete { queue: ONE }]);
    tidy(&mut store);
}

fn the_end_of_the_ids_only_rises(subject: &impl Subject) {
    let mut store = begun(subject);
    apply(&mut store, &[Mutation::Ids { end: 2000 }, Mutation::Ids { end: 1000 }]);
    apply(&mut store, &[Mutation::Ids { end: 1500 }]);
    drop(store);
    store = subject.open();
    assert_eq!(store.recover().unwrap().ids_end, 2000);
}

fn ten_thousand_queues_are_recovered(subject: &impl Subject) {
    let mut store = begun(subject);
    let mut mutations = Vec::new();
    for queue in 1..=10_000 {
        create(QueueId(queue), format!("queue-{queue}").as_bytes()).encode(&mut mutations);
        put(QueueId(queue), 20_000 + queue, b"x").encode(&mut mutations);
    }
    apply_all(&mut store, &[Batch { mutations, ..batch(0, 1, &[]) }], &Taken::none());
    drop(store);
    store = subject.open();
    let recovered = store.recover().unwrap();
    assert_eq!(recovered.queues.len(), 10_000);
    for (row, queue) in recovered.queues.iter().zip(1..) {
        assert_eq!(row.queue, QueueId(queue));
        assert_eq!(row.name, format!("queue-{queue}").as_bytes());
        assert_eq!(row.counters.present(), 1);
    }
    assert_eq!(ids(&mut store, QueueId(7777)), [27_777]);
}

fn batches_of_several_shards_are_applied_together(subject: &impl Subject) {
    let mut store = begun(subject);
    let batches = [
        batch(0, 1, &[create(TWO, b"two"), put(TWO, 1, b"a")]),
        batch(1, 1, &[create(ONE, b"one"), put(ONE, 5, b"b")]),
        batch(0, 2, &[put(TWO, 2, b"c"), take(TWO, 1)]),
        batch(1, 2, &[]),
    ];
    apply_all(&mut store, &batches, &Taken::none());
    assert_eq!(ids(&mut store, ONE), [5]);
    assert_eq!(ids(&mut store, TWO), [2]);
}

/// Applies what must be refused to a store with one message, and looks whether anything of it stayed.
fn assert_refused<S: Subject>(subject: &S, store: S::Store, bad: &[Batch]) -> S::Store {
    let mut store = store;
    let before = (store.recover().unwrap(), ids(&mut store, ONE));
    let error = store.apply(bad, &Taken::none()).expect_err("the batches contradict the store");
    assert!(matches!(error, Error::Damaged(_)), "{error}");
    drop(store);
    let mut store = subject.open();
    assert_eq!((store.recover().unwrap(), ids(&mut store, ONE)), before);
    assert!(ids(&mut store, TWO).is_empty());
    store
}

fn malformed_bytes_change_nothing<S: Subject>(subject: &S) {
    let mut store = begun(subject);
    apply(&mut store, &[create(ONE, b"one"), put(ONE, 1, b"a")]);
    let good = [create(TWO, b"two"), put(TWO, 2, b"b"), Mutation::Ids { end: 50 }, take(ONE, 1)];
    for cut in [1, 2, PUT_HEADER_SIZE] {
        let mut bad = batch(0, 3, &[put(ONE, 3, b"c")]);
        bad.mutations.truncate(bad.mutations.len() - cut);
        store = assert_refused(subject, store, &[batch(0, 2, &good), bad]);
    }
}

fn contradictions_change_nothing<S: Subject>(subject: &S) {
    let mut store = begun(subject);
    apply(&mut store, &[create(ONE, b"one"), put(ONE, 1, b"a"), put(ONE, 2, b"b")]);
    apply(&mut store, &[take(ONE, 2)]);
    let purge = |count| Mutation::Purge { queue: ONE, below: MessageId(2), count };
    let contradictions: &[&[Mutation<'_>]] = &[
        &[take(ONE, 1), take(ONE, 100), take(ONE, 100)],
        &[put(ONE, 4, b"x"), take(ONE, 1), take(ONE, 4), take(ONE, 5), take(ONE, 6)],
        &[purge(2), Mutation::Corrupt { queue: ONE, message: MessageId(9) }],
        &[put(ONE, 1, b"again")],
        &[put(ONE, 3, b"x"), put(ONE, 3, b"x")],
        &[put(TWO, 3, b"x")],
        &[take(TWO, 1)],
        &[purge(3)],
        &[purge(u64::MAX)],
        &[create(ONE, b"again")],
        &[create(TWO, b"one")],
        &[Mutation::Delete { queue: TWO }],
        &[Mutation::Delete { queue: ONE }, Mutation::Delete { queue: ONE }],
        &[Mutation::Delete { queue: ONE }, put(ONE, 3, b"x")],
    ];
    for contradiction in contradictions {
        let good = [Mutation::Ids { end: 50 }, put(ONE, 100, b"good"), Mutation::Unsent { queue: ONE }];
        store = assert_refused(subject, store, &[batch(0, 3, &good), batch(0, 4, contradiction)]);
    }
}

fn a_journal_that_does_not_go_on_changes_nothing<S: Subject>(subject: &S) {
    let mut store = begun(subject);
    apply(&mut store, &[create(ONE, b"one"), put(ONE, 1, b"a")]);
    let good = || batch(0, 2, &[take(ONE, 1)]);
    for bad in [batch(0, 1, &[]), good(), batch(2, 1, &[])] {
        store = assert_refused(subject, store, &[good(), bad]);
    }
}
