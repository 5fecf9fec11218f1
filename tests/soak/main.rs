//! A soak: a server with everything switched on, under every kind of client at once, dies again and again and starts with other options; at the
//! end of each round [`crate::history`] judges all that was seen, reader by reader, and after each start the server's own books are checked.
//!
//! A round has a seed, which decides its plan: the options of each start, how long the server lives and how it dies, and what each client draws.
//! Where in its work a client is at the kill is the scheduler's. A round that fails says how to repeat its plan, and keeps its data directory.
//!
//! `RINGQ_SOAK_ROUNDS` rounds with `RINGQ_SOAK_SECONDS` of load each, from `RINGQ_SEED` on: `make soak`.

mod account;
mod books;
mod cast;
mod clients;
#[allow(dead_code)]
#[path = "../it/facts.rs"]
mod facts;
#[allow(dead_code)]
#[path = "../it/harness.rs"]
mod harness;
#[allow(dead_code)]
#[path = "../it/history.rs"]
mod history;
mod shared;
#[allow(dead_code)]
#[path = "../it/traffic.rs"]
mod traffic;

use crate::facts::stat;
use crate::harness::{Server, candidate_port, is_taken};
use crate::history::{End, History, Moment, Outcome, Read};
use crate::traffic::{Answer, Link, MessageId, Rng, queue_name};
use account::{Account, Clock, Seat, key, put_of};
use books::{Books, books, figures_of};
use cast::{
    ADMITTED, FLEETING, Part, READERS, Reader, SHARED_DEAD, hands_over, is_emptied, moves, part, queues, readers,
    refuses, settings,
};
use ringq::proto::Dialect;
use rustix::process::Signal;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What `make test` does.
const ROUNDS: u64 = 3;
const SECONDS: u64 = 2;

/// Requests on their way at once where a reader is drained.
const DRAIN_DEPTH: usize = 256;

/// Producers have the numbers from a life's on; the one who fills the gates at the end has this.
const LIFE_LEN: u32 = 100;
const LAST_PRODUCER: u32 = 1_000_000;

/// How a life of the server ends.
#[derive(Clone, Copy, Debug)]
enum Death {
    Kill,
    Stop,
    /// Killed so long after it was told to stop, ms.
    KillOfStopping(u64),
}

/// One start of the server, and what comes until the next.
#[derive(Clone, Debug)]
struct Life {
    args: Vec<String>,
    udp: bool,
    load_ms: u64,
    death: Death,
    /// Before this start another is killed after so many ms.
    stillborn_ms: Option<u64>,
}

/// What a seed says.
fn plan(rng: &mut Rng, seconds: u64) -> Vec<Life> {
    let lives = 2 + rng.below(4);
    let load_ms = seconds * 1000 / lives;
    let life = |_| {
        let shards = 1 + rng.below(4);
        // The least that it starts with, somewhat more, or more than will be needed.
        let memory_mb = [2 * shards, 4 * shards, 64][rng.below(3) as usize];
        let mut args = format!("--kestrel-port 0 -t {shards} -m {memory_mb}");
        for (option, chance) in
            [(" -N", 2), (" -C 1", 2), (" --journal-depth 1", 4), (" --max-open-reads 64", 4), (" -S 1", 8)]
        {
            if rng.below(chance) == 0 {
                args += option;
            }
        }
        args += [" -E 3072", " -E 8192"][rng.below(2) as usize];
        Life {
            args: args.split(' ').map(str::to_owned).collect(),
            udp: rng.below(2) == 0,
            load_ms: load_ms / 2 + rng.below(load_ms),
            death: match rng.below(8) {
                0 => Death::Stop,
                1 => Death::KillOfStopping(rng.below(30)),
                _ => Death::Kill,
            },
            stillborn_ms: (rng.below(4) == 0).then(|| rng.below(80)),
        }
    };
    (0..lives).map(life).collect()
}

/// Says what to do when the round fails, and keeps its data then.
struct Keeper {
    repeat: String,
    plan: Vec<Life>,
    data: PathBuf,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the plan: {:#?}", self.plan);
            eprintln!("the data directory is kept: {}\nrepeat the plan with: {}", self.data.display(), self.repeat);
        } else {
            // It is in the directory for temporary files; nobody misses it.
            let _ = std::fs::remove_dir_all(&self.data);
        }
    }
}

