//! Promises 1 to 4 against the real process: what was acknowledged survives `kill -9` and a stop, in order, once, and the
//! counters and bytes of the queues agree with it.
//!
//! Each round loads a server from many connections, ends it in the middle, starts it again with another number of shards,
//! takes everything out, and lets [`crate::history`] judge what the clients saw.

use crate::facts::{puts_and_gets, queue_bytes};
use crate::harness::{Client, Server};
use crate::history::{History, Tally};
use crate::traffic::{Plan, Rng, consume, drain, produce, queue_name, work};
use rustix::process::Signal;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const ROUNDS: u64 = 24;
const QUEUES: u32 = 6;
const PRODUCERS: u32 = 4;
const CONSUMERS: u32 = 3;

#[test]
fn acknowledged_messages_survive_kill_9() {
    survive_kill_9("acknowledged_messages_survive_kill_9", ROUNDS, 0, args);
}

#[test]
fn what_was_confirmed_never_comes_back_after_kill_9_and_all_that_was_open_does() {
    let test = "what_was_confirmed_never_comes_back_after_kill_9_and_all_that_was_open_does";
    survive_kill_9_of(Consumers::Workers, test, ROUNDS / 2, 5, args);
}

#[test]
fn messages_for_waiting_gets_survive_kill_9_or_have_arrived() {
    survive_kill_9("messages_for_waiting_gets_survive_kill_9_or_have_arrived", ROUNDS / 2, 5, args);
}

/// Rounds of load and `kill -9` for a test of this name, with arguments that may change at each start. Replay one with
/// `RINGQ_SEED=n`; where in the load the kill falls is the scheduler's. Consumers wait for a message up to `wait_ms`.
pub fn survive_kill_9(test: &str, rounds: u64, wait_ms: u64, args: fn(u64) -> &'static [&'static str]) {
    survive_kill_9_of(Consumers::Takers, test, rounds, wait_ms, args);
}

/// How the consumers of a load have their messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Consumers {
    /// For good.
    Takers,
    /// Until they confirm them.
    Workers,
}

fn survive_kill_9_of(
    consumers: Consumers,
    test: &str,
    rounds: u64,
    wait_ms: u64,
    args: fn(u64) -> &'static [&'static str],
) {
    let replayed = std::env::var("RINGQ_SEED").ok().map(|seed| seed.parse::<u64>().expect("RINGQ_SEED is a number"));
    let seeds = replayed.map_or(0..rounds, |seed| seed..seed + 1);
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    for seed in seeds {
        println!("replay this round with RINGQ_SEED={seed} cargo test --test it {test}");
        let mut rng = Rng::new(seed);
        let mut server = Server::start_in(&data, args(seed));
        let before = counters(&server);
        let mut history = History::default();
        match consumers {
            Consumers::Takers if wait_ms > 0 => history.allow_hand_over(),
            Consumers::Takers => {}
            Consumers::Workers => history.allow_returns(),
        }
        // Some rounds crash what has just recovered, with a backlog in it.
        for crash in 0..1 + seed % 3 {
            if crash > 0 {
                server.restart_with(args(seed + crash));
            }
            let load = Load::start(consumers, server.addr(), crash as u32, wait_ms, &mut rng);
            thread::sleep(Duration::from_millis(50 + rng.below(250)));
            server.kill9();
            load.join(&mut history);
        }
        server.restart_with(args(seed + 1));
        check_what_is_left(&server, &history, &before);
        assert!(server.stop().success());
    }
}

#[test]
fn a_stop_under_load_loses_nothing_acknowledged() {
    stop_under_load(&["-t", "1"]);
    stop_under_load(&["-t", "2", "-m", "4"]);
}

#[test]
fn a_stop_under_load_loses_nothing_acknowledged_without_sync() {
    stop_under_load(&["-t", "1", "-N", "-m", "4"]);
    stop_under_load(&["-t", "2", "-N"]);
}

fn stop_under_load(args: &[&str]) {
    let mut server = Server::start(args);
    for seed in 0..4 {
        let mut rng = Rng::new(seed);
        let before = counters(&server);
        let mut history = History::default();
        let load = Load::start(Consumers::Takers, server.addr(), 0, 5, &mut rng);
        thread::sleep(Duration::from_millis(50 + rng.below(200)));
        let status = server.stop();
        assert!(status.success(), "{status}");
        load.join(&mut history);
        server.restart_with(args);
        check_what_is_left(&server, &history, &before);
    }
}

