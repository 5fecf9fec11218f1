//! Direct hand-over, step by step: what is said before anything is durable, and what comes of a message whose client takes it
//! late, in part, or not at all.

use crate::facts::counts_of;
use crate::world::{Options, World};
use ringq::limits::{PASSED_MS_MAX, PASSING_BODY_SIZE_MAX, PASSING_MS_MAX, PASSING_SIZE_MAX};

fn put(queue: &str, body: &str) -> String {
    format!("set {queue} 0 0 {}\r\n{body}\r\n", body.len())
}

fn value(key: &str, body: &str) -> String {
    format!("VALUE {key} 0 {}\r\n{body}\r\nEND\r\n", body.len())
}

/// A server whose ids are durable and whose sends are held, with a queue `q` that is empty; a putter, and consumers that wait
/// for `q` one behind the other.
fn meeting<const N: usize>() -> (World, usize, [usize; N]) {
    let mut world = World::new(Options { flush_all: true, ..Options::default() });
    let putter = world.connect();
    assert_eq!(world.ask(putter, &(put("q", "0") + "get q\r\n")), "STORED\r\n".to_string() + &value("q", "0"));
    let consumers = [(); N].map(|()| world.connect());
    for consumer in consumers {
        assert_eq!(world.ask(consumer, "get q/t=60000\r\n"), "");
    }
    world.holds_sends = true;
    (world, putter, consumers)
}

/// Everything but the disk's writes and the sends of the server happens.
fn turns(world: &mut World) {
    for _ in 0..4 {
        world.turn_all();
        while world.deliver() {}
    }
}

/// All that is sent to a client arrives, and the server hears of it.
fn take(world: &mut World, client: usize) -> String {
    let mut heard = String::new();
    loop {
        world.come(client, usize::MAX);
        heard += &world.heard(client);
        if !world.complete_send(client) {
            return heard;
        }
        turns(world);
    }
}

fn said(world: &mut World, client: usize, request: &str) -> String {
    world.send(client, request.as_bytes());
    turns(world);
    take(world, client)
}

#[test]
fn a_waiting_client_has_the_message_before_anything_is_written() {
    let (mut world, putter, [consumer]) = meeting();
    assert_eq!(said(&mut world, putter, &put("q", "a")), "", "nobody has it yet");
    assert_eq!(take(&mut world, consumer), value("q/t=60000", "a"));
    assert_eq!(take(&mut world, putter), "STORED\r\n");
    assert_eq!(world.writes_under_way(0), 0);
    assert_eq!(counts_of(&said(&mut world, putter, "stats queue q\r\n")), "2/2");
}

#[test]
fn stored_is_said_when_the_whole_value_is_sent() {
    let (mut world, putter, [consumer]) = meeting();
    said(&mut world, putter, &put("q", "a"));
    let whole = value("q/t=60000", "a").len();
    for _ in 1..whole {
        world.come(consumer, 1);
        assert!(!world.complete_send(consumer));
        assert_eq!(take(&mut world, putter), "");
    }
    world.come(consumer, 1);
    turns(&mut world);
    assert_eq!(take(&mut world, putter), "", "the server has not heard that it was sent");
    assert!(world.complete_send(consumer));
    turns(&mut world);
    assert_eq!(take(&mut world, putter), "STORED\r\n");
}

#[test]
fn a_message_whose_client_goes_returns_before_younger_ones_and_is_journalled_first() {
    for fails in [false, true] {
        let (mut world, putter, [consumer]) = meeting();
        assert_eq!(said(&mut world, putter, &(put("q", "a") + &put("q", "b"))), "");
        // Everything but the last byte.
        world.come(consumer, value("q/t=60000", "a").len() - 1);
        // The younger one is stored, and the older one is not by that.
        while world.apply(0, usize::MAX) {
            turns(&mut world);
        }
        if fails {
            world.fail_send(consumer)
        } else {
            world.reset(consumer)
        }
        turns(&mut world);
        assert_eq!(take(&mut world, putter), "", "the record is not written");
        world.apply(0, usize::MAX);
        turns(&mut world);
        assert_eq!(take(&mut world, putter), "STORED\r\nSTORED\r\n");
        world.holds_sends = false;
        let both = value("q", "a") + &value("q", "b");
        assert_eq!(world.ask(putter, "get q\r\nget q\r\n"), both);
        let counters = world.counters("q");
        assert_eq!((counters.puts, counters.gets, counters.gets_unsent), (3, 3, 0));
    }
}

