//! Groups: every reader of a queue gets every message, whatever the others do, and a message goes when all have passed it.

use crate::harness::{Server, eventually};
use crate::rng::Rng;
use crate::world::{Options, World};
use ringq::queue::{Defaults, Explicit};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

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
    /// Messages are for groups only.
    groups_only: bool,
}

impl Model {
    fn stored(&self) -> BTreeSet<u64> {
        self.readers.values().flat_map(Reader::present).collect()
    }

    fn reader(&mut self, name: &str) -> &mut Reader {
        let stored = self.stored();
        self.readers.entry(name.to_string()).or_insert_with(|| Reader { ready: stored, open: VecDeque::new() })
    }

    /// Whether this reader finds nothing, whatever is there.
    fn is_shut(&self, reader: &str) -> bool {
        reader.is_empty() && self.groups_only
    }

    /// What the plain reader has goes, if messages are for groups and there are some. Returns how many it had open.
    fn leave_to_groups(&mut self) -> usize {
        if !self.groups_only || self.readers.len() < 2 {
            return 0;
        }
        std::mem::take(self.reader("")).open.len()
    }
}

fn key(reader: &str, options: &str) -> String {
    if reader.is_empty() { format!("q{options}") } else { format!("q/group={reader}{options}") }
}

/// One step, made on both sides; what the server must say to it.
fn step(rng: &mut Rng, model: &mut Model) -> (String, String) {
    let (request, expected) = step_of_reader(rng, model);
    // Reads of a reader that was emptied stay listed by the connection; ending them changes nothing.
    let gone = model.leave_to_groups();
    (request + &"get q/close\r\n".repeat(gone), expected + &"END\r\n".repeat(gone))
}

