//! What only LMDB can get wrong; the rest is in the conformance suite.

use std::os::unix::fs::FileExt;
use std::process::Command;

use super::super::ballast::Ballast;
use super::super::run::RUN_SIZE_MAX;
use super::*;
use crate::ids::{Position, Seq, ShardId};
use crate::mutation::{Decoder, Mutation, Put, Why};

const QUEUE: QueueId = QueueId(1);

fn open(directory: &Path) -> Result<Lmdb, Error> {
    Lmdb::open(directory, &LmdbConfig::default())
}

fn refusal(directory: &Path) -> String {
    match open(directory).err() {
        Some(Error::Unusable(message)) => message,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// The next batch of shard 0.
fn batch(store: &Lmdb, mutations: &[Mutation<'_>]) -> Batch {
    let mut bytes = Vec::new();
    mutations.iter().for_each(|mutation| mutation.encode(&mut bytes));
    let seq = store.journals[0].position.seq;
    let end = Position { seq: Seq(seq.0 + 1), segment: 0, offset: 0 };
    Batch { shard: ShardId(0), seq, mutations: bytes, end }
}

fn try_apply(store: &mut Lmdb, mutations: &[Mutation<'_>]) -> Result<(), Error> {
    if store.journals.is_empty() {
        store.begin_journals(&[Salt::default()])?;
    }
    let batches = [batch(store, mutations)];
    store.apply(&batches, &Taken::of(&batches)?)
}

fn apply(store: &mut Lmdb, mutations: &[Mutation<'_>]) {
    try_apply(store, mutations).unwrap();
}

fn put(message: u64, body: &[u8]) -> Mutation<'_> {
    let message = MessageId(message);
    Mutation::Put(Put { queue: QUEUE, message, put_ms: 3, flags: 4, expires_ms: 0, crc32c: 0, body }.sealed())
}

fn expiring(message: u64, body: &[u8]) -> Mutation<'_> {
    let message = MessageId(message);
    Mutation::Put(Put { queue: QUEUE, message, put_ms: 3, flags: 4, expires_ms: 5, crc32c: 0, body }.sealed())
}

fn create() -> Mutation<'static> {
    Mutation::Create { queue: QUEUE, created_ms: 1, name: b"q" }
}

fn load_all(store: &mut Lmdb) -> Loaded {
    let (after, below) = (MessageId(0), MessageId(u64::MAX));
    store.load(&Load { shard: ShardId(0), queue: QUEUE, of: QUEUE, after, below, size_max: usize::MAX }).unwrap()
}

fn len(store: &Lmdb, database: Database) -> u64 {
    let txn = store.env.read_txn().unwrap();
    database.len(&txn).unwrap()
}

fn take(message: u64) -> Mutation<'static> {
    Mutation::Take { queue: QUEUE, message: MessageId(message) }
}

/// Messages 1 to `count` of 100 bytes each.
fn fill(store: &mut Lmdb, count: u64) {
    let mut mutations = vec![create()];
    mutations.extend((1..=count).map(|message| put(message, &[b'x'; 100])));
    apply(store, &mutations);
}

fn take_all(store: &mut Lmdb, messages: impl IntoIterator<Item = u64>) {
    apply(store, &messages.into_iter().map(take).collect::<Vec<_>>());
}

fn ids(loaded: &Loaded) -> Vec<u64> {
    let puts = Decoder::new(&loaded.messages).map(|mutation| match mutation.unwrap() {
        Mutation::Put(put) => put.message.0,
        other => panic!("a load brought {other:?}"),
    });
    puts.collect()
}

fn try_load(store: &mut Lmdb, after: u64) -> Result<Vec<u64>, Error> {
    let (after, below) = (MessageId(after), MessageId(u64::MAX));
    let load = Load { shard: ShardId(0), queue: QUEUE, of: QUEUE, after, below, size_max: usize::MAX };
    store.load(&load).map(|loaded| ids(&loaded))
}

fn assert_damaged(store: &mut Lmdb, after: u64, what: &str) {
    match try_load(store, after) {
        Err(Error::Damaged(message)) => assert!(message.contains(what), "{message}"),
        other => panic!("expected damage, got {other:?}"),
    }
}

/// First ids of the runs.
fn runs(store: &Lmdb) -> Vec<u64> {
    let txn = store.env.read_txn().unwrap();
    let keys = store.databases.messages.iter(&txn).unwrap().map(|entry| entry.unwrap().0);
    keys.map(|key| message_of_key(QUEUE, key).unwrap().0).collect()
}

/// Messages 1 to 1500 in three runs; the second one begins with this message, the third with that.
fn three_runs(store: &mut Lmdb) -> [u64; 2] {
    fill(store, 1500);
    let [1, second, third] = runs(store)[..] else { panic!("{:?}", runs(store)) };
    [second, third]
}

/// Changes a value of `meta` as a later release, or a stray hand, would.
fn write_meta(directory: &Path, key: &[u8], value: &[u8]) {
    let store = open(directory).unwrap();
    let mut txn = store.env.write_txn().unwrap();
    store.databases.meta.rows().put(&mut txn, key, value).unwrap();
    txn.commit().unwrap();
}

#[test]
fn every_flipped_byte_of_a_record_is_noticed() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open(temp.path()).unwrap();
    apply(&mut store, &[create(), put(7, b"body"), expiring(8, b"body")]);
    for (message, size) in [(7, layout::RECORD_HEADER_SIZE + 4), (8, layout::RECORD_HEADER_SIZE + 8 + 4)] {
        for offset in 0..size {
            store.flip_byte(QUEUE, MessageId(message), offset);
            let loaded = load_all(&mut store);
            // Of a record of an unknown kind no more may seem to be there than is.
            let body_size = if (message, offset) == (7, 0) { 0 } else { 4 };
            assert_eq!(ids(&loaded), [15 - message], "byte {offset}");
            assert_eq!(loaded.corrupt, [(MessageId(message), body_size)], "byte {offset}");
            store.flip_byte(QUEUE, MessageId(message), offset);
        }
    }
    assert_eq!(load_all(&mut store).corrupt, []);
}

