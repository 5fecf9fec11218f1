//! Groups: every reader of a queue gets every message, whatever the others do, and a message goes when all have passed it.

use crate::random::Rng;
use crate::world::{Options, World};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

fn put(queue: &str, body: &str) -> String {
    format!("set {queue} 0 0 {}\r\n{body}\r\n", body.len())
}

/// What one reader must see: messages that are ready for it, by number, and those it has open, oldest read first.
#[derive(Clone, Default)]
struct Reader {
    ready: BTreeSet<u64>,
    open: VecDeque<u64>,
}

impl Reader {
    fn present(&self) -> impl Iterator<Item = u64> {
        self.ready.iter().copied().chain(self.open.iter().copied())
    }
}

/// A queue with groups as it should be. The plain reader's name is empty.
#[derive(Default)]
struct Model {
    next: u64,
    readers: BTreeMap<String, Reader>,
}

impl Model {
    fn stored(&self) -> BTreeSet<u64> {
        self.readers.values().flat_map(Reader::present).collect()
    }

    fn reader(&mut self, name: &str) -> &mut Reader {
        let stored = self.stored();
        self.readers.entry(name.to_string()).or_insert_with(|| Reader { ready: stored, open: VecDeque::new() })
    }
}

fn key(reader: &str, options: &str) -> String {
    if reader.is_empty() { format!("q{options}") } else { format!("q/group={reader}{options}") }
}

/// One step, made on both sides; what the server must say to it.
fn step(rng: &mut Rng, model: &mut Model) -> (String, String) {
    let reader = ["", "a", "b", "c"][rng.below(4)];
    let said = |options: &str, n: Option<u64>| match n {
        Some(n) => {
            let body = body(n);
            format!("VALUE {} 0 {}\r\n{body}\r\nEND\r\n", key(reader, options), body.len())
        }
        None => "END\r\n".to_string(),
    };
    match rng.below(20) {
        0..7 => {
            model.next += 1;
            let n = model.next;
            model.readers.values_mut().for_each(|reader| _ = reader.ready.insert(n));
            (put("q", &body(n)), "STORED\r\n".into())
        }
        7..11 => {
            let n = model.reader(reader).ready.pop_first();
            (format!("get {}\r\n", key(reader, "")), said("", n))
        }
        11..14 => {
            let of = model.reader(reader);
            let n = of.ready.pop_first();
            of.open.extend(n);
            (format!("get {}\r\n", key(reader, "/open")), said("/open", n))
        }
        14..16 => {
            if let Some(of) = model.readers.get_mut(reader) {
                of.open.pop_front();
            }
            (format!("get {}\r\n", key(reader, "/close")), "END\r\n".into())
        }
        16 => {
            if let Some(of) = model.readers.get_mut(reader) {
                let n = of.open.pop_front();
                of.ready.extend(n);
            }
            (format!("get {}\r\n", key(reader, "/abort")), "END\r\n".into())
        }
        17 => {
            let n = model.reader(reader).ready.first().copied();
            (format!("get {}\r\n", key(reader, "/peek")), said("/peek", n))
        }
        18 if !reader.is_empty() => {
            let reply = if model.readers.contains_key(reader) { "DELETED\r\n" } else { "NOT_FOUND\r\n" };
            // Its reads stay listed by the connection; ending them changes nothing.
            if let Some(of) = model.readers.get_mut(reader) {
                let open = of.open.len();
                model.readers.remove(reader);
                let closes = format!("get {}\r\n", key(reader, "/close")).repeat(open);
                return (
                    format!("delete {}\r\n{closes}", key(reader, "")),
                    reply.to_string() + &"END\r\n".repeat(open),
                );
            }
            (format!("delete {}\r\n", key(reader, "")), reply.into())
        }
        _ => {
            let ready = model.readers.get(reader).map_or(0, |of| of.ready.len());
            (
                format!("stats queue {}\r\n", key(reader, "")),
                if model.readers.contains_key(reader) { format!("STAT ready {ready}\r\n") } else { "END\r\n".into() },
            )
        }
    }
}

fn body(n: u64) -> String {
    format!("{n:x}").repeat(1 + (n as usize * 7) % 40)
}

fn run(seed: u64, steps: usize) {
    let mut rng = Rng::new(seed);
    let mut world = World::new(Options { shards: 1 + (seed % 2) as u16, ..Options::default() });
    let client = world.connect();
    let mut model = Model::default();
    assert_eq!(world.ask(client, &put("q", "0")), "STORED\r\n");
    assert_eq!(world.ask(client, "get q\r\n"), "VALUE q 0 1\r\n0\r\nEND\r\n");
    model.readers.insert(String::new(), Reader::default());
    for at in 0..steps {
        let (request, expected) = step(&mut rng, &mut model);
        let got = world.ask(client, &request);
        let is_right = if request.starts_with("stats") { got.contains(&expected) } else { got == expected };
        assert!(is_right, "seed {seed}, step {at}: {request:?}\nexpected {expected:?}\ngot      {got:?}");
        let items = world.ask(client, "stats\r\n");
        let stored = format!("STAT curr_items {}\r\n", model.stored().len());
        assert!(items.contains(&stored), "seed {seed}, step {at} {request:?}: {stored:?} in {items}");
    }
}

#[test]
fn each_reader_gets_every_message_whatever_the_others_do() {
    (0..40).for_each(|seed| run(seed, 300));
}
