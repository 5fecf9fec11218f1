//! What the engine says to datagrams, in virtual time: never more than their bound, and no message is lost to it, wherever its
//! queue is and whether or not it must be loaded.

use crate::rng::Rng;
use crate::world::{Options, World};
use std::collections::VecDeque;

const TOO_LARGE: &str = "SERVER_ERROR object too large for UDP\r\n";
const NO_ROOM: &str = "SERVER_ERROR reply too large for UDP\r\n";

/// What a reply keeps free besides, and what a `VALUE` block is taken to have besides key and body, bytes.
const MARGIN: usize = 128;
const OVERHEAD: usize = 64;

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

/// A datagram is served to its end.
fn answer(world: &mut World, requests: &str, bound: usize) -> String {
    let client = world.datagram(requests.as_bytes(), bound);
    world.settle();
    assert!(world.clients[client].ended, "{requests:?} is over");
    world.heard(client)
}

/// `stats` as a connection that stays has it.
fn stat(world: &mut World, client: usize, name: &str) -> u64 {
    let stats = world.ask(client, "stats\r\n");
    let value = stats.lines().find_map(|line| line.strip_prefix("STAT ")?.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {stats}")).parse().unwrap()
}

#[test]
fn all_requests_of_a_datagram_are_answered_in_order() {
    let mut world = World::new(Options { shards: 2, ..Options::default() });
    let [here, there] = one_queue_each(&world);
    let requests = put(&here, "a") + &put(&there, "b") + "bogus\r\n" + &format!("get {there} {here}\r\nget {here}\r\n");
    let expected = "STORED\r\nSTORED\r\nERROR\r\n".to_string() + &value(&there, "b") + &value(&here, "a");
    assert_eq!(answer(&mut world, &requests, 1400), expected + "END\r\nEND\r\n");
}

#[test]
fn stored_is_said_when_it_is_durable() {
    let mut world = World::new(Options::default());
    let client = world.datagram(put("q", "a").as_bytes(), 1400);
    world.turn(0);
    world.turn(0);
    assert_eq!(world.heard(client), "");
    world.write(0, 0);
    world.turn(0);
    assert_eq!(world.heard(client), "STORED\r\n");
}

#[test]
fn a_message_that_does_not_fit_stays_wherever_it_is() {
    for is_loaded in [false, true] {
        let mut world = World::new(Options { shards: 2, ..Options::default() });
        let client = world.connect();
        let [here, there] = one_queue_each(&world);
        let body = "x".repeat(1400 - MARGIN - OVERHEAD - here.len() - "/t=9".len() + 1);
        world.ask(client, &(put(&here, &body) + &put(&there, &body)));
        if is_loaded {
            world.crash(2);
        }
        for queue in [&here, &there] {
            // To each of the shards, one of which has the queue.
            for _ in 0..2 {
                let requests = format!("get {queue}/t=9\r\ngets {queue}/t=9\r\nversion\r\n");
                let expected = format!("{TOO_LARGE}{TOO_LARGE}VERSION 1.0.0\r\n");
                assert_eq!(answer(&mut world, &requests, 1400), expected, "{queue}, loaded: {is_loaded}");
            }
        }
        // One byte less of key and it fits, whatever the key.
        let expected = value(&here, &body).replace(&format!("{here} "), &format!("{here}/t=1 ")) + "END\r\n";
        assert_eq!(answer(&mut world, &format!("get {here}/t=1\r\n"), 1401), expected);
        let client = world.connect();
        assert_eq!(world.ask(client, &format!("get {there}\r\n")), value(&there, &body) + "END\r\n");
        assert_eq!(stat(&mut world, client, "curr_items"), 0);
    }
}

#[test]
fn a_get_of_several_names_takes_what_fits() {
    for (shards, is_loaded) in [(1, false), (1, true), (3, false), (3, true)] {
        let mut world = World::new(Options { shards, ..Options::default() });
        let client = world.connect();
        let body = |name: &str| name.repeat(500);
        for name in ["a", "b", "c"] {
            world.ask(client, &put(name, &body(name)));
        }
        world.ask(client, &put("d", "small"));
        if is_loaded {
            world.crash(shards);
        }
        let expected = value("a", &body("a")) + &value("b", &body("b")) + &value("d", "small") + TOO_LARGE;
        assert_eq!(answer(&mut world, "get a nosuch b c d\r\n", 1400), expected, "{shards}, {is_loaded}");
        assert_eq!(answer(&mut world, "get a b c d\r\n", 1400), value("c", &body("c")) + "END\r\n");
    }
}

#[test]
fn replies_of_one_datagram_share_its_bound() {
    let mut world = World::new(Options { shards: 2, ..Options::default() });
    let client = world.connect();
    let requests: String = (0..4).map(|n| put("q", &n.to_string().repeat(500))).collect();
    world.ask(client, &requests);
    let two = (0..2).map(|n| value("q", &n.to_string().repeat(500)) + "END\r\n").collect::<String>();
    assert_eq!(answer(&mut world, &"get q\r\n".repeat(3), 1400), two + TOO_LARGE);
    assert_eq!(stat(&mut world, client, "curr_items"), 2);
    // The words that say that the rest was not served fit, too, and the rest is not served.
    let heard = answer(&mut world, &("version\r\n".repeat(200) + "get q\r\n"), 1400);
    assert!(heard.len() <= 1400 && heard.ends_with(NO_ROOM), "{heard}");
    let heard = answer(&mut world, &("bogus\r\n".repeat(300) + &put("q", "late")), 1400);
    assert!(heard.len() <= 1400 && heard.ends_with(NO_ROOM), "{heard}");
    assert_eq!(stat(&mut world, client, "curr_items"), 2);
}

#[test]
fn lists_that_do_not_fit_are_refused() {
    for shards in [1, 3] {
        let mut world = World::new(Options { shards, queues_max: 3000, ..Options::default() });
        let client = world.connect();
        for n in 0..600 {
            world.ask(client, &put(&format!("queue-{n:020}"), "x"));
        }
        let listing = answer(&mut world, "stats queue\r\nversion\r\n", 2000);
        assert!(listing.len() <= 2000 && listing.ends_with(&format!("{NO_ROOM}VERSION 1.0.0\r\n")), "{listing}");
        assert!(answer(&mut world, "stats queue\r\n", 1 << 20).ends_with(" 1/0\r\nEND\r\n"));
        assert_eq!(answer(&mut world, "stats\r\n", 500), NO_ROOM);
        assert_eq!(answer(&mut world, "stats settings\r\n", 170), NO_ROOM);
        let queue = format!("queue-{:020}", 7);
        assert_eq!(answer(&mut world, &format!("stats queue {queue}\r\n"), 400), NO_ROOM);
        let one = answer(&mut world, &format!("stats queue {queue}\r\n"), 1400);
        assert!(one.starts_with(&format!("STAT {queue} 1/0\r\n")) && one.ends_with("END\r\n"), "{one}");
    }
}

#[test]
fn a_get_with_a_timeout_does_not_wait() {
    for shards in [1, 2] {
        let mut world = World::new(Options { shards, ..Options::default() });
        for queue in one_queue_each(&World::new(Options { shards: 2, ..Options::default() })) {
            assert_eq!(answer(&mut world, &format!("get {queue}/t=60000\r\n"), 1400), "END\r\n");
            let client = world.connect();
            world.ask(client, &put(&queue, "a"));
            // What must be loaded first is there, too.
            world.crash(shards);
            let expected = format!("VALUE {queue}/t=60000 0 1\r\na\r\nEND\r\n");
            assert_eq!(answer(&mut world, &format!("get {queue}/t=60000\r\n"), 1400), expected);
        }
    }
}

#[test]
fn a_datagram_may_wake_who_waits_on_a_connection() {
    let mut world = World::new(Options::default());
    let waiting = world.connect();
    assert_eq!(world.ask(waiting, "get q/t=1000\r\n"), "");
    // A body that no datagram would be given.
    let body = "x".repeat(5000);
    assert_eq!(answer(&mut world, &put("q", &body), 1400), "STORED\r\n");
    assert_eq!(world.heard(waiting), format!("VALUE q/t=1000 0 5000\r\n{body}\r\nEND\r\n"));
}

#[test]
fn incomplete_requests_are_dropped_and_counted() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    for incomplete in
        ["version", "set q 0 0 5\r\n", "set q 0 0 5\r\nhel", "set q 0 0 5\r\nhello", "set q 0 0 900000\r\nx"]
    {
        assert_eq!(answer(&mut world, incomplete, 1400), "", "{incomplete:?}");
    }
    assert_eq!(answer(&mut world, "bogus\r\nget q", 1400), "ERROR\r\n");
    assert_eq!(stat(&mut world, client, "udp_dropped"), 6);
    // These say nothing, and that is as it should be.
    for silent in ["set q 0 0 1 noreply\r\nx\r\n", "quit\r\nversion", "delete q noreply\r\n"] {
        assert_eq!(answer(&mut world, silent, 1400), "", "{silent:?}");
    }
    assert_eq!(stat(&mut world, client, "udp_dropped"), 6);
    assert_eq!(world.ask(client, "stats reset\r\n"), "RESET\r\n");
    assert_eq!(stat(&mut world, client, "udp_dropped"), 0);
}

