//! The configuration: what an operator may choose, checked before anything is touched.
//!
//! An option's value is that of the command line, or else of the environment, or else of the configuration file, or else its
//! default. Invariant: a [`Config`] that exists is one the server can start with, as far as numbers go. Garbage is refused with
//! the option, the value and what is allowed, never turned into 0.

mod admin;
mod changes;
mod file;
mod options;
mod place;
mod queues;

pub use admin::Admin;
pub use place::Place;

use crate::journal;
use crate::limits;
use crate::queue::Defaults;
use clap::{CommandFactory, FromArgMatches};
use options::Options;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Default `-p`: MemcacheQ's.
pub const PORT_DEFAULT: u16 = 22201;

/// The command line of `ringq`, for what is made of it: manual page, completions.
pub fn command() -> clap::Command {
    Options::command()
}

/// What the operator asked for.
#[derive(Clone, Debug)]
pub struct Config {
    /// `-p`.
    pub port: u16,
    /// `--kestrel-port`; `None`: Kestrel's dialect is not spoken.
    pub kestrel_port: Option<u16>,
    /// `-l`; empty: all addresses.
    pub listen: Vec<Place>,
    /// `-s`, absolute.
    pub socket: Option<PathBuf>,
    /// `-a`.
    pub socket_mode: u32,
    /// `-U`; 0: none.
    pub udp_port: u16,
    /// `--udp-reply-max`, bytes.
    pub udp_reply_size_max: usize,
    /// `--backlog`.
    pub backlog: i32,
    /// `--idle-timeout`, ms; 0: never.
    pub idle_ms_max: u64,
    /// `--keepalive`; `None`: never.
    pub keepalive: Option<Duration>,
    /// `-t`.
    pub shards: u16,
    /// `-H`, absolute.
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
    /// `--log-file`, absolute.
    pub log_file: Option<PathBuf>,
    /// `--log-format`.
    pub log_format: LogFormat,
    /// `-S`; `None`: never.
    pub stats_every: Option<Duration>,
    /// `-d`.
    pub daemon: bool,
    /// `-r`.
    pub core_dumps: bool,
    /// `-u`.
    pub user: Option<String>,
    /// `-P`, absolute.
    pub pid_file: Option<PathBuf>,
    /// `--stop-timeout`.
    pub stop_timeout: Duration,
    /// `--pin`.
    pub pin: Pin,
    /// `--max-queues`.
    pub queues_max: usize,
    /// `--min-free`, bytes.
    pub free_size_min: u64,
    /// `--max-wait`, ms.
    pub wait_ms_max: u64,
    /// `--max-open-reads`.
    pub open_reads_max: usize,
    /// `--max-detached-reads`.
    pub detached_reads_max: usize,
    /// `--max-unconfirmed`.
    pub unconfirmed_max: usize,
    /// `--max-groups`.
    pub groups_max: usize,
    /// `--reader-separator`.
    pub reader_separator: Option<u8>,
    /// What holds for queues of which nothing was said: `[queue]` and `[queues]` in the configuration file.
    pub queue_defaults: Arc<Defaults>,
    /// `--enable-flush-all`.
    pub flush_all: bool,
    /// `--enable-shutdown`.
    pub shutdown: bool,
    /// `--admin`; `None`: the default address, if it is free.
    pub admin: Option<Admin>,
    /// `--admin-token-file`, absolute.
    pub admin_token_file: Option<PathBuf>,
    /// `--admin-host`.
    pub admin_hosts: Vec<String>,
    /// Options that were given and have no effect, as on the command line.
    pub without_effect: Vec<&'static str>,
    /// `--check`.
    pub check: bool,
    /// `--check-config`.
    pub check_config: bool,
    /// `-i`.
    pub license: bool,
    /// The configuration file, absolute.
    pub file: Option<PathBuf>,
    /// The command line this was parsed from, for [`Config::reload`].
    args: Vec<OsString>,
    /// Where the process stood then: what relative paths start from.
    directory: PathBuf,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<LogFormat, String> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err("allowed are text and json".into()),
        }
    }
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
    /// Parses a command line (with the program's name first), the `RINGQ_*` environment and the configuration file. Paths
    /// become absolute, so that it does not matter later where the process stands.
    ///
    /// # Errors
    /// What to print and the exit status: 0 for help and version, 2 for anything that cannot be used.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Config, clap::Error> {
        let args: Vec<OsString> = args.into_iter().collect();
        let options = Options::from_arg_matches(&command().try_get_matches_from(&args)?)?;
        // Without one, absolute paths are still good, and the others are refused below.
        let directory = std::env::current_dir().unwrap_or_default();
        match &options.config {
            None => Config::of(options, None, Defaults::default(), args, directory),
            Some(path) => Config::parse_with(&absolute(&directory, path)?, args, directory),
        }
    }

    /// Parses again what this was parsed from: the configuration file may have changed.
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn reload(&self) -> Result<Config, clap::Error> {
        match &self.file {
            None => Ok(self.clone()),
            Some(path) => Config::parse_with(path, self.args.clone(), self.directory.clone()),
        }
    }

    /// The command line was already found to be good without the file.
    fn parse_with(path: &Path, args: Vec<OsString>, directory: PathBuf) -> Result<Config, clap::Error> {
        let (command, defaults) = file::apply(command(), path).map_err(|problem| refused(format!("{problem}\n")))?;
        let matches = command.try_get_matches_from(&args).map_err(|error| {
            // Rendered, it names option and value; where the value stands is for us to say.
            refused(format!("{}: {}", path.display(), error.to_string().trim_start_matches("error: ")))
        })?;
        Config::of(Options::from_arg_matches(&matches)?, Some(path.to_owned()), defaults, args, directory)
    }

    fn of(
        options: Options,
        file: Option<PathBuf>,
        queue_defaults: Defaults,
        args: Vec<OsString>,
        directory: PathBuf,
    ) -> Result<Config, clap::Error> {
        let absolute = |path: &Path| absolute(&directory, path);
        let absolute_of = |path: Option<PathBuf>| path.as_deref().map(absolute).transpose();
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
        let given = [
            ("-T", options.trickle_every.is_some()),
            ("-e", options.trickle_percent.is_some()),
            ("-D", options.deadlock_every.is_some()),
            ("-R", options.remove_journals),
        ];
        let seconds = |s: u32| Duration::from_secs(u64::from(s));
        let config = Config {
            port: options.port,
            kestrel_port: options.kestrel_port,
            listen: options.listen,
            socket: absolute_of(options.socket)?,
            socket_mode: options.socket_mode,
            udp_port: options.udp_port,
            udp_reply_size_max: options.udp_reply_max as usize,
            backlog: options.backlog,
            idle_ms_max: u64::from(options.idle_timeout) * 1000,
            keepalive: Some(seconds(options.keepalive)).filter(|period| !period.is_zero()),
            shards,
            home: absolute(&options.home)?,
            memory: (options.memory as usize) << 20,
            body_size_max: options.body_max as usize,
            connections: options.connections.map(|n| n as usize),
            batch_size: ((options.journal_write as usize) << 10).min(limits::BATCH_SIZE),
            checkpoint_every_ms: u64::from(options.checkpoint_every) * 1000,
            journal,
            journal_depth: options.journal_depth as usize,
            no_sync: options.no_sync,
            verbosity: options.verbose,
            log_file: absolute_of(options.log_file)?,
            log_format: options.log_format,
            stats_every: Some(seconds(options.stats_every)).filter(|period| !period.is_zero()),
            daemon: options.daemon,
            core_dumps: options.core_dumps,
            user: options.user,
            pid_file: absolute_of(options.pid_file)?,
            stop_timeout: seconds(options.stop_timeout),
            pin: options.pin,
            queues_max: options.max_queues as usize,
            free_size_min: u64::from(options.min_free) << 20,
            wait_ms_max: u64::from(options.max_wait) * 1000,
            open_reads_max: options.max_open_reads as usize,
            detached_reads_max: options.max_detached_reads as usize,
            unconfirmed_max: options.max_unconfirmed as usize,
            groups_max: options.max_groups as usize,
            reader_separator: options.reader_separator,
            queue_defaults: queue_defaults.into(),
            flush_all: options.enable_flush_all,
            shutdown: options.enable_shutdown,
            admin: options.admin,
            admin_token_file: absolute_of(options.admin_token_file)?,
            admin_hosts: options.admin_host,
            without_effect: given.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name).collect(),
            check: options.check,
            check_config: options.check_config,
            license: options.license,
            file,
            args,
            directory,
        };
        if config.port != 0 && config.kestrel_port == Some(config.port) {
            let port = config.port;
            return Err(refused(format!("-p and --kestrel-port are both {port}: each dialect needs its own port\n")));
        }
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