#[test]
fn a_returned_message_survives_a_crash_in_its_place() {
    let (mut world, putter, [consumer]) = meeting();
    said(&mut world, putter, &(put("q", "a") + &put("q", "b")));
    world.reset(consumer);
    turns(&mut world);
    world.write(0, 0);
    world.write(0, 0);
    turns(&mut world);
    assert_eq!(take(&mut world, putter), "STORED\r\nSTORED\r\n");
    world.crash(1);
    world.holds_sends = false;
    let client = world.connect();
    assert_eq!(world.ask(client, "get q\r\nget q\r\n"), value("q", "a") + &value("q", "b"));
}

#[test]
fn a_message_whose_client_goes_is_journalled_for_the_next_in_line() {
    let (mut world, putter, [first, second]) = meeting();
    said(&mut world, putter, &put("q", "a"));
    world.reset(first);
    turns(&mut world);
    assert_eq!(take(&mut world, second) + &take(&mut world, putter), "", "the record is not written");
    world.write(0, 0);
    turns(&mut world);
    assert_eq!(take(&mut world, second), value("q/t=60000", "a"));
    assert_eq!(take(&mut world, putter), "STORED\r\n");
    assert_eq!(counts_of(&said(&mut world, putter, "stats queue q\r\n")), "2/2");
}

#[test]
fn what_the_kernel_took_whole_does_not_return_although_the_connection_broke() {
    let (mut world, putter, [consumer]) = meeting();
    said(&mut world, putter, &put("q", "a"));
    world.come(consumer, value("q/t=60000", "a").len());
    // The connection breaks before the server hears that all was sent.
    world.reset(consumer);
    turns(&mut world);
    assert_eq!(take(&mut world, putter), "STORED\r\n");
    assert_eq!(said(&mut world, putter, "get q\r\n"), "END\r\n");
    assert_eq!(counts_of(&said(&mut world, putter, "stats queue q\r\n")), "2/2");
}

#[test]
fn one_of_two_messages_in_a_failed_send_returns_if_only_one_was_taken_whole() {
    let (mut world, putter, [consumer]) = meeting();
    // A reply under way keeps what follows together for the next send.
    world.send(consumer, b"get q/t=60000\r\nget q/t=60000\r\n");
    said(&mut world, putter, &put("q", "a"));
    said(&mut world, putter, &put("q", "b"));
    said(&mut world, putter, &put("q", "c"));
    assert_eq!(world.writes_under_way(0), 0);
    world.come(consumer, usize::MAX);
    assert!(world.complete_send(consumer));
    turns(&mut world);
    world.come(consumer, value("q/t=60000", "b").len() + 10);
    world.fail_send(consumer);
    turns(&mut world);
    assert_eq!(take(&mut world, putter), "STORED\r\nSTORED\r\n", "a and b");
    world.write(0, 0);
    turns(&mut world);
    assert_eq!(take(&mut world, putter), "STORED\r\n");
    world.holds_sends = false;
    assert_eq!(world.ask(putter, "get q\r\n"), value("q", "c"));
}

