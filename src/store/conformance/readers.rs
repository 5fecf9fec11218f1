//! What a store must do with several readers of one queue, with what they give back, and with messages that expire.

use super::*;
use crate::message_set::MessageSet;

const GROUP: QueueId = QueueId(11);
const OTHER: QueueId = QueueId(12);

fn group(queue: QueueId, offered: u64) -> Mutation<'static> {
    let name: &[u8] = if queue == GROUP { b"one/group=g" } else { b"one/group=h" };
    Mutation::Group { queue, of: ONE, created_ms: 100 + queue.0, offered, name }
}

fn pass(queue: QueueId, message: u64, low: u64) -> Mutation<'static> {
    Mutation::Pass { queue, message: MessageId(message), low: MessageId(low), why: Why::Got }
}

fn free(message: u64) -> Mutation<'static> {
    Mutation::Free { queue: ONE, message: MessageId(message) }
}

fn sweep(freed: u64) -> Mutation<'static> {
    Mutation::Sweep { queue: ONE, freed }
}

fn purge(queue: QueueId, below: u64, count: u64) -> Mutation<'static> {
    Mutation::Purge { queue, below: MessageId(below), count }
}

fn delete(queue: QueueId) -> Mutation<'static> {
    Mutation::Delete { queue }
}

fn returned(queue: QueueId, message: u64, deliveries: u32) -> Mutation<'static> {
    Mutation::Return { queue, message: MessageId(message), deliveries }
}

fn expiring(message: u64, body: &[u8]) -> Mutation<'_> {
    let Mutation::Put(put) = put(ONE, message, body) else { unreachable!("it is a put") };
    Mutation::Put(Put { expires_ms: 5000 + message, ..put }.sealed())
}

fn set<const N: usize>(ids: [u64; N]) -> MessageSet {
    ids.into_iter().map(MessageId).collect()
}

fn row(store: &mut impl Store, queue: QueueId) -> QueueRow {
    let queues = store.recover().unwrap().queues;
    queues.into_iter().find(|row| row.queue == queue).expect("the queue is there")
}

fn deliveries(store: &mut impl Store, queue: QueueId) -> Vec<(u64, u32)> {
    let loaded = load(store, queue, 0, LAST, usize::MAX);
    loaded.deliveries.into_iter().map(|(message, count)| (message.0, count)).collect()
}

/// A queue with messages 1 to `count` of one byte each, and a group of it.
fn with_group<S: Subject>(subject: &S, count: u64) -> S::Store {
    let mut store = begun(subject);
    let mut mutations = vec![create(ONE, b"one")];
    mutations.extend((1..=count).map(|message| put(ONE, message, b"x")));
    mutations.push(group(GROUP, count));
    apply(&mut store, &mutations);
    store
}

fn reopened<S: Subject>(subject: &S, store: S::Store) -> S::Store {
    drop(store);
    subject.open()
}

pub(super) fn a_message_that_expires_is_loaded_as_it_was_put(subject: &impl Subject) {
    let mut store = begun(subject);
    let puts = [expiring(1, b"early"), put(ONE, 3, b"never"), expiring(4, b""), expiring(5, &[b'x'; 9000])];
    apply(&mut store, &[&[create(ONE, b"one")], &puts[..]].concat());
    apply(&mut store, &[expiring(2, b"late")]);
    let expected = encode(&[puts[0], expiring(2, b"late"), puts[1], puts[2], puts[3]]);
    for _ in 0..2 {
        assert!(load(&mut store, ONE, 0, LAST, usize::MAX).messages == expected);
        store = reopened(subject, store);
    }
    // Its size is that of what is loaded.
    let sizes = encode(&[puts[0], expiring(2, b"late")]).len();
    assert_eq!(message_ids(&load(&mut store, ONE, 0, LAST, sizes)), [1, 2]);
    assert_eq!(message_ids(&load(&mut store, ONE, 0, LAST, sizes - 1)), [1]);
    apply(&mut store, &[take(ONE, 2), take(ONE, 4), take(ONE, 5)]);
    assert_eq!((ids(&mut store, ONE), row(&mut store, ONE).bytes), (vec![1, 3], 10));
}

