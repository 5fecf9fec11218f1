//! Options: the command line, and the `Plan` it comes down to.
//!
//! A `Plan` is checked: every combination that cannot be measured sensibly is refused here with the reason, so the
//! rest of the load generator need not ask again.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use crate::clock::SECOND_NS;
use crate::protocol::Protocol;
use crate::size_range::SizeRange;
use crate::stamp::STAMP_SIZE;

/// In flight per connection when an open loop does not say: enough that due requests rarely wait for a slot.
const OPEN_LOOP_DEPTH: usize = 128;

/// Seconds of load when neither a duration nor a count is given.
const DURATION_DEFAULT_S: f64 = 10.0;

/// What the connections do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// Every connection puts.
    Fill,
    /// Every connection gets until its queues are empty.
    Drain,
    /// Half of the connections put, the other half get.
    Mixed,
    /// Every connection puts as many messages as may be in flight, then gets as many.
    PingPong,
    /// Every connection asks for the server's version: the way there and back, without a queue. Counted as gets.
    RoundTrip,
}

impl Workload {
    /// The name used on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Fill => "fill",
            Workload::Drain => "drain",
            Workload::Mixed => "mixed",
            Workload::PingPong => "ping-pong",
            Workload::RoundTrip => "round-trip",
        }
    }
}

/// Load generator for RingQ and the servers it is compared with.
#[derive(Debug, Parser)]
#[command(
    name = "ringq-bench",
    version,
    after_help = "`ringq-bench device --help`: how long one durable 4 KiB write takes here, without any server.\n\
                  `ringq-bench ceiling --help`: a server without queues, for what the ring and the kernel take by themselves."
)]
pub struct Options {
    /// What the connections do.
    #[arg(value_enum)]
    pub workload: Workload,

    /// The server: HOST:PORT, or the path of a unix socket (anything with a slash).
    #[arg(short, long, default_value = "127.0.0.1:22201")]
    pub target: String,

    /// The server's wire protocol.
    #[arg(long, value_enum, default_value_t = Protocol::Memcache)]
    pub protocol: Protocol,

    /// The server is a cache: one key per connection, overwritten by puts and left in place by gets.
    #[arg(long)]
    pub cache: bool,

    /// Connections, over all threads.
    #[arg(short, long, default_value_t = 16, value_name = "N")]
    pub connections: usize,

    /// Requests in flight per connection [default: 1; with --rate 128, for ping-pong 1].
    #[arg(short = 'P', long, value_name = "N")]
    pub pipeline: Option<usize>,

    /// Open loop: requests per second over all connections, puts and gets alike, each due at its own time; latency
    /// counts from then. Without it the loop is closed: a request follows an answer.
    #[arg(short, long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,

    /// Seconds of measured load, after the warm-up [default: 10, unless --count or drain].
    #[arg(short, long, value_name = "SECONDS")]
    pub duration: Option<f64>,

    /// Ends after this many puts (drain: gets) over all connections. Mixed then empties the queues.
    #[arg(short = 'n', long, value_name = "N")]
    pub count: Option<u64>,

    /// Seconds of load before the measurement.
    #[arg(short, long, default_value_t = 0.0, value_name = "SECONDS")]
    pub warmup: f64,

    /// Message size in bytes, or MIN-MAX to draw from.
    #[arg(short, long, default_value = "100", value_name = "BYTES")]
    pub size: SizeRange,

    /// Queues the connections are spread over.
    #[arg(short, long, default_value_t = 1, value_name = "N")]
    pub queues: u32,

    /// Queues are called this and their number.
    #[arg(long, default_value = "bench", value_name = "NAME")]
    pub queue_name: String,

    /// Threads of the load generator.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub threads: usize,

    /// Pins the threads to these CPUs, in turn.
    #[arg(long, value_delimiter = ',', value_name = "CPU,...")]
    pub pin: Vec<usize>,

    /// Stamps every message and checks that none is lost, doubled, out of order or damaged. Exit code 1 if one is.
    #[arg(long)]
    pub verify: bool,

