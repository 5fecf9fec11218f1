//! How often one kind of line may be said: a few a period, and then one line that says how many there were besides.
//!
//! Invariant: it asks for time only while something is to be summed up, so it wakes nobody who has nothing to say. Pure.

use tracing::Level;

/// Lines of one kind that are said in a period. The first ones show what it is; more of them show nothing new.
pub const LINES_MAX: u32 = 5;

/// How long a period is, ms: a flood costs a line every few seconds, and its end is known soon.
pub const PERIOD_MS: u64 = 10_000;

/// Counts lines by kind. One for each thread that has something to say.
#[derive(Debug, Default)]
pub struct Limiter {
    /// A few: searched from the front.
    kinds: Vec<Kind>,
}

#[derive(Debug)]
struct Kind {
    name: &'static str,
    level: Level,
    /// When its period began, ms.
    since_ms: u64,
    said: u32,
    withheld: u64,
}

/// Lines of one kind that were not said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Withheld {
    /// Which kind.
    pub name: &'static str,
    /// How serious they are.
    pub level: Level,
    /// How many.
    pub count: u64,
}

impl Limiter {
    /// Whether a line of this kind is to be said now. A kind's first line begins its period.
    pub fn admits(&mut self, name: &'static str, level: Level, now_ms: u64) -> bool {
        let kind = self.kind(name, level, now_ms);
        if kind.withheld == 0 && kind.ends_ms() <= now_ms {
            (kind.since_ms, kind.said) = (now_ms, 0);
        }
        if kind.said == LINES_MAX {
            kind.withheld += 1;
            return false;
        }
        kind.said += 1;
        true
    }

    /// When [`Limiter::take_due`] has something, ms.
    pub fn next_deadline(&self) -> Option<u64> {
        self.kinds.iter().filter(|kind| kind.withheld > 0).map(Kind::ends_ms).min()
    }

    /// A kind whose period is over and of which lines were withheld; its next line begins a new period.
    pub fn take_due(&mut self, now_ms: u64) -> Option<Withheld> {
        let kind = self.kinds.iter_mut().find(|kind| kind.withheld > 0 && kind.ends_ms() <= now_ms)?;
        kind.said = 0;
        Some(Withheld { name: kind.name, level: kind.level, count: std::mem::take(&mut kind.withheld) })
    }

    fn kind(&mut self, name: &'static str, level: Level, now_ms: u64) -> &mut Kind {
        let known = self.kinds.iter().position(|kind| kind.name == name);
        let at = known.unwrap_or_else(|| {
            self.kinds.push(Kind { name, level, since_ms: now_ms, said: 0, withheld: 0 });
            self.kinds.len() - 1
        });
        &mut self.kinds[at]
    }
}

impl Kind {
    fn ends_ms(&self) -> u64 {
        self.since_ms + PERIOD_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(limiter: &mut Limiter, name: &'static str, times: u32, now_ms: u64) -> u32 {
        (0..times).map(|_| u32::from(limiter.admits(name, Level::WARN, now_ms))).sum()
    }

    #[test]
    fn a_flood_is_a_few_lines_and_their_number() {
        let mut limiter = Limiter::default();
        assert_eq!(admitted(&mut limiter, "a", 1000, 7), LINES_MAX);
        assert_eq!(limiter.next_deadline(), Some(7 + PERIOD_MS));
        assert_eq!(limiter.take_due(6 + PERIOD_MS), None, "its period is not over");
        let withheld = Withheld { name: "a", level: Level::WARN, count: u64::from(1000 - LINES_MAX) };
        assert_eq!(limiter.take_due(7 + PERIOD_MS), Some(withheld));
        assert_eq!((limiter.take_due(u64::MAX), limiter.next_deadline()), (None, None));
        assert_eq!(admitted(&mut limiter, "a", 10, 8 + PERIOD_MS), LINES_MAX, "a new period");
    }

    #[test]
    fn a_few_lines_are_all_said_and_ask_for_no_time() {
        let mut limiter = Limiter::default();
        for now_ms in (0..100).map(|n| n * PERIOD_MS / u64::from(LINES_MAX)) {
            assert_eq!(admitted(&mut limiter, "a", 1, now_ms), 1, "at {now_ms}");
            assert_eq!(limiter.next_deadline(), None);
        }
    }

    #[test]
    fn kinds_are_counted_apart() {
        let mut limiter = Limiter::default();
        assert_eq!(admitted(&mut limiter, "a", 6, 0), LINES_MAX);
        assert_eq!(admitted(&mut limiter, "b", 7, 1), LINES_MAX);
        assert_eq!(limiter.next_deadline(), Some(PERIOD_MS));
        let due: Vec<_> = std::iter::from_fn(|| limiter.take_due(2 * PERIOD_MS)).map(|w| (w.name, w.count)).collect();
        assert_eq!(due, [("a", 1), ("b", 2)]);
    }

    #[test]
    fn what_was_withheld_is_told_before_a_new_period_begins() {
        let mut limiter = Limiter::default();
        admitted(&mut limiter, "a", 6, 0);
        // Late by a period, and the flood goes on meanwhile.
        assert_eq!(admitted(&mut limiter, "a", 1, 2 * PERIOD_MS), 0);
        assert_eq!(limiter.take_due(2 * PERIOD_MS).map(|w| w.count), Some(2));
        assert_eq!(admitted(&mut limiter, "a", 6, 2 * PERIOD_MS), LINES_MAX);
    }
}
