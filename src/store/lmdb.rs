//! The store in LMDB: opening it, reading it, and what is done to it when no one waits. Writing batches is in [`apply`].
//!
//! The database lies in the directory `store` inside the data directory and is laid out as docs/STORAGE.md tables it.
//! Every commit is flushed to the device before it returns (no NOSYNC, NOMETASYNC or WRITEMAP), so what was applied
//! survives a power cut. A read transaction lives for one load, because a page it can see is a page LMDB cannot reuse.
//!
//! Invariant: `rows`, `purged`, `dropped` and `ids_end` say what the newest committed transaction says. They change only
//! after a commit succeeded. After a failed one nothing is written any more: what the kernel dropped is not known.
//!
//! Step 6 to 7 of a message's path, and the way back for messages that were too many for memory.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use foldhash::fast::RandomState;
use heed::types::Bytes;
use heed::{CommitOrAbort, Env, EnvOpenOptions, MdbError, RwTxn, WithoutTls};

use super::directory::{create_durably, sync_entries};
use super::layout::{self, MessageKey, Row, message_key};
use super::{Batch, Error, Load, Loaded, QueueRow, Recovered, Store};
use crate::ids::{MessageId, QueueId};
use crate::mutation::Mutation;

mod apply;

type Database = heed::Database<'static, Bytes, Bytes>;

/// Address space asked for unless the caller says otherwise: more than any file system in reach, since it costs nothing.
const MAP_SIZE_DEFAULT: u64 = 1 << 40;

/// Below this a map is no longer worth starting with.
const MAP_SIZE_MIN: u64 = 16 << 30;

/// Named databases the file may hold: four now, with room for later formats' without another limit to change.
const DATABASES_MAX: u32 = 16;

/// Rows one [`Store::tidy`] removes. A slice of small rows takes a few milliseconds, which is what a commit takes.
const TIDY_ROWS_MAX: usize = 10_000;

/// Bytes of rows one [`Store::tidy`] removes: large rows lie in pages of their own, each a page to free.
const TIDY_SIZE_MAX: usize = 16 << 20;

/// How the database is opened.
#[derive(Clone, Copy, Debug)]
pub struct LmdbConfig {
    /// Address space for the map in bytes, which bounds the size of the database. Halved until the system grants it, but
    /// not below 16 GiB unless it began there.
    pub map_size: u64,
}

impl Default for LmdbConfig {
    fn default() -> Self {
        LmdbConfig { map_size: MAP_SIZE_DEFAULT }
    }
}

/// The daemon's store.
pub struct Lmdb {
    env: Env<WithoutTls>,
    databases: Databases,
    path: PathBuf,
    rows: HashMap<QueueId, Row, RandomState>,
    /// Queues with rows of purged messages that tidying has to remove.
    purged: BTreeSet<QueueId>,
    /// Deleted queues with rows that tidying has to remove.
    dropped: BTreeSet<QueueId>,
    ids_end: u64,
    failed: bool,
}

#[derive(Clone, Copy)]
struct Databases {
    meta: Database,
    queues: Database,
    messages: Database,
    corrupt: Database,
}

impl Lmdb {
    /// Opens the database in `directory/store`, creating both where they are missing. The caller holds the lock of
    /// `directory` ([`super::directory::DataDirectory`]) and does not fork afterwards.
    ///
    /// # Errors
    /// [`Error::Unusable`] when the directory, the file or its format cannot be used, [`Error::Damaged`] when its contents
    /// contradict themselves, [`Error::Io`] when it cannot be read.
    pub fn open(directory: &Path, config: &LmdbConfig) -> Result<Lmdb, Error> {
        let path = directory.join("store");
        create_durably(&path)?;
        let env = open_env(&path, config.map_size)?;
        let databases = open_databases(&env, &path)?;
        // LMDB syncs the file it may just have created, not the entry that names it.
        sync_entries(&path)?;
        let mut store = Lmdb {
            env,
            databases,
            path,
            rows: HashMap::default(),
            purged: BTreeSet::new(),
            dropped: BTreeSet::new(),
            ids_end: 0,
            failed: false,
        };
        store.read_meta()?;
        store.read_queues()?;
        Ok(store)
    }

