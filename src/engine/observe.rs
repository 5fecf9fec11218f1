//! What an observer sees of a shard, and what an administrator may do to it: the admin listener's side of the engine.
//!
//! Invariant: one call takes bounded time, however many queues there are.

use super::{Engine, QueueView};
use crate::ids::{QueueId, Seq};
use crate::limits::{ADMIN_ASKED_LEN_MAX, ADMIN_PAGE_LEN_MAX};

impl Engine {
    /// Adds views of this shard's queues from `cursor` on. Returns where to go on, or 0 at the end.
    pub fn queue_views(&mut self, cursor: u32, out: &mut Vec<QueueView>) -> u32 {
        let first = cursor as usize;
        let end = self.shelves.len().min(first.saturating_add(ADMIN_PAGE_LEN_MAX));
        let loads_before = self.stats.loads;
        for index in first..end {
            if self.shelves[index].is_none() {
                continue;
            }
            let index = index as u32;
            let may_ask = self.stats.loads - loads_before < ADMIN_ASKED_LEN_MAX;
            let oldest_put_ms = if may_ask { self.oldest_put_ms(index) } else { self.known_oldest_put_ms(index) };
            out.push(self.view_queue(index, oldest_put_ms));
        }
        if end < self.shelves.len() { end as u32 } else { 0 }
    }

    /// Writes this shard's latencies, for [`crate::latency::Snapshot::add`].
    pub fn encode_latencies(&mut self, out: &mut Vec<u8>) {
        self.latency.encode(out);
    }

    /// The newest durable batch.
    pub fn durable(&self) -> Seq {
        self.durable
    }

    /// Whether puts are refused because free space is short.
    pub fn refuses_puts(&self) -> bool {
        self.refusing_puts
    }

    /// Drops all messages of a queue, which stays. Returns the batch that must be durable for it. `None`: this shard has no such queue.
    pub fn purge_queue(&mut self, queue: QueueId) -> Option<Seq> {
        let index = *self.by_id.get(&queue)?;
        self.journal_passing_of(queue);
        self.purge(index);
        Some(self.newest())
    }

    /// Ends a queue's life, as `delete` does.
    pub fn delete_queue(&mut self, queue: QueueId) -> Option<Seq> {
        let name = self.shelf(*self.by_id.get(&queue)?).queue.name.clone();
        self.delete(&name);
        Some(self.newest())
    }

    /// The batch that must be in the store for everything accepted so far to be there. `None`: it is there.
    pub fn begin_checkpoint(&mut self) -> Option<Seq> {
        self.journal_passing();
        self.count_passed();
        Some(self.newest()).filter(|newest| *newest > self.stored)
    }
}
