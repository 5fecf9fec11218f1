//! Faults of the world around the server: damaged files, full disks, devices that fail.
//!
//! Invariant: the server refuses, waits or ends with a reason; it serves nothing that is wrong, and loses nothing that was acknowledged.

#[path = "../powercut/alone.rs"]
mod alone;
mod clock;
mod damage;
#[path = "../powercut/device.rs"]
#[allow(dead_code, reason = "shared with the power cuts")]
mod device;
mod device_errors;
mod failing;
mod full;
#[path = "../it/harness.rs"]
#[allow(dead_code, reason = "shared with the other integration tests, which use all of it")]
mod harness;
mod queue;
#[path = "../it/skips.rs"]
mod skips;

use damage::{Original, Outcome};
use std::collections::BTreeMap;

#[test]
fn a_bit_turned_over_in_the_database_is_found_or_harmless() {
    turn_bits(true, "store/data.mdb");
}

#[test]
fn a_bit_turned_over_in_the_journal_is_found_or_harmless() {
    turn_bits(false, "journal/0/segment-0");
}

fn turn_bits(is_stopped: bool, path: &str) {
    let stride = std::env::var("RINGQ_STRIDE").map_or(1009, |value| value.parse().expect("a number"));
    let scratch = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let original = Original::new(&scratch.path().join("data"), is_stopped);
    println!("{path}: {} bytes, {} in use", original.size(path), original.used(path));
    let mut outcomes: BTreeMap<Outcome, usize> = BTreeMap::new();
    for offset in (0..original.used(path)).step_by(stride) {
        let (outcome, said) = original.turned(path, offset);
        if outcome >= Outcome::Wrong {
            println!("{path} at byte {offset}: {outcome:?}: {said}");
        }
        *outcomes.entry(outcome).or_default() += 1;
    }
    println!("{path}: {outcomes:?}");
}
