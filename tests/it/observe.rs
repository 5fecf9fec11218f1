//! What `stats` says of latencies, commits, queues, sizes and connections, against what was done.

use crate::harness::Server;
use crate::world::{Options, World};
use ringq::ids::{MessageId, QueueId};
use std::collections::HashMap;

/// The lines of a `stats` reply.
fn lines(reply: &str) -> HashMap<String, String> {
    let reply = reply.strip_suffix("END\r\n").unwrap_or_else(|| panic!("no end: {reply}"));
    let line = |line: &str| {
        let (name, value) = line.strip_prefix("STAT ").and_then(|rest| rest.split_once(' ')).expect("a STAT line");
        (name.to_owned(), value.to_owned())
    };
    reply.split_terminator("\r\n").map(line).collect()
}

fn number(lines: &HashMap<String, String>, name: &str) -> f64 {
    lines.get(name).map_or(0.0, |value| value.parse().unwrap_or_else(|_| panic!("{name} is {value}")))
}

#[test]
fn every_reply_is_counted_once_as_what_it_was() {
    for shards in [1, 3] {
        let mut world = World::new(Options { shards, flush_all: true, ..Options::default() });
        let clients: Vec<usize> = (0..shards).map(|_| world.connect()).collect();
        for (at, &client) in clients.iter().enumerate() {
            let [a, b] = ["a", "b"].map(|name| format!("{name}{at}"));
            let requests = format!(
                "set {a} 0 0 1\r\n1\r\nset {b} 0 0 1\r\n2\r\nset {b} 0 0 1 noreply\r\n3\r\nget {a}\r\nget {a} {b} nosuch\r\n\
                 get {a}\r\nget nosuch\r\nget {a} nosuch\r\nget {a}/t=0\r\nversion\r\nget {b}\r\ndelete {a}\r\nflush_all\r\n\
                 db_checkpoint\r\nget {{}} \x01\r\n"
            );
            world.ask(client, &requests);
        }
        let each = f64::from(shards);
        let seen = lines(&world.ask(clients[0], "stats latency\r\n"));
        for (what, expected) in [
            ("put", 2.0),
            ("get_hit", 3.0),
            ("get_miss", 3.0),
            ("get_wait", 1.0),
            ("delete", 1.0),
            ("flush", 1.0),
            ("checkpoint_command", 1.0),
            ("other", 2.0),
            ("queued", 3.0),
        ] {
            for span in ["total", "10s", "1m", "5m"] {
                let name = format!("{what}.{span}.count");
                assert_eq!(number(&seen, &name), expected * each, "{shards} shards: {name} in {seen:#?}");
            }
        }
        assert_eq!(seen.contains_key("forward.total.count"), shards > 1);
        assert_eq!(world.ask(clients[0], "stats latency reset\r\n"), "RESET\r\n");
        let seen = lines(&world.ask(clients[0], "stats latency\r\n"));
        assert_eq!(number(&seen, "put.total.count"), 0.0);
    }
}

#[test]
fn a_wait_is_measured_as_one_and_leaves_the_window_with_time() {
    let mut world = World::new(Options::default());
    let (consumer, producer) = (world.connect(), world.connect());
    assert_eq!(world.ask(consumer, "get q/t=60000\r\n"), "");
    world.advance(1500);
    world.ask(producer, "set q 0 0 1\r\nx\r\n");
    assert_eq!(world.heard(consumer), "VALUE q/t=60000 0 1\r\nx\r\nEND\r\n");
    let seen = lines(&world.ask(producer, "stats latency\r\n"));
    assert_eq!(number(&seen, "get_wait.total.count"), 1.0);
    assert!((1_500_000.0..1_520_000.0).contains(&number(&seen, "get_wait.total.p50")), "{seen:?}");
    assert_eq!(number(&seen, "get_hit.total.count"), 0.0);
    for (ms, spans) in [(20_000, "1m 5m total"), (60_000, "5m total"), (360_000, "total")] {
        world.advance(ms);
        let seen = lines(&world.ask(producer, "stats latency\r\n"));
        let left: Vec<&str> =
            ["1m", "5m", "total"].into_iter().filter(|span| seen.contains_key(&format!("put.{span}.count"))).collect();
        assert_eq!(left.join(" "), spans);
    }
}

