//! The store in LMDB: opening it, reading it, and what is done to it when no one waits. Writing batches is in
//! [`apply`], with [`writing`], [`removal`], [`readers`] and [`moves`]; reading messages in [`load`].
//!
//! The database lies in the directory `store` inside the data directory and is laid out as docs/STORAGE.md tables it.
//! Every commit is flushed to the device before it returns (no NOSYNC, NOMETASYNC or WRITEMAP): what a journal was told
//! to be in the store it may overwrite. A read transaction lives for one load, because a page it can see is a page LMDB cannot reuse.
//!
//! Invariant: `rows`, `purged`, `dropped`, `ids_end` and `journals` say what the newest committed transaction says. They
//! change only after a commit succeeded. After a failed one nothing is written any more, because what the kernel dropped is
//! not known; unless there was no room, when the pages of the transaction, which no one can see yet, are written anew.
//!
//! Step 10 of a message's path, and the way back for messages that were too many for memory.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use foldhash::fast::RandomState;
use heed::types::{Bytes, DecodeIgnore};
use heed::{CommitOrAbort, Env, EnvOpenOptions, MdbError, RoTxn, RwTxn, WithoutTls};

use super::directory::{create_durably, sync_entries};
use super::layout::{self, MessageKey, Role, Row, message_key, message_of_key};
use super::run::Run;
use super::{Batch, Error, JournalRow, Load, Loaded, QueueRow, Recovered, Store, Taken};
use crate::ids::{MessageId, QueueId, Salt};
use crate::message_set::MessageSet;

mod apply;
mod load;
mod moves;
mod pages;
mod readers;
mod removal;
mod sealed;
mod writing;

use sealed::Sealed;

type Database = heed::Database<'static, Bytes, Bytes>;

/// Address space asked for unless the caller says otherwise: more than any file system in reach, since it costs nothing.
const MAP_SIZE_DEFAULT: u64 = 1 << 40;

/// Below this a map is no longer worth starting with.
const MAP_SIZE_MIN: u64 = 16 << 30;

/// The named databases, in the order of [`Databases`].
const NAMES: [&str; 11] =
    ["meta", "queues", "messages", "holes", "late", "corrupt", "passed", "returned", "moves", "accepted", "settings"];

/// Named databases the file may hold: eleven now, with room for later formats' without another limit to change.
const DATABASES_MAX: u32 = 16;

/// Rows one [`Store::tidy`] removes. A slice of small rows takes a few milliseconds, which is what a commit takes.
const TIDY_ROWS_MAX: usize = 10_000;

/// Bytes of rows one [`Store::tidy`] removes: large rows lie in pages of their own, each a page to free.
const TIDY_SIZE_MAX: usize = 16 << 20;

/// With less room than this an EIO is taken for a full file system: LMDB says EIO when a write was cut short, and what cut
/// it short took the last block. A device's EIO taken for it does no harm, since nothing of a failed commit is relied upon.
const CUT_SHORT_FREE_MAX: u64 = 16 << 20;

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
    /// By shard.
    journals: Vec<JournalRow>,
    failed: bool,
    scratch: apply::Scratch,
}

