//! The tests of the simulator, and what a failure says: the history by its seed, and the shortest that breaks the same rule, as a file.

use crate::checks::Broken;
use crate::plan::Plan;
use crate::trial::Trial;
use crate::{RUNS, catch_assertions, run, run_seeds, shrink};
use std::path::PathBuf;
use std::time::Duration;

/// How long a history is made shorter, s.
const SHRINK_S: u64 = 60;

/// Whether it is the same that is broken: the rule, and which of the server's own assertions.
fn is_same(one: &Broken, other: &Broken) -> bool {
    let place = |it: &Broken| it.what.split(": ").next().map(str::to_owned);
    one.rule == other.rule && (one.rule != "server_keeps_its_own_invariants" || place(one) == place(other))
}

/// Makes a broken history short, writes it down, and says how to play it.
fn report(seed: Option<u64>, plan: &Plan, broken: &Broken) -> String {
    let seed = seed.map_or("history".to_owned(), |seed| format!("seed-{seed}"));
    let replay = seed.strip_prefix("seed-").map(|seed| format!("\nreplay: make sim SEED={seed}")).unwrap_or_default();
    eprintln!("{broken}{replay}\nmaking it short, at most {SHRINK_S} s");
    let time = Duration::from_secs(SHRINK_S);
    let shortest = shrink::shrink(plan, time, |it| run(it).is_err_and(|other| is_same(broken, &other)));
    let broken = run(&shortest).expect_err("it was seen to be broken");
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{seed}.txt"));
    std::fs::write(&path, format!("# {}\n{shortest}", broken.to_string().replace('\n', " ")))
        .expect("a place to write");
    let steps = shortest.actions.len();
    format!("{broken}{replay}\n{steps} of {} steps are enough: make sim HISTORY={}", plan.actions.len(), path.display())
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Histories that broke a rule once.
#[test]
fn histories_that_broke_a_rule_break_none_now() {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sim/histories")).expect("they are there");
    let mut count = 0;
    for file in files {
        let path = file.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("a history");
        let plan: Plan = text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Trial::run(&plan).unwrap_or_else(|broken| panic!("{}: {broken}", path.display()));
        count += 1;
    }
    assert!(count > 0, "none was found");
}

#[test]
fn histories_break_no_rule() {
    catch_assertions();
    if let Some(path) = std::env::var_os("RINGQ_SIM_HISTORY") {
        let text = std::fs::read_to_string(path).expect("a history");
        let plan: Plan = text.parse().unwrap_or_else(|error| panic!("{error}"));
        let outcome = run(&plan);
        drop(std::panic::take_hook());
        return outcome.unwrap_or_else(|broken| panic!("{broken}"));
    }
    let (first, runs) = (number("RINGQ_SEED").unwrap_or(1), number("RINGQ_RUNS"));
    let runs = runs.unwrap_or(if std::env::var_os("RINGQ_SEED").is_some() { 1 } else { RUNS });
    let (done, failure) = run_seeds(first, runs);
    let report = failure.map(|(seed, broken)| report(Some(seed), &Plan::of(seed), &broken));
    drop(std::panic::take_hook());
    eprintln!("{done} histories, seeds from {first} on");
    if let Some(report) = report {
        panic!("after {done} histories: {report}");
    }
}
