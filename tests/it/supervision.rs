//! A running server and those who look after it: signals, a configuration that changes, lines that were asked for, systemd.

use crate::background::command;
use crate::clients::skip;
use crate::facts::{all_context_switches, thread_named};
use crate::harness::{Server, eventually, read_lossy};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid as Thread;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(30);

fn setting(server: &Server, name: &str) -> String {
    let reply = server.connect().command(b"stats settings\r\n", b"END\r\n");
    let reply = String::from_utf8(reply).expect("settings are text");
    let value = reply.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
    value.unwrap_or_else(|| panic!("no {name} in {reply}")).to_owned()
}

/// A configuration file in a directory of its own.
struct Settings {
    scratch: TempDir,
}

impl Settings {
    fn new(text: &str) -> Settings {
        let settings = Settings { scratch: tempfile::tempdir().expect("a temporary directory") };
        settings.write(text);
        settings
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).expect("write the configuration");
    }

    fn path(&self) -> PathBuf {
        self.scratch.path().join("ringq.toml")
    }

    fn start(&self, args: &[&str]) -> Server {
        let path = self.path();
        Server::start(&[&["--config", path.to_str().expect("readable")], args].concat())
    }
}

// --- SIGHUP ---

#[test]
fn a_reload_changes_what_can_change() {
    let settings = Settings::new("max-queues = 100\n");
    let server = settings.start(&["-t", "2"]);
    let mut client = server.connect();
    client.send(b"set a 0 0 1\r\nx\r\nflush_all\r\nshutdown\r\n");
    client.expect(b"STORED\r\nERROR\r\nERROR\r\n");

    settings.write(
        "max-queues = 2\nenable-flush-all = true\nenable-shutdown = true\nverbose = 2\nmax-wait = 0\n\
         stats-every = 1\ncheckpoint-every = 1\nidle-timeout = 3600\nstop-timeout = 77\n",
    );
    server.signal(Signal::HUP);
    eventually("the new settings show", TIMEOUT, || setting(&server, "max_queues") == "2");
    assert_eq!(setting(&server, "flush_enabled"), "yes");
    assert_eq!(setting(&server, "shutdown_enabled"), "yes");
    for (name, value) in
        [("verbosity", "2"), ("idle_timeout", "3600"), ("stop_timeout", "77"), ("checkpoint_every", "1")]
    {
        assert_eq!(setting(&server, name), value, "{name}");
    }
    // A wait of an hour would be answered too late for this client.
    client.send(b"get empty/t=3600000\r\nflush_all\r\nset a 0 0 1\r\nx\r\n");
    client.expect(b"END\r\nOK\r\nSTORED\r\n");
    // Each of the two shards has room for one queue.
    for name in ["b", "c", "d", "e", "f", "g"] {
        client.command(format!("set {name} 0 0 1\r\nx\r\n").as_bytes(), b"STORED\r\n");
    }
    client.send(b"get reloaded\r\n");
    client.expect(b"END\r\n");
    eventually("commands are logged", TIMEOUT, || server.output().contains("get reloaded"));
    eventually("there is a line of statistics", TIMEOUT, || server.output().contains("stats: seconds="));
    // -C 1 brings what is kept to the store without anybody asking.
    eventually("there is a checkpoint", TIMEOUT, || {
        server.output().lines().any(|line| line.contains("stats: ") && !line.ends_with("checkpoints=0"))
    });
    assert!(!server.output().contains("at a restart"), "{}", server.output());
}

#[test]
fn a_reload_changes_the_floor_of_free_space() {
    let settings = Settings::new("min-free = 0\n");
    let server = settings.start(&[]);
    let mut client = server.connect();
    let stores = |client: &mut crate::harness::Client| {
        client.send(b"set q 0 0 1\r\nx\r\n");
        client.read_reply_line() == b"STORED"
    };
    assert!(stores(&mut client));
    // No file system of today has so much.
    settings.write("min-free = 1048576\n");
    server.signal(Signal::HUP);
    let available = rustix::fs::statvfs(server.data()).expect("ask for free space");
    if available.f_bavail * available.f_frsize >= 1 << 40 {
        return skip("supervision_min_free", "there is a TiB of free space");
    }
    eventually("puts are refused", TIMEOUT, || !stores(&mut client));
    settings.write("min-free = 0\n");
    server.signal(Signal::HUP);
    eventually("puts are accepted again", TIMEOUT, || stores(&mut client));
}