pub(super) fn a_message_leaves_for_a_reason_that_is_counted(subject: &impl Subject) {
    let mut store = begun(subject);
    apply(&mut store, &[create(ONE, b"one")]);
    apply(&mut store, &(1..=6).map(|message| put(ONE, message, b"x")).collect::<Vec<_>>());
    let reasons = [Why::Got, Why::Expired, Why::Discarded, Why::DeadLettered, Why::Skipped];
    let leaves = reasons.into_iter().zip(1..);
    let leaves = leaves.map(|(why, message)| Mutation::Leave { queue: ONE, message: MessageId(message), why });
    apply(&mut store, &leaves.collect::<Vec<_>>());
    let expected =
        Counters { puts: 6, gets: 1, expired: 1, discarded: 1, dead_lettered: 1, skipped: 1, ..Counters::default() };
    assert_eq!((ids(&mut store, ONE), counters(&mut store, ONE)), (vec![6], expected));
}

pub(super) fn a_group_has_what_its_queue_has(subject: &impl Subject) {
    let mut store = begun(subject);
    apply(&mut store, &[create(ONE, b"one"), put(ONE, 1, b"a"), put(ONE, 2, b"bb"), put(ONE, 3, b"c"), take(ONE, 1)]);
    apply(&mut store, &[put(ONE, 4, b"d"), group(GROUP, 3), put(ONE, 5, b"e")]);
    apply(&mut store, &[put(ONE, 6, b"f"), group(OTHER, 5), Mutation::Unsent { queue: GROUP }]);
    for _ in 0..2 {
        for queue in [ONE, GROUP, OTHER] {
            let loaded = load(&mut store, queue, 0, LAST, usize::MAX);
            let expected: Vec<_> = [(2, &b"bb"[..]), (3, b"c"), (4, b"d"), (5, b"e"), (6, b"f")]
                .map(|(id, body)| put(ONE, id, body))
                .into();
            assert_eq!(loaded.messages, encode(&expected), "queue {queue}");
        }
        let of_queue = row(&mut store, ONE);
        assert_eq!(of_queue.counters, Counters { puts: 6, gets: 1, ..Counters::default() });
        assert_eq!((of_queue.of, of_queue.low, of_queue.freed, of_queue.bytes), (QueueId(0), MessageId(0), 1, 6));
        let of_group = row(&mut store, GROUP);
        assert_eq!((&of_group.name[..], of_group.created_ms), (&b"one/group=g"[..], 111));
        assert_eq!(of_group.counters, Counters { puts: 5, gets_unsent: 1, ..Counters::default() });
        assert_eq!((of_group.of, of_group.low, of_group.freed, of_group.bytes), (ONE, MessageId(0), 0, 6));
        assert_eq!(counters(&mut store, OTHER).puts, 5);
        store = reopened(subject, store);
    }
}

pub(super) fn each_reader_passes_messages_for_itself(subject: &impl Subject) {
    let mut store = with_group(subject, 6);
    apply(&mut store, &[pass(GROUP, 1, 2), pass(GROUP, 4, 2), pass(GROUP, 5, 2), pass(ONE, 2, 1)]);
    for _ in 0..2 {
        assert_eq!(ids(&mut store, GROUP), [2, 3, 6]);
        assert_eq!(ids(&mut store, ONE), [1, 3, 4, 5, 6]);
        let of_group = row(&mut store, GROUP);
        assert_eq!((of_group.low, of_group.passed), (MessageId(2), set([4, 5])));
        assert_eq!(row(&mut store, ONE).passed, set([2]));
        store = reopened(subject, store);
    }
    // Narrow loads, bounded ones, and those that begin at what was passed.
    let mut between = |after, below, size_max| {
        let loaded = load(&mut store, GROUP, after, MessageId(below), size_max);
        (message_ids(&loaded), loaded.reached.0)
    };
    assert_eq!(between(2, 4, usize::MAX), (vec![3], 3));
    assert_eq!(between(3, 5, usize::MAX), (vec![], 3));
    assert_eq!(between(0, 2, usize::MAX), (vec![], 0));
    assert_eq!(between(3, u64::MAX, 0), (vec![6], 6));
    let late = [pass(GROUP, 2, 3), free(2), put(ONE, 9, b"x"), pass(GROUP, 3, 6)];
    apply(&mut store, &late);
    let of_group = row(&mut store, GROUP);
    assert_eq!((of_group.low, of_group.passed), (MessageId(6), set([])), "below the mark nothing is remembered");
    assert_eq!((of_group.counters.gets, of_group.counters.present()), (5, 2));
    apply(&mut store, &[Mutation::Pass { queue: GROUP, message: MessageId(6), low: MessageId(7), why: Why::Skipped }]);
    assert_eq!(counters(&mut store, GROUP).skipped, 1);
    assert_eq!(ids(&mut store, GROUP), [9]);
}

