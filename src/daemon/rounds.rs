//! Rounds: a question that goes to all shards, and what has come back.
//!
//! Shards answer between two turns, so a round also tells which shard does not get to the end of one. Several may be under way, one
//! for each purpose at most, except for reloads.
//!
//! Invariant: a round is over when every shard has answered or ended and the store has answered if it was asked, or when it is given
//! up; then it is handed out once.

use crate::ids::ShardId;
use crate::shard::{Inquiry, Snapshot};
use std::time::Instant;

/// Why all shards were asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// `-S`.
    Stats,
    /// SIGUSR1.
    Dump,
    /// systemd wants to hear that everything is alive.
    Watchdog,
    /// Settings have been sent out; who answers has them.
    Reload,
}

/// What one shard has said.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Missing,
    /// Its thread is over.
    Ended,
    Given(Box<Snapshot>),
}

/// One round.
#[derive(Debug)]
pub(super) struct Round {
    number: u64,
    pub(super) purpose: Purpose,
    /// By shard.
    pub(super) answers: Vec<Answer>,
    /// The store thread has not answered.
    store_missing: bool,
    give_up: Option<Instant>,
}

impl Round {
    fn is_over(&self) -> bool {
        !self.store_missing && !self.answers.iter().any(|answer| matches!(answer, Answer::Missing))
    }

    /// The snapshots there are.
    pub(super) fn snapshots(&self) -> impl Iterator<Item = (ShardId, &Snapshot)> {
        (0..).map(ShardId).zip(&self.answers).filter_map(|(shard, answer)| match answer {
            Answer::Given(snapshot) => Some((shard, &**snapshot)),
            _ => None,
        })
    }

    /// Whether the store thread was asked and has not answered. The first shard asks it: if that is silent, nothing is known of it.
    pub(super) fn store_is_silent(&self) -> bool {
        self.store_missing && !matches!(self.answers.first(), Some(Answer::Missing))
    }

    /// Who has not answered, in words.
    pub(super) fn missing(&self) -> String {
        let shards = (0..).zip(&self.answers).filter(|(_, answer)| matches!(answer, Answer::Missing));
        let mut names: Vec<String> = shards.map(|(shard, _): (u16, _)| format!("shard {shard}")).collect();
        if self.store_is_silent() {
            names.push("the store thread".into());
        }
        names.join(", ")
    }
}

/// All rounds that are under way.
pub(super) struct Rounds {
    /// By shard, whether its thread has ended.
    ended: Vec<bool>,
    under_way: Vec<Round>,
    next: u64,
}

impl Rounds {
    pub(super) fn new(shards: usize) -> Rounds {
        Rounds { ended: vec![false; shards], under_way: Vec::new(), next: 1 }
    }

    /// Begins a round. Returns what to ask whom.
    pub(super) fn begin(
        &mut self,
        purpose: Purpose,
        queues: usize,
        give_up: Option<Instant>,
    ) -> Vec<(ShardId, Inquiry)> {
        let number = self.next;
        self.next += 1;
        let answer = |ended: &bool| if *ended { Answer::Ended } else { Answer::Missing };
        let answers: Vec<Answer> = self.ended.iter().map(answer).collect();
        let store_missing = !self.ended[0];
        self.under_way.push(Round { number, purpose, answers, store_missing, give_up });
        let asked = (0..).map(ShardId).zip(&self.ended).filter(|(_, ended)| !**ended);
        asked.map(|(shard, _)| (shard, Inquiry { number, queues, asks_store: shard == ShardId(0) })).collect()
    }

    /// The round for this purpose that is under way.
    pub(super) fn under_way(&self, purpose: Purpose) -> Option<&Round> {
        self.under_way.iter().find(|round| round.purpose == purpose)
    }

    pub(super) fn on_snapshot(&mut self, shard: ShardId, number: u64, snapshot: Box<Snapshot>) {
        if let Some(round) = self.round(number) {
            round.answers[usize::from(shard.0)] = Answer::Given(snapshot);
        }
    }