fn step_of_reader(rng: &mut Rng, model: &mut Model) -> (String, String) {
    let reader = ["", "a", "b", "c"][rng.below(4)];
    let said = |options: &str, n: Option<u64>| match n {
        Some(n) => {
            let body = body(n);
            format!("VALUE {} 0 {}\r\n{body}\r\nEND\r\n", key(reader, options), body.len())
        }
        None => "END\r\n".to_string(),
    };
    match rng.below(21) {
        0..7 => {
            model.next += 1;
            let n = model.next;
            model.readers.values_mut().for_each(|reader| _ = reader.ready.insert(n));
            (put("q", &body(n)), "STORED\r\n".into())
        }
        7..11 => {
            let is_shut = model.is_shut(reader);
            let n = (!is_shut).then(|| model.reader(reader).ready.pop_first()).flatten();
            (format!("get {}\r\n", key(reader, "")), said("", n))
        }
        11..14 => {
            let is_shut = model.is_shut(reader);
            let of = model.reader(reader);
            let n = (!is_shut).then(|| of.ready.pop_first()).flatten();
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
            let is_shut = model.is_shut(reader);
            let n = model.reader(reader).ready.first().copied().filter(|_| !is_shut);
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
        19 => {
            model.groups_only = rng.below(3) == 0;
            let on = if model.groups_only { "on" } else { "off" };
            (format!("config q groups_only={on}\r\n"), "OK\r\n".into())
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
    let mut client = world.connect();
    let mut model = Model::default();
    assert_eq!(world.ask(client, &put("q", "0")), "STORED\r\n");
    assert_eq!(world.ask(client, "get q\r\n"), "VALUE q 0 1\r\n0\r\nEND\r\n");
    model.readers.insert(String::new(), Reader::default());
    for at in 0..steps {
        if rng.below(60) == 0 {
            println!("{at}: crash");
            world.crash(1 + rng.below(2) as u16);
            client = world.connect();
            for reader in model.readers.values_mut() {
                reader.ready.extend(std::mem::take(&mut reader.open));
            }
        }
        let (request, expected) = step(&mut rng, &mut model);
        // Shown if it fails.
        println!("{at}: {request:?}");
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
    let replayed = std::env::var("RINGQ_SEED").ok().map(|seed| seed.parse::<u64>().expect("RINGQ_SEED is a number"));
    for seed in replayed.map_or(0..40, |seed| seed..seed + 1) {
        println!("replay this history with RINGQ_SEED={seed} cargo test --test it groups::each_reader");
        run(seed, 300);
    }
}

fn defaults(words: &[&str]) -> Defaults {
    let mut explicit = Explicit::default();
    words.iter().for_each(|word| explicit.set(b"*", word.as_bytes()).unwrap());
    Defaults::new(explicit, [])
}

/// The names that `stats queue` lists, sorted.
fn listed(world: &mut World, client: usize) -> Vec<String> {
    let reply = world.ask(client, "stats queue\r\n");
    let names = reply.lines().filter_map(|line| line.strip_prefix("STAT ")?.split(' ').next());
    let mut names: Vec<String> = names.map(str::to_string).collect();
    names.sort_unstable();
    names
}

/// Time passes, and everything that is due is done.
fn pass(world: &mut World, ms: u64) {
    world.advance(ms);
    world.settle();
}

#[test]
fn a_group_ends_when_nobody_has_asked_it_for_so_long_and_not_before() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    let other = world.connect();
    world.ask(client, "config q group_timeout=10\r\nset q 0 0 1\r\n1\r\nget q/group=a\r\n");
    // Any get counts, whether it finds something or not.
    for options in ["", "/peek", "/open", "/t=1"] {
        pass(&mut world, 9_900);
        assert_eq!(
            world.ask(client, &format!("get q/group=a{options}\r\n")).matches("END").count(),
            usize::from(options != "/t=1")
        );
        pass(&mut world, 1);
    }
    pass(&mut world, 9_900);
    assert_eq!(listed(&mut world, client), ["q", "q/group=a"]);
    pass(&mut world, 100);
    assert_eq!(listed(&mut world, client), ["q"]);
    assert!(world.ask(client, "stats\r\n").contains("STAT groups_ended 1\r\n"));
    // While somebody waits, or has a message open, it does not end, and then its time counts anew.
    world.ask(other, "get q/group=a/open\r\nget q/group=b/open\r\nget q/group=b/close\r\nget q/group=b/t=35000\r\n");
    pass(&mut world, 34_000);
    assert_eq!(listed(&mut world, client), ["q", "q/group=a", "q/group=b"]);
    pass(&mut world, 1_000);
    world.ask(other, "get q/group=a/abort\r\n");
    pass(&mut world, 9_900);
    assert_eq!(listed(&mut world, client), ["q", "q/group=a", "q/group=b"]);
    pass(&mut world, 100);
    assert_eq!(listed(&mut world, client), ["q"]);
    assert!(world.ask(client, "stats\r\nget q\r\n").contains("STAT groups_ended 3\r\n"));
    assert_eq!(world.ask(client, "get q\r\n"), "END\r\n");
}

#[test]
fn a_timeout_that_changes_holds_for_groups_that_are_there() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    world.ask(client, "get q/group=a\r\n");
    assert_eq!(world.next_deadline(), None, "without a timeout there is no timer");
    pass(&mut world, 5_000);
    world.ask(client, "get q/group=b\r\nconfig q group_timeout=3\r\n");
    world.settle();
    assert_eq!(listed(&mut world, client), ["q", "q/group=b"], "nobody had asked the other for longer");
    world.ask(client, "config q group_timeout=100\r\n");
    pass(&mut world, 99_000);
    assert_eq!(listed(&mut world, client), ["q", "q/group=b"]);
    world.ask(client, "config q group_timeout=0\r\n");
    assert_eq!(world.next_deadline(), None);
    pass(&mut world, 99_000);
    assert_eq!(listed(&mut world, client), ["q", "q/group=b"]);
}

#[test]
fn after_a_start_the_time_of_a_group_counts_anew() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    world.ask(client, "config q group_timeout=10\r\nget q/group=a\r\nget r/group=a\r\n");
    pass(&mut world, 9_000);
    world.crash(2);
    world.settle();
    pass(&mut world, 9_900);
    let client = world.connect();
    assert_eq!(listed(&mut world, client), ["q", "q/group=a", "r", "r/group=a"]);
    pass(&mut world, 100);
    assert_eq!(listed(&mut world, client), ["q", "r", "r/group=a"]);
}

/// More queues than are settled in one turn.
const MANY: usize = 150;

#[test]
fn a_start_with_other_settings_leaves_messages_to_the_groups() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    for queue in 0..MANY {
        world.ask(client, &(put(&format!("q{queue}"), "1") + &put(&format!("q{queue}"), "22")));
        world.ask(client, &format!("get q{queue}/group=a\r\nget q{queue}\r\n"));
    }
    world.ask(client, &(put("none", "1") + "get none/open\r\n"));
    world.options.queue_defaults = defaults(&["groups_only=on"]);
    world.crash(1);
    let client = world.connect();
    assert_eq!(world.ask(client, "get q0\r\nget none\r\n"), "END\r\nEND\r\n", "from the first request on");
    world.settle();
    for queue in 0..MANY {
        let counted = world.ask(client, &format!("stats queue q{queue}\r\n"));
        assert!(counted.contains("STAT ready 0\r\n") && counted.contains("STAT deleted 1\r\n"), "{counted}");
        assert_eq!(
            world.ask(client, &format!("get q{queue}/group=a\r\n")),
            format!("VALUE q{queue}/group=a 0 2\r\n22\r\nEND\r\n")
        );
    }
    assert_eq!(world.ask(client, "get none/group=a\r\n"), "VALUE none/group=a 0 1\r\n1\r\nEND\r\n");
    assert!(world.ask(client, "stats\r\n").contains("STAT curr_items 0\r\n"));
}

