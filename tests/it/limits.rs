//! Limits and times of queues: what is refused, dropped or expires, under memory pressure, in any order, and over crashes.

use crate::admin::{admin_of, get};
use crate::harness::{Client, Server, eventually};
use crate::traffic::Rng;
use crate::world::{Options, World};
use ringq::queue::{Defaults, Explicit};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

fn defaults(words: &[&str]) -> Defaults {
    let mut explicit = Explicit::default();
    words.iter().for_each(|word| explicit.set(b"*", word.as_bytes()).expect("a setting"));
    Defaults::new(explicit, [])
}

fn put(body: &str) -> String {
    format!("set q 0 0 {}\r\n{body}\r\n", body.len())
}

/// A line of `stats queue q`.
fn stat(world: &mut World, client: usize, name: &str) -> u64 {
    let answer = world.ask(client, "stats queue q\r\n");
    let line = answer.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")).map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {name} in {answer}")).parse().expect("a number")
}

#[test]
fn what_is_only_in_the_store_is_loaded_to_make_room() {
    let mut world = World::new(Options {
        memory_share: 256 << 10,
        body_size_max: 8 << 10,
        queue_defaults: defaults(&["max_messages=100", "when_full=drop_oldest"]),
        ..Options::default()
    });
    let client = world.connect();
    // More than memory has room for; the rest is only in the store.
    let body = |n: u32| format!("{n:08}{}", "x".repeat(8000));
    for n in 0..100 {
        assert_eq!(world.ask(client, &put(&body(n))), "STORED\r\n");
    }
    for n in 100..250 {
        assert_eq!(world.ask(client, &put(&body(n))), "STORED\r\n");
        assert_eq!(stat(&mut world, client, "ready"), 100);
    }
    assert_eq!(stat(&mut world, client, "discarded"), 150);
    for n in 150..250 {
        let answer = world.ask(client, "get q\r\n");
        assert!(answer.contains(&format!("{n:08}x")), "{n}: {}", &answer[..answer.len().min(60)]);
    }
    assert_eq!(world.ask(client, "get q\r\n"), "END\r\n");
}

#[test]
fn many_expired_messages_go_in_pieces_and_nobody_is_told_that_there_is_nothing_behind_them() {
    let mut world = World::new(Options { queue_defaults: defaults(&["max_age=10"]), ..Options::default() });
    let (client, other) = (world.connect(), world.connect());
    for _ in 0..50 {
        world.ask(client, &put("old").repeat(100));
    }
    world.advance(9_500);
    // Behind them is one that lives.
    world.send(client, put("young").as_bytes());
    world.advance(600);
    world.send(client, b"get q\r\n");
    world.send(other, b"get q\r\n");
    world.settle();
    assert!(world.heard(client).ends_with("VALUE q 0 5\r\nyoung\r\nEND\r\n"));
    assert_eq!(world.heard(other), "END\r\n");
    assert_eq!(stat(&mut world, client, "expired"), 5000);
    // Nothing is left to look after.
    world.advance(3_000);
    world.settle();
    world.advance(3_000);
    world.settle();
    assert_eq!(world.next_deadline(), None);
}

#[test]
fn a_lower_bound_is_reached_little_by_little() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    for _ in 0..40 {
        world.ask(client, &put("x").repeat(100));
    }
    assert_eq!(world.ask(client, "config q max_messages=10 when_full=drop_oldest\r\n"), "OK\r\n");
    assert_eq!(world.ask(client, &put("y")), "STORED\r\n", "a put that leaves no more than before is taken");
    assert_eq!(stat(&mut world, client, "ready"), 4000 - 1024 + 1);
    for _ in 0..5 {
        world.advance(1_000);
        world.settle();
    }
    assert_eq!((stat(&mut world, client, "ready"), stat(&mut world, client, "discarded")), (10, 3991));
    assert_eq!(world.ask(client, "config q max_messages=5 when_full=refuse\r\n"), "OK\r\n");
    assert_eq!(world.ask(client, &put("z")), "NOT_STORED\r\n");
    assert_eq!(stat(&mut world, client, "ready"), 10, "who refuses does not drop");
}

