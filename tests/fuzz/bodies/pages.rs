//! A database that was damaged in several places at once, as no accident would do it. Four bytes each are a place: where, and which bits.
//!
//! Promises: it is refused, or read without harm; whatever is loaded from it was put.

use ringq::ids::{MessageId, Position, QueueId, Salt, Seq, ShardId};
use ringq::mutation::{Decoder, Mutation, Put, Why};
use ringq::store::lmdb::{Lmdb, LmdbConfig};
use ringq::store::{Batch, Load, Store, Taken};
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

const QUEUE: QueueId = QueueId(1);
const GROUP: QueueId = QueueId(3);
const MESSAGES: u64 = 60;

/// Damage is done in so many places at most.
const PLACES_MAX: usize = 16;

pub fn run(bytes: &[u8]) {
    static ORIGINAL: OnceLock<Vec<u8>> = OnceLock::new();
    let mut file = ORIGINAL.get_or_init(original).clone();
    for place in bytes.chunks_exact(4).take(PLACES_MAX) {
        let [low, middle, high, bits] = *place else { continue };
        // Most of a page is room; its beginning and its end are not.
        let page = usize::from(u16::from_le_bytes([low, middle & 15])) % (file.len() / 4096);
        let at = usize::from(high) * 8 + usize::from(middle >> 5);
        let at = if at < 1024 { at } else { at + 2048 };
        file[page * 4096 + at] ^= bits;
    }
    let directory = tempfile::Builder::new().prefix("ringq-fuzz-").tempdir().expect("a temporary directory");
    fs::create_dir(directory.path().join("store")).expect("a directory");
    fs::write(directory.path().join("store/data.mdb"), file).expect("a file");
    let Ok(mut store) = open(directory.path()) else { return };
    let Ok(recovered) = store.recover() else { return };
    for row in recovered.queues {
        let of = if row.of.0 == 0 { row.queue } else { row.of };
        let (after, below) = (MessageId(0), MessageId(u64::MAX));
        let load = Load { shard: ShardId(0), queue: row.queue, of, after, below, size_max: 1 << 20 };
        let Ok(loaded) = store.load(&load) else { continue };
        for mutation in Decoder::new(&loaded.messages) {
            match mutation.expect("what was loaded can be read") {
                Mutation::Put(read) => {
                    assert_eq!(read, put(read.queue, read.message), "{} was never put", read.message)
                }
                other => panic!("a load brought {other:?}"),
            }
        }
    }
    // Writing follows the tree, too.
    if store.settle_moves().is_ok() {
        while store.tidy().is_ok_and(|is_more| is_more) {}
    }
}

fn open(directory: &Path) -> Result<Lmdb, ringq::store::Error> {
    Lmdb::open(directory, &LmdbConfig { map_size: 1 << 30 })
}

/// The message that was put with these ids.
fn put(queue: QueueId, message: MessageId) -> Put<'static> {
    static BODY: [u8; 9000] = [b'x'; 9000];
    let body = &BODY[..if message.0.is_multiple_of(20) { 9000 } else { message.0 as usize * 3 }];
    Put { queue, message, put_ms: 3, flags: 4, expires_ms: message.0 % 2, crc32c: 0, body }.sealed()
}

/// A database with rows of every kind and free pages.
fn original() -> Vec<u8> {
    let directory = tempfile::Builder::new().prefix("ringq-fuzz-").tempdir().expect("a temporary directory");
    let mut store = open(directory.path()).expect("a new database");
    store.begin_journals(&[Salt([7; 16])]).expect("an empty store");
    let mut seq = 1;
    let mut apply = |mutations: &[Mutation<'_>]| {
        let mut bytes = Vec::new();
        mutations.iter().for_each(|mutation| mutation.encode(&mut bytes));
        let end = Position { seq: Seq(seq + 1), segment: 0, offset: 4096 };
        let batches = [Batch { shard: ShardId(0), seq: Seq(seq), mutations: bytes, end }];
        store.apply(&batches, &Taken::none()).expect("a batch that can be");
        seq += 1;
    };
    let create = |queue, name| Mutation::Create { queue, created_ms: 1, name };
    apply(&[create(QUEUE, b"a"), create(QueueId(2), b"b"), create(QueueId(4), b"gone")]);
    for first in (1..MESSAGES).step_by(6) {
        let puts: Vec<_> = (first..first + 6)
            .flat_map(|message| [1, 2, 4].map(|queue| Mutation::Put(put(QueueId(queue), MessageId(message)))))
            .collect();
        apply(&puts);
    }
    let (number, why, target) = (1, Why::Expired, &b"b"[..]);
    let message = MessageId;
    apply(&[
        Mutation::Take { queue: QUEUE, message: message(1) },
        Mutation::Take { queue: QUEUE, message: message(9) },
        Mutation::Corrupt { queue: QUEUE, message: message(11) },
        Mutation::Put(put(QUEUE, message(MESSAGES + 9))),
        Mutation::Configure { name: b"a", settings: b"max_age=9" },
        Mutation::Delete { queue: QueueId(4) },
    ]);
    apply(&[Mutation::Put(put(QUEUE, message(MESSAGES + 5)))]);
    apply(&[
        Mutation::Group { queue: GROUP, of: QUEUE, created_ms: 2, offered: MESSAGES - 1, name: b"a/group=g" },
        Mutation::Pass { queue: GROUP, message: message(14), low: message(2), why: Why::Got },
        Mutation::Return { queue: GROUP, message: message(15), deliveries: 3 },
        Mutation::Move { queue: GROUP, message: message(16), number, why, target },
        Mutation::Accept { source: QUEUE, number, target },
    ]);
    drop(store);
    fs::read(directory.path().join("store/data.mdb")).expect("the database")
}