#[test]
fn a_slow_client_does_not_keep_the_putter_and_the_message_is_spent() {
    let (mut world, putter, [consumer]) = meeting();
    let start = world.now_ms();
    said(&mut world, putter, &put("q", "a"));
    assert_eq!(world.next_deadline(), Some(start + PASSING_MS_MAX));
    world.advance(PASSING_MS_MAX - 1);
    turns(&mut world);
    assert_eq!(world.writes_under_way(0), 0);
    world.advance(1);
    turns(&mut world);
    assert_eq!(world.writes_under_way(0), 1);
    assert_eq!(take(&mut world, putter), "");
    world.write(0, 0);
    turns(&mut world);
    assert_eq!(take(&mut world, putter), "STORED\r\n");
    world.holds_sends = false;
    world.come(consumer, 3);
    world.fail_send(consumer);
    assert_eq!(world.ask(putter, "get q\r\n"), "END\r\n");
    let counters = world.counters("q");
    assert_eq!((counters.puts, counters.gets, counters.gets_unsent), (2, 2, 1));
}

#[test]
fn the_first_put_after_a_start_is_journalled_since_its_id_is_not_reserved_yet() {
    let mut world = World::new(Options::default());
    let (putter, consumer) = (world.connect(), world.connect());
    world.ask(consumer, "gets q/t=60000\r\n");
    world.send(putter, put("q", "a").as_bytes());
    turns(&mut world);
    assert_eq!(world.heard(consumer) + &world.heard(putter), "");
    world.settle();
    assert!(world.heard(consumer).starts_with("VALUE q/t=60000 0 1 "));
    assert_eq!(world.heard(putter), "STORED\r\n");
}

#[test]
fn a_client_that_has_unreleased_replies_before_gets_its_message_by_the_journal() {
    let (mut world, putter, [consumer]) = meeting();
    let other = world.connect();
    // The put of its own comes first, and is not durable.
    world.send(other, (put("p", "x") + "get r/t=60000\r\n").as_bytes());
    turns(&mut world);
    assert_eq!(said(&mut world, putter, &put("r", "y")), "");
    assert_eq!(take(&mut world, other), "");
    world.apply(0, usize::MAX);
    turns(&mut world);
    world.apply(0, usize::MAX);
    turns(&mut world);
    assert_eq!(take(&mut world, other), "STORED\r\n".to_string() + &value("r/t=60000", "y"));
    assert_eq!(take(&mut world, putter), "STORED\r\n");
    // What is released and not sent is no hindrance.
    let busy = world.connect();
    world.reset(consumer);
    world.send(busy, b"version\r\nget q/t=60000\r\n");
    turns(&mut world);
    assert_eq!(said(&mut world, putter, &put("q", "z")), "");
    assert_eq!(world.writes_under_way(0), 0);
    assert_eq!(take(&mut world, busy), "VERSION 1.0.0\r\n".to_string() + &value("q/t=60000", "z"));
    assert_eq!(take(&mut world, putter), "STORED\r\n");
}

#[test]
fn a_putter_of_another_shard_is_answered_when_it_is_settled_and_a_client_of_another_goes_by_the_journal() {
    let mut world = World::new(Options { shards: 2, ..Options::default() });
    let (here, there) = (world.connect(), world.connect());
    let queue = (0..).map(|n| format!("q{n}")).find(|name| world.owner(name) == 0).unwrap();
    world.ask(here, &(put(&queue, "0") + &format!("get {queue}\r\n")));
    let key = format!("{queue}/t=60000");
    world.ask(here, &format!("get {key}\r\n"));
    world.holds_sends = true;
    assert_eq!(said(&mut world, there, &put(&queue, "a")), "");
    assert_eq!(world.writes_under_way(0), 0);
    assert_eq!(take(&mut world, here), value(&key, "a"));
    turns(&mut world);
    assert_eq!(take(&mut world, there), "STORED\r\n");
    // The other way round.
    assert_eq!(said(&mut world, there, &format!("get {key}\r\n")), "");
    assert_eq!(said(&mut world, here, &put(&queue, "b")), "");
    assert_eq!(take(&mut world, there), "");
    assert_eq!(world.writes_under_way(0), 1);
    world.write(0, 0);
    turns(&mut world);
    assert_eq!(take(&mut world, there), value(&key, "b"));
    assert_eq!(take(&mut world, here), "STORED\r\n");
}