    fn read_meta(&mut self) -> Result<(), Error> {
        const OPERATION: &str = "reading the database's meta data";
        let txn = self.env.read_txn().map_err(failure(OPERATION))?;
        for entry in self.databases.meta.iter(&txn).map_err(failure(OPERATION))? {
            let (key, value) = entry.map_err(failure(OPERATION))?;
            if let Some(queue) = layout::queue_of_drop_key(key) {
                self.dropped.insert(queue);
            } else if key == layout::IDS_KEY {
                let end = value.try_into().map_err(|_| Error::Damaged("the end of the ids is not a u64".into()))?;
                self.ids_end = u64::from_le_bytes(end);
            }
        }
        Ok(())
    }

    fn read_queues(&mut self) -> Result<(), Error> {
        const OPERATION: &str = "reading the database's queues";
        let txn = self.env.read_txn().map_err(failure(OPERATION))?;
        for entry in self.databases.queues.iter(&txn).map_err(failure(OPERATION))? {
            let (name, value) = entry.map_err(failure(OPERATION))?;
            let damaged = |what: &str| Error::Damaged(format!("queue {}: {what}", name.escape_ascii()));
            let row = Row::decode(name, value).ok_or_else(|| damaged("its row cannot be read"))?;
            if self.dropped.contains(&row.queue) {
                return Err(damaged("it is marked as deleted"));
            }
            if row.purged_below.0 > 0 {
                self.purged.insert(row.queue);
            }
            if let Some(other) = self.rows.insert(row.queue, row) {
                return Err(damaged(&format!("queue {} has the same id", other.name.escape_ascii())));
            }
        }
        Ok(())
    }

    /// Removes rows of `database` between two keys, both included, as far as the budget goes; whether none is left.
    fn remove_rows(
        &self,
        txn: &mut RwTxn<'_>,
        database: Database,
        keys: [MessageKey; 2],
        budget: &mut Budget,
    ) -> Result<bool, heed::Error> {
        let mut doomed: Vec<MessageKey> = Vec::new();
        let mut is_last = true;
        for entry in database.range(txn, &(Bound::Included(&keys[0][..]), Bound::Included(&keys[1][..])))? {
            let (key, value) = entry?;
            if !budget.spend(value.len()) {
                is_last = false;
                break;
            }
            // A key of another size sorts into the range only when the file is damaged, and then it is not ours to remove.
            doomed.extend(MessageKey::try_from(key));
        }
        for key in &doomed {
            database.delete(txn, key)?;
        }
        Ok(is_last)
    }

    /// One slice of the work [`Store::tidy`] does: which queues have no doomed rows any more.
    fn remove_slice(&self, txn: &mut RwTxn<'_>) -> Result<Tidied, heed::Error> {
        let mut budget = Budget { rows: TIDY_ROWS_MAX, size: TIDY_SIZE_MAX };
        let mut tidied = Tidied::default();
        for &queue in &self.dropped {
            let all = [message_key(queue, MessageId(0)), message_key(queue, MessageId(u64::MAX))];
            if !self.remove_rows(txn, self.databases.messages, all, &mut budget)?
                || !self.remove_rows(txn, self.databases.corrupt, all, &mut budget)?
            {
                return Ok(tidied);
            }
            self.databases.meta.delete(txn, &layout::drop_key(queue))?;
            tidied.dropped.push(queue);
        }
        for &queue in &self.purged {
            let mut row = self.rows[&queue].clone();
            let last = MessageId(row.purged_below.0 - 1);
            let keys = [message_key(queue, MessageId(0)), message_key(queue, last)];
            if !self.remove_rows(txn, self.databases.messages, keys, &mut budget)? {
                return Ok(tidied);
            }
            row.purged_below = MessageId(0);
            self.databases.queues.put(txn, &row.name, &row.encode())?;
            tidied.purged.push(row);
        }
        Ok(tidied)
    }

