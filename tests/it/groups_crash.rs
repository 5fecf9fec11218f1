//! Groups against the real process and `kill -9`: each group sees every message that was put at least once, what it has confirmed or taken
//! never again, and the counters of each reader agree with that.
//!
//! Invariant: a client reports what it knows. A message counts as put when its `STORED` came, as seen when its `VALUE` came, and as done
//! when the reply to its close, or the `VALUE` of a get, came.

use crate::facts::{figures, stat};
use crate::harness::Server;
use crate::traffic::{Link, MessageId, Rng};
use std::collections::{BTreeMap, BTreeSet, HashSet};
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

/// What the clients of one reader know.
#[derive(Default)]
struct Seen {
    seen: HashSet<MessageId>,
    done: HashSet<MessageId>,
    /// Requests that were not answered and may each have ended a message.
    unanswered: u64,
}

impl Seen {
    fn see(&mut self, reader: &str, id: MessageId) {
        assert!(!self.done.contains(&id), "{reader} was given {id:?} again after it was done with it");
        self.seen.insert(id);
    }

    fn finish(&mut self, reader: &str, id: MessageId) {
        assert!(self.done.insert(id), "{reader} has done {id:?} twice");
    }
}

/// Something that a client of a reader got to know, in its order.
#[derive(Clone, Copy)]
enum Event {
    Seen(MessageId),
    Done(MessageId),
    Unanswered,
}

fn value(link: &mut Link) -> io::Result<Option<MessageId>> {
    let Some((_, body)) = link.value()? else { return Ok(None) };
    assert!(link.value()?.is_none(), "END follows");
    Ok(Some(MessageId::of_body(&body)))
}

/// Puts messages until the server is gone. Returns how many it sent, and which were stored.
fn produce(address: SocketAddr, producer: u32, depth: usize) -> (u64, Vec<MessageId>) {
    let (mut sent, mut stored) = (0, Vec::new());
    let Ok(mut link) = Link::connect(address) else { return (sent, stored) };
    loop {
        let ids: Vec<_> = (sent..sent + depth as u64).map(|number| MessageId { producer, queue: 0, number }).collect();
        let mut requests = Vec::new();
        for id in &ids {
            let body = id.body();
            requests.extend(format!("set q 0 0 {}\r\n", body.len()).into_bytes());
            requests.extend(body);
            requests.extend(b"\r\n");
        }
        sent += depth as u64;
        if link.send(&requests).is_err() {
            return (sent, stored);
        }
        for id in ids {
            match link.line() {
                Ok(line) => assert_eq!(line, b"STORED"),
                Err(_) => return (sent, stored),
            }
            stored.push(id);
        }
    }
}

/// Opens some messages at a time, and confirms them, or gives them back, until the server is gone.
fn confirm(address: SocketAddr, reader: &str, seed: u64) -> Vec<Event> {
    let mut events = Vec::new();
    // It ends with the server, whenever that is.
    let _ = confirm_until_gone(address, reader, &mut Rng::new(seed), &mut events);
    events
}

fn confirm_until_gone(address: SocketAddr, reader: &str, rng: &mut Rng, events: &mut Vec<Event>) -> io::Result<()> {
    let mut link = Link::connect(address)?;
    loop {
        let mut open = Vec::new();
        let count = 1 + rng.below(8) as usize;
        link.send(format!("get {reader}/open/t=5\r\n").repeat(count).as_bytes())?;
        for _ in 0..count {
            if let Some(id) = value(&mut link)? {
                events.push(Event::Seen(id));
                open.push(id);
            }
        }
        for id in open {
            let gives_back = rng.below(8) == 0;
            if !gives_back {
                events.push(Event::Unanswered);
            }
            let option = if gives_back { "abort" } else { "close" };
            link.send(format!("get {reader}/{option}\r\n").as_bytes())?;
            assert!(value(&mut link)?.is_none(), "END to a close");
            if !gives_back {
                *events.last_mut().expect("just pushed") = Event::Done(id);
            }
        }
    }
}