#[test]
fn whole_requests_sent_before_sigterm_are_answered() {
    for args in [&["-t", "1"][..], &["-t", "2"], &["-t", "2", "-N"]] {
        let mut server = Server::start(args);
        let mut clients: Vec<Client> = (0..1000).map(|_| server.connect()).collect();
        // The last one's answer shows that all were accepted.
        let last = clients.last_mut().expect("clients");
        assert_eq!(
            last.command(b"version\r\n", b"\r\n"),
            format!("VERSION {}\r\n", env!("CARGO_PKG_VERSION")).as_bytes()
        );
        // A server that is held for a moment finds all of them and the signal at once.
        server.signal(Signal::STOP);
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(format!("set q{} 0 0 4\r\n{number:04}\r\nget nothing\r\n", number % 7).as_bytes());
        }
        server.signal(Signal::TERM);
        server.signal(Signal::CONT);
        let replies: Vec<Vec<u8>> = clients.iter_mut().map(Client::read_to_end).collect();
        assert!(server.wait_for_end(Duration::from_secs(20)).success());
        let wrong: Vec<&Vec<u8>> = replies.iter().filter(|reply| *reply != b"STORED\r\nEND\r\n").collect();
        assert!(
            wrong.is_empty(),
            "{args:?}: {} of 1000 clients were not answered, but got {:?}",
            wrong.len(),
            wrong[0]
        );
        server.restart();
        let mut client = server.connect();
        let mut numbers = Vec::new();
        for queue in 0..7 {
            loop {
                let reply = client.command(format!("get q{queue}\r\n").as_bytes(), b"END\r\n");
                let Some(body) = reply.split(|byte| *byte == b'\n').nth(1).filter(|line| line.len() == 5) else {
                    break;
                };
                numbers.push(String::from_utf8_lossy(&body[..4]).parse::<u32>().expect("a number"));
            }
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
    }
}

/// Arguments that change from round to round: the number of shards, and whether messages leave memory.
fn args(round: u64) -> &'static [&'static str] {
    match round % 4 {
        0 => &["-t", "1", "-m", "2"],
        1 => &["-t", "2"],
        2 => &["-t", "1"],
        _ => &["-t", "2", "-m", "4"],
    }
}

/// Producers and consumers at work until told to stop or the server is gone.
struct Load {
    producers: Vec<JoinHandle<Vec<crate::traffic::Sent>>>,
    consumers: Vec<JoinHandle<crate::traffic::Consumed>>,
}

/// Nobody tells the load of a crash to stop.
static NEVER: AtomicBool = AtomicBool::new(false);

impl Load {
    fn start(how: Consumers, address: SocketAddr, phase: u32, wait_ms: u64, rng: &mut Rng) -> Load {
        let mut plan = |who: u32| Plan {
            who: phase * 100 + who,
            queues: QUEUES,
            depth: [1, 4, 50][rng.below(3) as usize],
            wait_ms,
        };
        let producers = (0..PRODUCERS).map(|who| {
            let plan = plan(who);
            thread::spawn(move || produce(address, plan, u64::MAX, &NEVER))
        });
        let producers = producers.collect();
        let consumers = (0..CONSUMERS).map(|who| {
            let plan = plan(50 + who);
            thread::spawn(move || match how {
                Consumers::Takers => consume(address, plan, &NEVER),
                Consumers::Workers => work(address, plan, &NEVER),
            })
        });
        Load { producers, consumers: consumers.collect() }
    }

    fn join(self, history: &mut History) {
        for producer in self.producers {
            history.produced(producer.join().expect("a producer saw the protocol broken"));
        }
        for consumer in self.consumers {
            history.consumed(consumer.join().expect("a consumer saw the protocol broken"));
        }
        assert!(!NEVER.load(Ordering::Relaxed));
    }
}

/// Puts and gets of every queue.
fn counters(server: &Server) -> Vec<(u64, u64)> {
    (0..QUEUES).map(|queue| puts_and_gets(server, &queue_name(queue)).unwrap_or_default()).collect()
}