    fn try_tidy(&mut self) -> Result<(), Error> {
        const OPERATION: &str = "removing rows of deleted messages";
        let mut txn = self.env.write_txn().map_err(failure(OPERATION))?;
        let tidied = self.remove_slice(&mut txn).map_err(failure(OPERATION))?;
        txn.commit().map_err(failure(OPERATION))?;
        for queue in tidied.dropped {
            self.dropped.remove(&queue);
        }
        for row in tidied.purged {
            self.purged.remove(&row.queue);
            self.rows.insert(row.queue, row);
        }
        Ok(())
    }

    /// Flips one byte of a stored record, as a failing device would.
    #[cfg(test)]
    pub(super) fn flip_byte(&mut self, queue: QueueId, message: MessageId, offset: usize) {
        let mut txn = self.env.write_txn().unwrap();
        let key = message_key(queue, message);
        let mut record = self.databases.messages.get(&txn, &key).unwrap().unwrap().to_vec();
        record[offset] ^= 1;
        self.databases.messages.put(&mut txn, &key, &record).unwrap();
        txn.commit().unwrap();
    }
}

impl Store for Lmdb {
    fn apply(&mut self, batches: &[Batch]) -> Result<(), Error> {
        assert!(!self.failed, "a store that failed is not written to again");
        let result = self.try_apply(batches);
        self.failed = result.is_err();
        result
    }

    fn load(&mut self, load: &Load) -> Result<Loaded, Error> {
        const OPERATION: &str = "reading messages";
        let mut loaded = Loaded { reached: load.after, ..Loaded::default() };
        // A deleted queue's rows may still lie there.
        let Some(row) = self.rows.get(&load.queue) else { return Ok(loaded) };
        let first = MessageId(load.after.0.saturating_add(1)).max(row.purged_below);
        if first >= load.below {
            return Ok(loaded);
        }
        let (from, to) = (message_key(load.queue, first), message_key(load.queue, load.below));
        let txn = self.env.read_txn().map_err(failure(OPERATION))?;
        let range = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
        let mut size = 0;
        for entry in self.databases.messages.range(&txn, &range).map_err(failure(OPERATION))? {
            let (key, record) = entry.map_err(failure(OPERATION))?;
            // Damaged records count too: a load must stay bounded when there are many of them.
            size += crate::mutation::PUT_HEADER_SIZE + record.len().saturating_sub(layout::RECORD_HEADER_SIZE);
            if size > load.size_max && loaded.reached != load.after {
                break;
            }
            let message = layout::message_of_key(key)
                .ok_or_else(|| Error::Damaged(format!("queue {}: a message's key has another size", load.queue)))?;
            match layout::decode_record(load.queue, message, record).filter(|put| put.is_intact()) {
                Some(put) => Mutation::Put(put).encode(&mut loaded.messages),
                None => loaded.corrupt.push(message),
            }
            loaded.reached = message;
        }
        Ok(loaded)
    }

    fn recover(&mut self) -> Result<Recovered, Error> {
        let mut queues: Vec<QueueRow> = self.rows.values().map(queue_row).collect();
        queues.sort_unstable_by_key(|row| row.queue);
        Ok(Recovered { queues, ids_end: self.ids_end })
    }

    fn tidy(&mut self) -> Result<bool, Error> {
        assert!(!self.failed, "a store that failed is not written to again");
        if self.dropped.is_empty() && self.purged.is_empty() {
            return Ok(false);
        }
        let result = self.try_tidy();
        self.failed = result.is_err();
        result.map(|()| !self.dropped.is_empty() || !self.purged.is_empty())
    }

    fn free_size(&self) -> u64 {
        match rustix::fs::statvfs(&self.path) {
            Ok(vfs) => vfs.f_bavail.saturating_mul(vfs.f_frsize),
            // A file system that cannot say how much room it has is not one to take more messages on.
            Err(_) => 0,
        }
    }
}

/// What a slice of tidying finished.
#[derive(Default)]
struct Tidied {
    dropped: Vec<QueueId>,
    purged: Vec<Row>,
}

/// What a slice of tidying may still remove.
struct Budget {
    rows: usize,
    size: usize,
}

impl Budget {
    /// Whether a row of `size` bytes may go. The last one may be larger than what is left, so that every slice gets on.
    fn spend(&mut self, size: usize) -> bool {
        if self.rows == 0 || self.size == 0 {
            return false;
        }
        self.rows -= 1;
        self.size = self.size.saturating_sub(size);
        true
    }
}