fn absolute(directory: &Path, path: &Path) -> Result<PathBuf, clap::Error> {
    if path.as_os_str().is_empty() {
        return Err(refused("a path is empty: give the name of a file or directory\n".into()));
    }
    std::path::absolute(directory.join(path)).map_err(|error| refused(format!("{}: {error}\n", path.display())))
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
        let shown = |config: &Config| format!("{:?}", Config { args: Vec::new(), ..config.clone() });
        assert_eq!(shown(&short), shown(&long));
        assert_eq!((short.verbosity, short.memory, short.body_size_max), (2, 128 << 20, 9));
    }

    #[test]
    fn garbage_is_refused_with_the_option_and_the_value() {
        for (line, option, value) in [
            ("-p abc", "--port", "abc"),
            ("-p 65536", "--port", "65536"),
            ("-p -1", "--port", "-1"),
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
    fn two_dialects_cannot_share_a_port() {
        let text = parse("--kestrel-port 22201").unwrap_err().to_string();
        assert!(text.contains("-p and --kestrel-port are both 22201"), "{text}");
        assert_eq!(parse("-p 0 --kestrel-port 0").unwrap().kestrel_port, Some(0));
        assert_eq!(parse("").unwrap().kestrel_port, None);
    }

    #[test]
    fn help_and_version_are_no_failures() {
        for line in ["-h", "--help", "-V", "--version"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 0, "{line}");
        }
    }
}
