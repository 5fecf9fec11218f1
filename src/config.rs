//! The command line: what an operator may choose, checked before anything is touched.
//!
//! Invariant: a [`Config`] that exists is one the server can start with, as far as numbers go. Garbage is refused with the
//! option, the value and what is allowed, never turned into 0.

use crate::journal;
use crate::limits;
use clap::{ArgAction, Parser};
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

/// A durable message queue that speaks the memcache protocol.
#[derive(Parser, Clone, Debug)]
#[command(name = "ringq", version, disable_version_flag = true, max_term_width = 100)]
struct Options {
    /// TCP port; 0 lets the system choose.
    #[arg(short = 'p', long, value_name = "PORT", default_value_t = 22201, env = "RINGQ_PORT")]
    port: u16,

    /// Address or host name to listen on; may be repeated [default: all addresses]
    #[arg(short = 'l', long = "listen", value_name = "ADDR", env = "RINGQ_LISTEN", value_delimiter = ',')]
    listen: Vec<String>,

    /// Shard threads, each with its own io_uring and core [default: allowed CPUs, at most 4]
    #[arg(short = 't', long, value_name = "N", env = "RINGQ_THREADS", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,

    /// Data directory, created if missing and locked while in use.
    #[arg(short = 'H', long, value_name = "DIR", default_value = "ringq-data", env = "RINGQ_HOME")]
    home: PathBuf,

    /// Memory for messages not yet in the database and for read-ahead, MiB.
    #[arg(short = 'm', long, value_name = "MB", default_value_t = 64, env = "RINGQ_MEMORY",
          value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    memory: u32,

