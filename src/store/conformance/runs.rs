//! Messages that a store may pack together: they leave it one by one, from anywhere, and may come out of order.

use super::*;

/// Bodies that share a page, fill one, and need many.
const SIZES: [usize; 7] = [0, 100, 3000, 9000, 20_000, 70_000, 150_000];

/// Messages 1 to `count`, their bodies telling them apart, in one call.
fn fill(store: &mut impl Store, count: u64, size: usize) {
    let mut mutations = Vec::new();
    create(ONE, b"one").encode(&mut mutations);
    for message in 1..=count {
        put(ONE, message, &vec![message as u8; size]).encode(&mut mutations);
    }
    let seq = reached(store, 0);
    apply_all(store, &[Batch { mutations, ..batch(0, seq, &[]) }], &Taken::none());
}

fn take_all(store: &mut impl Store, messages: impl IntoIterator<Item = u64>) {
    let takes: Vec<Mutation<'_>> = messages.into_iter().map(|message| take(ONE, message)).collect();
    apply(store, &takes);
}

/// Restarts, and looks for exactly these messages.
fn assert_left<S: Subject>(subject: &S, store: S::Store, expected: impl IntoIterator<Item = u64>) -> S::Store {
    drop(store);
    let mut store = subject.open();
    assert_bytes(&mut store);
    let loaded = load(&mut store, ONE, 0, LAST, usize::MAX);
    assert_eq!(loaded.corrupt, []);
    assert_eq!(message_ids(&loaded), expected.into_iter().collect::<Vec<u64>>());
    store
}

pub(super) fn messages_of_all_sizes_are_loaded_in_order(subject: &impl Subject) {
    let mut store = begun(subject);
    let bodies: Vec<Vec<u8>> = (0..100u8).map(|n| vec![n; SIZES[usize::from(n) * 5 % SIZES.len()]]).collect();
    let puts = || bodies.iter().zip(1..).map(|(body, message)| put(ONE, message, body));
    let mutations: Vec<Mutation<'_>> = std::iter::once(create(ONE, b"one")).chain(puts()).collect();
    apply(&mut store, &mutations);
    drop(store);
    store = subject.open();
    for size_max in [0, 1000, 50_000, 500_000, usize::MAX] {
        let (mut after, mut found) = (0, Vec::new());
        loop {
            let loaded = load(&mut store, ONE, after, LAST, size_max);
            if loaded.messages.is_empty() {
                break;
            }
            after = loaded.reached.0;
            found.extend(loaded.messages);
        }
        assert!(found == encode(&mutations[1..]), "in pieces of {size_max}");
    }
}

pub(super) fn a_load_begins_and_ends_anywhere(subject: &impl Subject) {
    let mut store = begun(subject);
    fill(&mut store, 400, 100);
    for (after, below) in [(0, 401), (1, 400), (100, 102), (150, 350), (399, 401), (400, 1000), (70, 71)] {
        let loaded = load(&mut store, ONE, after, MessageId(below), usize::MAX);
        assert_eq!(message_ids(&loaded), (after + 1..below.min(401)).collect::<Vec<_>>());
    }
    let three = load(&mut store, ONE, 123, LAST, 3 * (PUT_HEADER_SIZE + 100));
    assert_eq!((message_ids(&three), three.reached.0), (vec![124, 125, 126], 126));
}

pub(super) fn takes_out_of_order_leave_the_others(subject: &impl Subject) {
    let mut store = begun(subject);
    fill(&mut store, 500, 100);
    take_all(&mut store, [77, 3, 500, 250, 251]);
    let gone = |n: &u64| [3, 77, 250, 251, 500].contains(n);
    store = assert_left(subject, store, (1..=500).filter(|n| !gone(n)));
    take_all(&mut store, [78, 249]);
    take_all(&mut store, [1]);
    store = assert_left(subject, store, (2..500).filter(|n| !gone(n) && ![78, 249].contains(n)));
    take_all(&mut store, (2..500).filter(|n| !gone(n) && ![78, 249, 400].contains(n)));
    store = assert_left(subject, store, [400]);
    take_all(&mut store, [400]);
    store = assert_left(subject, store, []);
    apply(&mut store, &[put(ONE, 3000, b"next")]);
    assert_left(subject, store, [3000]);
}

pub(super) fn the_head_passes_what_was_taken_before(subject: &impl Subject) {
    for size in SIZES {
        let subject = &subject.again();
        let mut store = begun(subject);
        fill(&mut store, 12, size);
        take_all(&mut store, [2, 5]);
        take_all(&mut store, [1]);
        store = assert_left(subject, store, [3, 4, 6, 7, 8, 9, 10, 11, 12]);
        take_all(&mut store, [3, 8]);
        take_all(&mut store, [4]);
        store = assert_left(subject, store, [6, 7, 9, 10, 11, 12]);
        take_all(&mut store, [7, 6]);
        store = assert_left(subject, store, [9, 10, 11, 12]);
        take_all(&mut store, [10]);
        take_all(&mut store, [9, 11, 12]);
        assert_left(subject, store, []);
    }
}

