//! What a queue's settings say of its groups: with `groups_only` its messages are for them and for nobody else; with `group_timeout` one
//! that nobody asks for a message ends.
//!
//! Plain readers of a queue for its groups only find nothing. While it has no group it keeps its messages for the first. With groups
//! its plain reader, one of those who must pass a message before it goes, passes each with its put, and what it had before is dropped for it.
//!
//! When a group ends is looked at when that may be, and then moved on if somebody has asked meanwhile: so asking costs nothing, and
//! without such groups there is no timer.
//!
//! Invariant: where there are groups, the plain reader of a queue for groups only has nothing; a group whose queue has a timeout is in
//! `due`. After a start or a reload both hold when what is listed for later is done.

use super::{Engine, Notice, Shelf};
use crate::ids::QueueId;
use crate::limits::GROUPS_SETTLED_LEN_MAX;
use std::collections::{BTreeSet, VecDeque};

/// What is to be done without being asked for.
#[derive(Default)]
pub(super) struct GroupRules {
    /// Queues whose settings may say something else of groups than before, with what follows still to be done.
    unsettled: VecDeque<QueueId>,
    /// Groups, by when it is looked at whether they end, monotonic ms.
    due: BTreeSet<(u64, QueueId)>,
}

impl GroupRules {
    /// When a group may end, monotonic ms.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Whether something was left for the next turn.
    pub(super) fn has_unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// A group that was to be looked at then is gone.
    pub(super) fn forget(&mut self, group: QueueId, ends_ms: u64) {
        self.due.remove(&(ends_ms, group));
    }
}

impl Engine {
    /// After a start. The configuration file may say something else than before, and it is not known what time it is.
    pub(super) fn begin_group_rules(&mut self) {
        for index in 0..self.shelves.len() {
            let shelf = self.shelves[index].as_ref().expect("nothing has gone yet");
            if shelf.fan.is_some() && shelf.group_rule() != (false, 0) {
                self.settle_groups_later(index as u32);
            }
        }
    }

    /// The settings of a queue, or of a group with its queue, may say something else of groups than before: there are many such queues.
    pub(super) fn settle_groups_later(&mut self, index: u32) {
        let shelf = self.shelf(index);
        if shelf.of.is_none() {
            let queue = shelf.queue.id;
            self.group_rules.unsettled.push_back(queue);
        }
    }

    /// Does what was left for later, as much as fits a turn.
    pub(super) fn settle_unsettled_groups(&mut self) {
        for _ in 0..GROUPS_SETTLED_LEN_MAX {
            if self.is_batch_full() {
                return;
            }
            let Some(queue) = self.group_rules.unsettled.pop_front() else { return };
            if let Some(&index) = self.by_id.get(&queue) {
                self.settle_groups(index);
            }
        }
    }

    /// Does what follows from what the settings of a queue say of groups, which may be something else than before.
    pub(super) fn settle_groups(&mut self, of: u32) {
        self.leave_to_groups(of);
        let shelf = self.shelf(of);
        if !shelf.is_for_groups() {
            self.serve_line(of);
        } else if !shelf.waiters.is_empty() {
            let (name, waiters) = (shelf.queue.name.clone(), std::mem::take(&mut shelf.waiters));
            self.dismiss_waiters(&name, waiters);
        }
        for group in self.readers_of(of).into_iter().skip(1) {
            self.set_group_end(group);
        }
    }

    /// What the plain reader of a queue has goes for it, if messages are for groups only and there are some.
    pub(super) fn leave_to_groups(&mut self, of: u32) {
        let shelf = self.shelf(of);
        if shelf.is_for_groups() && shelf.fan.is_some() && shelf.queue.counters.present() > 0 {
            self.purge_reader(of);
            self.sweep(of);
        }
    }

    /// Says when a group ends if nobody asks it for a message until then.
    pub(super) fn set_group_end(&mut self, group: u32) {
        let now_ms = self.now.mono_ms;
        let shelf = self.shelf(group);
        if shelf.asked_ms == 0 || shelf.is_being_asked() {
            shelf.asked_ms = now_ms;
        }
        let (_, timeout_s) = shelf.group_rule();
        let at_ms = shelf.asked_ms.saturating_add(timeout_s.saturating_mul(1000));
        let ends_ms = if timeout_s == 0 { 0 } else { at_ms };
        let before = std::mem::replace(&mut shelf.ends_ms, ends_ms);
        let queue = shelf.queue.id;
        if before != ends_ms {
            self.group_rules.due.remove(&(before, queue));
        }
        if ends_ms > 0 {
            self.group_rules.due.insert((ends_ms, queue));
        }
    }

    /// Ends the groups that nobody has asked for a message for so long, as many as fit a turn.
    pub(super) fn end_groups(&mut self) {
        let now_ms = self.now.mono_ms;
        for _ in 0..GROUPS_SETTLED_LEN_MAX {
            let Some((_, queue)) = self.group_rules.due.first().copied().filter(|(at, _)| *at <= now_ms) else {
                return;
            };
            if self.is_batch_full() {
                return;
            }
            let index = self.by_id[&queue];
            self.set_group_end(index);
            let shelf = self.shelf(index);
            if shelf.ends_ms <= now_ms {
                let queue = shelf.queue.name.to_vec();
                self.effects.notices.push(Notice::GroupEnded { queue });
                self.stats.groups_ended += 1;
                self.drop_group(index);
            }
        }
    }

    /// Checks what settings say of groups against how these are. For tests.
    pub(super) fn assert_group_rules_consistent(&self) {
        let rules = &self.group_rules;
        let mut due = 0;
        for shelf in self.shelves.iter().flatten() {
            let of = shelf.of.map_or(shelf, |of| self.shelves[of as usize].as_ref().expect("a group has a queue"));
            if rules.unsettled.contains(&of.queue.id) {
                due += usize::from(shelf.ends_ms > 0);
                continue;
            }
            let is_left = !shelf.is_for_groups() || shelf.fan.is_none() || shelf.queue.counters.present() == 0;
            assert!(is_left, "what is for groups only is not for the plain reader");
            let is_due = rules.due.contains(&(shelf.ends_ms, shelf.queue.id));
            let has_end = shelf.of.is_some() && shelf.group_rule().1 > 0;
            assert_eq!((is_due, shelf.ends_ms > 0), (has_end, has_end), "a group with a timeout is looked at");
            due += usize::from(is_due);
        }
        assert_eq!(due, rules.due.len(), "a group is looked at once");
    }
}

impl Shelf {
    /// Whether it is a queue whose messages are for its groups, not for plain readers.
    pub(super) fn is_for_groups(&self) -> bool {
        self.of.is_none() && self.group_rule().0
    }

    /// What the settings say of groups: that messages are for them only, and when one ends that nobody asks, s; 0: never.
    pub(super) fn group_rule(&self) -> (bool, u64) {
        self.settings.as_ref().map_or((false, 0), |settings| (settings.groups_only, settings.group_timeout_s))
    }

    /// Whether somebody waits for a message of it, or has one open.
    fn is_being_asked(&self) -> bool {
        self.line.is_some() || !self.waiters.is_empty() || self.queue.open_len() > 0
    }
}