#[test]
fn a_damaged_record_is_kept_as_it_is_until_its_queue_goes() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open(temp.path()).unwrap();
    apply(&mut store, &[create(), put(7, b"body")]);
    store.flip_byte(QUEUE, MessageId(7), 20);
    apply(&mut store, &[Mutation::Corrupt { queue: QUEUE, message: MessageId(7) }]);
    let txn = store.env.read_txn().unwrap();
    let record = store.databases.corrupt.get(&txn, &message_key(QUEUE, MessageId(7))).unwrap().unwrap();
    assert_eq!(record[layout::RECORD_HEADER_SIZE..], *b"bodx");
    drop(txn);
    assert_eq!(len(&store, store.databases.messages), 0);
    apply(&mut store, &[Mutation::Delete { queue: QUEUE }]);
    assert!(!store.tidy().unwrap());
    assert_eq!(len(&store, store.databases.corrupt), 0);
}

#[test]
fn a_taken_message_takes_no_room() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open(temp.path()).unwrap();
    apply(&mut store, &[create(), put(1, &[b'x'; 1 << 20]), put(2, b"stays"), take(1)]);
    assert_eq!(len(&store, store.databases.messages), 1);
    assert!(store.env.real_disk_size().unwrap() < 1 << 20);
}

#[test]
fn messages_of_a_call_share_runs_and_leave_without_rows_of_their_own() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open(temp.path()).unwrap();
    let [second, third] = three_runs(&mut store);
    take_all(&mut store, 1..=100);
    assert_eq!((runs(&store), len(&store, store.databases.holes)), (vec![1, second, third], 0));
    assert_eq!(store.rows[&QUEUE].head, MessageId(101));
    take_all(&mut store, 101..second + 10);
    assert_eq!((runs(&store), len(&store, store.databases.holes)), (vec![second, third], 0));
    assert_eq!(store.rows[&QUEUE].head, MessageId(second + 10));
    take_all(&mut store, second + 10..=1500);
    assert!(runs(&store).is_empty());
    assert_eq!(store.rows[&QUEUE].newest, MessageId(1500));
}