#[test]
fn large_bodies_and_more_than_the_bound_go_by_the_journal() {
    let (mut world, putter, [consumer]) = meeting();
    said(&mut world, putter, &put("q", &"x".repeat(PASSING_BODY_SIZE_MAX + 1)));
    assert_eq!(world.writes_under_way(0), 1);
    world.apply(0, 1);
    turns(&mut world);
    assert_eq!(take(&mut world, putter), "STORED\r\n");
    assert_eq!(take(&mut world, consumer).len(), value("q/t=60000", "").len() + 4 + PASSING_BODY_SIZE_MAX + 1);
    let fit = PASSING_SIZE_MAX / (PASSING_BODY_SIZE_MAX + 100);
    let consumers: Vec<usize> = (0..fit + 1).map(|_| world.connect()).collect();
    for consumer in &consumers {
        said(&mut world, *consumer, "get q/t=60000\r\n");
    }
    for n in 0..fit + 1 {
        assert_eq!(world.writes_under_way(0), 0, "{n}");
        said(&mut world, putter, &put("q", &"x".repeat(PASSING_BODY_SIZE_MAX)));
    }
    assert_eq!(world.writes_under_way(0), 1);
    world.holds_sends = false;
    world.settle();
    assert_eq!(world.heard(putter).matches("STORED").count(), fit + 1);
    assert_eq!(counts_of(&world.ask(putter, "stats queue q\r\n")), format!("{0}/{0}", fit + 3));
}

#[test]
fn a_deleted_or_flushed_queue_takes_with_it_what_is_in_passing() {
    for (command, done, counts) in
        [("delete q\r\n", "DELETED\r\n", ""), ("flush q\r\n", "END\r\n", "2/2"), ("flush_all\r\n", "OK\r\n", "2/2")]
    {
        let (mut world, putter, [consumer]) = meeting();
        let other = world.connect();
        said(&mut world, putter, &put("q", "a"));
        assert_eq!(said(&mut world, other, command), "");
        assert_eq!(take(&mut world, putter), "", "it waits for the record of what ended the queue's life");
        world.come(consumer, 5);
        world.reset(consumer);
        turns(&mut world);
        world.apply(0, usize::MAX);
        turns(&mut world);
        assert_eq!(take(&mut world, putter), "STORED\r\n");
        assert_eq!(take(&mut world, other), done);
        assert_eq!(said(&mut world, putter, "get q\r\n"), "END\r\n");
        assert_eq!(counts_of(&said(&mut world, putter, "stats queue q\r\n")), counts);
    }
}

#[test]
fn a_flush_of_another_queue_leaves_alone_what_is_in_passing() {
    let (mut world, putter, [consumer]) = meeting();
    let other = world.connect();
    said(&mut world, putter, &put("q", "a"));
    assert_eq!(said(&mut world, other, "flush nosuch\r\nget q/peek\r\n"), "END\r\nEND\r\n");
    assert_eq!(take(&mut world, putter), "", "nothing is known of it yet");
    world.reset(consumer);
    turns(&mut world);
    world.apply(0, usize::MAX);
    turns(&mut world);
    assert_eq!(take(&mut world, putter), "STORED\r\n");
    assert_eq!(said(&mut world, other, "get q/peek\r\n"), value("q/peek", "a"));
}

#[test]
fn a_checkpoint_covers_a_put_without_reply_that_is_in_passing() {
    let (mut world, putter, [consumer]) = meeting();
    assert_eq!(said(&mut world, putter, "set q 0 0 1 noreply\r\na\r\ndb_checkpoint\r\n"), "");
    assert_eq!(world.writes_under_way(0), 1);
    world.apply(0, usize::MAX);
    turns(&mut world);
    assert_eq!(take(&mut world, putter), "OK\r\n");
    assert_eq!(take(&mut world, consumer), value("q/t=60000", "a"));
    assert_eq!(world.counters("q").puts, 2);
}

