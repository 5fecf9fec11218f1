//! What the engine does when things happen in an inconvenient order: each test chooses the order.

use crate::facts::counts_of;
use crate::world::{Options, World};
use ringq::engine::Notice;
use ringq::ids::{MessageId, QueueId};

fn put(queue: &str, body: &str) -> String {
    format!("set {queue} 0 0 {}\r\n{body}\r\n", body.len())
}

fn value(queue: &str, body: &str) -> String {
    format!("VALUE {queue} 0 {}\r\n{body}\r\n", body.len())
}

/// Names of two queues, of shard 0 and of shard 1.
fn one_queue_each(world: &World) -> [String; 2] {
    [0, 1].map(|shard| (0..).map(|n| format!("q{n}")).find(|name| world.owner(name) == shard).unwrap())
}

/// A queue `q` of `count` messages, too large for memory, all of it stored.
fn backlog(count: usize) -> (World, usize) {
    let mut world = World::new(Options { memory_share: 2 << 20, body_size_max: 1 << 16, ..Options::default() });
    let client = world.connect();
    for n in 0..count {
        assert_eq!(world.ask(client, &put("q", &format!("{n:<50000}"))), "STORED\r\n");
    }
    (world, client)
}

#[test]
fn no_reply_leaves_before_its_batch_is_durable() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    world.send(client, put("q", "a").as_bytes());
    world.turn(0);
    assert_eq!(world.heard(client), "");
    world.send(client, b"version\r\nget q\r\n");
    world.turn(0);
    assert_eq!(world.heard(client), "", "replies stay in order behind one that waits");
    world.apply(0, 1);
    world.turn(0);
    assert_eq!(world.heard(client), "STORED\r\nVERSION 1.0.0\r\n");
    world.apply(0, 1);
    world.turn(0);
    assert_eq!(world.heard(client), value("q", "a") + "END\r\n");
}

#[test]
fn a_reply_of_two_shards_waits_for_both_batches_in_either_order() {
    for (first, second) in [(0, 1), (1, 0)] {
        let mut world = World::new(Options { shards: 2, ..Options::default() });
        let [here, there] = one_queue_each(&world);
        let client = world.connect();
        world.ask(client, &(put(&here, "a") + &put(&there, "b")));
        world.send(client, format!("get {here} {there}\r\n").as_bytes());
        world.turn(0);
        while world.deliver() {}
        world.turn(1);
        world.apply(first, 1);
        world.turn_all();
        while world.deliver() {}
        world.turn(0);
        assert_eq!(world.heard(client), "", "shard {second} has not committed");
        world.apply(second, 1);
        world.settle();
        assert_eq!(world.heard(client), value(&here, "a") + &value(&there, "b") + "END\r\n");
    }
}

#[test]
fn requests_of_one_connection_for_one_shard_stay_in_order_across_shards() {
    let mut world = World::new(Options { shards: 2, ..Options::default() });
    let [_, there] = one_queue_each(&world);
    let client = world.connect();
    let requests = put(&there, "a") + &put(&there, "b") + &format!("get {there}\r\ndelete {there}\r\nget {there}\r\n");
    let expected = "STORED\r\nSTORED\r\n".to_string() + &value(&there, "a") + "END\r\nDELETED\r\nEND\r\n";
    assert_eq!(world.ask(client, &requests), expected);
}

#[test]
fn end_is_never_said_while_a_message_is_ready() {
    let (mut world, client) = backlog(100);
    for n in 0..100 {
        let expected = value("q", &format!("{n:<50000}")) + "END\r\n";
        assert_eq!(world.ask(client, "get q\r\n"), expected, "message {n}");
    }
    assert_eq!(world.ask(client, "get q\r\n"), "END\r\n");
}

#[test]
fn a_client_that_hangs_up_while_its_get_waits_takes_nothing() {
    let (mut world, client) = backlog(100);
    world.crash(1);
    assert!(world.clients[client].ended);
    let (first, second) = (world.connect(), world.connect());
    world.send(first, b"get q\r\n");
    world.turn(0);
    world.reset(first);
    assert_eq!(world.ask(second, "get q\r\n"), value("q", &format!("{:<50000}", 0)) + "END\r\n");
    assert_eq!(counts_of(&world.ask(second, "stats queue q\r\n")), "100/1");
}