#[test]
fn holes_go_with_their_run_and_when_the_head_passes_them() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open(temp.path()).unwrap();
    let [second, third] = three_runs(&mut store);
    take_all(&mut store, [5, 6, 7, second + 5, third + 5]);
    assert_eq!(len(&store, store.databases.holes), 3);
    take_all(&mut store, 1..=4);
    assert_eq!(len(&store, store.databases.holes), 2, "the head passed those of the first run");
    assert_eq!(store.rows[&QUEUE].head, MessageId(8));
    take_all(&mut store, (second..third).filter(|message| *message != second + 5));
    assert_eq!((runs(&store), len(&store, store.databases.holes)), (vec![1, third], 1));
    apply(&mut store, &[put(300, b"late"), Mutation::Delete { queue: QUEUE }]);
    while store.tidy().unwrap() {}
    let Databases { messages, holes, late, .. } = store.databases;
    assert_eq!([messages, holes, late].map(|database| len(&store, database)), [0; 3]);
}

#[test]
fn a_run_that_is_half_gone_is_written_anew() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open(temp.path()).unwrap();
    fill(&mut store, 400);
    take_all(&mut store, (101..=200).chain(250..=348));
    assert_eq!((runs(&store), len(&store, store.databases.holes)), (vec![1], 1));
    let size = |store: &Lmdb| {
        let txn = store.env.read_txn().unwrap();
        store.databases.messages.get(&txn, &message_key(QUEUE, MessageId(runs(store)[0]))).unwrap().unwrap().len()
    };
    let before = size(&store);
    take_all(&mut store, [2, 349, 1]);
    assert_eq!((runs(&store), len(&store, store.databases.holes)), (vec![3], 0));
    assert!(size(&store) <= before / 2 + 100);
    let left: Vec<u64> = (3..=100).chain(201..=249).chain(350..=400).collect();
    assert_eq!(try_load(&mut store, 0).unwrap(), left);
    // Small messages around a large one are no half of it.
    apply(&mut store, &(500..=600).map(|message| put(message, &[b'x'; 100])).collect::<Vec<_>>());
    apply(&mut store, &[put(701, b"a"), put(702, &[b'x'; 20_000]), put(703, b"b"), put(704, b"c")]);
    take_all(&mut store, [703, 701]);
    assert_eq!(len(&store, store.databases.holes), 1);
}

#[test]
fn a_damaged_index_stops_its_queue_there_and_nothing_else() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open(temp.path()).unwrap();
    let [second, third] = three_runs(&mut store);
    take_all(&mut store, [second + 1]);
    // Checksum, kind, length, and an entry.
    for offset in [0, 4, 5, 40] {
        store.flip_byte_of_value(store.databases.messages, QUEUE, MessageId(second), offset);
        assert_eq!(try_load(&mut store, 0).unwrap(), (1..second).collect::<Vec<_>>(), "what is before is loaded");
        assert_damaged(&mut store, second - 1, "queue 1");
        assert_eq!(try_load(&mut store, third).unwrap(), (third + 1..=1500).collect::<Vec<_>>());
        store.flip_byte_of_value(store.databases.messages, QUEUE, MessageId(second), offset);
    }
    let left = |store: &mut Lmdb| try_load(store, 0).unwrap();
    assert_eq!(left(&mut store), (1..=1500).filter(|message| *message != second + 1).collect::<Vec<_>>());
    store.flip_byte_of_value(store.databases.messages, QUEUE, MessageId(second), 20);
    // What was loaded before is taken all the same, and a message may be put and come late.
    take_all(&mut store, (1..second - 1).chain([second + 2, third + 2]));
    apply(&mut store, &[put(2000, b"y")]);
    apply(&mut store, &[put(1800, b"late")]);
    apply(&mut store, &[Mutation::Corrupt { queue: QUEUE, message: MessageId(second) }]);
    assert_eq!(try_load(&mut store, 0).unwrap(), [second - 1]);
    take_all(&mut store, [second - 1]);
    assert_damaged(&mut store, 0, "queue 1");
    assert_eq!(runs(&store), [second, third, 2000]);
    store.flip_byte_of_value(store.databases.messages, QUEUE, MessageId(second), 20);
    let gone = |message: &u64| [second, second + 1, second + 2, third + 2].contains(message);
    let expected: Vec<u64> = (second..=1500).filter(|message| !gone(message)).chain([1800, 2000]).collect();
    assert!(left(&mut store) == expected, "what was taken meanwhile was noted");
}

