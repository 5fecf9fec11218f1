//! What the operator's tool says of queues and of the server, and what it takes or drops: `stats`, `queues`, `peek`, `purge`, `tail`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Server, eventually};
use crate::ringqctl::{done, parsed, ringqctl, run, run_with_input, said};

const SOON: Duration = Duration::from_secs(20);

/// Over TCP and over a unix socket.
fn addresses(server: &Server, socket: &Path) -> [String; 2] {
    [server.addr().to_string(), format!("unix:{}", socket.display())]
}

#[test]
fn every_subcommand_works_over_tcp_and_unix_sockets() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let socket = directory.path().join("socket");
    let unix = format!("unix:{}", socket.display());
    let server = Server::start(&["-t", "2", "-l", "127.0.0.1", "-l", &unix]);
    for address in addresses(&server, &socket) {
        let ask = |args: &[&str]| {
            let output = ringqctl().args(["--server", &address]).args(args).output().expect("run ringqctl");
            assert_eq!((output.status.code(), &*said(&output)), (Some(0), ""), "{args:?} of {address}");
            String::from_utf8(output.stdout).expect("text")
        };
        for body in ["1", "2", "3", "4"] {
            assert_eq!(ask(&["put", "q", body]), "");
        }
        assert_eq!(ask(&["peek", "q"]), "1");
        assert_eq!(ask(&["get", "q"]), "1");
        assert_eq!(ask(&["tail", "q", "--consume", "-n", "1"]), "2\n");
        for what in ["general", "latency", "commit", "queue", "settings", "conns", "shards", "sizes"] {
            assert!(ask(&["stats", what]).lines().count() > 1, "{what}");
            let said = ask(&["stats", what, "--json"]);
            serde_json::from_str::<Value>(&said).unwrap_or_else(|error| panic!("{what}: {error}: {said}"));
        }
        for args in
            [&["stats"][..], &["settings"], &["ping"], &["version"], &["stats", "queue", "q"], &["queues", "--long"]]
        {
            assert!(!ask(args).is_empty(), "{args:?}");
            let said = ask(&[args, &["--json"]].concat());
            serde_json::from_str::<Value>(&said).unwrap_or_else(|error| panic!("{args:?}: {error}: {said}"));
        }
        assert_eq!(ask(&["purge", "q"]), "purged 2 messages\n");
        for args in [&["checkpoint"][..], &["stats", "reset"], &["stats", "latency-reset"], &["delete", "q"]] {
            assert_eq!(ask(args), "", "{args:?}");
        }
    }
}

