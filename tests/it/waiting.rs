//! Gets that wait for a message, when clients come, go and stop waiting in an inconvenient order: each test chooses the order.

use crate::facts::counts_of;
use crate::world::{Options, World};

fn put(queue: &str, body: &str) -> String {
    format!("set {queue} 0 0 {}\r\n{body}\r\n", body.len())
}

fn value(key: &str, body: &str) -> String {
    format!("VALUE {key} 0 {}\r\n{body}\r\nEND\r\n", body.len())
}

/// A world of two shards, a client of shard 0, one of shard 1, and a queue of shard 1.
fn two_shards() -> (World, usize, usize, String) {
    let mut world = World::new(Options { shards: 2, ..Options::default() });
    let (here, there) = (world.connect(), world.connect());
    let queue = (0..).map(|n| format!("q{n}")).find(|name| world.owner(name) == 1).unwrap();
    (world, here, there, queue)
}

#[test]
fn a_lost_client_takes_nothing_and_the_next_in_line_is_served() {
    let mut world = World::new(Options::default());
    let clients: Vec<usize> = (0..5).map(|_| world.connect()).collect();
    for client in &clients[..4] {
        assert_eq!(world.ask(*client, "get q/t=60000\r\n"), "");
    }
    // The first, one from the middle, the last.
    for lost in [0, 2, 3] {
        world.reset(clients[lost]);
        world.settle();
    }
    assert!(world.ask(clients[4], "stats\r\n").contains("STAT waiters 1\r\n"));
    assert_eq!(world.ask(clients[4], &(put("q", "a") + &put("q", "b"))), "STORED\r\nSTORED\r\n");
    assert_eq!(world.heard(clients[1]), value("q/t=60000", "a"));
    assert_eq!(counts_of(&world.ask(clients[4], "stats queue q\r\n")), "2/1");
    assert_eq!(world.ask(clients[4], "get q\r\n"), value("q", "b"));
}

#[test]
fn a_lost_client_of_another_shard_takes_nothing() {
    let (mut world, lost, other, queue) = two_shards();
    assert_eq!(world.ask(lost, &format!("get {queue}/t=60000\r\n")), "");
    assert!(world.ask(other, "stats\r\n").contains("STAT waiters 1\r\n"));
    world.reset(lost);
    world.settle();
    assert!(world.ask(other, "stats\r\n").contains("STAT waiters 0\r\n"));
    assert_eq!(world.ask(other, &put(&queue, "a")), "STORED\r\n");
    assert_eq!(world.ask(other, &format!("get {queue}\r\n")), value(&queue, "a"));
}

#[test]
fn a_message_that_crosses_the_cancel_of_its_get_is_counted_as_unsent() {
    let (mut world, lost, other, queue) = two_shards();
    world.ask(lost, &format!("get {queue}/t=60000\r\n"));
    world.send(other, put(&queue, "a").as_bytes());
    world.reset(lost);
    world.settle();
    assert_eq!(world.heard(other), "STORED\r\n");
    assert_eq!(world.ask(other, &format!("get {queue}\r\n")), "END\r\n");
    world.apply(1, usize::MAX);
    let counters = world.counters(&queue);
    assert_eq!((counters.puts, counters.gets, counters.gets_unsent), (1, 1, 1));
}

#[test]
fn a_get_waits_to_the_millisecond_and_no_longer_than_the_server_allows() {
    let mut world = World::new(Options { wait_ms_max: 2000, ..Options::default() });
    let client = world.connect();
    for (key, wait) in [("q/t=1", 1), ("q/t=1999", 1999), ("q/t=2001", 2000), ("q/t=18446744073709551615", 2000)] {
        let start = world.now_ms();
        assert_eq!(world.ask(client, &format!("get {key}\r\n")), "", "{key}");
        assert_eq!(world.next_deadline(), Some(start + wait), "{key}");
        world.advance(wait - 1);
        world.settle();
        assert_eq!(world.heard(client), "", "{key}");
        world.advance(1);
        world.settle();
        assert_eq!(world.heard(client), "END\r\n", "{key}");
        assert_eq!(world.next_deadline(), None, "{key}");
    }
}

#[test]
fn a_get_whose_message_is_on_disk_waits_for_it_however_short_its_timeout() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    world.ask(client, &put("q", "a"));
    world.crash(1);
    let client = world.connect();
    world.send(client, b"get q/t=0\r\n");
    world.turn(0);
    world.advance(1000);
    world.turn(0);
    assert_eq!(world.heard(client), "");
    world.settle();
    assert_eq!(world.heard(client), value("q/t=0", "a"));
}