#[test]
fn a_queue_tells_how_deep_how_old_and_how_fast_it_is() {
    for shards in [1, 2] {
        let mut world = World::new(Options { shards, ..Options::default() });
        let client = world.connect();
        for n in 0..30 {
            world.ask(client, &format!("set q 0 0 2\r\n{n:02}\r\n"));
            if n % 3 == 0 {
                world.ask(client, "get q\r\n");
            }
            world.advance(1000);
        }
        let seen = lines(&world.ask(client, "stats queue q\r\n"));
        assert_eq!(seen["q"], "30/10");
        assert_eq!(number(&seen, "ready"), 20.0);
        // Message 10 is the head; it was put 20 s ago.
        assert_eq!(number(&seen, "oldest_ms"), 20_000.0);
        assert!((0.9..1.1).contains(&number(&seen, "put_rate")), "{seen:?}");
        assert!((0.2..0.5).contains(&number(&seen, "get_rate")), "{seen:?}");
        assert_eq!(number(&seen, "shard"), world.owner("q") as f64);
        assert_eq!(world.ask(client, "stats queue nosuch\r\n"), "END\r\n");
        // After a start all of it is in the store only: it is read when asked for.
        world.crash(shards);
        let client = world.connect();
        assert!(!lines(&world.ask(client, "stats queue q\r\n")).contains_key("oldest_ms"));
        assert_eq!(number(&lines(&world.ask(client, "stats queue q\r\n")), "oldest_ms"), 20_000.0);
        for n in 10..30 {
            assert_eq!(world.ask(client, "get q\r\n"), format!("VALUE q 0 2\r\n{n:02}\r\nEND\r\n"));
        }
    }
}

#[test]
fn bytes_are_the_bodies_of_all_queues_wherever_they_are() {
    for shards in [1, 3] {
        let mut world = World::new(Options { shards, flush_all: true, ..Options::default() });
        let client = world.connect();
        let check = |world: &mut World, client: usize, expected: f64| {
            assert_eq!(number(&lines(&world.ask(client, "stats\r\n")), "bytes"), expected);
            let of = lines(&world.ask(client, "stats shards\r\n"));
            let sum: f64 = (0..shards).map(|shard| number(&of, &format!("{shard}.bytes"))).sum();
            assert_eq!(sum, expected, "{shards} shards");
        };
        for n in 0..10 {
            let body = "x".repeat(100 * n);
            world.ask(client, &format!("set q{n} 0 0 {}\r\n{body}\r\nset q{n} 0 0 1\r\ny\r\n", body.len()));
        }
        check(&mut world, client, 4510.0);
        world.ask(client, "get q9\r\n");
        check(&mut world, client, 3610.0);
        world.ask(client, "delete q8\r\nflush q7\r\n");
        check(&mut world, client, 2108.0);
        // After a start all of it is in the store only.
        world.crash(shards);
        let client = world.connect();
        check(&mut world, client, 2108.0);
        world.ask(client, "get q6 q5\r\n");
        check(&mut world, client, 1008.0);
        world.ask(client, "flush_all\r\n");
        check(&mut world, client, 0.0);
    }
}

#[test]
fn waiters_of_a_queue_are_counted() {
    let mut world = World::new(Options::default());
    let clients: Vec<usize> = (0..3).map(|_| world.connect()).collect();
    world.ask(clients[0], "set q 0 0 1\r\nx\r\nget q\r\n");
    world.ask(clients[1], "get q/t=60000\r\n");
    world.ask(clients[2], "get q/t=60000\r\n");
    assert_eq!(number(&lines(&world.ask(clients[0], "stats queue q\r\n")), "waiters"), 2.0);
    world.reset(clients[1]);
    assert_eq!(number(&lines(&world.ask(clients[0], "stats queue q\r\n")), "waiters"), 1.0);
    world.ask(clients[0], "set q 0 0 1\r\nx\r\n");
    assert_eq!(number(&lines(&world.ask(clients[0], "stats queue q\r\n")), "waiters"), 0.0);
}