#[test]
fn config_shows_and_changes_settings() {
    let server = Server::start(&["-t", "2"]);
    let address = server.addr().to_string();
    let ask = |args: &[&str]| {
        let output = ringqctl().args(["--server", &address, "config"]).args(args).output().expect("run ringqctl");
        (output.status.code(), String::from_utf8(output.stdout.clone()).expect("text"), said(&output))
    };
    assert_eq!(ask(&["q", "max_messages=5", "expire_to=late"]), (Some(0), String::new(), String::new()));
    let (_, shown, _) = ask(&["q"]);
    for line in
        ["SETTING             VALUE", "max_messages        5", "expire_to           late", "trace               off"]
    {
        assert!(shown.lines().any(|it| it == line), "no {line:?} in {shown}");
    }
    let (status, shown, _) = ask(&["q", "max_messages=", "--json"]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((status, &shown["queue"]), (Some(0), &json!("q")));
    assert_eq!((&shown["settings"]["max_messages"], &shown["settings"]["expire_to"]), (&json!(0), &json!("late")));
    let (status, shown, why) = ask(&["q", "max_messages=7", "foo=1"]);
    assert_eq!((status, &*shown), (Some(3), ""));
    assert!(why.contains("CLIENT_ERROR unknown setting foo"), "{why}");
    for bad in ["max_messages", "a=b c", "a=\r\nflush q"] {
        assert_eq!(ask(&["q", bad]).0, Some(2), "{bad:?} does not reach the server");
    }
    assert!(ask(&["q"]).1.contains("max_messages        0\n"), "nothing of it was done");
}

#[test]
fn stats_are_tables_with_units() {
    let server = Server::start(&["-t", "2"]);
    let body = "x".repeat(3000);
    for queue in ["a", "b"] {
        done(&run_with_input(&server, &["put", queue], body.as_bytes()));
    }
    done(&run(&server, &["get", "a"]));
    let general = done(&run(&server, &["stats"]));
    let memory = general.lines().find(|line| line.starts_with("limit_maxbytes ")).expect("a line about memory");
    assert!(memory.ends_with("iB"), "{memory}");
    let latency = done(&run(&server, &["stats", "latency"]));
    let header: Vec<&str> = latency.lines().next().expect("a header").split_whitespace().collect();
    assert_eq!(header, ["WHAT", "SPAN", "COUNT", "MEAN", "P50", "P90", "P99", "P99.9", "MAX"]);
    let put: Vec<&str> =
        latency.lines().find(|line| line.starts_with("put ")).expect("puts").split_whitespace().collect();
    assert_eq!(&put[..3], ["put", "total", "2"]);
    assert!(["us", "ms", "s"].contains(&put[4]), "{put:?}");
    let latency = parsed(&run(&server, &["stats", "latency", "--json"]));
    assert_eq!(latency["put"]["10s"]["count"], json!(2));
    assert!(latency["put"]["total"]["p99"].as_u64().is_some(), "{latency}");
    let commit = done(&run(&server, &["stats", "commit"]));
    assert!(commit.starts_with("records ") && commit.contains("\njournal_write "), "{commit}");
    let shards = done(&run(&server, &["stats", "shards"]));
    assert_eq!(shards.lines().next().expect("a header").split_whitespace().collect::<Vec<_>>(), ["SHARD", "0", "1"]);
    let shards = parsed(&run(&server, &["stats", "shards", "--json"]));
    assert_eq!(
        shards["0"]["curr_queues"].as_u64().zip(shards["1"]["curr_queues"].as_u64()).map(|(a, b)| a + b),
        Some(2)
    );
    assert_eq!(done(&run(&server, &["stats", "sizes"])), "  UP TO  PUTS  SHARE\n4.0 KiB     2  100 %\n");
    assert_eq!(parsed(&run(&server, &["stats", "sizes", "--json"])), json!({ "4096": 2 }));
    let conns = parsed(&run(&server, &["stats", "conns", "--json"]));
    let states: Vec<&Value> = conns.as_object().expect("an object").values().map(|conn| &conn["state"]).collect();
    assert!(!states.is_empty() && states.iter().all(|state| state.is_string()), "{conns}");
    assert_eq!(done(&run(&server, &["stats", "queue"])), done(&run(&server, &["queues"])));
    let queue = parsed(&run(&server, &["stats", "queue", "b", "--json"]));
    assert_eq!((&queue["queue"], &queue["ready"], &queue["puts"]), (&json!("b"), &json!(1), &json!(1)));
    assert!(done(&run(&server, &["stats", "queue", "b"])).starts_with("ready "));
}

#[test]
fn stats_that_make_no_sense_are_refused() {
    let server = Server::start(&[]);
    for (args, status) in [
        (&["stats", "queue", "nosuch"][..], 1),
        (&["stats", "nonsense"], 2),
        (&["stats", "latency", "q"], 2),
        (&["stats", "queue", "two words"], 2),
        (&["stats", "queue", "a/b"], 3),
    ] {
        let output = run(&server, args);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {}", said(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn resets_start_again_from_zero() {
    let server = Server::start(&[]);
    done(&run(&server, &["put", "q", "x"]));
    done(&run(&server, &["stats", "latency-reset"]));
    assert_eq!(parsed(&run(&server, &["stats", "latency", "--json"])).get("put"), None);
    assert_eq!(parsed(&run(&server, &["stats", "--json"]))["set_hits"], json!(1));
    assert_eq!(parsed(&run(&server, &["stats", "reset", "--json"])), json!({ "reset": true }));
    assert_eq!(parsed(&run(&server, &["stats", "--json"]))["set_hits"], json!(0));
}

#[test]
fn queues_are_sorted_filtered_and_told_at_length() {
    let server = Server::start(&["-t", "2"]);
    let mut client = server.connect();
    for (queue, puts, gets) in [("mail-a", 1, 1), ("mail-b", 5, 1), ("jobs", 3, 0)] {
        (0..puts).for_each(|_| drop(client.command(format!("set {queue} 0 0 1\r\nx\r\n").as_bytes(), b"STORED\r\n")));
        (0..gets).for_each(|_| drop(client.command(format!("get {queue}\r\n").as_bytes(), b"END\r\n")));
    }
    client.command(b"flush jobs\r\n", b"END\r\n");
    let names = |args: &[&str]| {
        let listed = parsed(&run(&server, &[&["queues", "--json"], args].concat()));
        let names = listed
            .as_array()
            .expect("an array")
            .iter()
            .map(|queue| queue["queue"].as_str().expect("a name").to_owned());
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&[]), "jobs mail-a mail-b");
    assert_eq!(names(&["--sort", "puts"]), "mail-b jobs mail-a");
    assert_eq!(names(&["--sort", "ready"]), "mail-b jobs mail-a");
    assert_eq!(names(&["--sort", "gets", "--filter", "mail"]), "mail-a mail-b");
    for order in ["in", "out", "oldest", "waiters"] {
        assert_eq!(names(&["--sort", order, "--filter", "mail-b"]), "mail-b");
    }
    let long = done(&run(&server, &["queues", "--long", "--filter", "jobs"]));
    let rows: Vec<Vec<&str>> = long.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["QUEUE", "READY", "PUTS", "GETS", "IN/s", "OUT/s", "OLDEST", "WAITERS"]);
    assert_eq!((&rows[1][..4], rows[1][6]), (&["jobs", "0", "3", "0"][..], "-"));
    let long = parsed(&run(&server, &["queues", "--long", "--json", "--filter", "mail-b"]));
    assert_eq!((&long[0]["ready"], &long[0]["waiters"]), (&json!(4), &json!(0)));
    assert!(long[0]["oldest_ms"].is_u64(), "{long}");
}