#[test]
fn damaged_holes_stop_their_queue_there() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open(temp.path()).unwrap();
    let [second, third] = three_runs(&mut store);
    take_all(&mut store, [second + 1]);
    store.flip_byte_of_value(store.databases.holes, QUEUE, MessageId(second), 4);
    assert_eq!(try_load(&mut store, 0).unwrap(), (1..second).collect::<Vec<_>>());
    assert_damaged(&mut store, second - 1, "holes");
    take_all(&mut store, (1..=second).chain([third]));
    assert_damaged(&mut store, 0, "holes");
    assert_eq!(runs(&store), [second, third]);
}

#[test]
fn a_purge_or_a_delete_ends_what_is_damaged() {
    for is_purge in [true, false] {
        let temp = tempfile::tempdir().unwrap();
        let mut store = open(temp.path()).unwrap();
        let [second, third] = three_runs(&mut store);
        take_all(&mut store, [second + 1, third + 1]);
        store.flip_byte_of_value(store.databases.messages, QUEUE, MessageId(second), 20);
        store.flip_byte_of_value(store.databases.messages, QUEUE, MessageId(third), 20);
        store.flip_byte_of_value(store.databases.holes, QUEUE, MessageId(third), 4);
        let bytes = store.rows[&QUEUE].bytes;
        take_all(&mut store, [second + 2, third + 2]);
        assert_eq!(store.rows[&QUEUE].bytes, bytes, "how large they were is not known");
        let purge = Mutation::Purge { queue: QUEUE, below: MessageId(1501), count: 1496 };
        apply(&mut store, &[if is_purge { purge } else { Mutation::Delete { queue: QUEUE } }]);
        while store.tidy().unwrap() {}
        assert_eq!((runs(&store), len(&store, store.databases.holes)), (vec![], 0));
        if is_purge {
            assert_eq!(store.rows[&QUEUE].bytes, 0);
            apply(&mut store, &[put(1600, b"next")]);
            assert_eq!(try_load(&mut store, 0).unwrap(), [1600]);
        }
    }
}

#[test]
fn tidying_works_in_slices_and_goes_on_after_a_restart() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open(temp.path()).unwrap();
    // Each message is a run by itself.
    let body = vec![b'x'; RUN_SIZE_MAX];
    let count = (TIDY_SIZE_MAX / body.len()) as u64 + 10;
    let mut mutations = vec![create()];
    mutations.extend((1..=2 * count).map(|message| put(message, &body)));
    apply(&mut store, &mutations);
    apply(&mut store, &[Mutation::Purge { queue: QUEUE, below: MessageId(count + 1), count }]);
    assert_eq!(len(&store, store.databases.messages), 2 * count, "a purge itself removes no runs");
    assert!(store.tidy().unwrap());
    let left = len(&store, store.databases.messages);
    assert!((count + 1..count + 20).contains(&left), "{left} are left");
    drop(store);
    let mut store = open(temp.path()).unwrap();
    assert!(!store.tidy().unwrap());
    assert_eq!(len(&store, store.databases.messages), count);
    drop(store);
    let mut store = open(temp.path()).unwrap();
    assert!(store.purged.is_empty(), "what is done is not looked for again");
    apply(&mut store, &[Mutation::Delete { queue: QUEUE }]);
    assert_eq!(len(&store, store.databases.messages), count);
    assert!(store.tidy().unwrap());
    drop(store);
    let mut store = open(temp.path()).unwrap();
    assert!(!store.tidy().unwrap());
    assert_eq!(len(&store, store.databases.messages), 0);
    // Only the format and a journal are left: no mark of the deleted queue.
    assert_eq!(len(&store, store.databases.meta.rows()), 2);
}

#[test]
fn a_slice_of_large_rows_is_bounded_by_their_size() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open(temp.path()).unwrap();
    let body = vec![b'x'; TIDY_SIZE_MAX / 2];
    apply(&mut store, &[create(), put(1, &body), put(2, &body), put(3, &body)]);
    apply(&mut store, &[Mutation::Delete { queue: QUEUE }]);
    assert!(store.tidy().unwrap());
    assert_eq!(len(&store, store.databases.messages), 1);
    assert!(!store.tidy().unwrap());
}

