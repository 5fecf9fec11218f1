//! The log of the real process: what it says at which verbosity, in which form, and that nothing done to it (by what clients send, or
//! by whoever does not read it) harms the service.

use crate::facts::{context_switches, thread_named};
use crate::harness::{Client, Server, eventually, read_lossy};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A `ringq` whose standard error the test brings.
struct Process {
    child: Child,
    _scratch: tempfile::TempDir,
}

impl Process {
    fn start(args: &[&str], stderr: impl Into<Stdio>, journal_stream: Option<&str>) -> Process {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringq"));
        command
            .env_clear()
            .env("RINGQ_ADMIN", "off")
            .args(["-p", "0", "-l", "127.0.0.1", "-t", "1", "-H"])
            .arg(scratch.path().join("data"));
        command.envs(journal_stream.map(|stream| ("JOURNAL_STREAM", stream)));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        Process { child: command.spawn().expect("run ringq"), _scratch: scratch }
    }

    fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::TERM).expect("signal ringq");
        let mut status = None;
        eventually("ringq ends", TIMEOUT, || {
            status = self.child.try_wait().expect("wait for ringq");
            status.is_some()
        });
        assert_eq!(status.and_then(|status| status.code()), Some(0));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads lines up to the one that names an address, and connects there.
fn connect_when_ready(log: &mut impl BufRead) -> (Client, Vec<String>) {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        assert_ne!(log.read_line(&mut line).expect("read the log"), 0, "ringq ended: {lines:?}");
        lines.push(line.trim_end().to_owned());
        if let Some((_, rest)) = line.trim_end().split_once("ready on ") {
            let address = rest.split('"').next().unwrap_or_default();
            return (Client::connect(address.parse().expect("an address")), lines);
        }
    }
}

/// The lines that do not say that the server is ready.
fn log_lines(output: &str) -> Vec<&str> {
    output.lines().filter(|line| !line.starts_with("ringq: ready on ")).collect()
}

/// Whether the line begins as `2026-11-25T13:40:03.123456Z  WARN `.
fn has_time_and_level(line: &str) -> bool {
    let Some((time, rest)) = line.split_once(' ') else { return false };
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let level = rest.split_whitespace().next().unwrap_or_default();
    shape == "0000-00-00T00:00:00.000000Z" && ["ERROR", "WARN", "INFO", "DEBUG"].contains(&level)
}

// --- what is said ---

#[test]
fn two_v_tell_requests_and_replies_in_order_and_no_bodies() {
    let server = Server::start(&["-vv", "-t", "1"]);
    let mut client = server.connect();
    client.send(
        b"set q 0 0 6\r\nsecret\r\nget q\r\nget none\r\nstats\r\nstats queue\r\nset q 0 0 0 noreply\r\n\r\nbogus\r\n",
    );
    client.expect(b"STORED\r\nVALUE q 0 6\r\nsecret\r\nEND\r\nEND\r\n");
    client.read_until(b"END\r\nSTAT q 1/1\r\nEND\r\nERROR\r\n");
    drop(client);
    eventually("the end is told", TIMEOUT, || server.output().contains("connection closed"));
    let output = server.output();
    assert!(!output.contains("secret"), "{output}");
    let told = |sign: &str| -> Vec<String> {
        let told = output.lines().filter_map(|line| line.split_once(&format!("DEBUG {sign}0/0.1 ")));
        told.map(|(_, line)| line.to_owned()).collect()
    };
    let asked = told("<");
    assert!(asked[0].starts_with("new connection from 127.0.0.1:"), "{output}");
    let requests = ["set q 0 0 6", "get q", "get none", "stats", "stats queue", "set q 0 0 0 noreply", "bogus"];
    assert_eq!(asked[1..asked.len() - 1], requests, "{output}");
    let replies = told(">");
    let (stats, others): (Vec<_>, Vec<_>) = replies.iter().partition(|line| line.starts_with("STAT ("));
    assert_eq!(others, ["STORED", "VALUE q 0 6", "END", "END", "END", "END", "ERROR"], "{output}");
    assert_eq!(stats.last().map(|line| line.as_str()), Some("STAT (1 lines)"), "{output}");
    assert!(log_lines(&output).into_iter().all(has_time_and_level), "{output}");
}