#[test]
fn settings_and_times_survive_a_crash() {
    let mut world = World::new(Options { shards: 2, ..Options::default() });
    let client = world.connect();
    for queue in ["a", "b", "c", "d"] {
        assert_eq!(world.ask(client, &format!("config {queue} max_age=1h max_messages=2\r\n")), "OK\r\n");
        assert_eq!(world.ask(client, &format!("set {queue}/ttl=5 0 0 1\r\nx\r\n")), "STORED\r\n");
    }
    assert_eq!(world.ask(client, "config d max_age= max_messages=\r\n"), "OK\r\n");
    world.crash(3);
    let client = world.connect();
    for queue in ["a", "b", "c"] {
        let shown = world.ask(client, &format!("config {queue}\r\n"));
        assert!(shown.contains("STAT max_messages 2\r\n") && shown.contains("STAT max_age 3600\r\n"), "{shown}");
        let answers = world.ask(client, &format!("set {queue} 0 0 1\r\ny\r\nset {queue} 0 0 1\r\nz\r\n"));
        assert_eq!(answers, "STORED\r\nNOT_STORED\r\n");
    }
    assert!(world.ask(client, "config d\r\n").contains("STAT max_messages 0\r\n"));
    // Nobody asks for the queue: what is only in the store expires all the same.
    for _ in 0..8 {
        world.advance(1_000);
        world.settle();
    }
    world.crash(1);
    for _ in 0..3 {
        world.advance(1_000);
        world.settle();
    }
    let client = world.connect();
    let answer = world.ask(client, "stats queue d\r\n");
    assert!(answer.contains("STAT ready 0\r\n") && answer.contains("STAT expired 1\r\n"), "{answer}");
    assert_eq!(world.ask(client, "get a a\r\n"), "VALUE a 0 1\r\ny\r\nEND\r\n");
}

#[test]
fn a_reload_changes_what_holds_for_queues_of_which_nothing_was_said() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let file = scratch.path().join("ringq.toml");
    let write = |text: &str| std::fs::write(&file, text).expect("write the file");
    write("[queue]\nmax_messages = 1\n[queues.'big-*']\nmax_messages = 2\n");
    let server = Server::start(&["-t", "2", "--config", file.to_str().expect("a readable path")]);
    let mut client = server.connect();
    client.send(b"config own max_messages=3\r\n");
    client.expect(b"OK\r\n");
    let most = |client: &mut Client, queue: &str| {
        let shown = client.command(format!("config {queue}\r\n").as_bytes(), b"END\r\n");
        let shown = String::from_utf8(shown).expect("text");
        let line = shown.lines().find_map(|line| line.strip_prefix("STAT max_messages ").map(str::to_owned));
        line.expect("a line for the setting")
    };
    assert_eq!(["q", "big-1", "own"].map(|queue| most(&mut client, queue)), ["1", "2", "3"]);
    client.send(b"set q 0 0 1\r\nx\r\nset q 0 0 1\r\ny\r\n");
    client.expect(b"STORED\r\nNOT_STORED\r\n");
    write("[queue]\nmax_messages = 4\n");
    server.signal(rustix::process::Signal::HUP);
    eventually("the new settings", Duration::from_secs(20), || most(&mut client, "q") == "4");
    assert_eq!(["big-1", "own"].map(|queue| most(&mut client, queue)), ["4", "3"]);
    client.send(b"set q 0 0 1\r\ny\r\nconfig own max_messages=\r\n");
    client.expect(b"STORED\r\nOK\r\n");
    assert_eq!(most(&mut client, "own"), "4");
}

