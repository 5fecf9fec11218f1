//! The admin listener of a real server: what it serves, whom it refuses, and that it leaves the rest of the server alone.

use crate::background::command;
use crate::clients::{python, skip};
use crate::facts::{all_context_switches, thread_named};
use crate::harness::{Server, eventually, read_lossy};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid as Thread;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(60);
const TOKEN: &str = "a-token-of-some-length";
const JSON: &str = "application/json";

/// Where the server's admin listener is.
pub fn admin_of(server: &Server) -> SocketAddr {
    admin_in(&server.output())
}

fn admin_in(output: &str) -> SocketAddr {
    let line = output.lines().find_map(|line| line.split_once("admin on http://")?.1.strip_suffix('/'));
    line.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no admin listener in {output}"))
}

/// An answer.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// Sends a request's head, and returns the answer.
pub fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut stream = TcpStream::connect(address).expect("connect to the admin listener");
    stream.set_read_timeout(Some(TIMEOUT)).expect("set the timeout");
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        head += &format!("Host: {address}\r\n");
    }
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    stream.write_all((head + "\r\n").as_bytes()).expect("send");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer and its end");
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer { status: status.expect("a status"), head: head.to_lowercase(), body: body.to_owned() }
}

pub fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, "GET", path, &[])
}

fn json(address: SocketAddr, path: &str) -> Value {
    let answer = get(address, path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{path}: {error}: {}", answer.body))
}

fn act(address: SocketAddr, method: &str, path: &str, token: &str) -> Answer {
    ask(address, method, path, &[("Authorization", &format!("Bearer {token}")), ("Content-Type", JSON)])
}

/// A token file in a directory of its own.
struct TokenFile(TempDir);

impl TokenFile {
    fn new(token: &str, mode: u32) -> TokenFile {
        let file = TokenFile(tempfile::tempdir().expect("a temporary directory"));
        file.write(token, mode);
        file
    }

    fn write(&self, token: &str, mode: u32) {
        fs::write(self.path(), format!("{token}\n")).expect("write the token");
        fs::set_permissions(self.path(), fs::Permissions::from_mode(mode)).expect("set the mode");
    }

    fn path(&self) -> String {
        self.0.path().join("token").to_str().expect("a readable path").to_owned()
    }

    fn start(&self, args: &[&str]) -> Server {
        Server::start(&[&["--admin", "127.0.0.1:0", "--admin-token-file", &self.path()], args].concat())
    }
}

fn start(args: &[&str]) -> Server {
    Server::start(&[&["--admin", "127.0.0.1:0"], args].concat())
}

/// Puts so many messages.
fn put(server: &Server, queue: &str, count: usize) {
    let mut client = server.connect();
    for _ in 0..count {
        client.send(format!("set {queue} 0 0 5\r\nhello\r\n").as_bytes());
        client.expect(b"STORED\r\n");
    }
}

/// The queue of this name, as the API shows it.
fn queue(address: SocketAddr, name: &str) -> Option<Value> {
    let list = json(address, &format!("/api/v1/queues?filter={name}"));
    list["queues"].as_array().expect("a list").iter().find(|queue| queue["name"] == name).cloned()
}

// --- reading ---

#[test]
fn every_route_answers_with_its_kind_and_what_keeps_others_out() {
    let server = start(&[]);
    let address = admin_of(&server);
    let scripts = ["page", "model", "dom", "charts", "queues", "tables", "actions"].map(|name| format!("/{name}.js"));
    let mut routes = vec![("/", "text/html"), ("/page.css", "text/css"), ("/metrics", "text/plain; version=0.0.4")];
    routes.extend(scripts.iter().map(|path| (&**path, "text/javascript; charset=utf-8")));
    routes.extend(["/healthz", "/readyz", "/debug/hgrm"].map(|path| (path, "text/plain")));
    routes.extend(["overview", "queues", "latency", "shards", "settings"].map(|name| (name, JSON)));
    for (path, kind) in routes {
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/api/v1/{path}") };
        let answer = get(address, &path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        for header in [
            &*format!("content-type: {kind}"),
            "content-security-policy: default-src 'none'; script-src 'self';",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(answer.head.contains(header), "{path}: no {header} in {}", answer.head);
        }
        assert!(!answer.head.contains("access-control"), "{path}: {}", answer.head);
        let head = ask(address, "HEAD", &path, &[]);
        assert_eq!((head.status, &*head.body), (200, ""), "HEAD {path}");
        assert_eq!(ask(address, "POST", &path, &[]).status, 405, "POST {path}");
    }
    assert_eq!(get(address, "/healthz").body, "ok\n");
    for (path, status) in [
        ("/nothing", 404),
        ("/api/v1/nothing", 404),
        ("/api/v1/queues?sort=colour", 400),
        ("/debug/hgrm?metric=colour", 400),
        ("/api/v1/checkpoint", 405),
        ("/api/v1/queues/1/purge", 405),
    ] {
        let answer = get(address, path);
        assert_eq!(answer.status, status, "{path}");
        let body: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{path}: {}", answer.body));
        assert!(body["error"].is_string(), "{path}: {body}");
    }
}

#[test]
fn the_api_shows_what_clients_did() {
    let server = start(&["-t", "2", "-m", "32"]);
    let address = admin_of(&server);
    put(&server, "mail", 5);
    put(&server, "other", 2);
    let mut client = server.connect();
    client.send(b"get mail\r\n");
    client.expect(b"VALUE mail 0 5\r\nhello\r\nEND\r\n");
    client.send(b"get none\r\ndb_checkpoint\r\n");
    client.expect(b"END\r\nOK\r\n");
    client.send(b"get none/t=60000\r\n");
    eventually("all of it shows", TIMEOUT, || json(address, "/api/v1/overview")["waiters"] == 1);
    let overview = json(address, "/api/v1/overview");
    for (pointer, value) in [
        ("/queues", 2),
        ("/ready", 6),
        ("/shards", 2),
        ("/totals/puts", 7),
        ("/totals/gets", 1),
        ("/totals/corrupt", 0),
        ("/memory/limit", 32 << 20),
        ("/disk/min_free", 64 << 20),
        ("/connections/current", 1),
    ] {
        assert_eq!(overview.pointer(pointer), Some(&Value::from(value)), "{pointer} in {overview}");
    }
    assert_eq!((&overview["durable"], &overview["actions"]), (&Value::Bool(true), &Value::Bool(false)));
    assert_eq!(overview["pid"], server.pid());
    let checkpoints = &overview["checkpoints"];
    assert!(checkpoints["count"].as_u64() >= Some(1) && checkpoints["last_end_ms"].is_u64(), "{checkpoints}");
    assert_eq!(checkpoints["recent"][0]["end_ms"], checkpoints["last_end_ms"]);
    assert!(overview["disk"]["free"].as_u64() > Some(0));
    let mail = queue(address, "mail").expect("it is there");
    for (field, value) in [("ready", 4), ("puts", 5), ("gets", 1), ("waiters", 0)] {
        assert_eq!(mail[field], value, "{field} in {mail}");
    }
    assert!(mail["id"].is_string() && mail["oldest_ms"].is_u64() && mail["put_rate"].as_f64() > Some(0.0), "{mail}");
    let list = json(address, "/api/v1/queues?sort=ready&order=desc&limit=1");
    assert_eq!((&list["total"], &list["matched"], &list["queues"][0]["name"]), (&2.into(), &2.into(), &"mail".into()));
    let latency = json(address, "/api/v1/latency");
    let put = latency["metrics"].as_array().unwrap().iter().find(|metric| metric["name"] == "put").unwrap();
    assert_eq!((&put["kind"], &put["windows"]["total"]["count"]), (&"command".into(), &7.into()));
    assert!(put["windows"]["5m"]["p99"].as_u64() > Some(0), "{put}");
    let shards = json(address, "/api/v1/shards");
    let ready: u64 = shards["shards"].as_array().unwrap().iter().map(|shard| shard["ready"].as_u64().unwrap()).sum();
    assert_eq!(ready, 6);
    assert_eq!(json(address, "/api/v1/settings")["settings"]["maxbytes"], (32 << 20).to_string());
    let histogram = get(address, "/debug/hgrm?metric=put&window=total").body;
    assert!(histogram.contains("Total count    =            7]"), "{histogram}");
}

// --- who may do what ---

#[test]
fn actions_are_for_who_has_the_token() {
    let file = TokenFile::new(TOKEN, 0o640);
    let server = file.start(&[]);
    let address = admin_of(&server);
    put(&server, "q", 3);
    let id = queue(address, "q").expect("it is there")["id"].as_str().expect("a string").to_owned();
    let purge = format!("/api/v1/queues/{id}/purge");
    let bearer = format!("Bearer {TOKEN}");
    let wrong = format!("Bearer {TOKEN}x");
    let own = format!("http://{address}");
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let refused: [(u16, Headers<'_>); 9] = [
        (401, &[]),
        (401, &[("Content-Type", JSON)]),
        (401, &[("Content-Type", JSON), ("Authorization", &wrong)]),
        (401, &[("Content-Type", JSON), ("Authorization", TOKEN)]),
        (415, &[("Authorization", &bearer)]),
        (415, &[("Authorization", &bearer), ("Content-Type", "text/plain")]),
        (403, &[("Authorization", &bearer), ("Content-Type", JSON), ("Origin", "http://evil.example")]),
        (403, &[("Authorization", &bearer), ("Content-Type", JSON), ("Origin", "null")]),
        (421, &[("Authorization", &bearer), ("Content-Type", JSON), ("Host", "evil.example")]),
    ];
    for (status, headers) in refused {
        let answer = ask(address, "POST", &purge, headers);
        assert_eq!(answer.status, status, "{headers:?}: {}", answer.body);
        assert!(answer.body.starts_with("{\"error\":"), "{}", answer.body);
    }
    assert_eq!(get(address, &purge).status, 405);
    assert_eq!(json(address, "/api/v1/overview")["ready"], 3, "nothing was done");

    let headers = [("Authorization", &*bearer), ("Content-Type", JSON), ("Origin", &*own)];
    let answer = ask(address, "POST", &purge, &headers);
    assert_eq!((answer.status, &*answer.body), (200, "{\"ok\":true}"));
    assert_eq!(queue(address, "q").expect("it stays")["ready"], 0);
    let line = format!("purge of queue q ({id}) was asked for by 127.0.0.1");
    eventually("it is logged", TIMEOUT, || server.output().contains(&line));
    assert!(!server.output().contains(TOKEN), "the token is not");
    assert_eq!(act(address, "POST", "/api/v1/queues/77777/purge", TOKEN).status, 404);
    assert_eq!(act(address, "DELETE", "/api/v1/queues/x", TOKEN).status, 404);
    assert_eq!(act(address, "POST", &purge, TOKEN).status, 200, "of an empty queue, too");
}

#[test]
fn what_was_purged_deleted_or_checkpointed_is_so_after_a_crash() {
    let file = TokenFile::new(TOKEN, 0o600);
    let mut server = file.start(&["-t", "2"]);
    let address = admin_of(&server);
    let names = ["a", "b", "c", "d", "e", "f"];
    names.iter().for_each(|name| put(&server, name, 3));
    let id = |name: &str| queue(address, name).expect("it is there")["id"].as_str().expect("a string").to_owned();
    for name in ["a", "b"] {
        assert_eq!(act(address, "POST", &format!("/api/v1/queues/{}/purge", id(name)), TOKEN).status, 200);
    }
    let before = json(address, "/api/v1/overview")["checkpoints"]["count"].as_u64();
    assert_eq!(act(address, "POST", "/api/v1/checkpoint", TOKEN).status, 200);
    assert!(json(address, "/api/v1/overview")["checkpoints"]["count"].as_u64() > before);
    assert_eq!(act(address, "POST", "/api/v1/checkpoint", TOKEN).status, 200, "with nothing to do, too");
    for name in ["c", "d"] {
        assert_eq!(act(address, "DELETE", &format!("/api/v1/queues/{}", id(name)), TOKEN).status, 200);
        assert!(queue(address, name).is_none());
    }
    put(&server, "a", 1);
    server.kill9();
    server.restart();
    let address = admin_of(&server);
    for (name, ready) in [("a", Some(1)), ("b", Some(0)), ("c", None), ("d", None), ("e", Some(3)), ("f", Some(3))] {
        assert_eq!(queue(address, name).map(|queue| queue["ready"].as_u64().unwrap()), ready, "{name}");
    }
    assert_eq!(server.connect().command(b"get c a b\r\n", b"END\r\n"), b"VALUE a 0 5\r\nhello\r\nEND\r\n");
}

#[test]
fn without_a_token_nothing_can_be_done() {
    let server = start(&[]);
    let answer = act(admin_of(&server), "POST", "/api/v1/checkpoint", TOKEN);
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("--admin-token-file"), "{}", answer.body);
}

#[test]
fn a_token_that_others_can_read_or_that_is_none_is_refused() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    for (token, mode, reason) in [(TOKEN, 0o644, "chmod"), (TOKEN, 0o602, "chmod"), ("short", 0o600, "16")] {
        let file = TokenFile::new(token, mode);
        let args = ["--admin", "127.0.0.1:0", "--admin-token-file", &file.path()];
        let refused = Server::try_start_in(&scratch.path().join("data"), &args).err().expect("a refusal");
        assert_eq!(refused.status.code(), Some(1), "{}", refused.output);
        assert!(refused.output.contains(reason) && refused.output.contains(&file.path()), "{}", refused.output);
    }
    let args = ["--admin", "127.0.0.1:0", "--admin-token-file", "/nonexistent/token"];
    let refused = Server::try_start_in(&scratch.path().join("data"), &args).err().expect("a refusal");
    assert!(refused.output.contains("/nonexistent/token"), "{}", refused.output);
}

#[test]
fn sighup_reads_the_token_again() {
    let file = TokenFile::new(TOKEN, 0o600);
    let server = file.start(&[]);
    let address = admin_of(&server);
    let takes = |token: &str| act(address, "POST", "/api/v1/checkpoint", token).status == 200;
    assert!(takes(TOKEN));
    let other = "another-token-of-some-length";
    file.write(other, 0o600);
    server.signal(Signal::HUP);
    eventually("the new token is taken", TIMEOUT, || takes(other));
    assert!(!takes(TOKEN));
    file.write(TOKEN, 0o644);
    server.signal(Signal::HUP);
    eventually("a bad one is refused", TIMEOUT, || server.output().contains("stay as they are"));
    assert!(takes(other));
}

#[test]
fn only_names_of_its_own_are_answered() {
    let server = start(&["--admin-host", "mq1.example,mq2.example"]);
    let address = admin_of(&server);
    let status = |host: &str| ask(address, "GET", "/api/v1/overview", &[("Host", host)]).status;
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:80", "mq1.example:22280", "MQ2.example"] {
        assert_eq!(status(host), 200, "{host}");
    }
    for host in ["evil.example", "mq1.example.evil.example", "localhost.evil.example", "1.2.3.4.evil.example"] {
        assert_eq!(status(host), 421, "{host}");
    }
    assert_eq!(status("a b"), 400);
}

