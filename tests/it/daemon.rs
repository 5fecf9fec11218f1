//! `ringq` as a daemon: in the background, with a pid file, as another user, with the limits it was told; and the command lines
//! that MemcacheQ's init scripts have.

use crate::background::{Daemon, command, run};
use crate::clients::skip;
use crate::harness::{Server, eventually, read_lossy};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A directory that any user may enter.
fn scratch() -> TempDir {
    let scratch = tempfile::Builder::new().prefix("ringq-test-").tempdir().expect("a temporary directory");
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).expect("open it");
    scratch
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).mode() & 0o777
}

/// All files below, the directory itself included.
fn below(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    let mut at = 0;
    while at < found.len() {
        if found[at].is_dir() {
            found.extend(
                fs::read_dir(&found[at]).expect("read a directory").map(|entry| entry.expect("an entry").path()),
            );
        }
        at += 1;
    }
    found
}

// --- in the background ---

#[test]
fn the_command_returns_when_the_server_serves() {
    let scratch = scratch();
    let daemon = Daemon::start(scratch.path(), command(scratch.path(), &["-d"]));
    let mut client = daemon.connect();
    client.send(b"set q 0 0 1\r\nx\r\nget q\r\n");
    client.expect(b"STORED\r\nVALUE q 0 1\r\nx\r\nEND\r\n");
    // A session of its own, no terminal, no directory that could not be unmounted.
    let stat = daemon.proc("stat");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    assert_eq!(fields[3], daemon.pid.to_string(), "the session of {stat}");
    assert_eq!(daemon.link("cwd"), Path::new("/"));
    for descriptor in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(daemon.link(descriptor), Path::new("/dev/null"), "{descriptor}");
    }
    daemon.stop();
}

#[test]
fn r_stays_in_the_directory_and_v_keeps_standard_error() {
    let scratch = scratch();
    let mut command = command(scratch.path(), &["-d", "-r", "-v"]);
    command.current_dir(scratch.path());
    let daemon = Daemon::start(scratch.path(), command);
    assert_eq!(daemon.link("cwd"), scratch.path());
    assert_eq!(daemon.link("fd/2"), scratch.path().join("printed"));
    assert_eq!(daemon.link("fd/1"), Path::new("/dev/null"));
    daemon.stop();
    assert!(read_lossy(scratch.path().join("printed")).contains("everything is committed"));
}

#[test]
fn a_start_that_fails_in_the_background_fails_the_command_with_the_reason() {
    let scratch = scratch();
    let store = scratch.path().join("data/store");
    fs::create_dir_all(&store).expect("make a directory");
    fs::write(store.join("data.mdb"), [b'x'; 100_000]).expect("write");
    let outcome = run(scratch.path(), command(scratch.path(), &["-d"]));
    let printed = outcome.refusal(&scratch.path().join("data"));
    assert!(printed.contains("data.mdb") && !printed.contains("ready on"), "{printed}");
    assert!(!Daemon::of(&scratch.path().join("data")).runs());
}

#[test]
fn a_server_that_is_killed_during_its_start_fails_the_command() {
    let scratch = scratch();
    let data = scratch.path().join("data");
    drop(Server::start_in(&data, &[]));
    // LMDB waits for whoever has this lock, long after the fork.
    let lock = fs::File::options().read(true).write(true).open(data.join("store/lock.mdb")).expect("open");
    fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).expect("lock");
    let output = fs::File::create(scratch.path().join("printed")).expect("create");
    let mut caller = command(scratch.path(), &["-d", "-P"]);
    caller.arg(scratch.path().join("pid")).stdin(Stdio::null()).stderr(output);
    let mut caller = caller.spawn().expect("run ringq");
    let mut daemon = None;
    eventually("the server has gone to the background", TIMEOUT, || {
        let pid = read_lossy(data.join("lock")).trim().parse::<u32>().ok();
        let is_child = pid.is_some_and(|pid| pid != caller.id() && Path::new(&format!("/proc/{pid}")).exists());
        daemon = is_child.then(|| Daemon::of(&data));
        daemon.as_ref().is_some_and(Daemon::runs) && scratch.path().join("pid").exists()
    });
    assert!(caller.try_wait().expect("ask").is_none(), "the command waits until the server is ready");
    assert_eq!(read_lossy(scratch.path().join("pid")), "", "the pid file is written when the server is ready");
    daemon.expect("found").signal(Signal::KILL);
    let status = caller.wait().expect("wait for the command");
    let printed = read_lossy(scratch.path().join("printed"));
    assert_eq!(status.code(), Some(1), "{printed}");
    assert!(printed.contains("SIGKILL") && printed.contains("before it was ready"), "{printed}");
}

