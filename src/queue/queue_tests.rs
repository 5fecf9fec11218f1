//! Ranges, open reads and loads of one queue, one after another.

use super::*;

fn entry(n: u64) -> Entry {
    Entry { message: MessageId(n), place: Place { segment: 0, offset: n as u32 } }
}

/// A message has as many bytes as its number says.
fn check(queue: &Queue) {
    queue.assert_consistent(|place| place.offset as usize);
}

/// A read by nobody in particular.
fn open(queue: &mut Queue) -> u64 {
    let Head::Ready(seen) = queue.head() else { panic!("{:?}", queue.head()) };
    let conn = ConnId { index: 0, generation: 0 };
    let size = u64::from(seen.place.offset);
    let (read, shard, is_detached, deadline_ms, place) = (0, ShardId(0), false, 0, None);
    let message = queue.open(Open { read, shard, conn, is_detached, deadline_ms, place, size });
    assert_eq!(message, seen.message);
    check(queue);
    message.0
}

fn load(queue: &mut Queue, ids: &[u64], reached: u64) -> Option<Vec<(MessageId, u64)>> {
    assert!(queue.end_load());
    let entries: Vec<Entry> = ids.iter().copied().map(entry).collect();
    queue.take_loaded(&entries, &[], MessageId(reached), |_| panic!("all are wanted"))
}

fn queue(len: u64) -> Queue {
    let mut queue = Queue::new(QueueId(1), b"q");
    for n in 1..=len {
        queue.push(entry(n), n as usize);
        queue.counters.puts += 1;
    }
    check(&queue);
    queue
}

fn take(queue: &mut Queue) -> u64 {
    let Head::Ready(seen) = queue.head() else { panic!("{:?}", queue.head()) };
    assert_eq!(queue.pop(seen.place.offset as usize), seen);
    queue.counters.gets += 1;
    check(queue);
    seen.message.0
}

#[test]
fn first_in_is_first_out() {
    let mut queue = queue(3);
    assert_eq!([take(&mut queue), take(&mut queue), take(&mut queue)], [1, 2, 3]);
    assert_eq!(queue.head(), Head::Empty);
}

#[test]
fn spilled_messages_come_back_in_their_place() {
    let mut queue = queue(6);
    let mut gone = Vec::new();
    // 1 to 4 are stored; the newest stored ones, from 3 on, leave memory.
    queue.spill(MessageId(3), MessageId(5), |e| gone.push(e.message.0));
    check(&queue);
    assert_eq!(gone, [4, 3]);
    queue.push(entry(7), 7);
    queue.counters.puts += 1;
    assert_eq!([take(&mut queue), take(&mut queue)], [1, 2]);
    assert_eq!(queue.head(), Head::Stored);
    assert!(queue.wants_load());
    assert_eq!(queue.begin_load(MessageId(8)), (MessageId(2), MessageId(5)));
    assert!(load(&mut queue, &[3, 4], 4).is_some());
    assert_eq!([0; 5].map(|_| take(&mut queue)), [3, 4, 5, 6, 7]);
    queue.push(entry(8), 8);
    queue.counters.puts += 1;
    assert_eq!(take(&mut queue), 8);
}

#[test]
fn the_stored_part_of_the_tail_joins_an_existing_middle() {
    let mut queue = queue(6);
    queue.spill(MessageId(2), MessageId(4), |_| {});
    let mut gone = Vec::new();
    queue.spill(MessageId(4), MessageId(6), |e| gone.push(e.message.0));
    check(&queue);
    assert_eq!(gone, [4, 5]);
    assert_eq!(queue.begin_load(MessageId(6)), (MessageId(1), MessageId(6)));
}