pub(super) fn a_group_that_is_not_known_yet_has_passed_nothing(subject: &impl Subject) {
    let mut store = with_group(subject, 4);
    apply(&mut store, &[pass(GROUP, 1, 2), pass(ONE, 1, 3), free(1), pass(ONE, 3, 3), returned(ONE, 4, 1)]);
    let mut unknown = |of: QueueId, after: u64| {
        let (after, below) = (MessageId(after), LAST);
        let load = Load { shard: ShardId(0), queue: OTHER, of, after, below, size_max: usize::MAX };
        message_ids(&store.load(&load).unwrap())
    };
    assert_eq!(unknown(ONE, 0), [2, 3, 4]);
    assert_eq!(unknown(ONE, 2), [3, 4]);
    assert!(unknown(TWO, 0).is_empty(), "there is no such queue either");
}

pub(super) fn a_message_goes_when_all_have_passed_it(subject: &impl Subject) {
    let mut store = with_group(subject, 4);
    apply(&mut store, &[put(ONE, 6, b"x")]);
    apply(&mut store, &[put(ONE, 5, b"late"), pass(GROUP, 1, 2), pass(GROUP, 3, 2), pass(GROUP, 5, 2)]);
    apply(&mut store, &[pass(ONE, 3, 1), free(3), pass(ONE, 5, 1), free(5), pass(ONE, 1, 2), free(1)]);
    for _ in 0..2 {
        assert_eq!(ids(&mut store, ONE), [2, 4, 6]);
        let (of_queue, of_group) = (row(&mut store, ONE), row(&mut store, GROUP));
        assert_eq!((of_queue.freed, of_queue.bytes, of_queue.passed, of_group.passed), (3, 3, set([]), set([])));
        assert_eq!(of_queue.counters.puts - of_queue.freed, 3);
        store = reopened(subject, store);
    }
}

pub(super) fn a_sweep_removes_what_all_have_passed(subject: &impl Subject) {
    let mut store = with_group(subject, 10);
    apply(&mut store, &[put(ONE, 12, b"x"), group(OTHER, 11)]);
    apply(&mut store, &[put(ONE, 11, b"late")]);
    // OTHER holds all; the two more have passed 1 to 3, 6, 11 and 12 together.
    let passes = [1, 2, 3].map(|message| [pass(ONE, message, message + 1), pass(GROUP, message, message + 1)]);
    apply(&mut store, passes.as_flattened());
    let passes = [pass(ONE, 4, 5), pass(ONE, 6, 5), pass(ONE, 7, 5), pass(ONE, 11, 5), pass(ONE, 12, 5)];
    apply(&mut store, &passes);
    apply(&mut store, &[6, 8, 9, 11, 12].map(|message| pass(GROUP, message, 4)));
    apply(&mut store, &[sweep(0)]);
    assert_eq!(row(&mut store, ONE).bytes, 15);
    apply(&mut store, &[pass(OTHER, 1, 2), delete(OTHER), sweep(6)]);
    for _ in 0..2 {
        assert_eq!(ids(&mut store, ONE), [5, 8, 9, 10]);
        assert_eq!(ids(&mut store, GROUP), [4, 5, 7, 10]);
        let (of_queue, of_group) = (row(&mut store, ONE), row(&mut store, GROUP));
        assert_eq!((of_queue.freed, of_queue.bytes), (6, 6));
        assert_eq!((of_queue.low, of_queue.passed), (MessageId(5), set([7])));
        assert_eq!((of_group.low, of_group.passed), (MessageId(4), set([8, 9])));
        store = reopened(subject, store);
        tidy(&mut store);
    }
}