// --- start and end ---

#[test]
fn an_address_that_was_asked_for_must_be_free() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let refused = Server::try_start_in(scratch.path(), &["--admin", &address]).err().expect("a refusal");
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.output.contains("--admin 127.0.0.1") && refused.output.contains("in use"), "{}", refused.output);
}

#[test]
fn without_the_default_address_the_server_runs_and_says_so() {
    // If another server of this machine has it, that does as well.
    let _taken = TcpListener::bind("127.0.0.1:22280");
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let mut child = command(scratch.path(), &[]);
    let output = fs::File::create(scratch.path().join("output")).expect("create the output file");
    let mut child = child.env_remove("RINGQ_ADMIN").stdin(Stdio::null()).stderr(output).spawn().expect("run ringq");
    let printed = || read_lossy(scratch.path().join("output"));
    eventually("it is ready", TIMEOUT, || printed().contains("ready on"));
    assert!(printed().contains("no admin listener: 127.0.0.1:22280"), "{}", printed());
    kill_process(Pid::from_child(&child), Signal::TERM).expect("stop ringq");
    assert!(child.wait().expect("wait for ringq").success());
}

#[test]
fn off_means_no_listener_and_no_thread() {
    let server = Server::start(&["--admin", "off"]);
    assert!(!server.output().contains("admin"), "{}", server.output());
    assert!(thread(&server, "ringq-admin").is_none());
    assert!(thread(&start(&[]), "ringq-admin").is_some());
}

