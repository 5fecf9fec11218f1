//! `ringqctl import memcacheq` between real processes and a scripted MemcacheQ: whoever dies, whenever, running it again loses nothing,
//! keeps the order, and doubles only what was under way.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Server, eventually};
use crate::old_server::{Fault, OldServer};

const DEADLINE: Duration = Duration::from_secs(120);
const BATCH: usize = 5;

#[test]
fn queues_move_with_bytes_flags_and_order() {
    let (source, destination) = (Server::start(&[]), Server::start(&[]));
    let large = vec![b'L'; 1 << 20];
    let mut client = source.connect();
    for (queue, flags, body) in
        [("a", 7, &b"\0\r\nEND\r\n\xff"[..]), ("a", u32::MAX, b""), ("a", 0, &large), ("caf\u{e9}", 1, b"x")]
    {
        let head = format!("set {queue} {flags} 0 {}\r\n", body.len());
        client.send(&[head.as_bytes(), body, b"\r\n"].concat());
        client.expect(b"STORED\r\n");
    }
    client.send(b"set drained 0 0 1\r\nx\r\nget drained\r\n");
    client.expect(b"STORED\r\nVALUE drained 0 1\r\nx\r\nEND\r\n");

    let importer = Importer::new();
    let output = importer.run(&source.addr().to_string(), &destination.addr().to_string(), &[]);
    assert_eq!((output.status.code(), &*said(&output)), (Some(0), ""));
    let expected = "QUEUE    MESSAGES  BYTES\na        3         1048585\ncaf\u{e9}     1         1\n\
                    drained  0         0\nimported 4 messages, 1048586 bytes\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert!(!importer.spool().exists());

    let mut client = destination.connect();
    client.send("get a\r\nget a\r\nget a\r\nget a\r\nget caf\u{e9}\r\n".as_bytes());
    client.expect(b"VALUE a 7 9\r\n\0\r\nEND\r\n\xff\r\nEND\r\nVALUE a 4294967295 0\r\n\r\nEND\r\n");
    client.expect(&[b"VALUE a 0 1048576\r\n", &*large, b"\r\nEND\r\nEND\r\n"].concat());
    client.expect("VALUE caf\u{e9} 1 1\r\nx\r\nEND\r\n".as_bytes());
}

#[test]
fn the_summary_comes_in_json_too() {
    let source = filled(3);
    source.add("p", 0, b"four");
    let destination = Server::start(&[]);
    let importer = Importer::new();
    let output = importer.run(source.address(), &destination.addr().to_string(), &["--json", "--batch", "1"]);
    assert_eq!(output.status.code(), Some(0));
    let expected = json!({
        "source": source.address(), "messages": 4, "bytes": 13, "skipped": 0, "spooled": 0, "finished": true,
        "queues": [{ "queue": "p", "messages": 1, "bytes": 4 }, { "queue": "q", "messages": 3, "bytes": 9 }],
    });
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).expect("JSON"), expected);
}

#[test]
fn flags_that_are_printed_signed_are_the_numbers_they_were() {
    let source = OldServer::start();
    for flags in [-1, i32::MIN, i32::MAX] {
        source.add("q", flags, b"x");
    }
    let destination = OldServer::start();
    assert_eq!(Importer::new().run(source.address(), destination.address(), &[]).status.code(), Some(0));
    let lines: Vec<String> = destination.state().stored.iter().map(|(line, _)| line.clone()).collect();
    assert_eq!(lines, ["q 4294967295 0 1", "q 2147483648 0 1", "q 2147483647 0 1"]);
}

#[test]
fn a_message_without_a_body_is_told_and_passed_over() {
    let source = filled(3);
    source.add_block("q", b"VALUE q 0 -2\r\n");
    source.add("q", 0, b"003");
    let destination = OldServer::start();
    let output = Importer::new().run(source.address(), destination.address(), &["--json"]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(said(&output).contains("queue q: skipped a message of length -2"), "{}", said(&output));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).expect("JSON")["skipped"], json!(1));
    assert_eq!(bodies_of(&destination), bodies(0..4));
}

#[test]
fn a_length_that_makes_no_sense_ends_the_import_after_what_came_before_it() {
    let source = filled(3);
    source.add_block("q", b"VALUE q 0 -50\r\n");
    source.add("q", 0, b"behind");
    let destination = OldServer::start();
    let importer = Importer::new();
    let output = importer.run(source.address(), destination.address(), &["--batch", "4"]);
    assert_eq!(output.status.code(), Some(4));
    let said = said(&output);
    assert!(said.contains("\"VALUE q 0 -50\"") && said.contains("2 gets of q"), "{said}");
    assert!(said.contains("nothing is in the spool"), "{said}");
    assert_eq!(bodies_of(&destination), bodies(0..3));
    assert!(!importer.spool().exists());
}