#[test]
fn sizes_are_counted_by_powers_of_two() {
    let mut world = World::new(Options { shards: 2, ..Options::default() });
    let client = world.connect();
    for size in [0, 1, 2, 3, 4, 5, 1000, 1024, 1025, 1 << 20] {
        world.ask(client, &format!("set q{size} 0 0 {size}\r\n{}\r\n", "x".repeat(size)));
    }
    let expected =
        "STAT 1 2\r\nSTAT 2 1\r\nSTAT 4 2\r\nSTAT 8 1\r\nSTAT 1024 2\r\nSTAT 2048 1\r\nSTAT 1048576 1\r\nEND\r\n";
    assert_eq!(world.ask(client, "stats sizes\r\n"), expected);
}

#[test]
fn commits_and_shards_are_counted() {
    let server = Server::start(&["-t", "2"]);
    let mut client = server.connect();
    for n in 0..50 {
        client.command(format!("set q{n} 0 0 1\r\nx\r\n").as_bytes(), b"STORED\r\n");
    }
    client.command(b"db_checkpoint\r\n", b"OK\r\n");
    let mut ask =
        |request: &str| lines(&String::from_utf8(client.command(request.as_bytes(), b"END\r\n")).expect("text"));
    let commit = ask("stats commit\r\n");
    // Each put of a new queue is two mutations, and a shard reserves ids once.
    assert!((100.0..=104.0).contains(&number(&commit, "mutations")), "{commit:#?}");
    let records = number(&commit, "records");
    assert!(records >= 50.0, "{commit:#?}");
    assert!(number(&commit, "bytes") >= records * 4096.0, "records fill pages: {commit:#?}");
    assert!(number(&commit, "checkpoints") >= 1.0 && number(&commit, "store_commit.total.count") >= 1.0);
    assert_eq!(number(&commit, "unstored_bytes"), 0.0, "db_checkpoint brought everything to the store");
    for what in ["journal_write", "commit", "journal_collect"] {
        assert!(number(&commit, &format!("{what}.total.count")) >= 50.0, "{what}: {commit:#?}");
    }
    // A write is a part of the commit it makes, and a commit of the request.
    let latency = ask("stats latency\r\n");
    assert!(number(&latency, "put.total.max") >= number(&latency, "journal_write.total.p50") * 0.9);
    let shards = ask("stats shards\r\n");
    assert_eq!(number(&shards, "0.set_cmds") + number(&shards, "1.set_cmds"), 50.0);
    assert_eq!(number(&shards, "0.curr_queues") + number(&shards, "1.curr_queues"), 50.0);
}

#[test]
fn connections_are_listed_with_what_they_do() {
    let server = Server::start(&["-t", "2"]);
    let (mut client, mut waiting, mut half) = (server.connect(), server.connect(), server.connect());
    waiting.send(b"get q/t=60000\r\n");
    half.send(b"set q 0 0 10\r\nab");
    let _idle = server.connect();
    crate::harness::eventually("all are seen", std::time::Duration::from_secs(10), || {
        let reply = String::from_utf8(client.command(b"stats conns\r\n", b"END\r\n")).expect("text");
        let states: Vec<String> = lines(&reply).into_values().collect();
        let count = |state: &str| states.iter().filter(|it| it.starts_with(&format!("state={state},"))).count();
        states.len() == 4 && count("waits_for_message") == 1 && count("receiving") == 1 && count("idle") >= 1
    });
}