pub(super) fn most_of_a_backlog_is_taken_out_of_order(subject: &impl Subject) {
    let mut store = begun(subject);
    fill(&mut store, 600, 100);
    for remainder in [3, 0, 4, 1] {
        take_all(&mut store, (1..=600).filter(|n| n % 5 == remainder));
    }
    store = assert_left(subject, store, (1..=600).filter(|n| n % 5 == 2));
    let kept = load(&mut store, ONE, 301, LAST, 0);
    assert!(kept.messages == encode(&[put(ONE, 302, &[302u64 as u8; 100])]), "it is what it was");
    take_all(&mut store, (1..=600).filter(|n| n % 5 == 2 && *n != 302));
    assert_left(subject, store, [302]);
}

pub(super) fn a_message_set_aside_leaves_its_neighbours<S: Subject>(subject: &S) {
    let mut store = begun(subject);
    fill(&mut store, 300, 100);
    for message in [1, 150, 300] {
        S::corrupt(&mut store, ONE, MessageId(message));
    }
    let loaded = load(&mut store, ONE, 0, LAST, usize::MAX);
    assert_eq!(loaded.corrupt, [1, 150, 300].map(|message| (MessageId(message), 100)));
    assert_eq!(message_ids(&loaded), (2..150).chain(151..300).collect::<Vec<_>>());
    let corrupt = [150, 1, 300].map(|message| Mutation::Corrupt { queue: ONE, message: MessageId(message) });
    apply(&mut store, &corrupt);
    store = assert_left(subject, store, (2..150).chain(151..300));
    assert_eq!(counters(&mut store, ONE), Counters { puts: 300, corrupt: 3, ..Counters::default() });
}

pub(super) fn a_damaged_message_stays_damaged_when_its_neighbours_go<S: Subject>(subject: &S) {
    let mut store = begun(subject);
    fill(&mut store, 100, 100);
    S::corrupt(&mut store, ONE, MessageId(50));
    take_all(&mut store, (20..=90).filter(|n| *n != 50));
    take_all(&mut store, [1, 2, 3]);
    let loaded = load(&mut store, ONE, 0, LAST, usize::MAX);
    assert_eq!(loaded.corrupt, [(MessageId(50), 100)]);
    assert_eq!(message_ids(&loaded), (4..20).chain(91..=100).collect::<Vec<_>>());
    apply(&mut store, &[Mutation::Corrupt { queue: ONE, message: MessageId(50) }]);
    assert_left(subject, store, (4..20).chain(91..=100));
}

pub(super) fn a_purge_ends_among_messages_that_came_together(subject: &impl Subject) {
    for (below, is_tidied) in [(1, true), (2, false), (150, true), (150, false), (300, true), (301, true), (900, false)]
    {
        let subject = &subject.again();
        let mut store = begun(subject);
        fill(&mut store, 300, 100);
        take_all(&mut store, [200, 140]);
        let left: Vec<u64> = (below..=300).filter(|n| ![140, 200].contains(n)).collect();
        let count = 298 - left.len() as u64;
        apply(&mut store, &[Mutation::Purge { queue: ONE, below: MessageId(below), count }]);
        if is_tidied {
            tidy(&mut store);
        }
        store = assert_left(subject, store, left.iter().copied());
        assert_eq!(counters(&mut store, ONE).present(), left.len() as u64);
        apply(&mut store, &[put(ONE, 1000, b"x")]);
        take_all(&mut store, left.iter().copied().take(100));
        tidy(&mut store);
        store = assert_left(subject, store, left.iter().copied().skip(100).chain([1000]));
        take_all(&mut store, left.iter().copied().skip(100).chain([1000]));
        assert_left(subject, store, []);
    }
}

/// Messages 10, 20, 30 of one call and 40 of a later one.
fn spaced(store: &mut impl Store) {
    apply(store, &[create(ONE, b"one"), put(ONE, 10, b"a"), put(ONE, 20, b"b"), put(ONE, 30, b"c")]);
    apply(store, &[put(ONE, 40, b"d")]);
}