pub(super) fn a_queue_without_its_last_group_is_an_ordinary_one(subject: &impl Subject) {
    let mut store = with_group(subject, 6);
    apply(&mut store, &[pass(ONE, 1, 2), pass(ONE, 4, 2), pass(GROUP, 5, 1), put(ONE, 7, b"x")]);
    // Deleting and sweeping need not be in one transaction.
    store.apply(&[batch(0, 3, &[delete(GROUP)])], &Taken::none()).unwrap();
    store = reopened(subject, store);
    apply(&mut store, &[sweep(2)]);
    for _ in 0..2 {
        let of_queue = row(&mut store, ONE);
        assert_eq!((of_queue.low, of_queue.passed, of_queue.freed), (MessageId(0), set([]), 0));
        assert_eq!(ids(&mut store, ONE), [2, 3, 5, 6, 7]);
        assert_eq!(of_queue.counters.present(), 5);
        store = reopened(subject, store);
        tidy(&mut store);
    }
    apply(&mut store, &[take(ONE, 2), put(ONE, 8, b"x"), Mutation::Passed { queue: ONE, count: 2 }]);
    apply(&mut store, &[group(OTHER, 5)]);
    assert_eq!(row(&mut store, ONE).freed, 5);
    for queue in [ONE, OTHER] {
        assert_eq!(ids(&mut store, queue), [3, 5, 6, 7, 8]);
    }
    // With its groups it is deleted after them.
    apply(&mut store, &[pass(OTHER, 5, 0), delete(OTHER), delete(ONE), create(TWO, b"one")]);
    tidy(&mut store);
    assert_eq!(store.recover().unwrap().queues.len(), 1);
}

pub(super) fn a_group_may_come_and_go_in_one_call(subject: &impl Subject) {
    let mut store = with_group(subject, 3);
    let come = [group(OTHER, 3), pass(OTHER, 2, 1), returned(OTHER, 1, 1), put(ONE, 4, b"x"), pass(OTHER, 3, 1)];
    apply(&mut store, &[&come[..], &[delete(OTHER), sweep(0), delete(GROUP), sweep(0)]].concat());
    // Another life of the same name.
    apply(&mut store, &[group(GROUP_AGAIN, 4)]);
    assert_eq!(ids(&mut store, GROUP_AGAIN), [1, 2, 3, 4]);
    assert_eq!(deliveries(&mut store, GROUP_AGAIN), []);
    tidy(&mut store);
    assert_eq!(store.recover().unwrap().queues.len(), 2);
}

const GROUP_AGAIN: QueueId = QueueId(13);

pub(super) fn a_purge_of_one_reader_leaves_the_others(subject: &impl Subject) {
    let mut store = with_group(subject, 5);
    apply(&mut store, &[pass(GROUP, 2, 1), pass(GROUP, 5, 1), returned(GROUP, 3, 2), returned(GROUP, 4, 2)]);
    apply(&mut store, &[pass(ONE, 1, 2), purge(GROUP, 4, 2), sweep(1), put(ONE, 6, b"x")]);
    for _ in 0..2 {
        assert_eq!((ids(&mut store, GROUP), ids(&mut store, ONE)), (vec![4, 6], vec![2, 3, 4, 5, 6]));
        let of_group = row(&mut store, GROUP);
        assert_eq!((of_group.low, of_group.passed), (MessageId(4), set([5])));
        assert_eq!((of_group.counters.deleted, of_group.counters.present()), (2, 2));
        assert_eq!(deliveries(&mut store, GROUP), [(4, 2)]);
        store = reopened(subject, store);
    }
    // Then the queue's plain readers, and all is gone.
    apply(&mut store, &[purge(ONE, 7, 5), sweep(3), purge(GROUP, 7, 2), sweep(2)]);
    let of_queue = row(&mut store, ONE);
    assert_eq!((of_queue.bytes, of_queue.freed, of_queue.counters.deleted), (0, 6, 5));
    tidy(&mut store);
    apply(&mut store, &[put(ONE, 7, b"x")]);
    assert_eq!((ids(&mut store, GROUP), ids(&mut store, ONE)), (vec![7], vec![7]));
}