#[test]
fn a_stop_does_not_wait_for_open_connections() {
    let mut server = start(&[]);
    let address = admin_of(&server);
    let mut silent = TcpStream::connect(address).expect("connect");
    let mut kept = TcpStream::connect(address).expect("connect");
    kept.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("ask");
    let mut piece = [0; 1];
    kept.read_exact(&mut piece).expect("an answer");
    assert!(server.stop().success());
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest);
    assert!(rest.is_empty());
}

#[test]
fn while_it_stops_it_is_alive_and_not_ready() {
    let server = start(&["--stop-timeout", "60"]);
    let address = admin_of(&server);
    assert_eq!(get(address, "/readyz").status, 200);
    // A client that never takes its replies holds the stop up.
    put_large(&server, 60);
    let mut greedy = TcpStream::connect(server.addr()).expect("connect");
    greedy.write_all("get q\r\n".repeat(60).as_bytes()).expect("ask");
    server.signal(Signal::TERM);
    eventually("it is not ready", TIMEOUT, || get(address, "/readyz").body == "stopping\n");
    assert_eq!((get(address, "/readyz").status, get(address, "/healthz").status), (503, 200));
}

fn put_large(server: &Server, count: usize) {
    let mut client = server.connect();
    let request = format!("set q 0 0 500000\r\n{}\r\n", "x".repeat(500_000));
    for _ in 0..count {
        client.send(request.as_bytes());
        client.expect(b"STORED\r\n");
    }
}

