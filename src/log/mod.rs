//! The log: lines on standard error or in a file, as text or JSON, at a level that clients may change with `verbosity`.
//!
//! Invariant: nothing that happens to what is written to (nobody reads it, it is full, it is closed) stops or slows a thread that
//! has a line, once [`spawn_writer`] was called; lines are lost then, and counted. A message is one line, and what clients send
//! cannot forge one.
//!
//! Files: [`mod@format`] makes the lines, [`writer`] brings them out, [`limiter`] keeps lines about clients few.

mod format;
mod limiter;
mod writer;

pub use format::shown;

use crate::config::{Config, LogFormat};
use anyhow::{Context as _, Result};
use limiter::{Limiter, PERIOD_MS, Withheld};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::prelude::*;
use writer::Writer;

/// Target of lines that were asked for and are shown at any verbosity: state dumps, statistics, that the server is ready.
///
/// ```
/// tracing::info!(target: ringq::log::ALWAYS, "connections: {}", 5);
/// ```
pub const ALWAYS: &str = "ringq::dump";

/// How long an end of the process waits for its last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

static VERBOSITY: AtomicU8 = AtomicU8::new(0);
static LOG: OnceLock<Log> = OnceLock::new();

/// What was decided when it was started.
struct Log {
    writer: Writer,
    /// `--log-file`.
    path: Option<PathBuf>,
    /// Standard error has the log, as text for people.
    is_plain: bool,
}

/// Starts logging, and has panics logged. Lines are written by whoever has them until [`spawn_writer`] is called. In one process
/// (of tests) only the first start counts.
///
/// # Errors
/// When `--log-file` cannot be opened.
pub fn start(config: &Config) -> Result<()> {
    set_verbosity(config.verbosity);
    let path = config.log_file.clone();
    let file = path.as_deref().map(open).transpose()?;
    let is_journal = path.is_none() && format::is_journal();
    let is_plain = path.is_none() && !is_journal && config.log_format == LogFormat::Text;
    if LOG.set(Log { writer: Writer::new(file), path, is_plain }).is_ok() {
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .log_internal_errors(false)
            .event_format(format::Lines::new(config.log_format, is_journal))
            .with_writer(|| Line);
        tracing_subscriber::registry().with(lines.with_filter(Current)).init();
        log_panics();
    }
    Ok(())
}

/// From now on lines are written by a thread of their own. To be called after the last fork, which would leave the thread
/// behind, and before there are threads that must not wait.
///
/// # Errors
/// When the system has no room for another thread; lines are written as before.
pub fn spawn_writer() -> io::Result<()> {
    if let Some(log) = LOG.get() {
        let report = |lost| {
            tracing::warn!(
                "{lost} lines of the log were lost: they came faster than they were taken, or there was no room for them; \
                 lower the verbosity, or see to what reads standard error or to the disk of --log-file"
            );
        };
        std::thread::Builder::new().name("ringq-log".into()).spawn(move || log.writer.run(report))?;
        log.writer.leave_to_thread();
    }
    Ok(())
}

/// Waits until all lines are written, a second at most: to be called before the process ends.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.writer.flush(FLUSH_TIMEOUT);
    }
}

/// Opens `--log-file` anew, after it was renamed. If that fails, the log goes on in the file it has, and says so.
pub fn reopen() {
    let Some(Log { writer, path: Some(path), .. }) = LOG.get() else {
        return;
    };
    match reopened(writer, path) {
        Ok(false) => {}
        Ok(true) => tracing::info!("the log goes on in a new file"),
        Err(error) => tracing::warn!(
            "{error:#}; the log goes on in the file it has: see to the directory and its permissions, then send SIGHUP again"
        ),
    }
}

/// Whether the file at `path` is another one than before, to which the log goes now. What was not moved is left open: the user
/// that `-u` names may not be allowed to open it again.
fn reopened(writer: &Writer, path: &Path) -> Result<bool> {
    let current = std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    if current.is_some() && current == writer.file_id() {
        return Ok(false);
    }
    writer.replace(open(path)?);
    Ok(true)
}

fn open(path: &Path) -> Result<File> {
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path);
    file.with_context(|| format!("--log-file {}: cannot be opened", path.display()))
}

/// Says that the server is ready, or the like: in the log at any verbosity, and on standard error as `ringq: MESSAGE` if text for
/// people goes there, for who started the server. All messages are written at once: who has read one can read the others.
pub fn announce(messages: &[String]) {
    let plain: String = messages.iter().map(|message| format!("ringq: {message}\n")).collect();
    match LOG.get() {
        Some(log) if log.is_plain => return log.writer.push(plain.as_bytes()),
        Some(_) => messages.iter().for_each(|message| tracing::info!(target: ALWAYS, "{message}")),
        None => {}
    }
    tell_starter(&plain);
}

/// Says why the process is about to end: in the log, and on standard error if the log is elsewhere or was not started. Waits until
/// it is written.
pub fn fatal(message: impl fmt::Display) {
    if LOG.get().is_some() {
        tracing::error!("{message}");
        flush();
    }
    tell_starter(&format!("ringq: {message}\n"));
}