#[test]
fn a_put_without_reply_in_passing_returns_when_its_client_goes() {
    let (mut world, putter, [consumer]) = meeting();
    assert_eq!(said(&mut world, putter, "set q 0 0 1 noreply\r\na\r\n"), "");
    world.reset(consumer);
    world.holds_sends = false;
    world.settle();
    assert_eq!(world.ask(putter, "get q\r\n"), value("q", "a"));
}

#[test]
fn a_stop_journals_what_is_in_passing() {
    let mut world = World::new(Options { shutdown: true, ..Options::default() });
    let [putter, consumer, stopper] = [(); 3].map(|()| world.connect());
    world.ask(putter, &(put("q", "0") + "get q\r\n"));
    world.ask(consumer, "get q/t=60000\r\n");
    world.holds_sends = true;
    said(&mut world, putter, &put("q", "a"));
    said(&mut world, stopper, "shutdown\r\n");
    assert_eq!(world.writes_under_way(0), 1);
    world.write(0, 0);
    turns(&mut world);
    assert_eq!(take(&mut world, putter), "STORED\r\n");
    assert_eq!(take(&mut world, consumer), value("q/t=60000", "a"));
    turns(&mut world);
    assert!(world.clients[putter].ended && world.clients[consumer].ended);
}

#[test]
fn counts_of_settled_hand_overs_ride_in_the_next_record_or_come_after_a_second() {
    let (mut world, putter, [consumer]) = meeting();
    world.holds_sends = false;
    for _ in 0..100 {
        world.ask(putter, &put("q", "a"));
        world.ask(consumer, "get q/t=60000\r\n");
    }
    assert_eq!(world.counters("q").puts, 1, "nothing was recorded");
    world.ask(putter, &put("other", "x"));
    let counters = world.counters("q");
    assert_eq!((counters.puts, counters.gets), (101, 101));
    world.ask(putter, &put("q", "a"));
    let due = world.next_deadline().expect("a count is due");
    assert_eq!(due, world.now_ms() + PASSED_MS_MAX);
    world.advance(PASSED_MS_MAX);
    world.settle();
    assert_eq!(world.counters("q").puts, 102);
    // A crash takes what no record had from both sides, and the ids go on.
    world.ask(consumer, "gets q/t=60000\r\n");
    world.ask(putter, &put("q", "b"));
    let cas = |heard: String| heard.split([' ', '\r']).nth(4).unwrap().parse::<u64>().unwrap();
    let before = cas(world.heard(consumer));
    world.crash(1);
    let client = world.connect();
    assert_eq!(counts_of(&world.ask(client, "stats queue q\r\n")), "102/102");
    world.ask(client, &put("q", "c"));
    assert!(cas(world.ask(client, "gets q\r\n")) > before);
}

#[test]
fn messages_younger_than_one_in_passing_stay_in_memory_until_it_is_decided() {
    let mut world = World::new(Options { memory_share: 2 << 20, body_size_max: 1 << 16, ..Options::default() });
    let [putter, consumer] = [(); 2].map(|()| world.connect());
    world.ask(putter, &(put("q", "0") + "get q\r\n"));
    world.ask(consumer, "get q/t=60000\r\n");
    world.holds_sends = true;
    said(&mut world, putter, &put("q", "first"));
    // All of this is stored and more than memory may hold, as soon as the first is decided.
    let body = |n: usize| format!("{n:<50000}");
    for n in 0..40 {
        world.send(putter, format!("set q 0 0 50000 noreply\r\n{}\r\n", body(n)).as_bytes());
        turns(&mut world);
        world.apply(0, usize::MAX);
    }
    turns(&mut world);
    world.reset(consumer);
    turns(&mut world);
    world.holds_sends = false;
    world.settle();
    assert_eq!(world.heard(putter), "STORED\r\n");
    assert_eq!(world.ask(putter, "get q\r\n"), value("q", "first"));
    for n in 0..40 {
        assert_eq!(world.ask(putter, "get q\r\n"), value("q", &body(n)), "{n}");
    }
}