// --- it leaves the server alone ---

/// The thread of this name.
fn thread(server: &Server, name: &str) -> Option<i32> {
    let path = thread_named(server.pid(), name)?;
    path.file_name().and_then(|id| id.to_str()?.parse().ok())
}

#[test]
fn a_shard_that_hangs_is_named() {
    let server = start(&["-t", "2"]);
    let address = admin_of(&server);
    assert_eq!(get(address, "/metrics").status, 200);
    let shard = Thread::from_raw(thread(&server, "ringq-shard-1").expect("the shard's thread"));
    if let Err(error) = ptrace::seize(shard, ptrace::Options::empty()) {
        return skip("admin_hanging_shard", &format!("a thread cannot be stopped: {error}"));
    }
    ptrace::interrupt(shard).expect("stop the thread");
    waitpid(shard, Some(WaitPidFlag::__WALL)).expect("the thread stops");
    eventually("it is noticed", TIMEOUT, || get(address, "/healthz").status == 503);
    for path in ["/healthz", "/readyz", "/api/v1/overview", "/api/v1/queues", "/api/v1/latency"] {
        let answer = get(address, path);
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.body.contains("no answer from shard 1"), "{path}: {}", answer.body);
    }
    let metrics = get(address, "/metrics");
    assert_eq!(metrics.status, 200, "{}", metrics.body);
    for line in ["ringq_shard_up{shard=\"0\"} 1\n", "ringq_shard_up{shard=\"1\"} 0\n"] {
        assert!(metrics.body.contains(line), "no {line} in {}", metrics.body);
    }
    ptrace::detach(shard, None).expect("let the thread go on");
    eventually("it is well again", TIMEOUT, || get(address, "/healthz").status == 200);
}