#[test]
fn one_v_tells_what_the_server_does_and_none_tells_what_is_wrong() {
    let lines_with = |args: &[&str]| {
        let mut server = Server::start(args);
        let mut client = server.connect();
        for number in 0..100 {
            client.send(format!("set q{number} 0 0 1\r\nx\r\nget q{number}\r\nbogus\r\n").as_bytes());
            client.expect(format!("STORED\r\nVALUE q{number} 0 1\r\nx\r\nEND\r\nERROR\r\n").as_bytes());
        }
        for unusable in [&b"set q 0 0 1\r\nxx\r\n"[..], b"GET / HTTP/1.1\r\n", &[b'x'; 9000]] {
            let mut client = server.connect();
            client.send(unusable);
            client.read_to_end();
        }
        assert!(server.stop().success());
        let output = server.output();
        // As root, that is warned of.
        let lines = log_lines(&output).into_iter().filter(|line| !line.contains("running as root"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines_with(&[]), [""; 0]);
    let lines = lines_with(&["-v"]);
    assert!((1..20).contains(&lines.len()) && lines.iter().all(|line| line.contains(" INFO ")), "{lines:?}");
    assert!(lines.last().is_some_and(|line| line.ends_with("everything is committed")), "{lines:?}");
    for why in ["CLIENT_ERROR bad data chunk", "it speaks HTTP", "CLIENT_ERROR line too long"] {
        let is_it = |line: &String| line.contains(" from 127.0.0.1:") && line.ends_with(&format!("was closed: {why}"));
        assert!(lines.iter().any(is_it), "no {why} in {lines:?}");
    }
}

#[test]
fn what_clients_send_cannot_forge_lines_or_steer_a_terminal() {
    let mut server = Server::start(&["-vv"]);
    let mut client = server.connect();
    client.send(b"get a\x1b[2Jb\x00\x7f\xc2\x9b\xff\\\r\nset \x1b]0;x\x07 0 0 1\r\nx\r\n");
    client.send(b"get a\x0b\x0c2026-11-25T13:40:03.123456Z ERROR forged\r\nversion\r\n");
    client.read_until(b"VERSION ");
    assert!(server.stop().success());
    let output = server.output();
    assert!(output.contains("\\x1b[2Jb\\x00\\x7f\\xc2\\x9b\\xff\\\\"), "{output}");
    assert!(output.bytes().all(|byte| byte == b'\n' || (b' '..0x7f).contains(&byte)), "{}", output.escape_default());
    assert!(log_lines(&output).into_iter().all(has_time_and_level), "{output}");
}

#[test]
fn a_flood_of_complaints_is_a_few_lines_and_their_number() {
    const CONNECTIONS: usize = 1000;
    let mut server = Server::start(&["-t", "2"]);
    for _ in 0..CONNECTIONS {
        let mut client = server.connect();
        client.send(&[0x80; 24]);
        client.expect_closed();
    }
    eventually("it is summed up, though nothing more comes", TIMEOUT, || {
        server.output().contains(" more in the last ")
    });
    assert!(server.stop().success());
    let output = server.output();
    let (sums, told): (Vec<_>, Vec<_>) = output
        .lines()
        .filter(|line| line.contains("the binary protocol"))
        .partition(|line| line.contains(" more in the last "));
    let count = |line: &str| line.split_once("protocol: ")?.1.split_once(" more")?.0.parse::<usize>().ok();
    let withheld: usize = sums.iter().map(|line| count(line).expect("a number")).sum();
    assert_eq!(told.len() + withheld, CONNECTIONS, "{output}");
    assert!(told.len() < CONNECTIONS / 10, "{output}");
    assert!(told.iter().all(|line| line.contains(" WARN ") && line.contains(" from 127.0.0.1:")), "{output}");
}

// --- in which form ---

#[test]
fn json_is_an_object_a_line() {
    let mut server = Server::start(&["--log-format", "json", "-vv", "-t", "1"]);
    let mut client = server.connect();
    client.send(b"set q\"\\ 0 0 6\r\nsecret\r\nget q\"\\\r\n");
    client.expect(b"STORED\r\nVALUE q\"\\ 0 6\r\nsecret\r\nEND\r\n");
    server.connect().send(&[0x80; 24]);
    eventually("it is told", TIMEOUT, || server.output().contains("binary protocol"));
    assert!(server.stop().success());
    let output = server.output();
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_else(|| panic!("no {key} in {line}")).to_owned();
    for line in &lines {
        assert!(has_time_and_level(&format!("{} {}", text(line, "timestamp"), text(line, "level"))), "{line}");
        assert!(!text(line, "message").contains("secret"), "{line}");
    }
    for (level, message) in [
        ("INFO", "ready on 127.0.0.1:"),
        ("INFO", "0 queues with 0 messages"),
        ("DEBUG", "get q\\\"\\\\"),
        ("DEBUG", "VALUE q\\\"\\\\ 0 6"),
        ("WARN", "binary protocol"),
    ] {
        let is_it = |line: &&Value| text(line, "message").contains(message);
        let line = lines.iter().find(is_it).unwrap_or_else(|| panic!("no {message} in {output}"));
        assert_eq!(text(line, "level"), level, "{line}");
    }
}

#[test]
fn the_journal_gets_priorities_and_no_times() {
    for format in ["text", "json"] {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let stat = rustix::fs::fstat(&theirs).expect("stat the socket");
        let stream = format!("{}:{}", stat.st_dev, stat.st_ino);
        let args = ["-v", "--log-format", format];
        let mut process = Process::start(&args, OwnedFd::from(theirs), Some(&stream));
        let mut log = BufReader::new(ours);
        let (mut client, mut lines) = connect_when_ready(&mut log);
        client.send(&[0x80; 24]);
        client.expect_closed();
        process.stop();
        lines.extend(log.lines().map(|line| line.expect("read the log")));
        for (priority, message) in
            [("<6>", "ready on "), ("<4>", "binary protocol"), ("<6>", "everything is committed")]
        {
            let line = lines.iter().find(|line| line.contains(message));
            assert!(line.is_some_and(|line| line.starts_with(priority)), "{message}: {lines:?}");
        }
        for line in &lines {
            let message =
                line.strip_prefix('<').and_then(|line| line[1..].strip_prefix('>')).unwrap_or_else(|| panic!("{line}"));
            assert!(if format == "json" { is_object(message) } else { !has_time_and_level(message) }, "{line}");
        }
    }
}

fn is_object(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|value| value.is_object())
}

#[test]
fn a_journal_that_is_not_standard_error_is_none() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut process = Process::start(&["-v"], OwnedFd::from(writer), Some("1:2"));
    let mut log = BufReader::new(reader);
    let (_, lines) = connect_when_ready(&mut log);
    process.stop();
    assert!(log_lines(&lines.join("\n")).into_iter().all(has_time_and_level), "{lines:?}");
}