/// All that clients know.
struct Known {
    accounts: Vec<Account>,
    clock: Clock,
}

/// What was done in all rounds.
#[derive(Default, Debug)]
struct Totals {
    rounds: u64,
    kills: u64,
    stops: u64,
    kills_of_stopping: u64,
    kills_of_starting: u64,
    puts: u64,
    acknowledged: u64,
    refused: u64,
    done: u64,
    given_back: u64,
    returned: u64,
    unanswered: u64,
    moved: u64,
    drained: u64,
    /// Messages that were dropped for room, that were emptied away, and that were delivered too often, once for each group and plain reader of
    /// a queue with groups.
    shared_dropped: u64,
    shared_emptied: u64,
    shared_dead: u64,
    /// Groups that nobody asked.
    groups_ended: u64,
}

#[test]
fn a_server_with_everything_on_keeps_its_promises_over_kills() {
    let number =
        |name: &str| std::env::var(name).ok().filter(|it| !it.is_empty()).map(|it| it.parse().expect("a number"));
    let first = number("RINGQ_SEED");
    let rounds = number("RINGQ_SOAK_ROUNDS").unwrap_or(if first.is_some() { 1 } else { ROUNDS });
    let seconds = number("RINGQ_SOAK_SECONDS").unwrap_or(SECONDS);
    let first: u64 = first.unwrap_or(0);
    let mut totals = Totals::default();
    let started = Instant::now();
    for seed in first..first + rounds {
        println!("round {} of {rounds}: make soak SEED={seed} ROUNDS=1 SECONDS={seconds}", seed - first + 1);
        round(seed, seconds, &mut totals);
    }
    println!("{totals:?} in {} s", started.elapsed().as_secs());
}

fn round(seed: u64, seconds: u64, totals: &mut Totals) {
    let mut rng = Rng::new(seed);
    let plan = plan(&mut rng, seconds);
    let directory = tempfile::Builder::new().prefix("ringq-soak-").tempdir().expect("a temporary directory").keep();
    let data = directory.join("data");
    let repeat = format!("make soak SEED={seed} ROUNDS=1 SECONDS={seconds}");
    let _keeper = Keeper { repeat, plan: plan.clone(), data: directory };
    let clock = Clock(Instant::now());
    let mut known = Known { accounts: Vec::new(), clock };
    let mut server: Option<Server> = None;
    let mut before = Books::new();
    for (number, life) in plan.iter().enumerate() {
        if let (Some(after_ms), Some(server)) = (life.stillborn_ms, &mut server) {
            server.die_while_starting(&texts(&life.args), Duration::from_millis(after_ms));
            totals.kills_of_starting += 1;
        }
        let udp = start(&mut server, &data, life);
        let server = server.as_mut().expect("just started");
        if number == 0 {
            set_up(server);
        }
        before = books(server, &before);
        let load = Load::start(server, udp, clock, number as u32 * LIFE_LEN, &mut rng);
        thread::sleep(Duration::from_millis(life.load_ms));
        totals.groups_ended += stat(server, "groups_ended");
        let alive = clock.now();
        match life.death {
            Death::Kill => {
                server.kill9();
                totals.kills += 1;
            }
            Death::Stop => {
                let status = server.stop();
                assert!(status.success(), "{status}");
                totals.stops += 1;
            }
            Death::KillOfStopping(after_ms) => {
                server.signal(Signal::TERM);
                thread::sleep(Duration::from_millis(after_ms));
                server.kill9();
                totals.kills_of_stopping += 1;
            }
        }
        known.accounts.extend(load.join(alive, clock.now()));
    }
    let last = Life { udp: false, ..plan[0].clone() };
    start(&mut server, &data, &last);
    let mut server = server.expect("just started");
    books(&server, &before);
    judge(&server, known, totals);
    assert!(server.stop().success());
    totals.rounds += 1;
}