#[test]
fn a_client_that_is_gone_takes_nothing_more_and_one_that_has_finished_sending_is_answered() {
    for has_drained in [false, true] {
        for is_gone in [false, true] {
            let (mut world, _) = backlog(40);
            world.crash(1);
            let (client, other) = (world.connect(), world.connect());
            world.send(client, format!("get{}\r\n", " q".repeat(40)).as_bytes());
            if has_drained {
                world.half_close(client);
            }
            world.turn(0);
            assert!(world.is_paused(client) == has_drained, "the ring looks whether it is still there");
            world.end_ahead(client, is_gone);
            world.settle();
            assert_eq!(world.clients[client].ended, is_gone || has_drained);
            let (taken, heard) = if is_gone { (0, String::new()) } else { (40, all(40) + "END\r\n") };
            assert_eq!(world.heard(client), heard);
            assert_eq!(counts_of(&world.ask(other, "stats queue q\r\n")), format!("40/{taken}"));
        }
    }
}

/// The messages of a backlog of so many.
fn all(count: usize) -> String {
    (0..count).map(|n| value("q", &format!("{n:<50000}"))).collect()
}

#[test]
fn a_get_that_waits_on_another_shard_is_cancelled_with_its_client() {
    let mut world = World::new(Options { shards: 2, ..Options::default() });
    let [_, there] = one_queue_each(&world);
    let client = world.connect();
    world.ask(client, &put(&there, "a"));
    world.crash(2);
    let client = (0..2).map(|_| world.connect()).min().unwrap();
    world.send(client, format!("get {there}\r\n").as_bytes());
    world.turn(0);
    while world.deliver() {}
    world.turn(1);
    world.reset(client);
    world.turn(0);
    while world.deliver() {}
    world.settle();
    let other = world.connect();
    assert_eq!(world.ask(other, &format!("get {there}\r\n")), value(&there, "a") + "END\r\n");
}

#[test]
fn a_multi_get_keeps_key_order_when_its_keys_must_be_loaded() {
    let (mut world, client) = backlog(40);
    world.ask(client, &put("small", "s"));
    world.crash(1);
    let client = world.connect();
    let n = |n: usize| value("q", &format!("{n:<50000}"));
    let expected = n(0) + &value("small", "s") + &n(1) + "END\r\n";
    assert_eq!(world.ask(client, "get q small nosuch q\r\n"), expected);
}

#[test]
fn a_load_that_fails_is_reported_in_place_of_end_and_takes_nothing() {
    let (mut world, client) = backlog(40);
    world.ask(client, &put("small", "s"));
    world.crash(1);
    let client = world.connect();
    world.ask(client, "get small\r\n");
    world.ask(client, &put("small", "t"));
    world.send(client, b"get small q\r\n");
    world.turn(0);
    world.fail_load();
    world.settle();
    let heard = world.heard(client);
    assert_eq!(heard, value("small", "t") + "SERVER_ERROR storage cannot be read\r\n");
    assert_eq!(world.ask(client, "get q\r\n"), value("q", &format!("{:<50000}", 0)) + "END\r\n", "it is still there");
}

#[test]
fn a_corrupt_message_is_set_aside_and_does_not_block_its_queue() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    world.ask(client, &(put("q", "a") + &put("q", "b")));
    // The first ids of the first shard: 1 is the queue, 2 its first message.
    world.store.corrupt(QueueId(1), MessageId(2));
    world.crash(1);
    let client = world.connect();
    assert_eq!(world.ask(client, "get q\r\n"), value("q", "b") + "END\r\n");
    assert!(world.ask(client, "stats\r\n").contains("STAT corrupt_items 1\r\n"));
}

#[test]
fn puts_wait_for_memory_and_gets_behind_them_stay_in_order() {
    let mut world = World::new(Options { memory_share: 1 << 20, body_size_max: 1 << 16, ..Options::default() });
    let client = world.connect();
    let body = "x".repeat(60_000);
    for _ in 0..20 {
        world.send(client, put("q", &body).as_bytes());
        world.turn(0);
    }
    world.send(client, b"get q\r\n");
    world.turn(0);
    assert_eq!(world.heard(client), "");
    world.settle();
    let heard = world.heard(client);
    assert_eq!(heard.matches("STORED\r\n").count(), 20);
    assert!(heard.ends_with(&(value("q", &body) + "END\r\n")));
}

#[test]
fn a_body_that_stalls_closes_its_connection_and_returns_its_room() {
    let mut world = World::new(Options { memory_share: 1 << 20, body_size_max: 400_000, ..Options::default() });
    let (stalled, waiting) = (world.connect(), world.connect());
    world.ask(stalled, "set q 0 0 400000\r\nbegin");
    world.ask(waiting, "set q 0 0 300000\r\nbegin");
    world.advance(29_999);
    world.settle();
    assert!(!world.clients[stalled].ended);
    world.advance(2);
    world.settle();
    assert!(world.clients[stalled].ended);
    assert!(!world.clients[waiting].ended, "it waited for room, not we for it");
    let rest = "x".repeat(300_000 - "begin".len()) + "\r\n";
    assert_eq!(world.ask(waiting, &rest), "STORED\r\n");
}

