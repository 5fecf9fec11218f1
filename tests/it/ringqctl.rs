//! The operator's tool against a real server: each subcommand but `top` and those of ctl_queues.rs, each exit status.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Server, shown};

#[test]
fn ping_and_version_answer() {
    let server = Server::start(&[]);
    let ping = done(&run(&server, &["ping"]));
    assert!(ping.starts_with(&format!("{} answered in ", server.addr())), "{ping}");
    assert_eq!(parsed(&run(&server, &["ping", "--json"]))["server"], json!(server.addr().to_string()));
    assert_eq!(done(&run(&server, &["version"])), concat!(env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(parsed(&run(&server, &["--json", "version"])), json!({ "version": env!("CARGO_PKG_VERSION") }));
}

#[test]
fn messages_go_in_and_out_byte_for_byte() {
    let server = Server::start(&[]);
    let binary = b"\0\r\nEND\r\n\xff";
    assert_eq!(done(&run(&server, &["put", "q", "first"])), "");
    assert_eq!(done(&run_with_input(&server, &["put", "q", "-", "--flags", "4294967295"], binary)), "");
    assert_eq!(done(&run_with_input(&server, &["put", "q"], b"third\n")), "");
    assert_eq!(done(&run(&server, &["put", "q", "-dashed"])), "");
    assert_eq!(done(&run(&server, &["put", "q", ""])), "");

    assert_eq!(done(&run(&server, &["get", "q"])), "first");
    let output = run(&server, &["get", "q"]);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &binary[..]));
    assert_eq!(done(&run(&server, &["get", "q", "-n", "2"])), "third\n-dashed");
    assert_eq!(done(&run(&server, &["get", "q"])), "");
    let empty = run(&server, &["get", "q"]);
    assert_eq!((empty.status.code(), &empty.stdout[..], &empty.stderr[..]), (Some(1), &b""[..], &b""[..]));
}

#[test]
fn flags_reach_other_clients() {
    let server = Server::start(&[]);
    done(&run(&server, &["put", "q", "x", "--flags", "7"]));
    let mut client = server.connect();
    client.send(b"get q\r\n");
    client.expect(b"VALUE q 7 1\r\nx\r\nEND\r\n");
}

#[test]
fn fewer_messages_than_asked_for_are_no_failure() {
    let server = Server::start(&[]);
    for body in ["1", "2"] {
        done(&run(&server, &["put", "q", body]));
    }
    assert_eq!(done(&run(&server, &["get", "q", "-n", "1000"])), "12");
    assert_eq!(run(&server, &["get", "q", "-n", "1000"]).status.code(), Some(1));
}

#[test]
fn json_has_one_message_a_line() {
    let server = Server::start(&[]);
    assert_eq!(
        parsed(&run(&server, &["put", "q", "a\"b", "--flags", "3", "--json"])),
        json!({ "queue": "q", "flags": 3, "size": 3 })
    );
    done(&run_with_input(&server, &["put", "q"], b"\xff\0"));
    let lines = done(&run(&server, &["get", "q", "-n", "9", "--json"]));
    let messages: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(
        messages,
        [
            json!({ "queue": "q", "flags": 3, "body": "a\"b" }),
            json!({ "queue": "q", "flags": 0, "body_bytes": [255, 0] })
        ]
    );
}

#[test]
fn queues_are_listed_by_name() {
    let server = Server::start(&["-t", "2"]);
    assert_eq!(done(&run(&server, &["queues"])), "QUEUE  PUTS  GETS\n");
    for queue in ["b", "longest", "a"] {
        done(&run(&server, &["put", queue, "x"]));
    }
    done(&run(&server, &["get", "b"]));
    let expected = "QUEUE    PUTS  GETS\na        1     0\nb        1     1\nlongest  1     0\n";
    assert_eq!(done(&run(&server, &["queues"])), expected);
    let listed = parsed(&run(&server, &["queues", "--json"]));
    assert_eq!(listed[1], json!({ "queue": "b", "puts": 1, "gets": 1 }));
    assert_eq!(listed.as_array().map(Vec::len), Some(3));
}