fn queue_row(row: &Row) -> QueueRow {
    QueueRow { name: row.name.clone(), queue: row.queue, created_ms: row.created_ms, counters: row.counters }
}

/// Maps the file, with as much address space as the system grants.
fn open_env(path: &Path, map_size: u64) -> Result<Env<WithoutTls>, Error> {
    for size in map_sizes(map_size) {
        match open_env_sized(path, size) {
            Err(heed::Error::Io(e)) if e.raw_os_error() == Some(libc::ENOMEM) => {}
            result => return result.map_err(|e| unopened(path, e)),
        }
    }
    Err(Error::Unusable(format!(
        "{}: the system grants no address space of {} bytes for the database: lift the limit on virtual memory (ulimit -v, \
         vm.overcommit_memory)",
        path.display(),
        map_size.min(MAP_SIZE_MIN),
    )))
}

/// The map sizes to try, largest first, in whole pages of any size.
fn map_sizes(map_size: u64) -> impl Iterator<Item = u64> {
    let first = map_size.max(1 << 20).next_multiple_of(1 << 16);
    std::iter::successors(Some(first), |size| {
        let smaller = 1 << (size - 1).ilog2();
        (smaller >= MAP_SIZE_MIN).then_some(smaller)
    })
}

fn open_env_sized(path: &Path, map_size: u64) -> Result<Env<WithoutTls>, heed::Error> {
    let map_size = usize::try_from(map_size).unwrap_or(usize::MAX & !0xffff);
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map_size).max_dbs(DATABASES_MAX);
    // The kernel's read-ahead stays on: a backlog that has left the page cache is read in key order, and without it that is
    // one device read a page, several times slower, with the store thread waiting.
    //
    // SAFETY: the map is sound as long as only LMDB changes the file below it. The file lies in the data directory, which
    // the caller has locked against other daemons; LMDB's own lock file orders access with LMDB's tools.
    unsafe { options.open(path) }
}

/// Opens the named databases, creating them in an empty file; refuses a file of another format before anything changes.
fn open_databases(env: &Env<WithoutTls>, path: &Path) -> Result<Databases, Error> {
    const OPERATION: &str = "opening the database";
    let is_empty = env.unnamed_database_stat().entries == 0;
    let txn = env.write_txn().map_err(failure(OPERATION))?;
    let opened = env
        .create_databases_and_commit(txn, |opener, txn| -> Result<_, heed::Error> {
            if !is_empty {
                let Some(meta) = opener.open_database::<Bytes, Bytes>(txn, Some("meta"))? else {
                    return Ok(CommitOrAbort::Abort(foreign(path)));
                };
                if let Err(error) = check_format(meta.get(txn, layout::FORMAT_KEY)?, path) {
                    return Ok(CommitOrAbort::Abort(error));
                }
            }
            let meta = opener.create_database::<Bytes, Bytes>(txn, Some("meta"))?;
            let queues = opener.create_database::<Bytes, Bytes>(txn, Some("queues"))?;
            let messages = opener.create_database::<Bytes, Bytes>(txn, Some("messages"))?;
            let corrupt = opener.create_database::<Bytes, Bytes>(txn, Some("corrupt"))?;
            if is_empty {
                meta.put(txn, layout::FORMAT_KEY, &layout::FORMAT.to_le_bytes())?;
            }
            Ok(CommitOrAbort::Commit((meta, queues, messages, corrupt)))
        })
        .map_err(failure(OPERATION))?;
    let (meta, queues, messages, corrupt) = Result::from(opened)?;
    Ok(Databases { meta, queues, messages, corrupt })
}

fn check_format(stored: Option<&[u8]>, path: &Path) -> Result<(), Error> {
    let Some(Ok(bytes)) = stored.map(TryInto::try_into) else { return Err(foreign(path)) };
    let stored = u32::from_le_bytes(bytes);
    if stored == layout::FORMAT {
        return Ok(());
    }
    Err(Error::Unusable(format!(
        "the database in {} has format {stored}, this ringq reads and writes format {}: start it with the release that \
         wrote it, or choose another directory with -H",
        path.display(),
        layout::FORMAT,
    )))
}

