//! Many clients at once, on one shard and on two: nothing is lost, doubled, reordered or counted wrongly.

use crate::facts::{puts_and_gets, stat};
use crate::harness::{Server, eventually};
use crate::history::History;
use crate::traffic::{Plan, Rng, consume, drain, produce, queue_name};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const QUEUES: u32 = 16;
const PRODUCERS: u32 = 6;
const CONSUMERS: u32 = 4;

/// How long consumers may take for what is left when the producers are done.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn one_shard_delivers_everything_once_and_in_order() {
    everything_arrives_once_and_in_order(&["-t", "1"]);
}

#[test]
fn two_shards_deliver_everything_once_and_in_order() {
    everything_arrives_once_and_in_order(&["-t", "2"]);
}

#[test]
fn two_shards_short_of_memory_deliver_everything_once_and_in_order() {
    everything_arrives_once_and_in_order(&["-t", "2", "-m", "2", "-B", "524288", "-N"]);
}

fn everything_arrives_once_and_in_order(args: &[&str]) {
    let server = Server::start(args);
    let address = server.addr();
    let stop = AtomicBool::new(false);
    let mut history = History::default();
    thread::scope(|scope| {
        let plan = |who: u32| Plan { who, queues: QUEUES, depth: [1, 7, 100][who as usize % 3], wait_ms: 3 };
        let count = |who: u32| [400, 2000, 6000][who as usize % 3];
        let produce = |who| move || produce(address, plan(who), count(who), &NEVER);
        let producers: Vec<_> = (0..PRODUCERS).map(|who| scope.spawn(produce(who))).collect();
        let stop = &stop;
        let consume = |who| move || consume(address, plan(who), stop);
        let consumers: Vec<_> = (100..100 + CONSUMERS).map(|who| scope.spawn(consume(who))).collect();
        producers.into_iter().for_each(|producer| history.produced(producer.join().expect("a producer")));
        eventually("the queues are empty", DRAIN_TIMEOUT, || stat(&server, "curr_items") == 0);
        stop.store(true, Ordering::Relaxed);
        consumers.into_iter().for_each(|consumer| history.consumed(consumer.join().expect("a consumer")));
    });
    history.verify(&drain(address, QUEUES)).unwrap_or_else(|broken| panic!("{broken}"));
    for queue in 0..QUEUES {
        let tally = history.tally(queue);
        assert_eq!((tally.taken, tally.unanswered), (tally.sent, 0), "queue {queue}: {tally:?}");
        assert_eq!(puts_and_gets(&server, &queue_name(queue)), Some((tally.sent, tally.sent)));
    }
}

/// Producers that work through their count.
static NEVER: AtomicBool = AtomicBool::new(false);

#[test]
fn deletion_under_load_on_one_shard_keeps_the_counts() {
    deletion_under_load(&["-t", "1", "--enable-flush-all"]);
}

#[test]
fn deletion_under_load_on_two_shards_keeps_the_counts() {
    deletion_under_load(&["-t", "2", "--enable-flush-all", "-m", "4"]);
}

fn deletion_under_load(args: &[&str]) {
    let mut server = Server::start(args);
    let address = server.addr();
    let (stop_producers, stop_others) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut history = History::default();
    history.allow_deletion();
    thread::scope(|scope| {
        let plan = |who: u32| Plan { who, queues: QUEUES, depth: [1, 10, 60][who as usize % 3], wait_ms: 3 };
        let (stop_producers, stop_others) = (&stop_producers, &stop_others);
        let produce = |who| move || produce(address, plan(who), u64::MAX, stop_producers);
        let producers: Vec<_> = (0..PRODUCERS).map(|who| scope.spawn(produce(who))).collect();
        let consume = |who| move || consume(address, plan(who), stop_others);
        let consumers: Vec<_> = (100..100 + CONSUMERS).map(|who| scope.spawn(consume(who))).collect();
        delete_and_flush(&server, 400);
        stop_producers.store(true, Ordering::Relaxed);
        producers.into_iter().for_each(|producer| history.produced(producer.join().expect("a producer")));
        stop_others.store(true, Ordering::Relaxed);
        consumers.into_iter().for_each(|consumer| history.consumed(consumer.join().expect("a consumer")));
    });
    let items = stat(&server, "curr_items");
    server.restart();
    assert_eq!(stat(&server, "curr_items"), items, "what is counted is what is stored");
    let drained = drain(server.addr(), QUEUES);
    assert_eq!(drained.len() as u64, items);
    history.verify(&drained).unwrap_or_else(|broken| panic!("{broken}"));
    assert_eq!(stat(&server, "curr_items"), 0);

    // The last word: a flush leaves nothing, and the queues go on.
    let mut client = server.connect();
    client.send(b"set queue-1 0 0 1\r\na\r\nflush_all\r\nget queue-1\r\nset queue-1 0 0 1\r\nb\r\nget queue-1\r\n");
    client.expect(b"STORED\r\nOK\r\nEND\r\nSTORED\r\nVALUE queue-1 0 1\r\nb\r\nEND\r\n");
}

/// Deletes queues and empties all of them, over and over, while others work with them.
fn delete_and_flush(server: &Server, count: u64) {
    let mut rng = Rng::new(1);
    let mut client = server.connect();
    for _ in 0..count {
        if rng.below(8) == 0 {
            client.send(b"flush_all\r\n");
            client.expect(b"OK\r\n");
        } else {
            client.send(format!("delete {}\r\n", queue_name(rng.below(QUEUES.into()) as u32)).as_bytes());
            let reply = client.read_reply_line();
            assert!(reply == b"DELETED" || reply == b"NOT_FOUND", "{}", reply.escape_ascii());
        }
    }
}