fn texts(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// Starts a server, the first or the next one on its data. Returns where it takes datagrams.
fn start(server: &mut Option<Server>, data: &Path, life: &Life) -> Option<SocketAddr> {
    loop {
        let udp = life.udp.then(|| SocketAddr::from((IpAddr::from([127, 0, 0, 1]), candidate_port())));
        let port = udp.map(|udp| udp.port().to_string());
        let mut args = texts(&life.args);
        args.extend(port.iter().flat_map(|port| ["-U", port]));
        let refused = match server {
            Some(server) => server.try_restart_with(&args).err(),
            None => match Server::try_start_in(data, &args) {
                Ok(started) => {
                    *server = Some(started);
                    None
                }
                Err(refused) => Some(refused),
            },
        };
        match refused {
            None => return udp,
            // Nobody can ask for a port of the system's choice there.
            Some(refused) if is_taken(&refused) => {}
            Some(refused) => panic!("ringq did not start: {refused:?}"),
        }
    }
}

/// Gives the queues their settings and their groups. Those that have none are made by their first message.
fn set_up(server: &Server) {
    let mut client = server.connect();
    for queue in queues() {
        let name = queue_name(queue);
        if let Some(settings) = settings(queue) {
            client.send(format!("config {name} {settings}\r\n").as_bytes());
            client.expect(b"OK\r\n");
        }
        for reader in READERS.iter().filter(|reader| readers(queue).contains(reader)) {
            client.send(format!("get {}\r\n", key(Dialect::MemcacheQ, queue, *reader)).as_bytes());
            client.expect(b"END\r\n");
        }
    }
}

/// The clients of one life.
struct Load {
    clients: Vec<JoinHandle<Account>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    fn start(server: &Server, udp: Option<SocketAddr>, clock: Clock, first_producer: u32, rng: &mut Rng) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        let (memcache, kestrel) = ((server.addr(), Dialect::MemcacheQ), (server.kestrel_addr(), Dialect::Kestrel));
        for (who, (address, dialect)) in [memcache, memcache, kestrel].into_iter().enumerate() {
            if let Some(seat) = Seat::take(address, dialect, clock, rng.next()) {
                clients.push(thread::spawn(move || clients::produce(seat, first_producer + who as u32)));
            }
        }
        for (address, dialect) in [memcache, memcache, memcache, memcache, kestrel, kestrel] {
            if let Some(seat) = Seat::take(address, dialect, clock, rng.next()) {
                clients.push(thread::spawn(move || clients::read(seat)));
            }
        }
        if let Some(seat) = Seat::take(server.addr(), Dialect::MemcacheQ, clock, rng.next()) {
            clients.push(thread::spawn(move || clients::operate(seat)));
        }
        let seed = rng.next();
        if let Some(udp) = udp {
            let stop = Arc::clone(&stop);
            let who = first_producer + LIFE_LEN / 2;
            clients.push(thread::spawn(move || clients::send_datagrams(udp, clock, seed, who, &stop)));
        }
        Load { clients, stop }
    }

    /// Waits for all of them. The server was alive until `alive`, and gone by `gone`.
    fn join(self, alive: Moment, gone: Moment) -> Vec<Account> {
        self.stop.store(true, Ordering::Relaxed);
        let account = |client: JoinHandle<Account>| {
            let mut account = client.join().expect("a client saw the protocol broken");
            account.close(alive, gone);
            account
        };
        self.clients.into_iter().map(account).collect()
    }
}