fn foreign(path: &Path) -> Error {
    Error::Unusable(format!(
        "the database in {} was not written by ringq: choose another directory with -H",
        path.display()
    ))
}

/// An error of opening the file, in the operator's terms.
fn unopened(path: &Path, error: heed::Error) -> Error {
    let path = path.display();
    match error {
        heed::Error::Mdb(MdbError::Invalid | MdbError::VersionMismatch) => Error::Unusable(format!(
            "{path}/data.mdb is not a database this ringq can read: move it away, or choose another directory with -H"
        )),
        heed::Error::EnvAlreadyOpened => Error::Unusable(format!("the database in {path} is already open here")),
        heed::Error::Io(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            Error::Unusable(format!("the database in {path} cannot be opened: {e}. Check the owner of the files in it"))
        }
        error => failure("opening the database")(error),
    }
}

/// Says whose fault an error of LMDB is.
fn failure(operation: &'static str) -> impl Fn(heed::Error) -> Error {
    move |error| match error {
        heed::Error::Io(source) => Error::Io { operation, source },
        heed::Error::Mdb(MdbError::MapFull) => {
            let text = "the database has filled the address space it was opened with";
            Error::Io { operation, source: io::Error::new(io::ErrorKind::StorageFull, text) }
        }
        heed::Error::Mdb(
            e @ (MdbError::ReadersFull | MdbError::TxnFull | MdbError::DbsFull | MdbError::MapResized),
        ) => Error::Io { operation, source: io::Error::other(e) },
        error => Error::Damaged(format!("{operation}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::ids::{Seq, ShardId};
    use crate::mutation::{Put, checksum};

    const QUEUE: QueueId = QueueId(1);

    fn open(directory: &Path) -> Result<Lmdb, Error> {
        Lmdb::open(directory, &LmdbConfig::default())
    }

    fn refusal(directory: &Path) -> String {
        match open(directory).err() {
            Some(Error::Unusable(message)) => message,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    fn apply(store: &mut Lmdb, mutations: &[Mutation<'_>]) {
        let mut bytes = Vec::new();
        mutations.iter().for_each(|mutation| mutation.encode(&mut bytes));
        store.apply(&[Batch { shard: ShardId(0), seq: Seq(1), mutations: bytes }]).unwrap();
    }

    fn put(message: u64, body: &[u8]) -> Mutation<'_> {
        let message = MessageId(message);
        let crc32c = checksum(QUEUE, message, 3, 4, body);
        Mutation::Put(Put { queue: QUEUE, message, put_ms: 3, flags: 4, crc32c, body })
    }

    fn create() -> Mutation<'static> {
        Mutation::Create { queue: QUEUE, created_ms: 1, name: b"q" }
    }

    fn load_all(store: &mut Lmdb) -> Loaded {
        let (after, below) = (MessageId(0), MessageId(u64::MAX));
        store.load(&Load { shard: ShardId(0), queue: QUEUE, after, below, size_max: usize::MAX }).unwrap()
    }

    fn len(store: &Lmdb, database: Database) -> u64 {
        let txn = store.env.read_txn().unwrap();
        database.len(&txn).unwrap()
    }

    /// Changes a value of `meta` as a later release, or a stray hand, would.
    fn write_meta(directory: &Path, key: &[u8], value: &[u8]) {
        let store = open(directory).unwrap();
        let mut txn = store.env.write_txn().unwrap();
        store.databases.meta.put(&mut txn, key, value).unwrap();
        txn.commit().unwrap();
    }

    #[test]
    fn every_flipped_byte_of_a_record_is_noticed() {
        let temp = tempfile::tempdir().unwrap();
        let mut store = open(temp.path()).unwrap();
        apply(&mut store, &[create(), put(7, b"body")]);
        for offset in 0..layout::RECORD_HEADER_SIZE + 4 {
            store.flip_byte(QUEUE, MessageId(7), offset);
            let loaded = load_all(&mut store);
            assert_eq!((loaded.messages.len(), loaded.corrupt), (0, vec![MessageId(7)]), "byte {offset}");
            store.flip_byte(QUEUE, MessageId(7), offset);
        }
        assert_eq!(load_all(&mut store).corrupt, []);
    }

    #[test]
    fn a_damaged_record_is_kept_as_it_is_until_its_queue_goes() {
        let temp = tempfile::tempdir().unwrap();
        let mut store = open(temp.path()).unwrap();
        apply(&mut store, &[create(), put(7, b"body")]);
        store.flip_byte(QUEUE, MessageId(7), 20);
        apply(&mut store, &[Mutation::Corrupt { queue: QUEUE, message: MessageId(7) }]);
        let txn = store.env.read_txn().unwrap();
        let record = store.databases.corrupt.get(&txn, &message_key(QUEUE, MessageId(7))).unwrap().unwrap();
        assert_eq!(record[layout::RECORD_HEADER_SIZE..], *b"bodx");
        drop(txn);
        assert_eq!(len(&store, store.databases.messages), 0);
        apply(&mut store, &[Mutation::Delete { queue: QUEUE }]);
        assert!(!store.tidy().unwrap());
        assert_eq!(len(&store, store.databases.corrupt), 0);
    }

    #[test]
    fn a_message_put_and_taken_in_one_call_is_never_written() {
        let temp = tempfile::tempdir().unwrap();
        let mut store = open(temp.path()).unwrap();
        let take = |message| Mutation::Take { queue: QUEUE, message: MessageId(message) };
        apply(&mut store, &[create(), put(1, &[b'x'; 1 << 20]), put(2, b"stays"), take(1)]);
        assert_eq!(len(&store, store.databases.messages), 1);
        assert!(store.env.real_disk_size().unwrap() < 1 << 20);
    }

    #[test]
    fn tidying_works_in_slices_and_goes_on_after_a_restart() {
        let temp = tempfile::tempdir().unwrap();
        let mut store = open(temp.path()).unwrap();
        let count = TIDY_ROWS_MAX as u64 + 10;
        let mut mutations = vec![create()];
        mutations.extend((1..=2 * count).map(|message| put(message, b"x")));
        apply(&mut store, &mutations);
        apply(&mut store, &[Mutation::Purge { queue: QUEUE, below: MessageId(count + 1), count }]);
        assert_eq!(len(&store, store.databases.messages), 2 * count, "a purge itself removes no rows");
        assert!(store.tidy().unwrap());
        assert_eq!(len(&store, store.databases.messages), count + 10);
        drop(store);
        let mut store = open(temp.path()).unwrap();
        assert!(!store.tidy().unwrap());
        assert_eq!(len(&store, store.databases.messages), count);
        drop(store);
        let mut store = open(temp.path()).unwrap();
        assert!(store.purged.is_empty(), "what is done is not looked for again");
        apply(&mut store, &[Mutation::Delete { queue: QUEUE }]);
        assert_eq!(len(&store, store.databases.messages), count);
        assert!(store.tidy().unwrap());
        drop(store);
        let mut store = open(temp.path()).unwrap();
        assert!(!store.tidy().unwrap());
        assert_eq!(len(&store, store.databases.messages), 0);
        // Only the format is left: no mark of the deleted queue.
        assert_eq!(len(&store, store.databases.meta), 1);
    }

    #[test]
    fn a_slice_of_large_rows_is_bounded_by_their_size() {
        let temp = tempfile::tempdir().unwrap();
        let mut store = open(temp.path()).unwrap();
        let body = vec![b'x'; TIDY_SIZE_MAX / 2];
        apply(&mut store, &[create(), put(1, &body), put(2, &body), put(3, &body)]);
        apply(&mut store, &[Mutation::Delete { queue: QUEUE }]);
        assert!(store.tidy().unwrap());
        assert_eq!(len(&store, store.databases.messages), 1);
        assert!(!store.tidy().unwrap());
    }

    #[test]
    fn files_copied_after_a_commit_open_to_what_was_committed() {
        let temp = tempfile::tempdir().unwrap();
        let mut store = open(&temp.path().join("a")).unwrap();
        apply(&mut store, &[create(), put(1, b"one"), put(2, &[b'x'; 10_000])]);
        let copy = temp.path().join("b/store");
        std::fs::create_dir_all(&copy).unwrap();
        // What a killed process leaves: nothing was closed, and nothing had to be.
        std::fs::copy(temp.path().join("a/store/data.mdb"), copy.join("data.mdb")).unwrap();
        let mut copied = open(&temp.path().join("b")).unwrap();
        assert_eq!(copied.recover().unwrap(), store.recover().unwrap());
        assert_eq!(load_all(&mut copied), load_all(&mut store));
    }

    #[test]
    fn another_format_is_refused_by_name_and_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        write_meta(temp.path(), layout::FORMAT_KEY, &7u32.to_le_bytes());
        for _ in 0..2 {
            let message = refusal(temp.path());
            assert!(message.contains("format 7") && message.contains("format 1"), "{message}");
        }
    }

    #[test]
    fn a_database_of_something_else_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        write_meta(temp.path(), layout::FORMAT_KEY, b"one");
        assert!(refusal(temp.path()).contains("not written by ringq"));

        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("store")).unwrap();
        std::fs::write(temp.path().join("store/data.mdb"), [b'x'; 16384]).unwrap();
        assert!(refusal(temp.path()).contains("not a database"));
    }

    #[test]
    fn a_database_is_not_opened_twice() {
        let temp = tempfile::tempdir().unwrap();
        let _store = open(temp.path()).unwrap();
        assert!(refusal(temp.path()).contains("already open"));
    }

    #[test]
    fn a_row_that_cannot_be_read_is_damage_and_names_its_queue() {
        let temp = tempfile::tempdir().unwrap();
        let mut store = open(temp.path()).unwrap();
        apply(&mut store, &[create()]);
        let mut txn = store.env.write_txn().unwrap();
        store.databases.queues.put(&mut txn, b"q", b"short").unwrap();
        txn.commit().unwrap();
        drop(store);
        match open(temp.path()).err() {
            Some(Error::Damaged(message)) => assert!(message.contains("queue q"), "{message}"),
            other => panic!("expected damage, got {other:?}"),
        }
    }

    #[test]
    fn a_full_map_is_a_full_store_and_changes_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let mut store = Lmdb::open(temp.path(), &LmdbConfig { map_size: 1 << 20 }).unwrap();
        apply(&mut store, &[create(), put(1, b"stays")]);
        let mut bytes = Vec::new();
        put(2, &vec![b'x'; 2 << 20]).encode(&mut bytes);
        match store.apply(&[Batch { shard: ShardId(0), seq: Seq(2), mutations: bytes }]) {
            Err(Error::Io { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::StorageFull),
            other => panic!("expected a full store, got {other:?}"),
        }
        drop(store);
        let mut store = open(temp.path()).unwrap();
        assert_eq!(store.recover().unwrap().queues[0].counters.puts, 1);
        assert_eq!(load_all(&mut store).reached, MessageId(1));
    }

    #[test]
    fn map_sizes_halve_down_to_the_least() {
        let sizes: Vec<u64> = map_sizes(1 << 36).collect();
        assert_eq!(sizes, [1 << 36, 1 << 35, 1 << 34]);
        assert_eq!(map_sizes((1 << 35) + (1 << 16)).collect::<Vec<_>>(), [(1 << 35) + (1 << 16), 1 << 35, 1 << 34]);
        assert_eq!(map_sizes(1 << 30).collect::<Vec<_>>(), [1 << 30]);
        assert_eq!(map_sizes((1 << 30) + 1).collect::<Vec<_>>(), [(1 << 30) + (1 << 16)]);
    }

    #[test]
    fn a_limit_on_address_space_makes_the_map_smaller() {
        const CHILD: &str = "RINGQ_TEST_LIMITED";
        if std::env::var_os(CHILD).is_some() {
            let temp = tempfile::tempdir().unwrap();
            let store = open(temp.path()).unwrap();
            assert_eq!(store.env.info().map_size, 32 << 30);
            return;
        }
        let module = module_path!().split_once("::").unwrap().1;
        let test = format!("{module}::a_limit_on_address_space_makes_the_map_smaller");
        // 48 GiB, in KiB.
        let output = Command::new("sh")
            .args(["-c", "ulimit -v 50331648 && exec \"$0\" --exact \"$1\""])
            .arg(std::env::current_exe().unwrap())
            .arg(test)
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
}
