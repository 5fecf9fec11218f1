//! What a store must do with messages on their way between queues, and with settings.

use super::*;

const GROUP: QueueId = QueueId(11);

fn move_to(queue: QueueId, message: u64, number: u64, target: &[u8]) -> Mutation<'_> {
    Mutation::Move { queue, message: MessageId(message), number, why: Why::DeadLettered, target }
}

fn accept(source: QueueId, number: u64, target: &[u8]) -> Mutation<'_> {
    Mutation::Accept { source, number, target }
}

fn accepted(store: &mut impl Store) -> Vec<(u64, Vec<u8>, u64)> {
    let rows = store.recover().unwrap().accepted;
    rows.into_iter().map(|row| (row.source.0, row.target, row.number)).collect()
}

/// Settles as a start does, twice: a start may be cut short.
fn restart<S: Subject>(subject: &S, store: S::Store) -> S::Store {
    drop(store);
    let mut store = subject.open();
    for _ in 0..2 {
        store.settle_moves().unwrap();
        assert_bytes(&mut store);
        drop(store);
        store = subject.open();
    }
    store
}

fn with_messages<S: Subject>(subject: &S) -> S::Store {
    let mut store = begun(subject);
    let puts: Vec<_> = (1..=6).map(|message| put(ONE, message, b"x")).collect();
    apply(&mut store, &[&[create(ONE, b"one"), create(TWO, b"two")], &puts[..]].concat());
    store
}

pub(super) fn settings_are_kept_by_name(subject: &impl Subject) {
    let mut store = begun(subject);
    let configure = |name, settings| Mutation::Configure { name, settings };
    apply(&mut store, &[configure(b"two", b"2"), configure(b"one", b"1"), configure(b"three", b"3")]);
    apply(&mut store, &[create(ONE, b"one"), configure(b"two", b""), configure(b"one", b"11")]);
    apply(&mut store, &[Mutation::Delete { queue: ONE }, configure(b"four", b"")]);
    for _ in 0..2 {
        let expected = [(b"one".to_vec(), b"11".to_vec()), (b"three".to_vec(), b"3".to_vec())];
        assert_eq!(store.recover().unwrap().settings, expected);
        drop(store);
        store = subject.open();
        store.settle_moves().unwrap();
    }
}

pub(super) fn how_far_a_way_has_come_only_rises(subject: &impl Subject) {
    let mut store = with_messages(subject);
    apply(&mut store, &[accept(ONE, 5, b"a"), accept(ONE, 3, b"a"), accept(ONE, 1, b"b"), accept(TWO, 2, b"a")]);
    apply(&mut store, &[accept(ONE, 4, b"a"), accept(TWO, 9, b"a")]);
    let expected = [(1, b"a".to_vec(), 5), (1, b"b".to_vec(), 1), (2, b"a".to_vec(), 9)];
    assert_eq!(accepted(&mut store), expected);
    store = restart(subject, store);
    assert_eq!(accepted(&mut store), expected);
    apply(&mut store, &[Mutation::Delete { queue: TWO }, accept(QueueId(77), 1, b"a")]);
    assert_eq!(accepted(&mut store).len(), 4);
    store = restart(subject, store);
    assert_eq!(accepted(&mut store), expected[..2], "where its messages came from is gone");
}

pub(super) fn a_message_on_its_way_is_still_there(subject: &impl Subject) {
    let mut store = with_messages(subject);
    apply(&mut store, &[move_to(ONE, 1, 1, b"t"), move_to(ONE, 2, 2, b"t")]);
    assert_eq!((ids(&mut store, ONE), counters(&mut store, ONE).present()), (vec![1, 2, 3, 4, 5, 6], 6));
    let leave = Mutation::Leave { queue: ONE, message: MessageId(1), why: Why::Expired };
    apply(&mut store, &[accept(ONE, 1, b"t"), Mutation::Moved { queue: ONE, number: 1 }, leave]);
    store = restart(subject, store);
    assert_eq!(ids(&mut store, ONE), [2, 3, 4, 5, 6]);
    let expected = Counters { puts: 6, expired: 1, ..Counters::default() };
    assert_eq!(counters(&mut store, ONE), expected, "neither is counted twice, and the second stays");
    // It was forgotten: what is accepted later says nothing of it.
    apply(&mut store, &[accept(ONE, 9, b"t")]);
    store = restart(subject, store);
    assert_eq!(counters(&mut store, ONE), expected);
}

