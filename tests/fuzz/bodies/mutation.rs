//! Mutations, as journal records have them, and what a store makes of them.
//!
//! Promises: what is decoded is encoded again as it was; a store applies batches or says that they are damaged, and what it has then can be
//! read.

use ringq::ids::{MessageId, Position, Salt, Seq, ShardId};
use ringq::mutation::{Decoder, Mutation};
use ringq::store::memory::MemoryStore;
use ringq::store::{Batch, Error, Load, Store, Taken};

pub fn run(bytes: &[u8]) {
    let mut decoder = Decoder::new(bytes);
    let mut pieces = Vec::new();
    let mut end = 0;
    while let Some(Ok(mutation)) = decoder.next() {
        let mut again = Vec::new();
        mutation.encode(&mut again);
        assert!(again == bytes[end..decoder.offset()], "{mutation:?} is encoded as it was");
        if let Mutation::Put(put) = mutation {
            assert!(put.sealed().is_intact());
            assert_eq!(put.encoded_size(), again.len());
        }
        pieces.push(again);
        end = decoder.offset();
    }
    apply(vec![bytes[..end].to_vec()]);
    apply(pieces);
}

/// Batches with these mutations are brought into an empty store.
fn apply(pieces: Vec<Vec<u8>>) {
    let mut store = MemoryStore::new();
    store.begin_journals(&[Salt([7; 16])]).expect("an empty store");
    let batch = |(at, mutations)| {
        let end = Position { seq: Seq(at as u64 + 2), segment: 0, offset: 4096 };
        Batch { shard: ShardId(0), seq: Seq(at as u64 + 1), mutations, end }
    };
    let batches: Vec<Batch> = pieces.into_iter().enumerate().map(batch).collect();
    let Ok(taken) = Taken::of(&batches) else { return };
    match store.apply(&batches, &taken) {
        Ok(()) => look(&mut store),
        Err(Error::Damaged(_)) => {}
        Err(other) => panic!("{other}"),
    }
}

fn look(store: &mut MemoryStore) {
    store.settle_moves().expect("it is in memory");
    let found = store.recover().expect("it is in memory");
    for row in &found.queues {
        let owner = if row.of.0 == 0 { row.queue } else { row.of };
        let load = Load {
            shard: ShardId(0),
            queue: row.queue,
            of: owner,
            after: MessageId(0),
            below: MessageId(u64::MAX),
            size_max: 1 << 16,
        };
        let _ = store.load(&load);
    }
    while store.tidy().expect("it is in memory") {}
}
