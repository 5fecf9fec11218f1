//! `ringqctl import`: drains the queues of another server into RingQ.
//!
//! Invariant: see [`transfer`], which moves the messages. This is the command line around it: which queues, what is refused before
//! anything is taken, what is said at the end.

mod listing;
mod record;
mod report;
mod spool;
mod transfer;

use std::ffi::OsString;
use std::net::ToSocketAddrs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::client::{Address, Client, Error};

use super::Context;
use super::exit::{BAD_USAGE, FAILED, Failure, Outcome, REFUSED, interrupts};
use super::output::{line, print, shown, table};

use listing::{Listed, Listing};
use report::Report;
use spool::Spool;
use transfer::{End, Transfer};

/// Queue, flags and body of a message in a spool.
type Offered = (Vec<u8>, u32, Vec<u8>);

/// What the spool at `path` offers: a door for tests that feed it arbitrary bytes.
///
/// # Errors
/// Why it cannot be opened or read.
pub fn spooled(path: &Path) -> Result<Vec<Offered>, String> {
    let look = Spool::look(path).map_err(|error| error.to_string())?;
    let spool = Spool::open(path).map_err(|error| error.to_string())?;
    assert_eq!(spool.pending_len(), look, "who only looks sees the same");
    let messages = spool.next(usize::MAX, usize::MAX).map_err(|error| error.to_string())?;
    Ok(messages.into_iter().map(|it| (it.queue, it.flags, it.body)).collect())
}

impl From<spool::Error> for Failure {
    fn from(error: spool::Error) -> Failure {
        Failure::new(FAILED, error.to_string())
    }
}

/// Drain the queues of another server into this one.
#[derive(Args, Debug)]
pub(super) struct Import {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Subcommand, Debug)]
enum Kind {
    Memcacheq(Memcacheq),
}

impl Import {
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        match &self.kind {
            Kind::Memcacheq(command) => command.run(context),
        }
    }
}

/// Drain a running MemcacheQ, or another queue server with `set` and `get`, into the server that --server names.
///
/// Takes messages from the source in batches and writes each batch to a spool file before it is put into RingQ. If anything fails, the same command
/// run again, in the same directory, goes on with what is in the spool. docs/MIGRATING.md says exactly what can be lost or doubled.
#[derive(Args, Debug)]
struct Memcacheq {
    /// The source: HOST:PORT or unix:PATH.
    source: Address,

    /// Take this queue; may be repeated [default: all that the source lists].
    #[arg(long = "queue", value_name = "NAME")]
    queues: Vec<OsString>,

    /// Messages taken, stored and marked as stored together, at most; fewer when they are large.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,

    /// The file for messages on their way; removed when none is left.
    #[arg(long, value_name = "FILE", default_value = "ringqctl-import.spool")]
    spool: PathBuf,

