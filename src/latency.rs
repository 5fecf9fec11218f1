//! Latencies: how long requests and their stages took, in HDR histograms of one shard, since the start and lately.
//!
//! Recording touches one histogram, the newest slot of ten seconds; when a slot is over it is added to the others. So it needs no
//! lock, no allocation and no clock, and costs some nanoseconds. Shards meet only when someone asks: [`Snapshot`].
//!
//! Invariant: what was recorded is in exactly one of `recent[at]` and `total` of its metric.
//!
//! Pure.

use hdrhistogram::{Counter, Histogram};

/// What is measured. Commands count from the turn that received their last byte to the hand-over of their reply to the kernel; what
/// has no reply (`noreply`) is not measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Metric {
    /// A put that was answered `STORED`, or refused.
    Put,
    /// A get that brought a message.
    GetHit,
    /// A get that found none.
    GetMiss,
    /// A get that was willing to wait, with its wait.
    GetWait,
    /// A get that opens a message, with its wait and with the close before it.
    Open,
    /// A confirmation: `q/close` alone, or by the message's id.
    Close,
    /// `q/abort`.
    Abort,
    /// `delete`.
    Delete,
    /// `flush` and `flush_all`.
    Flush,
    /// `db_checkpoint` and `db_archive`.
    Sync,
    /// `stats` in all its forms.
    Stats,
    /// Every other command.
    Other,
    /// From the turn that received a mutation's request to the submission of its journal record: the oldest of a record.
    Collect,
    /// A journal write, sync included.
    Write,
    /// From the turn that received a mutation's request until it is durable: the oldest of a record.
    Commit,
    /// A transaction of the store.
    Checkpoint,
    /// A read of a queue's messages from the store, waiting for the store included.
    Load,
    /// From the hand-over of a request to another shard until its answer is back.
    Forward,
    /// How long a message that was taken had been in its queue.
    Queued,
}

impl Metric {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Metric; 19] = [
        Metric::Put,
        Metric::GetHit,
        Metric::GetMiss,
        Metric::GetWait,
        Metric::Open,
        Metric::Close,
        Metric::Abort,
        Metric::Delete,
        Metric::Flush,
        Metric::Sync,
        Metric::Stats,
        Metric::Other,
        Metric::Collect,
        Metric::Write,
        Metric::Commit,
        Metric::Checkpoint,
        Metric::Load,
        Metric::Forward,
        Metric::Queued,
    ];

    /// Its name in `stats latency` and in labels.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Put => "put",
            Metric::GetHit => "get_hit",
            Metric::GetMiss => "get_miss",
            Metric::GetWait => "get_wait",
            Metric::Open => "open",
            Metric::Close => "close",
            Metric::Abort => "abort",
            Metric::Delete => "delete",
            Metric::Flush => "flush",
            Metric::Sync => "checkpoint_command",
            Metric::Stats => "stats",
            Metric::Other => "other",
            Metric::Collect => "journal_collect",
            Metric::Write => "journal_write",
            Metric::Commit => "commit",
            Metric::Checkpoint => "store_commit",
            Metric::Load => "store_load",
            Metric::Forward => "forward",
            Metric::Queued => "queued",
        }
    }

    /// Whether it is a command's, not a stage's.
    pub fn is_command(self) -> bool {
        (self as usize) < Metric::Collect as usize
    }
}

/// The spans of time that are reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Window {
    /// Since the start, or the last reset.
    Total,
    /// The last 10 s, and up to 10 s more.
    TenSeconds,
    /// The last minute, and up to 10 s more.
    Minute,
    /// The last five minutes, and up to a minute more.
    FiveMinutes,
}

impl Window {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Window; 4] = [Window::Total, Window::TenSeconds, Window::Minute, Window::FiveMinutes];

    /// Its name in `stats latency` and in labels.
    pub fn name(self) -> &'static str {
        match self {
            Window::Total => "total",
            Window::TenSeconds => "10s",
            Window::Minute => "1m",
            Window::FiveMinutes => "5m",
        }
    }
}

