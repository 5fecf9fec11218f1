//! The main thread while shards and the store run: what signals, clients, shards and time ask of the whole process.
//!
//! It sleeps until there is a report. There is a timer only while something is due: lines of statistics, systemd's watchdog, the end
//! of a stop's patience, an inquiry that may be given up; an idle server without these does nothing at all.
//!
//! Invariant: a shard that has failed ends it with that error, at once.

use super::notify;
use super::report::{self, QUEUES_MAX, Totals};
use super::rounds::{Purpose, Round, Rounds};
use crate::admin;
use crate::config::Config;
use crate::host;
use crate::log;
use crate::server;
use crate::shard::{Changes, Mail, Report, Shared};
use crate::udp;
use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGUSR1};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long SIGUSR1 waits for a shard's numbers before it goes without them.
const DUMP_PATIENCE: Duration = Duration::from_secs(2);

/// How much longer than clients may take a stop may take, for what is told to systemd.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(120);

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Everything is done and stored.
    Clean,
    /// Someone does not want to wait for that.
    AtOnce,
}

/// The main thread's state.
pub struct Supervisor<'a> {
    config: Config,
    facts: server::Facts,
    shared: Arc<Shared>,
    reports: Receiver<Report>,
    udp: udp::Thread,
    admin: &'a admin::Listener,
    /// Threads that have not ended: the shards, and the store, which is the last.
    running: usize,
    rounds: Rounds,
    stats: Stats,
    watchdog: Option<Timer>,
    stopping: bool,
    /// When clients that have not taken their replies are cut off.
    cut_off: Option<Instant>,
}

/// `-S`
struct Stats {
    timer: Option<Timer>,
    /// What the last line said, and when.
    before: Totals,
    at: Instant,
}

/// Something that is due every so often.
struct Timer {
    every: Duration,
    due: Instant,
}

impl Timer {
    fn new(every: Duration) -> Timer {
        Timer { every, due: Instant::now() + every }
    }

    /// Whether it is due; then it is set again.
    fn fires(&mut self, now: Instant) -> bool {
        let is_due = self.due <= now;
        if is_due {
            let next = self.due + self.every;
            // Times that were missed are not made up for.
            self.due = if next > now { next } else { now + self.every };
        }
        is_due
    }
}

