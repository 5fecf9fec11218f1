//! Every transcript and every example of docs/PROTOCOL.md, against the engine in virtual time and against the real server, with
//! writes whole and cut into single bytes.

use crate::harness::Server;
use crate::socket_peer::SocketPeer;
use crate::transcript::{Chunking, KESTREL, Peer, ServerOptions, Transcript, extract_from_markdown, run};
use crate::world::{Options, World};
use ringq::proto::Dialect;
use std::collections::HashMap;
use std::path::Path;

/// The engine as a transcript's peer.
struct WorldPeer {
    world: World,
    clients: HashMap<String, usize>,
}

impl WorldPeer {
    fn new(options: &ServerOptions) -> WorldPeer {
        let defaults = Options::default();
        let world = World::new(Options {
            shards: options.threads.map_or(1, |n| n as u16),
            body_size_max: options.body_size_max.map_or(defaults.body_size_max, |n| n as usize),
            open_reads_max: options.open_reads_max.map_or(defaults.open_reads_max, |n| n as usize),
            detached_reads_max: options.detached_reads_max.map_or(defaults.detached_reads_max, |n| n as usize),
            unconfirmed_max: options.unconfirmed_max.map_or(defaults.unconfirmed_max, |n| n as usize),
            groups_max: options.groups_max.map_or(defaults.groups_max, |n| n as usize),
            reader_separator: options.reader_separator.map(|separator| separator as u8),
            flush_all: options.enable_flush_all,
            shutdown: options.enable_shutdown,
            ..defaults
        });
        WorldPeer { world, clients: HashMap::new() }
    }

    fn client(&mut self, name: &str) -> usize {
        if let Some(client) = self.clients.get(name) {
            return *client;
        }
        let dialect = if name.starts_with(KESTREL) { Dialect::Kestrel } else { Dialect::MemcacheQ };
        let client = self.world.connect_speaking(dialect);
        self.clients.insert(name.into(), client);
        client
    }
}

impl Peer for WorldPeer {
    fn send(&mut self, conn: &str, bytes: &[u8]) {
        let client = self.client(conn);
        self.world.send(client, bytes);
        self.world.settle();
    }

    fn receive(&mut self, conn: &str, _at_least: usize) -> Vec<u8> {
        let client = self.client(conn);
        self.world.settle();
        std::mem::take(&mut self.world.clients[client].received)
    }

    fn closed(&mut self, conn: &str) -> bool {
        let client = self.client(conn);
        self.world.settle();
        self.world.clients[client].ended
    }

    fn close(&mut self, conn: &str) {
        let client = self.client(conn);
        self.world.reset(client);
        self.world.settle();
    }

    fn half_close(&mut self, conn: &str) {
        let client = self.client(conn);
        self.world.half_close(client);
        self.world.settle();
    }

    fn advance(&mut self, ms: u64) {
        self.world.advance(ms);
        self.world.settle();
    }

    fn settle(&mut self) {
        self.world.settle();
    }
}

/// All transcripts of the project: those in files, and the examples of the protocol's documentation.
fn all() -> Vec<Transcript> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(root.join("tests/transcripts"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    let mut transcripts = Vec::new();
    for path in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        transcripts.push(Transcript::parse(&name, 1, &text).unwrap());
    }
    let protocol = std::fs::read_to_string(root.join("docs/PROTOCOL.md")).unwrap();
    let examples = extract_from_markdown(&protocol);
    assert!(!examples.is_empty(), "docs/PROTOCOL.md has examples");
    for (line, text) in examples {
        transcripts.push(Transcript::parse("docs/PROTOCOL.md", line, &text).unwrap());
    }
    assert!(transcripts.len() > 80, "only {} transcripts were found", transcripts.len());
    transcripts
}

fn check(failures: Vec<String>) {
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

fn against_engine(chunking: Chunking, shards: Option<u32>) {
    let mut failures = Vec::new();
    for mut transcript in all() {
        transcript.options.threads = transcript.options.threads.or(shards);
        let mut peer = WorldPeer::new(&transcript.options);
        failures.extend(run(&transcript, &mut peer, chunking).err());
    }
    check(failures);
}

/// One server for each set of options would let one transcript's queues be seen by the next: each has its own.
fn against_server(chunking: Chunking) {
    let mut failures = Vec::new();
    for transcript in all() {
        let mut args = transcript.options.args();
        if transcript.options.threads.is_none() {
            args.extend(["-t".into(), "1".into()]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let server = Server::start(&args);
        let kestrel = transcript.options.kestrel.then(|| server.kestrel_addr());
        let mut peer = SocketPeer::of_process(server.pid(), server.addr(), kestrel);
        failures.extend(run(&transcript, &mut peer, chunking).err());
    }
    check(failures);
}

#[test]
fn engine_speaks_as_the_transcripts_say() {
    against_engine(Chunking::Whole, None);
}

#[test]
fn engine_speaks_the_same_however_bytes_are_cut() {
    against_engine(Chunking::SingleBytes, None);
}

#[test]
fn three_shards_speak_as_one() {
    against_engine(Chunking::Whole, Some(3));
}

#[test]
fn server_speaks_as_the_transcripts_say() {
    against_server(Chunking::Whole);
}

#[test]
fn server_speaks_the_same_however_bytes_are_cut() {
    against_server(Chunking::SingleBytes);
}