pub(super) fn a_damaged_message_is_set_aside_by_each_reader<S: Subject>(subject: &S) {
    let mut store = with_group(subject, 3);
    S::corrupt(&mut store, ONE, MessageId(2));
    let corrupt = |queue| Mutation::Corrupt { queue, message: MessageId(2) };
    for queue in [GROUP, ONE] {
        let loaded = load(&mut store, queue, 0, LAST, usize::MAX);
        assert_eq!((message_ids(&loaded), loaded.corrupt), (vec![1, 3], vec![(MessageId(2), 1)]));
    }
    apply(&mut store, &[returned(GROUP, 2, 1), corrupt(GROUP)]);
    assert_eq!(load(&mut store, GROUP, 0, LAST, usize::MAX).corrupt, []);
    assert_eq!(load(&mut store, ONE, 0, LAST, usize::MAX).corrupt, [(MessageId(2), 1)]);
    assert_eq!([ONE, GROUP].map(|queue| counters(&mut store, queue).corrupt), [0, 1]);
    store = reopened(subject, store);
    apply(&mut store, &[corrupt(ONE), free(2)]);
    assert_eq!([ONE, GROUP].map(|queue| counters(&mut store, queue).corrupt), [1, 1]);
    assert_eq!([ONE, GROUP].map(|queue| ids(&mut store, queue)), [[1, 3], [1, 3]]);
    assert_eq!(row(&mut store, ONE).bytes, 2);
}

pub(super) fn a_message_that_came_back_has_its_deliveries(subject: &impl Subject) {
    let mut store = begun(subject);
    let puts: Vec<_> = (1..=9).map(|message| put(ONE, message, b"x")).collect();
    apply(&mut store, &[&[create(ONE, b"one"), create(TWO, b"two")], &puts[..]].concat());
    apply(&mut store, &[returned(ONE, 3, 1), returned(ONE, 5, 1), returned(ONE, 7, 4), returned(ONE, 3, 2)]);
    store = reopened(subject, store);
    assert_eq!(deliveries(&mut store, ONE), [(3, 2), (5, 1), (7, 4)]);
    let narrow = |store: &mut _, message: u64| load(store, ONE, message - 1, MessageId(message + 1), 0).deliveries;
    assert_eq!(narrow(&mut store, 7), [(MessageId(7), 4)]);
    assert_eq!(narrow(&mut store, 8), []);
    assert_eq!(load(&mut store, ONE, 0, LAST, 0).deliveries, [], "only of what is loaded");
    apply(&mut store, &[take(ONE, 3), purge(ONE, 6, 4)]);
    assert_eq!(deliveries(&mut store, ONE), [(7, 4)]);
    let leave = Mutation::Leave { queue: ONE, message: MessageId(7), why: Why::DeadLettered };
    apply(&mut store, &[leave, returned(ONE, 8, 1), group(GROUP, 3)]);
    // Each reader has its own.
    apply(&mut store, &[returned(GROUP, 8, 5), returned(GROUP, 9, 6)]);
    assert_eq!(deliveries(&mut store, ONE), [(8, 1)]);
    assert_eq!(deliveries(&mut store, GROUP), [(8, 5), (9, 6)]);
    apply(&mut store, &[pass(GROUP, 8, 0), returned(ONE, 9, 1), pass(ONE, 8, 0), free(8)]);
    assert_eq!((deliveries(&mut store, GROUP), deliveries(&mut store, ONE)), (vec![(9, 6)], vec![(9, 1)]));
    apply(&mut store, &[delete(GROUP), sweep(0)]);
    assert_eq!(deliveries(&mut store, ONE), [(9, 1)]);
    tidy(&mut store);
}

