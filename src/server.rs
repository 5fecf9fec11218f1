//! The server: assembles the parts in order, runs them, and takes them down in order.
//!
//! Start: lock the data directory → bind → open the database → replay the journals into it → new journals → start the store and the
//! shards → ready. Stop: stop accepting → answer what was accepted → last journal write → checkpoint → end. A second signal ends the process at once, which the store makes safe.

use crate::config::{Config, Pin};
use crate::durability::{self, Durability};
use crate::engine::{self, Engine};
use crate::host;
use crate::ids::{Salt, ShardId};
use crate::journal::{self, FileSource, Files, Mode, WriterConfig};
use crate::limits;
use crate::listen::{self, Address, Inherited};
use crate::log;
use crate::mailbox::Mailbox;
use crate::ring::{self, Ring};
use crate::shard::{Links, Mail, Report, Shard, Shared};
use crate::stats::Capacity;
use crate::store::ballast::Ballast;
use crate::store::directory::DataDirectory;
use crate::store::lmdb::{Lmdb, LmdbConfig};
use crate::store::thread::{self, ThreadConfig};
use crate::store::{self, Batch, QueueRow, Store};
use crate::udp;
use anyhow::{Context, Result, anyhow, bail};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Mutations in one transaction while journals are replayed, bytes: nobody waits for anything else.
const REPLAY_SLICE_SIZE: usize = 16 << 20;

/// How long a stop waits for clients to take their replies.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Files besides connections and what shards need: database, listeners, log.
const OTHER_FILES: usize = 64;

/// Files of a shard: its ring, its mailbox twice, its journal's four.
const FILES_PER_SHARD: usize = 7;

/// Runs the server until it is told to stop.
///
/// # Errors
/// Why it could not start, or what made it stop.
pub fn run(config: &Config) -> Result<()> {
    let start = Instant::now();
    let inherited = listen::inherit()?;
    log::start(config)?;
    log::spawn_writer().context("cannot start the log's thread")?;
    let directory = DataDirectory::lock(&config.home)?;
    let connections_max = reserve_files(config, &inherited)?;
    let mut sockets = listen::open(config, inherited)?;
    let udp_sockets = udp::bind(config, std::mem::take(&mut sockets.datagrams))?;
    let mut store = Lmdb::open(directory.path(), &LmdbConfig::default())?;
    let mut ballast = Ballast::open(directory.path(), 2 * config.journal.share_size() * u64::from(config.shards))?;
    replay_journals(&mut store, &mut ballast, directory.path())?;
    let journals = begin_journals(config, &mut store, &mut ballast, directory.path())?;
    let recovered = store.recover()?;
    let stored: u64 = recovered.queues.iter().map(|q| q.counters.ready()).sum();
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
        start,
    });

    let (report, reports) = mpsc::channel();
    watch_signals(report.clone())?;
    let (store_requests, store_inbox) = mpsc::channel();
    let store_thread = start_store(config, store, ballast, store_inbox, &shared)?;
    let links = Links { shared: shared.clone(), store: store_requests, reports: report };
    let addresses: Vec<Address> = sockets.listeners.iter().map(|listener| listener.address.clone()).collect();
    let settings: Arc<[u8]> = settings(config, connections_max, &addresses).into();
    let mut threads = Vec::new();
    // Shard 0 accepts for all.
    let mut listeners: Vec<OwnedFd> = sockets.listeners.into_iter().map(|listener| listener.socket).collect();
    let mut queues = by_owner(recovered.queues, config.shards);
    for (id, journal) in (0..config.shards).map(ShardId).zip(journals) {
        let engine_config = engine_config(config, id, connections_max, settings.clone());
        let rows = std::mem::take(&mut queues[usize::from(id.0)]);
        let engine = Engine::new(engine_config, rows, shared.reserve_ids());
        threads.push(start_shard(config, id, engine, journal, std::mem::take(&mut listeners), links.clone())?);
    }
    let udp_addresses: Vec<SocketAddr> = udp_sockets.iter().map(|(address, _)| *address).collect();
    let udp_thread = udp::start(udp_sockets, config.udp_reply_size_max, &shared)?;
    // The store thread ends when the last shard has let go of it.
    drop(links);
    let tcp = addresses.iter().map(|address| format!("ready on {address}"));
    let udp = udp_addresses.iter().map(|address| format!("ready on udp:{address}"));
    log::announce(&tcp.chain(udp).collect::<Vec<_>>());

    serve(&reports, &shared, &udp_thread, threads.len())?;
    for thread in threads {
        let _ = thread.join();
    }
    match store_thread.join() {
        Ok(result) => result.context("the last commit failed")?,
        Err(_) => bail!("the store thread panicked"),
    }
    tracing::info!("everything is committed");
    Ok(())
}

