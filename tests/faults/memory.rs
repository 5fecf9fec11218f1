//! A limit of memory by a control group, as containers and service managers set one.
//!
//! Invariant: a server whose bound fits its limit lives, however much it holds; one that needs more is killed by the kernel, which costs
//! nothing that was acknowledged.

use crate::alone::alone;
use crate::bound::{Crowd, Settings, bound};
use crate::control_group::ControlGroup;
use crate::facts::{anonymous_memory, stat};
use crate::harness::{Handed, Server, eventually};
use crate::history::History;
use crate::is_thorough;
use crate::skips::skip_for_kernel;
use crate::traffic::{Consumed, Plan, Sent, consume, drain, produce, work};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tempfile::TempDir;

/// One that fits a small limit.
const SMALL: [&str; 10] = ["-t", "1", "-m", "2", "-B", "307200", "--journal-depth", "1", "-c", "20"];
/// One that would have a lot of messages in memory.
const LARGE: [&str; 4] = ["-t", "1", "-m", "512"];
/// A limit that is far below that, bytes.
const TOO_LITTLE: u64 = 64 << 20;
/// So many times the limit is stored, at the least and for `make faults`.
const TIMES: u64 = 3;
const TIMES_THOROUGH: u64 = 10;
const QUEUES: u32 = 6;
const LOAD_TIMEOUT: Duration = Duration::from_secs(300);

#[test]
fn a_server_within_its_limit_of_memory_holds_many_times_as_much() {
    within_limit("memory::a_server_within_its_limit_of_memory_holds_many_times_as_much", &[]);
}

#[test]
fn a_server_within_its_limit_of_memory_holds_many_times_as_much_without_sync() {
    within_limit("memory::a_server_within_its_limit_of_memory_holds_many_times_as_much_without_sync", &["-N"]);
}

#[test]
fn a_server_that_is_killed_for_its_memory_has_lost_nothing() {
    beyond_limit("memory::a_server_that_is_killed_for_its_memory_has_lost_nothing", &[]);
}

#[test]
fn a_server_that_is_killed_for_its_memory_has_lost_nothing_without_sync() {
    beyond_limit("memory::a_server_that_is_killed_for_its_memory_has_lost_nothing_without_sync", &["-N"]);
}

fn within_limit(name: &str, options: &[&str]) {
    in_group(name, |group, data| {
        let arguments = [&SMALL, options].concat();
        let crowd = Crowd { connections: 10, sending: 10, busy: 10, queues: 6, open: 100, ..Crowd::default() };
        let limit = bound(&Settings::of(&arguments), &crowd);
        group.limit(Some(limit)).expect("a limit");
        let mut server = start(group, data, &arguments);
        let mut history = History::default();
        history.allow_returns();
        let load = Load::start(server.addr(), 4, 1);
        let least = limit * if is_thorough() { TIMES_THOROUGH } else { TIMES };
        eventually("the backlog is there", LOAD_TIMEOUT, || load.has_ended() || stat(&server, "bytes") >= least);
        print_use(&server, group, limit);
        load.join(&mut history);
        // What a crash leaves is read back within the same limit.
        server.kill9();
        server.restart();
        let left = drain(server.addr(), QUEUES);
        print_use(&server, group, limit);
        history.verify(&left).expect("all of it comes back in its order");
        assert!(group.met() > 0, "the limit was never met: nothing was shown");
        assert_eq!(group.killed(), 0, "{}", server.output());
        assert!(server.stop().success(), "{}", server.output());
    });
}

fn print_use(server: &Server, group: &ControlGroup, limit: u64) {
    println!(
        "{limit} bytes are allowed, {} queued, {} of the server's own, {} of page cache; the limit was met {} times",
        stat(server, "bytes"),
        anonymous_memory(server),
        group.cache(),
        group.met()
    );
}

fn beyond_limit(name: &str, options: &[&str]) {
    in_group(name, |group, data| {
        let arguments = [&LARGE, options].concat();
        for round in 0..if is_thorough() { 5 } else { 1 } {
            let data = data.path().join(round.to_string());
            group.limit(Some(TOO_LITTLE)).expect("a limit");
            let killed = group.killed();
            let handed = Handed { control_group: Some(group.path().to_owned()), ..Handed::default() };
            let mut server = Server::try_start_in_with(&data, handed, &arguments).expect("a start");
            let mut history = History::default();
            history.allow_returns();
            let load = Load::start(server.addr(), 4, 1);
            let status = server.wait_for_end(LOAD_TIMEOUT);
            load.join(&mut history);
            assert_eq!((status.signal(), group.killed() - killed), (Some(9), 1), "{status}: {}", server.output());
            group.limit(None).expect("no limit");
            server.restart();
            history.verify(&drain(server.addr(), QUEUES)).expect("nothing that was acknowledged is missing");
            assert!(server.stop().success(), "{}", server.output());
        }
    });
}

/// Runs `body` with a control group, and a directory on a disk: what is in memory there counts, and cannot be given up.
fn in_group(name: &str, body: impl FnOnce(&ControlGroup, &TempDir)) {
    alone(name, &[], &[], || match ControlGroup::new() {
        Ok(group) => {
            let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
            body(&group, &data);
        }
        Err(reason) => skip_for_kernel(name, &reason),
    });
}

fn start(group: &ControlGroup, data: &TempDir, arguments: &[&str]) -> Server {
    let handed = Handed { control_group: Some(group.path().to_owned()), ..Handed::default() };
    let started = Server::try_start_in_with(&data.path().join("data"), handed, arguments);
    started.unwrap_or_else(|refused| panic!("ringq did not start: {refused:?}"))
}

/// Clients that put much and take less, for good or until they confirm it.
struct Load {
    stop: Arc<AtomicBool>,
    producers: Vec<JoinHandle<Vec<Sent>>>,
    consumers: Vec<JoinHandle<Consumed>>,
}

impl Load {
    fn start(address: SocketAddr, producers: u32, consumers: u32) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let plan = |who| Plan { who, queues: QUEUES, depth: 100, wait_ms: 0 };
        let producers = (0..producers).map(|who| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || produce(address, plan(who), u64::MAX, &stop))
        });
        let producers = producers.collect();
        let consumers = (0..2 * consumers).map(|who| {
            let (stop, run) = (Arc::clone(&stop), if who % 2 == 0 { consume } else { work });
            thread::spawn(move || run(address, Plan { depth: 4, ..plan(1000 + who) }, &stop))
        });
        Load { producers, consumers: consumers.collect(), stop }
    }

    fn has_ended(&self) -> bool {
        self.producers.iter().all(JoinHandle::is_finished)
    }

    fn join(self, history: &mut History) {
        self.stop.store(true, Ordering::Relaxed);
        self.producers.into_iter().for_each(|producer| history.produced(producer.join().expect("a producer")));
        self.consumers.into_iter().for_each(|consumer| history.consumed(consumer.join().expect("a consumer")));
    }
}
