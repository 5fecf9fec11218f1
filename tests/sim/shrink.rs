//! From a history that breaks a rule to a short one that breaks the same: steps are taken out as long as it stays broken.
//!
//! Invariant: what comes out was run, and breaks the rule.

use crate::plan::Plan;
use std::time::Duration;
use std::time::Instant;

/// Takes out ever smaller pieces, until none can go or the time is over. `is_broken` runs a history and says whether it breaks the rule.
pub fn shrink(plan: &Plan, time: Duration, mut is_broken: impl FnMut(&Plan) -> bool) -> Plan {
    let end = Instant::now() + time;
    let mut shortest = plan.clone();
    let mut piece = shortest.actions.len() / 2;
    while piece > 0 {
        let mut at = 0;
        let mut went = false;
        while at < shortest.actions.len() && Instant::now() < end {
            let mut shorter = shortest.clone();
            shorter.actions.drain(at..(at + piece).min(shorter.actions.len()));
            if is_broken(&shorter) {
                shortest = shorter;
                went = true;
            } else {
                at += piece;
            }
        }
        // With single steps it goes on until a round takes none.
        if piece > 1 || !went || Instant::now() >= end {
            piece /= 2;
        }
    }
    shortest
}

#[test]
fn what_is_left_is_what_it_takes() {
    use crate::action::Action;
    let mut plan = Plan::of(3);
    plan.actions = (0..300).map(|shard| Action::Turn { shard }).collect();
    let needs = [7, 8, 250].map(|shard| Action::Turn { shard });
    let shortest = shrink(&plan, Duration::from_secs(60), |it| needs.iter().all(|step| it.actions.contains(step)));
    assert_eq!(shortest.actions, needs);
}