    /// Largest message body, bytes, up to 134217728.
    #[arg(short = 'B', long, value_name = "BYTES", default_value_t = 1_048_576, env = "RINGQ_BODY_MAX",
          value_parser = clap::value_parser!(u32).range(1..=134_217_728))]
    body_max: u32,

    /// Largest number of connections [default: what the hard file limit allows, at most 65536]
    #[arg(short = 'c', long, value_name = "N", env = "RINGQ_CONNECTIONS",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: Option<u32>,

    /// Largest journal write, KiB; a single larger message is written by itself.
    #[arg(short = 'L', long, value_name = "KB", default_value_t = 1024, env = "RINGQ_JOURNAL_WRITE",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    journal_write: u32,

    /// Bring the journal into the database at least every so many seconds; 0: only as needed.
    #[arg(short = 'C', long, value_name = "SECONDS", default_value_t = 300, env = "RINGQ_CHECKPOINT_EVERY",
          value_parser = clap::value_parser!(u32).range(0..=86_400))]
    checkpoint_every: u32,

    /// Size of each shard's journal in pages of -A bytes; 0: the default.
    #[arg(short = 'E', long, value_name = "PAGES", default_value_t = 16384, env = "RINGQ_JOURNAL_PAGES",
          value_parser = clap::value_parser!(u32).range(0..=16_777_216))]
    journal_pages: u32,

    /// Size of a page for -E, bytes: a power of two.
    #[arg(short = 'A', long, value_name = "BYTES", default_value_t = 4096, env = "RINGQ_PAGE_SIZE",
          value_parser = page_size)]
    page_size: u32,

    /// All journals together, MiB at most; shards get less if need be.
    #[arg(long, value_name = "MB", default_value_t = 1024, env = "RINGQ_JOURNAL_MAX",
          value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    journal_max: u32,

    /// Journal writes under way at once.
    #[arg(long, value_name = "N", default_value_t = 4, env = "RINGQ_JOURNAL_DEPTH",
          value_parser = clap::value_parser!(u32).range(1..=64))]
    journal_depth: u32,

    /// Answer when the operating system has the message: it survives kill -9, not a power cut.
    #[arg(short = 'N', long, env = "RINGQ_NO_SYNC")]
    no_sync: bool,

    /// Say more in the log; twice: every command.
    #[arg(short = 'v', long, action = ArgAction::Count)]
    verbose: u8,

    /// Where shard threads run: auto (one core each, within the process's own affinity), off, or a list of cores such as 0,2.
    #[arg(long, value_name = "auto|off|LIST", default_value = "auto", env = "RINGQ_PIN")]
    pin: Pin,

    /// Queues at most; a put to one more is answered NOT_STORED.
    #[arg(long, value_name = "N", default_value_t = limits::QUEUES_DEFAULT as u32, env = "RINGQ_MAX_QUEUES",
          value_parser = clap::value_parser!(u32).range(1..))]
    max_queues: u32,

    /// Refuse puts while the data directory's file system has less free space than this, MiB; 0: never.
    #[arg(long, value_name = "MB", default_value_t = 64, env = "RINGQ_MIN_FREE",
          value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    min_free: u32,

    /// Longest time a get waits for a message, seconds; longer timeouts are cut to it.
    #[arg(long, value_name = "SECONDS", default_value_t = limits::WAIT_S_DEFAULT, env = "RINGQ_MAX_WAIT",
          value_parser = clap::value_parser!(u32).range(0..=86_400))]
    max_wait: u32,

    /// Let clients empty all queues with flush_all.
    #[arg(long, env = "RINGQ_ENABLE_FLUSH_ALL")]
    enable_flush_all: bool,

    /// Let clients stop the server with shutdown.
    #[arg(long, env = "RINGQ_ENABLE_SHUTDOWN")]
    enable_shutdown: bool,

    /// Print what the kernel offers and whether RingQ can run here, then exit.
    #[arg(long)]
    check: bool,

    /// Print the version.
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// What the operator asked for.
#[derive(Clone, Debug)]
pub struct Config {
    /// `-p`.
    pub port: u16,
    /// `-l`; empty: all addresses.
    pub listen: Vec<String>,
    /// `-t`.
    pub shards: u16,
    /// `-H`.
    pub home: PathBuf,
    /// `-m`, bytes.
    pub memory: usize,
    /// `-B`, bytes.
    pub body_size_max: usize,
    /// `-c`, if given.
    pub connections: Option<usize>,
    /// `-L`, bytes.
    pub batch_size: usize,
    /// `-C`, ms.
    pub checkpoint_every_ms: u64,
    /// What `-E`, `-A` and `--journal-max` give each shard.
    pub journal: journal::Layout,
    /// `--journal-depth`.
    pub journal_depth: usize,
    /// `-N`.
    pub no_sync: bool,
    /// How many `-v`.
    pub verbosity: u8,
    /// `--pin`.
    pub pin: Pin,
    /// `--max-queues`.
    pub queues_max: usize,
    /// `--min-free`, bytes.
    pub free_size_min: u64,
    /// `--max-wait`, ms.
    pub wait_ms_max: u64,
    /// `--enable-flush-all`.
    pub flush_all: bool,
    /// `--enable-shutdown`.
    pub shutdown: bool,
    /// `--check`.
    pub check: bool,
}

/// Where shard threads run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pin {
    /// One core each, of those this process may use.
    Auto,
    /// Wherever the scheduler puts them.
    Off,
    /// These cores, in turn.
    Cores(Vec<usize>),
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Pin, String> {
        match text {
            "auto" => Ok(Pin::Auto),
            "off" => Ok(Pin::Off),
            list => {
                let cores: Result<Vec<usize>, _> = list.split(',').map(str::parse).collect();
                cores.map(Pin::Cores).map_err(|_| "allowed are auto, off, or core numbers separated by commas".into())
            }
        }
    }
}

