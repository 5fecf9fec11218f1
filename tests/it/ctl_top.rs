//! `ringqctl top`: its figures against known traffic, and the program on a terminal: what it draws, keys, sizes, signals, a restart
//! of the server, and that the terminal is left as it was.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use serde_json::json;

use crate::harness::{Server, eventually};
use crate::ringqctl::{done, parsed, run, said};

const SOON: Duration = Duration::from_secs(30);

/// Calls `check` while a client puts into `mail` and takes half of it.
fn under_traffic<T>(server: &Server, check: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    let mut client = server.connect();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                client.command(b"set mail 0 0 1\r\nx\r\nset mail 0 0 1\r\ny\r\nget mail\r\n", b"END\r\n");
            }
        });
        let checked = check();
        over.store(true, Ordering::Relaxed);
        checked
    })
}

#[test]
fn a_frame_shows_known_traffic() {
    let server = Server::start(&["-t", "2"]);
    for queue in ["jobs", "empty"] {
        done(&run(&server, &["put", queue, "x"]));
    }
    done(&run(&server, &["get", "empty"]));
    let (frame, object) = under_traffic(&server, || {
        let args = ["top", "--once", "-d", "1"];
        (done(&run(&server, &args)), parsed(&run(&server, &[&args[..], &["--json"]].concat())))
    });
    let lines: Vec<&str> = frame.lines().collect();
    assert!(lines[0].starts_with(&format!("ringqctl top  {}  RingQ 1.0.0  up ", server.addr())), "{frame}");
    assert!(
        lines[1].starts_with("puts ") && !lines[1].starts_with("puts -") && !lines[1].starts_with("puts 0.0"),
        "{frame}"
    );
    assert!(lines[2].starts_with("put p50 ") && !lines[2].contains(" - "), "{frame}");
    assert!(lines[3].starts_with("journal write p99 "), "{frame}");
    assert!(lines[4].starts_with("queue mail grows by "), "{frame}");
    let rows: Vec<Vec<&str>> = lines[7..].iter().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), ["mail", "jobs", "empty"], "{frame}");
    assert_eq!((rows[1][1], rows[1][2], rows[2][1]), ("1", "0.0", "0"), "{frame}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{frame}");

    let mail = &object["rows"][0];
    assert_eq!((&mail["queue"], &object["queues"]), (&json!("mail"), &json!(3)));
    let number = |value: &serde_json::Value| value.as_f64().unwrap_or_else(|| panic!("{value} in {object}"));
    for figure in [
        &object["put_rate"],
        &object["get_rate"],
        &object["ready"],
        &mail["ready"],
        &mail["put_rate"],
        &mail["get_rate"],
    ] {
        assert!(number(figure) > 0.0, "{object}");
    }
    for figure in
        [&object["put"]["p99_us"], &object["journal_write"]["p99_us"], &object["commit"]["p99_us"], &mail["oldest_ms"]]
    {
        number(figure);
    }
}

