//! The sessions of README.md, run as a reader would run them: what it shows is what happens.
//!
//! A ```` ```console ```` block holds shell commands after `$ ` and what each prints; a ```` ```php ```` block is a program and the
//! next ```` ```text ```` block is what it prints. The port is the only thing that is changed. A session whose program is not
//! installed is skipped, as those of `clients` are.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::Server;

const DEFAULT_PORT: &str = "22201";

#[test]
fn console_sessions_of_the_readme_work() {
    let sessions = blocks("console");
    assert!(!sessions.is_empty(), "README.md has no console session");
    let help = Command::new("nc").arg("-h").stdin(Stdio::null()).output();
    if !help.is_ok_and(|help| String::from_utf8_lossy(&[help.stdout, help.stderr].concat()).contains("-N")) {
        return skip("readme_console", "nc with the option -N (netcat-openbsd) is not installed");
    }
    let server = Server::start(&[]);
    for session in sessions {
        let steps = steps(&session);
        assert!(!steps.is_empty(), "no commands in\n{session}");
        for (command, expected) in steps {
            let printed = printed(Command::new("sh").arg("-c").arg(on_port(&command, server.port())));
            assert_eq!(printed, expected, "{command}");
        }
    }
}

#[test]
fn php_sessions_of_the_readme_work() {
    let (programs, outputs) = (blocks("php"), blocks("text"));
    assert!(!programs.is_empty(), "README.md has no PHP session");
    assert_eq!(programs.len(), outputs.len(), "each program is followed by what it prints");
    let modules = Command::new("php").arg("-m").stdin(Stdio::null()).output();
    let has_memcache = |text: &[u8]| String::from_utf8_lossy(text).lines().any(|line| line == "memcache");
    if !modules.is_ok_and(|modules| has_memcache(&modules.stdout)) {
        return skip("readme_php", "php with the extension memcache is not installed");
    }
    let server = Server::start(&[]);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("session.php");
    for (program, expected) in programs.iter().zip(&outputs) {
        fs::write(&file, on_port(program, server.port())).expect("write the program");
        assert_eq!(&printed(Command::new("php").arg(&file)), expected, "{program}");
    }
}

#[test]
fn a_session_is_taken_apart_into_commands_and_their_output() {
    let session = "$ one \\\n  more\nA\nB\n$ two\n";
    let expected = [("one \\\n  more", "A\nB\n"), ("two", "")];
    assert_eq!(steps(session), expected.map(|(command, output)| (command.to_owned(), output.to_owned())));
}

/// The contents of all blocks of a kind.
fn blocks(kind: &str) -> Vec<String> {
    let readme = fs::read_to_string(root().join("README.md")).expect("read README.md");
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    let mut is_wanted = false;
    for line in readme.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                is_wanted = info == kind;
                open = Some(String::new());
            }
            (None, None) => {}
            (Some(_), Some(_)) => blocks.extend(open.take().filter(|_| is_wanted)),
            (Some(block), None) => {
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    assert!(open.is_none(), "README.md has a block without an end");
    blocks
}

/// Commands, each with what it prints. A command goes on in the next line after a backslash.
fn steps(session: &str) -> Vec<(String, String)> {
    let mut steps: Vec<(String, String)> = Vec::new();
    let mut goes_on = false;
    for line in session.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push((command.to_owned(), String::new()));
            goes_on = command.ends_with('\\');
            continue;
        }
        let (command, output) = steps.last_mut().expect("a session begins with a command");
        if goes_on {
            command.push('\n');
            command.push_str(line);
            goes_on = line.ends_with('\\');
        } else {
            output.push_str(line);
            output.push('\n');
        }
    }
    steps
}

fn on_port(text: &str, port: u16) -> String {
    assert!(text.contains(DEFAULT_PORT), "no port to change in\n{text}");
    text.replace(DEFAULT_PORT, &port.to_string())
}

/// What a command that succeeds prints, errors included, as a terminal shows it.
#[track_caller]
fn printed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("run the session");
    let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("text").replace('\r', "");
    assert!(output.status.success(), "{command:?} ended with {}:\n{text}", output.status);
    text
}

fn skip(name: &str, reason: &str) {
    let is_required = std::env::var_os("RINGQ_REQUIRE_CLIENTS").is_some_and(|value| value == "1");
    assert!(!is_required, "{name} is required: {reason}");
    eprintln!("SKIPPED {name}: {reason}");
    let path =
        std::env::var_os("RINGQ_SKIPPED_FILE").map_or_else(|| root().join("target/skipped-tests.txt"), Into::into);
    fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("create the list's directory");
    // One write a line: tests that run at the same time append to the same file.
    let mut list = OpenOptions::new().create(true).append(true).open(&path).expect("open the list of skipped tests");
    list.write_all(format!("{name}: {reason}\n").as_bytes()).expect("write to the list of skipped tests");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
