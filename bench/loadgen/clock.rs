//! The clock of a run: nanoseconds since the moment all connections were ready.
//!
//! Every time in the load generator (due, sent, answered, deadline) is on this one scale, so that times of different
//! threads can be compared. It does not wait; waiting is the ring's.

use std::time::Instant;

/// One second in the clock's unit.
pub const SECOND_NS: u64 = 1_000_000_000;

/// Counts nanoseconds from the start of the run.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: Instant,
}

impl Clock {
    /// A clock that reads zero now.
    pub fn start() -> Clock {
        Clock { epoch: Instant::now() }
    }

    /// Nanoseconds since the start.
    pub fn now_ns(&self) -> u64 {
        // 584 years fit.
        self.epoch.elapsed().as_nanos() as u64
    }
}