#[test]
fn the_lock_of_the_data_directory_goes_to_the_background_too() {
    let scratch = scratch();
    let daemon = Daemon::start(scratch.path(), command(scratch.path(), &["-d"]));
    let printed = run(scratch.path(), command(scratch.path(), &["-d"])).refusal(&scratch.path().join("data"));
    assert!(printed.contains(&format!("in use by process {}", daemon.pid)), "{printed}");
    assert!(daemon.runs());
}

// --- the pid file ---

#[test]
fn the_pid_file_is_there_while_the_server_serves() {
    let scratch = scratch();
    let path = scratch.path().join("pid");
    let with_pid_file = |args: &[&str]| {
        // Left behind by one that was killed.
        fs::write(&path, "4194305\n").expect("write");
        let mut command = command(scratch.path(), args);
        command.arg("-P").arg(&path);
        command
    };
    let daemon = Daemon::start(scratch.path(), with_pid_file(&["-d"]));
    assert_eq!(read_lossy(&path), format!("{}\n", daemon.pid));
    assert_eq!(mode(&path), 0o644);
    daemon.stop();
    assert!(!path.exists());

    let mut child = with_pid_file(&[]).stderr(Stdio::null()).spawn().expect("run ringq");
    eventually("ringq in the foreground is ready", TIMEOUT, || read_lossy(&path) == format!("{}\n", child.id()));
    let server = Daemon::of(&scratch.path().join("data"));
    server.signal(Signal::TERM);
    assert!(child.wait().expect("wait").success());
    assert!(!path.exists());
}

#[test]
fn a_live_servers_pid_file_is_refused_and_survives_failed_starts() {
    let scratch = scratch();
    let path = scratch.path().join("pid");
    let mut first = command(scratch.path(), &["-d", "-P"]);
    first.arg(&path);
    let daemon = Daemon::start(scratch.path(), first);
    let other = tempfile::tempdir().expect("a temporary directory");
    for flag in ["-d", "-v"] {
        let mut second = command(other.path(), &[flag, "-P"]);
        second.arg(&path);
        let printed = run(other.path(), second).refusal(&other.path().join("data"));
        for part in [&format!("process {}", daemon.pid), path.to_str().expect("readable"), "-P"] {
            assert!(printed.contains(part), "no {part} in {printed}");
        }
        // Here the pid file is not even reached.
        let mut third = command(scratch.path(), &[flag, "-P"]);
        third.arg(&path);
        run(other.path(), third).refusal(&scratch.path().join("data"));
        assert_eq!(read_lossy(&path), format!("{}\n", daemon.pid));
    }
    daemon.stop();
    assert!(!path.exists());
}

#[test]
fn a_pid_file_that_cannot_be_removed_is_emptied() {
    if !is_root() {
        return skip("daemon_pid_file", "needs root");
    }
    let scratch = scratch();
    let path = scratch.path().join("pid");
    for _ in 0..2 {
        let mut command = command(scratch.path(), &["-d", "-u", "nobody", "-P"]);
        command.arg(&path);
        let daemon = Daemon::start(scratch.path(), command);
        assert_eq!(read_lossy(&path), format!("{}\n", daemon.pid));
        daemon.stop();
        assert_eq!(fs::read(&path).expect("it is still there"), b"");
    }
}