/// Takes everything out, and judges what clients saw and what the server counted.
fn judge(server: &Server, mut known: Known, totals: &mut Totals) {
    known.accounts.push(fill_gates(server, known.clock));
    let mut fleeting: Vec<(Reader, Vec<Read>)> = Vec::new();
    for queue in queues().filter(|queue| part(*queue) == Part::Fleeting) {
        // The others end with what they have.
        for reader in FLEETING[..2].iter().map(|number| Reader::Fleeting(*number)) {
            fleeting.push((reader, drain(server, known.clock, queue, reader, &Books::new())));
        }
    }
    shared::verify_fleeting(&known, &fleeting);
    let counted: Books = pairs().map(|pair| (pair, figures_of(server, pair.0, pair.1))).collect();
    // What must leave a queue leaves it when it is at its head, so then those are empty from which messages go to others.
    let (targets, sources): (Vec<_>, Vec<_>) = pairs().partition(|(queue, _)| part(*queue) == Part::Target);
    let mut drained: Vec<(Reader, Vec<Read>)> = Vec::new();
    for (queue, reader) in sources {
        drained.push((reader, drain(server, known.clock, queue, reader, &counted)));
    }
    books(server, &Books::new());
    for (queue, reader) in targets {
        drained.push((reader, drain(server, known.clock, queue, reader, &Books::new())));
    }
    shared::await_ends(server);
    let counted_last: Books = pairs().map(|pair| (pair, figures_of(server, pair.0, pair.1))).collect();
    for ((queue, reader), figures) in &counted_last {
        let left = (figures["ready"], figures["bytes"], figures["open"], figures["moving"]);
        assert_eq!(left, (0, 0, 0, 0), "queue {queue}, {reader:?} is empty");
    }
    assert_eq!((stat(server, "curr_items"), stat(server, "bytes")), (0, 0), "all readers have passed all");
    let shared_dead = (SHARED_DEAD, Reader::Plain);
    let of_all = drained.iter().flat_map(|(_, reads)| reads.iter().copied());
    let of_all: Vec<Read> = of_all.filter(|read| read.from == SHARED_DEAD).collect();
    shared::verify_shared_dead(&known, &of_all, &counted[&shared_dead], &counted_last[&shared_dead]);
    for reader in READERS {
        let history = history_of(&known, reader, &counted_last);
        let drained = drained.iter().filter(|(of, _)| *of == reader).flat_map(|(_, reads)| reads.iter().copied());
        let drained: Vec<Read> = drained.filter(|read| read.from != SHARED_DEAD).collect();
        history.verify_reads(&drained).unwrap_or_else(|broken| panic!("{reader:?}: {broken}"));
        let read_here = |queue: &u32| *queue != SHARED_DEAD && readers(*queue).contains(&reader);
        for queue in queues().filter(read_here) {
            check_counts(&history, queue, reader, &counted[&(queue, reader)]);
        }
    }
    let sum = |of: Part, name: &str| {
        let of_part = counted_last.iter().filter(|((queue, _), _)| part(*queue) == of);
        of_part.map(|(_, figures)| figures[name]).sum::<u64>()
    };
    totals.shared_dropped += sum(Part::SharedDropping, "discarded");
    totals.shared_emptied += sum(Part::SharedFlushed, "deleted");
    totals.shared_dead += sum(Part::SharedWork, "dead_lettered");
    let puts = || known.accounts.iter().flat_map(|account| &account.puts);
    totals.puts += puts().count() as u64;
    let count = |outcome| puts().filter(|put| put.outcome == outcome).count() as u64;
    totals.acknowledged += count(Outcome::Stored);
    totals.refused += count(Outcome::Refused);
    let reads = || known.accounts.iter().flat_map(|account| &account.reads).map(|(_, read)| read);
    let count = |ended: fn(&Read) -> bool| reads().filter(|read| ended(read)).count() as u64;
    totals.done += count(|read| matches!(read.end, End::Done(_)));
    totals.given_back += count(|read| read.end == End::GivenBack);
    totals.returned += count(|read| read.end == End::Returned);
    totals.unanswered += count(|read| read.end == End::MaybeDone)
        + known.accounts.iter().flat_map(|account| account.lost.values()).sum::<u64>();
    totals.moved += count(|read| read.from != read.id.queue);
    for (_, reads) in &drained {
        totals.drained += reads.len() as u64;
        totals.moved += reads.iter().filter(|read| read.from != read.id.queue).count() as u64;
    }
}

/// Every reader of every queue.
fn pairs() -> impl Iterator<Item = (u32, Reader)> {
    queues().flat_map(|queue| readers(queue).iter().map(move |reader| (queue, *reader)))
}

/// Puts into the gates until they refuse: as many are in as they admit, over all lives.
fn fill_gates(server: &Server, clock: Clock) -> Account {
    let mut account = Account::default();
    let mut link = Link::connect(server.addr()).expect("connect");
    for queue in queues().filter(|queue| part(*queue) == Part::Gate) {
        for number in 0.. {
            let id = MessageId { producer: LAST_PRODUCER, queue, number };
            let mut put = put_of(id, clock.now(), 0);
            let head = format!("set {} 0 0 {}\r\n", queue_name(queue), id.body().len());
            link.send(&[head.as_bytes(), &id.body(), b"\r\n"].concat()).expect("send");
            let line = link.line().expect("an answer");
            put.settled = clock.now();
            put.outcome = match &line[..] {
                b"STORED" => Outcome::Stored,
                b"NOT_STORED" => Outcome::Refused,
                line => panic!("{}", line.escape_ascii()),
            };
            account.puts.push(put);
            if put.outcome == Outcome::Refused {
                break;
            }
        }
        assert_eq!(figures_of(server, queue, Reader::Plain)["puts"], ADMITTED, "a gate that refuses is full");
    }
    account
}