#[test]
fn a_reload_of_a_bad_file_changes_nothing_and_says_why() {
    let settings = Settings::new("max-queues = 100\n");
    let server = settings.start(&[]);
    for (text, reason) in
        [("max-queues = \"many\"\nverbose = 2\n", "many"), ("max_queues = 7\n", "max-queues"), ("x", "ringq.toml")]
    {
        settings.write(text);
        let before = server.output().len();
        server.signal(Signal::HUP);
        eventually("it is refused", TIMEOUT, || server.output()[before..].contains("settings stay as they are"));
        assert!(server.output()[before..].contains(reason), "{}", server.output());
        assert_eq!(setting(&server, "max_queues"), "100");
    }
    fs::remove_file(settings.path()).expect("remove the configuration");
    let before = server.output().len();
    server.signal(Signal::HUP);
    eventually("it is refused", TIMEOUT, || server.output()[before..].contains("settings stay as they are"));
    // A good one is taken afterwards.
    settings.write("max-queues = 7\n");
    server.signal(Signal::HUP);
    eventually("the new settings show", TIMEOUT, || setting(&server, "max_queues") == "7");
}

#[test]
fn a_reload_names_what_needs_a_restart() {
    let settings = Settings::new("memory = 64\n");
    let server = settings.start(&[]);
    settings.write("memory = 128\nno-sync = true\nmax-queues = 7\n");
    server.signal(Signal::HUP);
    eventually("the new settings show", TIMEOUT, || setting(&server, "max_queues") == "7");
    eventually("they are named", TIMEOUT, || server.output().contains("at a restart: -m, -N"));
    assert_eq!((setting(&server, "maxbytes"), setting(&server, "durable")), ("67108864".into(), "yes".into()));
}

#[test]
fn a_hangup_without_a_configuration_file_is_harmless() {
    let server = Server::start(&["-v"]);
    server.signal(Signal::HUP);
    eventually("it is heard", TIMEOUT, || server.output().contains("settings were read again"));
    assert!(server.connect().command(b"version\r\n", b"\r\n").starts_with(b"VERSION "));
}

// --- lines that were asked for ---

#[test]
fn sigusr1_writes_the_state_at_any_verbosity() {
    let server = Server::start(&["-t", "2"]);
    let mut client = server.connect();
    for queue in 0..30 {
        for _ in 0..=queue {
            client.send(format!("set q{queue} 0 0 1\r\nx\r\n").as_bytes());
            client.expect(b"STORED\r\n");
        }
    }
    server.signal(Signal::USR1);
    eventually("the state is written", TIMEOUT, || server.output().contains("state: queue q10 "));
    let output = server.output();
    for part in [
        format!("pid={}", server.pid()),
        "state: settings maxbytes=67108864".into(),
        "state: total connections=1 queues=30 ready=465 ".into(),
        "state: shard 0 ".into(),
        "state: shard 1 ".into(),
        "state: queue q29 ready=30 puts=30 gets=0".into(),
    ] {
        assert!(output.contains(&part), "no {part} in {output}");
    }
    let queues = output.lines().filter(|line| line.contains("state: queue")).count();
    assert_eq!(queues, 20, "the largest only: {output}");
    assert!(!output.contains("state: queue q9 "), "{output}");
    assert!(!output.contains("does not answer"), "{output}");
}

#[test]
fn statistics_are_written_every_so_many_seconds_at_any_verbosity() {
    let server = Server::start(&["-S", "1"]);
    let mut client = server.connect();
    client.send(b"set q 0 0 1\r\nx\r\nget q\r\nget q\r\nset q 0 0 1\r\nx\r\n");
    client.expect(b"STORED\r\nVALUE q 0 1\r\nx\r\nEND\r\nEND\r\nSTORED\r\n");
    let total = |output: &str, name: &str| -> u64 {
        let words = output.lines().filter(|line| line.contains("stats: ")).flat_map(str::split_whitespace);
        words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok()).sum()
    };
    eventually("everything was counted", TIMEOUT, || total(&server.output(), "puts") == 2);
    eventually("and is counted once", TIMEOUT, || server.output().matches("puts=0 ").count() > 1);
    let output = server.output();
    assert_eq!((total(&output, "puts"), total(&output, "gets"), total(&output, "hits")), (2, 2, 1), "{output}");
    assert!(output.contains(" ready=1 ") && output.contains(" connections=1 "), "{output}");
}

#[test]
fn an_idle_server_does_nothing() {
    let server = Server::start(&["-t", "2"]);
    let switches = || all_context_switches(server.pid());
    eventually("a second passes in which no thread runs", TIMEOUT, || {
        let before = switches();
        std::thread::sleep(Duration::from_secs(1));
        switches() == before
    });
}

// --- systemd ---

/// A server that is told where systemd would listen, and that place.
struct Notified {
    child: Child,
    socket: UnixDatagram,
    /// Everything that was heard, a message an element.
    heard: Vec<String>,
    scratch: TempDir,
}