#[test]
fn a_queue_can_be_traced_by_itself() {
    let server = Server::start(&["-t", "2"]);
    let mut client = server.connect();
    client.send(b"config q trace=on max_messages=1 when_full=drop_oldest\r\n");
    client.expect(b"OK\r\n");
    client.send(b"set q 0 0 1\r\n1\r\nset q 0 0 1\r\n2\r\nget q\r\nset other 0 0 1\r\n3\r\n");
    client.expect(b"STORED\r\nSTORED\r\nVALUE q 0 1\r\n2\r\nEND\r\nSTORED\r\n");
    eventually("the lines of the log", Duration::from_secs(20), || {
        let log = server.output();
        ["was put", "was discarded", "was taken"]
            .iter()
            .all(|what| log.contains(&format!(" of queue q {what}, in batch ")))
    });
    assert!(!server.output().contains("of queue other"), "{}", server.output());
}

#[test]
fn the_admin_listener_shows_settings_and_what_became_of_messages() {
    let server = Server::start(&["-t", "2", "--admin", "127.0.0.1:0"]);
    let mut client = server.connect();
    client.send(b"config q max_messages=2 when_full=drop_oldest expire_to=7\r\nconfig r max_messages=1\r\n");
    client.expect(b"OK\r\nOK\r\n");
    client.send(
        b"set q/ttl=0 0 0 1\r\n1\r\nset q 0 0 1\r\n2\r\nset q 0 0 1\r\n3\r\nset r 0 0 1\r\n1\r\nset r 0 0 1\r\n2\r\n",
    );
    client.expect(b"STORED\r\nSTORED\r\nSTORED\r\nSTORED\r\nNOT_STORED\r\n");
    let admin = admin_of(&server);
    let queues: serde_json::Value = serde_json::from_str(&get(admin, "/api/v1/queues").body).expect("JSON");
    let [q, r] = [0, 1].map(|at| &queues["queues"][at]);
    let settings = serde_json::json!({ "max_messages": "2", "when_full": "drop_oldest", "expire_to": "7" });
    assert_eq!((&q["name"], &q["settings"]), (&"q".into(), &settings));
    assert_eq!((&q["discarded"], &q["refused_puts"], &r["refused_puts"]), (&1.into(), &0.into(), &1.into()));
    let metrics = get(admin, "/metrics").body;
    for line in [
        "ringq_refused_puts_total 1",
        "ringq_queue_discarded_total{queue=\"q\"} 1",
        "ringq_queue_expired_total{queue=\"q\"} 0",
        "ringq_queue_refused_puts_total{queue=\"r\"} 1",
    ] {
        assert!(metrics.lines().any(|it| it == line), "no {line} in {metrics}");
    }
}

/// What the client of a random history has seen.
#[derive(Default)]
struct Seen {
    /// When messages that were stored expire, by their numbers.
    expires_ms: BTreeMap<u64, u64>,
    /// What is open, oldest read first.
    open: VecDeque<u64>,
    /// What was open and came back.
    returned: BTreeSet<u64>,
    /// The newest that was ever served.
    newest: u64,
}

impl Seen {
    /// A message is served now: in time, and in its turn.
    fn serve(&mut self, number: u64, now_ms: u64) {
        assert!(self.expires_ms[&number] > now_ms, "{number} was served after its time");
        let is_next = number > self.newest || self.returned.remove(&number);
        assert!(is_next, "{number} was served after {}", self.newest);
        self.newest = self.newest.max(number);
    }
}

/// Random puts, reads and changes of one queue's settings: nothing is served after its time or out of order, a bound holds after every put, a put
/// is refused only by a bound that is reached, and what is gone is counted for what it went for.
#[test]
fn random_histories_keep_to_the_bounds() {
    let replayed = std::env::var("RINGQ_SEED").ok().map(|seed| seed.parse::<u64>().expect("RINGQ_SEED is a number"));
    for seed in replayed.map_or(0..150, |seed| seed..seed + 1) {
        println!("replay this history with RINGQ_SEED={seed} cargo test --test it random_histories_keep_to_the_bounds");
        random_history(seed);
    }
}