#[derive(Clone, Copy)]
struct Databases {
    /// Its row of the format alone has no checksum.
    meta: Sealed,
    queues: Sealed,
    /// Runs of messages.
    messages: Database,
    /// What was removed from runs that are still there.
    holes: Database,
    /// Messages that came after younger ones.
    late: Database,
    corrupt: Database,
    /// What readers of queues with groups have passed while older messages were not.
    passed: Sealed,
    /// How often messages were delivered that came back.
    returned: Sealed,
    /// Messages on their way to queues of other shards.
    moves: Sealed,
    /// How far each way between queues has come.
    accepted: Sealed,
    /// By name of the queue.
    settings: Sealed,
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
        check_pages(&path)?;
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
            journals: Vec::new(),
            failed: false,
            scratch: apply::Scratch::default(),
        };
        store.read_meta()?;
        store.read_queues()?;
        store.check_rows()?;
        Ok(store)
    }

    /// Refuses rows that are not found where they are looked for, because their key has changed: nobody would miss them. The others are
    /// compared with their checksums when they are read.
    fn check_rows(&self) -> Result<(), Error> {
        const OPERATION: &str = "reading the database's rows";
        let txn = self.env.read_txn().map_err(failure(OPERATION))?;
        let Databases { messages, holes, late, passed, returned, moves, accepted, settings, .. } = self.databases;
        for rows in [passed, returned, moves, accepted, settings] {
            rows.iter(&txn)
                .map_err(failure(OPERATION))?
                .try_for_each(|row| row.map(|_| ()))
                .map_err(failure(OPERATION))?;
        }
        let keys_only = |rows: Database| rows.remap_data_type::<DecodeIgnore>();
        for (rows, name) in [(messages, "messages"), (late, "late"), (holes, "holes")] {
            for row in keys_only(rows).iter(&txn).map_err(failure(OPERATION))? {
                let (key, ()) = row.map_err(failure(OPERATION))?;
                let damaged = |of: &str| {
                    Error::Damaged(format!("the row {} of {name} is of a {of} that is not there", key.escape_ascii()))
                };
                let queue = key.first_chunk().map(|queue| QueueId(u64::from_be_bytes(*queue))).unwrap_or_default();
                let Some(message) = message_of_key(queue, key) else { return Err(damaged("message")) };
                // Of what is being removed the runs may be gone before their holes.
                let is_doomed = match self.rows.get(&queue) {
                    Some(row) => message < row.purged_below,
                    None if self.dropped.contains(&queue) => true,
                    None => return Err(damaged("queue")),
                };
                if name == "holes"
                    && !is_doomed
                    && keys_only(messages).get(&txn, key).map_err(failure(OPERATION))?.is_none()
                {
                    return Err(damaged("run"));
                }
            }
        }
        Ok(())
    }

    fn read_meta(&mut self) -> Result<(), Error> {
        const OPERATION: &str = "reading the database's meta data";
        let txn = self.env.read_txn().map_err(failure(OPERATION))?;
        let meta = self.databases.meta;
        for entry in meta.rows().iter(&txn).map_err(failure(OPERATION))? {
            let row = entry.map_err(failure(OPERATION))?;
            if row.0 == layout::FORMAT_KEY {
                continue;
            }
            let (key, value) = meta.open(row).map_err(failure(OPERATION))?;
            if let Some(queue) = layout::queue_of_drop_key(key) {
                self.dropped.insert(queue);
            } else if let Some(shard) = layout::shard_of_journal_key(key) {
                let damaged = || Error::Damaged(format!("the row of shard {shard}'s journal cannot be read"));
                // Keys sort by shard, and so do the rows.
                self.journals.push(layout::decode_journal(shard, value).ok_or_else(damaged)?);
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
        let groups: Vec<(QueueId, QueueId)> = self.rows.values().map(|row| (row.of, row.queue)).collect();
        for (of, queue) in groups.into_iter().filter(|(of, _)| of.0 != 0) {
            let damaged = || Error::Damaged(format!("queue {queue} is a group of queue {of}, which has none"));
            let row = self.rows.get_mut(&of).filter(|row| row.is_grouped);
            row.ok_or_else(damaged)?.groups.push(queue);
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
        let Databases { messages, holes, late, corrupt, passed, returned, moves, .. } = self.databases;
        for &queue in &self.dropped {
            let all = [message_key(queue, MessageId(0)), message_key(queue, MessageId(u64::MAX))];
            let readers = [passed, returned, moves].map(Sealed::rows);
            for database in [messages, holes, late, corrupt].into_iter().chain(readers) {
                if !self.remove_rows(txn, database, all, &mut budget)? {
                    return Ok(tidied);
                }
            }
            self.databases.meta.delete(txn, &layout::drop_key(queue))?;
            tidied.dropped.push(queue);
        }
        for &queue in &self.purged {
            let mut row = self.rows[&queue].clone();
            if !self.remove_purged(txn, &row, &mut budget)? {
                return Ok(tidied);
            }
            row.head = row.gone_below();
            row.purged_below = MessageId(0);
            self.databases.queues.put(txn, &row.name, &row.encode())?;
            tidied.purged.push(row);
        }
        Ok(tidied)
    }

    /// Removes runs that a purge left nothing of, as far as the budget goes; whether none is left.
    fn remove_purged(&self, txn: &mut RwTxn<'_>, row: &Row, budget: &mut Budget) -> Result<bool, heed::Error> {
        let Databases { messages, holes, .. } = self.databases;
        let Some((first, value)) = self.run_before(txn, row.queue, row.purged_below)? else { return Ok(true) };
        // Only the last run that begins below the purge may reach beyond it.
        let size = value.len();
        let is_purged = row.newest < row.purged_below
            || Run::decode(row.queue, first, value).is_some_and(|run| run.last() < row.purged_below);
        if let Some(before) = first.0.checked_sub(1) {
            let keys = [message_key(row.queue, MessageId(0)), message_key(row.queue, MessageId(before))];
            for database in [messages, holes] {
                if !self.remove_rows(txn, database, keys, budget)? {
                    return Ok(false);
                }
            }
        }
        if is_purged {
            if !budget.spend(size) {
                return Ok(false);
            }
            messages.delete(txn, &message_key(row.queue, first))?;
            holes.delete(txn, &message_key(row.queue, first))?;
        }
        Ok(true)
    }

    /// The queue's last run that begins at this message or before it: no other can have it.
    fn run_at<'t>(&self, txn: &'t RoTxn<'_>, queue: QueueId, message: MessageId) -> Result<Found<'t>, heed::Error> {
        let found = self.databases.messages.get_lower_than_or_equal_to(txn, &message_key(queue, message))?;
        Ok(found.and_then(|(key, value)| Some((message_of_key(queue, key)?, value))))
    }

    /// The queue's last run that begins before this message.
    fn run_before<'t>(&self, txn: &'t RoTxn<'_>, queue: QueueId, message: MessageId) -> Result<Found<'t>, heed::Error> {
        let found = self.databases.messages.get_lower_than(txn, &message_key(queue, message))?;
        Ok(found.and_then(|(key, value)| Some((message_of_key(queue, key)?, value))))
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

    fn try_begin_journals(&mut self, salts: &[Salt]) -> Result<(), Error> {
        const OPERATION: &str = "beginning the journals";
        let meta = self.databases.meta;
        let journals = layout::first_rows(salts);
        let mut txn = self.env.write_txn().map_err(failure(OPERATION))?;
        for row in &self.journals {
            meta.delete(&mut txn, &layout::journal_key(row.shard)).map_err(failure(OPERATION))?;
        }
        for row in &journals {
            let value = layout::encode_journal(row);
            meta.put(&mut txn, &layout::journal_key(row.shard), &value).map_err(failure(OPERATION))?;
        }
        txn.commit().map_err(failure(OPERATION))?;
        self.journals = journals;
        Ok(())
    }

    fn queue_row(&self, row: &Row, txn: &RoTxn<'_>) -> Result<QueueRow, heed::Error> {
        let mut passed = MessageSet::default();
        if row.role() != Role::Plain {
            for entry in self.databases.passed.prefix_iter(txn, &row.queue.0.to_be_bytes())? {
                passed.extend(message_of_key(row.queue, entry?.0));
            }
        }
        Ok(QueueRow {
            name: row.name.clone(),
            queue: row.queue,
            created_ms: row.created_ms,
            counters: row.counters,
            bytes: self.rows[&row.owner()].bytes,
            of: row.of,
            low: row.low,
            passed,
            freed: row.freed,
        })
    }

    /// What a write's result means for the writes after it.
    fn settle<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        let result = match result {
            Err(Error::Io { operation, source })
                if source.raw_os_error() == Some(libc::EIO) && self.free_size() < CUT_SHORT_FREE_MAX =>
            {
                let source =
                    io::Error::new(io::ErrorKind::StorageFull, "the file system is full, a write was cut short");
                Err(Error::Io { operation, source })
            }
            result => result,
        };
        self.failed = result.as_ref().is_err_and(|error| !error.is_storage_full());
        result
    }

    /// Flips one byte of a stored record, as a failing device would.
    #[cfg(test)]
    pub(super) fn flip_byte(&mut self, queue: QueueId, message: MessageId, offset: usize) {
        let txn = self.env.read_txn().unwrap();
        let late = self.databases.late.get(&txn, &message_key(queue, message)).unwrap();
        let (database, first, offset) = match late {
            Some(_) => (self.databases.late, message, offset),
            None => {
                let (first, value) = self.run_at(&txn, queue, message).unwrap().unwrap();
                let record = Run::decode(queue, first, value).unwrap().find(message).unwrap();
                (self.databases.messages, first, record.as_ptr() as usize - value.as_ptr() as usize + offset)
            }
        };
        drop(txn);
        self.flip_byte_of_value(database, queue, first, offset);
    }

    #[cfg(test)]
    fn flip_byte_of_value(&mut self, database: Database, queue: QueueId, first: MessageId, offset: usize) {
        let mut txn = self.env.write_txn().unwrap();
        let key = message_key(queue, first);
        let mut value = database.get(&txn, &key).unwrap().unwrap().to_vec();
        value[offset] ^= 1;
        database.put(&mut txn, &key, &value).unwrap();
        txn.commit().unwrap();
    }
}

impl Store for Lmdb {
    fn apply(&mut self, batches: &[Batch], taken: &Taken) -> Result<(), Error> {
        assert!(!self.failed, "a store that failed is not written to again");
        let result = self.try_apply(batches, taken);
        self.settle(result)
    }

    fn begin_journals(&mut self, salts: &[Salt]) -> Result<(), Error> {
        assert!(!self.failed, "a store that failed is not written to again");
        let result = self.try_begin_journals(salts);
        self.settle(result)
    }

    fn load(&mut self, load: &Load) -> Result<Loaded, Error> {
        self.try_load(load)
    }

    fn recover(&mut self) -> Result<Recovered, Error> {
        const OPERATION: &str = "reading the database's queues";
        let txn = self.env.read_txn().map_err(failure(OPERATION))?;
        let rows = self.rows.values().map(|row| self.queue_row(row, &txn).map_err(failure(OPERATION)));
        let mut queues = rows.collect::<Result<Vec<QueueRow>, Error>>()?;
        queues.sort_unstable_by_key(|row| row.queue);
        let settings = self.databases.settings.iter(&txn).map_err(failure(OPERATION))?;
        let settings = settings.map(|entry| entry.map(|(name, value)| (name.to_vec(), value.to_vec())));
        Ok(Recovered {
            queues,
            ids_end: self.ids_end,
            journals: self.journals.clone(),
            settings: settings.collect::<Result<_, _>>().map_err(failure(OPERATION))?,
            accepted: self.accepted(&txn)?,
        })
    }

    fn settle_moves(&mut self) -> Result<(), Error> {
        assert!(!self.failed, "a store that failed is not written to again");
        let result = self.try_settle_moves();
        self.settle(result)
    }

    fn tidy(&mut self) -> Result<bool, Error> {
        assert!(!self.failed, "a store that failed is not written to again");
        if self.dropped.is_empty() && self.purged.is_empty() {
            return Ok(false);
        }
        let result = self.try_tidy();
        self.settle(result).map(|()| !self.dropped.is_empty() || !self.purged.is_empty())
    }

    fn free_size(&self) -> u64 {
        match rustix::fs::statvfs(&self.path) {
            Ok(vfs) => vfs.f_bavail.saturating_mul(vfs.f_frsize),
            // A file system that cannot say how much room it has is not one to take more messages on.
            Err(_) => 0,
        }
    }
}

/// A run's first message and its value.
type Found<'t> = Option<(MessageId, &'t [u8])>;

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

/// Refuses a file whose pages contradict each other, before LMDB follows them.
fn check_pages(path: &Path) -> Result<(), Error> {
    let path = path.join("data.mdb");
    let result = match File::open(&path) {
        Ok(file) => pages::check(&file),
        // It is to be made, or LMDB meets the same, which [`unopened`] says in the operator's terms.
        Err(_) => return Ok(()),
    };
    let checked = result.map_err(|error| match error {
        Error::Damaged(text) => Error::Damaged(format!("{}: {text}", path.display())),
        error => error,
    })?;
    let pages::Checked { names, used, free, lost } = checked.unwrap_or_default();
    tracing::debug!("the pages of {} agree: {used} are in use, {free} free, {lost} neither", path.display());
    // Without this one it is somebody else's.
    let is_ours = names.iter().any(|name| name == b"meta");
    match names.iter().find(|name| !NAMES.iter().any(|known| known.as_bytes() == **name)) {
        Some(name) if is_ours => Err(Error::Damaged(format!(
            "{}: it has a database {}, which no ringq made",
            path.display(),
            name.escape_ascii()
        ))),
        _ => Ok(()),
    }
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

/// Opens the named databases, creating those that are missing; refuses a file of another format before anything changes. All of
/// it in one transaction.
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
            let created = NAMES.iter().map(|name| opener.create_database::<Bytes, Bytes>(txn, Some(name)));
            let Ok(databases) = <[_; NAMES.len()]>::try_from(created.collect::<Result<Vec<_>, _>>()?) else {
                unreachable!("there is one for each name")
            };
            if is_empty {
                databases[0].put(txn, layout::FORMAT_KEY, &layout::FORMAT.to_le_bytes())?;
            }
            Ok(CommitOrAbort::Commit(databases))
        })
        .map_err(failure(OPERATION))?;
    let [meta, queues, messages, holes, late, corrupt, passed, returned, moves, accepted, settings] =
        Result::from(opened)?;
    Ok(Databases {
        meta: Sealed::new(meta, "meta"),
        queues: Sealed::new(queues, "queues"),
        messages,
        holes,
        late,
        corrupt,
        passed: Sealed::new(passed, "passed"),
        returned: Sealed::new(returned, "returned"),
        moves: Sealed::new(moves, "moves"),
        accepted: Sealed::new(accepted, "accepted"),
        settings: Sealed::new(settings, "settings"),
    })
}

/// Whether the file's format can be used.
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
mod tests;