// --- a file ---

#[test]
fn the_log_goes_on_in_a_new_file_after_sighup() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let (path, old) = (scratch.path().join("log"), scratch.path().join("log.1"));
    let server = Server::start(&["-vv", "--log-file", path.to_str().expect("a readable path")]);
    assert_eq!(fs::metadata(&path).expect("the log is there").permissions().mode() & 0o777, 0o640);
    assert_eq!(log_lines(&server.output()), [""; 0]);
    eventually("it is ready", TIMEOUT, || read_lossy(&path).contains("ready on 127.0.0.1:"));
    ask_and_await(&server, "first", &path);

    fs::rename(&path, &old).expect("rename the log");
    ask_and_await(&server, "second", &old);
    server.signal(Signal::HUP);
    eventually("there is a new file", TIMEOUT, || path.exists());
    ask_and_await(&server, "third", &path);
    assert!(!read_lossy(&old).contains("third") && !read_lossy(&path).contains("second"));

    // Where no file can be, the log stays where it is.
    fs::remove_file(&old).expect("remove the old log");
    fs::rename(&path, &old).expect("rename the log");
    fs::create_dir(&path).expect("make a directory");
    server.signal(Signal::HUP);
    eventually("it says so", TIMEOUT, || read_lossy(&old).contains("cannot be opened"));
    ask_and_await(&server, "fourth", &old);

    // And goes on when one can.
    fs::remove_dir(&path).expect("remove the directory");
    server.signal(Signal::HUP);
    eventually("there is a new file", TIMEOUT, || path.exists());
    ask_and_await(&server, "fifth", &path);
    let lines = read_lossy(&path) + &read_lossy(&old);
    assert!(lines.lines().all(has_time_and_level), "{lines}");
    assert_eq!(log_lines(&server.output()), [""; 0]);
}

fn ask_and_await(server: &Server, queue: &str, log: &Path) {
    let mut client = server.connect();
    client.send(format!("get {queue}\r\n").as_bytes());
    client.expect(b"END\r\n");
    eventually("it is in the log", TIMEOUT, || read_lossy(log).contains(&format!("get {queue}")));
}

#[test]
fn a_file_that_cannot_be_opened_is_refused_by_name() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let path = scratch.path().join("none/log");
    let path = path.to_str().expect("a readable path");
    let refused =
        Server::try_start_in(&scratch.path().join("data"), &["--log-file", path]).err().expect("no directory");
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.output.contains("--log-file") && refused.output.contains(path), "{}", refused.output);
}

#[test]
fn why_a_start_was_refused_is_in_the_file_and_on_standard_error() {
    let server = Server::start(&[]);
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let path = scratch.path().join("log");
    let args = ["--log-file", path.to_str().expect("a readable path")];
    let refused = Server::try_start_in(server.data(), &args).err().expect("the data is in use");
    assert!(refused.output.contains("ringq: ") && refused.output.contains("in use by process"), "{}", refused.output);
    let log = read_lossy(&path);
    assert!(log.contains(" ERROR ") && log.contains("in use by process"), "{log}");
}