impl Notified {
    fn start(args: &[&str], watchdog_us: Option<&str>) -> Notified {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let path = scratch.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bind");
        socket.set_nonblocking(true).expect("set it not to block");
        let mut command = command(scratch.path(), args);
        command.env("NOTIFY_SOCKET", &path);
        if let Some(us) = watchdog_us {
            command.env("WATCHDOG_USEC", us);
        }
        let output = File::create(scratch.path().join("printed")).expect("create");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        let child = command.spawn().expect("run ringq");
        Notified { child, socket, heard: Vec::new(), scratch }
    }

    fn listen(&mut self) {
        let mut message = [0; 4096];
        while let Ok(size) = self.socket.recv(&mut message) {
            self.heard.push(String::from_utf8_lossy(&message[..size]).into_owned());
        }
    }

    /// Waits for a message with these lines, and returns it.
    #[track_caller]
    fn await_message(&mut self, lines: &[&str]) -> String {
        let mut found = None;
        let what = format!("{lines:?} is heard");
        eventually(&what, TIMEOUT, || {
            self.listen();
            let has = |message: &&String| lines.iter().all(|line| message.lines().any(|heard| heard.starts_with(line)));
            found = self.heard.iter().find(has).cloned();
            found.is_some()
        });
        found.expect("eventually returns only when it is set")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        kill_process(pid.expect("a process id"), signal).expect("signal ringq");
    }

    fn printed(&self) -> String {
        read_lossy(self.scratch.path().join("printed"))
    }

    fn thread(&self, name: &str) -> Thread {
        let path = thread_named(self.child.id(), name).expect("the thread runs");
        let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        Thread::from_raw(id.expect("a thread id"))
    }
}

impl Drop for Notified {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn systemd_hears_of_ready_reload_and_stop() {
    let mut server = Notified::start(&[], None);
    let pid = format!("MAINPID={}", server.child.id());
    let ready = server.await_message(&["READY=1", &pid, "STATUS=0 queues with 0 messages, on 127.0.0.1:"]);
    // The log has a thread of its own.
    let address = ready.rsplit_once("on ").expect("an address").1.trim();
    eventually("the address is printed, too", TIMEOUT, || server.printed().contains(address));
    server.heard.clear();
    server.signal(Signal::HUP);
    let reloading = server.await_message(&["RELOADING=1", "MONOTONIC_USEC="]);
    let usec = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(usec.is_some_and(|usec| usec.parse::<u64>().is_ok_and(|usec| usec > 0)), "{reloading}");
    server.await_message(&["READY=1"]);
    server.signal(Signal::TERM);
    server.await_message(&["STOPPING=1", "STATUS="]);
    assert!(server.child.wait().expect("wait").success());
    server.await_message(&["EXTEND_TIMEOUT_USEC="]);
    assert!(!server.heard.iter().any(|message| message.contains("WATCHDOG")), "{:?}", server.heard);
}

#[test]
fn systemd_hears_of_the_process_in_the_background() {
    let mut server = Notified::start(&["-d"], None);
    server.child.wait().expect("wait for the command");
    let daemon = crate::background::Daemon::of(&server.scratch.path().join("data"));
    server.await_message(&["READY=1", &format!("MAINPID={}", daemon.pid)]);
}

#[test]
fn the_watchdog_is_answered_only_while_every_shard_answers() {
    let mut server = Notified::start(&["-t", "2"], Some("200000"));
    server.await_message(&["READY=1"]);
    for _ in 0..3 {
        server.heard.clear();
        server.await_message(&["WATCHDOG=1"]);
    }
    let shard = server.thread("ringq-shard-1");
    if let Err(error) = ptrace::seize(shard, ptrace::Options::empty()) {
        return skip("supervision_watchdog", &format!("a thread cannot be stopped: {error}"));
    }
    ptrace::interrupt(shard).expect("stop the thread");
    waitpid(shard, Some(WaitPidFlag::__WALL)).expect("the thread stops");
    eventually("it is noticed", TIMEOUT, || server.printed().contains("no answer from shard 1: systemd is not told"));
    server.listen();
    server.heard.clear();
    server.signal(Signal::USR1);
    eventually("the state is written without it", TIMEOUT, || {
        server.printed().contains("state: shard 1 does not answer")
    });
    assert!(server.printed().contains("state: shard 0 connections="), "{}", server.printed());
    server.listen();
    assert!(server.heard.is_empty(), "nothing hangs? {:?}", server.heard);
    ptrace::detach(shard, None).expect("let the thread go on");
    server.await_message(&["WATCHDOG=1"]);
}