// --- starting ---

fn reserve_files(config: &Config, inherited: &Inherited) -> Result<usize> {
    let others = OTHER_FILES + FILES_PER_SHARD * usize::from(config.shards) + udp::files(config, inherited);
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
) -> Result<JoinHandle<Result<(), crate::store::Error>>> {
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
    Ok(watcher.spawn(move || {
        let result = worker.join().unwrap_or_else(|_| std::process::abort());
        if let Err(error) = &result {
            log::fatal(format_args!(
                "{error}; nothing more is acknowledged and the server stops; restart it when the cause is gone"
            ));
            std::process::exit(1);
        }
        result
    })?)
}

/// A shard's new journal.
struct Journal {
    salt: Salt,
    files: Files,
}

/// Brings what a crash left in the journals into the store.
fn replay_journals(store: &mut Lmdb, ballast: &mut Ballast, home: &Path) -> Result<()> {
    for row in store.recover()?.journals {
        let mut batches = Vec::new();
        let mut keep = |seq, mutations: &[u8], end| -> Result<(), std::convert::Infallible> {
            batches.push(Batch { shard: row.shard, seq, mutations: mutations.to_vec(), end });
            Ok(())
        };
        let mut source = FileSource::open(home, row.shard, journal::SEGMENTS)?;
        let outcome = journal::replay(&mut source, row.shard, &row.salt, row.position, &mut keep)?;
        store::checkpoint::replay(store, ballast, &batches, REPLAY_SLICE_SIZE)
            .with_context(|| format!("cannot bring the journal of shard {} into the database", row.shard))?;
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
        ballast.make_room(error)?;
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
        ballast.make_room(error)?;
    }
    Ok(journals)
}

fn by_owner(queues: Vec<QueueRow>, shards: u16) -> Vec<Vec<QueueRow>> {
    let mut owned: Vec<Vec<QueueRow>> = (0..shards).map(|_| Vec::new()).collect();
    for row in queues {
        owned[usize::from(Engine::owner_of(&row.name, shards).0)].push(row);
    }
    owned
}

fn engine_config(config: &Config, shard: ShardId, connections: usize, settings: Arc<[u8]>) -> engine::Config {
    engine::Config {
        shard,
        shards: config.shards,
        memory_share: config.memory_share(),
        body_size_max: config.body_size_max,
        wait_ms_max: config.wait_ms_max,
        idle_ms_max: config.idle_ms_max,
        queues_max: config.queues_max.div_ceil(usize::from(config.shards)),
        hash_seed: RandomState::new().hash_one(shard),
        flush_all: config.flush_all,
        shutdown: config.shutdown,
        capacity: Capacity {
            threads: u64::from(config.shards),
            memory: config.memory as u64,
            connections: connections as u64,
        },
        settings,
    }
}

