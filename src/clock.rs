//! Time as a value. Pure code is told what time it is; it never asks.

/// One reading of the clocks, taken once a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Monotonic, milliseconds since some fixed moment: for waits and timeouts.
    pub mono_ms: u64,
    /// The same moment in microseconds: for what is measured.
    pub mono_us: u64,
    /// Wall clock, milliseconds since the epoch: for what is stored.
    pub wall_ms: u64,
}