// --- another user ---

#[test]
fn an_unknown_user_is_refused_by_name() {
    if !is_root() {
        return skip("daemon_unknown_user", "needs root");
    }
    let scratch = scratch();
    for args in [&["-d", "-u", "no-such-user"][..], &["-u", "no-such-user"]] {
        let printed = run(scratch.path(), command(scratch.path(), args)).refusal(&scratch.path().join("data"));
        assert!(printed.contains("-u no-such-user: there is no user"), "{printed}");
        assert!(!scratch.path().join("data").exists(), "nothing was made");
    }
}

#[test]
fn root_becomes_the_user_with_its_groups_and_gives_it_what_it_writes() {
    if !is_root() {
        return skip("daemon_user", "needs root");
    }
    let scratch = scratch();
    // Accounts of the test's own, seen by this one process.
    let passwd = format!("{}ringq-test:x:54321:54322::/:/bin/false\n", read_lossy("/etc/passwd"));
    let group = format!("{}rt-one:x:54323:ringq-test\nrt-two:x:54324:other,ringq-test\n", read_lossy("/etc/group"));
    fs::write(scratch.path().join("passwd"), passwd).expect("write");
    fs::write(scratch.path().join("group"), group).expect("write");
    let script = "mount --bind passwd /etc/passwd && mount --bind group /etc/group || exit 99; exec \"$@\"";
    let with_accounts = |args: &[&str]| {
        let ringq = command(scratch.path(), args);
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", script, "sh"]).arg(ringq.get_program()).args(ringq.get_args());
        unshare.current_dir(scratch.path());
        unshare
    };
    let log_file = scratch.path().join("log");
    fs::write(&log_file, "").expect("write");
    let log_arg = log_file.to_str().expect("readable");

    // First as root, so that there is something to be given.
    let as_root = Daemon::start(scratch.path(), command(scratch.path(), &["-d"]));
    as_root.connect().command(b"set q 0 0 1\r\nx\r\n", b"STORED\r\n");
    as_root.stop();
    let outcome = run(scratch.path(), with_accounts(&["-d", "-r", "-u", "ringq-test", "--log-file", log_arg]));
    if outcome.status.code() == Some(99) || outcome.printed.contains("unshare:") {
        return skip("daemon_user", &format!("needs a mount namespace: {}", outcome.printed.trim()));
    }
    let daemon = outcome.daemon(&scratch.path().join("data"));
    assert_eq!(daemon.status("Uid"), ["54321"; 4]);
    assert_eq!(daemon.status("Gid"), ["54322"; 4]);
    let mut groups = daemon.status("Groups");
    groups.sort();
    assert_eq!(groups, ["54322", "54323", "54324"]);
    assert_eq!(daemon.status("CapEff"), ["0000000000000000"]);
    for path in below(&scratch.path().join("data")).iter().chain([&log_file]) {
        let meta = fs::metadata(path).expect("it is there");
        assert_eq!((meta.uid(), meta.gid()), (54321, 54322), "{}", path.display());
    }
    // A process that could not leave a core file would belong to root in /proc.
    assert_eq!(fs::metadata(format!("/proc/{}/status", daemon.pid)).expect("it runs").uid(), 54321);
    let mut client = daemon.connect();
    client.send(b"get q\r\nset q 0 0 1\r\ny\r\n");
    client.expect(b"VALUE q 0 1\r\nx\r\nEND\r\nSTORED\r\n");
    daemon.stop();
}

