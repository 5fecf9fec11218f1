//! `ringq-bench`: a load generator for RingQ and for the servers it is compared with.
//!
//! The same loop drives every protocol, so that a ratio between two servers is about the servers. The main thread
//! only watches: it samples CPU time, prints progress, notices a server that stopped answering, and writes the
//! results. Exit codes: 0, 1 when verification found a violation, 2 when the run could not be made.
//!
//! It shares the ring with the server and nothing that knows what bytes mean, so that neither hides a mistake of the other.

mod audit;
mod beanstalkd;
mod ceiling;
mod clock;
mod connection;
mod device;
mod memcache;
mod options;
mod plot;
mod process;
mod protocol;
mod redis;
mod report;
mod session;
mod size_range;
mod stamp;
mod tally;
mod worker;

use std::fs;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use crate::clock::{Clock, SECOND_NS};
use crate::options::{Options, Plan};
use crate::plot::Line;
use crate::process::Sample;
use crate::report::{Report, Second, Surroundings};
use crate::tally::Progress;
use crate::worker::{Event, Outcome, Run, work};

/// How often the main thread looks, outside of the moments it has to be exact.
const WATCH_NS: u64 = SECOND_NS / 10;

/// Descriptors besides the connections: rings, timers, standard streams, results.
const DESCRIPTORS_SPARE: u64 = 64;

fn main() -> ExitCode {
    let words = || std::env::args_os().skip(1);
    let result = match words().next() {
        Some(word) if word == "device" => device::run(&device::Options::parse_from(words())).map(|()| true),
        Some(word) if word == "ceiling" => ceiling::run(&ceiling::Options::parse_from(words())).map(|()| true),
        _ => run(&Options::parse()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("ringq-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Makes the run; false when verification found a violation.
fn run(options: &Options) -> Result<bool> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    // Seconds and nanoseconds mixed: two runs of one machine hardly ever share it.
    let run_id = (since_1970.as_secs() as u32).rotate_left(20) ^ since_1970.subsec_nanos() ^ std::process::id();
    let plan = Plan::new(options, run_id)?;
    allow_descriptors(plan.connections as u64)?;
    if let Some(pid) = options.server_pid {
        process::sample(pid)?;
    }

    let run = Arc::new(Run::new(plan));
    let events = start_workers(&run);
    let clock = start_clock(&run, &events)?;
    let mut watch = Watch::new(options, &run, clock);
    let outcome = watch.until_done(&events)?;
    let around = watch.surroundings(since_1970.as_secs())?;

    let verdict = if run.plan.verify { outcome.audit.close(&run.plan) } else { None };
    let sound = verdict.as_ref().is_none_or(|verdict| verdict.sound);
    let intervals = run.progress.intervals.lock().expect("the workers are done");
    let report = Report::new(options, &run.plan, &outcome.tally, verdict, &around, &intervals);
    print!("{}", report.table());
    write_files(options, &report, &outcome.tally)?;
    Ok(sound)
}

/// Raises the soft limit of open files to what the connections need.
fn allow_descriptors(connections: u64) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let (needed, limit) = (connections + DESCRIPTORS_SPARE, getrlimit(Resource::Nofile));
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    ensure!(
        limit.maximum.is_none_or(|maximum| maximum >= needed),
        "{connections} connections need {needed} open files; raise the hard limit (ulimit -Hn)"
    );
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum })
        .context("cannot raise the limit of open files")
}

fn start_workers(run: &Arc<Run>) -> Receiver<Event> {
    let (sender, receiver) = channel();
    for number in 0..run.plan.threads {
        let (run, sender) = (run.clone(), sender.clone());
        thread::spawn(move || work(&run, number, &sender));
    }
    receiver
}

/// Starts the clock and the threads when all are connected.
fn start_clock(run: &Run, events: &Receiver<Event>) -> Result<Clock> {
    for _ in 0..run.plan.threads {
        match events.recv().context("a thread ended without a word")? {
            Event::Connected => {}
            Event::Done(Err(error)) => return Err(error),
            Event::Done(Ok(_)) => unreachable!("no thread is done before the start"),
        }
    }
    let clock = *run.clock.get_or_init(Clock::start);
    run.start.wait();
    Ok(clock)
}

/// The main thread's view of the run.
struct Watch<'a> {
    options: &'a Options,
    run: &'a Run,
    clock: Clock,
    /// When the samples of the start were taken, and what they were.
    first: Option<(u64, f64, Option<Sample>)>,
    end_ns: u64,
    rss_anon_max_size: u64,
    seconds_seen: u64,
    answered: u64,
    answered_ns: u64,
    shows_progress: bool,
}

