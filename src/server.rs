//! The server: assembles the parts in order, runs them, and takes them down in order.
//!
//! Start: log → limits → lock the data directory → bind → fork → lock the pid file → give up root's rights → open the database → replay the
//! journals into it → new journals → start the store and the shards → write the pid file, ready. Stop: stop accepting → answer what was
//! accepted → last journal write → checkpoint → remove the pid file. A second signal ends the process at once, which the store makes safe.

use crate::admin;
use crate::config::{Config, Pin};
use crate::daemon::pid_file::PidFile;
use crate::daemon::supervisor::{End, Supervisor};
use crate::daemon::user::{self, Account};
use crate::daemon::{background, bus_error, notify, resources, signals};
use crate::durability::{self, Durability};
use crate::engine::{self, Engine};
use crate::host;
use crate::ids::{Salt, ShardId};
use crate::journal::{self, FileSource, Files, Mode, WriterConfig};
use crate::limits;
use crate::listen::{self, Address, Inherited, Sockets};
use crate::log;
use crate::mailbox::Mailbox;
use crate::proto::Dialect;
use crate::queue::Explicit;
use crate::ring::{self, Ring};
use crate::shard::{Links, Mail, Report, Shard, Shared};
use crate::stats::{Capacity, ShardStats};
use crate::store::ballast::Ballast;
use crate::store::directory::DataDirectory;
use crate::store::lmdb::{Lmdb, LmdbConfig};
use crate::store::thread::{self, ThreadConfig};
use crate::store::{self, Batch, Store};
use crate::udp;
use anyhow::{Context, Result, anyhow};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Mutations in one transaction while journals are replayed, bytes: nobody waits for anything else.
const REPLAY_SLICE_SIZE: usize = 16 << 20;

/// How long systemd is to wait for one journal to be replayed, at least.
const REPLAY_PATIENCE: Duration = Duration::from_secs(120);

/// Files besides connections and what shards need: database, listeners, log.
const OTHER_FILES: usize = 64;

/// Files of a shard: its ring, its mailbox twice, its journal's four.
const FILES_PER_SHARD: usize = 7;