#[test]
fn files_copied_after_a_commit_open_to_what_was_committed() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open(&temp.path().join("a")).unwrap();
    apply(&mut store, &[create(), put(1, b"one"), put(2, &[b'x'; 10_000])]);
    let copy = temp.path().join("b/store");
    std::fs::create_dir_all(&copy).unwrap();
    // What a killed process leaves: nothing was closed, and nothing had to be.
    std::fs::copy(temp.path().join("a/store/data.mdb"), copy.join("data.mdb")).unwrap();
    let mut copied = open(&temp.path().join("b")).unwrap();
    assert_eq!(copied.recover().unwrap(), store.recover().unwrap());
    assert_eq!(load_all(&mut copied), load_all(&mut store));
}

#[test]
fn another_format_is_refused_by_name_and_left_alone() {
    for other in [3, 7u32] {
        let temp = tempfile::tempdir().unwrap();
        write_meta(temp.path(), layout::FORMAT_KEY, &other.to_le_bytes());
        for _ in 0..2 {
            let message = refusal(temp.path());
            assert!(message.contains(&format!("format {other},")) && message.contains("format 4:"), "{message}");
        }
    }
}

/// Rows of every kind, in every database.
fn fill_with_every_kind(store: &mut Lmdb) {
    three_runs(store);
    let other = |queue, name| Mutation::Create { queue: QueueId(queue), created_ms: 2, name };
    let settings = Mutation::Configure { name: b"q", settings: b"max_age=5" };
    apply(
        store,
        &[
            put(1600, b"y"),
            Mutation::Ids { end: 5000 },
            other(2, b"other"),
            other(3, b"gone"),
            settings,
            Mutation::Unsent { queue: QUEUE },
        ],
    );
    let corrupt = Mutation::Corrupt { queue: QUEUE, message: MessageId(9) };
    apply(store, &[put(1550, b"late"), take(7), take(1), corrupt, Mutation::Delete { queue: QueueId(3) }]);
    let group = QueueId(4);
    let offered = store.rows[&QUEUE].counters.present();
    let begin = Mutation::Group { queue: group, of: QUEUE, created_ms: 1, offered, name: b"q/group=g" };
    let pass = Mutation::Pass { queue: group, message: MessageId(12), low: MessageId(2), why: Why::Got };
    let back = Mutation::Return { queue: group, message: MessageId(13), deliveries: 3 };
    let (number, why, target) = (1, Why::Expired, &b"t"[..]);
    let away = Mutation::Move { queue: group, message: MessageId(14), number, why, target };
    apply(store, &[begin, pass, back, away, Mutation::Accept { source: QUEUE, number: 8, target: b"other" }]);
    let txn = store.env.read_txn().unwrap();
    let Databases { meta, queues, messages, holes, late, corrupt, passed, returned, moves, accepted, settings } =
        store.databases;
    for sealed in [meta, queues, passed, returned, moves, accepted, settings] {
        assert!(!sealed.rows().is_empty(&txn).unwrap());
    }
    assert!([messages, holes, late, corrupt].iter().all(|rows| !rows.is_empty(&txn).unwrap()));
}