#[test]
fn directories_that_a_start_makes_can_be_entered_by_the_user() {
    if !is_root() {
        return skip("daemon_user_directories", "needs root");
    }
    let scratch = scratch();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringq"));
    command.env_clear().env("RINGQ_ADMIN", "off").args(["-d", "-u", "nobody", "-p", "0", "-l", "127.0.0.1", "-H"]);
    command.arg(scratch.path().join("a/b/data"));
    let daemon = run(scratch.path(), command).daemon(&scratch.path().join("a/b/data"));
    daemon.connect().command(b"set q 0 0 1\r\nx\r\n", b"STORED\r\n");
    assert_eq!(mode(&scratch.path().join("a")), 0o750);
    daemon.stop();
}

#[test]
fn a_directory_that_the_user_cannot_enter_is_refused_with_what_to_do() {
    if !is_root() {
        return skip("daemon_user_access", "needs root");
    }
    let scratch = scratch();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o700)).expect("close it");
    let outcome = run(scratch.path(), command(scratch.path(), &["-d", "-u", "nobody"]));
    let printed = outcome.refusal(&scratch.path().join("data"));
    assert!(printed.contains("-u nobody: it cannot enter") && printed.contains("-H"), "{printed}");
}

#[test]
fn what_else_is_in_the_data_directory_stays_its_owners() {
    if !is_root() {
        return skip("daemon_user_other_files", "needs root");
    }
    let scratch = scratch();
    let data = scratch.path().join("data");
    fs::create_dir(&data).expect("make a directory");
    fs::write(data.join("note"), "").expect("write");
    symlink(scratch.path().join("outside"), data.join("store.old")).expect("link");
    let daemon = Daemon::start(scratch.path(), command(scratch.path(), &["-d", "-u", "nobody"]));
    assert_eq!(fs::metadata(data.join("note")).expect("it is there").uid(), 0);
    assert_ne!(fs::metadata(data.join("store/data.mdb")).expect("it is there").uid(), 0);
    daemon.stop();
}

#[test]
fn who_is_not_root_stays_who_it_is() {
    if !is_root() {
        return skip("daemon_not_root", "needs root, to become someone else before");
    }
    let scratch = scratch();
    let data = scratch.path().join("data");
    fs::create_dir(&data).expect("make a directory");
    std::os::unix::fs::chown(&data, Some(1), Some(1)).expect("give it away");
    let ringq = command(scratch.path(), &["-d", "-u", "nobody"]);
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid=1", "--regid=1", "--clear-groups"]).arg(ringq.get_program()).args(ringq.get_args());
    if Command::new("setpriv").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip("daemon_not_root", "setpriv is not installed");
    }
    let outcome = run(scratch.path(), setpriv);
    // A checkout below a directory of root's cannot be run by others.
    if outcome.printed.contains("setpriv: failed to execute") {
        return skip("daemon_not_root", "ringq stands where only root can run it");
    }
    let daemon = outcome.daemon(&data);
    assert!(daemon.printed.contains("-u nobody is ignored"), "{}", daemon.printed);
    assert_eq!(daemon.status("Uid"), ["1"; 4]);
    daemon.stop();
}

#[test]
fn running_as_root_is_warned_of() {
    if !is_root() {
        return skip("daemon_root_warning", "needs root");
    }
    let server = Server::start(&[]);
    assert!(server.output().contains("running as root; with -u USER"), "{}", server.output());
}

// --- limits ---