/// Runs the server until it is told to stop. With `-d` the calling process ends in here, when the server is ready in another one.
///
/// # Errors
/// Why it could not start, or what made it stop.
pub fn run(config: &Config) -> Result<()> {
    let start = Instant::now();
    let inherited = listen::inherit()?;
    log::start(config)?;
    let account = Account::of(config.user.as_deref())?;
    resources::restrict_new_files();
    if config.core_dumps {
        resources::allow_core_files();
    }
    let connections_max = reserve_files(config, &inherited)?;
    let made = user::missing_directories(&config.home);
    let directory = DataDirectory::lock(&config.home)?;
    let mut sockets = listen::open(config, inherited)?;
    let udp_sockets = udp::bind(config, std::mem::take(&mut sockets.datagrams))?;
    let admin = admin::bind(config)?;

    // LMDB must not be open across a fork, and no thread lives through one.
    let background = config.daemon.then(|| background::detach(config.core_dumps)).transpose()?;
    log::spawn_writer().context("cannot start the log's thread")?;
    directory.write_pid()?;
    let mut pid_file = config.pid_file.as_deref().map(PidFile::lock).transpose()?;
    if let Some(account) = account {
        become_user(&account, config, &made, &sockets)?;
    }
    // Before the database, so that what watches the server is told that it is starting.
    let admin = admin.start(config)?;
    if !config.without_effect.is_empty() {
        tracing::info!("without effect, accepted for MemcacheQ's command lines: {}", config.without_effect.join(" "));
    }

    bus_error::watch(directory.path(), "store/data.mdb")?;
    let mut store = Lmdb::open(directory.path(), &LmdbConfig::default()).map_err(in_store(directory.path()))?;
    let ballast_size = 2 * config.journal.share_size() * u64::from(config.shards);
    let mut ballast = Ballast::open(directory.path(), ballast_size).map_err(in_store(directory.path()))?;
    replay_journals(&mut store, &mut ballast, directory.path())?;
    while let Err(error) = store.settle_moves() {
        ballast.make_room(error).map_err(in_store(directory.path()))?;
    }
    let journals = begin_journals(config, &mut store, &mut ballast, directory.path())?;
    let recovered = store.recover().map_err(in_store(directory.path()))?;
    let stored: u64 = recovered.queues.iter().map(|q| q.counters.present()).sum();
    tracing::info!("{} queues with {stored} messages in {}", recovered.queues.len(), directory.path().display());

    let mailboxes: std::io::Result<Vec<_>> = (0..config.shards).map(|_| Mailbox::new()).collect();
    let shared = Arc::new(Shared {
        mailboxes: mailboxes.context("cannot make a mailbox")?,
        // Id 0 is before every message.
        ids_next: AtomicU64::new(recovered.ids_end.max(1)),
        connections: AtomicUsize::new(0),
        connections_max,
        draining: AtomicUsize::new(usize::from(config.shards) + usize::from(!udp_sockets.is_empty())),
        udp: udp::Counts::default(),
        pressure: (0..config.shards).map(|_| AtomicUsize::new(0)).collect(),
        // Puts wait when half the share is not in the store.
        pressure_share: config.memory_share() / 2,
        accept_paused: AtomicBool::new(false),
        reload_asked: AtomicBool::new(false),
        start,
    });

    let (report, reports) = mpsc::channel();
    signals::watch(report.clone())?;
    let (store_requests, store_inbox) = mpsc::channel();
    let store_thread = start_store(config, store, ballast, store_inbox, &shared, report.clone())?;
    let links = Links { shared: shared.clone(), store: store_requests, reports: report };
    let facts = Facts {
        connections_max,
        addresses: addresses_of(&sockets, Dialect::MemcacheQ),
        kestrel_addresses: addresses_of(&sockets, Dialect::Kestrel),
        udp_addresses: udp_sockets.iter().map(|(address, _)| *address).collect(),
        admin_addresses: admin.addresses().to_vec(),
    };
    let status = facts.status(&ShardStats {
        queues: recovered.queues.len() as u64,
        curr_items: stored,
        ..ShardStats::default()
    });
    let tunables = engine_tunables(config, &facts);
    let mut threads = Vec::new();
    // Shard 0 accepts for all.
    let mut listeners: Vec<(OwnedFd, Dialect)> =
        sockets.listeners.into_iter().map(|listener| (listener.socket, listener.dialect)).collect();
    let mut queues = by_owner(recovered.queues, config.shards, |row| &row.name);
    let mut said = by_owner(read_settings(recovered.settings), config.shards, |(name, _)| name);
    for (id, journal) in (0..config.shards).map(ShardId).zip(journals) {
        let engine_config = engine_config(config, id, connections_max, tunables.clone());
        let rows = std::mem::take(&mut queues[usize::from(id.0)]);
        let settings = std::mem::take(&mut said[usize::from(id.0)]);
        let engine = Engine::new(engine_config, rows, settings, shared.reserve_ids());
        threads.push(start_shard(config, id, engine, journal, std::mem::take(&mut listeners), links.clone())?);
    }
    let udp_thread = udp::start(udp_sockets, config.udp_reply_size_max, &shared)?;
    admin.running(&shared, config, settings(config, &facts));
    // The store thread ends when the last shard has let go of it.
    drop(links);

    if let Some(pid_file) = &mut pid_file {
        pid_file.write().with_context(|| format!("-P {}: cannot write it", pid_file.path().display()))?;
    }
    log::announce(&facts.ready_lines());
    if let Some(background) = background {
        log::flush();
        background.ready(config.verbosity > 0)?;
    }
    notify::ready(&status);

    match Supervisor::new(config.clone(), facts, shared, reports, udp_thread, &admin).run() {
        Ok(End::Clean) => {}
        Ok(End::AtOnce) => {
            // Without dropping anything else: threads that still run have it.
            drop((pid_file, sockets.files));
            log::flush();
            std::process::exit(1);
        }
        Err(error) => return Err(error.context("the server stops; restart it when the cause is gone")),
    }
    for thread in threads.into_iter().chain([store_thread]) {
        let _ = thread.join();
    }
    admin.end();
    tracing::info!("everything is committed");
    Ok(())
}

/// What is known only when the server has started.
pub struct Facts {
    /// Connections there may be.
    pub connections_max: usize,
    /// Where the server listens.
    pub addresses: Vec<Address>,
    /// Where it speaks Kestrel's dialect.
    pub kestrel_addresses: Vec<Address>,
    /// Where it takes datagrams.
    pub udp_addresses: Vec<SocketAddr>,
    /// Where the admin listener is.
    pub admin_addresses: Vec<SocketAddr>,
}

impl Facts {
    /// What systemd shows of a running server.
    pub fn status(&self, stats: &ShardStats) -> String {
        format!("{} queues with {} messages, on {}", stats.queues, stats.curr_items, self.address_list())
    }

    fn address_list(&self) -> String {
        self.addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(",")
    }