#[test]
fn ten_thousand_queues_are_listed_at_length() {
    let server = Server::start(&["-t", "2", "-N"]);
    let mut client = server.connect();
    for some in (0..10_000).collect::<Vec<_>>().chunks(1000) {
        let puts: String = some.iter().map(|n| format!("set q{n:05} 0 0 1\r\nx\r\n")).collect();
        client.send(puts.as_bytes());
        client.expect("STORED\r\n".repeat(some.len()).as_bytes());
    }
    let long = done(&run(&server, &["queues", "--long"]));
    assert_eq!(long.lines().count(), 10_001);
    assert!(long.lines().nth(10_000).is_some_and(|line| line.starts_with("q09999 ")));
}

#[test]
fn peek_shows_the_head_byte_for_byte_and_takes_nothing() {
    let server = Server::start(&[]);
    let empty = run(&server, &["peek", "q"]);
    assert_eq!((empty.status.code(), &*empty.stdout, &*said(&empty)), (Some(1), &b""[..], ""));
    done(&run_with_input(&server, &["put", "q", "--flags", "7"], b"\0\xff\r\n"));
    done(&run(&server, &["put", "q", "second"]));
    for _ in 0..2 {
        let output = run(&server, &["peek", "q"]);
        assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"\0\xff\r\n"[..]));
    }
    let expected = json!({ "queue": "q", "flags": 7, "body_bytes": [0, 255, 13, 10] });
    assert_eq!(parsed(&run(&server, &["peek", "q", "--json"])), expected);
    assert_eq!(run(&server, &["get", "q"]).stdout, b"\0\xff\r\n");
    assert_eq!(done(&run(&server, &["peek", "q"])), "second");
    assert_eq!(run(&server, &["peek", "a/b"]).status.code(), Some(3));
}