pub(super) fn what_a_job_puts_and_frees_leaves_nothing<S: Subject>(subject: &S) {
    let batches = [
        batch(0, 2, &[put(ONE, 5, b"a"), put(ONE, 6, b"b"), returned(GROUP, 5, 1), pass(GROUP, 5, 1)]),
        batch(0, 3, &[returned(ONE, 5, 2), moved_out(5), pass(ONE, 6, 1)]),
        batch(0, 4, &[Mutation::Moved { queue: ONE, number: 1 }, pass(ONE, 5, 1), free(5), pass(GROUP, 6, 1), free(6)]),
    ];
    // A crash between the transactions, or none.
    for crash in [1, 2, 3] {
        let subject = subject.again();
        let mut store = with_group(&subject, 2);
        let taken = Taken::of(&batches).unwrap();
        apply_all(&mut store, &batches[..crash], &taken);
        if crash < 3 {
            assert_eq!([ONE, GROUP].map(|queue| ids(&mut store, queue)), [[1, 2], [1, 2]]);
        }
        store = reopened(&subject, store);
        apply_all(&mut store, &batches[crash..], &Taken::of(&batches[crash..]).unwrap());
        store.settle_moves().unwrap();
        for queue in [ONE, GROUP] {
            assert_eq!((ids(&mut store, queue), deliveries(&mut store, queue)), (vec![1, 2], vec![]));
            let QueueRow { passed, counters, .. } = row(&mut store, queue);
            assert_eq!((passed, counters.gets), (set([]), 2), "crash after {crash}");
        }
        assert_eq!(row(&mut store, ONE).freed, 2);
    }
}

fn moved_out(message: u64) -> Mutation<'static> {
    let message = MessageId(message);
    Mutation::Move { queue: ONE, message, number: 1, why: Why::Expired, target: b"two" }
}

pub(super) fn contradictions_of_readers_change_nothing<S: Subject>(subject: &S) {
    let mut store = with_group(subject, 2);
    apply(&mut store, &[pass(GROUP, 1, 2), create(QueueId(3), b"plain"), put(QueueId(3), 20, b"x")]);
    let plain = QueueId(3);
    let leave = |queue| Mutation::Leave { queue, message: MessageId(2), why: Why::Expired };
    let contradictions: &[&[Mutation<'_>]] = &[
        &[take(ONE, 2)],
        &[take(GROUP, 2)],
        &[leave(ONE)],
        &[leave(GROUP)],
        &[Mutation::Passed { queue: ONE, count: 1 }],
        &[put(GROUP, 30, b"x")],
        &[pass(plain, 20, 0)],
        &[pass(GROUP, 2, 2), pass(GROUP, 3, 2), pass(GROUP, 4, 2)],
        &[pass(OTHER, 2, 2)],
        &[purge(GROUP, 9, 3)],
        &[purge(ONE, 9, 4)],
        &[free(1)],
        &[Mutation::Free { queue: GROUP, message: MessageId(1) }],
        &[Mutation::Free { queue: plain, message: MessageId(20) }],
        &[pass(ONE, 1, 2), free(1), free(1)],
        &[sweep(1)],
        &[pass(ONE, 1, 2), sweep(2)],
        &[Mutation::Sweep { queue: plain, freed: 0 }],
        &[pass(ONE, 1, 2), delete(GROUP), sweep(0)],
        &[delete(ONE)],
        &[group(OTHER, 1)],
        &[group(GROUP, 3)],
        &[Mutation::Group { queue: OTHER, of: GROUP, created_ms: 1, offered: 3, name: b"one/group=h" }],
        &[Mutation::Group { queue: OTHER, of: TWO, created_ms: 1, offered: 0, name: b"two/group=h" }],
        &[Mutation::Group { queue: OTHER, of: ONE, created_ms: 1, offered: 3, name: b"one/group=g" }],
        &[returned(TWO, 1, 1)],
        &[Mutation::Moved { queue: TWO, number: 1 }],
        &[Mutation::Move { queue: TWO, message: MessageId(1), number: 1, why: Why::Expired, target: b"t" }],
        &[Mutation::Leave { queue: plain, message: MessageId(20), why: Why::Got }, leave(plain)],
    ];
    for contradiction in contradictions {
        let good = [
            put(ONE, 100, b"good"),
            returned(GROUP, 100, 1),
            moved_out(2),
            Mutation::Accept { source: ONE, number: 1, target: b"two" },
            Mutation::Configure { name: b"one", settings: b"x" },
        ];
        store = assert_refused(subject, store, &[batch(0, 3, &good), batch(0, 4, contradiction)]);
    }
}
