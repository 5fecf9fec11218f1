//! The options: every name an operator may use, what its value may be, and what it means.
//!
//! The long name of an option is its key in the configuration file, and `RINGQ_` with that name its environment variable.
//! Invariant: a value outside of what an option allows never gets past here.

use super::{Admin, LogFormat, PORT_DEFAULT, Pin, Place};
use crate::limits;
use clap::{ArgAction, Parser};
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

/// A durable message queue that speaks the memcache protocol.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "ringq",
    version,
    disable_version_flag = true,
    disable_help_flag = true,
    allow_negative_numbers = true,
    max_term_width = 100
)]
pub(super) struct Options {
    /// TCP port; 0 lets the system choose.
    #[arg(short = 'p', long, value_name = "PORT", default_value_t = PORT_DEFAULT, env = "RINGQ_PORT",
          value_parser = number::<u16>(0, u16::MAX), help_heading = SOCKETS)]
    pub port: u16,

    /// TCP port of Kestrel's dialect, on the addresses of -l; 0 lets the system choose [default: none]
    #[arg(long, value_name = "PORT", env = "RINGQ_KESTREL_PORT", value_parser = number::<u16>(0, u16::MAX),
          help_heading = SOCKETS)]
    pub kestrel_port: Option<u16>,

    /// Where to listen: an address or host name, with or without a port (HOST:PORT, an IPv6 address in brackets), or the path
    /// of a unix socket (anything with a slash); may be repeated [default: all addresses]
    #[arg(short = 'l', long, value_name = "ADDR", env = "RINGQ_LISTEN", value_delimiter = ',', help_heading = SOCKETS)]
    pub listen: Vec<Place>,

    /// Listen on this unix socket, and on no TCP or UDP port.
    #[arg(short = 's', long, value_name = "PATH", env = "RINGQ_SOCKET", help_heading = SOCKETS)]
    pub socket: Option<PathBuf>,

    /// Who may connect to unix sockets: file mode bits, octal.
    #[arg(short = 'a', long, value_name = "MODE", default_value = "0700", env = "RINGQ_SOCKET_MODE",
          value_parser = socket_mode, help_heading = SOCKETS)]
    pub socket_mode: u32,

    /// UDP port, for requests with memcached's frame header; 0: none.
    #[arg(short = 'U', long, value_name = "PORT", default_value_t = 0, env = "RINGQ_UDP_PORT",
          value_parser = number::<u16>(0, u16::MAX), help_heading = SOCKETS)]
    pub udp_port: u16,

    /// Largest reply over UDP, bytes; a message that would make it larger stays in its queue.
    #[arg(long, value_name = "BYTES", default_value_t = 16_384, env = "RINGQ_UDP_REPLY_MAX",
          value_parser = number::<u32>(1400, 1_048_576), help_heading = SOCKETS)]
    pub udp_reply_max: u32,

    /// Largest number of connections [default: what the hard file limit allows, at most 65536]
    #[arg(short = 'c', long, value_name = "N", env = "RINGQ_CONNECTIONS",
          value_parser = number::<u32>(1, 1_000_000), help_heading = SOCKETS)]
    pub connections: Option<u32>,

    /// Clients that may wait to be accepted; the kernel's net.core.somaxconn bounds it.
    #[arg(long, value_name = "N", default_value_t = 4096, env = "RINGQ_BACKLOG",
          value_parser = number::<i32>(1, 65_535), help_heading = SOCKETS)]
    pub backlog: i32,

    /// Close a connection that has sent nothing for so many seconds and waits for nothing; 0: never.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, env = "RINGQ_IDLE_TIMEOUT",
          value_parser = number::<u32>(0, 2_592_000), help_heading = SOCKETS)]
    pub idle_timeout: u32,

    /// Ask a silent TCP client after so many seconds whether it is still there; 0: never.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, env = "RINGQ_KEEPALIVE",
          value_parser = number::<u32>(0, 32_767), help_heading = SOCKETS)]
    pub keepalive: u32,

    /// Data directory, created if missing and locked while in use.
    #[arg(short = 'H', long, value_name = "DIR", default_value = "ringq-data", env = "RINGQ_HOME", help_heading = STORAGE)]
    pub home: PathBuf,

    /// Memory for messages not yet in the database and for read-ahead, MiB.
    #[arg(short = 'm', long, value_name = "MB", default_value_t = 64, env = "RINGQ_MEMORY",
          value_parser = number::<u32>(1, 1_048_576), help_heading = STORAGE)]
    pub memory: u32,

    /// Largest message body, bytes, up to 134217728.
    #[arg(short = 'B', long, value_name = "BYTES", default_value_t = 1_048_576, env = "RINGQ_BODY_MAX",
          value_parser = number::<u32>(1, 134_217_728), help_heading = STORAGE)]
    pub body_max: u32,

    /// Answer when the operating system has the message: it survives kill -9, not a power cut.
    #[arg(short = 'N', long, env = "RINGQ_NO_SYNC", help_heading = STORAGE)]
    pub no_sync: bool,

    /// Largest journal write, KiB; a single larger message is written by itself.
    #[arg(short = 'L', long, value_name = "KB", default_value_t = 1024, env = "RINGQ_JOURNAL_WRITE",
          value_parser = number::<u32>(1, 1024), help_heading = STORAGE)]
    pub journal_write: u32,

    /// Bring the journal into the database at least every so many seconds; 0: only as needed.
    #[arg(short = 'C', long, value_name = "SECONDS", default_value_t = 300, env = "RINGQ_CHECKPOINT_EVERY",
          value_parser = number::<u32>(0, 86_400), help_heading = STORAGE)]
    pub checkpoint_every: u32,

    /// Size of each shard's journal in pages of -A bytes; 0: the default.
    #[arg(short = 'E', long, value_name = "PAGES", default_value_t = 16384, env = "RINGQ_JOURNAL_PAGES",
          value_parser = number::<u32>(0, 16_777_216), help_heading = STORAGE)]
    pub journal_pages: u32,

    /// Size of a page for -E, bytes: a power of two.
    #[arg(short = 'A', long, value_name = "BYTES", default_value_t = 4096, env = "RINGQ_PAGE_SIZE",
          value_parser = page_size, help_heading = STORAGE)]
    pub page_size: u32,

    /// All journals together, MiB at most; shards get less if need be.
    #[arg(long, value_name = "MB", default_value_t = 1024, env = "RINGQ_JOURNAL_MAX",
          value_parser = number::<u32>(1, 1_048_576), help_heading = STORAGE)]
    pub journal_max: u32,

    /// Journal writes under way at once.
    #[arg(long, value_name = "N", default_value_t = 4, env = "RINGQ_JOURNAL_DEPTH",
          value_parser = number::<u32>(1, 64), help_heading = STORAGE)]
    pub journal_depth: u32,

    /// Remove journal files that are no longer needed. RingQ always does: accepted for MemcacheQ's command lines.
    #[arg(short = 'R', long, env = "RINGQ_REMOVE_JOURNALS", help_heading = STORAGE)]
    pub remove_journals: bool,

    /// Queues at most; a put to one more is answered NOT_STORED.
    #[arg(long, value_name = "N", default_value_t = limits::QUEUES_DEFAULT as u32, env = "RINGQ_MAX_QUEUES",
          value_parser = number::<u32>(1, u32::MAX), help_heading = STORAGE)]
    pub max_queues: u32,

    /// Refuse puts while the data directory's file system has less free space than this, MiB; 0: never.
    #[arg(long, value_name = "MB", default_value_t = 64, env = "RINGQ_MIN_FREE",
          value_parser = number::<u32>(0, 1_048_576), help_heading = STORAGE)]
    pub min_free: u32,

    /// Longest time a get waits for a message, seconds; longer timeouts are cut to it.
    #[arg(long, value_name = "SECONDS", default_value_t = limits::WAIT_S_DEFAULT, env = "RINGQ_MAX_WAIT",
          value_parser = number::<u32>(0, 86_400), help_heading = SERVICE)]
    pub max_wait: u32,

    /// Most messages that one connection may have open and not confirmed.
    #[arg(long, value_name = "N", default_value_t = limits::OPEN_READS_DEFAULT, env = "RINGQ_MAX_OPEN_READS",
          value_parser = number::<u32>(1, 1_000_000), help_heading = SERVICE)]
    pub max_open_reads: u32,

    /// Most messages that may be open with a time of their own (/ttr=), in all: these outlive their connections. Each shard has its part.
    #[arg(long, value_name = "N", default_value_t = limits::DETACHED_READS_DEFAULT, env = "RINGQ_MAX_DETACHED_READS",
          value_parser = number::<u32>(0, 100_000_000), help_heading = SERVICE)]
    pub max_detached_reads: u32,

    /// Most messages that may be open, or were and are back in their queue, in all; of others no more are opened. Each shard has its part.
    #[arg(long, value_name = "N", default_value_t = limits::UNCONFIRMED_DEFAULT, env = "RINGQ_MAX_UNCONFIRMED",
          value_parser = number::<u32>(1, 100_000_000), help_heading = SERVICE)]
    pub max_unconfirmed: u32,

    /// Most groups of one queue; a get of another one is answered NOT_FOUND.
    #[arg(long, value_name = "N", default_value_t = limits::GROUPS_DEFAULT, env = "RINGQ_MAX_GROUPS",
          value_parser = number::<u32>(0, 10_000), help_heading = SERVICE)]
    pub max_groups: u32,

    /// Take queueCHARreader for group reader of queue in clients' keys, such as orders#audit with #; queues whose names have CHAR cannot
    /// be reached then [default: none]
    #[arg(long, value_name = "CHAR", env = "RINGQ_READER_SEPARATOR", value_parser = separator, help_heading = SERVICE)]
    pub reader_separator: Option<u8>,

    /// Let clients empty all queues with flush_all.
    #[arg(long, env = "RINGQ_ENABLE_FLUSH_ALL", help_heading = SERVICE)]
    pub enable_flush_all: bool,

    /// Let clients stop the server with shutdown.
    #[arg(long, env = "RINGQ_ENABLE_SHUTDOWN", help_heading = SERVICE)]
    pub enable_shutdown: bool,

    /// Where the admin listener serves the dashboard, metrics and the HTTP API: HOST or HOST:PORT, or off [default: 127.0.0.1:22280,
    /// if it is free]
    #[arg(long, value_name = "ADDR|off", env = "RINGQ_ADMIN", help_heading = ADMIN)]
    pub admin: Option<Admin>,

    /// Allow the admin listener's actions (purge, delete, checkpoint) to who has the token in this file.
    #[arg(long, value_name = "FILE", env = "RINGQ_ADMIN_TOKEN_FILE", help_heading = ADMIN)]
    pub admin_token_file: Option<PathBuf>,

    /// A name under which the admin listener is reached, besides localhost and addresses; may be repeated.
    #[arg(long, value_name = "NAME", env = "RINGQ_ADMIN_HOST", value_delimiter = ',', help_heading = ADMIN)]
    pub admin_host: Vec<String>,

    /// Shard threads, each with its own io_uring and core [default: allowed CPUs, at most 4]
    #[arg(short = 't', long, value_name = "N", env = "RINGQ_THREADS", value_parser = number::<u16>(1, 256),
          help_heading = PROCESS)]
    pub threads: Option<u16>,

    /// Where shard threads run: auto (one core each, within the process's own affinity), off, or a list of cores such as 0,2.
    #[arg(long, value_name = "auto|off|LIST", default_value = "auto", env = "RINGQ_PIN", help_heading = PROCESS)]
    pub pin: Pin,

    /// Run in the background; the command returns when the server is ready, with status 0, or could not start.
    #[arg(short = 'd', long, env = "RINGQ_DAEMON", help_heading = PROCESS)]
    pub daemon: bool,

    /// Allow core files of any size; with -d, stay in the working directory.
    #[arg(short = 'r', long, env = "RINGQ_CORE_DUMPS", help_heading = PROCESS)]
    pub core_dumps: bool,

    /// Become this user, with its groups, before the database is opened (only when started as root).
    #[arg(short = 'u', long, value_name = "USER", env = "RINGQ_USER", help_heading = PROCESS)]
    pub user: Option<String>,

    /// Write the process id here when the server is ready; the file is removed at the end.
    #[arg(short = 'P', long, value_name = "FILE", env = "RINGQ_PID_FILE", help_heading = PROCESS)]
    pub pid_file: Option<PathBuf>,

    /// How long a stop waits for clients to take their replies, seconds; a second signal does not wait at all.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, env = "RINGQ_STOP_TIMEOUT",
          value_parser = number::<u32>(0, 3600), help_heading = PROCESS)]
    pub stop_timeout: u32,

    /// Say more in the log: what the server does; twice: every command and reply as well.
    #[arg(short = 'v', long, action = ArgAction::Count, env = "RINGQ_VERBOSE", help_heading = LOG)]
    pub verbose: u8,

    /// Append the log to this file, which SIGHUP opens anew [default: standard error, which -d closes unless there is a -v]
    #[arg(long, value_name = "FILE", env = "RINGQ_LOG_FILE", help_heading = LOG)]
    pub log_file: Option<PathBuf>,

    /// How log lines look.
    #[arg(long, value_name = "text|json", default_value = "text", env = "RINGQ_LOG_FORMAT", help_heading = LOG)]
    pub log_format: LogFormat,

    /// Write a line of statistics to the log every so many seconds; 0: never.
    #[arg(short = 'S', long, value_name = "SECONDS", default_value_t = 0, env = "RINGQ_STATS_EVERY",
          value_parser = number::<u32>(0, 86_400), help_heading = LOG)]
    pub stats_every: u32,

    /// Read options from this TOML file; the command line goes before the environment, and both before the file.
    #[arg(long, value_name = "FILE", env = "RINGQ_CONFIG", help_heading = HELP)]
    pub config: Option<PathBuf>,

    /// Check the options and the configuration file, then exit.
    #[arg(long, help_heading = HELP)]
    pub check_config: bool,

    /// Print what the kernel offers and whether RingQ can run here, then exit.
    #[arg(long, help_heading = HELP)]
    pub check: bool,

    /// Print the licence.
    #[arg(short = 'i', long, help_heading = HELP)]
    pub license: bool,

    /// Print the version.
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = HELP)]
    version: Option<bool>,

    /// Print help.
    #[arg(short = 'h', long, action = ArgAction::Help, help_heading = HELP)]
    help: Option<bool>,

    /// Seconds between the page writes of MemcacheQ's database. No effect.
    #[arg(short = 'T', long, value_name = "SECONDS", env = "RINGQ_TRICKLE_EVERY",
          value_parser = number::<u32>(0, 86_400), help_heading = NO_EFFECT)]
    pub trickle_every: Option<u32>,

    /// Share of clean pages in MemcacheQ's cache, percent. No effect.
    #[arg(short = 'e', long, value_name = "PERCENT", env = "RINGQ_TRICKLE_PERCENT",
          value_parser = number::<u8>(0, 100), help_heading = NO_EFFECT)]
    pub trickle_percent: Option<u8>,

    /// Milliseconds between looks for deadlocks in MemcacheQ's database. No effect.
    #[arg(short = 'D', long, value_name = "MS", env = "RINGQ_DEADLOCK_EVERY",
          value_parser = number::<u32>(0, 86_400_000), help_heading = NO_EFFECT)]
    pub deadlock_every: Option<u32>,
}

const SOCKETS: &str = "Sockets";
const STORAGE: &str = "Storage";
const SERVICE: &str = "Commands";
const ADMIN: &str = "Admin listener";
const PROCESS: &str = "Process";
const LOG: &str = "Log";
const HELP: &str = "Configuration and help";
const NO_EFFECT: &str = "Accepted for MemcacheQ's command lines";

/// A parser that says what is allowed whatever is wrong with a number: no digits, too large for its type, out of range.
fn number<T>(min: T, max: T) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Copy + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| (min..=max).contains(number));
        number.ok_or_else(|| format!("allowed are numbers from {min} to {max}"))
    }
}

fn page_size(text: &str) -> Result<u32, String> {
    let size = text.parse().ok().filter(|size: &u32| size.is_power_of_two() && (512..=65536).contains(size));
    size.ok_or_else(|| "allowed are powers of two from 512 to 65536".into())
}

/// Other characters stand in names, or have a meaning behind them.
fn separator(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [byte] if byte.is_ascii_punctuation() && !b"/=".contains(byte) => Ok(*byte),
        _ => Err("allowed is one ASCII character that is no letter, digit, space, / or =".into()),
    }
}

fn socket_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "allowed are octal numbers from 0 to 0777".into())
}
