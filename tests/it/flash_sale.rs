//! The flash sale of docs/examples, run as a reader runs it: in a browser, with a crowd and accidents, and step by step where an
//! answer is lost.
//!
//! Invariant: what is asserted of the crowd is what the example's README promises, for every visitor. What is killed was started here.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

use crate::clients::{python, skip};
use crate::harness::{Client, Server, eventually, read_lossy};

/// How long the sale may take to open, a crowd to pass, or a worker to catch up.
const TIMEOUT: Duration = Duration::from_secs(120);
const VISITORS: usize = 5000;
const GATE: usize = 500;
const TICKETS: usize = 100;
/// How often a crowd comes until RingQ is killed while visitors are let in.
const CROWDS_MAX: usize = 5;

#[test]
fn a_browser_buys_a_ticket() {
    let Some(mut sale) = Sale::open(1, 2) else { return };
    let mut command = Command::new(python());
    let worker = sale.process("worker").as_raw_nonzero().to_string();
    command.args([&root("tests/examples/flash_sale.py"), &format!("{}/", sale.address), &worker]);
    if let Some(directory) = std::env::var_os("RINGQ_SCREENSHOTS") {
        command.arg("--screenshots").arg(directory);
    }
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null()).output();
    let Ok(output) = output else { return skip("flash_sale_browser", "there is no Python") };
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(77) {
        return skip("flash_sale_browser", text.trim());
    }
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.lines().any(|line| line.starts_with("ok ")), "{text}");

    let processes = ["RingQ", "worker", "pages"].map(|name| sale.process(name));
    sale.end(Signal::INT);
    for process in processes {
        assert!(test_kill_process(process).is_err(), "Ctrl-C leaves a process");
    }
    let left: Vec<_> = fs::read_dir(sale.scratch.path()).expect("read the directory").collect();
    assert_eq!(left.len(), 1, "Ctrl-C leaves more than what the demonstration printed: {left:?}");
}

#[test]
fn a_crowd_with_accidents_is_let_in_and_sold_to_exactly() {
    for _ in 0..CROWDS_MAX {
        match crowd_with_accidents() {
            None | Some(true) => return,
            Some(false) => {}
        }
    }
    panic!("in {CROWDS_MAX} crowds RingQ was never killed before all were let in");
}

/// Tells whether RingQ was killed while visitors were let in; none if it cannot run here.
fn crowd_with_accidents() -> Option<bool> {
    let sale = Sale::open(TICKETS, GATE)?;
    let told = sale.scratch.path().join("told");
    let output = File::create(&told).expect("create the output file");
    let child = Command::new("php")
        .args([&root("docs/examples/flash-sale/visitors.php"), &sale.address, &VISITORS.to_string()])
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a second handle"))
        .stderr(output)
        .spawn()
        .expect("run PHP");
    let mut crowd = Running { child };
    let visitors = sale.data.join("visitors");
    eventually("half of the gate's visitors have come", TIMEOUT, || {
        fs::read_dir(&visitors).expect("read the visitors").count() >= GATE / 2
    });
    sale.kill9("RingQ");
    let admitted_before = sale.visitors().values().filter(|lines| lines.ends_with("admitted\n")).count();
    eventually("some tickets are sold", TIMEOUT, || sale.ledger().len() >= TICKETS / 2);
    sale.kill9("worker");

    let status = crowd.wait("the crowd has passed");
    let told = read_lossy(&told);
    assert_eq!(status, Some(0), "the crowd's end: {told}");
    eventually("the worker has caught up", TIMEOUT, || sale.ledger().len() >= GATE);
    // It would not end where more were let in.
    eventually("the line is empty", TIMEOUT, || sale.stats().contains("STAT ready 0\r\nSTAT open 0\r\n"));

    let stats = sale.stats();
    for line in ["STAT puts 500\r\n", "STAT gets 500\r\n"] {
        assert!(stats.contains(line), "not {line:?} in {stats}");
    }
    judge(&sale.ledger(), &sale.visitors());
    let number = |what: &str| -> usize {
        let line = told.lines().find_map(|line| line.strip_suffix(what)).unwrap_or_else(|| panic!("no {what}: {told}"));
        line.trim().parse().expect("a number")
    };
    assert_eq!(number("in the line") + number("sold out"), VISITORS, "{told}");

    let ledger = sale.ledger();
    let holder = ledger.iter().find(|line| line.outcome == "ticket-100").expect("the last ticket");
    assert!(sale.request("GET", "/place.php", &holder.visitor).contains("<strong id=\"ticket\">100</strong>"));
    let late = ledger.iter().find(|line| line.outcome == "late-101").expect("the first who came too late");
    assert!(sale.request("GET", "/place.php", &late.visitor).contains("<strong id=\"place\">101</strong>"));
    Some(admitted_before < GATE)
}