impl<'a> Supervisor<'a> {
    /// Takes charge of running shards. `config` is what they were started with.
    pub fn new(
        config: Config,
        facts: server::Facts,
        shared: Arc<Shared>,
        reports: Receiver<Report>,
        udp: udp::Thread,
        admin: &'a admin::Listener,
    ) -> Supervisor<'a> {
        let shards = shared.mailboxes.len();
        let stats = Stats { timer: config.stats_every.map(Timer::new), before: Totals::default(), at: shared.start };
        Supervisor {
            config,
            facts,
            reports,
            udp,
            admin,
            running: shards + 1,
            rounds: Rounds::new(shards),
            stats,
            // Twice as often as it must, so that one that comes late does no harm.
            watchdog: notify::watchdog_timeout().map(|timeout| Timer::new(timeout / 2)),
            stopping: false,
            cut_off: None,
            shared,
        }
    }

    /// Returns when every shard and the store have ended, or do not have to any more.
    ///
    /// # Errors
    /// When a shard failed; others may still run.
    pub fn run(mut self) -> Result<End> {
        while self.running > 0 {
            if let Some(report) = self.wait()?
                && self.on_report(report)? == Some(End::AtOnce)
            {
                return Ok(End::AtOnce);
            }
            self.on_time(Instant::now());
        }
        Ok(End::Clean)
    }

    fn wait(&self) -> Result<Option<Report>> {
        let timers = [self.stats.timer.as_ref(), self.watchdog.as_ref()].into_iter().flatten().map(|timer| timer.due);
        let due = timers.chain(self.cut_off).chain(self.rounds.next_due()).min();
        let Some(due) = due else {
            return self.reports.recv().map(Some).context("every other thread is gone");
        };
        match self.reports.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(report) => Ok(Some(report)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("every other thread is gone"),
        }
    }

    fn on_report(&mut self, report: Report) -> Result<Option<End>> {
        match report {
            Report::Verbosity(verbosity) => log::set_verbosity(verbosity),
            Report::Inspected(shard, number, snapshot) => self.rounds.on_snapshot(shard, number, snapshot),
            Report::StoreAlive(number) => self.rounds.on_store(number),
            Report::StoreEnded => self.running -= 1,
            Report::Ended(id, result) => {
                self.running -= 1;
                self.rounds.on_ended(id);
                result.with_context(|| format!("shard {id} failed, and nothing more was acknowledged"))?;
            }
            Report::Signal(SIGHUP) => self.reload(),
            Report::Reload => {
                self.shared.reload_asked.store(false, Ordering::SeqCst);
                self.reload();
            }
            Report::Signal(SIGUSR1) => {
                self.begin(Purpose::Dump, QUEUES_MAX, Some(Instant::now() + DUMP_PATIENCE));
            }
            Report::Signal(signal) if self.stopping => {
                tracing::warn!("signal {signal} again: stopping at once; the next start replays the journals");
                return Ok(Some(End::AtOnce));
            }
            Report::Signal(_) | Report::Shutdown => self.stop(),
        }
        Ok(None)
    }

    // --- the end ---

    fn stop(&mut self) {
        if self.stopping {
            return;
        }
        tracing::info!("stopping: finishing what was accepted");
        notify::stopping("finishing what was accepted");
        notify::extend_timeout(self.config.stop_timeout + CHECKPOINT_PATIENCE);
        self.stopping = true;
        self.cut_off = Some(Instant::now() + self.config.stop_timeout);
        self.udp.stop();
        self.admin.stopping();
        self.send_all(|| Mail::Stop);
    }

    fn send_all(&self, mail: impl Fn() -> Mail) {
        self.shared.mailboxes.iter().for_each(|mailbox| mailbox.send(mail()));
    }

    // --- what is due ---

    fn on_time(&mut self, now: Instant) {
        if self.cut_off.is_some_and(|at| at <= now) {
            self.cut_off = None;
            let clients = self.shared.connections.load(Ordering::SeqCst);
            if clients > 0 {
                let patience = self.config.stop_timeout;
                tracing::warn!(
                    "{clients} clients did not take their replies within {patience:?} (--stop-timeout): they are cut off"
                );
            }
            self.send_all(|| Mail::Exit);
        }
        if self.stats.timer.as_mut().is_some_and(|timer| timer.fires(now)) {
            self.begin(Purpose::Stats, 0, None);
        }
        if self.watchdog.as_mut().is_some_and(|timer| timer.fires(now)) {
            match self.rounds.under_way(Purpose::Watchdog) {
                Some(round) => {
                    tracing::warn!("no answer from {}: systemd is not told that the server is alive", round.missing())
                }
                None => self.begin(Purpose::Watchdog, 0, None),
            }
        }
        while let Some(round) = self.rounds.take_over(now) {
            self.finish(&round);
        }
    }

    /// Asks all shards, unless they are being asked for this already.
    fn begin(&mut self, purpose: Purpose, queues: usize, give_up: Option<Instant>) {
        if purpose != Purpose::Reload && self.rounds.under_way(purpose).is_some() {
            return;
        }
        for (shard, inquiry) in self.rounds.begin(purpose, queues, give_up) {
            self.shared.mailboxes[usize::from(shard.0)].send(Mail::Inspect(inquiry));
        }
    }

    fn finish(&mut self, round: &Round) {
        match round.purpose {
            Purpose::Watchdog => notify::alive(),
            // It would take back that the server stops.
            Purpose::Reload if self.stopping => {}
            Purpose::Reload => notify::ready(&self.facts.status(&Totals::of(round).stats)),
            Purpose::Dump => {
                let settings = server::settings(&self.config, &self.facts);
                for line in
                    report::dump_lines(round, &host::facts(self.shared.start, self.shared.udp.read()), &settings)
                {
                    tracing::info!(target: log::ALWAYS, "{line}");
                }
            }
            Purpose::Stats => {
                let (now, totals) = (Instant::now(), Totals::of(round));
                let line = report::stats_line(&totals, &self.stats.before, now - self.stats.at);
                tracing::info!(target: log::ALWAYS, "{line}");
                self.stats.before = totals;
                self.stats.at = now;
            }
        }
    }

    // --- settings ---

    fn reload(&mut self) {
        if self.stopping {
            return;
        }
        notify::reloading();
        log::reopen();
        match self.config.reload() {
            Err(error) => {
                let reason = error.to_string();
                tracing::error!("settings stay as they are: {}", reason.trim_start_matches("error: ").trim_end());
            }
            Ok(new) => self.adopt(&new),
        }
        self.begin(Purpose::Reload, 0, None);
    }

    fn adopt(&mut self, new: &Config) {
        let restart = self.config.needing_restart(new);
        if !restart.is_empty() {
            tracing::warn!("changed, but to take effect only at a restart: {}", restart.join(", "));
        }
        // Only a change in the file takes back what a client set with `verbosity`.
        if new.verbosity != self.config.verbosity {
            log::set_verbosity(new.verbosity);
        }
        if new.stats_every != self.config.stats_every {
            self.stats.timer = new.stats_every.map(Timer::new);
        }
        self.config.adopt(new);
        if let Err(error) = self.admin.reload(&self.config) {
            tracing::error!("the admin listener's token and names stay as they are: {error:#}");
        }
        self.admin.running(&self.shared, &self.config, server::settings(&self.config, &self.facts));
        let engine = server::engine_tunables(&self.config, &self.facts);
        for (index, mailbox) in self.shared.mailboxes.iter().enumerate() {
            mailbox.send(Mail::Change(Changes {
                engine: engine.clone(),
                checkpoint_every_ms: self.config.checkpoint_every_ms,
                free_size_min: (index == 0).then_some(self.config.free_size_min),
            }));
        }
        tracing::info!("settings were read again");
    }
}
