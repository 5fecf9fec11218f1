//! How many messages a second come to a queue and leave it.
//!
//! Two marks of its counters are kept, the older at least ten seconds back once it is as old as that: rates are counted from it. They
//! move when the queue is used or asked for, so an unused queue costs nothing.

use super::counters::Counters;

/// How far apart the marks are, ms.
const SPAN_MS: u64 = 10_000;

/// A queue's marks.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    older: Mark,
    newer: Mark,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    at_ms: u64,
    puts: u64,
    gets: u64,
}

impl Mark {
    fn new(now_ms: u64, counters: &Counters) -> Mark {
        Mark { at_ms: now_ms, puts: counters.puts, gets: counters.gets }
    }
}

impl Meter {
    /// Of a queue that begins, or is known, from now on; monotonic ms.
    pub fn new(now_ms: u64, counters: &Counters) -> Meter {
        let mark = Mark::new(now_ms, counters);
        Meter { older: mark, newer: mark }
    }

    /// The queue is about to be used.
    #[inline]
    pub fn roll(&mut self, now_ms: u64, counters: &Counters) {
        if now_ms >= self.newer.at_ms + SPAN_MS {
            self.older = self.newer;
            self.newer = Mark::new(now_ms, counters);
        }
    }

    /// Puts and gets a second, over the last ten to twenty seconds if the queue was used in them.
    pub fn rates(&mut self, now_ms: u64, counters: &Counters) -> (f64, f64) {
        self.roll(now_ms, counters);
        let span_s = now_ms.saturating_sub(self.older.at_ms).max(1000) as f64 / 1000.0;
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / span_s;
        (rate(counters.puts, self.older.puts), rate(counters.gets, self.older.gets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(puts: u64, gets: u64) -> Counters {
        Counters { puts, gets, ..Counters::default() }
    }

    #[test]
    fn rates_follow_the_queue() {
        let mut meter = Meter::new(0, &counters(1000, 1000));
        assert_eq!(meter.rates(100, &counters(1005, 1000)), (5.0, 0.0), "of a second at least");
        for s in 1..=60 {
            meter.roll(s * 1000, &counters(1000 + s * 20, 1000 + s * 10));
        }
        assert_eq!(meter.rates(60_000, &counters(2200, 1600)), (20.0, 10.0));
        assert_eq!(meter.rates(69_999, &counters(2200, 1600)).0.round(), 10.0);
        assert_eq!(meter.rates(80_000, &counters(2200, 1600)), (0.0, 0.0));
    }

    #[test]
    fn counters_that_begin_anew_are_no_rate() {
        let mut meter = Meter::new(0, &counters(10, 10));
        assert_eq!(meter.rates(5000, &counters(0, 0)), (0.0, 0.0));
    }
}
