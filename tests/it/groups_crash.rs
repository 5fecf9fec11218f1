//! Groups against the real process and `kill -9`: each group sees every message that was put at least once, what it has confirmed or taken
//! never again, and the counters of each reader agree with that.
//!
//! Invariant: a client reports what it knows. A message counts as put when its `STORED` came, as seen when its `VALUE` came, and as done
//! when the reply to its close, or the `VALUE` of a get, came. [`crate::history`] judges each reader; its moments are the lives of the server.

use crate::facts::{figures, stat};
use crate::harness::Server;
use crate::history::{End, History, Moment, Read, Tally};
use crate::traffic::{Link, MessageId, Rng, Sent};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

const ROUNDS: u64 = 12;
const PRODUCERS: u32 = 2;

/// Requests on their way at once where a reader is drained.
const DRAIN_DEPTH: usize = 256;

/// The plain reader, two groups that confirm, and one that takes.
const READERS: [&str; 4] = ["q", "q/group=a", "q/group=b", "q/group=c"];

/// Which of them confirm, and so lose nothing to a reply that does not come.
const CONFIRMING: [&str; 2] = ["q/group=a", "q/group=b"];

fn value(link: &mut Link) -> io::Result<Option<MessageId>> {
    let Some((_, body)) = link.value()? else { return Ok(None) };
    assert!(link.value()?.is_none(), "END follows");
    Ok(Some(MessageId::of_body(&body)))
}

/// Puts messages until the server is gone.
fn produce(address: SocketAddr, producer: u32, depth: usize) -> Vec<Sent> {
    let mut sent: Vec<Sent> = Vec::new();
    let Ok(mut link) = Link::connect(address) else { return sent };
    loop {
        let first = sent.len();
        let mut requests = Vec::new();
        for number in first..first + depth {
            let id = MessageId { producer, queue: 0, number: number as u64 };
            let body = id.body();
            requests.extend(format!("set q 0 0 {}\r\n", body.len()).into_bytes());
            requests.extend(body);
            requests.extend(b"\r\n");
            sent.push(Sent { id, acknowledged: false });
        }
        if link.send(&requests).is_err() {
            return sent;
        }
        for message in &mut sent[first..] {
            match link.line() {
                Ok(line) => assert_eq!(line, b"STORED"),
                Err(_) => return sent,
            }
            message.acknowledged = true;
        }
    }
}

/// What a client of a reader got to know: what came to it, and how many requests were not answered that may have taken a message.
type Seen = (Vec<Read>, u64);

fn seen(id: MessageId, life: Moment, end: End) -> Read {
    Read { id, from: 0, asked: life, came: life, held_until: 0, end }
}

/// Opens some messages at a time, and confirms them, or gives them back, until the server is gone.
fn confirm(address: SocketAddr, reader: &str, life: Moment, seed: u64) -> Seen {
    let mut reads = Vec::new();
    // It ends with the server, whenever that is.
    let _ = confirm_until_gone(address, reader, life, &mut Rng::new(seed), &mut reads);
    (reads, 0)
}

fn confirm_until_gone(
    address: SocketAddr,
    reader: &str,
    life: Moment,
    rng: &mut Rng,
    reads: &mut Vec<Read>,
) -> io::Result<()> {
    let mut link = Link::connect(address)?;
    loop {
        let first = reads.len();
        let count = 1 + rng.below(8) as usize;
        link.send(format!("get {reader}/open/t=5\r\n").repeat(count).as_bytes())?;
        for _ in 0..count {
            reads.extend(value(&mut link)?.map(|id| seen(id, life, End::Returned)));
        }
        for read in &mut reads[first..] {
            let gives_back = rng.below(8) == 0;
            if !gives_back {
                read.end = End::MaybeDone;
            }
            let option = if gives_back { "abort" } else { "close" };
            link.send(format!("get {reader}/{option}\r\n").as_bytes())?;
            assert!(value(&mut link)?.is_none(), "END to a close");
            read.end = if gives_back { End::GivenBack } else { End::Done(life) };
        }
    }
}

/// Takes messages until the server is gone.
fn take(address: SocketAddr, reader: &str, life: Moment) -> Seen {
    let mut reads = Vec::new();
    let Ok(mut link) = Link::connect(address) else { return (reads, 0) };
    while link.send(format!("get {reader}\r\n").as_bytes()).is_ok() {
        match value(&mut link) {
            Ok(id) => reads.extend(id.map(|id| seen(id, life, End::Done(life)))),
            Err(_) => break,
        }
    }
    (reads, 1)
}

fn sum(figures: &BTreeMap<String, u64>, names: &[&str]) -> u64 {
    names.iter().map(|name| figures[*name]).sum()
}

const LEFT: [&str; 7] = ["gets", "deleted", "corrupt", "expired", "discarded", "dead_lettered", "skipped"];

/// Arguments that change from start to start: the number of shards, and whether messages leave memory.
fn args(start: u64) -> &'static [&'static str] {
    match start % 3 {
        0 => &["-t", "1", "-m", "2", "-C", "1"],
        1 => &["-t", "2"],
        _ => &["-t", "2", "-m", "4", "-C", "1"],
    }
}