/// What the README promises, whoever was killed when.
fn judge(ledger: &[Line], visitors: &HashMap<String, String>) {
    assert_eq!(ledger.len(), GATE, "every admission is in the ledger, once");
    assert!(ledger.is_sorted_by(|a, b| a.message < b.message), "in the order of admission");
    let mut lines_of: HashMap<&str, usize> = HashMap::new();
    for line in ledger {
        let place = lines_of.len() + 1;
        let lines = lines_of.entry(&line.visitor).or_default();
        *lines += 1;
        let expected = match place {
            _ if *lines > 1 => "again".to_owned(),
            place if place <= TICKETS => format!("ticket-{place}"),
            place => format!("late-{place}"),
        };
        assert_eq!(line.outcome, expected, "{line:?}");
    }
    assert!(lines_of.len() >= TICKETS, "all tickets are sold");

    assert_eq!(visitors.len(), VISITORS);
    let mut acknowledged = 0;
    for (visitor, told) in visitors {
        let count = |word: &str| told.lines().filter(|line| *line == word).count();
        let (asked, admitted, refused) = (count("asked"), count("admitted"), count("refused"));
        assert_eq!(admitted + refused, 1, "{visitor} has one answer in the end: {told:?}");
        let lines = lines_of.remove(visitor.as_str()).unwrap_or(0);
        assert!((admitted..=asked - refused).contains(&lines), "{visitor} is {lines} times in the line: {told:?}");
        acknowledged += admitted;
    }
    assert!(lines_of.is_empty(), "in the line, but no visitors: {lines_of:?}");
    assert!(acknowledged <= GATE, "{acknowledged} were told that they are in the line");
}

#[test]
fn a_visitor_whose_answer_was_lost_keeps_the_place() {
    let Some(sale) = Sale::open(1, 2) else { return };
    let [lost, other, unlucky] = ["a", "b", "c"].map(|letter| letter.repeat(32));
    // As buy.php leaves it when the put has no answer, be it stored (lost) or not (unlucky).
    for visitor in [&lost, &unlucky] {
        fs::write(sale.data.join("visitors").join(visitor), "asked\n").expect("write the visitor's file");
    }
    let put = format!("set tickets 0 0 32\r\n{lost}\r\n");
    Client::connect_to(&sale.ringq).command(put.as_bytes(), b"STORED\r\n");
    assert!(sale.request("POST", "/buy.php", &other).contains("Location: /place.php"));
    eventually("both are in the ledger", TIMEOUT, || sale.ledger().len() == 2);

    assert!(sale.request("GET", "/place.php", &lost).contains("<strong id=\"ticket\">1</strong>"));
    assert!(sale.request("POST", "/buy.php", &lost).contains("Location: /place.php"));
    assert_eq!(sale.visitors()[&lost], "asked\nasked\nrefused\n");
    assert!(sale.request("GET", "/place.php", &lost).contains("<strong id=\"ticket\">1</strong>"));

    assert!(sale.request("GET", "/place.php", &unlucky).contains("Try again"));
    assert!(sale.request("POST", "/buy.php", &unlucky).contains("Location: /place.php"));
    assert!(sale.request("GET", "/place.php", &unlucky).contains("Location: /sold-out.html"));
    let ledger = sale.ledger();
    assert_eq!(ledger.iter().map(|line| &*line.outcome).collect::<Vec<_>>(), ["ticket-1", "late-2"]);
}