#[test]
fn a_get_that_waits_for_the_disk_goes_on_waiting_when_its_queue_is_deleted() {
    for delete in ["delete q\r\n", "flush_all\r\n"] {
        let mut world = World::new(Options { flush_all: true, ..Options::default() });
        let client = world.connect();
        world.ask(client, &put("q", "a"));
        world.crash(1);
        let clients: Vec<usize> = (0..4).map(|_| world.connect()).collect();
        world.send(clients[0], b"get q/t=500\r\n");
        world.send(clients[1], b"get q\r\n");
        world.send(clients[2], b"get q/t=900\r\n");
        world.turn(0);
        assert!(world.ask(clients[3], delete).len() < 10);
        assert_eq!(world.heard(clients[1]), "END\r\n", "it did not wait for a message");
        assert_eq!(world.ask(clients[3], &put("q", "b")), "STORED\r\n");
        assert_eq!(world.heard(clients[0]), value("q/t=500", "b"));
        world.advance(900);
        world.settle();
        assert_eq!(world.heard(clients[2]), "END\r\n");
    }
}

#[test]
fn a_stop_ends_every_wait() {
    let mut world = World::new(Options { shards: 2, shutdown: true, ..Options::default() });
    let clients: Vec<usize> = (0..6).map(|_| world.connect()).collect();
    for (n, client) in clients[1..].iter().enumerate() {
        world.ask(*client, &format!("get q{n}/t=60000\r\nget q{n}/t=60000\r\n"));
    }
    world.ask(clients[0], "shutdown\r\n");
    for client in &clients[1..] {
        assert_eq!(world.heard(*client), "END\r\nEND\r\n");
        assert!(world.clients[*client].ended);
    }
}

#[test]
fn ten_thousand_waiting_gets_take_no_room_from_requests_between_shards() {
    let (mut world, _, other, queue) = two_shards();
    let long = format!("{}{}", queue, "x".repeat(200));
    let name = (0..).map(|n| format!("{long}{n}")).find(|name| world.owner(name) == 1).unwrap();
    let mut waiting = Vec::new();
    for _ in 0..10_000 {
        let client = world.connect();
        world.send(client, format!("get {name}/t=60000\r\n").as_bytes());
        waiting.push(client);
    }
    world.settle();
    let asker = world.connect();
    assert_eq!(world.ask(asker, &put(&queue, "a")), "STORED\r\n");
    assert_eq!(world.ask(other, &format!("get {queue}\r\n")), value(&queue, "a"));
    waiting.iter().for_each(|client| world.reset(*client));
    world.settle();
    assert!(world.ask(other, "stats\r\n").contains("STAT waiters 0\r\n"));
}

#[test]
fn a_waiting_get_keeps_what_follows_unread_within_bounds() {
    let mut world = World::new(Options::default());
    let (client, other) = (world.connect(), world.connect());
    assert_eq!(world.ask(client, "get q/t=60000\r\n"), "");
    let many = "version\r\n".repeat(20_000);
    for piece in many.as_bytes().chunks(4096) {
        world.send(client, piece);
    }
    world.settle();
    assert_eq!(world.heard(client), "");
    assert!(world.is_paused(client), "the server stopped receiving");
    world.ask(other, &put("q", "a"));
    let heard = world.heard(client);
    let rest = heard.strip_prefix(&value("q/t=60000", "a")).expect("its own answer comes first");
    assert_eq!(rest.matches("VERSION ").count(), 20_000);
}

#[test]
fn a_client_that_finishes_sending_waits_no_longer_although_more_of_what_it_sent_is_to_come() {
    for shard in [0, 1] {
        let mut world = World::new(Options { shards: 2, ..Options::default() });
        let client = world.connect();
        let queue = (0..).map(|n| format!("q{n}")).find(|name| world.owner(name) == shard).unwrap();
        let get = format!("get {queue}/t=60000\r\n");
        assert_eq!(world.ask(client, &get), "");
        for piece in (get + &"version\r\n".repeat(20_000)).as_bytes().chunks(4096) {
            world.send(client, piece);
        }
        world.settle();
        assert!(world.is_paused(client), "the server stopped receiving");
        world.end_ahead(client, false);
        world.settle();
        let heard = world.heard(client);
        let rest = heard.strip_prefix("END\r\nEND\r\n").expect("neither of its gets waits");
        assert_eq!(rest.matches("VERSION ").count(), 20_000);
        assert!(!world.clients[client].ended, "its end has not come yet");
    }
}