#[test]
fn a_put_for_groups_only_is_not_handed_to_a_plain_reader_who_waits() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    let waiter = world.connect();
    // Ids are durable, so that a message could be handed over.
    world.ask(client, &(put("q", "0") + "get q\r\nconfig q groups_only=on\r\n"));
    world.send(waiter, b"get q/t=60000\r\n");
    world.settle();
    assert_eq!(world.ask(client, &put("q", "1")), "STORED\r\n");
    assert_eq!(world.ask(client, "get q/group=a\r\n"), "VALUE q/group=a 0 1\r\n1\r\nEND\r\n");
    assert_eq!(world.heard(waiter), "");
}

#[test]
fn a_group_needs_room_for_itself_and_for_its_queue_if_there_is_none() {
    let mut world = World::new(Options { queues_max: 2, ..Options::default() });
    let client = world.connect();
    world.ask(client, &put("a", "1"));
    assert_eq!(world.ask(client, "get b/group=g\r\n"), "NOT_FOUND\r\n");
    assert_eq!(listed(&mut world, client), ["a"]);
    assert_eq!(world.ask(client, "get a/group=g\r\n"), "VALUE a/group=g 0 1\r\n1\r\nEND\r\n");
    assert_eq!(world.ask(client, "get a/group=h\r\n"), "NOT_FOUND\r\n");
}

#[test]
fn a_reload_changes_what_holds_for_groups() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let file = temp.path().join("ringq.toml");
    let write = |text: &str| std::fs::write(&file, text).expect("write the configuration");
    write("verbose = 1\n");
    let server = Server::start(&["-t", "2", "--config", file.to_str().expect("a readable path")]);
    let mut client = server.connect();
    let mut waiter = server.connect();
    client.send(b"set q 0 0 1\r\n1\r\nget q/group=a\r\n");
    client.expect(b"STORED\r\nVALUE q/group=a 0 1\r\n1\r\nEND\r\n");
    write("verbose = 1\n[queue]\ngroups_only = \"on\"\n");
    server.signal(Signal::HUP);
    eventually("the plain reader's message is gone", Duration::from_secs(20), || {
        let reply = server.connect().command(b"stats queue q\r\n", b"END\r\n");
        String::from_utf8_lossy(&reply).contains("STAT deleted 1\r\n")
    });
    client.send(b"set kept 0 0 1\r\n1\r\nget kept\r\nget q\r\n");
    client.expect(b"STORED\r\nEND\r\nEND\r\n");
    waiter.send(b"get kept/t=60000\r\n");
    write("verbose = 1\n[queue]\ngroup_timeout = 1\n");
    server.signal(Signal::HUP);
    waiter.expect(b"VALUE kept/t=60000 0 1\r\n1\r\nEND\r\n");
    eventually("the group has ended", Duration::from_secs(20), || {
        server.connect().command(b"stats queue q/group=a\r\n", b"END\r\n") == b"END\r\n"
    });
    eventually("the log says so", Duration::from_secs(20), || server.output().contains("nobody has asked q/group=a"));
}