#[test]
fn a_worker_that_died_before_it_confirmed_sells_nothing_twice() {
    if !has_php() {
        return;
    }
    let server = Server::start(&[]);
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("sale");
    let php = |script: &str| {
        let mut command = Command::new("php");
        command.arg(root(&format!("docs/examples/flash-sale/{script}"))).stdin(Stdio::null());
        command.env("SALE_RINGQ", server.addr().to_string()).env("SALE_DATA", &data);
        command.env("SALE_TICKETS", "2").env("SALE_GATE", "5");
        command
    };
    assert!(php("setup.php").status().expect("run PHP").success());

    let mut worker = server.connect();
    for visitor in ["first", "second", "first", "third"] {
        worker.command(format!("set tickets 0 0 {}\r\n{visitor}\r\n", visitor.len()).as_bytes(), b"STORED\r\n");
    }
    let opened = worker.command(b"gets tickets/open\r\n", b"END\r\n");
    let opened = String::from_utf8(opened).expect("text");
    let id = opened.split_whitespace().nth(4).expect("an id").to_owned();
    // It recorded one sale and half of the next, and ends.
    fs::write(data.join("ledger"), format!("{id} first ticket-1\n12345 sec")).expect("write the ledger");
    drop(worker);

    let mut worker = Running { child: php("worker.php").spawn().expect("run PHP") };
    eventually("all are in the ledger", TIMEOUT, || ledger(&data).len() == 4);
    let lines = ledger(&data);
    let shown: Vec<_> = lines.iter().map(|line| (&*line.visitor, &*line.outcome)).collect();
    assert_eq!(shown, [("first", "ticket-1"), ("second", "ticket-2"), ("first", "again"), ("third", "late-3")]);
    assert_eq!(lines[0].message.to_string(), id);
    eventually("all are confirmed", TIMEOUT, || {
        let stats = server.connect().command(b"stats queue tickets\r\n", b"END\r\n");
        String::from_utf8_lossy(&stats).contains("STAT gets 4\r\n")
    });
    worker.end(Signal::TERM);
}

/// The demonstration, running. Dropping it ends it.
struct Sale {
    demo: Running,
    /// `http://127.0.0.1:PORT`.
    address: String,
    /// RingQ's address.
    ringq: String,
    /// The directory of what the demonstration runs.
    directory: PathBuf,
    /// The files of the sale.
    data: PathBuf,
    scratch: TempDir,
}

impl Sale {
    /// Starts the demonstration; none, and the test skipped, where PHP has not what it takes.
    fn open(tickets: usize, gate: usize) -> Option<Sale> {
        if !has_php() {
            return None;
        }
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let printed = scratch.path().join("printed");
        let output = File::create(&printed).expect("create the output file");
        let child = Command::new(root("docs/examples/flash-sale/demo.sh"))
            .arg(env!("CARGO_BIN_EXE_ringq"))
            .env("TMPDIR", scratch.path())
            .env("SALE_TICKETS", tickets.to_string())
            .env("SALE_GATE", gate.to_string())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .expect("run the demonstration");
        let mut demo = Running { child };
        let mut has_ended = false;
        eventually("the sale is open", TIMEOUT, || {
            has_ended = demo.child.try_wait().expect("wait for the demonstration").is_some();
            has_ended || read_lossy(&printed).contains("Ctrl-C ends it.")
        });
        let text = read_lossy(&printed);
        assert!(!has_ended, "the demonstration ended: {text}");
        let after = |words: &str| -> String {
            let rest = text.split(words).nth(1).unwrap_or_else(|| panic!("no {words:?} in {text}"));
            rest.split_whitespace().next().expect("a word").to_owned()
        };
        let address = after("The sale is open: ").trim_end_matches('/').to_owned();
        let ringq = format!("127.0.0.1:{}", after("nc -N 127.0.0.1 "));
        let data = PathBuf::from(after("grep -c ticket- ")).parent().expect("a directory").to_owned();
        let directory = data.parent().expect("a directory").to_owned();
        Some(Sale { demo, address, ringq, directory, data, scratch })
    }