#[test]
fn readers_leave_no_rows_behind() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open(temp.path()).unwrap();
    fill(&mut store, 20);
    let group = QueueId(2);
    let begin = Mutation::Group { queue: group, of: QUEUE, created_ms: 1, offered: 20, name: b"q/group=g" };
    let pass = |queue, message, low| {
        let (message, low) = (MessageId(message), MessageId(low));
        Mutation::Pass { queue, message, low, why: Why::Got }
    };
    let returned = |queue, message| Mutation::Return { queue, message: MessageId(message), deliveries: 1 };
    let (number, why, target) = (1, Why::Expired, &b"t"[..]);
    let away = Mutation::Move { queue: group, message: MessageId(9), number, why, target };
    apply(&mut store, &[begin, away]);
    apply(
        &mut store,
        &(2..=12).flat_map(|message| [pass(group, message, 1), returned(QUEUE, message)]).collect::<Vec<_>>(),
    );
    let lens = |store: &Lmdb| {
        let Databases { passed, returned, moves, .. } = store.databases;
        [passed, returned, moves].map(|database| len(store, database.rows()))
    };
    assert_eq!(lens(&store), [11, 11, 1]);
    apply(&mut store, &[pass(QUEUE, 5, 1), Mutation::Free { queue: QUEUE, message: MessageId(5) }]);
    assert_eq!(lens(&store), [10, 10, 1]);
    apply(&mut store, &[pass(group, 1, 6)]);
    assert_eq!(lens(&store), [7, 10, 1], "what is below the mark needs no rows");
    // What the group had goes with it, when there is time.
    apply(&mut store, &[Mutation::Delete { queue: group }, Mutation::Sweep { queue: QUEUE, freed: 0 }]);
    while store.tidy().unwrap() {}
    assert_eq!(lens(&store), [0, 10, 0]);
    apply(&mut store, &[Mutation::Purge { queue: QUEUE, below: MessageId(21), count: 19 }]);
    assert_eq!(lens(&store), [0, 0, 0]);
}

#[test]
fn a_message_that_readers_find_damaged_is_kept_once() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open(temp.path()).unwrap();
    let group = QueueId(2);
    let begin = Mutation::Group { queue: group, of: QUEUE, created_ms: 1, offered: 1, name: b"q/group=g" };
    apply(&mut store, &[create(), put(7, b"body"), begin]);
    store.flip_byte(QUEUE, MessageId(7), 20);
    let corrupt = |queue| Mutation::Corrupt { queue, message: MessageId(7) };
    apply(&mut store, &[corrupt(group)]);
    apply(&mut store, &[corrupt(QUEUE), Mutation::Free { queue: QUEUE, message: MessageId(7) }]);
    assert_eq!((len(&store, store.databases.corrupt), len(&store, store.databases.messages)), (1, 0));
    apply(&mut store, &[Mutation::Delete { queue: group }, Mutation::Delete { queue: QUEUE }]);
    while store.tidy().unwrap() {}
    assert_eq!(len(&store, store.databases.corrupt), 0);
}

#[test]
fn a_group_without_its_queue_is_damage() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open(temp.path()).unwrap();
    apply(&mut store, &[create()]);
    let mut txn = store.env.write_txn().unwrap();
    let group = Row { of: QUEUE, ..Row::new(b"q/group=g", QueueId(2), 1) };
    store.databases.queues.put(&mut txn, &group.name, &group.encode()).unwrap();
    txn.commit().unwrap();
    drop(store);
    match open(temp.path()).err() {
        Some(Error::Damaged(message)) => assert!(message.contains("queue 2 is a group of queue 1"), "{message}"),
        other => panic!("expected damage, got {other:?}"),
    }
}

#[test]
fn what_a_damaged_run_sent_away_counts_once_it_was_accepted() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open(temp.path()).unwrap();
    let [second, _] = three_runs(&mut store);
    let (number, why, target) = (1, Why::Expired, &b"t"[..]);
    let away = Mutation::Move { queue: QUEUE, message: MessageId(second + 1), number, why, target };
    apply(&mut store, &[away, Mutation::Accept { source: QUEUE, number, target }]);
    store.flip_byte_of_value(store.databases.messages, QUEUE, MessageId(second), 20);
    store.settle_moves().unwrap();
    assert_eq!(store.rows[&QUEUE].counters.expired, 1);
    store.flip_byte_of_value(store.databases.messages, QUEUE, MessageId(second), 20);
    assert!(!try_load(&mut store, 0).unwrap().contains(&(second + 1)), "it is not here as well");
}

#[test]
fn a_database_of_something_else_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    write_meta(temp.path(), layout::FORMAT_KEY, b"one");
    assert!(refusal(temp.path()).contains("not written by ringq"));

    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir(temp.path().join("store")).unwrap();
    std::fs::write(temp.path().join("store/data.mdb"), [b'x'; 16384]).unwrap();
    assert!(refusal(temp.path()).contains("not a database"));
}

#[test]
fn a_database_is_not_opened_twice() {
    let temp = tempfile::tempdir().unwrap();
    let _store = open(temp.path()).unwrap();
    assert!(refusal(temp.path()).contains("already open"));
}