#[test]
fn stats_and_settings_are_listed() {
    let server = Server::start(&["-t", "1"]);
    let stats = parsed(&run(&server, &["stats", "--json"]));
    assert_eq!((&stats["pid"], &stats["threads"]), (&json!(server.pid()), &json!(1)));
    let settings = parsed(&run(&server, &["settings", "--json"]));
    assert_eq!(settings["tcpport"], json!(server.port()));
    let stats = done(&run(&server, &["stats"]));
    let pid = stats.lines().next().unwrap_or_default();
    assert_eq!(pid.split_whitespace().collect::<Vec<_>>(), ["pid", &server.pid().to_string()]);
    let settings = done(&run(&server, &["settings"]));
    assert!(settings.lines().any(|line| line.starts_with("num_threads ") && line.ends_with(" 1")), "{settings}");
}

#[test]
fn delete_tells_whether_there_was_a_queue() {
    let server = Server::start(&[]);
    done(&run(&server, &["put", "q", "x"]));
    assert_eq!(done(&run(&server, &["delete", "q"])), "");
    let again = run(&server, &["delete", "q"]);
    assert_eq!((again.status.code(), &*said(&again)), (Some(1), "ringqctl: there is no queue q\n"));
    let again = run(&server, &["delete", "q", "--json"]);
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(
        serde_json::from_slice::<Value>(&again.stdout).expect("JSON"),
        json!({ "queue": "q", "deleted": false })
    );
}

#[test]
fn after_a_checkpoint_nothing_is_lost_even_without_sync() {
    let mut server = Server::start(&["-N"]);
    done(&run(&server, &["put", "q", "kept"]));
    assert_eq!(done(&run(&server, &["checkpoint"])), "");
    server.kill9();
    server.restart();
    assert_eq!(done(&run(&server, &["get", "q"])), "kept");
    assert_eq!(parsed(&run(&server, &["checkpoint", "--json"])), json!({ "checkpoint": true }));
}

#[test]
fn refusals_are_told_in_the_servers_words() {
    let server = Server::start(&["-B", "4"]);
    for (args, words) in [
        (&["put", "q", "12345"][..], "SERVER_ERROR object too large for cache"),
        (&["put", "a/b", "1"], "CLIENT_ERROR unknown option"),
        (&["get", "a/b"], "CLIENT_ERROR unknown option"),
        (&["delete", "a/b"], "CLIENT_ERROR unknown option"),
    ] {
        let output = run(&server, args);
        assert_eq!(output.status.code(), Some(3), "{args:?}");
        assert_eq!(said(&output), format!("ringqctl: {words}\n"), "{args:?}");
        assert_eq!(shown(&output.stdout), "\"\"", "{args:?}");
    }
}