    /// The process that runs now under one of the names of the demonstration.
    fn process(&self, name: &str) -> Pid {
        let text = read_lossy(self.directory.join(format!("{name}.pid")));
        text.trim().parse().ok().and_then(Pid::from_raw).unwrap_or_else(|| panic!("{name} has no process: {text:?}"))
    }

    /// Ends one as `kill -9` does; the demonstration starts it again.
    fn kill9(&self, name: &str) {
        kill_process(self.process(name), Signal::KILL).unwrap_or_else(|error| panic!("kill {name}: {error}"));
    }

    /// Ends the demonstration and waits until it has.
    fn end(&mut self, signal: Signal) {
        let status = self.demo.end(signal);
        assert_eq!(status, Some(0), "the demonstration's end: {}", read_lossy(self.scratch.path().join("printed")));
    }

    /// An answer of the pages, head and body.
    fn request(&self, method: &str, path: &str, visitor: &str) -> String {
        let host = self.address.strip_prefix("http://").expect("an address of HTTP");
        let mut stream = TcpStream::connect(host).expect("connect to the pages");
        let head = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\nCookie: visitor={visitor}\r\n\r\n");
        stream.set_read_timeout(Some(TIMEOUT)).expect("set the read timeout");
        stream.write_all(head.as_bytes()).expect("send a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("receive an answer");
        answer
    }

    fn stats(&self) -> String {
        let stats = Client::connect_to(&self.ringq).command(b"stats queue tickets\r\n", b"END\r\n");
        String::from_utf8_lossy(&stats).into_owned()
    }

    fn ledger(&self) -> Vec<Line> {
        ledger(&self.data)
    }

    /// What the gate told each visitor.
    fn visitors(&self) -> HashMap<String, String> {
        let files = fs::read_dir(self.data.join("visitors")).expect("read the visitors");
        let paths = files.map(|file| file.expect("read the visitors").path());
        paths
            .map(|path| (path.file_name().expect("a name").to_string_lossy().into_owned(), read_lossy(&path)))
            .collect()
    }
}

impl Drop for Sale {
    fn drop(&mut self) {
        if thread::panicking() {
            for path in [self.scratch.path().join("printed"), self.directory.join("RingQ.log")] {
                eprintln!("--- {} ---\n{}---", path.display(), read_lossy(&path));
            }
        }
    }
}

/// A line of the ledger.
#[derive(Debug)]
struct Line {
    message: u64,
    visitor: String,
    outcome: String,
}

/// The ledger's complete lines.
fn ledger(data: &Path) -> Vec<Line> {
    let text = read_lossy(data.join("ledger"));
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [message, visitor, outcome] = words[..] else { panic!("no line of a ledger: {line:?}") };
        let message = message.parse().expect("a message's id");
        Line { message, visitor: visitor.to_owned(), outcome: outcome.to_owned() }
    };
    complete.lines().map(line).collect()
}

/// A process that does not outlive the test.
struct Running {
    child: Child,
}

impl Running {
    /// Asks it to end and waits for it; its exit status.
    fn end(&mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.wait("it has ended")
    }

    /// Waits until it ends by itself; its exit status.
    fn wait(&mut self, what: &str) -> Option<i32> {
        let mut status = None;
        eventually(what, TIMEOUT, || {
            status = self.child.try_wait().expect("wait for a process");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    fn signal(&self, signal: Signal) {
        let process = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(process, signal).expect("signal a process");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Not KILL: a demonstration ends what it has started only if it is asked to.
            self.signal(Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

/// Whether PHP and its extension are there; otherwise the test is noted as skipped.
fn has_php() -> bool {
    let check = Command::new(root("docs/examples/flash-sale/demo.sh")).arg("--check").stdin(Stdio::null()).output();
    let check = check.expect("run the demonstration");
    if !check.status.success() {
        skip("flash_sale", String::from_utf8_lossy(&check.stderr).trim());
    }
    check.status.success()
}

fn root(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}