#[test]
fn how_often_a_message_was_delivered_is_forgotten_with_it() {
    let mut queue = queue(3);
    // As loads say it of messages that had come back before a start.
    (1..=3).for_each(|n| queue.learn_deliveries(MessageId(n), 4));
    queue.spill(MessageId(2), MessageId(4), |_| {});
    check(&queue);
    assert_eq!([1, 2, 3].map(|n| queue.deliveries(MessageId(n))), [4, 0, 0]);
    assert_eq!(queue.begin_load(MessageId(4)), (MessageId(1), MessageId(4)));
    assert!(load(&mut queue, &[2, 3], 3).is_some());
    queue.learn_deliveries(MessageId(2), 4);
    assert_eq!([1, 2, 3].map(|n| queue.deliveries(MessageId(n))), [4, 4, 0]);
}

#[test]
fn tables_that_were_full_once_become_small() {
    const LEN: u64 = 1 << 14;
    let mut queue = queue(0);
    let fill = |queue: &mut Queue, from: u64| (from..from + LEN).for_each(|n| queue.push(entry(n), n as usize));
    let capacities = |queue: &Queue| [queue.head.capacity(), queue.tail.capacity(), queue.deliveries.capacity()];
    let are_small = |queue: &Queue| capacities(queue).iter().all(|capacity| *capacity <= 2 * KEPT_CAPACITY);
    fill(&mut queue, 1);
    (1..=LEN).for_each(|n| queue.learn_deliveries(MessageId(n), 1));
    (1..=LEN).for_each(|n| assert_eq!(queue.pop(n as usize).message.0, n));
    assert!(are_small(&queue), "{:?} after all were taken", capacities(&queue));
    fill(&mut queue, LEN + 1);
    (LEN + 1..=2 * LEN).for_each(|n| queue.learn_deliveries(MessageId(n), 1));
    queue.spill(MessageId(LEN + 2), MessageId(2 * LEN + 1), |_| {});
    assert!(are_small(&queue), "{:?} after all but one left memory", capacities(&queue));
    let mut queue = self::queue(0);
    fill(&mut queue, 1);
    (1..=LEN).for_each(|n| queue.learn_deliveries(MessageId(n), 1));
    queue.clear(MessageId(LEN), |_| {});
    assert!(are_small(&queue), "{:?} after all were dropped", capacities(&queue));
}

#[test]
fn what_is_open_or_has_come_back_is_unconfirmed() {
    let mut queue = queue(4);
    assert_eq!((queue.unconfirmed_len(), queue.has_returned_head()), (0, false));
    assert_eq!([open(&mut queue), open(&mut queue)], [1, 2]);
    queue.give_back(MessageId(1));
    assert_eq!((queue.unconfirmed_len(), queue.has_returned_head()), (2, true));
    // Opening it once more is nothing new.
    open(&mut queue);
    assert_eq!((queue.unconfirmed_len(), queue.has_returned_head()), (2, false));
    queue.give_back(MessageId(1));
    assert_eq!(take(&mut queue), 1);
    queue.confirm(MessageId(2));
    queue.counters.gets += 1;
    check(&queue);
    assert_eq!(queue.unconfirmed_len(), 0);
}

#[test]
fn spilling_nothing_changes_nothing() {
    let mut queue = queue(3);
    queue.spill(MessageId(4), MessageId(2), |_| panic!());
    check(&queue);
    assert_eq!([0; 3].map(|_| take(&mut queue)), [1, 2, 3]);
}

#[test]
fn a_load_of_more_than_the_middle_is_refused() {
    let mut queue = Queue::stored(QueueId(1), b"q", Counters { puts: 2, gets: 1, ..Counters::default() }, 2);
    assert_eq!(queue.head(), Head::Stored);
    queue.begin_load(MessageId(3));
    assert!(load(&mut queue, &[1, 2], 2).is_none());
    queue.begin_load(MessageId(3));
    assert!(load(&mut queue, &[2], 2).is_some());
    assert_eq!(take(&mut queue), 2);
}

#[test]
fn a_load_overtaken_by_a_spill_has_no_place() {
    let mut queue = queue(6);
    queue.spill(MessageId(4), MessageId(6), |_| {});
    assert_eq!(queue.begin_load(MessageId(6)).0, MessageId(3));
    queue.spill(MessageId(2), MessageId(6), |_| {});
    assert!(!queue.end_load());
    assert_eq!(queue.begin_load(MessageId(6)).0, MessageId(1));
    assert!(queue.end_load());
}