/// Takes messages until the server is gone.
fn take(address: SocketAddr, reader: &str) -> Vec<Event> {
    let mut events = Vec::new();
    let Ok(mut link) = Link::connect(address) else { return events };
    while link.send(format!("get {reader}\r\n").as_bytes()).is_ok() {
        match value(&mut link) {
            Ok(Some(id)) => events.extend([Event::Seen(id), Event::Done(id)]),
            Ok(None) => {}
            Err(_) => break,
        }
    }
    events.push(Event::Unanswered);
    events
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
        let mut seen: BTreeMap<&str, Seen> = READERS.iter().map(|reader| (*reader, Seen::default())).collect();
        let (mut sent, mut stored) = (0, Vec::new());
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
                    clients.push((reader, thread::spawn(move || confirm(address, reader, seed))));
                }
                if !CONFIRMING.contains(&reader) {
                    clients.push((reader, thread::spawn(move || take(address, reader))));
                }
            }
            thread::sleep(Duration::from_millis(50 + rng.below(250)));
            server.kill9();
            for producer in producers {
                let (of_one, stored_of_one) = producer.join().expect("a producer saw the protocol broken");
                sent += of_one;
                stored.extend(stored_of_one);
            }
            // Clients of one reader know nothing of each other, so what one gave back another may see later in this life.
            let mut done: Vec<(&str, MessageId)> = Vec::new();
            for (reader, client) in clients {
                let of = seen.get_mut(reader).expect("every reader is in it");
                for event in client.join().expect("a client saw the protocol broken") {
                    match event {
                        Event::Seen(id) => of.see(reader, id),
                        Event::Done(id) => done.push((reader, id)),
                        Event::Unanswered => of.unanswered += 1,
                    }
                }
            }
            for (reader, id) in done {
                seen.get_mut(reader).expect("every reader is in it").finish(reader, id);
            }
        }
        server.restart_with(args(seed + 1));
        for (reader, before) in READERS.iter().zip(before) {
            let of = seen.get_mut(reader).expect("every reader is in it");
            check_reader(&server, reader, of, &before, &stored, sent, groups_only);
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
    of: &mut Seen,
    before: &BTreeMap<String, u64>,
    stored: &[MessageId],
    sent: u64,
    groups_only: bool,
) {
    let counted = figures(server, reader);
    assert_eq!(counted["puts"], sum(&counted, &LEFT) + counted["ready"], "{reader}: {counted:?}");
    assert_eq!(counted["open"], 0, "what was open is ready");
    let puts = counted["puts"] - before["puts"];
    assert!((stored.len() as u64..=sent).contains(&puts), "{reader}: {puts} puts of {} to {sent}", stored.len());
    let mut left = Vec::new();
    let mut link = Link::connect(server.addr()).expect("connect");
    let mut was_empty = false;
    while !was_empty {
        link.send(format!("get {reader}\r\n").repeat(DRAIN_DEPTH).as_bytes()).expect("send");
        for _ in 0..DRAIN_DEPTH {
            match value(&mut link).expect("a reply") {
                Some(id) => {
                    assert!(!was_empty, "what is there is taken before it is said that nothing is");
                    left.push(id);
                    of.see(reader, id);
                }
                None => was_empty = true,
            }
        }
    }
    assert_eq!(counted["ready"], left.len() as u64, "{reader}: what is ready can be taken");
    for producer in left.iter().map(|id| id.producer).collect::<BTreeSet<_>>() {
        let numbers = left.iter().filter(|id| id.producer == producer).map(|id| id.number);
        assert!(numbers.is_sorted_by(|a, b| a < b), "{reader}: in their order, each once");
    }
    let after = figures(server, reader);
    assert_eq!((after["ready"], after["bytes"]), (0, 0), "{reader}");
    assert_eq!(after["gets"], counted["gets"] + left.len() as u64, "{reader}");
    if groups_only && reader == "q" {
        assert!(of.seen.is_empty(), "messages are for groups only");
        assert_eq!(counted["skipped"] - before["skipped"], puts);
        return;
    }
    let gets = counted["gets"] - before["gets"];
    let done = of.done.len() as u64;
    assert!((done..=done + of.unanswered).contains(&gets), "{reader}: {gets} gets, {done} and {}", of.unanswered);
    let missing = stored.iter().filter(|id| !of.seen.contains(id)).count() as u64;
    let lost_max = if CONFIRMING.contains(&reader) { 0 } else { of.unanswered };
    assert!(missing <= lost_max, "{reader} has not seen {missing} messages that were stored, {lost_max} may be lost");
}