/// Whether anything is recorded.
pub const ENABLED: bool = cfg!(feature = "measure");

/// Longest time that is told apart, µs: longer ones count as this. A message's time in its queue may well be longer.
pub const MAX_US: u64 = 30 * 86_400 * 1_000_000;
/// Significant digits: percentiles are right to a hundredth.
const DIGITS: u8 = 2;
/// How long a slot is, ms.
const SLOT_MS: u64 = 10_000;
/// The newest slot, and a minute of full ones.
const RECENT: usize = 7;
/// Minutes: the newest, and five full ones.
const MINUTES: usize = 6;
const SLOTS_PER_MINUTE: u64 = 6;

fn histogram<C: Counter>() -> Histogram<C> {
    Histogram::new_with_bounds(1, MAX_US, DIGITS).expect("the bounds are constant and allowed")
}

/// One shard's latencies.
pub struct Latency {
    metrics: Vec<Slots>,
    /// Number of the newest slot, since the clock's zero.
    slot: u64,
    /// Empty; for sums.
    sum: Histogram<u64>,
}

struct Slots {
    /// All but the newest slot.
    total: Histogram<u64>,
    recent: [Histogram<u32>; RECENT],
    /// Each minute's full slots.
    minutes: [Histogram<u32>; MINUTES],
}

impl Slots {
    fn new() -> Slots {
        Slots {
            total: histogram(),
            recent: std::array::from_fn(|_| histogram()),
            minutes: std::array::from_fn(|_| histogram()),
        }
    }

    fn end(&mut self, slot: u64) {
        let recent = &self.recent[recent_at(slot)];
        add(&mut self.total, recent);
        add(&mut self.minutes[minute_at(slot)], recent);
    }

    fn begin(&mut self, slot: u64) {
        clear(&mut self.recent[recent_at(slot)]);
        if slot.is_multiple_of(SLOTS_PER_MINUTE) {
            clear(&mut self.minutes[minute_at(slot)]);
        }
    }

    fn add_window(&self, window: Window, slot: u64, sum: &mut Histogram<u64>) {
        let newest = &self.recent[recent_at(slot)];
        match window {
            Window::Total => {
                add(sum, &self.total);
                add(sum, newest);
            }
            Window::TenSeconds => {
                add(sum, newest);
                if slot > 0 {
                    add(sum, &self.recent[recent_at(slot - 1)]);
                }
            }
            Window::Minute => self.recent.iter().for_each(|recent| add(sum, recent)),
            Window::FiveMinutes => {
                self.minutes.iter().for_each(|minute| add(sum, minute));
                add(sum, newest);
            }
        }
    }
}

fn recent_at(slot: u64) -> usize {
    (slot % RECENT as u64) as usize
}

fn minute_at(slot: u64) -> usize {
    (slot / SLOTS_PER_MINUTE % MINUTES as u64) as usize
}

/// Adds to a histogram whose counts are no smaller than the other's.
fn add<C: Counter, D: Counter>(sum: &mut Histogram<C>, other: &Histogram<D>) {
    if !other.is_empty() {
        for value in other.iter_recorded() {
            let count = C::from_u64(value.count_at_value().as_u64()).expect("counts fit those they are added to");
            sum.saturating_record_n(value.value_iterated_to(), count);
        }
    }
}

fn clear<C: Counter>(histogram: &mut Histogram<C>) {
    if !histogram.is_empty() {
        histogram.clear();
    }
}

impl Default for Latency {
    fn default() -> Self {
        // What is never recorded needs no room, which is more than a megabyte.
        let metrics: &[Metric] = if ENABLED { &Metric::ALL } else { &[] };
        Latency { metrics: metrics.iter().map(|_| Slots::new()).collect(), slot: 0, sum: histogram() }
    }
}