#[test]
fn bad_usage_is_told_before_anything_is_sent() {
    let server = Server::start(&[]);
    for args in [
        &[][..],
        &["nonsense"],
        &["get"],
        &["get", "q", "-n", "0"],
        &["get", "two words"],
        &["get", ""],
        &["put", "a\r\nflush_all", "x"],
        &["put", "q", "x", "--flags", "4294967296"],
        &["put", "q", "x", "y"],
        &["ping", "--timeout", "0"],
        &["ping", "--server", "no-port"],
    ] {
        let output = run(&server, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
        assert!(!output.stderr.is_empty(), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    assert_eq!(done(&run(&server, &["queues"])), "QUEUE  PUTS  GETS\n");
}

#[test]
fn help_explains_the_exit_status() {
    let server = Server::start(&[]);
    let help = done(&run(&server, &["--help"]));
    for line in ["0  done", "1  nothing there", "2  bad usage", "3  the server refused", "4  cannot connect"] {
        assert!(help.contains(line), "{line} is not in:\n{help}");
    }
    assert_eq!(done(&run(&server, &["--version"])), concat!("ringqctl ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn without_a_server_it_cannot_connect() {
    let free = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = free.local_addr().expect("an address").to_string();
    drop(free);
    let output = ringqctl().args(["--server", &address, "ping"]).output().expect("run ringqctl");
    assert_eq!(output.status.code(), Some(4));
    assert!(said(&output).starts_with(&format!("ringqctl: cannot connect to {address}: ")), "{}", said(&output));
    let output = ringqctl().args(["--server", "unix:/nonexistent/ringq", "ping"]).output().expect("run ringqctl");
    assert_eq!(output.status.code(), Some(4));
}

#[test]
fn a_server_that_closes_or_is_silent_or_talks_nonsense_is_a_failed_connection() {
    for (reply, words) in [
        (Some(&b""[..]), "the connection failed: the server closed it"),
        (Some(b"VALUE q 0 5\r\nhel"), "the connection failed: the server closed it"),
        (Some(b"220 mail.example.net\r\n"), "not a reply of a queue server: \"220 mail.example.net\""),
        (None, "the connection failed: no answer within the timeout"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address").to_string();
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut request = [0; b"get q\r\n".len()];
            stream.read_exact(&mut request).expect("the request");
            match reply {
                Some(reply) => stream.write_all(reply).expect("reply"),
                // Silent until the client has given up.
                None => assert_eq!(stream.read(&mut request).expect("the close"), 0),
            }
        });
        let timeout = if reply.is_some() { "10" } else { "0.05" };
        let output = ringqctl().args(["--server", &address, "--timeout", timeout, "get", "q"]).output().expect("run");
        peer.join().expect("the peer saw what it expected");
        assert_eq!((output.status.code(), &*said(&output)), (Some(4), &*format!("ringqctl: {words}\n")));
    }
}

#[test]
fn a_server_on_a_unix_socket_is_reached() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).expect("bind");
    let peer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut request = [0; b"version\r\n".len()];
        stream.read_exact(&mut request).expect("the request");
        stream.write_all(b"VERSION 9.8.7\r\n").expect("reply");
    });
    let output =
        ringqctl().env("RINGQ_SERVER", format!("unix:{}", path.display())).arg("version").output().expect("run");
    peer.join().expect("the peer was asked");
    assert_eq!(done(&output), "9.8.7\n");
}

#[test]
fn messages_that_cannot_be_written_are_not_taken_in_vain() {
    let server = Server::start(&[]);
    for body in ["1", "2", "3"] {
        done(&run(&server, &["put", "q", body]));
    }
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("open /dev/full");
    let output = ringqctl()
        .args(["--server", &server.addr().to_string(), "get", "q", "-n", "3"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .expect("run ringqctl");
    assert_eq!(output.status.code(), Some(4));
    assert!(said(&output).starts_with("ringqctl: cannot write the answer: "), "{}", said(&output));
    assert_eq!(done(&run(&server, &["get", "q", "-n", "3"])), "23", "only the first was taken");
}

/// `ringqctl` in an environment that tells it nothing.
pub fn ringqctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringqctl"));
    command.env_remove("RINGQ_SERVER").stdin(Stdio::null());
    command
}

pub fn run(server: &Server, args: &[&str]) -> Output {
    ringqctl().env("RINGQ_SERVER", server.addr().to_string()).args(args).output().expect("run ringqctl")
}

pub fn run_with_input(server: &Server, args: &[&str], input: &[u8]) -> Output {
    let mut child = ringqctl()
        .env("RINGQ_SERVER", server.addr().to_string())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run ringqctl");
    child.stdin.take().expect("a pipe").write_all(input).expect("write the body");
    child.wait_with_output().expect("wait for ringqctl")
}

/// The output of a run that succeeded and complained about nothing.
#[track_caller]
pub fn done(output: &Output) -> String {
    assert_eq!((output.status.code(), &*said(output)), (Some(0), ""));
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[track_caller]
pub fn parsed(output: &Output) -> Value {
    serde_json::from_str(&done(output)).expect("JSON")
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
