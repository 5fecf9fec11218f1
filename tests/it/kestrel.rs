//! Kestrel's dialect beyond what a transcript can say: random requests against a model of what Kestrel would answer, and the port of a
//! real server.
//!
//! Invariant of the model: one request at a time, so every reply is known beforehand, byte for byte.

use crate::harness::{Client, Server, eventually};
use crate::traffic::Rng;
use crate::world::{Options, World};
use ringq::proto::Dialect;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::fs;
use std::time::Duration;

/// How long a server may take to do what it was asked for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Open reads of one connection and queue.
const OPEN_READS_MAX: usize = 3;

/// What requests are about: two queues, and readers of one of them.
const NAMES: [&str; 4] = ["a", "b", "b+x", "b+y"];

/// A queue or a reader: what is ready for it.
type Readers = BTreeMap<&'static str, BTreeSet<u64>>;

/// What one client has open, oldest first; `None` is what went with its queue.
#[derive(Default)]
struct Opened(BTreeMap<&'static str, VecDeque<Option<u64>>>);

impl Opened {
    fn of(&mut self, name: &'static str) -> &mut VecDeque<Option<u64>> {
        self.0.entry(name).or_default()
    }
}

/// What the server should be like.
struct Model {
    readers: Readers,
    clients: Vec<Opened>,
    next: u64,
}

impl Model {
    /// A reader begins when a get names it.
    fn begin(&mut self, name: &'static str) {
        if name.contains('+') {
            self.readers.entry("b").or_default();
            self.readers.entry(name).or_default();
        }
    }

    fn head(&self, name: &'static str) -> Option<u64> {
        self.readers.get(name)?.first().copied()
    }

    fn put(&mut self, name: &'static str) -> String {
        if name.contains('+') {
            return "NOT_STORED\r\n".into();
        }
        let number = self.next;
        self.next += 1;
        self.readers.entry(name).or_default().insert(number);
        for (reader, ready) in &mut self.readers {
            if reader.split('+').next() == Some(name) {
                ready.insert(number);
            }
        }
        "STORED\r\n".into()
    }

    fn open(&mut self, client: usize, name: &'static str) -> Option<u64> {
        let number = self.head(name)?;
        self.readers.get_mut(name).expect("it has a head").remove(&number);
        self.clients[client].of(name).push_back(Some(number));
        Some(number)
    }

    fn give_back(&mut self, name: &'static str, number: Option<u64>) {
        if let (Some(number), Some(ready)) = (number, self.readers.get_mut(name)) {
            ready.insert(number);
        }
    }

    /// A connection is gone.
    fn hang_up(&mut self, client: usize) {
        for (name, open) in std::mem::take(&mut self.clients[client].0) {
            open.into_iter().for_each(|number| self.give_back(name, number));
        }
    }

    /// What was open of a queue or reader went with its messages.
    fn forget(&mut self, name: &'static str) {
        for client in &mut self.clients {
            client.of(name).iter_mut().for_each(|number| *number = None);
        }
    }

    fn delete(&mut self, name: &'static str) {
        let gone: Vec<_> =
            self.readers.keys().copied().filter(|of| *of == name || of.split('+').next() == Some(name)).collect();
        for name in gone {
            self.readers.remove(name);
            self.forget(name);
        }
    }
}

fn value(name: &str, number: Option<u64>) -> String {
    number.map_or_else(String::new, |n| format!("VALUE {name} 0 {}\r\n{n}\r\n", n.to_string().len())) + "END\r\n"
}

/// Draws a request. Returns it, what is to be answered, and whether the connection ends with that.
fn draw(rng: &mut Rng, model: &mut Model, client: usize) -> (String, String, bool) {
    let name = NAMES[rng.below(NAMES.len() as u64) as usize];
    let open = model.clients[client].of(name).len();
    let error = || "ERROR\r\n".to_owned();
    match rng.below(12) {
        0..4 => {
            let body = model.next.to_string();
            let request = format!("set {name} 5 0 {}\r\n{body}\r\n", body.len());
            (request, model.put(name), false)
        }
        4 => {
            let request = format!("GET {name}\r\n");
            if open > 0 {
                return (request, error(), true);
            }
            model.begin(name);
            let number = model.head(name);
            if let Some(number) = number {
                model.readers.get_mut(name).expect("it has a head").remove(&number);
            }
            (request, value(name, number), false)
        }
        5 | 6 => {
            let request = format!("get {name}/open\n");
            if open >= OPEN_READS_MAX {
                return (request, error(), true);
            }
            model.begin(name);
            let number = model.open(client, name);
            (request, value(name, number), false)
        }
        7 => {
            model.clients[client].of(name).pop_front();
            (format!("get {name}/close\r\n"), value(name, None), false)
        }
        8 => {
            model.clients[client].of(name).pop_front();
            model.begin(name);
            let number = model.open(client, name);
            (format!("get {name}/open/close\r\n"), value(name, number), false)
        }
        9 => match rng.below(3) {
            0 => {
                let number = model.clients[client].of(name).pop_front().flatten();
                model.give_back(name, number);
                (format!("get {name}/abort\r\n"), value(name, None), false)
            }
            1 => {
                model.begin(name);
                (format!("get {name}/peek\r\n"), value(name, model.head(name)), false)
            }
            _ => {
                let count = rng.below(4) as usize;
                let request = format!("confirm {name} {count}\r\n");
                if count == 0 || count > open {
                    return (request, error(), false);
                }
                model.clients[client].of(name).drain(..count);
                (request, "END\r\n".into(), false)
            }
        },
        10 => {
            let max = rng.below(3) as usize;
            let mut expected = String::new();
            for _ in open..OPEN_READS_MAX.min(open + max) {
                model.begin(name);
                let Some(number) = model.open(client, name) else { break };
                write!(expected, "{}", value(name, Some(number))).expect("a String takes everything");
            }
            // Its time passes in any case.
            (format!("monitor {name} 1 {max}\r\n"), expected + "END\r\n", false)
        }
        _ => match rng.below(8) {
            0 => {
                model.delete(name);
                (format!("delete {name}\r\n"), "DELETED\r\n".into(), false)
            }
            1 => {
                model.forget(name);
                if let Some(ready) = model.readers.get_mut(name) {
                    ready.clear();
                }
                (format!("flush {name}\r\n"), "END\r\n".into(), false)
            }
            _ => ("quit\r\n".into(), String::new(), true),
        },
    }
}

fn random_requests(seed: u64) {
    let mut rng = Rng::new(seed);
    let shards = 1 + rng.below(3) as u16;
    let mut world = World::new(Options { shards, open_reads_max: OPEN_READS_MAX, ..Options::default() });
    let mut model = Model { readers: Readers::new(), clients: Vec::new(), next: 1 };
    let mut clients: Vec<usize> = (0..3).map(|_| world.connect_speaking(Dialect::Kestrel)).collect();
    model.clients.resize_with(clients.len(), Opened::default);
    for step in 0..400 {
        let at = rng.below(clients.len() as u64) as usize;
        let (request, expected, ends) = draw(&mut rng, &mut model, at);
        world.send(clients[at], request.as_bytes());
        world.settle();
        if request.starts_with("monitor") {
            world.advance(1000);
            world.settle();
        }
        let heard = world.heard(clients[at]);
        assert_eq!(heard, expected, "seed {seed}, step {step}, client {at}: {request:?}");
        assert_eq!(world.clients[clients[at]].ended, ends, "seed {seed}, step {step}, client {at}: {request:?}");
        if ends || rng.below(40) == 0 {
            model.hang_up(at);
            world.reset(clients[at]);
            world.settle();
            clients[at] = world.connect_speaking(Dialect::Kestrel);
        }
    }
}

#[test]
fn random_requests_are_answered_as_the_model_says() {
    (0..60).for_each(random_requests);
}

#[test]
fn flush_expired_says_how_many_it_removed() {
    let mut world = World::new(Options { shards: 3, ..Options::default() });
    world.settle();
    let client = world.connect_speaking(Dialect::Kestrel);
    // Between two sweeps of the server's own, which come every second.
    for name in ["p", "q", "r"] {
        assert_eq!(world.ask(client, &format!("set {name} 0 100 1\r\nx\r\nget {name}/open\r\n")).lines().count(), 4);
    }
    world.advance(500);
    world.settle();
    for name in ["q", "q", "r"] {
        assert_eq!(world.ask(client, &format!("set {name} 0 1 1\r\ny\r\n")), "STORED\r\n");
    }
    for ms in [500, 510] {
        world.advance(ms);
        world.settle();
    }
    assert_eq!(world.ask(client, "flush_expired q\r\n"), "2\r\n");
    assert_eq!(world.ask(client, "flush_all_expired\r\nflush_all_expired\r\n"), "1\r\n0\r\n");
}

// --- the port of a real server ---

fn connect(server: &Server) -> Client {
    Client::connect(server.kestrel_addr())
}

#[test]
fn a_connection_speaks_its_ports_dialect_on_whatever_shard() {
    let server = Server::start(&["-t", "3", "--kestrel-port", "0"]);
    for _ in 0..6 {
        assert_eq!(connect(&server).command(b"status\r\n", b"\r\n"), b"UP\r\n");
        assert_eq!(server.connect().command(b"status\r\n", b"\r\n"), b"ERROR\r\n");
    }
    let settings = server.connect().command(b"stats settings\r\n", b"END\r\n");
    let line = format!("STAT kestrelport {}\r\n", server.kestrel_addr().port());
    assert!(String::from_utf8_lossy(&settings).contains(&line), "no {line} in the settings");
}

#[test]
fn what_was_confirmed_before_a_kill_is_gone_and_the_rest_is_there() {
    let mut server = Server::start(&["-t", "2", "--kestrel-port", "0"]);
    let mut client = connect(&server);
    for body in ["1", "2", "3"] {
        let request = format!("set q 0 0 1\r\n{body}\r\n");
        assert_eq!(client.command(request.as_bytes(), b"\r\n"), b"STORED\r\n");
    }
    assert_eq!(
        client.command(b"monitor q 10 2\r\n", b"END\r\nEND\r\n"),
        b"VALUE q 0 1\r\n1\r\nEND\r\nVALUE q 0 1\r\n2\r\nEND\r\nEND\r\n"
    );
    assert_eq!(client.command(b"confirm q 1\r\n", b"\r\n"), b"END\r\n");
    server.kill9();
    server.restart();
    let mut client = connect(&server);
    assert_eq!(client.command(b"get q\r\n", b"END\r\n"), b"VALUE q 0 1\r\n2\r\nEND\r\n");
    assert_eq!(client.command(b"get q\r\n", b"END\r\n"), b"VALUE q 0 1\r\n3\r\nEND\r\n");
    assert_eq!(client.command(b"get q\r\n", b"END\r\n"), b"END\r\n");
}

#[test]
fn reload_reads_the_configuration_again() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let file = scratch.path().join("ringq.toml");
    fs::write(&file, "max-queues = 11\n").expect("write the file");
    let server = Server::start(&["--kestrel-port", "0", "--config", file.to_str().expect("a readable path")]);
    fs::write(&file, "max-queues = 12\n").expect("write the file");
    assert_eq!(connect(&server).command(b"RELOAD\r\n", b"\r\n"), b"Reloaded config.\r\n");
    let mut client = server.connect();
    eventually("the new setting is shown", PATIENCE, || {
        let settings = client.command(b"stats settings\r\n", b"END\r\n");
        String::from_utf8_lossy(&settings).contains("STAT max_queues 12\r\n")
    });
}

#[test]
fn there_is_no_kestrel_port_beside_a_unix_socket_alone() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let socket = scratch.path().join("ringq.sock");
    let server = Server::start(&["-s", socket.to_str().expect("a readable path"), "--kestrel-port", "0"]);
    assert!(server.output().contains("--kestrel-port not used"), "{}", server.output());
    assert!(server.ready_addresses().iter().all(|address| !address.starts_with("kestrel:")));
}