    /// Show the queues and how many messages they seem to hold; take nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Memcacheq {
    fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        for name in &self.queues {
            if !Listed::named(name.as_bytes()).fits() {
                let text = format!("no queue of RingQ can have the name {}", shown(name.as_bytes()));
                return Err(Failure::new(BAD_USAGE, text));
            }
        }
        if self.dry_run {
            return self.show(context);
        }
        if is_same_server(&self.source, &context.server) {
            return Err(Failure::new(BAD_USAGE, format!("{} is both source and destination", self.source)));
        }
        self.import(context)
    }

    fn import(&self, context: &Context) -> Result<Outcome, Failure> {
        let stop = interrupts(&[SIGINT, SIGTERM])?;
        let destination = context.connect()?;
        let spool = Spool::open(&self.spool)?;
        let mut transfer = Transfer::new(destination, context.server.to_string(), spool, self.batch.into(), stop);
        let ended = self.transfer(context, &mut transfer);
        self.close(context, transfer, ended)
    }

    fn transfer(&self, context: &Context, transfer: &mut Transfer) -> Result<End, Failure> {
        transfer.prepare()?;
        let mut source = self.connect(context)?;
        let queues = if self.queues.is_empty() {
            self.queues_to_take(self.list(&mut source)?, &mut transfer.report)
        } else {
            self.named()
        };
        if let Some(expected) = queues.iter().map(Listed::estimate).sum() {
            transfer.report.expect(expected);
        }
        for queue in queues {
            if transfer.drain(&mut source, &self.source.to_string(), &queue.name)? == End::Interrupted {
                return Ok(End::Interrupted);
            }
        }
        Ok(End::Drained)
    }

    /// The summary, and what is to be done about what is left.
    fn close(&self, context: &Context, transfer: Transfer, ended: Result<End, Failure>) -> Result<Outcome, Failure> {
        let Transfer { spool, report, .. } = transfer;
        report.close_bar();
        let spooled = spool.pending_len();
        let path = std::path::absolute(spool.path()).unwrap_or_else(|_| spool.path().into());
        let removed = if spooled == 0 { spool.remove() } else { Ok(()) };
        let is_finished = matches!(ended, Ok(End::Drained));
        print(report.summary(&self.source.to_string(), spooled, is_finished, context.json))?;
        let go_on = match spooled {
            0 => "nothing is in the spool; the same command goes on".into(),
            _ => format!("{spooled} messages are in the spool {}; the same command goes on with them", path.display()),
        };
        match ended {
            Err(Failure { status, text }) => Err(Failure::new(status, format!("{text}\nringqctl: {go_on}"))),
            Ok(End::Interrupted) => {
                report.warn(&format!("interrupted; {go_on}"));
                Ok(Outcome::Interrupted)
            }
            Ok(End::Drained) => {
                removed?;
                Ok(if report.is_partial() { Outcome::Partial } else { Outcome::Done })
            }
        }
    }

    fn show(&self, context: &Context) -> Result<Outcome, Failure> {
        let mut report = Report::new();
        let spooled = Spool::look(&self.spool)?;
        let listed = self.connect(context).and_then(|mut source| self.list(&mut source));
        let queues = if self.queues.is_empty() {
            self.queues_to_take(listed?, &mut report)
        } else {
            // A source that cannot list its queues can be drained all the same.
            let known = match listed {
                Err(failure) if failure.status != REFUSED => return Err(failure),
                listed => listed.map_or_else(|_| Vec::new(), |listing| listing.queues),
            };
            let counted = |queue: Listed| known.iter().find(|known| known.name == queue.name).cloned().unwrap_or(queue);
            self.named().into_iter().map(counted).collect()
        };
        let messages: Option<u64> = queues.iter().map(Listed::estimate).sum();
        let text = if context.json {
            let row = |queue: &Listed| {
                let (puts, gets) = queue.counts.unzip();
                json!({ "queue": shown(&queue.name), "puts": puts, "gets": gets, "messages": queue.estimate() })
            };
            let rows: Vec<Value> = queues.iter().map(row).collect();
            line(
                &json!({ "source": self.source.to_string(), "queues": rows, "messages": messages, "spooled": spooled }),
            )
        } else {
            let number = |number: Option<u64>| number.map_or_else(|| "?".into(), |number| number.to_string());
            let header = ["QUEUE", "PUTS", "GETS", "MESSAGES"].map(String::from);
            let row = |queue: &Listed| {
                let (puts, gets) = queue.counts.unzip();
                [shown(&queue.name), number(puts), number(gets), number(queue.estimate())]
            };
            let rows = table(std::iter::once(header).chain(queues.iter().map(row)).collect());
            let total = number(messages);
            format!("{rows}{} queues, about {total} messages; {spooled} in the spool\n", queues.len())
        };
        print(text)?;
        Ok(if report.is_partial() { Outcome::Partial } else { Outcome::Done })
    }

    fn connect(&self, context: &Context) -> Result<Client, Failure> {
        Ok(Client::connect(&self.source, context.timeout)?)
    }

    fn list(&self, source: &mut Client) -> Result<Listing, Failure> {
        match source.queue_stats() {
            Ok(stats) => Ok(Listing::new(stats)),
            Err(Error::Refused(said)) => {
                let text = format!("{}: cannot list its queues ({said}); name them with --queue", self.source);
                Err(Failure::new(REFUSED, text))
            }
            Err(error) => Err(Failure::from(error).of(&self.source)),
        }
    }

    fn named(&self) -> Vec<Listed> {
        let mut names: Vec<&[u8]> = Vec::new();
        for name in &self.queues {
            if !names.contains(&name.as_bytes()) {
                names.push(name.as_bytes());
            }
        }
        names.into_iter().map(Listed::named).collect()
    }

    /// What of a listing can be taken; says what cannot.
    fn queues_to_take(&self, listing: Listing, report: &mut Report) -> Vec<Listed> {
        if listing.is_perhaps_cut {
            report.left_out(&format!(
                "{} lists {} queues and may have more: MemcacheQ cuts its listing off at 2048 bytes; \
                 take the missing ones with --queue",
                self.source,
                listing.queues.len()
            ));
        }
        let (fitting, others): (Vec<Listed>, Vec<Listed>) = listing.queues.into_iter().partition(Listed::fits);
        for queue in others {
            report.left_out(&format!("queue {} is left out: RingQ has no such names", shown(&queue.name)));
        }
        fitting
    }
}

/// Whether both certainly are one server, which would be drained into itself for ever.
fn is_same_server(a: &Address, b: &Address) -> bool {
    match (a, b) {
        (Address::Tcp(a), Address::Tcp(b)) => {
            let resolved = |name: &str| name.to_socket_addrs().map(Vec::from_iter).unwrap_or_default();
            let others = resolved(b);
            resolved(a).iter().any(|address| others.contains(address))
        }
        _ => a == b,
    }
}