#[test]
fn datagrams_are_no_connections_and_checkpoints_are_not_for_them() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    assert_eq!(answer(&mut world, "db_checkpoint\r\ndb_archive\r\n", 1400), "ERROR\r\nERROR\r\n");
    let under_way = world.datagram(put("q", "a").as_bytes(), 1400);
    world.send(client, b"stats\r\n");
    world.turn(0);
    world.write(0, 0);
    world.turn(0);
    let stats = world.heard(client);
    for line in ["curr_connections 1", "total_connections 1", "connection_structures 1"] {
        assert!(stats.contains(&format!("STAT {line}\r\n")), "no {line} in {stats}");
    }
    world.settle();
    assert_eq!(world.heard(under_way), "STORED\r\n");
}

#[test]
fn random_datagrams_lose_no_message_and_keep_to_their_bound() {
    for seed in 1..=60 {
        let mut rng = Rng::new(seed);
        let shards = 1 + rng.below(3) as u16;
        let share = [1 << 20, 32 << 20][rng.below(2)];
        let mut world =
            World::new(Options { shards, memory_share: share, body_size_max: 100_000, ..Options::default() });
        let queues = ["a", "bb", "ccc", "dddd"];
        // What is in each queue, as far as it was not told to anybody.
        let mut model: Vec<VecDeque<String>> = vec![VecDeque::new(); queues.len()];
        let largest = [200, 2000, 20_000][rng.below(3)];
        for round in 0..40 {
            if rng.below(10) == 0 {
                world.crash(shards);
            }
            let bound = 1400 + rng.below(4000);
            let mut requests = String::new();
            let mut asked = Vec::new();
            for n in 0..1 + rng.below(6) {
                let queue = rng.below(queues.len());
                match rng.below(6) {
                    0..2 => {
                        let body = format!("{round}.{n}:{}", "x".repeat(rng.below(largest)));
                        requests += &put(queues[queue], &body);
                        asked.push((queue, body));
                    }
                    2 => requests += ["version\r\n", "stats queue\r\n", "nonsense\r\n", "stats\r\n"][rng.below(4)],
                    3 => requests += &format!("gets {}/t={}\r\n", queues[queue], rng.below(1000)),
                    _ => {
                        let names: Vec<&str> = (0..1 + rng.below(5)).map(|_| queues[rng.below(4)]).collect();
                        requests += &format!("get {}\r\n", names.join(" "));
                    }
                }
            }
            let heard = answer(&mut world, &requests, bound);
            assert!(heard.len() <= bound, "seed {seed}: {} bytes, bound {bound}", heard.len());
            let mut puts = asked.into_iter();
            let mut lines = heard.split("\r\n");
            while let Some(line) = lines.next() {
                if line == "STORED" {
                    let (queue, body) = puts.next().expect("a put was asked for");
                    model[queue].push_back(body);
                } else if let Some(head) = line.strip_prefix("VALUE ") {
                    let name = head.split([' ', '/']).next().expect("a name");
                    let queue = queues.iter().position(|q| *q == name).expect("one of ours");
                    assert_eq!(lines.next(), model[queue].pop_front().as_deref(), "seed {seed}, {name}");
                }
            }
        }
        let client = world.connect();
        for (name, left) in queues.iter().zip(model) {
            for body in left {
                assert_eq!(
                    world.ask(client, &format!("get {name}\r\n")),
                    value(name, &body) + "END\r\n",
                    "seed {seed}"
                );
            }
            assert_eq!(world.ask(client, &format!("get {name}\r\n")), "END\r\n", "seed {seed}");
        }
    }
}
