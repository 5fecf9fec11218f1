//! What the admin listener asks of a shard, and the answers: how it is, its queues page by page, its latencies, and the few actions
//! of an administrator.
//!
//! A question comes by mail and brings the place for its answer, so the shard never waits for who asked; nothing is counted, allocated
//! or kept for it while nobody asks, but for the ends of the last checkpoints.
//!
//! Invariant: an action is answered when what it did is durable, a checkpoint when everything before it is in the store.

use super::Shard;
use crate::engine::QueueView;
use crate::ids::{QueueId, Seq};
use crate::stats::ShardStats;
use std::collections::VecDeque;
use tokio::sync::oneshot;

/// Ends of checkpoints that are kept.
pub const CHECKPOINTS_KEPT: usize = 20;

/// What is asked.
#[derive(Debug)]
pub enum Question {
    /// How the shard is.
    State(oneshot::Sender<Box<State>>),
    /// Its latencies, as [`crate::latency::Latency::encode`] writes them.
    Latencies(oneshot::Sender<Vec<u8>>),
    /// Some of its queues: those from this place on.
    Queues(u32, oneshot::Sender<Page>),
    /// To do something. The answer is whether there was anything to do it to.
    Act(Action, oneshot::Sender<bool>),
}

/// What an administrator may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Drop all messages of a queue.
    Purge(QueueId),
    /// End a queue's life.
    Delete(QueueId),
    /// Bring everything accepted so far to the store.
    Checkpoint,
}

/// Some of a shard's queues.
#[derive(Clone, Debug)]
pub struct Page {
    /// Where it begins.
    pub cursor: u32,
    /// Where the next one begins; 0: there is none.
    pub next: u32,
    /// The queues.
    pub queues: Vec<QueueView>,
}

/// A shard at one moment.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// What it counts and holds.
    pub stats: ShardStats,
    /// How much waits for the store, bytes, and what puts wait at.
    pub pressure: (usize, usize),
    /// Puts are refused, because free space is short.
    pub refuses_puts: bool,
    /// A checkpoint is under way.
    pub is_checkpointing: bool,
    /// The last ones.
    pub checkpoints: VecDeque<Ended>,
}

impl State {
    /// How much waits for the store, as a part of where puts wait.
    pub fn pressure_ratio(&self) -> f64 {
        let (size, size_max) = self.pressure;
        size as f64 / size_max.max(1) as f64
    }
}

/// A checkpoint that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// When, wall clock, ms.
    pub end_ms: u64,
    /// How long it took since it was handed to the store, ms.
    pub took_ms: u64,
}

/// What a shard keeps for its observers.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// When the checkpoint that is under way began, monotonic ms.
    began_ms: Option<u64>,
    ended: VecDeque<Ended>,
    /// Who is answered when this batch is durable.
    until_durable: VecDeque<(Seq, oneshot::Sender<bool>)>,
    /// Who is answered when this batch is in the store.
    until_stored: VecDeque<(Seq, oneshot::Sender<bool>)>,
}

impl Observed {
    /// The newest batch that someone waits to be in the store.
    pub(super) fn checkpoint_wanted(&self) -> Option<Seq> {
        self.until_stored.back().map(|(seq, _)| *seq)
    }

    pub(super) fn on_durable(&mut self, durable: Seq) {
        answer_up_to(&mut self.until_durable, durable);
    }

    pub(super) fn on_stored(&mut self, stored: Seq) {
        answer_up_to(&mut self.until_stored, stored);
    }
}

fn answer_up_to(waiting: &mut VecDeque<(Seq, oneshot::Sender<bool>)>, reached: Seq) {
    while let Some((_, answer)) = waiting.pop_front_if(|(seq, _)| *seq <= reached) {
        let _ = answer.send(true);
    }
}

impl Shard {
    // Who asked may have gone meanwhile: then nobody hears the answer.
    pub(super) fn answer(&mut self, question: Question) {
        match question {
            Question::State(answer) => drop(answer.send(Box::new(self.state()))),
            Question::Latencies(answer) => {
                let mut encoded = Vec::new();
                self.engine.encode_latencies(&mut encoded);
                let _ = answer.send(encoded);
            }
            Question::Queues(cursor, answer) => {
                let mut queues = Vec::new();
                let next = self.engine.queue_views(cursor, &mut queues);
                let _ = answer.send(Page { cursor, next, queues });
            }
            Question::Act(action, answer) => self.act(action, answer),
        }
    }

    fn state(&self) -> State {
        State {
            stats: self.engine.shard_stats(),
            pressure: (self.durability.pressure(self.shared.pressure_share), self.shared.pressure_share),
            refuses_puts: self.engine.refuses_puts(),
            is_checkpointing: self.durability.is_checkpointing(),
            checkpoints: self.observed.ended.clone(),
        }
    }

    fn act(&mut self, action: Action, answer: oneshot::Sender<bool>) {
        let (done, waiting) = match action {
            Action::Purge(queue) => (self.engine.purge_queue(queue), &mut self.observed.until_durable),
            Action::Delete(queue) => (self.engine.delete_queue(queue), &mut self.observed.until_durable),
            Action::Checkpoint => (self.engine.begin_checkpoint(), &mut self.observed.until_stored),
        };
        match done {
            Some(seq) => waiting.push_back((seq, answer)),
            // Another shard may have the queue, and what is in the store is there.
            None => drop(answer.send(action == Action::Checkpoint)),
        }
        // A queue that was empty leaves nothing to wait for.
        self.observed.on_durable(self.engine.durable());
    }

    /// Notes when a checkpoint begins and ends.
    pub(super) fn note_checkpoint(&mut self) {
        let observed = &mut self.observed;
        match (self.durability.is_checkpointing(), observed.began_ms) {
            (true, None) => observed.began_ms = Some(self.now.mono_ms),
            (false, Some(began_ms)) => {
                observed.began_ms = None;
                observed.ended.truncate(CHECKPOINTS_KEPT - 1);
                observed
                    .ended
                    .push_front(Ended { end_ms: self.now.wall_ms, took_ms: self.now.mono_ms.saturating_sub(began_ms) });
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
}