impl Config {
    /// Parses a command line (with the program's name first) and the `RINGQ_*` environment.
    ///
    /// # Errors
    /// What to print and the exit status: 0 for help and version, 2 for anything that cannot be used.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Config, clap::Error> {
        let options = Options::try_parse_from(args)?;
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
        let shards = options.threads.unwrap_or(cpus.min(limits::SHARDS_DEFAULT_MAX) as u16);
        let wish = journal::Wish {
            pages: u64::from(options.journal_pages),
            page_size: u64::from(options.page_size),
            shards,
            journal_size_max: u64::from(options.journal_max) << 20,
            body_size_max: options.body_max as usize,
        };
        let journal = journal::layout(&wish).map_err(|error| refused(format!("{error}\n")))?;
        let config = Config {
            port: options.port,
            listen: options.listen,
            shards,
            home: options.home,
            memory: (options.memory as usize) << 20,
            body_size_max: options.body_max as usize,
            connections: options.connections.map(|n| n as usize),
            batch_size: ((options.journal_write as usize) << 10).min(limits::BATCH_SIZE),
            checkpoint_every_ms: u64::from(options.checkpoint_every) * 1000,
            journal,
            journal_depth: options.journal_depth as usize,
            no_sync: options.no_sync,
            verbosity: options.verbose,
            pin: options.pin,
            queues_max: options.max_queues as usize,
            free_size_min: u64::from(options.min_free) << 20,
            wait_ms_max: u64::from(options.max_wait) * 1000,
            flush_all: options.enable_flush_all,
            shutdown: options.enable_shutdown,
            check: options.check,
        };
        config.check_memory()?;
        Ok(config)
    }

    /// `-m` in bytes for each shard.
    pub fn memory_share(&self) -> usize {
        self.memory / usize::from(self.shards)
    }

    /// A shard must have room for a message being received and one being stored.
    fn check_memory(&self) -> Result<(), clap::Error> {
        let needed = 2 * self.body_size_max;
        if self.memory_share() >= needed {
            return Ok(());
        }
        let message = format!(
            "-m {} over -t {} shards is {} bytes each, but messages of up to -B {} bytes need {needed}: \
             give -m at least {}, or fewer threads, or a smaller -B\n",
            self.memory >> 20,
            self.shards,
            self.memory_share(),
            self.body_size_max,
            (needed * usize::from(self.shards)).div_ceil(1 << 20),
        );
        Err(refused(message))
    }
}

/// Values that are fine one by one, and cannot be together.
fn refused(message: String) -> clap::Error {
    clap::Error::raw(clap::error::ErrorKind::ValueValidation, message)
}

fn page_size(text: &str) -> Result<u32, String> {
    let size: u32 = text.parse().map_err(|_| "not a number".to_string())?;
    let allowed = 512..=65536;
    if size.is_power_of_two() && allowed.contains(&size) {
        Ok(size)
    } else {
        Err("allowed are powers of two from 512 to 65536".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Config, clap::Error> {
        Config::parse(std::iter::once("ringq").chain(line.split_whitespace()).map(OsString::from))
    }

    #[test]
    fn short_and_long_names_mean_the_same() {
        let short = parse("-p 1 -l ::1 -l 127.0.0.1 -t 2 -H d -m 128 -B 9 -c 10 -N -vv").unwrap();
        let long = parse(
            "--port 1 --listen ::1 --listen 127.0.0.1 --threads 2 --home d --memory 128 --body-max 9 --connections 10 \
             --no-sync --verbose --verbose",
        )
        .unwrap();
        assert_eq!(format!("{short:?}"), format!("{long:?}"));
        assert_eq!((short.verbosity, short.memory, short.body_size_max), (2, 128 << 20, 9));
    }

    #[test]
    fn garbage_is_refused_with_the_option_and_the_value() {
        for (line, option, value) in [
            ("-p abc", "--port", "abc"),
            ("-p 65536", "--port", "65536"),
            ("-p -1", "-1", ""),
            ("-t 0", "--threads", "0"),
            ("-t 257", "--threads", "257"),
            ("-m 0", "--memory", "0"),
            ("-m x", "--memory", "x"),
            ("-B 0", "--body-max", "0"),
            ("-B 134217729", "--body-max", "134217729"),
            ("-c 0", "--connections", "0"),
            ("--pin x", "--pin", "x"),
            ("--max-queues 0", "--max-queues", "0"),
            ("--max-wait x", "--max-wait", "x"),
            ("--max-wait 86401", "--max-wait", "86401"),
            ("--no-such-option", "--no-such-option", ""),
            ("word", "word", ""),
        ] {
            let error = parse(line).expect_err(line);
            let text = error.to_string();
            assert!(text.contains(option) && text.contains(value), "{line}: {text}");
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_share_too_small_for_the_largest_message_is_refused_with_the_numbers() {
        let error = parse("-m 8 -t 4 -B 2097152").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("2097152") && text.contains("at least 16"), "{text}");
        assert_eq!(error.exit_code(), 2);
        assert!(parse("-m 16 -t 4 -B 2097152").is_ok());
    }

    #[test]
    fn help_and_version_are_no_failures() {
        for line in ["-h", "--help", "-V", "--version"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 0, "{line}");
        }
    }
}