/// The ring is made on the thread that uses it, so a failure comes back through a channel.
fn start_shard(
    config: &Config,
    id: ShardId,
    engine: Engine,
    journal: Journal,
    listeners: Vec<OwnedFd>,
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
fn settings(config: &Config, connections_max: usize, addresses: &[Address]) -> Vec<u8> {
    let mut out = Vec::new();
    let tcp = |address: &Address| if let Address::Tcp(address) = address { Some(*address) } else { None };
    let unix =
        |address: &Address| if let Address::Unix(path) = address { Some(path.display().to_string()) } else { None };
    let list = |names: Vec<String>| if names.is_empty() { "NULL".to_string() } else { names.join(",") };
    let on = |flag: bool| if flag { "yes" } else { "no" };
    let mut stat = |name, value: &dyn std::fmt::Display| crate::proto::reply::stat(&mut out, name, value);
    stat("maxbytes", &config.memory);
    stat("maxconns", &connections_max);
    stat("tcpport", &addresses.iter().find_map(tcp).map_or(0, |address| address.port()));
    stat("num_threads", &config.shards);
    stat("item_size_max", &config.body_size_max);
    stat("durable", &on(!config.no_sync));
    stat("inter", &list(addresses.iter().filter_map(tcp).map(|address| address.to_string()).collect()));
    stat("domain_socket", &list(addresses.iter().filter_map(unix).collect()));
    stat("umask", &format_args!("{:o}", config.socket_mode));
    stat("tcp_backlog", &config.backlog);
    stat("idle_timeout", &(config.idle_ms_max / 1000));
    stat("tcp_keepalive", &config.keepalive.map_or(0, |period| period.as_secs()));
    stat("udpport", &if config.socket.is_some() { 0 } else { config.udp_port });
    stat("udp_reply_max", &config.udp_reply_size_max);
    stat("max_queues", &config.queues_max);
    stat("min_free", &config.free_size_min);
    stat("flush_enabled", &on(config.flush_all));
    stat("shutdown_enabled", &on(config.shutdown));
    stat("home", &config.home.display());
    out
}

// --- running and stopping ---

fn watch_signals(reports: mpsc::Sender<Report>) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    let mut signals =
        signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP]).context("cannot watch signals")?;
    std::thread::Builder::new().name("ringq-signals".into()).spawn(move || {
        for signal in signals.forever() {
            let _ = reports.send(Report::Signal(signal));
        }
    })?;
    Ok(())
}

/// Waits until every shard has ended.
fn serve(reports: &mpsc::Receiver<Report>, shared: &Shared, udp: &udp::Thread, mut running: usize) -> Result<()> {
    let mut deadline: Option<Instant> = None;
    while running > 0 {
        let report = match deadline {
            None => reports.recv().context("every other thread is gone")?,
            Some(at) => match reports.recv_timeout(at.saturating_duration_since(Instant::now())) {
                Ok(report) => report,
                Err(_) => {
                    tracing::warn!("clients did not take their replies within {STOP_DEADLINE:?}: they are cut off");
                    shared.mailboxes.iter().for_each(|mailbox| mailbox.send(Mail::Exit));
                    deadline = None;
                    continue;
                }
            },
        };
        let is_stopping = shared.draining.load(Ordering::SeqCst) < shared.mailboxes.len() || deadline.is_some();
        match report {
            Report::Verbosity(verbosity) => log::set_verbosity(verbosity),
            Report::Ended(id, result) => {
                running -= 1;
                result.with_context(|| format!("shard {id} failed, and nothing more was acknowledged"))?;
            }
            Report::Signal(signal_hook::consts::SIGHUP) => log::reopen(),
            Report::Signal(signal) if is_stopping => {
                tracing::warn!("signal {signal} again: stopping at once; the next start replays the journals");
                log::flush();
                std::process::exit(1);
            }
            Report::Signal(_) | Report::Shutdown => {
                tracing::info!("stopping: finishing what was accepted");
                deadline = Some(Instant::now() + STOP_DEADLINE);
                udp.stop();
                shared.mailboxes.iter().for_each(|mailbox| mailbox.send(Mail::Stop));
            }
        }
    }
    Ok(())
}