/// Takes everything out and compares it with what clients saw and what the server counted, from `before` on.
fn check_what_is_left(server: &Server, history: &History, before: &[(u64, u64)]) {
    let counted = counters(server);
    let bytes: Vec<u64> = (0..QUEUES).map(|queue| queue_bytes(server, &queue_name(queue))).collect();
    let drained = drain(server.addr(), QUEUES);
    history.verify(&drained).unwrap_or_else(|broken| panic!("{broken}"));
    let after = counters(server);
    for queue in 0..QUEUES {
        let index = queue as usize;
        let of_queue = || drained.iter().filter(|id| id.queue == queue);
        let left = of_queue().count() as u64;
        let left_bytes = of_queue().map(|id| id.body().len() as u64).sum::<u64>();
        assert_eq!(bytes[index], left_bytes, "queue {queue}: the bytes of what was left");
        assert_eq!(queue_bytes(server, &queue_name(queue)), 0, "queue {queue} has no bytes now");
        let (puts, gets) = (counted[index].0 - before[index].0, counted[index].1 - before[index].1);
        let tally = history.tally(queue);
        let Tally { sent, acknowledged, taken, unanswered } = tally;
        assert_eq!(counted[index].0 - counted[index].1, left, "queue {queue}: puts less gets are what was left");
        // A crash may take the counts of what was handed over from both sides.
        let uncounted = if history.allows_hand_over() { taken + unanswered } else { 0 };
        let puts_min = acknowledged.saturating_sub(uncounted);
        assert!((puts_min..=sent).contains(&puts), "queue {queue}: {puts} puts, but {tally:?}");
        let gets_min = taken.saturating_sub(uncounted);
        assert!((gets_min..=taken + unanswered).contains(&gets), "queue {queue}: {gets} gets, but {tally:?}");
        assert_eq!(after[index], (counted[index].0, counted[index].0), "queue {queue} is empty now");
    }
}

/// Two deliveries came back before the server was killed, one was open when it was: the next that comes back is the third.
#[test]
fn deliveries_that_came_back_count_over_kill_9() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let args = ["-t", "2"];
    let mut server = Server::start_in(&scratch.path().join("data"), &args);
    let mut client = server.connect();
    client.command(b"config q max_deliveries=3 dead_letter=dead\r\n", b"OK\r\n");
    client.command(b"set q 0 0 1\r\nx\r\n", b"STORED\r\n");
    for _ in 0..2 {
        client.send(b"get q/open\r\nget q/abort\r\n");
        client.expect(b"VALUE q/open 0 1\r\nx\r\nEND\r\nEND\r\n");
    }
    client.send(b"get q/open\r\n");
    client.expect(b"VALUE q/open 0 1\r\nx\r\nEND\r\n");
    server.kill9();
    server.restart_with(&args);
    let mut client = server.connect();
    client.send(b"get q/peek\r\nget q/open\r\nget q/abort\r\n");
    client.expect(b"VALUE q/peek 0 1\r\nx\r\nEND\r\nVALUE q/open 0 1\r\nx\r\nEND\r\nEND\r\n");
    client.send(b"get q\r\n");
    client.expect(b"END\r\n");
    client.send(b"get dead/t=60000\r\n");
    client.expect(b"VALUE dead/t=60000 0 1\r\nx\r\nEND\r\n");
}

/// A read that is open when the server is killed has no time left to wait for; the queue's time holds for the reads that follow.
#[test]
fn a_visibility_timeout_holds_over_kill_9() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let args = ["-t", "2"];
    let mut server = Server::start_in(&scratch.path().join("data"), &args);
    let mut client = server.connect();
    client.command(b"config q visibility_timeout=1\r\n", b"OK\r\n");
    client.command(b"config slow visibility_timeout=1h\r\n", b"OK\r\n");
    for queue in ["q", "slow"] {
        client.command(format!("set {queue} 0 0 1\r\nx\r\n").as_bytes(), b"STORED\r\n");
        client.send(format!("get {queue}/open\r\n").as_bytes());
        client.expect(format!("VALUE {queue}/open 0 1\r\nx\r\nEND\r\n").as_bytes());
    }
    server.kill9();
    server.restart_with(&args);
    let (mut reader, mut other) = (server.connect(), server.connect());
    // An hour had not passed: it is the crash that returned it.
    reader.send(b"get slow\r\nget slow\r\n");
    reader.expect(b"VALUE slow 0 1\r\nx\r\nEND\r\nEND\r\n");
    reader.send(b"get q/open\r\n");
    reader.expect(b"VALUE q/open 0 1\r\nx\r\nEND\r\n");
    other.send(b"get q/t=60000\r\n");
    other.expect(b"VALUE q/t=60000 0 1\r\nx\r\nEND\r\n");
    reader.send(b"get q/close\r\nget q\r\n");
    reader.expect(b"CLIENT_ERROR read expired\r\nEND\r\n");
}