    fn ready_lines(&self) -> Vec<String> {
        let admin = self.admin_addresses.iter().map(|address| format!("admin on http://{address}/"));
        let streams = self.addresses.iter().map(|address| format!("ready on {address}"));
        let kestrel = self.kestrel_addresses.iter().map(|address| format!("ready on kestrel:{address}"));
        let streams = streams.chain(kestrel);
        admin.chain(streams).chain(self.udp_addresses.iter().map(|address| format!("ready on udp:{address}"))).collect()
    }
}

fn addresses_of(sockets: &Sockets, dialect: Dialect) -> Vec<Address> {
    let listeners = sockets.listeners.iter().filter(|listener| listener.dialect == dialect);
    listeners.map(|listener| listener.address.clone()).collect()
}

// --- starting ---

/// Everything that the server will write to becomes the user's, and then the process does.
fn become_user(account: &Account, config: &Config, made: &[PathBuf], sockets: &Sockets) -> Result<()> {
    account.give_directory(&config.home, made)?;
    if let Some(path) = &config.log_file {
        account.give_file(path)?;
    }
    sockets.give_to(account.uid(), account.gid())?;
    account.assume(config.core_dumps)?;
    account.check_access(&config.home)
}

fn reserve_files(config: &Config, inherited: &Inherited) -> Result<usize> {
    let others = OTHER_FILES
        + FILES_PER_SHARD * usize::from(config.shards)
        + udp::files(config, inherited)
        + admin::files(config);
    host::reserve_files(config.connections, limits::CONNECTIONS_DEFAULT, others).map_err(|hard| {
        anyhow!(
            "-c {} needs {} open files, but the hard limit is {hard}: raise it (ulimit -Hn, LimitNOFILE=) or lower -c",
            config.connections.unwrap_or_default(),
            config.connections.unwrap_or_default() + others,
        )
    })
}

fn start_store(
    config: &Config,
    store: Lmdb,
    ballast: Ballast,
    requests: mpsc::Receiver<crate::store::Request>,
    shared: &Arc<Shared>,
    report: mpsc::Sender<Report>,
) -> Result<JoinHandle<()>> {
    let thread_config = ThreadConfig {
        shards: config.shards,
        // Pauses end before the largest put has to wait.
        backlog_size_max: (shared.pressure_share * 3 / 4)
            .min(shared.pressure_share.saturating_sub(config.body_size_max)),
        free_size_min: config.free_size_min,
        ..ThreadConfig::default()
    };
    let mailboxes = shared.clone();
    let reply = move |shard: ShardId, reply| mailboxes.mailboxes[usize::from(shard.0)].send(Mail::Store(reply));
    let worker = thread::spawn(store, ballast, requests, reply, shared.pressure.clone(), thread_config)?;
    // A store that failed must end the process from here: the shards wait for it and acknowledge nothing.
    let watcher = std::thread::Builder::new().name("ringq-watch".into());
    let home = config.home.clone();
    Ok(watcher.spawn(move || {
        let result = worker.join().unwrap_or_else(|_| std::process::abort());
        if let Err(error) = result {
            log::fatal(format_args!(
                "{:#}; nothing more is acknowledged and the server stops; restart it when the cause is gone",
                in_store(&home)(error)
            ));
            std::process::exit(1);
        }
        let _ = report.send(Report::StoreEnded);
    })?)
}

/// A shard's new journal.
struct Journal {
    salt: Salt,
    files: Files,
}

/// An error of the store in the operator's terms: those that do not say where it lies are told.
fn in_store(home: &Path) -> impl Fn(store::Error) -> anyhow::Error {
    move |error| match error {
        store::Error::Unusable(_) => error.into(),
        error => anyhow!("the store in {}: {error}", home.display()),
    }
}

/// Brings what a crash left in the journals into the store.
fn replay_journals(store: &mut Lmdb, ballast: &mut Ballast, home: &Path) -> Result<()> {
    for row in store.recover().map_err(in_store(home))?.journals {
        notify::extend_timeout(REPLAY_PATIENCE);
        let mut batches = Vec::new();
        let mut keep = |seq, mutations: &[u8], end| -> Result<(), std::convert::Infallible> {
            batches.push(Batch { shard: row.shard, seq, mutations: mutations.to_vec(), end });
            Ok(())
        };
        let mut source = FileSource::open(home, row.shard, journal::SEGMENTS)?;
        let outcome = journal::replay(&mut source, row.shard, &row.salt, row.position, &mut keep)?;
        store::checkpoint::replay(store, ballast, &batches, REPLAY_SLICE_SIZE).map_err(|error| {
            let remedy = match error.is_storage_full() {
                true => " (nothing is lost: free space in the file system of the data directory, -H, and start again)",
                false => "",
            };
            let failed = format!("cannot bring the journal of shard {} into the database{remedy}", row.shard);
            in_store(home)(error).context(failed)
        })?;
        if outcome.records > 0 {
            tracing::info!("journal of shard {}: {} records were replayed", row.shard, outcome.records);
        }
        if let Some(torn) = outcome.torn {
            let what = if torn.unsynced { "a power cut took" } else { "not known to be acknowledged:" };
            tracing::warn!(
                "journal of shard {}: {what} {} records from number {} on (segment {}, byte {}); they were dropped",
                row.shard,
                torn.dropped_records,
                torn.seq,
                torn.segment,
                torn.offset
            );
        }
    }
    Ok(())
}

