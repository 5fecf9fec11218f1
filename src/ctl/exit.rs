//! How a subcommand ends: what it came to or why it failed, and the exit status for each.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::flag;

use crate::client::Error;

const NOTHING_THERE: u8 = 1;
pub(super) const BAD_USAGE: u8 = 2;
pub(super) const REFUSED: u8 = 3;
pub(super) const FAILED: u8 = 4;
const PARTIAL: u8 = 5;
const INTERRUPTED: u8 = 6;

pub(super) const EXIT_CODES: &str = "\
Exit status:
  0  done
  1  nothing there: the queue is empty, or there is no queue of that name
  2  bad usage
  3  the server refused; what it said is on standard error
  4  cannot connect, the connection failed, or the body could not be read or the answer written,
     or an import's spool cannot be used
  5  import: done, but something was or may have been left out; standard error says what
  6  interrupted by a signal: an import, which goes on when it is run again; tail and top";

/// What the shell reports for a program that SIGINT has ended; a second signal ends at once.
const ENDED_BY_SIGNAL: i32 = 130;

/// A flag that is set when one of these signals comes.
pub(super) fn interrupts(signals: &[i32]) -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for &signal in signals {
        // In this order: the first signal must not find the flag set by itself.
        flag::register_conditional_shutdown(signal, ENDED_BY_SIGNAL, stop.clone())
            .and_then(|_| flag::register(signal, stop.clone()))
            .map_err(|error| Failure::new(FAILED, format!("cannot watch for signals: {error}")))?;
    }
    Ok(stop)
}

/// What a subcommand came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Done,
    Nothing,
    /// Done, except for what standard error has named.
    Partial,
    /// A signal came; what was done is whole.
    Interrupted,
}

impl Outcome {
    pub(super) fn status(self) -> u8 {
        match self {
            Outcome::Done => 0,
            Outcome::Nothing => NOTHING_THERE,
            Outcome::Partial => PARTIAL,
            Outcome::Interrupted => INTERRUPTED,
        }
    }
}

/// Why a subcommand did not get to its end.
#[derive(Debug)]
pub(super) struct Failure {
    /// What to exit with.
    pub(super) status: u8,
    /// What to say on standard error.
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(status: u8, text: impl Into<String>) -> Failure {
        Failure { status, text: text.into() }
    }

    /// The same with the name of the server it is about, where a subcommand speaks to two.
    pub(super) fn of(self, server: &impl fmt::Display) -> Failure {
        Failure { text: format!("{server}: {}", self.text), ..self }
    }

    pub(super) fn input(error: &io::Error) -> Failure {
        Failure::new(FAILED, format!("cannot read the body: {error}"))
    }

    pub(super) fn output(error: &io::Error) -> Failure {
        Failure::new(FAILED, format!("cannot write the answer: {error}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let status = match error {
            Error::Refused(_) => REFUSED,
            Error::BadName(_) | Error::BadSetting(_) => BAD_USAGE,
            _ => FAILED,
        };
        Failure::new(status, error.to_string())
    }
}
