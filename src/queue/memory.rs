//! The memory of a shard's messages: segments that hold encoded puts back to back.
//!
//! A message in memory is a place: segment and offset. Segments are of two kinds: *appended* ones hold what was put, in order
//! of id over all queues; *loaded* ones hold what the store read back for the head of one queue. A segment is freed,
//! whole, when the last message in it is gone; there is no allocation per message.
//!
//! Invariant: `live` of a segment is the number of queue entries that point into it; a segment with none is either open
//! for appending or free. `used` is the capacity of all segments that are not free.
//!
//! Does not know queues: who spills what to make room is the engine's business.

use crate::ids::{MessageId, QueueId};
use crate::limits::SEGMENT_SIZE;
use crate::mutation::{Decoder, Mutation, Put};
use std::collections::VecDeque;

/// Where a message is in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Index of the segment.
    pub segment: u32,
    /// Offset of the encoded put in it.
    pub offset: u32,
}

/// All segments of one shard.
pub struct Memory {
    segments: Vec<Segment>,
    free: Vec<u32>,
    spare: Vec<Vec<u8>>,
    open: Option<u32>,
    /// Sealed appended segments, oldest first.
    appended: VecDeque<u32>,
    /// Loaded segments, oldest first.
    loaded: VecDeque<u32>,
    used: usize,
}

struct Segment {
    bytes: Vec<u8>,
    live: u32,
    last: MessageId,
}