impl Latency {
    /// Tells what time it is, monotonic ms: what is recorded from now on belongs there.
    pub fn begin_turn(&mut self, mono_ms: u64) {
        let slot = mono_ms / SLOT_MS;
        if ENABLED && slot > self.slot {
            self.go_to(slot);
        }
    }

    #[cold]
    fn go_to(&mut self, slot: u64) {
        // After a longer pause every slot begins anew whether it is passed once or often.
        let first = (self.slot + 1).max(slot.saturating_sub(SLOTS_PER_MINUTE * MINUTES as u64));
        for slots in &mut self.metrics {
            slots.end(self.slot);
            (first..=slot).for_each(|slot| slots.begin(slot));
        }
        self.slot = slot;
    }

    /// Records that `count` of a kind took so long, µs.
    #[inline]
    pub fn record(&mut self, metric: Metric, us: u64, count: u32) {
        if !ENABLED {
            return;
        }
        self.metrics[metric as usize].recent[recent_at(self.slot)].saturating_record_n(us, count);
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        for slots in &mut self.metrics {
            clear(&mut slots.total);
            slots.recent.iter_mut().for_each(clear);
            slots.minutes.iter_mut().for_each(clear);
        }
    }

    /// Writes everything there is, for [`Snapshot::add`]: for each histogram that is not empty its metric, u8, its window, u8, how many
    /// values it has, u32, and then each, u64, with its count, u64.
    pub fn encode(&mut self, out: &mut Vec<u8>) {
        for (metric, slots) in (0..).zip(&self.metrics) {
            for window in Window::ALL {
                slots.add_window(window, self.slot, &mut self.sum);
                if self.sum.is_empty() {
                    continue;
                }
                out.extend_from_slice(&[metric, window as u8]);
                let start = out.len();
                out.extend_from_slice(&[0; 4]);
                let mut len: u32 = 0;
                for value in self.sum.iter_recorded() {
                    out.extend_from_slice(&value.value_iterated_to().to_le_bytes());
                    out.extend_from_slice(&value.count_at_value().to_le_bytes());
                    len += 1;
                }
                out[start..start + 4].copy_from_slice(&len.to_le_bytes());
                self.sum.clear();
            }
        }
    }
}

/// What was recorded, by one shard or by several. Only what is not empty takes memory.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    metrics: [[Option<Box<Histogram<u64>>>; Window::ALL.len()]; Metric::ALL.len()],
}

impl Snapshot {
    /// One metric over one span of time, µs. `None`: nothing was recorded.
    pub fn of(&self, metric: Metric, window: Window) -> Option<&Histogram<u64>> {
        self.metrics[metric as usize][window as usize].as_deref()
    }

    /// Several shards', as [`Latency::encode`] wrote them.
    pub fn sum<B: AsRef<[u8]>>(encoded: impl IntoIterator<Item = B>) -> Snapshot {
        let mut sum = Snapshot::default();
        encoded.into_iter().for_each(|bytes| sum.add(bytes.as_ref()));
        sum
    }

    /// Adds a shard's, as [`Latency::encode`] wrote it.
    pub fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let [metric, window] = take(&mut bytes);
            let sum = &mut self.metrics[usize::from(metric)][usize::from(window)];
            let sum = sum.get_or_insert_with(|| Box::new(histogram()));
            for _ in 0..u32::from_le_bytes(take(&mut bytes)) {
                let value = u64::from_le_bytes(take(&mut bytes));
                sum.saturating_record_n(value, u64::from_le_bytes(take(&mut bytes)));
            }
        }
    }
}

/// The percentiles that are reported: their names, and the shares of all values.
pub const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];

fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (first, rest) = bytes.split_first_chunk().expect("shards of one process agree on the encoding");
    *bytes = rest;
    *first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(latency: &mut Latency) -> Snapshot {
        let (mut bytes, mut snapshot) = (Vec::new(), Snapshot::default());
        latency.encode(&mut bytes);
        snapshot.add(&bytes);
        snapshot
    }

    fn len(latency: &mut Latency, window: Window) -> u64 {
        snapshot(latency).of(Metric::Put, window).map_or(0, |histogram| histogram.len())
    }

    #[test]
    fn windows_forget_what_is_older() {
        let mut latency = Latency::default();
        latency.begin_turn(1);
        latency.record(Metric::Put, 100, 3);
        let windows = [Window::Total, Window::TenSeconds, Window::Minute, Window::FiveMinutes];
        for (at_s, expected) in [
            (0, [3, 3, 3, 3]),
            (9, [3, 3, 3, 3]),
            (19, [3, 3, 3, 3]),
            (20, [3, 0, 3, 3]),
            (69, [3, 0, 3, 3]),
            (70, [3, 0, 0, 3]),
            (359, [3, 0, 0, 3]),
            (360, [3, 0, 0, 0]),
        ] {
            latency.begin_turn(at_s * 1000 + 1);
            assert_eq!(windows.map(|window| len(&mut latency, window)), expected, "after {at_s} s");
        }
    }

    #[test]
    fn a_pause_of_any_length_is_the_same_as_many_turns() {
        for pause_s in [1, 10, 15, 59, 60, 61, 299, 300, 310, 359, 360, 361, 420, 4000, 100_000] {
            let (mut jump, mut steps) = (Latency::default(), Latency::default());
            for latency in [&mut jump, &mut steps] {
                latency.begin_turn(25_000);
                latency.record(Metric::Put, 7, 1);
                latency.begin_turn(35_000);
                latency.record(Metric::Put, 9, 2);
            }
            jump.begin_turn(35_000 + pause_s * 1000);
            (1..=pause_s).for_each(|s| steps.begin_turn(35_000 + s * 1000));
            for window in Window::ALL {
                assert_eq!(len(&mut jump, window), len(&mut steps, window), "{window:?} after {pause_s} s");
            }
            assert_eq!(len(&mut jump, Window::Total), 3);
        }
    }

    #[test]
    fn shards_are_added_exactly() {
        let mut sum = Snapshot::default();
        for us in [0, 1, 2, 127, 128, 1000, 123_456, MAX_US, u64::MAX] {
            let mut latency = Latency::default();
            latency.record(Metric::Write, us, 2);
            let mut bytes = Vec::new();
            latency.encode(&mut bytes);
            sum.add(&bytes);
            sum.add(&bytes);
        }
        let write = sum.of(Metric::Write, Window::TenSeconds).unwrap();
        assert_eq!(write.len(), 9 * 4);
        assert!(sum.of(Metric::Put, Window::Total).is_none());
        assert!(write.max() >= MAX_US);
    }

    #[test]
    fn percentiles_are_right_to_a_hundredth() {
        let mut latency = Latency::default();
        (1..=10_000).for_each(|us| latency.record(Metric::Put, us, 1));
        let snapshot = snapshot(&mut latency);
        let put = snapshot.of(Metric::Put, Window::Total).unwrap();
        for (quantile, expected) in [(0.5, 5000), (0.99, 9900), (0.999, 9990)] {
            let got = put.value_at_quantile(quantile);
            assert!(got.abs_diff(expected) <= expected / 100 + 1, "{quantile}: {got}");
        }
    }

    #[test]
    fn a_reset_forgets_every_window() {
        let mut latency = Latency::default();
        latency.record(Metric::Put, 1, 1);
        latency.begin_turn(SLOT_MS);
        latency.record(Metric::Put, 1, 1);
        latency.reset();
        assert_eq!(Window::ALL.map(|window| len(&mut latency, window)), [0; 4]);
    }

    #[test]
    fn metrics_stand_at_their_places() {
        for (at, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(metric as usize, at);
        }
        for (at, window) in Window::ALL.into_iter().enumerate() {
            assert_eq!(window as usize, at);
        }
    }
}