#[test]
fn a_row_that_cannot_be_read_is_damage_and_names_its_queue() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open(temp.path()).unwrap();
    apply(&mut store, &[create()]);
    let mut txn = store.env.write_txn().unwrap();
    store.databases.queues.put(&mut txn, b"q", b"short").unwrap();
    txn.commit().unwrap();
    drop(store);
    match open(temp.path()).err() {
        Some(Error::Damaged(message)) => assert!(message.contains("queue q"), "{message}"),
        other => panic!("expected damage, got {other:?}"),
    }
}

#[test]
fn a_full_map_is_a_full_store_and_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = Lmdb::open(temp.path(), &LmdbConfig { map_size: 1 << 20 }).unwrap();
    apply(&mut store, &[create(), put(1, b"stays")]);
    match try_apply(&mut store, &[put(2, &vec![b'x'; 2 << 20])]) {
        Err(Error::Io { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::StorageFull),
        other => panic!("expected a full store, got {other:?}"),
    }
    drop(store);
    let mut store = open(temp.path()).unwrap();
    assert_eq!(store.recover().unwrap().queues[0].counters.puts, 1);
    assert_eq!(load_all(&mut store).reached, MessageId(1));
}

#[test]
fn map_sizes_halve_down_to_the_least() {
    let sizes: Vec<u64> = map_sizes(1 << 36).collect();
    assert_eq!(sizes, [1 << 36, 1 << 35, 1 << 34]);
    assert_eq!(map_sizes((1 << 35) + (1 << 16)).collect::<Vec<_>>(), [(1 << 35) + (1 << 16), 1 << 35, 1 << 34]);
    assert_eq!(map_sizes(1 << 30).collect::<Vec<_>>(), [1 << 30]);
    assert_eq!(map_sizes((1 << 30) + 1).collect::<Vec<_>>(), [(1 << 30) + (1 << 16)]);
}

#[test]
fn a_limit_on_address_space_makes_the_map_smaller() {
    const CHILD: &str = "RINGQ_TEST_LIMITED";
    if std::env::var_os(CHILD).is_some() {
        let temp = tempfile::tempdir().unwrap();
        let store = open(temp.path()).unwrap();
        assert_eq!(store.env.info().map_size, 32 << 30);
        return;
    }
    let module = module_path!().split_once("::").unwrap().1;
    let test = format!("{module}::a_limit_on_address_space_makes_the_map_smaller");
    // 48 GiB, in KiB.
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 50331648 && exec \"$0\" --exact \"$1\""])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_journal_row_that_cannot_be_read_is_damage() {
    let temp = tempfile::tempdir().unwrap();
    write_meta(temp.path(), &layout::journal_key(ShardId(3)), b"short");
    match open(temp.path()).err() {
        Some(Error::Damaged(message)) => assert!(message.contains("row journal:\\x00\\x03 of meta"), "{message}"),
        other => panic!("expected damage, got {other:?}"),
    }
}