/// Forgets the old journals, all of which the store has, and begins new ones.
fn begin_journals(config: &Config, store: &mut Lmdb, ballast: &mut Ballast, home: &Path) -> Result<Vec<Journal>> {
    while let Err(error) = store.begin_journals(&[]) {
        ballast.make_room(error).map_err(in_store(home))?;
    }
    for retired in journal::existing(home)?.into_iter().filter(|shard| shard.0 >= config.shards) {
        journal::files::remove(home, retired)?;
        tracing::info!(
            "the journal of shard {retired} was replayed and removed: there are {} shards now",
            config.shards
        );
    }
    let mode = if config.no_sync { Mode::Buffered } else { Mode::Direct };
    let layout = config.journal;
    let mut journals = Vec::new();
    for shard in (0..config.shards).map(ShardId) {
        let files = Files::open_or_create(home, shard, layout.segment_size, layout.segments, mode)?;
        journals.push(Journal { salt: Salt(host::random().context("cannot read random bytes")?), files });
    }
    let salts: Vec<Salt> = journals.iter().map(|journal| journal.salt).collect();
    while let Err(error) = store.begin_journals(&salts) {
        ballast.make_room(error).map_err(in_store(home))?;
    }
    Ok(journals)
}

/// What belongs to each shard, by the names of queues.
fn by_owner<T>(all: Vec<T>, shards: u16, name: impl Fn(&T) -> &[u8]) -> Vec<Vec<T>> {
    let mut owned: Vec<Vec<T>> = (0..shards).map(|_| Vec::new()).collect();
    for one in all {
        owned[usize::from(Engine::owner_of(name(&one), shards).0)].push(one);
    }
    owned
}

/// Settings by name as the store has them. Those of another version are kept and have no effect.
fn read_settings(stored: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<(Box<[u8]>, Explicit)> {
    let read = |(name, settings): (Vec<u8>, Vec<u8>)| {
        let explicit = Explicit::decode(&name, &settings);
        for unknown in explicit.unknown() {
            let queue = name.escape_ascii();
            tracing::warn!(
                "queue {queue}: this version does not understand the setting {unknown}, which has no effect"
            );
        }
        (name.into(), explicit)
    };
    stored.into_iter().map(read).collect()
}

/// What of an engine's configuration a reload may change.
pub fn engine_tunables(config: &Config, facts: &Facts) -> engine::Tunables {
    engine::Tunables {
        queues_max: config.queues_max.div_ceil(usize::from(config.shards)),
        wait_ms_max: config.wait_ms_max,
        idle_ms_max: config.idle_ms_max,
        open_reads_max: config.open_reads_max,
        detached_reads_max: config.detached_reads_max.div_ceil(usize::from(config.shards)),
        unconfirmed_max: config.unconfirmed_max.div_ceil(usize::from(config.shards)),
        groups_max: config.groups_max,
        queue_defaults: config.queue_defaults.clone(),
        flush_all: config.flush_all,
        shutdown: config.shutdown,
        settings: settings(config, facts).into(),
    }
}

fn engine_config(config: &Config, shard: ShardId, connections: usize, tunables: engine::Tunables) -> engine::Config {
    engine::Config {
        shard,
        shards: config.shards,
        memory_share: config.memory_share(),
        body_size_max: config.body_size_max,
        reader_separator: config.reader_separator,
        hash_seed: RandomState::new().hash_one(shard),
        capacity: Capacity {
            threads: u64::from(config.shards),
            memory: config.memory as u64,
            connections: connections as u64,
        },
        tunables,
    }
}

/// The ring is made on the thread that uses it, so a failure comes back through a channel.
fn start_shard(
    config: &Config,
    id: ShardId,
    engine: Engine,
    journal: Journal,
    listeners: Vec<(OwnedFd, Dialect)>,
    links: Links,
) -> Result<JoinHandle<()>> {
    let core = core_of(&config.pin, id);
    let batch_size = config.batch_size;
    let durability_config = durability::Config {
        writer: WriterConfig {
            shard: id,
            salt: journal.salt,
            segment_size: config.journal.segment_size,
            segments: config.journal.segments,
            depth: config.journal_depth,
            unsynced: config.no_sync,
        },
        checkpoint_size: config.memory_share() / 8,
        checkpoint_every_ms: config.checkpoint_every_ms,
    };
    // Those of datagrams come on top, and each may take a moment to close.
    let connections_max = links.shared.connections_max + 2 * limits::UDP_REQUESTS_MAX;
    let connections_max = u32::try_from(connections_max).unwrap_or(u32::MAX);
    let (started, start) = mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("ringq-shard-{id}")).spawn(move || {
        if let Some(core) = core {
            core_affinity::set_for_current(core);
        }
        let ring_config = ring::Config { connections_max, ..ring::Config::default() };
        let ended = links.reports.clone();
        let shard = Ring::new(&ring_config).map_err(anyhow::Error::from).and_then(|mut ring| {
            let durability = Durability::new(durability_config, &journal.files, &mut ring)?;
            Shard::new(id, engine, ring, durability, listeners, links, batch_size)
                .context("cannot watch the shard's mailbox")
        });
        match shard {
            Err(error) => drop(started.send(Err(error))),
            Ok(shard) => {
                let _ = started.send(Ok(()));
                let result = shard.run();
                let _ = ended.send(Report::Ended(id, result));
            }
        }
    })?;
    start.recv().context("a shard thread ended before it started")??;
    Ok(thread)
}

