//! Sets of message ids: what a reader passed ahead of older messages may be as many as there are on disk.
//!
//! Ids of a shard come from one counter, so members lie close together: a member costs a bit where they are dense, up to four bytes
//! where they are not, and no set more than a bit for each id from its first to its last. Each 65,536 ids that it has members in cost
//! some 64 bytes besides.

use crate::ids::MessageId;
use roaring::RoaringTreemap;

/// A set of message ids, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MessageSet(RoaringTreemap);

impl Eq for MessageSet {}

impl MessageSet {
    /// How many there are.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The oldest.
    pub fn first(&self) -> Option<MessageId> {
        self.0.min().map(MessageId)
    }

    /// The newest.
    pub fn last(&self) -> Option<MessageId> {
        self.0.max().map(MessageId)
    }

    /// Whether this one is in it.
    pub fn contains(&self, message: MessageId) -> bool {
        self.0.contains(message.0)
    }

    /// Adds one.
    pub fn insert(&mut self, message: MessageId) {
        self.0.insert(message.0);
    }

    /// Takes one out, if it is there.
    pub fn remove(&mut self, message: MessageId) {
        self.0.remove(message.0);
    }

    /// Takes out all older ones.
    pub fn remove_below(&mut self, message: MessageId) {
        self.0.remove_range(..message.0);
    }

    /// Those of this one that are older, or in the other set, too.
    pub fn below_or_in(&self, message: MessageId, other: &MessageSet) -> MessageSet {
        let mut chosen = self.0.clone();
        chosen.remove_range(message.0..);
        chosen |= &self.0 & &other.0;
        MessageSet(chosen)
    }

    /// Those of this one that are not in the other.
    pub fn without(&self, other: &MessageSet) -> MessageSet {
        MessageSet(&self.0 - &other.0)
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = MessageId> {
        self.0.iter().map(MessageId)
    }
}

impl Extend<MessageId> for MessageSet {
    fn extend<T: IntoIterator<Item = MessageId>>(&mut self, messages: T) {
        self.0.extend(messages.into_iter().map(|message| message.0));
    }
}

impl FromIterator<MessageId> for MessageSet {
    fn from_iter<T: IntoIterator<Item = MessageId>>(messages: T) -> Self {
        MessageSet(messages.into_iter().map(|message| message.0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: impl IntoIterator<Item = u64>) -> MessageSet {
        ids.into_iter().map(MessageId).collect()
    }

    #[test]
    fn ranges_of_shards_far_apart_are_one_set_in_order() {
        let far = 3 << 40;
        let mut all = set([far + 2, 7, far + 1]);
        all.insert(MessageId(u64::MAX));
        all.extend([MessageId(9)]);
        assert_eq!(all.iter().collect::<Vec<_>>(), [7, 9, far + 1, far + 2, u64::MAX].map(MessageId));
        assert_eq!((all.len(), all.first(), all.last()), (5, Some(MessageId(7)), Some(MessageId(u64::MAX))));
        all.remove_below(MessageId(far + 2));
        all.remove(MessageId(u64::MAX));
        all.remove(MessageId(8));
        assert_eq!(all, set([far + 2]));
        all.remove_below(MessageId(u64::MAX));
        assert!(all.is_empty() && all == MessageSet::default() && all.first().is_none());
    }

    #[test]
    fn sets_are_compared_with_each_other() {
        let all = set([1, 2, 3, 1 << 40, 2 << 40]);
        let other = set([3, 2 << 40, 5]);
        assert_eq!(all.below_or_in(MessageId(2), &other), set([1, 3, 2 << 40]));
        assert_eq!(all.below_or_in(MessageId(u64::MAX), &set([])), all);
        assert_eq!(all.below_or_in(MessageId(0), &set([])), set([]));
        assert_eq!(all.without(&other), set([1, 2, 1 << 40]));
    }
}