/// Takes all that is ready, in its order; as many as the server has counted, if it has.
fn drain(server: &Server, clock: Clock, queue: u32, reader: Reader, counted: &Books) -> Vec<Read> {
    let key = key(Dialect::MemcacheQ, queue, reader);
    let mut link = Link::connect(server.addr()).expect("connect");
    let mut reads = Vec::new();
    let mut was_empty = false;
    while !was_empty {
        let asked = clock.now();
        link.send(format!("get {key}\r\n").repeat(DRAIN_DEPTH).as_bytes()).expect("send");
        for _ in 0..DRAIN_DEPTH {
            match link.answer().expect("an answer") {
                Answer::Value { body, .. } => {
                    assert!(!was_empty, "what is there is taken before it is said that nothing is");
                    let (id, came) = (MessageId::of_body(&body), clock.now());
                    reads.push(Read { id, from: queue, asked, came, held_until: came, end: End::Done(came) });
                    assert!(link.value().expect("an answer").is_none(), "END follows");
                }
                Answer::Line(line) => {
                    assert_eq!(line, b"END");
                    was_empty = true;
                }
            }
        }
    }
    let may_leave = matches!(
        part(queue),
        Part::Mortal | Part::Groups | Part::GroupsOnly | Part::Work | Part::Hasty | Part::SharedWork
    );
    if let Some(figures) = counted.get(&(queue, reader)).filter(|_| !may_leave) {
        assert_eq!(figures["ready"], reads.len() as u64, "{key}: what is ready can be taken");
    }
    reads
}

/// What the clients of one reader know, with what may have happened to it.
fn history_of(known: &Known, reader: Reader, counted: &Books) -> History {
    let mut history = History::default();
    history.allow_hand_over();
    history.allow_reordering();
    for queue in queues() {
        if refuses(queue) {
            history.allow_refusal(queue);
        }
        if let Some(moves) = moves(queue) {
            history.allow_move(queue, moves);
        }
        if let Some(figures) = counted.get(&(queue, reader)) {
            // What expired and went to another queue is not gone.
            let expired = if moves(queue).is_some() { 0 } else { figures["expired"] };
            // Where all readers' messages go it is not this one's any more.
            let away = if part(queue) == Part::SharedWork { figures["dead_lettered"] } else { 0 };
            history.excuse(queue, figures["discarded"] + figures["deleted"] + away, expired);
        }
    }
    for account in &known.accounts {
        account.puts.iter().filter(|put| readers(put.id.queue).contains(&reader)).for_each(|put| history.put(*put));
        let reads = account.reads.iter().filter(|(of, read)| *of == reader && read.from != SHARED_DEAD);
        history.read(reads.map(|(_, read)| *read).collect());
        let of_reader = |((of, queue), count): (&(Reader, u32), &u64)| (*of == reader).then_some((*queue, *count));
        account.lost.iter().filter_map(of_reader).for_each(|(queue, count)| history.lose(queue, count));
        account.unheard.iter().filter_map(of_reader).for_each(|(queue, count)| history.mishear(queue, count));
    }
    history
}

/// What the server counted before the drain against what clients know.
fn check_counts(history: &History, queue: u32, reader: Reader, figures: &books::Figures) {
    // What was emptied under its readers was confirmed by some that had it no more.
    if is_emptied(queue, reader) {
        return;
    }
    let tally = history.tally(queue);
    // A crash may take the counts of what was handed over from both sides.
    let uncounted = if hands_over(queue) { tally.taken + tally.unanswered } else { 0 };
    let (puts, gets) = (figures["puts"], figures["gets"]);
    if part(queue) != Part::Target {
        let least = tally.acknowledged.saturating_sub(uncounted);
        assert!((least..=tally.sent).contains(&puts), "queue {queue}, {reader:?}: {puts} puts, but {tally:?}");
    }
    let least = tally.taken.saturating_sub(uncounted);
    let most = tally.taken + tally.unanswered;
    assert!((least..=most).contains(&gets), "queue {queue}, {reader:?}: {gets} gets, but {tally:?}");
}