fn core_of(pin: &Pin, shard: ShardId) -> Option<core_affinity::CoreId> {
    let turn = usize::from(shard.0);
    match pin {
        Pin::Off => None,
        Pin::Auto => core_affinity::get_core_ids().filter(|c| !c.is_empty()).map(|cores| cores[turn % cores.len()]),
        Pin::Cores(list) => Some(core_affinity::CoreId { id: list[turn % list.len()] }),
    }
}

/// The lines of `stats settings`.
pub fn settings(config: &Config, facts: &Facts) -> Vec<u8> {
    let mut out = Vec::new();
    let tcp = |address: &Address| if let Address::Tcp(address) = address { Some(*address) } else { None };
    let unix =
        |address: &Address| if let Address::Unix(path) = address { Some(path.display().to_string()) } else { None };
    let list = |names: Vec<String>| if names.is_empty() { "NULL".to_string() } else { names.join(",") };
    let on = |flag: bool| if flag { "yes" } else { "no" };
    let addresses = &facts.addresses;
    let mut stat = |name, value: &dyn std::fmt::Display| crate::proto::reply::stat(&mut out, name, value);
    stat("maxbytes", &config.memory);
    stat("maxconns", &facts.connections_max);
    stat("tcpport", &addresses.iter().find_map(tcp).map_or(0, |address| address.port()));
    stat("num_threads", &config.shards);
    stat("item_size_max", &config.body_size_max);
    stat("durable", &on(!config.no_sync));
    stat("inter", &list(addresses.iter().filter_map(tcp).map(|address| address.to_string()).collect()));
    stat("domain_socket", &list(addresses.iter().filter_map(unix).collect()));
    stat("umask", &format_args!("{:o}", config.socket_mode));
    stat("tcp_backlog", &config.backlog);
    stat("tcp_keepalive", &config.keepalive.map_or(0, |period| period.as_secs()));
    stat("udpport", &facts.udp_addresses.first().map_or(0, SocketAddr::port));
    stat("udp_reply_max", &config.udp_reply_size_max);
    stat("kestrelport", &facts.kestrel_addresses.iter().find_map(tcp).map_or(0, |address| address.port()));
    stat("max_queues", &config.queues_max);
    stat("min_free", &config.free_size_min);
    stat("verbosity", &config.verbosity);
    stat("max_wait", &(config.wait_ms_max / 1000));
    stat("max_open_reads", &config.open_reads_max);
    stat("max_detached_reads", &config.detached_reads_max);
    stat("max_unconfirmed", &config.unconfirmed_max);
    stat("max_groups", &config.groups_max);
    stat("reader_separator", &config.reader_separator.map_or("none".to_string(), |byte| char::from(byte).to_string()));
    stat("idle_timeout", &(config.idle_ms_max / 1000));
    stat("stop_timeout", &config.stop_timeout.as_secs());
    stat("checkpoint_every", &(config.checkpoint_every_ms / 1000));
    stat("stats_every", &config.stats_every.unwrap_or_default().as_secs());
    stat("flush_enabled", &on(config.flush_all));
    stat("shutdown_enabled", &on(config.shutdown));
    stat("home", &config.home.display());
    out
}