#[test]
fn a_message_that_comes_back_is_in_its_place() {
    let mut queue = Queue::new(QueueId(1), b"q");
    for n in [7, 3, 5, 4] {
        queue.put_back(entry(n), n as usize);
        queue.counters.puts += 1;
        check(&queue);
    }
    queue.push(entry(8), 8);
    queue.counters.puts += 1;
    // 3 and 4 are stored and leave memory; 6 comes back behind them, before 7.
    queue.spill(MessageId(3), MessageId(5), |_| panic!("they are in no range"));
    assert!(queue.evict(MessageId(3)).is_some() && queue.evict(MessageId(4)).is_some());
    queue.put_back(entry(6), 6);
    queue.counters.puts += 1;
    check(&queue);
    assert_eq!(queue.head(), Head::Stored);
    assert_eq!(queue.begin_load(MessageId(5)), (MessageId(2), MessageId(5)));
    assert!(load(&mut queue, &[3, 4], 4).is_some());
    assert_eq!([0; 6].map(|_| take(&mut queue)), [3, 4, 5, 6, 7, 8]);
}

#[test]
fn clearing_counts_what_was_there() {
    let mut queue = queue(5);
    queue.spill(MessageId(2), MessageId(4), |_| {});
    let mut in_memory = 0;
    assert_eq!(open(&mut queue), 1);
    assert_eq!(queue.clear(MessageId(5), |_| in_memory += 1), (5, 1));
    assert_eq!(in_memory, 3);
    queue.counters.deleted += 5;
    check(&queue);
    assert!(queue.was_cleared(MessageId(1)) && !queue.was_cleared(MessageId(6)));
}

#[test]
fn open_messages_come_back_in_their_places_whatever_happened_meanwhile() {
    let mut queue = queue(6);
    assert_eq!([open(&mut queue), open(&mut queue), open(&mut queue)], [1, 2, 3]);
    assert_eq!(take(&mut queue), 4);
    assert_eq!(queue.give_back(MessageId(3)), 1);
    assert_eq!(queue.give_back(MessageId(1)), 1);
    check(&queue);
    assert_eq!([open(&mut queue), take(&mut queue), open(&mut queue)], [1, 3, 5]);
    assert_eq!(queue.give_back(MessageId(1)), 2);
    assert_eq!((queue.deliveries(MessageId(1)), queue.deliveries(MessageId(2))), (2, 0));
    queue.confirm(MessageId(2));
    queue.counters.gets += 1;
    check(&queue);
    assert_eq!((queue.len(), queue.open_len()), (2, 1));
    assert_eq!([take(&mut queue), take(&mut queue)], [1, 6]);
    assert_eq!(queue.deliveries(MessageId(1)), 0, "who is gone was not delivered");
}

#[test]
fn returned_messages_that_left_memory_are_loaded_first() {
    let mut queue = queue(6);
    assert_eq!([open(&mut queue), open(&mut queue), open(&mut queue)], [1, 2, 3]);
    assert_eq!(queue.evict(MessageId(1)).unwrap().offset, 1);
    assert_eq!(queue.evict(MessageId(1)), None);
    queue.give_back(MessageId(1));
    queue.give_back(MessageId(3));
    assert_eq!(queue.evict(MessageId(3)).unwrap().offset, 3);
    queue.spill(MessageId(4), MessageId(7), |_| {});
    check(&queue);
    assert_eq!(queue.head(), Head::Stored);
    assert!(queue.wants_load());
    assert_eq!(queue.begin_load(MessageId(7)), (MessageId(0), MessageId(4)));
    assert!(queue.end_load());
    let mut unwanted = Vec::new();
    let loaded = [entry(1), entry(2), entry(3)];
    let lost = queue.take_loaded(&loaded, &[], MessageId(3), |e| unwanted.push(e.message.0));
    assert_eq!((lost, unwanted), (Some(vec![]), vec![2]));
    assert_eq!([take(&mut queue), take(&mut queue)], [1, 3]);
    assert_eq!(queue.begin_load(MessageId(7)), (MessageId(3), MessageId(7)));
    assert!(load(&mut queue, &[4, 5, 6], 6).is_some());
    assert_eq!([take(&mut queue), take(&mut queue), take(&mut queue)], [4, 5, 6]);
}

