//! What of a configuration may change while the server runs, and what needs a restart.
//!
//! Invariant: every option is on one of the two sides: an option that is added does not compile before it is put on one.

use super::Config;

impl Config {
    /// Takes over from `new` what may change while the server runs.
    pub fn adopt(&mut self, new: &Config) {
        self.verbosity = new.verbosity;
        self.stats_every = new.stats_every;
        self.idle_ms_max = new.idle_ms_max;
        self.wait_ms_max = new.wait_ms_max;
        self.open_reads_max = new.open_reads_max;
        self.detached_reads_max = new.detached_reads_max;
        self.unconfirmed_max = new.unconfirmed_max;
        self.groups_max = new.groups_max;
        self.queue_defaults = new.queue_defaults.clone();
        self.queues_max = new.queues_max;
        self.checkpoint_every_ms = new.checkpoint_every_ms;
        self.free_size_min = new.free_size_min;
        self.flush_all = new.flush_all;
        self.shutdown = new.shutdown;
        self.stop_timeout = new.stop_timeout;
        self.admin_token_file = new.admin_token_file.clone();
        self.admin_hosts = new.admin_hosts.clone();
    }

    /// The options whose values in `new` are others and need a restart, as on the command line.
    pub fn needing_restart(&self, new: &Config) -> Vec<&'static str> {
        let Config {
            port,
            kestrel_port,
            listen,
            socket,
            socket_mode,
            udp_port,
            udp_reply_size_max,
            backlog,
            keepalive,
            shards,
            home,
            memory,
            body_size_max,
            connections,
            batch_size,
            journal,
            journal_depth,
            no_sync,
            log_file,
            log_format,
            daemon,
            core_dumps,
            user,
            pid_file,
            pin,
            admin,
            reader_separator,
            // What `adopt` takes over.
            idle_ms_max: _,
            checkpoint_every_ms: _,
            verbosity: _,
            stats_every: _,
            stop_timeout: _,
            queues_max: _,
            free_size_min: _,
            wait_ms_max: _,
            open_reads_max: _,
            detached_reads_max: _,
            unconfirmed_max: _,
            groups_max: _,
            queue_defaults: _,
            flush_all: _,
            shutdown: _,
            admin_token_file: _,
            admin_hosts: _,
            // Nothing a running server does depends on these.
            without_effect: _,
            check: _,
            check_config: _,
            license: _,
            file: _,
            args: _,
            directory: _,
        } = self;
        let differing = [
            ("-p", *port != new.port),
            ("--kestrel-port", *kestrel_port != new.kestrel_port),
            ("-l", *listen != new.listen),
            ("-s", *socket != new.socket),
            ("-a", *socket_mode != new.socket_mode),
            ("-U", *udp_port != new.udp_port),
            ("--udp-reply-max", *udp_reply_size_max != new.udp_reply_size_max),
            ("--backlog", *backlog != new.backlog),
            ("--keepalive", *keepalive != new.keepalive),
            ("-t", *shards != new.shards),
            ("-H", *home != new.home),
            ("-m", *memory != new.memory),
            ("-B", *body_size_max != new.body_size_max),
            ("-c", *connections != new.connections),
            ("-L", *batch_size != new.batch_size),
            ("-E, -A, --journal-max", *journal != new.journal),
            ("--journal-depth", *journal_depth != new.journal_depth),
            ("-N", *no_sync != new.no_sync),
            ("--log-file", *log_file != new.log_file),
            ("--log-format", *log_format != new.log_format),
            ("-d", *daemon != new.daemon),
            ("-r", *core_dumps != new.core_dumps),
            ("-u", *user != new.user),
            ("-P", *pid_file != new.pid_file),
            ("--pin", *pin != new.pin),
            ("--admin", *admin != new.admin),
            ("--reader-separator", *reader_separator != new.reader_separator),
        ];
        differing.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn parse(line: &str) -> Config {
        Config::parse(std::iter::once("ringq").chain(line.split_whitespace()).map(OsString::from)).unwrap()
    }

    #[test]
    fn what_may_change_is_taken_over_and_the_rest_is_named() {
        let mut config = parse("-p 1 -H a -t 1 -C 5");
        let new = parse("-p 2 -H b -t 1 -C 6 -v -S 3 --max-queues 7 --min-free 8 --max-wait 9 --stop-timeout 1");
        assert_eq!(config.needing_restart(&new), ["-p", "-H"]);
        config.adopt(&new);
        assert_eq!((config.checkpoint_every_ms, config.queues_max, config.wait_ms_max), (6000, 7, 9000));
        assert_eq!((config.verbosity, config.free_size_min), (1, 8 << 20));
        assert_eq!(config.port, 1);
        assert_eq!(config.needing_restart(&new), ["-p", "-H"], "the same is named again");
    }

    #[test]
    fn a_configuration_needs_no_restart_to_become_itself() {
        let config = parse("-l 127.0.0.1 -s sock -U 5 -P pid -u nobody --log-file log --pin 0,1 -N -d -r");
        assert!(config.needing_restart(&config.clone()).is_empty());
    }

    #[test]
    fn what_holds_for_queues_changes_without_a_restart() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("ringq.toml");
        std::fs::write(&file, "[queue]\nmax_messages = 1\n").unwrap();
        let mut config = parse(&format!("--config {}", file.display()));
        std::fs::write(&file, "[queues.'a*']\nmax_messages = 2\n").unwrap();
        let new = config.reload().unwrap();
        assert!(config.needing_restart(&new).is_empty());
        config.adopt(&new);
        let of = |name: &[u8]| config.queue_defaults.of(name).max_messages;
        assert_eq!((of(b"a1"), of(b"b")), (2, 0));
    }

    #[test]
    fn relative_paths_of_a_file_start_where_the_process_stood_at_first() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("ringq.toml");
        std::fs::write(&file, "home = \"data\"\n").unwrap();
        let mut config = parse(&format!("--config {}", file.display()));
        config.directory = temp.path().to_owned();
        assert_eq!(config.reload().unwrap().home, temp.path().join("data"));
    }
}
