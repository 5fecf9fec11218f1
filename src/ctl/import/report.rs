//! What an import has done so far: counts, a progress bar on a terminal, the summary.

use std::collections::BTreeMap;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::super::output::{line, shown, table};

/// Messages of one queue that the destination has.
#[derive(Clone, Copy, Default, Debug)]
struct Moved {
    messages: u64,
    bytes: u64,
}

pub(super) struct Report {
    queues: BTreeMap<Vec<u8>, Moved>,
    /// Messages that the source handed out and that cannot be stored.
    skipped: u64,
    /// Something was or may have been left out.
    is_partial: bool,
    /// Draws on standard error if that is a terminal, and nothing otherwise.
    bar: ProgressBar,
}

impl Report {
    pub(super) fn new() -> Report {
        let bar = ProgressBar::new_spinner();
        Report { queues: BTreeMap::new(), skipped: 0, is_partial: false, bar }
    }

    /// So many messages are expected to come.
    pub(super) fn expect(&self, messages: u64) {
        let style = ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len}  {eta} left  {msg}");
        self.bar.set_style(style.expect("a template without mistakes"));
        self.bar.set_length(self.bar.position() + messages);
    }

    pub(super) fn begin(&mut self, queue: &[u8]) {
        self.queues.entry(queue.into()).or_default();
        self.bar.set_message(shown(queue));
    }

    /// The destination has one more message.
    pub(super) fn moved(&mut self, queue: &[u8], size: usize) {
        let moved = self.queues.entry(queue.into()).or_default();
        moved.messages += 1;
        moved.bytes += size as u64;
        self.bar.inc(1);
    }

    /// The source has handed out something that is no message.
    pub(super) fn skipped(&mut self, queue: &[u8], why: &str) {
        self.skipped += 1;
        self.left_out(&format!("queue {}: skipped {why}", shown(queue)));
    }

    /// Something was or may have been left out.
    pub(super) fn left_out(&mut self, what: &str) {
        self.is_partial = true;
        self.warn(what);
    }

    pub(super) fn is_partial(&self) -> bool {
        self.is_partial
    }

    pub(super) fn warn(&self, text: &str) {
        self.bar.suspend(|| eprintln!("ringqctl: {text}"));
    }

    pub(super) fn close_bar(&self) {
        self.bar.finish_and_clear();
    }

    /// What was done, as text or JSON; `is_finished`: the source's queues are empty.
    pub(super) fn summary(&self, source: &str, spooled: usize, is_finished: bool, json: bool) -> String {
        let messages: u64 = self.queues.values().map(|moved| moved.messages).sum();
        let bytes: u64 = self.queues.values().map(|moved| moved.bytes).sum();
        if json {
            let row = |(queue, moved): (&Vec<u8>, &Moved)| json!({ "queue": shown(queue), "messages": moved.messages, "bytes": moved.bytes });
            let queues: Vec<Value> = self.queues.iter().map(row).collect();
            return line(&json!({
                "source": source, "queues": queues, "messages": messages, "bytes": bytes,
                "skipped": self.skipped, "spooled": spooled, "finished": is_finished,
            }));
        }
        let header = ["QUEUE", "MESSAGES", "BYTES"].map(String::from);
        let row =
            |(queue, moved): (&Vec<u8>, &Moved)| [shown(queue), moved.messages.to_string(), moved.bytes.to_string()];
        let total = format!("imported {messages} messages, {bytes} bytes\n");
        table(std::iter::once(header).chain(self.queues.iter().map(row)).collect()) + &total
    }
}