    /// With drain --verify: the number of messages there must be.
    #[arg(long, value_name = "N", requires = "verify")]
    pub expect: Option<u64>,

    /// The server's process, for its CPU time and memory.
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,

    /// Gives up when requests are in flight and none was answered for so long.
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    pub stall_timeout: f64,

    /// Seed of the message sizes.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// A line per second on stderr even when it is no terminal.
    #[arg(long)]
    pub progress: bool,

    /// Writes the results as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Writes the latency distribution as an SVG picture.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// What a run does, checked and in the units of the run's clock.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the connections do.
    pub workload: Workload,
    /// The server's wire protocol.
    pub protocol: Protocol,
    /// Gets leave the value in place; each connection has its own key.
    pub cache: bool,
    /// Where the server listens.
    pub target: Target,
    /// Connections over all threads.
    pub connections: usize,
    /// Threads.
    pub threads: usize,
    /// CPUs for the threads, in turn; empty for no pinning.
    pub pin: Vec<usize>,
    /// Requests in flight per connection.
    pub depth: usize,
    /// Time between two due requests of one connection; `None` is a closed loop.
    pub interval_ns: Option<u64>,
    /// When the measurement starts.
    pub warmup_ns: u64,
    /// When sending stops.
    pub deadline_ns: Option<u64>,
    /// Puts (drain: gets) after which sending stops.
    pub count: Option<u64>,
    /// Message sizes.
    pub sizes: SizeRange,
    /// Seed of the message sizes.
    pub seed: u64,
    /// Number of queues.
    pub queues: u32,
    /// Front of the queues' names.
    pub queue_name: String,
    /// Whether messages are stamped and checked.
    pub verify: bool,
    /// Messages a verified drain must find.
    pub expect: Option<u64>,
    /// Tells this run's stamps from those of another one.
    pub run: u32,
}

impl Plan {
    /// Checks the options; `run` names this run in its stamps.
    pub fn new(options: &Options, run: u32) -> Result<Plan> {
        check_numbers(options)?;
        check_modes(options)?;
        let open_loop_depth = if options.workload == Workload::PingPong { 1 } else { OPEN_LOOP_DEPTH };
        let depth_default = if options.rate.is_some() { open_loop_depth } else { 1 };
        let duration_default =
            (options.count.is_none() && options.workload != Workload::Drain).then_some(DURATION_DEFAULT_S);
        let ns = |seconds: f64| (seconds * SECOND_NS as f64) as u64;
        let deadline = options.duration.or(duration_default).map(|seconds| ns(options.warmup + seconds));
        Ok(Plan {
            workload: options.workload,
            protocol: options.protocol,
            cache: options.cache,
            target: parse_target(&options.target)?,
            connections: options.connections,
            threads: options.threads.min(options.connections),
            pin: options.pin.clone(),
            depth: options.pipeline.unwrap_or(depth_default),
            interval_ns: options.rate.map(|rate| ns(options.connections as f64 / rate).max(1)),
            warmup_ns: ns(options.warmup),
            deadline_ns: deadline,
            count: options.count,
            sizes: options.size,
            seed: options.seed,
            queues: options.queues,
            queue_name: options.queue_name.clone(),
            verify: options.verify,
            expect: options.expect,
            run,
        })
    }

    /// Whether the getting half of a mixed run goes on until the queues are empty: whenever every message has to be
    /// accounted for.
    pub fn empties_queues(&self) -> bool {
        self.workload == Workload::Mixed && !self.cache && (self.verify || self.count.is_some())
    }
}