#[test]
fn a_listing_that_was_cut_off_is_told_and_the_rest_can_be_named() {
    let source = OldServer::start();
    let name = |i: usize| format!("{i:0>242}");
    for i in 0..20 {
        source.add(&name(i), 0, b"x");
    }
    let destination = OldServer::start();
    let importer = Importer::new();
    let output = importer.run(source.address(), destination.address(), &[]);
    assert_eq!(output.status.code(), Some(5));
    assert!(said(&output).contains("lists 7 queues and may have more"), "{}", said(&output));
    assert_eq!(destination.state().stored.len(), 7);

    let (a, b) = (name(7), name(19));
    let output = importer.run(source.address(), destination.address(), &["--queue", &a, "--queue", &b]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(destination.state().stored.len(), 9);
}

#[test]
fn a_queue_that_ringq_cannot_have_stays_where_it_is() {
    let source = filled(1);
    source.add("dir/queue", 0, b"x");
    let destination = OldServer::start();
    let output = Importer::new().run(source.address(), destination.address(), &[]);
    assert_eq!(output.status.code(), Some(5));
    assert!(said(&output).contains("queue dir/queue is left out"), "{}", said(&output));
    assert_eq!((destination.state().stored.len(), source.left("dir/queue")), (1, 1));
}

#[test]
fn a_source_that_cannot_list_its_queues_needs_their_names() {
    let source = filled(3);
    source.state().is_silent_about_queues = true;
    let destination = OldServer::start();
    let importer = Importer::new();
    for more in [&[][..], &["--dry-run"]] {
        let output = importer.run(source.address(), destination.address(), more);
        assert_eq!(output.status.code(), Some(3), "{more:?}");
        assert!(said(&output).contains("name them with --queue"), "{}", said(&output));
    }
    assert_eq!(importer.run(source.address(), destination.address(), &["--queue", "q"]).status.code(), Some(0));
    assert_eq!(bodies_of(&destination), bodies(0..3));
}

#[test]
fn a_dry_run_takes_nothing() {
    let source = filled(3);
    source.add("a", 0, b"x");
    let importer = Importer::new();
    let nobody = OldServer::start();
    let output = importer.run(source.address(), nobody.address(), &["--dry-run"]);
    assert_eq!((output.status.code(), &*said(&output)), (Some(0), ""));
    let expected = "QUEUE  PUTS  GETS  MESSAGES\na      1     0     1\nq      3     0     3\n\
                    2 queues, about 4 messages; 0 in the spool\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    let output = importer.run(source.address(), nobody.address(), &["--dry-run", "--json", "--queue", "b"]);
    let queues = json!([{ "queue": "b", "puts": null, "gets": null, "messages": null }]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).expect("JSON")["queues"], queues);
    assert_eq!(source.state().gets, 0);
    assert_eq!(source.left("q"), 3);
    assert!(!importer.spool().exists());
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_taken() {
    let source = filled(1);
    let importer = Importer::new();
    for (destination, more) in [
        (source.address(), &[][..]),
        ("127.0.0.1:1", &["--queue", "a/b"]),
        ("127.0.0.1:1", &["--queue", ""]),
        ("127.0.0.1:1", &["--batch", "0"]),
        ("127.0.0.1:1", &["--batch", "1001"]),
    ] {
        let output = importer.run(source.address(), destination, more);
        assert_eq!(output.status.code(), Some(2), "{more:?}: {}", said(&output));
    }
    let output = importer.run(source.address(), "127.0.0.1:1", &[]);
    assert_eq!(output.status.code(), Some(4));
    fs::write(importer.spool(), "something else").expect("write");
    let output = importer.run(source.address(), OldServer::start().address(), &[]);
    assert_eq!(output.status.code(), Some(4));
    assert!(said(&output).contains("is not a spool of ringqctl"), "{}", said(&output));
    assert_eq!(source.state().gets, 0);
}

#[test]
fn a_source_that_dies_in_an_answer_costs_that_message_at_most() {
    let answer_size = b"VALUE q 0 3\r\n002\r\nEND\r\n".len();
    let body_ends = answer_size - b"END\r\n".len();
    for size in 0..answer_size {
        let source = filled(9);
        source.fail_get(2, Fault::Cut(size));
        let destination = OldServer::start();
        let importer = Importer::new();
        let output = importer.run(source.address(), destination.address(), &[]);
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        assert!(said(&output).contains("have no whole answer"), "{}", said(&output));
        assert_eq!(importer.run(source.address(), destination.address(), &[]).status.code(), Some(0));
        // What it took for the gets behind the one it died in, nobody has seen; this one died before it looked at them.
        let expected: Vec<String> =
            bodies(0..9).into_iter().filter(|body| size >= body_ends || body != "002").collect();
        assert_eq!(bodies_of(&destination), expected, "cut at {size}");
    }
}

#[test]
fn an_importer_killed_anywhere_among_its_gets_loses_only_what_had_not_arrived() {
    const MESSAGES: usize = 12;
    for after in 1..MESSAGES {
        let source = filled(MESSAGES);
        source.fail_get(after, Fault::Stall(b"VALUE q 0 3\r\n0".len()));
        let destination = Server::start(&[]);
        let importer = Importer::new();
        let mut child = importer.spawn(source.address(), &destination.addr().to_string(), &[]);
        let last = body(after - 1);
        eventually("the last whole message is in the spool, and half of the next on its way", DEADLINE, || {
            source.has_failed() && importer.spool_holds(&last)
        });
        kill9(&mut child);

        let output = importer.run(source.address(), &destination.addr().to_string(), &[]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        // What was on its way to the destination when the importer died is sent again.
        let mut received = drain(&destination);
        let mut seen = HashSet::new();
        received.retain(|body| seen.insert(body.clone()));
        let expected: Vec<String> = bodies(0..MESSAGES).into_iter().filter(|body| *body != self::body(after)).collect();
        assert_eq!(received, expected);
        assert!(!importer.spool().exists());
    }
}

#[test]
fn an_importer_killed_anywhere_among_its_puts_doubles_only_those_of_its_batch() {
    for after in 0..=2 * BATCH {
        let source = filled(2 * BATCH + 1);
        let destination = OldServer::start();
        destination.fail_set(after, Fault::Stall(0));
        let importer = Importer::new();
        let mut child = importer.spawn(source.address(), destination.address(), &[]);
        eventually("the destination is silent", DEADLINE, || destination.state().stored.len() > after);
        kill9(&mut child);

        let output = importer.run(source.address(), destination.address(), &[]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        // The first batch is the message that shows how large bodies are.
        let batch_begins = if after == 0 { 0 } else { (after - 1) / BATCH * BATCH + 1 };
        check(&bodies_of(&destination), &bodies(0..2 * BATCH + 1), &bodies(batch_begins..after + 1));
    }
}

#[test]
fn a_destination_that_dies_anywhere_among_its_answers_doubles_only_those_of_the_batch() {
    for after in 0..=2 * BATCH {
        let source = filled(2 * BATCH + 1);
        let destination = OldServer::start();
        destination.fail_set(after, Fault::Cut(b"STOR".len()));
        let importer = Importer::new();
        let output = importer.run(source.address(), destination.address(), &[]);
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        assert!(
            said(&output).contains("ringqctl-import.spool; the same command goes on with them"),
            "{}",
            said(&output)
        );
        assert_eq!(importer.run(source.address(), destination.address(), &[]).status.code(), Some(0));
        // What was answered is marked; the one whose answer broke off is not.
        check(&bodies_of(&destination), &bodies(0..2 * BATCH + 1), &bodies(after..after + 1));
    }
}

#[test]
fn a_destination_that_is_killed_half_way_loses_nothing() {
    const MESSAGES: usize = 500;
    let source = filled(MESSAGES);
    source.fail_get(MESSAGES / 2, Fault::Wait);
    let mut destination = Server::start(&[]);
    let importer = Importer::new();
    let child = importer.spawn(source.address(), &destination.addr().to_string(), &["--batch", "100"]);
    eventually("half of the messages are taken", DEADLINE, || importer.spool_holds(&body(MESSAGES / 2 - 1)));
    destination.kill9();
    source.heal();
    let output = child.wait_with_output().expect("wait for ringqctl");
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("100 messages are in the spool /"), "{}", said(&output));

    destination.restart();
    let output = importer.run(source.address(), &destination.addr().to_string(), &["--batch", "100"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(drain(&destination), bodies(0..MESSAGES));
}

#[test]
fn a_source_that_is_killed_between_batches_loses_nothing() {
    const MESSAGES: usize = 500;
    let mut source = filled_server(MESSAGES);
    let destination = OldServer::start();
    destination.fail_set(MESSAGES / 2, Fault::Wait);
    let importer = Importer::new();
    let child = importer.spawn(&source.addr().to_string(), destination.address(), &["--batch", "100"]);
    eventually("half of the messages are put", DEADLINE, || destination.state().stored.len() > MESSAGES / 2);
    source.kill9();
    destination.heal();
    let output = child.wait_with_output().expect("wait for ringqctl");
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));

    source.restart();
    let output = importer.run(&source.addr().to_string(), destination.address(), &["--batch", "100"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(bodies_of(&destination), bodies(0..MESSAGES));
}

#[test]
fn a_message_that_is_too_large_waits_in_the_spool_with_those_behind_it() {
    let source = filled(4);
    source.add("q", 0, &[b'x'; 100]);
    source.add("q", 0, b"005");
    let mut destination = Server::start(&["-B", "64"]);
    let importer = Importer::new();
    for _ in 0..2 {
        let output = importer.run(source.address(), &destination.addr().to_string(), &[]);
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        assert!(said(&output).contains("start it with a larger -B"), "{}", said(&output));
        assert!(said(&output).contains("2 messages are in the spool"), "{}", said(&output));
    }
    destination.restart_with(&["-B", "128"]);
    assert_eq!(importer.run(source.address(), &destination.addr().to_string(), &[]).status.code(), Some(0));
    let received = drain(&destination);
    assert_eq!((received.len(), &received[..4], &*received[5]), (6, &bodies(0..4)[..], "005"));
    assert!(!importer.spool().exists());
}

#[test]
fn a_destination_that_refuses_says_why_and_is_asked_again() {
    let source = filled(6);
    let destination = OldServer::start();
    let importer = Importer::new();
    for words in ["SERVER_ERROR out of storage", "NOT_STORED"] {
        destination.fail_set(0, Fault::Say(words));
        let output = importer.run(source.address(), destination.address(), &[]);
        assert_eq!(output.status.code(), Some(3));
        assert!(said(&output).contains(&format!("a message of 3 bytes for q: {words}")), "{}", said(&output));
        assert!(said(&output).contains("1 messages are in the spool"), "{}", said(&output));
    }
    // One in the middle of a batch: those behind it are stored, it alone is offered again.
    destination.fail_set(3, Fault::Say("NOT_STORED"));
    assert_eq!(importer.run(source.address(), destination.address(), &[]).status.code(), Some(3));
    assert_eq!(importer.run(source.address(), destination.address(), &[]).status.code(), Some(0));
    assert_eq!(bodies_of(&destination), ["000", "001", "002", "004", "005", "003"]);
}

#[test]
fn what_is_left_in_the_spool_is_stored_before_the_source_is_asked() {
    let source = filled(1);
    let destination = OldServer::start();
    destination.fail_set(0, Fault::Say("NOT_STORED"));
    let importer = Importer::new();
    assert_eq!(importer.run(source.address(), destination.address(), &[]).status.code(), Some(3));
    let output = importer.run("127.0.0.1:1", destination.address(), &[]);
    assert_eq!(output.status.code(), Some(4), "the source is gone");
    assert_eq!(bodies_of(&destination), ["000"]);
    assert!(!importer.spool().exists());
}

#[test]
fn a_signal_ends_the_import_after_its_batch() {
    for signal in [Signal::INT, Signal::TERM] {
        let source = filled(3 * BATCH);
        source.fail_get(3, Fault::Wait);
        let destination = OldServer::start();
        let importer = Importer::new();
        let child = importer.spawn(source.address(), destination.address(), &[]);
        eventually("a get waits", DEADLINE, || importer.spool_holds("002"));
        let second = importer.run(source.address(), destination.address(), &[]);
        assert_eq!(second.status.code(), Some(4));
        assert!(said(&second).contains("is in use by another import"), "{}", said(&second));

        kill_process(Pid::from_child(&child), signal).expect("signal ringqctl");
        // The handler has run when the signal is no longer pending.
        let status = format!("/proc/{}/status", child.id());
        let is_pending = |status: &str| {
            status.lines().any(|line| line.starts_with("ShdPnd:") && !line.ends_with("0000000000000000"))
        };
        eventually("the signal is delivered", DEADLINE, || !is_pending(&crate::harness::read_lossy(&status)));
        source.heal();
        let output = child.wait_with_output().expect("wait for ringqctl");
        assert_eq!(output.status.code(), Some(6), "{}", said(&output));
        assert!(
            said(&output).contains("interrupted; nothing is in the spool; the same command goes on"),
            "{}",
            said(&output)
        );
        assert_eq!(bodies_of(&destination), bodies(0..1 + BATCH), "the message that came first and one batch");
        assert_eq!(importer.run(source.address(), destination.address(), &[]).status.code(), Some(0));
        assert_eq!(bodies_of(&destination), bodies(0..3 * BATCH));
    }
}

#[test]
fn what_the_spool_cannot_hold_goes_straight_to_the_destination() {
    let source = filled(900);
    let destination = OldServer::start();
    let importer = Importer::new();
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_ringqctl")]);
    let output = importer.command(limited, source.address(), destination.address(), &["--batch", "900"]).output();
    let output = output.expect("run ringqctl");
    assert_eq!(output.status.code(), Some(4));
    assert!(said(&output).contains("ringqctl-import.spool cannot be written"), "{}", said(&output));
    assert_eq!((bodies_of(&destination), source.left("q")), (bodies(0..900), 0));
}

/// `ringqctl import memcacheq` in a directory of its own.
struct Importer {
    directory: TempDir,
}

impl Importer {
    fn new() -> Importer {
        Importer { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    fn spool(&self) -> PathBuf {
        self.directory.path().join("ringqctl-import.spool")
    }

    fn spool_holds(&self, body: &str) -> bool {
        fs::read(self.spool()).is_ok_and(|bytes| bytes.windows(body.len()).any(|window| window == body.as_bytes()))
    }

    fn command(&self, mut command: Command, source: &str, destination: &str, more: &[&str]) -> Command {
        command.current_dir(self.directory.path()).env_remove("RINGQ_SERVER").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.args(["import", "memcacheq", source, "--server", destination]);
        // A server that is silent on purpose is waited for until the test goes on, however long a busy machine makes that take: an importer
        // that gives up first stores what it has and removes its spool.
        command.args(["--timeout", "600"]);
        if !more.contains(&"--batch") {
            command.args(["--batch", &BATCH.to_string()]);
        }
        command.args(more);
        command
    }

    fn spawn(&self, source: &str, destination: &str, more: &[&str]) -> Child {
        let ringqctl = Command::new(env!("CARGO_BIN_EXE_ringqctl"));
        self.command(ringqctl, source, destination, more).spawn().expect("run ringqctl")
    }

    fn run(&self, source: &str, destination: &str, more: &[&str]) -> Output {
        self.spawn(source, destination, more).wait_with_output().expect("wait for ringqctl")
    }
}

/// A scripted server with so many messages in `q`.
fn filled(len: usize) -> OldServer {
    let server = OldServer::start();
    for body in bodies(0..len) {
        server.add("q", 0, body.as_bytes());
    }
    server
}

/// The same as a real one.
fn filled_server(len: usize) -> Server {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for body in bodies(0..len) {
        client.send(format!("set q 0 0 {} noreply\r\n{body}\r\n", body.len()).as_bytes());
    }
    client.command(b"version\r\n", b"\r\n");
    server
}

fn body(i: usize) -> String {
    format!("{i:03}")
}

fn bodies(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(body).collect()
}

fn bodies_of(server: &OldServer) -> Vec<String> {
    server.state().stored.iter().map(|(_, body)| String::from_utf8_lossy(body).into_owned()).collect()
}

/// Everything in `q`, which is empty then.
fn drain(server: &Server) -> Vec<String> {
    let mut client = server.connect();
    let mut bodies = Vec::new();
    loop {
        client.send(b"get q q q q q q q q q q\r\n");
        let begun = bodies.len();
        while client.read_reply_line() != b"END" {
            bodies.push(String::from_utf8_lossy(&client.read_reply_line()).into_owned());
        }
        if bodies.len() == begun {
            return bodies;
        }
    }
}

/// All of `expected` is there, in its order, and only what may be doubled is there again.
#[track_caller]
fn check(received: &[String], expected: &[String], doubled: &[String]) {
    let mut first = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for body in received {
        if seen.insert(body) {
            first.push(body.clone());
        } else {
            assert!(doubled.contains(body), "{body} is there twice: {received:?}");
        }
    }
    assert_eq!(first, expected);
}

fn kill9(child: &mut Child) {
    child.kill().expect("kill ringqctl");
    child.wait().expect("wait for ringqctl");
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