#[test]
fn an_idle_server_with_a_listener_does_nothing() {
    let server = start(&["-t", "2"]);
    put(&server, "q", 1);
    for path in ["/", "/metrics", "/api/v1/overview", "/api/v1/queues"] {
        assert_eq!(get(admin_of(&server), path).status, 200);
    }
    let switches = || all_context_switches(server.pid());
    eventually("seconds pass in which no thread runs", TIMEOUT, || {
        let before = switches();
        std::thread::sleep(Duration::from_secs(5));
        switches() == before
    });
}

/// A client that has sent this much of a request.
fn held(address: SocketAddr, part: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(TIMEOUT)).expect("set the timeout");
    stream.write_all(part).expect("send a part");
    stream
}

#[test]
fn a_client_that_does_not_finish_makes_room_for_one_that_does() {
    let server = start(&[]);
    let address = admin_of(&server);
    let count = ringq::limits::ADMIN_CONNECTIONS_MAX;
    let part = |at: usize| if at.is_multiple_of(2) { &b"GET /healthz HTTP/1.1\r\nHost: local"[..] } else { b"" };
    let mut first: Vec<TcpStream> = (0..count).map(|at| held(address, part(at))).collect();
    // Each of these has a place, since it is asked for.
    let mut later: Vec<TcpStream> =
        (0..count).map(|_| held(address, b"GET /healthz HTTP/1.1\r\nHost: local")).collect();
    assert_eq!(get(address, "/healthz").status, 200);
    // Those that were there longest had to go, and nobody else had: they can still finish.
    for stream in &mut first {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_err() || rest.is_empty(), "closed without a word: {}", rest.escape_ascii());
    }
    for stream in &mut later[1..] {
        stream.write_all(b"host\r\nConnection: close\r\n\r\n").expect("send the rest");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer and its end");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    put(&server, "q", 1);
}

