//! The table of options: each with its names, values that are good and values that are not, on the command line, in the
//! environment and in the file.
//!
//! Invariant: the table has every option of the command line; one that is missing fails the test.

use crate::harness::Server;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// An option with a value.
struct Valued {
    /// Its short name, if it has one, and its long one.
    names: (Option<char>, &'static str),
    good: &'static [&'static str],
    bad: &'static [&'static str],
    /// What a refusal says is allowed.
    allowed: &'static str,
}

const fn valued(
    short: char,
    long: &'static str,
    good: &'static [&'static str],
    bad: &'static [&'static str],
    allowed: &'static str,
) -> Valued {
    let short = if short == '-' { None } else { Some(short) };
    Valued { names: (short, long), good, bad, allowed }
}

const PORTS: &[&str] = &["abc", "", "-1", "65536", "99999", "1x", "0x10", "1.5"];

const VALUED: &[Valued] = &[
    valued('p', "port", &["0", "1", "65535"], PORTS, "numbers from 0 to 65535"),
    valued('U', "udp-port", &["0", "22201"], PORTS, "numbers from 0 to 65535"),
    valued('-', "kestrel-port", &["0", "22133"], PORTS, "numbers from 0 to 65535"),
    valued('s', "socket", &["ringq.sock", "/run/ringq.sock"], &[], ""),
    valued(
        'a',
        "socket-mode",
        &["0", "700", "0770"],
        &["999", "xyz", "-1", "1000", ""],
        "octal numbers from 0 to 0777",
    ),
    valued('l', "listen", &["127.0.0.1", "::1", "localhost", "[::1]:11211", "/run/ringq.sock"], &[], ""),
    valued('u', "user", &["nobody"], &[], ""),
    valued('c', "connections", &["1", "1024"], &["0", "-1", "abc", "100000000"], "numbers from 1 to 1000000"),
    valued('P', "pid-file", &["ringq.pid"], &[], ""),
    valued('t', "threads", &["1", "16"], &["0", "-1", "abc", "257"], "numbers from 1 to 256"),
    valued('m', "memory", &["64", "4096"], &["0", "-1", "64MB", "1048577"], "numbers from 1 to 1048576"),
    valued(
        'A',
        "page-size",
        &["512", "4096", "65536"],
        &["0", "256", "4097", "131072", "abc"],
        "powers of two from 512 to 65536",
    ),
    valued('H', "home", &["data"], &[], ""),
    valued('L', "journal-write", &["1", "32", "1024"], &["0", "-1", "abc", "1025"], "numbers from 1 to 1024"),
    valued('C', "checkpoint-every", &["0", "300"], &["-1", "abc", "86401"], "numbers from 0 to 86400"),
    valued('T', "trickle-every", &["0", "30"], &["-1", "abc"], "numbers from 0 to 86400"),
    valued('S', "stats-every", &["0", "30"], &["-1", "abc"], "numbers from 0 to 86400"),
    valued('e', "trickle-percent", &["0", "60", "100"], &["-1", "101", "abc"], "numbers from 0 to 100"),
    valued('E', "journal-pages", &["0", "16384"], &["-1", "abc", "16777217"], "numbers from 0 to 16777216"),
    valued('B', "body-max", &["1", "1024", "1048576"], &["0", "-1", "abc", "134217729"], "numbers from 1 to 134217728"),
    valued('D', "deadlock-every", &["0", "100"], &["-1", "abc"], "numbers from 0 to 86400000"),
    valued('-', "udp-reply-max", &["1400", "65536"], &["0", "1399", "abc"], "numbers from 1400 to 1048576"),
    valued('-', "backlog", &["1", "65535"], &["0", "-1", "65536"], "numbers from 1 to 65535"),
    valued('-', "idle-timeout", &["0", "60"], &["-1", "2592001"], "numbers from 0 to 2592000"),
    valued('-', "keepalive", &["0", "60"], &["-1", "32768"], "numbers from 0 to 32767"),
    valued('-', "journal-max", &["64", "1024"], &["0", "abc"], "numbers from 1 to 1048576"),
    valued('-', "journal-depth", &["1", "64"], &["0", "65"], "numbers from 1 to 64"),
    valued('-', "max-queues", &["1", "1000000"], &["0", "-1", "abc"], "numbers from 1 to 4294967295"),
    valued('-', "min-free", &["0", "64"], &["-1", "1048577"], "numbers from 0 to 1048576"),
    valued('-', "max-wait", &["0", "86400"], &["-1", "86401"], "numbers from 0 to 86400"),
    valued('-', "max-open-reads", &["1", "1024"], &["0", "1000001"], "numbers from 1 to 1000000"),
    valued('-', "max-detached-reads", &["0", "65536"], &["-1", "100000001"], "numbers from 0 to 100000000"),
    valued('-', "max-unconfirmed", &["1", "1048576"], &["0", "100000001"], "numbers from 1 to 100000000"),
    valued('-', "max-groups", &["0", "64"], &["-1", "10001"], "numbers from 0 to 10000"),
    valued('-', "reader-separator", &["#", "+", ":"], &["", "##", "a", "/", "=", "é"], "one ASCII character"),
    valued('-', "stop-timeout", &["0", "10"], &["-1", "3601"], "numbers from 0 to 3600"),
    valued('-', "pin", &["auto", "off", "0", "0,1"], &["x", "0,", "-1"], "auto, off, or core numbers"),
    valued('-', "admin", &["off", "localhost", "127.0.0.1:22280", "[::1]:0"], &["", "/run/q", "h:x"], ""),
    valued('-', "admin-token-file", &["token"], &[], ""),
    valued('-', "admin-host", &["mq1.example"], &[], ""),
    valued('-', "log-file", &["ringq.log"], &[], ""),
    valued('-', "log-format", &["text", "json"], &["xml", ""], "text and json"),
];