// --- what it is written to ---

#[test]
fn a_log_that_nobody_reads_does_not_stop_the_service() {
    const GETS: usize = 500;
    const ROUNDS: usize = 100;
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut process = Process::start(&["-vv"], OwnedFd::from(writer), None);
    let (mut client, _) = connect_when_ready(&mut BufReader::with_capacity(1, &mut reader));
    // More than pipe and buffers hold.
    let name = "x".repeat(200);
    let rounds = |client: &mut Client| {
        for _ in 0..ROUNDS {
            client.send(format!("get {name}\r\n").repeat(GETS).as_bytes());
            client.expect("END\r\n".repeat(GETS).as_bytes());
        }
    };
    rounds(&mut client);
    let read = std::thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).expect("read the log");
        log
    });
    process.stop();
    let log = read.join().expect("the log was read");
    assert!(log.contains("lines of the log were lost"), "{} bytes of log", log.len());
    assert!(log.ends_with('\n') && log_lines(&log).into_iter().all(has_time_and_level));

    // And one that is never read again does not keep it from stopping.
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut process = Process::start(&["-vv"], OwnedFd::from(writer), None);
    let (mut client, _) = connect_when_ready(&mut BufReader::with_capacity(1, &mut reader));
    rounds(&mut client);
    process.stop();
}

#[test]
fn a_log_that_cannot_be_written_does_not_stop_the_service() {
    // Closed.
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut process = Process::start(&["-vv"], OwnedFd::from(writer), None);
    let (mut client, _) = connect_when_ready(&mut BufReader::with_capacity(1, &mut reader));
    drop(reader);
    use_all(&mut client);
    process.stop();
    // Full.
    let mut server = Server::start(&["-vv", "--log-file", "/dev/full"]);
    use_all(&mut server.connect());
    assert!(server.stop().success());
    let full = File::options().write(true).open("/dev/full").expect("open /dev/full");
    let mut process = Process::start(&["-vv"], full, None);
    use_all(&mut Client::connect(([127, 0, 0, 1], eventually_listening(process.child.id())).into()));
    process.stop();
    // Non-blocking, and full before it says that it is ready: a start loses lines, too.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(writer.as_fd(), true).expect("make it non-blocking");
    while rustix::io::write(writer.as_fd(), &[b'\n'; 4096]).is_ok() {}
    let mut process = Process::start(&["-vv"], OwnedFd::from(writer), None);
    use_all(&mut Client::connect(([127, 0, 0, 1], eventually_listening(process.child.id())).into()));
    process.stop();
    drop(reader);
}

/// Requests of all kinds, some of which make lines of their own.
fn use_all(client: &mut Client) {
    client.send(b"set q 0 0 1\r\nx\r\nget q\r\nverbosity 1\r\nverbosity 2\r\nget none\r\nset q 0 0 1\r\nxx\r\n");
    client.expect(b"STORED\r\nVALUE q 0 1\r\nx\r\nEND\r\nOK\r\nOK\r\nEND\r\nCLIENT_ERROR bad data chunk\r\n");
    client.expect_closed();
}

/// The port a process listens on, asked of the kernel.
fn eventually_listening(pid: u32) -> u16 {
    let mut port = None;
    eventually("it listens", TIMEOUT, || {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let sockets: HashSet<String> = links
            .filter_map(|link| {
                fs::read_link(link.path())
                    .ok()?
                    .to_str()?
                    .strip_prefix("socket:[")?
                    .strip_suffix(']')
                    .map(str::to_owned)
            })
            .collect();
        let table = read_lossy(format!("/proc/{pid}/net/tcp"));
        port = table.lines().skip(1).find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_ours = words[3] == "0A" && sockets.contains(words[9]);
            is_ours.then(|| u16::from_str_radix(words[1].rsplit(':').next()?, 16).ok())?
        });
        port.is_some()
    });
    port.expect("eventually returns only when it is set")
}

#[test]
fn an_idle_server_does_nothing_for_its_log() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let path = scratch.path().join("log");
    let server = Server::start(&["-vv", "--log-file", path.to_str().expect("a readable path")]);
    ask_and_await(&server, "q", &path);
    let thread = thread_named(server.pid(), "ringq-log").expect("the log has a thread");
    let switches = || context_switches(&thread);
    let mut last = switches();
    let mut same = 0;
    eventually("it sleeps", TIMEOUT, || {
        let now = switches();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        same == 100
    });
}
