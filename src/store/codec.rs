//! The database's rows, read and written again: a door to the layout for tests that feed it arbitrary bytes. The server does not use it.
//!
//! Invariant: what [`rewritten`] gives is made from what was understood, and from nothing else of the bytes.

use super::layout::{self, Row};
use super::run::{self, Index, RUN_SIZE_MAX, Run};
use crate::ids::{MessageId, QueueId, ShardId};

/// What a row is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A message by itself.
    Record,
    /// Messages packed together.
    Run,
    /// What has left a run.
    Holes,
    /// A queue.
    Queue,
    /// A message on its way to another queue.
    Move,
    /// What a queue has accepted from others.
    Accepted,
    /// How far a shard's journal is in the store.
    Journal,
    /// The mark of a queue that is being removed.
    Drop,
}

/// Key and value of a row.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The row as it is written by who has read it. `None`: it is refused.
pub fn rewritten(kind: Kind, key: &[u8], value: &[u8]) -> Option<Pair> {
    match kind {
        Kind::Record => {
            let (queue, message) = ids(key)?;
            let key = layout::message_key(queue, message).to_vec();
            Some((key, record(queue, message, value)?))
        }
        Kind::Run => {
            let (queue, first) = ids(key)?;
            Some((layout::message_key(queue, first).to_vec(), packed(queue, first, value)?))
        }
        Kind::Holes => {
            let (queue, first) = ids(key)?;
            let (mut holes, mut again) = (Vec::new(), Vec::new());
            run::decode_holes(queue, first, value, &mut holes).then_some(())?;
            run::encode_holes(queue, first, &holes, &mut again);
            Some((layout::message_key(queue, first).to_vec(), again))
        }
        Kind::Queue => {
            let row = Row::decode(key, value)?;
            Some((row.name.clone(), row.encode().to_vec()))
        }
        Kind::Move => {
            let (queue, number) = ids(key)?;
            let (message, why, target) = layout::decode_move(value)?;
            Some((layout::message_key(queue, number).to_vec(), layout::encode_move(message, why, target)))
        }
        Kind::Accepted => {
            let row = layout::decode_accepted(key, value)?;
            Some((layout::accepted_key(row.source, &row.target), row.number.to_le_bytes().to_vec()))
        }
        Kind::Journal => {
            let row = layout::decode_journal(layout::shard_of_journal_key(key)?, value)?;
            Some((layout::journal_key(row.shard).to_vec(), layout::encode_journal(&row).to_vec()))
        }
        Kind::Drop => Some((layout::drop_key(layout::queue_of_drop_key(key)?).to_vec(), Vec::new())),
    }
}

fn ids(key: &[u8]) -> Option<(QueueId, MessageId)> {
    let queue = QueueId(u64::from_be_bytes(*key.first_chunk()?));
    Some((queue, layout::message_of_key(queue, key)?))
}

fn record(queue: QueueId, message: MessageId, value: &[u8]) -> Option<Vec<u8>> {
    let put = layout::decode_record(queue, message, value)?;
    assert_eq!(layout::body_size(value), put.body.len() as u64, "a sound record's body has the size that is counted");
    assert_eq!(layout::encoded_size(value), put.encoded_size(), "and its put has");
    Some([layout::record_header(&put).as_ref(), put.body].concat())
}

/// A run, message by message.
fn packed(queue: QueueId, first: MessageId, value: &[u8]) -> Option<Vec<u8>> {
    let run = Run::decode(queue, first, value)?;
    let (mut index, mut records) = (Index::default(), Vec::new());
    index.begin(first);
    for at in 0..run.len() {
        let (id, bytes) = (run.id(at), run.record(at));
        assert_eq!((run.position(id), run.find(id)), (at, Some(bytes)), "message {id} is found where it is");
        // Whatever a record says, no more bytes may seem to leave than came.
        assert!(layout::body_size(bytes) <= bytes.len() as u64);
        if !index.push(id, bytes.len()) {
            assert!(value.len() > RUN_SIZE_MAX, "a run of {} bytes is written as one", value.len());
            return Some(value.to_vec());
        }
        records.extend_from_slice(bytes);
    }
    assert_eq!((run.last(), run.size()), (run.id(run.len() - 1), records.len()));
    Some([index.seal(queue), &records].concat())
}

/// Key of a shard's journal.
pub fn journal_key(shard: ShardId) -> Vec<u8> {
    layout::journal_key(shard).to_vec()
}

/// Key that marks a queue which is being removed.
pub fn drop_key(queue: QueueId) -> Vec<u8> {
    layout::drop_key(queue).to_vec()
}