#[test]
fn a_queue_larger_than_memory_is_looked_at_and_purged_also_after_a_restart() {
    let mut server = Server::start(&["-t", "1", "-m", "16", "-N"]);
    let body = |n: usize| format!("{n:07}").repeat(142_857) + " ";
    let mut client = server.connect();
    for n in 0..40 {
        client.command(format!("set q 0 0 1000000\r\n{}\r\n", body(n)).as_bytes(), b"STORED\r\n");
    }
    assert_eq!(done(&run(&server, &["peek", "q"])), body(0));
    server.restart();
    for _ in 0..2 {
        assert_eq!(done(&run(&server, &["peek", "q"])), body(0));
    }
    for n in 0..10 {
        assert_eq!(done(&run(&server, &["get", "q"])), body(n));
        assert_eq!(done(&run(&server, &["peek", "q"])), body(n + 1));
    }
    assert_eq!(parsed(&run(&server, &["purge", "q", "--json"])), json!({ "queue": "q", "purged": 30 }));
    server.kill9();
    server.restart();
    assert_eq!(run(&server, &["peek", "q"]).status.code(), Some(1));
    let queue = parsed(&run(&server, &["stats", "queue", "q", "--json"]));
    let counts = ["puts", "gets", "deleted", "ready"].map(|name| queue[name].as_u64().expect("a number"));
    assert_eq!(counts, [40, 10, 30, 0]);
}

#[test]
fn purge_keeps_the_queue_and_every_other() {
    let server = Server::start(&[]);
    for queue in ["a", "a", "b"] {
        done(&run(&server, &["put", queue, "x"]));
    }
    assert_eq!(done(&run(&server, &["purge", "a"])), "purged 2 messages\n");
    assert_eq!(done(&run(&server, &["purge", "a"])), "purged 0 messages\n");
    assert_eq!(done(&run(&server, &["queues"])), "QUEUE  PUTS  GETS\na      2     0\nb      1     0\n");
    assert_eq!(done(&run(&server, &["get", "b"])), "x");
    let unknown = run(&server, &["purge", "nosuch"]);
    assert_eq!((unknown.status.code(), &*said(&unknown)), (Some(1), "ringqctl: there is no queue nosuch\n"));
    assert_eq!(run(&server, &["purge", "nosuch", "--json"]).status.code(), Some(1));
    assert_eq!(run(&server, &["purge", "a b"]).status.code(), Some(2));
}