#[test]
fn new_files_are_closed_to_others_whatever_the_callers_umask_is() {
    let scratch = scratch();
    let ringq = command(scratch.path(), &["-d"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 0; exec \"$@\"", "sh"]).arg(ringq.get_program()).args(ringq.get_args());
    let daemon = Daemon::start(scratch.path(), shell);
    assert_eq!(daemon.status("Umask"), ["0027"]);
    for path in below(&scratch.path().join("data")) {
        assert_eq!(mode(&path) & 0o027, 0, "{} is {:o}", path.display(), mode(&path));
    }
    daemon.stop();
    // A stricter one stays.
    let ringq = command(scratch.path(), &["-d"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(ringq.get_program()).args(ringq.get_args());
    let daemon = Daemon::start(scratch.path(), shell);
    assert_eq!(daemon.status("Umask"), ["0077"]);
}

#[test]
fn r_allows_core_files_of_any_size() {
    let soft_and_hard = |daemon: &Daemon| {
        let limits = daemon.proc("limits");
        let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).expect("a core limit");
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let limited = |scratch: &Path, limit: &str, args: &[&str]| {
        let ringq = command(scratch, args);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("ulimit {limit}; exec \"$@\""), "sh"])
            .arg(ringq.get_program())
            .args(ringq.get_args());
        shell
    };
    let scratch = scratch();
    let daemon = Daemon::start(scratch.path(), limited(scratch.path(), "-Sc 0", &["-d", "-r"]));
    let [soft, hard] = <[String; 2]>::try_from(soft_and_hard(&daemon)).expect("two limits");
    assert_eq!(soft, hard);
    assert_ne!(soft, "0");
    daemon.stop();
    let daemon = Daemon::start(scratch.path(), limited(scratch.path(), "-Sc 0", &["-d"]));
    assert_eq!(soft_and_hard(&daemon)[0], "0", "without -r it stays");
    daemon.stop();
}

#[test]
fn check_says_whether_enough_memory_may_be_locked() {
    let output = Command::new(env!("CARGO_BIN_EXE_ringq")).env_clear().arg("--check").output().expect("run ringq");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("locked memory: ") && printed.contains("for each thread"), "{printed}");
    // Privileged processes are not counted.
    if !is_root() {
        return skip("check_says_whether_enough_memory_may_be_locked", "only root can become somebody else");
    }
    let scratch = scratch();
    // The build directory may be closed to others.
    let binary = scratch.path().join("ringq");
    std::fs::copy(env!("CARGO_BIN_EXE_ringq"), &binary).expect("copy ringq");
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755)).expect("open the directory");
    let script = "ulimit -l 64; exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
    let mut command = Command::new("sh");
    let output = command.args(["-c", script, "sh"]).arg(&binary).arg("--check").output().expect("run sh");
    let said = String::from_utf8_lossy(&output.stderr);
    let is_counted = !output.status.success();
    assert!(!is_counted || said.contains("64 KiB") && said.contains("ulimit -l"), "{said}");
}

// --- as MemcacheQ is started ---

#[test]
fn the_documented_command_line_of_memcacheq_works() {
    let scratch = scratch();
    let args = ["-d", "-r", "-N", "-R", "-v", "-L", "1024", "-B", "1024"];
    let daemon = Daemon::start(scratch.path(), command(scratch.path(), &args));
    assert!(daemon.printed.contains("command lines: -R"), "{}", daemon.printed);
    let mut client = daemon.connect();
    client
        .send(&[b"set q 0 0 1024\r\n", &[b'x'; 1024][..], b"\r\nset q 0 0 1025\r\n", &[b'x'; 1025], b"\r\n"].concat());
    client.expect(b"STORED\r\nSERVER_ERROR object too large for cache\r\n");
    daemon.stop();
}

#[test]
fn under_the_name_memcacheq_it_does_the_same() {
    let scratch = scratch();
    let name = scratch.path().join("memcacheq");
    symlink(env!("CARGO_BIN_EXE_ringq"), &name).expect("link");
    let pid_file = scratch.path().join("pid");
    let ringq = command(scratch.path(), &["-d", "-P", pid_file.to_str().expect("readable")]);
    let mut memcacheq = Command::new(&name);
    memcacheq.env_clear().env("RINGQ_ADMIN", "off").args(ringq.get_args());
    let daemon = Daemon::start(scratch.path(), memcacheq);
    assert!(daemon.connect().command(b"version\r\n", b"\r\n").starts_with(b"VERSION "));
    assert_eq!(read_lossy(&pid_file), format!("{}\n", daemon.pid));
    daemon.stop();
    assert!(!pid_file.exists());
}