#[test]
fn the_way_of_a_message_can_be_followed_in_the_log() {
    let mut server = Server::start(&["-t", "1", "-vv"]);
    let mut client = server.connect();
    client.command(b"set mail 0 0 5\r\nhello\r\n", b"STORED\r\n");
    let got = client.command(b"gets mail\r\n", b"END\r\n");
    let got = String::from_utf8(got).expect("text");
    let id = got.lines().next().and_then(|line| line.split(' ').nth(4)).expect("an id").to_owned();
    client.command(b"set mail 0 0 4\r\nstay\r\n", b"STORED\r\n");
    client.command(b"db_checkpoint\r\n", b"OK\r\n");
    assert!(server.stop().success());
    let output = server.output();
    let at = |what: &str| output.find(what).unwrap_or_else(|| panic!("no {what} in {output}"));
    let put = at(&format!("message {id} of queue mail was put, in batch 0/"));
    let taken = at(&format!("message {id} of queue mail was taken, in batch 0/"));
    let batch_after = |at: usize| {
        let rest = &output[at..output[at..].find('\n').map_or(output.len(), |end| at + end)];
        rest.rsplit('/').next().expect("a number").parse::<u64>().expect("a number")
    };
    let journalled = at(&format!("all batches up to 0/{} are in the journal", batch_after(put)));
    assert!(put < journalled && journalled < at(" STORED") && at(" STORED") < taken, "{output}");
    assert!(output.contains("are in the database"), "{output}");
    assert!(!output.contains("hello") && !output.contains("stay"), "{output}");
}

/// What `stats queue` says of the messages of `q`: how many, and their bytes.
fn ready_and_bytes(world: &mut World, client: usize) -> (f64, f64) {
    let seen = lines(&world.ask(client, "stats queue q\r\n"));
    (number(&seen, "ready"), number(&seen, "bytes"))
}

#[test]
fn a_queue_knows_the_bytes_of_its_messages_wherever_they_are() {
    let mut world = World::new(Options { memory_share: 1 << 20, flush_all: true, ..Options::default() });
    let client = world.connect();
    // The first ids of the first shard: 1 is the queue, 2 its first message.
    world.ask(client, "set q 0 0 0\r\n\r\nset q 0 0 3\r\nabc\r\nset q 0 0 5\r\nhello\r\n");
    assert_eq!(ready_and_bytes(&mut world, client), (3.0, 8.0));
    // More than memory holds: some are in the store only.
    for _ in 0..40 {
        world.ask(client, &format!("set q 0 0 30000\r\n{:30000}\r\n", 'x'));
    }
    assert_eq!(ready_and_bytes(&mut world, client), (43.0, 1_200_008.0));
    world.store.corrupt(QueueId(1), MessageId(3));
    world.crash(2);
    let client = world.connect();
    // The first question also has the head loaded.
    assert_eq!(ready_and_bytes(&mut world, client), (43.0, 1_200_008.0), "the start has read none of them");
    assert_eq!(world.ask(client, "get q\r\n"), "VALUE q 0 0\r\n\r\nEND\r\n");
    assert_eq!(world.ask(client, "get q\r\n"), "VALUE q 0 5\r\nhello\r\nEND\r\n");
    assert_eq!(ready_and_bytes(&mut world, client), (40.0, 1_200_000.0), "what was damaged was set aside");
    world.crash(1);
    let client = world.connect();
    assert_eq!(ready_and_bytes(&mut world, client), (40.0, 1_200_000.0));
    let requests = "set q 0 0 1\r\nx\r\nflush_all\r\nset q 0 0 2\r\nyz\r\n";
    assert_eq!(world.ask(client, requests), "STORED\r\nOK\r\nSTORED\r\n");
    assert_eq!(ready_and_bytes(&mut world, client), (1.0, 2.0));
    world.crash(2);
    let client = world.connect();
    assert_eq!(ready_and_bytes(&mut world, client), (1.0, 2.0));
    world.ask(client, "delete q\r\nset q 0 0 4\r\nwxyz\r\n");
    assert_eq!(ready_and_bytes(&mut world, client), (1.0, 4.0));
}