#[test]
fn a_returned_message_that_is_damaged_leaves_the_queue() {
    let mut queue = queue(2);
    open(&mut queue);
    queue.evict(MessageId(1));
    queue.give_back(MessageId(1));
    queue.begin_load(MessageId(3));
    assert!(queue.end_load());
    let lost = queue.take_loaded(&[], &[(MessageId(1), 1)], MessageId(1), |_| {});
    assert_eq!(lost, Some(vec![(MessageId(1), 1)]));
    queue.counters.corrupt += 1;
    check(&queue);
    assert_eq!(take(&mut queue), 2);
}

/// A reader that has passed 3, 4 and 6, and has 2 and 5 before it.
fn reader() -> Queue {
    let counters = Counters { puts: 6, gets: 4, ..Counters::default() };
    let passed = [3, 4, 6].map(MessageId).into_iter().collect();
    let mut reader = Queue::reader(QueueId(2), b"q/group=g", counters, 20, MessageId(2), passed);
    check(&reader);
    assert_eq!(reader.begin_load(MessageId(7)), (MessageId(1), MessageId(7)));
    load(&mut reader, &[2], 4).expect("it is the store's");
    check(&reader);
    reader
}

fn ids(messages: &MessageSet) -> Vec<u64> {
    messages.iter().map(|message| message.0).collect()
}

/// What is kept of it.
fn ahead(reader: &Queue) -> Vec<u64> {
    reader.ahead.as_ref().map_or(vec![], |ahead| ids(&ahead.passed))
}

fn passed(reader: &Queue) -> Vec<u64> {
    (1..=6).filter(|n| reader.has_passed(MessageId(*n))).collect()
}

#[test]
fn what_was_passed_ahead_is_forgotten_when_the_reader_comes_there() {
    let mut reader = reader();
    assert_eq!((ahead(&reader), passed(&reader)), (vec![3, 4, 6], vec![1, 3, 4, 6]));
    open(&mut reader);
    assert_eq!((ahead(&reader), passed(&reader)), (vec![6], vec![1, 3, 4, 6]));
    assert!(!reader.knows_bytes());
    reader.begin_load(MessageId(7));
    load(&mut reader, &[5], 6).expect("it is the store's");
    assert_eq!(take(&mut reader), 5);
    assert_eq!((reader.ahead.is_none(), passed(&reader)), (true, vec![1, 3, 4, 5, 6]));
    reader.confirm(MessageId(2));
    reader.counters.gets += 1;
    check(&reader);
    assert!(reader.knows_bytes() && passed(&reader).len() == 6);
}

#[test]
fn which_of_many_were_passed_is_what_each_of_them_says() {
    let mut reader = reader();
    let all: MessageSet = (1..=6).map(MessageId).collect();
    assert_eq!(ids(&reader.passed_of(&all)), passed(&reader));
    open(&mut reader);
    assert_eq!(ids(&reader.passed_of(&all)), passed(&reader), "what is open is not passed");
}

#[test]
fn a_new_reader_gets_what_another_passed_ahead_and_is_not_gone() {
    let from = reader();
    let mut to = Queue::new(QueueId(3), b"q/group=h");
    let gone = [4, 6].map(MessageId).into_iter().collect();
    to.copy_ranges(&from, &gone, 20, MessageId(7), |_| {});
    to.counters.puts = to.len();
    check(&to);
    assert_eq!((to.len(), passed(&to)), (3, vec![1, 4, 6]));
    assert_eq!(to.begin_load(MessageId(7)), (MessageId(2), MessageId(7)));
}
