//! Signals become reports to the main thread. What they mean is the [`super::supervisor`]'s business.

use crate::shard::Report;
use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use std::sync::mpsc::Sender;

/// Starts the thread that waits for signals.
///
/// # Errors
/// When a signal cannot be watched, or the system has no room for another thread.
pub fn watch(reports: Sender<Report>) -> Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1]).context("cannot watch signals")?;
    std::thread::Builder::new().name("ringq-signals".into()).spawn(move || {
        for signal in signals.forever() {
            let _ = reports.send(Report::Signal(signal));
        }
    })?;
    Ok(())
}