#[test]
fn more_clients_than_there_are_places_are_all_answered() {
    let server = start(&[]);
    let address = admin_of(&server);
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut clients: Vec<TcpStream> = (0..120).map(|_| held(address, request)).collect();
    for client in &mut clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer and its end");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

#[test]
fn clients_that_do_not_read_their_answers_make_room() {
    let server = start(&[]);
    let address = admin_of(&server);
    let request = b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // So many answers that no buffer of a socket has room for them.
    let deaf: Vec<TcpStream> =
        (0..ringq::limits::ADMIN_CONNECTIONS_MAX).map(|_| held(address, &request.repeat(300))).collect();
    for _ in 0..3 {
        assert_eq!(get(address, "/healthz").status, 200);
    }
    drop(deaf);
}

#[test]
fn heads_that_are_too_long_or_no_heads_are_refused() {
    let server = start(&[]);
    let address = admin_of(&server);
    let long = "x".repeat(100_000);
    let answer = ask(address, "GET", "/healthz", &[("X-Long", &long[..15_000])]);
    assert_eq!(answer.status, 200, "a proxy adds a lot");
    for bytes in [format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), "set q 0 0 1\r\nx\r\n".into()] {
        let mut stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(TIMEOUT)).expect("set the timeout");
        let _ = stream.write_all(bytes.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(get(address, "/healthz").status, 200);
}

// --- the page ---

#[test]
fn the_page_in_a_browser() {
    let file = TokenFile::new(TOKEN, 0o600);
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let port = || TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let (memcache, admin) = (port().to_string(), format!("127.0.0.1:{}", port()));
    let data = scratch.path().join("data");
    let args = ["-t", "2", "-p", &memcache, "--admin", &admin, "--admin-token-file", &file.path()];
    let server = Server::start_in(&data, &args);
    let (ringq, data) = (env!("CARGO_BIN_EXE_ringq"), data.display());
    let again = format!("{ringq} -l 127.0.0.1 -H {data} {} 2>/dev/null", args.join(" "));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/admin/page.py");
    let mut command = Command::new(python());
    command.args([script, &format!("http://{admin}/"), &memcache, "--token", TOKEN, "--restart", &again]);
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null()).output();
    let Ok(output) = output else { return skip("admin_page", "there is no Python") };
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(77) {
        return skip("admin_page", text.trim());
    }
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.lines().any(|line| line.starts_with("ok ")), "{text}");
    drop(server);
}