fn random_history(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut world = World::new(Options {
        shards: 1 + rng.below(2) as u16,
        memory_share: if rng.below(100) < 50 { 64 << 10 } else { 4 << 20 },
        body_size_max: 2 << 10,
        ..Options::default()
    });
    let client = world.connect();
    let mut seen = Seen::default();
    let (mut bound, mut drops, mut next, mut refused, mut taken) = (0, false, 0u64, 0, 0);
    for _ in 0..300 {
        match rng.below(10) {
            0 => {
                (bound, drops) = (rng.below(12), (rng.below(100) < 50));
                let when_full = if drops { "drop_oldest" } else { "refuse" };
                let request = format!("config q max_messages={bound} when_full={when_full}\r\n");
                assert_eq!(world.ask(client, &request), "OK\r\n");
            }
            1..=4 => {
                next += 1;
                let ttl_s = if rng.below(100) < 30 { 1 + rng.below(3) } else { 0 };
                let size = if rng.below(100) < 30 { 2000 } else { 0 };
                let body = format!("{next}.{}", "x".repeat(size));
                let before = (next > 1).then(|| held(&mut world, client));
                let answer = world.ask(client, &format!("set q/ttl={ttl_s} 0 0 {}\r\n{body}\r\n", body.len()));
                match &*answer {
                    "STORED\r\n" => {
                        let expires_ms = if ttl_s == 0 { u64::MAX } else { world.now_ms() + ttl_s * 1000 };
                        seen.expires_ms.insert(next, expires_ms);
                        let (held, before) = (held(&mut world, client), before.unwrap_or(0));
                        assert!(bound == 0 || held <= bound.max(before), "{held} of {bound}, {before} before");
                    }
                    "NOT_STORED\r\n" => {
                        refused += 1;
                        let held = held(&mut world, client);
                        assert!(bound > 0 && held >= bound, "refused with {held} of {bound}");
                        assert!(!drops || seen.open.len() as u64 >= bound, "only what is open stands in the way");
                    }
                    other => panic!("{other}"),
                }
            }
            5 | 6 => {
                if let Some(number) = number_of(&world.ask(client, "get q\r\n")) {
                    seen.serve(number, world.now_ms());
                    taken += 1;
                }
            }
            7 => {
                if let Some(number) = number_of(&world.ask(client, "get q/open\r\n")) {
                    seen.serve(number, world.now_ms());
                    seen.open.push_back(number);
                }
            }
            8 if !seen.open.is_empty() => {
                let number = seen.open.pop_front().expect("just seen");
                let how = if rng.below(100) < 50 { "close" } else { "abort" };
                match how {
                    "close" => taken += 1,
                    _ => assert!(seen.returned.insert(number)),
                }
                assert_eq!(world.ask(client, &format!("get q/{how}\r\n")), "END\r\n");
            }
            _ => {
                world.advance(rng.below(1500));
                world.settle();
            }
        }
    }
    if next == 0 {
        return;
    }
    while seen.open.pop_front().is_some() {
        taken += 1;
        assert_eq!(world.ask(client, "get q/close\r\n"), "END\r\n");
    }
    while let Some(number) = number_of(&world.ask(client, "get q\r\n")) {
        seen.serve(number, world.now_ms());
        taken += 1;
    }
    let [puts, gets, expired, discarded, refusals] =
        ["puts", "gets", "expired", "discarded", "refused_puts"].map(|name| stat(&mut world, client, name));
    assert_eq!((puts, gets, refusals), (next - refused, taken, refused));
    assert_eq!(puts, gets + expired + discarded, "what is gone is counted");
}

fn held(world: &mut World, client: usize) -> u64 {
    stat(world, client, "ready") + stat(world, client, "open")
}

/// The number at the beginning of the message in an answer.
fn number_of(answer: &str) -> Option<u64> {
    let body = answer.split("\r\n").nth(1).filter(|_| answer.starts_with("VALUE "))?;
    Some(body.split('.').next()?.parse().expect("a number"))
}

// --- the gate, against the real process ---

