//! The simulator: a whole server and its clients from one seed, with everything that can go wrong between them, and rules that must hold.
//!
//! Engines, mail, journals, store, disk and clock are those of [`world`], in virtual time and one thread. [`plan`] draws a history, each step
//! of which is an [`action`]; [`trial`] lets it happen; [`model`] follows what journals say and [`hearing`] what clients are told; [`checks`]
//! has the rules, each a sentence. A history that breaks one is made short by [`shrink`] and can be played again.
//!
//! `make sim` runs it; docs/TESTING.md says how.

mod action;
mod checks;
mod clients;
mod disk;
mod facts;
mod hearing;
mod lane;
mod model;
mod plan;
mod request;
#[allow(dead_code, reason = "fuzzing gives it choices")]
mod rng;
#[cfg(not(feature = "canary"))]
mod shrink;
#[cfg(not(feature = "canary"))]
mod smoke;
mod trial;
#[allow(dead_code, reason = "tests/it plays with it, too")]
mod world;

use checks::{Broken, Verdict};
use plan::Plan;
use std::cell::RefCell;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use trial::Trial;

/// Histories of the smoke set.
const RUNS: u64 = 1000;

/// How often progress is told, s.
const TOLD_EVERY_S: u64 = 30;

thread_local! {
    /// What the last assertion of this thread said that failed.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs a history. An assertion that fails breaks a rule, too.
fn run(plan: &Plan) -> Verdict {
    let outcome = std::panic::catch_unwind(|| Trial::run(plan));
    outcome.unwrap_or_else(|_| checks::server_keeps_its_own_invariants(Some(PANIC.take())))
}

/// Keeps what assertions say to itself, instead of printing it: there may be thousands while a history is made shorter.
fn catch_assertions() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let what = info.payload_as_str().unwrap_or("no reason");
        PANIC.set(format!("{place}: {what}"));
    }));
}

/// Runs seeds on all cores until one fails or all are done. How many were run, and the first failure.
fn run_seeds(first: u64, runs: u64) -> (u64, Option<(u64, Broken)>) {
    let (next, done, is_over) = (AtomicU64::new(first), AtomicU64::new(0), AtomicBool::new(false));
    let failure = std::sync::Mutex::new(None);
    let began = Instant::now();
    let work = || {
        while !is_over.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed - first >= runs {
                return;
            }
            if let Err(broken) = run(&Plan::of(seed)) {
                is_over.store(true, Ordering::Relaxed);
                failure.lock().expect("nobody panics with it").get_or_insert((seed, broken));
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut told = 1;
        while !workers.iter().all(|worker| worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
            if began.elapsed().as_secs() >= told * TOLD_EVERY_S {
                eprintln!("{} histories in {} s", done.load(Ordering::Relaxed), told * TOLD_EVERY_S);
                told += 1;
            }
        }
    });
    (done.into_inner(), failure.into_inner().expect("nobody panicked with it"))
}

/// With the feature, a server answers before its journal is written.
#[cfg(feature = "canary")]
#[test]
fn a_server_with_a_known_bug_breaks_a_rule() {
    catch_assertions();
    let (done, failure) = run_seeds(1, RUNS);
    drop(std::panic::take_hook());
    let (seed, broken) = failure.unwrap_or_else(|| panic!("{done} histories broke no rule"));
    eprintln!("after {done} histories, with seed {seed}: {broken}");
    assert_eq!(broken.rule, "reply_waits_for_the_disk");
}