pub(super) fn a_message_that_comes_late_has_its_place(subject: &impl Subject) {
    let mut store = begun(subject);
    spaced(&mut store);
    apply(&mut store, &[put(ONE, 25, b"late"), put(ONE, 50, b"e"), put(ONE, 5, b"late"), put(ONE, 45, b"e")]);
    apply(&mut store, &[put(ONE, 35, b"late"), put(ONE, 15, &[b'x'; 100_000])]);
    let all = [5, 10, 15, 20, 25, 30, 35, 40, 45, 50];
    store = assert_left(subject, store, all);
    for (at, after) in all.into_iter().enumerate() {
        let next = load(&mut store, ONE, after, LAST, 0);
        assert_eq!(message_ids(&next), all[at + 1..].iter().copied().take(1).collect::<Vec<_>>());
        let before = load(&mut store, ONE, 0, MessageId(after), usize::MAX);
        assert_eq!(message_ids(&before), all[..at]);
    }
}

pub(super) fn a_late_message_is_not_hidden_by_those_taken_before(subject: &impl Subject) {
    let mut store = begun(subject);
    spaced(&mut store);
    take_all(&mut store, [10, 20, 30]);
    apply(&mut store, &[put(ONE, 15, b"late")]);
    store = assert_left(subject, store, [15, 40]);
    take_all(&mut store, [40]);
    apply(&mut store, &[put(ONE, 39, b"late"), put(ONE, 60, b"e")]);
    store = assert_left(subject, store, [15, 39, 60]);
    take_all(&mut store, [60, 15, 39]);
    assert_left(subject, store, []);
}

pub(super) fn a_late_message_is_not_hidden_by_a_purge_before(subject: &impl Subject) {
    let purge = |below, count| Mutation::Purge { queue: ONE, below: MessageId(below), count };
    for is_one_call in [true, false] {
        let subject = &subject.again();
        let mut store = begun(subject);
        spaced(&mut store);
        apply(&mut store, &[put(ONE, 12, b"late")]);
        let mutations =
            [put(ONE, 50, b"e"), purge(60, 6), put(ONE, 15, b"late"), put(ONE, 55, b"late"), put(ONE, 70, b"f")];
        match is_one_call {
            true => apply(&mut store, &mutations),
            false => mutations.iter().for_each(|mutation| apply(&mut store, &[*mutation])),
        }
        store = assert_left(subject, store, [15, 55, 70]);
        tidy(&mut store);
        store = assert_left(subject, store, [15, 55, 70]);
        assert_eq!(counters(&mut store, ONE).present(), 3);
        apply(&mut store, &[purge(56, 2), take(ONE, 70), put(ONE, 80, b"g")]);
        assert_left(subject, store, [80]);
    }
}

pub(super) fn a_late_message_leaves_like_others<S: Subject>(subject: &S) {
    let mut store = begun(subject);
    spaced(&mut store);
    apply(&mut store, &[put(ONE, 15, b"late"), put(ONE, 25, b"late"), put(ONE, 35, b"late")]);
    S::corrupt(&mut store, ONE, MessageId(25));
    let loaded = load(&mut store, ONE, 0, LAST, usize::MAX);
    assert_eq!((message_ids(&loaded), loaded.corrupt), (vec![10, 15, 20, 30, 35, 40], vec![(MessageId(25), 4)]));
    take_all(&mut store, [10, 15, 20]);
    apply(&mut store, &[Mutation::Corrupt { queue: ONE, message: MessageId(25) }]);
    store = assert_left(subject, store, [30, 35, 40]);
    assert_eq!(counters(&mut store, ONE).present(), 3);
    let batches = [batch(0, reached(&mut store, 0), &[put(ONE, 33, b"late"), take(ONE, 35), take(ONE, 33)])];
    apply_all(&mut store, &batches, &Taken::of(&batches).unwrap());
    assert_left(subject, store, [30, 40]);
}

pub(super) fn a_late_message_is_not_put_twice<S: Subject>(subject: &S) {
    let mut store = begun(subject);
    spaced(&mut store);
    apply(&mut store, &[put(ONE, 15, b"late")]);
    for message in [15, 20, 40] {
        let seq = reached(&mut store, 0);
        store = assert_refused(subject, store, &[batch(0, seq, &[put(ONE, message, b"again")])]);
    }
}

pub(super) fn a_late_message_goes_with_its_queue(subject: &impl Subject) {
    let mut store = begun(subject);
    spaced(&mut store);
    apply(&mut store, &[put(ONE, 15, b"late"), take(ONE, 20)]);
    apply(&mut store, &[put(ONE, 25, b"late"), Mutation::Delete { queue: ONE }, create(TWO, b"one")]);
    assert!(ids(&mut store, ONE).is_empty());
    tidy(&mut store);
    apply(&mut store, &[put(TWO, 50, b"x")]);
    drop(store);
    store = subject.open();
    assert_eq!(ids(&mut store, TWO), [50]);
}