#[test]
fn a_new_group_gets_what_others_passed_before_a_start_and_one_has_not() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    world.ask(client, "get q/group=a\r\nget q/group=b\r\n");
    (1..=5).for_each(|n| assert_eq!(world.ask(client, &put("q", &n.to_string())), "STORED\r\n"));
    // The plain reader and a have passed all but the second, which they have open when the server dies.
    world.ask(client, "get q\r\nget q/group=a\r\nget q/open\r\nget q/group=a/open\r\n");
    world.ask(client, &"get q\r\nget q/group=a\r\n".repeat(3));
    world.crash(1);
    let client = world.connect();
    assert_eq!(world.ask(client, "get q/group=a\r\nget q/group=b\r\n").matches("VALUE").count(), 2);
    let value = |n: u32| format!("VALUE q/group=c 0 1\r\n{n}\r\nEND\r\n");
    let expected = (2..=5).map(value).collect::<String>() + "END\r\n";
    assert_eq!(world.ask(client, &"get q/group=c\r\n".repeat(5)), expected);
    world.ask(client, &("get q\r\n".to_string() + &"get q/group=b\r\n".repeat(4)));
    assert!(world.ask(client, "stats\r\n").contains("STAT curr_items 0\r\n"), "all have passed all");
}

/// A number that `stats` says.
fn stat(world: &mut World, client: usize, name: &str) -> u64 {
    let answer = world.ask(client, "stats\r\n");
    let line = answer.lines().find_map(|line| line.strip_prefix("STAT ")?.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {answer}")).parse().unwrap()
}

/// A start does not know how large each message is.
#[test]
fn the_bytes_of_a_queue_are_right_again_when_its_readers_have_seen_what_they_have() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    world.ask(client, "get q/group=a\r\nget q/group=b\r\n");
    world.ask(client, &(put("q", "1") + &put("q", "22")));
    // The plain reader has passed both, a the first, b none.
    world.ask(client, "get q\r\nget q\r\nget q/group=a\r\n");
    world.crash(1);
    let client = world.connect();
    world.ask(client, "flush q/group=b\r\n");
    assert_eq!(stat(&mut world, client, "curr_items"), 1, "the first has gone, unseen");
    assert!((2..=3).contains(&stat(&mut world, client, "bytes")));
    assert!(world.ask(client, "get q/group=a\r\n").contains("22"));
    world.check();
    assert_eq!((stat(&mut world, client, "curr_items"), stat(&mut world, client, "bytes")), (0, 0));
}

#[test]
fn what_a_reader_passed_ahead_before_a_start_is_counted_while_another_has_it_open() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    world.ask(client, "get q/group=a\r\nget q/group=b\r\n");
    world.ask(client, &(put("q", "1") + &put("q", "22")));
    // The plain reader has passed both, a the second, b none.
    world.ask(client, "get q\r\nget q\r\nget q/group=a/open\r\nget q/group=a\r\n");
    world.crash(1);
    let client = world.connect();
    world.ask(client, "get q/group=a\r\nget q/group=b/open\r\nget q/group=b/open\r\n");
    world.ask(client, "get q/group=c\r\ndelete q/group=c\r\n");
    assert_eq!((stat(&mut world, client, "curr_items"), stat(&mut world, client, "bytes")), (2, 3), "b has both open");
    world.ask(client, "get q/group=b/close\r\nget q/group=b/close\r\n");
    world.check();
    assert_eq!((stat(&mut world, client, "curr_items"), stat(&mut world, client, "bytes")), (0, 0));
}