#[test]
fn each_group_sees_every_message_and_what_it_confirmed_never_again_after_kill_9() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    for seed in 0..ROUNDS {
        let mut rng = Rng::new(seed);
        let mut server = Server::start_in(&data, args(seed));
        let mut client = server.connect();
        let groups_only = seed % 4 == 3;
        let on = if groups_only { "on" } else { "off" };
        assert_eq!(client.command(format!("config q groups_only={on}\r\n").as_bytes(), b"\r\n"), b"OK\r\n");
        for reader in READERS {
            assert_eq!(client.command(format!("get {reader}\r\n").as_bytes(), b"END\r\n"), b"END\r\n");
        }
        let before: Vec<_> = READERS.iter().map(|reader| figures(&server, reader)).collect();
        let mut histories: BTreeMap<&str, History> = READERS.iter().map(|of| (*of, History::default())).collect();
        histories.values_mut().for_each(|history| {
            history.allow_hand_over();
            history.allow_reordering();
        });
        for crash in 0..1 + seed % 3 {
            if crash > 0 {
                server.restart_with(args(seed + crash));
            }
            let address = server.addr();
            let producers: Vec<_> = (0..PRODUCERS)
                .map(|who| (crash as u32 * PRODUCERS + who, [1, 4, 50][rng.below(3) as usize]))
                .map(|(who, depth)| thread::spawn(move || produce(address, who, depth)))
                .collect();
            let mut clients = Vec::new();
            for reader in READERS {
                let seed = rng.next();
                if reader != "q/group=c" {
                    clients.push((reader, thread::spawn(move || confirm(address, reader, crash, seed))));
                }
                if !CONFIRMING.contains(&reader) {
                    clients.push((reader, thread::spawn(move || take(address, reader, crash))));
                }
            }
            thread::sleep(Duration::from_millis(50 + rng.below(250)));
            server.kill9();
            for producer in producers {
                let sent = producer.join().expect("a producer saw the protocol broken");
                // Of a queue for groups only plain readers get nothing.
                let offered = histories.iter_mut().filter(|(reader, _)| !groups_only || **reader != "q");
                offered.for_each(|(_, history)| history.produced(sent.iter().copied()));
            }
            for (reader, client) in clients {
                let (reads, unanswered) = client.join().expect("a client saw the protocol broken");
                let history = histories.get_mut(reader).expect("every reader is in it");
                history.read(reads);
                history.lose(0, unanswered);
            }
        }
        server.restart_with(args(seed + 1));
        let offered = histories["q/group=a"].tally(0);
        for (reader, before) in READERS.iter().zip(before) {
            check_reader(&server, reader, &histories[reader], &before, offered, groups_only);
        }
        assert_eq!(stat(&server, "curr_items"), 0, "all have passed all");
        assert_eq!(stat(&server, "bytes"), 0, "and nothing is stored");
        assert!(server.stop().success());
    }
}

/// Drains a reader, and compares what comes with what its clients saw and what the server counted.
fn check_reader(
    server: &Server,
    reader: &str,
    history: &History,
    before: &BTreeMap<String, u64>,
    offered: Tally,
    groups_only: bool,
) {
    let counted = figures(server, reader);
    assert_eq!(counted["puts"], sum(&counted, &LEFT) + counted["ready"], "{reader}: {counted:?}");
    assert_eq!(counted["open"], 0, "what was open is ready");
    let puts = counted["puts"] - before["puts"];
    assert!((offered.acknowledged..=offered.sent).contains(&puts), "{reader}: {puts} puts, but {offered:?}");
    let mut left = Vec::new();
    let mut link = Link::connect(server.addr()).expect("connect");
    let mut was_empty = false;
    while !was_empty {
        link.send(format!("get {reader}\r\n").repeat(DRAIN_DEPTH).as_bytes()).expect("send");
        for _ in 0..DRAIN_DEPTH {
            match value(&mut link).expect("a reply") {
                Some(id) => {
                    assert!(!was_empty, "what is there is taken before it is said that nothing is");
                    left.push(seen(id, Moment::MAX, End::Done(Moment::MAX)));
                }
                None => was_empty = true,
            }
        }
    }
    assert_eq!(counted["ready"], left.len() as u64, "{reader}: what is ready can be taken");
    history.verify_reads(&left).unwrap_or_else(|broken| panic!("{reader}: {broken}"));
    let after = figures(server, reader);
    assert_eq!((after["ready"], after["bytes"]), (0, 0), "{reader}");
    assert_eq!(after["gets"], counted["gets"] + left.len() as u64, "{reader}");
    if groups_only && reader == "q" {
        assert_eq!(counted["skipped"] - before["skipped"], puts);
        return;
    }
    let (gets, tally) = (counted["gets"] - before["gets"], history.tally(0));
    let most = tally.taken + tally.unanswered;
    assert!((tally.taken..=most).contains(&gets), "{reader}: {gets} gets, but {tally:?}");
}