/// Options without a value. `verbose` counts.
const FLAGS: &[(Option<char>, &str)] = &[
    (Some('d'), "daemon"),
    (Some('r'), "core-dumps"),
    (Some('N'), "no-sync"),
    (Some('R'), "remove-journals"),
    (None, "enable-flush-all"),
    (None, "enable-shutdown"),
];

/// What is about the command line itself, and so in no file.
const NOT_IN_FILES: &[(Option<char>, &str)] = &[
    (None, "config"),
    (None, "check-config"),
    (None, "check"),
    (Some('i'), "license"),
    (Some('V'), "version"),
    (Some('h'), "help"),
];

/// Runs `ringq --check-config` with these arguments and this environment.
fn check(args: &[String], env: Option<(String, &str)>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringq"));
    command.arg("--check-config").args(args).stdin(Stdio::null()).env_clear().envs(env);
    command.output().expect("run ringq")
}

/// The ways to give a value to an option, each with the output of the check.
fn every_way(names: (Option<char>, &str), value: &str, file: &Path) -> Vec<Output> {
    let (short, long) = names;
    let key = format!("RINGQ_{}", long.to_uppercase().replace('-', "_"));
    fs::write(file, format!("{long} = '{value}'\n")).expect("write the file");
    let mut outputs = vec![
        check(&[format!("--{long}"), value.to_owned()], None),
        check(&[format!("--{long}={value}")], None),
        check(&["--config".to_owned(), file.to_str().expect("a readable path").to_owned()], None),
    ];
    // An empty variable counts as none, and an empty argument cannot be joined to a short name.
    if !value.is_empty() {
        outputs.push(check(&[], Some((key, value))));
        outputs.extend(short.map(|short| check(&[format!("-{short}{value}")], None)));
    }
    outputs.extend(short.map(|short| check(&[format!("-{short}"), value.to_owned()], None)));
    outputs
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn the_table_has_every_option() {
    let of = |entries: &[(Option<char>, &str)]| entries.iter().map(|(s, l)| (*s, (*l).to_owned())).collect::<Vec<_>>();
    let mut expected: BTreeSet<_> = VALUED.iter().map(|option| (option.names.0, option.names.1.to_owned())).collect();
    expected.extend([of(FLAGS), of(NOT_IN_FILES), of(&[(Some('v'), "verbose")])].concat());
    let command = ringq::config::command();
    let options = command.get_arguments().map(|arg| (arg.get_short(), arg.get_long().expect("a long name").to_owned()));
    assert_eq!(options.collect::<BTreeSet<_>>(), expected);
    // Every letter that MemcacheQ's usage names.
    let letters: BTreeSet<char> = expected.iter().filter_map(|(short, _)| *short).collect();
    for letter in "pUsaldrucvhiPtmAHLCTSeEBDNR".chars() {
        assert!(letters.contains(&letter), "-{letter} is missing");
    }
}

#[test]
fn good_values_are_taken_however_they_are_given() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let file = scratch.path().join("ringq.toml");
    for option in VALUED {
        // Alone, some values are too large or too small for the defaults of others.
        for value in option.good.iter().filter(|value| !matches!((option.names.1, **value), ("page-size", "512"))) {
            for output in every_way(option.names, value, &file) {
                assert!(output.status.success(), "{} {value}: {}", option.names.1, text(&output));
            }
        }
    }
    for &(short, long) in FLAGS {
        fs::write(&file, format!("{long} = true\n")).expect("write the file");
        let file = file.to_str().expect("a readable path");
        let name = format!("RINGQ_{}", long.to_uppercase().replace('-', "_"));
        let mut outputs = vec![
            check(&[format!("--{long}")], None),
            check(&["--config".to_owned(), file.to_owned()], None),
            check(&[], Some((name, "true"))),
        ];
        outputs.extend(short.map(|short| check(&[format!("-{short}")], None)));
        for output in outputs {
            assert!(output.status.success(), "{long}: {}", text(&output));
        }
    }
}