#[test]
fn no_flipped_byte_of_the_file_changes_what_the_store_says() {
    let (temp, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut store = open(temp.path()).unwrap();
    fill_with_every_kind(&mut store);
    // A row that seems to be one of a deleted queue would be removed with those.
    while store.tidy().unwrap() {}
    let said = |mut store: Lmdb| {
        let recovered = store.recover()?;
        Ok::<_, Error>((recovered, [QUEUE, QueueId(4)].map(|reader| load(&mut store, reader))))
    };
    drop(store);
    let original = std::fs::read(temp.path().join("store/data.mdb")).unwrap();
    std::fs::create_dir(copy.path().join("store")).unwrap();
    let path = copy.path().join("store/data.mdb");
    std::fs::write(&path, &original).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let (expected, expected_loads) = said(open(copy.path()).unwrap()).unwrap();
    let (mut refused, mut harmless, mut told) = (0, 0, 0);
    for (offset, byte) in original.iter().enumerate() {
        // Of runs, which are most of it, and of what is not used, a part is enough.
        let (page, at) = (&original[offset / 4096 * 4096..][..4096], offset % 4096);
        let is_tree = page[..8] == (offset as u64 / 4096).to_le_bytes() && [1, 2, 8].contains(&page[10]);
        let is_empty = page[at / 64 * 64..][..64].iter().all(|byte| *byte == 0);
        if (!is_tree && at > 64 || is_empty) && offset % 61 > 0 {
            continue;
        }
        file.write_at(&[byte ^ 1 << (offset % 8)], offset as u64).unwrap();
        let found = open(copy.path()).and_then(said);
        file.write_at(&[*byte], offset as u64).unwrap();
        let Ok((recovered, loads)) = found else {
            refused += 1;
            continue;
        };
        assert_eq!(recovered, expected, "byte {offset}");
        let mut is_told = false;
        for (load, expected) in loads.iter().zip(&expected_loads) {
            let expected = expected.as_ref().unwrap();
            let Ok(load) = load else {
                is_told = true;
                continue;
            };
            let (found, expected_ids) = (ids(load), ids(expected));
            assert!(found.iter().all(|id| expected_ids.contains(id)), "byte {offset}: what was gone is back");
            // A run that cannot be read ends the answer, and the next load says why.
            let lost = expected_ids.len() - found.len();
            let is_short = load.reached < expected.reached;
            assert!(is_short || lost == load.corrupt.len() - expected.corrupt.len(), "byte {offset}: one is missing");
            is_told |= load != expected;
        }
        if is_told { told += 1 } else { harmless += 1 }
    }
    assert!(refused > 1000 && harmless > 1000 && told > 100, "{refused} {harmless} {told}");
}

fn load(store: &mut Lmdb, reader: QueueId) -> Result<Loaded, Error> {
    let (after, below) = (MessageId(0), MessageId(u64::MAX));
    store.load(&Load { shard: ShardId(0), queue: reader, of: QUEUE, after, below, size_max: usize::MAX })
}

/// A file system of a few MiB at a directory, for as long as this lives.
struct Small(tempfile::TempDir);

impl Small {
    /// `None` where the process may not mount.
    fn mount(size: &str) -> Option<Small> {
        let temp = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(temp.path()).output();
        mount.is_ok_and(|output| output.status.success()).then_some(Small(temp))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn after_a_full_file_system_the_same_store_goes_on() {
    let Some(small) = Small::mount("4m") else {
        eprintln!("skipped: after_a_full_file_system_the_same_store_goes_on (it has to mount a tmpfs)");
        return;
    };
    let mut ballast = Ballast::open(small.0.path(), 1 << 20).unwrap();
    while ballast.grow().unwrap() && !ballast.is_whole() {}
    let mut store = open(small.0.path()).unwrap();
    apply(&mut store, &[create()]);
    let mut message = 0;
    // Many small pages, whose write is cut short, and by turns large ones, which do not fit from the start.
    let error = loop {
        let body = vec![b'x'; if message % 2 == 0 { 300_000 } else { 1000 }];
        let puts: Vec<Mutation<'_>> = (0..100).map(|n| put(message + n + 1, &body[..body.len() / 100])).collect();
        match try_apply(&mut store, &puts) {
            Ok(()) => message += 100,
            Err(error) => break error,
        }
    };
    assert!(message > 0);
    let before = (store.recover().unwrap(), load_all(&mut store));
    let error = (0..3).fold(error, |error, _| {
        assert!(error.is_storage_full(), "{error:?}");
        assert_eq!((store.recover().unwrap(), load_all(&mut store)), before);
        try_apply(&mut store, &[put(message + 1, &[b'y'; 600_000])]).unwrap_err()
    });
    ballast.make_room(error).unwrap();
    apply(&mut store, &[put(message + 1, &[b'y'; 600_000])]);
    assert!(ballast.grow().is_ok_and(|grew| !grew), "there is no room for the ballast yet");
    drop(store);
    let mut store = open(small.0.path()).unwrap();
    assert_eq!(load_all(&mut store).reached, MessageId(message + 1));
    assert_eq!(store.recover().unwrap().queues[0].counters.present(), message + 1);
    apply(&mut store, &[Mutation::Delete { queue: QUEUE }]);
    while store.tidy().unwrap() {}
    assert_eq!(len(&store, store.databases.messages), 0);
}