    pub(super) fn on_store(&mut self, number: u64) {
        if let Some(round) = self.round(number) {
            round.store_missing = false;
        }
    }

    /// A shard has ended: nobody waits for it any more, nor, if it was the first, for the store it would have asked.
    pub(super) fn on_ended(&mut self, shard: ShardId) {
        self.ended[usize::from(shard.0)] = true;
        for round in &mut self.under_way {
            let answer = &mut round.answers[usize::from(shard.0)];
            if matches!(answer, Answer::Missing) {
                *answer = Answer::Ended;
            }
            round.store_missing &= shard != ShardId(0);
        }
    }

    /// The next round that is over.
    pub(super) fn take_over(&mut self, now: Instant) -> Option<Round> {
        let is_over = |round: &Round| round.is_over() || round.give_up.is_some_and(|at| at <= now);
        let at = self.under_way.iter().position(is_over)?;
        Some(self.under_way.remove(at))
    }

    /// When a round is given up next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.under_way.iter().filter_map(|round| round.give_up).min()
    }

    fn round(&mut self, number: u64) -> Option<&mut Round> {
        self.under_way.iter_mut().find(|round| round.number == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn snapshot() -> Box<Snapshot> {
        Box::default()
    }

    #[test]
    fn a_round_is_over_when_all_shards_and_the_store_have_answered() {
        let mut rounds = Rounds::new(2);
        let now = Instant::now();
        let asked = rounds.begin(Purpose::Watchdog, 0, None);
        let of = |shard, asks_store| (ShardId(shard), Inquiry { number: 1, queues: 0, asks_store });
        assert_eq!(asked, [of(0, true), of(1, false)]);
        rounds.on_snapshot(ShardId(0), 1, snapshot());
        rounds.on_store(1);
        assert!(rounds.take_over(now).is_none());
        assert_eq!(rounds.under_way(Purpose::Watchdog).unwrap().missing(), "shard 1");
        rounds.on_snapshot(ShardId(1), 1, snapshot());
        assert_eq!(rounds.take_over(now).unwrap().snapshots().count(), 2);
        assert!(rounds.take_over(now).is_none() && rounds.under_way(Purpose::Watchdog).is_none());
    }

    #[test]
    fn a_silent_store_is_named_when_its_shard_has_answered() {
        let mut rounds = Rounds::new(1);
        rounds.begin(Purpose::Watchdog, 0, None);
        assert_eq!(rounds.under_way(Purpose::Watchdog).unwrap().missing(), "shard 0");
        rounds.on_snapshot(ShardId(0), 1, snapshot());
        assert_eq!(rounds.under_way(Purpose::Watchdog).unwrap().missing(), "the store thread");
    }

    #[test]
    fn nobody_waits_for_a_shard_that_has_ended() {
        let mut rounds = Rounds::new(2);
        rounds.begin(Purpose::Stats, 0, None);
        rounds.on_ended(ShardId(0));
        assert!(rounds.take_over(Instant::now()).is_none());
        rounds.on_ended(ShardId(1));
        assert!(rounds.take_over(Instant::now()).is_some());
        assert!(rounds.begin(Purpose::Stats, 0, None).is_empty());
        assert_eq!(rounds.take_over(Instant::now()).unwrap().snapshots().count(), 0);
    }

    #[test]
    fn a_round_is_given_up_at_its_time_and_late_answers_are_nobodys() {
        let mut rounds = Rounds::new(1);
        let now = Instant::now();
        let at = now + Duration::from_secs(1);
        rounds.begin(Purpose::Dump, 0, Some(at));
        assert!(rounds.take_over(now).is_none());
        assert_eq!(rounds.next_due(), Some(at));
        assert_eq!(rounds.take_over(at).unwrap().missing(), "shard 0");
        rounds.on_snapshot(ShardId(0), 1, snapshot());
        rounds.on_store(1);
        assert!(rounds.take_over(at).is_none() && rounds.next_due().is_none());
    }
}