#[test]
fn a_body_that_makes_progress_is_waited_for() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    world.ask(client, "set q 0 0 5\r\n");
    for byte in ["a", "b", "c", "d", "e", "\r"] {
        world.advance(20_000);
        assert_eq!(world.ask(client, byte), "");
    }
    world.advance(20_000);
    assert_eq!(world.ask(client, "\n"), "STORED\r\n");
}

#[test]
fn the_queue_past_the_limit_is_not_stored() {
    let mut world = World::new(Options { queues_max: 2, ..Options::default() });
    let client = world.connect();
    let requests = put("a", "1") + &put("b", "2") + &put("c", "3") + &put("a", "4") + "delete b\r\n" + &put("c", "5");
    let expected = "STORED\r\nSTORED\r\nNOT_STORED\r\nSTORED\r\nDELETED\r\nSTORED\r\n";
    assert_eq!(world.ask(client, &requests), expected);
}

#[test]
fn without_room_puts_are_refused_and_gets_served() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    world.ask(client, &put("q", "a"));
    world.set_full(true);
    let expected = "SERVER_ERROR out of storage\r\n".to_string() + &value("q", "a") + "END\r\n";
    assert_eq!(world.ask(client, &(put("q", "b") + "get q\r\n")), expected);
    world.set_full(false);
    assert_eq!(world.ask(client, &put("q", "c")), "STORED\r\n");
}

#[test]
fn a_listing_of_many_queues_is_whole_on_any_number_of_shards() {
    for shards in [1, 3] {
        let mut world = World::new(Options { shards, queues_max: 10_000, ..Options::default() });
        let client = world.connect();
        let names: Vec<String> = (0..5000).map(|n| format!("queue-with-a-long-name-{n:04}")).collect();
        names.iter().for_each(|name| drop(world.ask(client, &put(name, "x"))));
        let listing = world.ask(client, "stats queue\r\nversion\r\n");
        let mut lines: Vec<&str> = listing.lines().collect();
        assert_eq!(lines.pop(), Some("VERSION 1.0.0"));
        assert_eq!(lines.pop(), Some("END"));
        lines.sort_unstable();
        let expected: Vec<String> = names.iter().map(|name| format!("STAT {name} 1/0")).collect();
        assert_eq!(lines, expected);
    }
}

#[test]
fn a_checkpoint_is_answered_when_the_store_has_everything() {
    let mut world = World::new(Options { shards: 2, ..Options::default() });
    let [here, there] = one_queue_each(&world);
    let client = world.connect();
    world.send(client, (put(&here, "a") + &put(&there, "b") + "db_checkpoint\r\n").as_bytes());
    for _ in 0..4 {
        world.turn_all();
        while world.deliver() {}
        world.apply(0, usize::MAX);
    }
    assert_eq!(world.heard(client), "STORED\r\n");
    world.settle();
    assert_eq!(world.heard(client), "STORED\r\nOK\r\n");
}

#[test]
fn replies_are_traced_as_they_leave_without_their_bodies() {
    let mut world = World::new(Options { shards: 2, ..Options::default() });
    let [here, there] = one_queue_each(&world);
    let client = world.connect();
    world.notices = Some(Vec::new());
    let body = "END\r\nVALUE x 0 3\r\nSTAT y";
    let requests = [
        put(&there, body),
        put(&here, body),
        format!("get {here} {there} {here}\r\nget none\r\n"),
        "stats queue\r\nstats settings\r\nversion\r\n".into(),
    ];
    world.ask(client, &requests.concat());
    let lines = world.notices.take().expect("kept").into_iter().filter_map(|notice| match notice {
        Notice::Reply { line, .. } => Some(String::from_utf8(line).expect("text")),
        _ => None,
    });
    let size = body.len();
    let (first, second) = (format!("VALUE {here} 0 {size}"), format!("VALUE {there} 0 {size}"));
    let expected = ["STORED", "STORED", &first, &second, "END", "END", "STAT (2 lines)", "END", "END", "VERSION 1.0.0"];
    // The pieces of a listing leave as there is room, so how they are counted is chance.
    let is_piece = |line: &String| line.starts_with("STAT (");
    let (pieces, others): (Vec<String>, Vec<String>) = lines.partition(is_piece);
    assert!(!pieces.is_empty());
    assert_eq!(others, expected.into_iter().filter(|line| !line.starts_with("STAT (")).collect::<Vec<_>>());
}
