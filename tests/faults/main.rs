//! Faults of the world around the server: damaged files, full disks, devices that fail.
//!
//! Invariant: the server refuses, waits or ends with a reason; it serves nothing that is wrong, and loses nothing that was acknowledged.

#[path = "../powercut/alone.rs"]
mod alone;
#[path = "../hostile/bound.rs"]
mod bound;
mod clock;
mod control_group;
mod damage;
#[path = "../powercut/device.rs"]
#[allow(dead_code, reason = "shared with the power cuts")]
mod device;
mod device_errors;
#[path = "../it/facts.rs"]
#[allow(dead_code, reason = "shared with the other integration tests, which use all of it")]
mod facts;
mod failing;
mod full;
#[path = "../it/harness.rs"]
#[allow(dead_code, reason = "shared with the other integration tests, which use all of it")]
mod harness;
#[path = "../it/history.rs"]
#[allow(dead_code, reason = "shared with the other integration tests, which use all of it")]
mod history;
mod memory;
mod queue;
#[path = "../it/skips.rs"]
mod skips;
#[path = "../it/traffic.rs"]
#[allow(dead_code, reason = "shared with the other integration tests, which use all of it")]
mod traffic;

use damage::{Original, Outcome};
use std::collections::BTreeMap;
use std::env;
use std::path::Path;

/// Every how many bytes one is damaged.
const STRIDE: &str = "RINGQ_STRIDE";
/// So many bytes are damaged by `cargo test`.
const FEW_BYTES: usize = 20;

#[test]
fn a_bit_turned_over_in_the_journal_is_found_or_harmless() {
    let outcomes = turn_bits(false, "journal/0/segment-0");
    assert!(outcomes.keys().all(|outcome| *outcome <= Outcome::Refused), "{outcomes:?}: which bytes is said above");
}

#[test]
fn a_bit_turned_over_in_the_database_is_found_or_harmless() {
    let outcomes = turn_bits(true, "store/data.mdb");
    assert!(outcomes.keys().all(|outcome| *outcome <= Outcome::Told), "{outcomes:?}: which bytes is said above");
}

/// Whether this is `make faults` and not `cargo test`.
fn is_thorough() -> bool {
    env::var_os(STRIDE).is_some()
}

/// What becomes of a server for each of the bits.
fn turn_bits(is_stopped: bool, path: &str) -> BTreeMap<Outcome, usize> {
    // A start syncs a lot, which is quick in memory.
    let memory = Path::new("/dev/shm");
    let scratch = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let scratch = scratch.expect("a directory");
    let original = Original::new(&scratch.path().join("data"), is_stopped);
    let used = original.used(path);
    let stride = env::var(STRIDE).map_or(used.len() / FEW_BYTES, |value| value.parse().expect("a number"));
    println!("{path}: {} bytes are in use, of which one of {stride} is damaged", used.len());
    let mut outcomes: BTreeMap<Outcome, usize> = BTreeMap::new();
    for offset in used.into_iter().step_by(stride) {
        let (outcome, said) = original.turned(path, offset);
        if outcome > Outcome::Told {
            println!("{path}, a bit of byte {offset}: {outcome:?}: {said}");
        }
        *outcomes.entry(outcome).or_default() += 1;
    }
    println!("{path}: {outcomes:?}");
    outcomes
}