#[test]
fn a_frame_is_sorted_filtered_and_cut() {
    let server = Server::start(&[]);
    for queue in ["a1", "a2", "b"] {
        done(&run(&server, &["put", queue, "x"]));
    }
    let rows = |args: &[&str]| {
        let object = parsed(&run(&server, &[&["top", "--json", "-d", "0.2"], args].concat()));
        let rows = object["rows"]
            .as_array()
            .expect("rows")
            .iter()
            .map(|row| row["queue"].as_str().expect("a name").to_owned());
        rows.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(rows(&["--sort", "name", "-n", "2"]), "a1 a2");
    assert_eq!(rows(&["--filter", "A", "--sort", "oldest"]), "a1 a2");
    // Messages that went without a get do not stand at the top for long.
    for _ in 0..5 {
        done(&run(&server, &["put", "a2", "x"]));
    }
    done(&run(&server, &["purge", "a2"]));
    assert_eq!(rows(&["-n", "3"]), "a1 b a2");
}

#[test]
fn bad_usage_and_a_missing_server_are_told() {
    let server = Server::start(&[]);
    for args in [&["top"][..], &["top", "--once", "-d", "0"], &["top", "--once", "--sort", "color"]] {
        let output = run(&server, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
    }
    let output = run(&server, &["top", "--once", "--server", "unix:/nonexistent/ringq"]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
}

/// `ringqctl top` on a terminal of its own.
struct Terminal {
    keyboard: File,
    /// The side of the program, kept so that its settings can be looked at when that has ended.
    line: File,
    before: Termios,
    screen: vt100::Parser,
    child: Child,
}

impl Terminal {
    fn start(server: &str, args: &[&str], (columns, rows): (u16, u16)) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("unlock the terminal");
        let name = ptsname(&master, Vec::new()).expect("its name").into_string().expect("a path");
        let not_ours = OFlags::NOCTTY.bits() as i32;
        let line = OpenOptions::new().read(true).write(true).custom_flags(not_ours).open(name).expect("open it");
        fcntl_setfl(&master, OFlags::NONBLOCK).expect("reads that do not wait");
        let before = tcgetattr(&line).expect("its settings");
        let end = || Stdio::from(OwnedFd::from(line.try_clone().expect("another handle")));
        let keyboard = File::from(master);
        resize(&keyboard, columns, rows);
        let child = Command::new("setsid")
            .args(["--ctty", env!("CARGO_BIN_EXE_ringqctl"), "--server", server, "--timeout", "2", "top", "-d", "0.2"])
            .args(args)
            .env("TERM", "xterm-256color")
            .env_remove("RINGQ_SERVER")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("run ringqctl on the terminal");
        Terminal { keyboard, line, before, screen: vt100::Parser::new(rows, columns, 0), child }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("press keys");
    }

    fn resize(&mut self, columns: u16, rows: u16) {
        resize(&self.keyboard, columns, rows);
        self.screen.screen_mut().set_size(rows, columns);
    }

    /// What is on the screen now.
    fn shown(&mut self) -> String {
        let mut drawn = [0; 65536];
        while let Ok(size) = self.keyboard.read(&mut drawn) {
            self.screen.process(&drawn[..size]);
        }
        self.screen.screen().contents()
    }

    /// Waits until the screen is as wanted, and returns it.
    #[track_caller]
    fn see(&mut self, what: &str, mut is_there: impl FnMut(&str) -> bool) -> String {
        let mut shown = String::new();
        let started = std::time::Instant::now();
        loop {
            let now = self.shown();
            if is_there(&now) {
                return now;
            }
            shown.clone_from(&now);
            assert!(started.elapsed() < SOON, "waited in vain for {what}; there is:\n{shown}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the program's end; the terminal must be as it was.
    #[track_caller]
    fn end(mut self) -> ExitStatus {
        let mut status = None;
        eventually("ringqctl ends", SOON, || {
            self.shown();
            status = self.child.try_wait().expect("wait for ringqctl");
            status.is_some()
        });
        self.shown();
        let screen = self.screen.screen();
        assert!(!screen.alternate_screen(), "the screen of before is shown again");
        assert!(!screen.hide_cursor(), "there is a cursor again");
        let after = tcgetattr(&self.line).expect("its settings");
        let modes = |it: &Termios| (it.input_modes, it.output_modes, it.local_modes, it.control_modes);
        assert_eq!(modes(&after), modes(&self.before));
        status.expect("it has ended")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(terminal: &File, columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("set the size");
}

fn first_row(screen: &str) -> &str {
    screen.lines().nth(7).unwrap_or_default()
}

#[test]
fn it_draws_hears_keys_and_leaves_the_terminal_as_it_was() {
    let server = Server::start(&["-t", "2"]);
    for queue in ["mail", "mail", "mail", "news"] {
        done(&run(&server, &["put", queue, "x"]));
    }
    let mut terminal = Terminal::start(&server.addr().to_string(), &[], (80, 24));
    let shown =
        terminal.see("the queues", |shown| first_row(shown).starts_with("mail ") && shown.contains("puts 0.0/s"));
    assert!(terminal.screen.screen().alternate_screen());
    assert!(shown.contains("queue mail") || shown.contains("mail with 3"), "{shown}");
    assert!(shown.lines().nth(23).is_some_and(|line| line.starts_with("q quit")), "{shown}");
    terminal.press("n");
    terminal.see("the order of names", |shown| shown.contains("(by name)"));
    terminal.press("n");
    terminal.see("the other way round", |shown| first_row(shown).starts_with("news "));
    terminal.press("/Mai");
    terminal.see("the filter", |shown| shown.contains("show names with: Mai_") && !shown.contains("news"));
    terminal.press("\r");
    terminal.see("the keys again", |shown| shown.contains("/ filter (Mai)"));
    terminal.press("?");
    terminal.see("help", |shown| shown.contains("age of the oldest"));
    terminal.press("x");
    terminal.see("no help", |shown| !shown.contains("age of the oldest"));
    terminal.press("p");
    terminal.see("the pause", |shown| shown.contains("PAUSED"));
    done(&run(&server, &["put", "mail", "x"]));
    terminal.press("p");
    terminal.see("what came meanwhile", |shown| !shown.contains("PAUSED") && first_row(shown).contains("  4  "));
    terminal.press("q");
    assert_eq!(terminal.end().code(), Some(0));
}

#[test]
fn it_fits_any_size_and_follows_a_change() {
    let server = Server::start(&[]);
    for n in 0..60 {
        done(&run(&server, &["put", &format!("queue-{n:02}"), "x"]));
    }
    let mut terminal = Terminal::start(&server.addr().to_string(), &["--sort", "name"], (80, 24));
    let rows = |shown: &str| shown.lines().filter(|line| line.starts_with("queue-")).count();
    terminal.see("sixteen queues", |shown| rows(shown) == 16);
    terminal.resize(120, 50);
    terminal.see("42 queues", |shown| rows(shown) == 42 && shown.contains("0 wait"));
    terminal.resize(40, 10);
    terminal.see("two queues", |shown| rows(shown) == 2);
    terminal.press("\x1b[F");
    terminal.see("the last queues", |shown| first_row(shown).starts_with("queue-58"));
    terminal.resize(80, 24);
    terminal.see("sixteen queues to the end", |shown| rows(shown) == 16 && shown.contains("queue-59"));
    terminal.press("\x03");
    assert_eq!(terminal.end().code(), Some(0));
}

#[test]
fn it_outlives_a_restart_of_the_server() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let address = format!("unix:{}", directory.path().join("socket").display());
    let mut server = Server::start(&["-l", "127.0.0.1", "-l", &address]);
    done(&run(&server, &["put", "mail", "x"]));
    let mut terminal = Terminal::start(&address, &[], (120, 24));
    terminal.see("the queue", |shown| first_row(shown).starts_with("mail "));
    server.kill9();
    terminal.see("that there is no answer", |shown| shown.contains("no answer since ") && shown.contains("UTC"));
    assert!(first_row(&terminal.shown()).starts_with("mail "), "what was last seen stays");
    server.restart();
    terminal.see("the server again", |shown| !shown.contains("no answer") && first_row(shown).starts_with("mail "));
    terminal.press("q");
    assert_eq!(terminal.end().code(), Some(0));
}

#[test]
fn signals_end_it_and_leave_the_terminal_as_it_was() {
    let server = Server::start(&[]);
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let mut terminal = Terminal::start(&server.addr().to_string(), &[], (80, 24));
        terminal.see("the header", |shown| shown.contains("RingQ 1.0.0"));
        kill_process(Pid::from_child(&terminal.child), signal).expect("signal ringqctl");
        assert_eq!(terminal.end().code(), Some(6), "{signal:?}");
    }
}

#[test]
fn it_starts_without_a_server_and_finds_it_later() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let address = format!("unix:{}", directory.path().join("socket").display());
    let mut terminal = Terminal::start(&address, &[], (80, 24));
    terminal.see("that there is no answer", |shown| shown.contains("no answer since "));
    let _server = Server::start(&["-l", "127.0.0.1", "-l", &address]);
    terminal.see("the server", |shown| shown.contains("RingQ 1.0.0") && shown.contains("all queues are empty"));
    terminal.press("q");
    assert_eq!(terminal.end().code(), Some(0));
}