fn check_numbers(options: &Options) -> Result<()> {
    ensure!(options.connections > 0, "--connections: at least one");
    ensure!(options.threads > 0, "--threads: at least one");
    ensure!(options.queues > 0, "--queues: at least one");
    ensure!(options.pipeline != Some(0), "--pipeline: at least one");
    ensure!(options.count != Some(0), "--count: at least one");
    let positive = |seconds: f64| seconds.is_finite() && seconds > 0.0;
    ensure!(options.duration.is_none_or(positive), "--duration: a positive number of seconds");
    ensure!(options.rate.is_none_or(positive), "--rate: a positive number of requests per second");
    ensure!(options.warmup == 0.0 || positive(options.warmup), "--warmup: a number of seconds, not negative");
    ensure!(positive(options.stall_timeout), "--stall-timeout: a positive number of seconds");
    Ok(())
}

fn check_modes(options: &Options) -> Result<()> {
    if options.workload == Workload::Mixed {
        ensure!(options.connections >= 2, "mixed needs two connections: one puts, one gets");
    }
    if options.cache {
        ensure!(options.protocol == Protocol::Memcache, "--cache is for --protocol memcache");
        ensure!(!options.verify, "--cache overwrites and keeps messages, so there is nothing to --verify");
        let endless = options.workload == Workload::Drain && options.duration.is_none() && options.count.is_none();
        ensure!(!endless, "a cache is never drained empty: give --duration or --count");
    }
    if options.workload == Workload::RoundTrip {
        ensure!(options.protocol == Protocol::Memcache, "round-trip is for --protocol memcache");
        ensure!(!options.cache && !options.verify, "round-trip moves no messages: neither --cache nor --verify");
    }
    if options.verify && options.size.min < STAMP_SIZE {
        bail!("--verify stamps {STAMP_SIZE} bytes into each message; --size is {}", options.size);
    }
    if options.expect.is_some() {
        ensure!(options.workload == Workload::Drain, "--expect is for drain --verify");
    }
    Ok(())
}

fn parse_target(text: &str) -> Result<Target> {
    if text.contains('/') {
        return Ok(Target::Unix(PathBuf::from(text)));
    }
    let mut addresses =
        text.to_socket_addrs().with_context(|| format!("--target {text}: neither HOST:PORT nor a path"))?;
    let address = addresses.next().with_context(|| format!("--target {text}: the name has no address"))?;
    Ok(Target::Tcp(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &str) -> Result<Plan> {
        let arguments = std::iter::once("ringq-bench").chain(arguments.split_whitespace());
        Plan::new(&Options::try_parse_from(arguments)?, 1)
    }

    #[test]
    fn a_fill_has_a_duration_and_a_drain_has_none() {
        assert_eq!(plan("fill").unwrap().deadline_ns, Some(10 * SECOND_NS));
        assert_eq!(plan("fill -w 2 -d 3").unwrap().deadline_ns, Some(5 * SECOND_NS));
        assert_eq!(plan("fill -n 5").unwrap().deadline_ns, None);
        assert_eq!(plan("drain").unwrap().deadline_ns, None);
    }

    #[test]
    fn a_rate_is_shared_by_the_connections() {
        let plan = plan("fill --rate 1000 -c 10").unwrap();
        assert_eq!(plan.interval_ns, Some(SECOND_NS / 100));
        assert_eq!(plan.depth, OPEN_LOOP_DEPTH);
    }

    #[test]
    fn targets_are_addresses_or_paths() {
        assert_eq!(plan("fill -t 127.0.0.1:1").unwrap().target, Target::Tcp("127.0.0.1:1".parse().unwrap()));
        assert_eq!(plan("fill -t ./socket").unwrap().target, Target::Unix("./socket".into()));
        assert!(plan("fill -t 127.0.0.1").is_err());
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        for arguments in [
            "mixed -c 1",
            "fill -c 0",
            "fill -P 0",
            "fill -d 0",
            "fill -d nan",
            "fill --rate -1",
            "drain --cache",
            "fill --cache --protocol redis",
            "fill --cache --verify",
            "fill --verify -s 8",
            "fill --verify --expect 3",
            "drain --expect 3",
            "round-trip --protocol redis",
            "round-trip --cache",
            "round-trip --verify",
        ] {
            assert!(plan(arguments).is_err(), "{arguments} was accepted");
        }
    }
}