#[test]
fn bad_values_are_refused_with_the_option_the_value_and_what_is_allowed() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let file = scratch.path().join("ringq.toml");
    for option in VALUED {
        for value in option.bad {
            for output in every_way(option.names, value, &file) {
                let text = text(&output);
                let (long, allowed) = (option.names.1, option.allowed);
                assert_eq!(output.status.code(), Some(2), "{long} {value}: {text}");
                for part in [&format!("--{long}"), *value, allowed] {
                    assert!(text.contains(part), "{long} {value}: no {part} in {text}");
                }
            }
        }
    }
}

#[test]
fn what_a_file_may_not_say_is_refused_by_name() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let file = scratch.path().join("ringq.toml");
    for (line, named) in [
        ("prot = 1", "prot"),
        ("udp_port = 1", "udp-port"),
        ("config = 'other.toml'", "config"),
        ("check = true", "check"),
        ("help = true", "help"),
        ("no-sync = 'yes'", "no-sync"),
        ("port = 1.5", "port"),
        ("port = [1, 2]", "port"),
        ("[other]", "other"),
        ("queue = 1", "queue"),
        ("[queue]\nmax_age = 'soon'", "[queue] bad value for max_age: soon"),
        ("[queues.'q-*']\nmax_agee = 1", "[queues.\"q-*\"] unknown setting max_agee"),
        ("port = ", "line 1"),
        ("port = 1\nport = 2", "port"),
        ("verbose = 'x'", "verbose"),
    ] {
        fs::write(&file, line).expect("write the file");
        let output = check(&["--config".to_owned(), file.to_str().expect("a readable path").to_owned()], None);
        assert_eq!(output.status.code(), Some(2), "{line}: {}", text(&output));
        for part in [named, "ringq.toml"] {
            assert!(text(&output).contains(part), "{line}: no {part} in {}", text(&output));
        }
    }
    let output = check(&["--config".to_owned(), "no-such-file.toml".to_owned()], None);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("no-such-file.toml"), "{}", text(&output));
}

#[test]
fn the_command_line_goes_before_the_environment_and_both_before_the_file() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let file = scratch.path().join("ringq.toml");
    fs::write(&file, "body-max = 1001\nmax-queues = 1002\nconnections = 13\nlisten = ['127.0.0.1', '127.0.0.2']\n")
        .expect("write the file");
    let config = file.to_str().expect("a readable path");
    let server = Server::start_with_env(
        &[("RINGQ_BODY_MAX", "2001"), ("RINGQ_MAX_QUEUES", "2002"), ("RINGQ_NO_SYNC", "true")],
        &["--config", config, "--body-max", "3001"],
    );
    let settings = server.connect().command(b"stats settings\r\n", b"END\r\n");
    let settings = String::from_utf8(settings).expect("settings are text");
    for line in ["item_size_max 3001", "max_queues 2002", "maxconns 13", "durable no"] {
        assert!(settings.contains(&format!("STAT {line}\r\n")), "no {line} in {settings}");
    }
}

#[test]
fn the_licence_is_printed() {
    let output = Command::new(env!("CARGO_BIN_EXE_ringq")).arg("-i").output().expect("run ringq");
    assert!(output.status.success());
    assert_eq!(output.stdout, include_bytes!("../../LICENSE"));
}

#[test]
fn a_checked_configuration_touches_nothing() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    let output = check(&["-H".to_owned(), data.to_str().expect("a readable path").to_owned()], None);
    assert!(output.status.success());
    assert!(!data.exists());
}