#[test]
fn tail_takes_only_when_it_is_told_to() {
    let server = Server::start(&[]);
    done(&run(&server, &["put", "q", "x"]));
    for args in [&["tail", "q"][..], &["tail", "q", "--follow"], &["tail", "q", "-n", "1"]] {
        let output = run(&server, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(said(&output).contains("--consume") && said(&output).contains("--group"), "{}", said(&output));
    }
    assert!(done(&run(&server, &["tail", "--help"])).contains("gone from the queue"));
    assert_eq!(done(&run(&server, &["get", "q"])), "x");
}

#[test]
fn tail_takes_what_is_there_up_to_its_count() {
    let server = Server::start(&[]);
    for n in 0..12 {
        done(&run(&server, &["put", "q", &n.to_string()]));
    }
    assert_eq!(done(&run(&server, &["tail", "q", "--consume", "-n", "2"])), "0\n1\n");
    let ten: String = (2..12).map(|n| format!("{n}\n")).collect();
    assert_eq!(done(&run(&server, &["tail", "q", "--consume"])), ten);
    assert_eq!(run(&server, &["tail", "q", "--consume"]).status.code(), Some(1));
}

#[test]
fn tail_as_a_group_takes_nothing_from_others_and_goes_on_where_it_was() {
    let server = Server::start(&["--max-groups", "1"]);
    for n in 0..3 {
        done(&run(&server, &["put", "q", &n.to_string()]));
    }
    let as_group = ["tail", "q", "--group", "watch", "-n", "2"];
    assert_eq!(done(&run(&server, &as_group)), "0\n1\n");
    assert_eq!(done(&run(&server, &["get", "q"])), "0");
    assert_eq!(done(&run(&server, &as_group)), "2\n");
    assert_eq!(run(&server, &as_group).status.code(), Some(1));
    assert_eq!(done(&run(&server, &["tail", "q", "--consume"])), "1\n2\n");

    let mut tail = follow(&server, &["--group", "watch", "--json"]);
    let mut lines = BufReader::new(tail.stdout.take().expect("a pipe")).lines();
    done(&run(&server, &["put", "q", "3"]));
    let line = lines.next().expect("a line").expect("text");
    assert_eq!(serde_json::from_str::<Value>(&line).expect("JSON"), json!({ "queue": "q", "flags": 0, "body": "3" }));
    assert_eq!(done(&run(&server, &["get", "q"])), "3");
    kill_process(Pid::from_child(&tail), Signal::INT).expect("signal ringqctl");
    assert_eq!(tail.wait().expect("wait for ringqctl").code(), Some(6));

    let more = run(&server, &["tail", "q", "--group", "more"]);
    assert_eq!(more.status.code(), Some(3));
    assert!(said(&more).contains("--max-groups"), "{}", said(&more));
    for group in ["", "a/open", "a b"] {
        assert_eq!(run(&server, &["tail", "q", "--group", group]).status.code(), Some(2), "{group:?}");
    }
    assert_eq!(run(&server, &["tail", "q", "--group", "watch", "--consume"]).status.code(), Some(2));
    done(&run(&server, &["delete", "q/group=watch"]));
    assert_eq!(run(&server, &["tail", "q", "--group", "more"]).status.code(), Some(1));
}

/// `ringqctl tail q --follow` with its output in a pipe.
fn follow(server: &Server, args: &[&str]) -> Child {
    let mut command = ringqctl();
    command.args(["--server", &server.addr().to_string(), "tail", "q", "--follow"]).args(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run ringqctl")
}

#[test]
fn tail_follows_until_it_is_interrupted_and_loses_nothing() {
    let server = Server::start(&[]);
    let mut tail = follow(&server, &["--consume", "--json"]);
    let mut lines = BufReader::new(tail.stdout.take().expect("a pipe")).lines();
    for n in 0..3 {
        done(&run(&server, &["put", "q", &n.to_string()]));
        let line = lines.next().expect("a line").expect("text");
        let expected = json!({ "queue": "q", "flags": 0, "body": n.to_string() });
        assert_eq!(serde_json::from_str::<Value>(&line).expect("JSON"), expected);
    }
    // Whatever it had taken when the signal came is printed; the rest stays.
    let puts: String = (0..500).map(|n| format!("set q 0 0 3\r\n{n:03}\r\n")).collect();
    server.connect().command(puts.as_bytes(), "STORED\r\n".repeat(500).as_bytes());
    kill_process(Pid::from_child(&tail), Signal::INT).expect("signal ringqctl");
    let printed = lines.count();
    assert_eq!(tail.wait().expect("wait for ringqctl").code(), Some(6));
    let queue = parsed(&run(&server, &["stats", "queue", "q", "--json"]));
    assert_eq!(queue["ready"].as_u64(), Some(500 - printed as u64));
}

#[test]
fn tail_ends_when_its_output_or_its_server_does() {
    let mut server = Server::start(&[]);
    for n in 0..3 {
        done(&run(&server, &["put", "q", &n.to_string()]));
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("open /dev/full");
    let output = ringqctl()
        .args(["--server", &server.addr().to_string(), "tail", "q", "--consume"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .expect("run ringqctl");
    assert_eq!(output.status.code(), Some(4));
    assert!(said(&output).contains("the message of 1 bytes that was taken last is lost"), "{}", said(&output));
    let mut tail = follow(&server, &["--consume"]);
    let mut taken = [0; 4];
    tail.stdout.as_mut().expect("a pipe").read_exact(&mut taken).expect("two messages");
    assert_eq!(&taken, b"1\n2\n");
    server.kill9();
    let mut status = None;
    eventually("tail ends", SOON, || {
        status = tail.try_wait().expect("wait for ringqctl");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(4));
}
