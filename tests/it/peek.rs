//! `get q/peek` and `flush q` in virtual time: what they wait for, what they leave alone, wherever the queue and its messages are.

use crate::facts::counts_of;
use crate::world::{Options, World};

fn put(queue: &str, body: &str) -> String {
    format!("set {queue} 0 0 {}\r\n{body}\r\n", body.len())
}

fn value(key: &str, body: &str) -> String {
    format!("VALUE {key} 0 {}\r\n{body}\r\nEND\r\n", body.len())
}

/// The `n`th of some messages of which memory holds 40.
fn large(n: usize) -> String {
    format!("{n:<50000}")
}

fn options(shards: u16) -> Options {
    Options { shards, memory_share: 2 << 20, body_size_max: 1 << 16, ..Options::default() }
}

/// A queue `q` of a hundred large messages.
fn backlog(shards: u16) -> (World, usize) {
    let mut world = World::new(options(shards));
    let client = world.connect();
    (0..100).for_each(|n| assert_eq!(world.ask(client, &put("q", &large(n))), "STORED\r\n"));
    (world, client)
}

#[test]
fn a_look_shows_only_what_is_durable() {
    let mut world = World::new(Options::default());
    let (putter, looker) = (world.connect(), world.connect());
    world.send(putter, put("q", "a").as_bytes());
    world.send(looker, b"get q/peek\r\n");
    world.turn(0);
    assert_eq!(world.heard(looker), "");
    world.apply(0, 1);
    world.turn(0);
    assert_eq!(world.heard(looker), value("q/peek", "a"));
    world.send(looker, b"get q/peek\r\n");
    world.turn(0);
    assert_eq!(world.heard(looker), value("q/peek", "a"), "there is nothing to wait for any more");
}

#[test]
fn a_head_on_disk_is_loaded_to_be_looked_at_and_stays() {
    for shards in [1, 2] {
        let (mut world, _) = backlog(shards);
        for after_start in [false, true] {
            if after_start {
                world.crash(shards);
            }
            for client in (0..shards).map(|_| world.connect()).collect::<Vec<_>>() {
                for _ in 0..2 {
                    assert_eq!(world.ask(client, "get q/peek\r\n"), value("q/peek", &large(0)));
                }
            }
        }
        let client = world.connect();
        assert_eq!(counts_of(&world.ask(client, "stats queue q\r\n")), "100/0");
        for n in 0..100 {
            assert_eq!(world.ask(client, "get q/peek\r\n"), value("q/peek", &large(n)));
            assert_eq!(world.ask(client, "get q\r\n"), value("q", &large(n)));
        }
        assert_eq!(world.ask(client, "get q/peek\r\n"), "END\r\n");
    }
}

#[test]
fn looks_and_gets_that_wait_for_the_same_load_are_served_in_order() {
    let (mut world, _) = backlog(1);
    world.crash(1);
    let clients = [(); 4].map(|()| world.connect());
    let asked = ["get q/peek\r\n", "get q\r\n", "get q/peek\r\n", "get q\r\n"];
    clients.iter().zip(asked).for_each(|(client, request)| world.send(*client, request.as_bytes()));
    world.settle();
    let expected = [("q/peek", 0), ("q", 0), ("q/peek", 1), ("q", 1)];
    for (client, (key, n)) in clients.into_iter().zip(expected) {
        assert_eq!(world.heard(client), value(key, &large(n)));
    }
}

#[test]
fn a_look_that_cannot_be_answered_says_so_and_a_lost_one_changes_nothing() {
    let (mut world, _) = backlog(1);
    world.crash(1);
    let (first, second) = (world.connect(), world.connect());
    world.send(first, b"get q/peek\r\n");
    world.send(second, b"get q/peek\r\n");
    world.turn(0);
    world.reset(first);
    world.fail_load();
    world.turn(0);
    assert_eq!(world.heard(second), "SERVER_ERROR storage cannot be read\r\n");
    assert_eq!(world.ask(second, "get q\r\n"), value("q", &large(0)));
}

#[test]
fn a_look_counts_as_asked_for_and_nothing_else() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    world.ask(client, &put("q", "a"));
    world.ask(client, "get q/peek\r\nget nosuch/peek\r\n");
    let stats = world.ask(client, "stats\r\n");
    assert!(stats.contains("STAT get_cmds 2\r\nSTAT get_hits 0\r\n"), "{stats}");
    let latency = world.ask(client, "stats latency\r\n");
    assert!(!latency.contains("STAT get_"), "{latency}");
    assert!(latency.contains("STAT other.total.count 2\r\n"), "{latency}");
    assert!(!latency.contains("STAT queued"), "{latency}");
}

#[test]
fn a_datagram_is_not_shown_what_has_no_room_in_its_reply() {
    for shards in [1, 2] {
        let mut world = World::new(Options { shards, ..Options::default() });
        let client = world.connect();
        world.ask(client, &put("q", &"x".repeat(1300)));
        world.ask(client, &put("r", "y"));
        for _ in 0..shards {
            let asked = world.datagram(b"get q/peek\r\nget r/peek\r\nflush r\r\nget r/peek\r\n", 1400);
            world.settle();
            let refused = "SERVER_ERROR object too large for UDP\r\n".to_string();
            assert_eq!(world.heard(asked), refused + &value("r/peek", "y") + "END\r\nEND\r\n");
            world.ask(client, &put("r", "y"));
        }
    }
}

#[test]
fn a_flush_is_durable_when_it_is_answered() {
    for shards in [1, 2] {
        let (mut world, client) = backlog(shards);
        world.ask(client, &put("other", "kept"));
        assert_eq!(world.ask(client, "flush q\r\n"), "END\r\n");
        world.crash(shards);
        let client = world.connect();
        assert_eq!(world.ask(client, "get q/peek\r\nget q\r\n"), "END\r\nEND\r\n");
        assert_eq!(world.ask(client, "get other/peek\r\n"), value("other/peek", "kept"));
        let stats = world.ask(client, "stats queue q\r\n");
        assert!(
            stats.starts_with("STAT q 100/0\r\nSTAT ready 0\r\n") && stats.contains("STAT deleted 100\r\n"),
            "{stats}"
        );
        assert_eq!(world.ask(client, &(put("q", "new") + "get q\r\n")), "STORED\r\n".to_string() + &value("q", "new"));
    }
}

#[test]
fn a_flush_that_is_not_durable_is_not_answered() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    world.ask(client, &put("q", "a"));
    world.send(client, b"flush q\r\n");
    world.turn(0);
    assert_eq!(world.heard(client), "");
    world.crash(1);
    let client = world.connect();
    assert_eq!(world.ask(client, "get q\r\n"), value("q", "a"));
}

#[test]
fn a_flush_overtakes_a_load_and_dismisses_who_waits_for_it() {
    let (mut world, _) = backlog(1);
    world.crash(1);
    let (patient, getter, looker, other) = (world.connect(), world.connect(), world.connect(), world.connect());
    for (client, request) in [(getter, "get q\r\n"), (looker, "get q/peek\r\n"), (patient, "get q/t=60000\r\n")] {
        world.send(client, request.as_bytes());
        world.turn(0);
    }
    world.send(other, b"flush q\r\n");
    world.turn(0);
    world.settle();
    assert_eq!([getter, looker, other].map(|client| world.heard(client)), ["END\r\n"; 3]);
    assert_eq!(world.heard(patient), "", "it waits for a message of that name");
    assert_eq!(world.ask(other, &put("q", "new")), "STORED\r\n");
    assert_eq!(world.heard(patient), value("q/t=60000", "new"));
}