pub(super) fn a_start_settles_what_was_accepted(subject: &impl Subject) {
    let mut store = with_messages(subject);
    apply(&mut store, &[put(ONE, 9, b"x")]);
    apply(&mut store, &[put(ONE, 8, b"late"), put(TWO, 10, b"x")]);
    let way = [move_to(ONE, 1, 1, b"t"), move_to(ONE, 3, 2, b"t"), move_to(ONE, 4, 3, b"t"), move_to(ONE, 5, 4, b"u")];
    apply(&mut store, &[&way[..], &[move_to(ONE, 8, 5, b"u"), move_to(TWO, 10, 1, b"t")]].concat());
    let returned = Mutation::Return { queue: ONE, message: MessageId(3), deliveries: 2 };
    apply(&mut store, &[accept(ONE, 2, b"t"), accept(ONE, 5, b"u"), returned]);
    store = restart(subject, store);
    assert_eq!((ids(&mut store, ONE), ids(&mut store, TWO)), (vec![2, 4, 6, 9], vec![10]));
    assert_eq!(counters(&mut store, ONE), Counters { puts: 8, dead_lettered: 4, ..Counters::default() });
    assert_eq!(load(&mut store, ONE, 0, LAST, usize::MAX).deliveries, []);
    tidy(&mut store);
}

pub(super) fn a_start_settles_what_a_group_sent(subject: &impl Subject) {
    let mut store = with_messages(subject);
    let name = &b"one/group=g"[..];
    apply(&mut store, &[Mutation::Group { queue: GROUP, of: ONE, created_ms: 1, offered: 6, name }]);
    let pass = |queue, message, low| {
        let (message, low) = (MessageId(message), MessageId(low));
        Mutation::Pass { queue, message, low, why: Why::Got }
    };
    // 1: the plain readers have passed it. 2: sent by both. 3: of the group alone. 4: not accepted.
    apply(&mut store, &[pass(ONE, 1, 2), move_to(GROUP, 1, 1, b"t"), move_to(GROUP, 2, 2, b"t")]);
    apply(&mut store, &[move_to(ONE, 2, 1, b"t"), move_to(GROUP, 3, 3, b"t"), move_to(GROUP, 4, 4, b"t")]);
    apply(&mut store, &[accept(GROUP, 3, b"t"), accept(ONE, 1, b"t")]);
    store = restart(subject, store);
    assert_eq!((ids(&mut store, ONE), ids(&mut store, GROUP)), (vec![3, 4, 5, 6], vec![4, 5, 6]));
    assert_eq!(counters(&mut store, ONE), Counters { puts: 6, gets: 1, dead_lettered: 1, ..Counters::default() });
    assert_eq!(counters(&mut store, GROUP), Counters { puts: 6, dead_lettered: 3, ..Counters::default() });
    let rows = store.recover().unwrap().queues;
    let freed = rows.iter().find(|row| row.queue == ONE).unwrap().freed;
    assert_eq!(freed, 2, "what both were done with is gone");
}

pub(super) fn what_is_no_longer_there_is_on_no_way(subject: &impl Subject) {
    let mut store = with_messages(subject);
    apply(
        &mut store,
        &[put(TWO, 10, b"x"), put(TWO, 11, b"x"), create(QueueId(3), b"three"), put(QueueId(3), 12, b"x")],
    );
    let gone =
        [move_to(ONE, 2, 1, b"t"), move_to(ONE, 5, 2, b"t"), move_to(TWO, 10, 1, b"t"), move_to(TWO, 10, 2, b"t")];
    apply(&mut store, &gone);
    apply(&mut store, &[move_to(QueueId(3), 12, 1, b"t"), Mutation::Delete { queue: QueueId(3) }]);
    let purge = Mutation::Purge { queue: ONE, below: MessageId(4), count: 3 };
    apply(&mut store, &[purge, accept(ONE, 2, b"t"), accept(TWO, 2, b"t"), accept(QueueId(3), 1, b"t")]);
    store = restart(subject, store);
    assert_eq!((ids(&mut store, ONE), ids(&mut store, TWO)), (vec![4, 6], vec![11]));
    let expected = Counters { puts: 6, deleted: 3, dead_lettered: 1, ..Counters::default() };
    assert_eq!(counters(&mut store, ONE), expected);
    assert_eq!(counters(&mut store, TWO).dead_lettered, 1);
    tidy(&mut store);
}