/// Buffers of freed segments kept for the next ones.
const SPARE_MAX: usize = 4;

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// Nothing in memory.
    pub fn new() -> Self {
        Memory {
            segments: Vec::new(),
            free: Vec::new(),
            spare: Vec::new(),
            open: None,
            appended: VecDeque::new(),
            loaded: VecDeque::new(),
            used: 0,
        }
    }

    /// Bytes held by segments in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Appends a message; it counts as live until [`Memory::release`].
    pub fn append(&mut self, put: &Put<'_>) -> Place {
        let size = put.encoded_size();
        let segment = match self.open {
            Some(open) if self.has_room(open, size) => open,
            _ => self.open_next(size),
        };
        let it = &mut self.segments[segment as usize];
        let offset = u32::try_from(it.bytes.len()).expect("a segment is smaller than 4 GiB");
        Mutation::Put(*put).encode(&mut it.bytes);
        it.live += 1;
        assert!(put.message > it.last, "ids rise over a shard");
        it.last = put.message;
        Place { segment, offset }
    }

    /// Takes in messages that the store read, encoded as puts. All count as live; returns their places in order.
    pub fn load(&mut self, messages: Vec<u8>, mut each: impl FnMut(MessageId, Place)) {
        let segment = self.allocate(messages);
        let mut last = MessageId(0);
        let mut live = 0;
        let mut decoder = Decoder::new(&self.segments[segment as usize].bytes);
        loop {
            let offset = u32::try_from(decoder.offset()).expect("a segment is smaller than 4 GiB");
            match decoder.next() {
                None => break,
                Some(Ok(Mutation::Put(put))) => {
                    assert!(put.message > last, "the store reads in order");
                    last = put.message;
                    live += 1;
                    each(put.message, Place { segment, offset });
                }
                Some(other) => unreachable!("the store loads puts only, not {other:?}"),
            }
        }
        assert!(live > 0, "an empty load is not a segment");
        let it = &mut self.segments[segment as usize];
        it.live = live;
        it.last = last;
        self.loaded.push_back(segment);
    }

    /// The message at a place.
    pub fn message(&self, place: Place) -> Put<'_> {
        let bytes = &self.segments[place.segment as usize].bytes[place.offset as usize..];
        match Decoder::new(bytes).next() {
            Some(Ok(Mutation::Put(put))) => put,
            other => unreachable!("{place:?} holds {other:?}, not a message"),
        }
    }

    /// The encoded form of the message at a place, as it goes into a batch.
    pub fn encoded(&self, place: Place) -> &[u8] {
        let size = self.message(place).encoded_size();
        &self.segments[place.segment as usize].bytes[place.offset as usize..][..size]
    }

    /// One more entry points to the message at a place.
    pub fn retain(&mut self, place: Place) {
        self.segments[place.segment as usize].live += 1;
    }

    /// An entry is gone: its message was taken, dropped, or spilled.
    pub fn release(&mut self, place: Place) {
        let it = &mut self.segments[place.segment as usize];
        it.live -= 1;
        if it.live == 0 {
            if self.open == Some(place.segment) {
                self.used -= it.bytes.capacity();
                it.bytes.clear();
                it.bytes.shrink_to(SEGMENT_SIZE);
                self.used += it.bytes.capacity();
            } else {
                self.free(place.segment);
            }
        }
    }

    /// The newest sealed segment of appended messages all of which have ids below `below`.
    pub fn newest_appended(&mut self, below: MessageId) -> Option<u32> {
        while self.appended.back().is_some_and(|s| self.is_free(*s)) {
            self.appended.pop_back();
        }
        let live = |s: &&u32| !self.is_free(**s) && self.segments[**s as usize].last < below;
        self.appended.iter().rev().find(live).copied()
    }

    /// The oldest segment of loaded messages, unless only `keep` or fewer are left.
    pub fn oldest_loaded(&mut self, keep: usize) -> Option<u32> {
        let segments = &self.segments;
        self.loaded.retain(|s| segments[*s as usize].live > 0);
        if self.loaded.len() > keep { self.loaded.front().copied() } else { None }
    }

    /// Queue and id of every message ever put into a segment, in order, with its place.
    pub fn messages_of(&self, segment: u32) -> Vec<(QueueId, MessageId)> {
        Decoder::new(&self.segments[segment as usize].bytes)
            .map(|mutation| match mutation {
                Ok(Mutation::Put(put)) => (put.queue, put.message),
                other => unreachable!("a segment holds puts only, not {other:?}"),
            })
            .collect()
    }

    /// Whether no live message is left in the segment.
    pub fn is_free(&self, segment: u32) -> bool {
        self.segments[segment as usize].live == 0
    }

    fn has_room(&self, segment: u32, size: usize) -> bool {
        let bytes = &self.segments[segment as usize].bytes;
        bytes.len() + size <= bytes.capacity()
    }

    /// Seals the open segment and opens one with room for `size` bytes.
    fn open_next(&mut self, size: usize) -> u32 {
        if let Some(open) = self.open.take() {
            if self.is_free(open) {
                self.free(open);
            } else {
                self.appended.push_back(open);
            }
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.reserve_exact(size.max(SEGMENT_SIZE));
        let open = self.allocate(bytes);
        self.open = Some(open);
        // Segments freed in the middle are forgotten when they reach an end; this keeps the list as short as the live ones.
        let segments = &self.segments;
        if self.appended.len() > 2 * (segments.len() - self.free.len()) {
            self.appended.retain(|s| segments[*s as usize].live > 0);
        }
        open
    }

    fn allocate(&mut self, bytes: Vec<u8>) -> u32 {
        self.used += bytes.capacity();
        let segment = Segment { bytes, live: 0, last: MessageId(0) };
        match self.free.pop() {
            Some(index) => {
                self.segments[index as usize] = segment;
                index
            }
            None => {
                self.segments.push(segment);
                u32::try_from(self.segments.len() - 1).expect("fewer than 2^32 segments")
            }
        }
    }

    fn free(&mut self, index: u32) {
        let it = &mut self.segments[index as usize];
        let mut bytes = std::mem::take(&mut it.bytes);
        self.used -= bytes.capacity();
        it.last = MessageId(0);
        self.appended.retain(|s| *s != index);
        self.loaded.retain(|s| *s != index);
        self.free.push(index);
        if self.spare.len() < SPARE_MAX && (SEGMENT_SIZE..=2 * SEGMENT_SIZE).contains(&bytes.capacity()) {
            bytes.clear();
            self.spare.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(message: u64, body: &[u8]) -> Put<'_> {
        Put { queue: QueueId(1), message: MessageId(message), put_ms: 0, flags: 0, expires_ms: 0, crc32c: 0, body }
    }

    #[test]
    fn a_segment_is_freed_with_its_last_message() {
        let mut memory = Memory::new();
        let body = vec![b'x'; SEGMENT_SIZE / 2 - 100];
        let places: Vec<Place> = (1..=6).map(|n| memory.append(&put(n, &body))).collect();
        assert_eq!(memory.used(), 3 * SEGMENT_SIZE);
        assert_eq!(memory.message(places[3]).message, MessageId(4));
        memory.release(places[0]);
        assert_eq!(memory.used(), 3 * SEGMENT_SIZE);
        memory.release(places[1]);
        assert_eq!(memory.used(), 2 * SEGMENT_SIZE);
        places[2..].iter().for_each(|p| memory.release(*p));
        assert_eq!(memory.used(), SEGMENT_SIZE, "the open segment stays");
        assert_eq!(memory.newest_appended(MessageId(100)), None);
    }

    #[test]
    fn a_large_message_has_a_segment_of_its_own_size() {
        let mut memory = Memory::new();
        let body = vec![b'x'; 3 * SEGMENT_SIZE];
        let place = memory.append(&put(1, &body));
        assert_eq!(memory.message(place).body.len(), body.len());
        let small = memory.append(&put(2, b"s"));
        assert_ne!(place.segment, small.segment);
        memory.release(place);
        assert_eq!(memory.used(), SEGMENT_SIZE);
        memory.release(small);
    }

    #[test]
    fn the_newest_segment_below_an_id_is_found() {
        let mut memory = Memory::new();
        let body = vec![b'x'; SEGMENT_SIZE - 100];
        let places: Vec<Place> = (1..=4).map(|n| memory.append(&put(n, &body))).collect();
        assert_eq!(memory.newest_appended(MessageId(1)), None);
        assert_eq!(memory.newest_appended(MessageId(3)), Some(places[1].segment));
        assert_eq!(memory.newest_appended(MessageId(9)), Some(places[2].segment), "the open one is never spilled");
        memory.release(places[2]);
        assert_eq!(memory.newest_appended(MessageId(9)), Some(places[1].segment));
    }

    #[test]
    fn loaded_messages_are_found_at_their_places() {
        let mut memory = Memory::new();
        let mut bytes = Vec::new();
        for n in 1..=3 {
            Mutation::Put(put(n, b"body")).encode(&mut bytes);
        }
        let mut places = Vec::new();
        memory.load(bytes, |id, place| places.push((id, place)));
        assert_eq!(places.len(), 3);
        assert_eq!(memory.message(places[1].1).message, places[1].0);
        assert_eq!(memory.oldest_loaded(1), None);
        assert_eq!(memory.oldest_loaded(0), Some(places[0].1.segment));
        places.iter().for_each(|(_, p)| memory.release(*p));
        assert_eq!(memory.used(), 0);
        assert_eq!(memory.oldest_loaded(0), None);
    }
}