impl<'a> Watch<'a> {
    fn new(options: &'a Options, run: &'a Run, clock: Clock) -> Watch<'a> {
        Watch {
            options,
            run,
            clock,
            first: None,
            end_ns: 0,
            rss_anon_max_size: 0,
            seconds_seen: 0,
            answered: 0,
            answered_ns: 0,
            shows_progress: options.progress || std::io::stderr().is_terminal(),
        }
    }

    /// Watches until every thread is done; their outcomes together.
    fn until_done(&mut self, events: &Receiver<Event>) -> Result<Outcome> {
        let mut all: Option<Outcome> = None;
        let mut running = self.run.plan.threads;
        self.on_time()?;
        while running > 0 {
            let wait_ns = self.next_ns().saturating_sub(self.clock.now_ns());
            match events.recv_timeout(Duration::from_nanos(wait_ns)) {
                Ok(Event::Connected) => unreachable!("all threads are connected before the start"),
                Ok(Event::Done(outcome)) => {
                    running -= 1;
                    let outcome = outcome?;
                    match &mut all {
                        Some(all) => {
                            all.tally.merge(&outcome.tally);
                            all.audit.merge(outcome.audit);
                        }
                        None => all = Some(*outcome),
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.on_time()?,
                Err(RecvTimeoutError::Disconnected) => bail!("a thread ended without a result"),
            }
        }
        self.end_ns = self.clock.now_ns();
        all.context("there was no thread")
    }

    fn next_ns(&self) -> u64 {
        let next_ns = self.clock.now_ns() + WATCH_NS;
        if self.first.is_none() { next_ns.min(self.run.plan.warmup_ns) } else { next_ns }
    }

    fn on_time(&mut self) -> Result<()> {
        let now_ns = self.clock.now_ns();
        if self.first.is_none() && now_ns >= self.run.plan.warmup_ns {
            self.first = Some((now_ns, process::own_cpu_s(), self.sample_server()?));
        }
        // A second is complete when the workers have seen the next one; the grace lets them.
        let complete = now_ns.saturating_sub(WATCH_NS) / SECOND_NS;
        while self.seconds_seen < complete {
            if let Some(sample) = self.sample_server()? {
                self.rss_anon_max_size = self.rss_anon_max_size.max(sample.rss_anon_size);
            }
            self.show_second(self.seconds_seen as usize);
            self.seconds_seen += 1;
        }
        self.check_stall(now_ns, &self.run.progress.clone())
    }

    fn sample_server(&self) -> Result<Option<Sample>> {
        self.options.server_pid.map(process::sample).transpose().context("the server is gone")
    }

    fn show_second(&self, second: usize) {
        if self.shows_progress {
            let intervals = self.run.progress.intervals.lock().expect("no worker panics while it publishes");
            if let Some(interval) = intervals.get(second) {
                eprintln!("{}", Second::new(second, interval).line());
            }
        }
    }

    fn check_stall(&mut self, now_ns: u64, progress: &Progress) -> Result<()> {
        let answered = progress.answered.load(Ordering::Relaxed);
        let unanswered = progress.sent.load(Ordering::Relaxed).saturating_sub(answered);
        if answered != self.answered || unanswered == 0 {
            (self.answered, self.answered_ns) = (answered, now_ns);
        }
        let stalled_s = (now_ns - self.answered_ns) as f64 / 1e9;
        ensure!(
            stalled_s < self.options.stall_timeout,
            "the server has not answered for {stalled_s:.0} s; {unanswered} requests wait, {answered} were answered before"
        );
        Ok(())
    }

    fn surroundings(&self, started_unix_s: u64) -> Result<Surroundings> {
        let now_cpu_s = process::own_cpu_s();
        let (first_ns, first_cpu_s, first_server) =
            self.first.context("the run ended within its warm-up; shorten --warmup or do more")?;
        let server = first_server.zip(self.sample_server()?);
        Ok(Surroundings {
            started_unix_s,
            end_ns: self.end_ns,
            span_s: (self.end_ns - first_ns) as f64 / 1e9,
            client_cpu_s: now_cpu_s - first_cpu_s,
            server,
            rss_anon_max_size: self.rss_anon_max_size,
        })
    }
}

fn write_files(options: &Options, report: &Report, tally: &tally::Tally) -> Result<()> {
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(report)? + "\n";
        fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.svg {
        let lines = [("put", "#d9480f", &tally.put.latency), ("get", "#1c6dd0", &tally.get.latency)];
        let lines: Vec<Line<'_>> = lines
            .into_iter()
            .filter(|(_, _, latency)| !latency.is_empty())
            .map(|(name, colour, latency)| Line { name, colour, latency })
            .collect();
        let pace = report.rate.map_or("closed loop".to_string(), |rate| format!("{rate} requests/s"));
        let title = format!("Latency of {} {}", report.protocol, report.workload);
        let subtitle =
            format!("{} connections x {} in flight, {pace}, {} B", report.connections, report.pipeline, report.size);
        fs::write(path, plot::render(&title, &subtitle, &lines))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