const GATE: u64 = 1500;
const CLIENTS: u32 = 6;
const GATES: [&str; 4] = ["gate-a", "gate-b", "gate-c", "gate-d"];

/// `kill -9` in the middle of puts, again and again: as many are stored as the gates admit, never one more, and every one that was
/// acknowledged is there.
#[test]
fn gates_admit_their_number_over_crashes() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    let args = ["-t", "2"];
    let mut server = Server::start_in(&data, &args);
    for gate in GATES {
        server.connect().command(format!("config {gate} max_admissions={GATE}\r\n").as_bytes(), b"OK\r\n");
    }
    let mut rng = Rng::new(1);
    let mut acknowledged: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut kills = 0;
    loop {
        let is_last = kills == 12;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (address, life) = (server.addr(), kills);
                thread::spawn(move || knock(address, &format!("{life}-{client}"), is_last))
            })
            .collect();
        if !is_last {
            thread::sleep(Duration::from_millis(20 + rng.below(120)));
            server.kill9();
        }
        for client in clients {
            for (gate, body) in client.join().expect("a client") {
                acknowledged.entry(gate).or_default().push(body);
            }
        }
        if is_last {
            break;
        }
        kills += 1;
        server.restart_with(&args);
        for gate in GATES {
            assert!(puts(&server, gate) <= GATE, "{gate} after {kills} kills");
        }
    }
    for gate in GATES {
        assert_eq!(puts(&server, gate), GATE, "{gate}");
        let mut client = server.connect();
        let mut stored = Vec::new();
        while let Some(body) = taken(&client.command(format!("get {gate}\r\n").as_bytes(), b"END\r\n")) {
            stored.push(body);
        }
        assert_eq!(stored.len() as u64, GATE, "{gate}");
        stored.sort_unstable();
        for body in &acknowledged[gate] {
            assert!(stored.binary_search(body).is_ok(), "{gate}: {body} was acknowledged");
        }
        client.send(format!("set {gate} 0 0 1\r\nx\r\n").as_bytes());
        client.expect(b"NOT_STORED\r\n");
    }
}

/// Puts into all gates in turn until the server is gone, or until it refuses all if `to_the_end`. Returns what was acknowledged.
fn knock(address: SocketAddr, name: &str, to_the_end: bool) -> Vec<(String, String)> {
    use std::io::{BufRead, BufReader, Write};
    let mut acknowledged = Vec::new();
    let Ok(stream) = std::net::TcpStream::connect(address) else { return acknowledged };
    let mut replies = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut stream = stream;
    for number in 0.. {
        let body = format!("{name}-{number}");
        let requests: String =
            GATES.iter().map(|gate| format!("set {gate} 0 0 {}\r\n{body}\r\n", body.len())).collect();
        if stream.write_all(requests.as_bytes()).is_err() {
            return acknowledged;
        }
        let mut refused = 0;
        for gate in GATES {
            let mut line = String::new();
            match replies.read_line(&mut line) {
                Ok(_) if line == "STORED\r\n" => acknowledged.push((gate.to_owned(), body.clone())),
                Ok(_) if line == "NOT_STORED\r\n" => refused += 1,
                // The server is gone, perhaps in the middle of a line.
                _ => return acknowledged,
            }
        }
        if to_the_end && refused == GATES.len() {
            return acknowledged;
        }
    }
    acknowledged
}

fn puts(server: &Server, queue: &str) -> u64 {
    let answer = server.connect().command(format!("stats queue {queue}\r\n").as_bytes(), b"END\r\n");
    let answer = String::from_utf8(answer).expect("text");
    let line = answer.lines().find_map(|line| line.strip_prefix("STAT puts "));
    line.map_or(0, |count| count.parse().expect("a number"))
}

fn taken(answer: &[u8]) -> Option<String> {
    let text = String::from_utf8(answer.to_vec()).expect("text");
    text.split("\r\n").nth(1).filter(|_| text.starts_with("VALUE ")).map(str::to_owned)
}