/// Standard error, unless the log is there. `eprintln!` would panic where it is closed.
fn tell_starter(line: &str) {
    if LOG.get().is_none_or(|log| log.path.is_some()) {
        writer::write_all(rustix::stdio::stderr(), line.as_bytes());
    }
}

/// An assertion that fails ends the process; the log has to have the reason.
fn log_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let (place, name) = (panic.location().map(ToString::to_string), thread.name().unwrap_or("?"));
        fatal(format_args!(
            "this is a bug, please report it: thread {name} panicked at {}: {}; what was acknowledged is in the journals, restart the server",
            place.as_deref().unwrap_or("?"),
            panic.payload_as_str().unwrap_or("?"),
        ));
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            default(panic);
        }
    }));
}

/// Changes how much is logged, from now on and in all threads. 0: warnings and errors; 1: what the server does; 2: every command
/// and every reply.
pub fn set_verbosity(verbosity: u8) {
    VERBOSITY.store(verbosity, Ordering::Relaxed);
}

/// Whether commands are logged.
pub fn logs_commands() -> bool {
    VERBOSITY.load(Ordering::Relaxed) >= 2
}

fn current() -> LevelFilter {
    match VERBOSITY.load(Ordering::Relaxed) {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    }
}

/// Lets through what the current verbosity allows.
struct Current;

impl<S> Filter<S> for Current {
    fn enabled(&self, meta: &tracing::Metadata<'_>, _: &Context<'_, S>) -> bool {
        *meta.level() <= current() || meta.target() == ALWAYS
    }
}

/// Takes one line.
struct Line;

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(log) = LOG.get() {
            log.writer.push(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines about clients: of each kind a few a period, since their number is up to the clients.
#[derive(Debug, Default)]
pub struct Complaints(Limiter);

impl Complaints {
    /// Logs a line at `level`, unless there were too many of this kind lately. `kind` is what they are called together, in the
    /// plural; `now_ms` is monotonic.
    pub fn say(&mut self, now_ms: u64, level: Level, kind: &'static str, line: impl FnOnce() -> String) {
        if level <= current() && self.0.admits(kind, level, now_ms) {
            log_at(level, &line());
        }
    }

    /// When to call [`Complaints::sum_up`], monotonic ms; `None` if there is nothing to sum up.
    pub fn next_deadline(&self) -> Option<u64> {
        self.0.next_deadline()
    }

    /// Logs how many lines there would have been besides, of kinds whose period is over.
    pub fn sum_up(&mut self, now_ms: u64) {
        while let Some(withheld) = self.0.take_due(now_ms) {
            let Withheld { name, level, count } = withheld;
            log_at(level, &format!("{name}: {count} more in the last {} s", PERIOD_MS / 1000));
        }
    }
}

fn log_at(level: Level, line: &str) {
    match level {
        Level::ERROR => tracing::error!("{line}"),
        Level::WARN => tracing::warn!("{line}"),
        Level::INFO => tracing::info!("{line}"),
        _ => tracing::debug!("{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Where the process that panics logs.
    const LOG_FILE: &str = "RINGQ_TEST_PANIC_LOG";

    #[test]
    fn a_panic_is_in_the_log_and_on_standard_error() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "log::tests::panics", "--ignored", "--nocapture"]);
        let output = child.env(LOG_FILE, &path).env_remove("RUST_BACKTRACE").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let (log, stderr) = (std::fs::read_to_string(path).unwrap(), String::from_utf8(output.stderr).unwrap());
        for text in [&log, &stderr] {
            assert!(text.contains("thread unlucky panicked at src/log/mod.rs:"), "{text}");
            assert!(text.contains(": so\\nit is; ") || text.contains(": so\nit is; "), "{text}");
        }
        assert!(log.contains(" ERROR ") && log.lines().count() == 1, "{log}");
    }

    #[test]
    #[ignore = "is run by a_panic_is_in_the_log_and_on_standard_error"]
    fn panics() {
        let Some(path) = std::env::var_os(LOG_FILE) else {
            return;
        };
        start(&Config::parse(["ringq".into(), "--log-file".into(), path]).unwrap()).unwrap();
        spawn_writer().unwrap();
        let unlucky = std::thread::Builder::new().name("unlucky".into());
        assert!(unlucky.spawn(|| panic!("so\nit is")).unwrap().join().is_err());
    }

    #[test]
    fn a_file_is_opened_anew_only_when_it_is_another_one() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        let writer = Writer::new(Some(open(&path).unwrap()));
        assert!(!reopened(&writer, &path).unwrap(), "it is the same");
        std::fs::rename(&path, scratch.path().join("log.1")).unwrap();
        assert!(reopened(&writer, &path).unwrap());
        assert!(!reopened(&writer, &path).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let error = format!("{:#}", reopened(&writer, &path).unwrap_err());
        assert!(error.contains("--log-file") && error.contains(path.to_str().unwrap()), "{error}");
        writer.push(b"line\n");
        std::fs::remove_dir(&path).unwrap();
        assert!(reopened(&writer, &path).unwrap());
    }
}
