//! The checker of pages against files that LMDB wrote, sound and damaged.

use std::fs;
use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, EnvOpenOptions};

use super::*;

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// Bytes of a value that lies in overflow pages.
const LARGE: usize = 9000;

/// A generator of choices, the same each time (xorshift).
struct Choices(u64);

impl Choices {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn try_open(directory: &Path) -> Result<heed::Env, heed::Error> {
    let mut options = EnvOpenOptions::new();
    options.map_size(64 << 20).max_dbs(4);
    // SAFETY: nobody else changes the file.
    unsafe { options.open(directory) }
}

fn open(directory: &Path) -> heed::Env {
    try_open(directory).unwrap()
}

fn check_in(directory: &Path) -> Result<Option<Checked>, Error> {
    check(&File::open(directory.join("data.mdb")).unwrap())
}

/// A value whose bytes follow from its size and its key.
fn value(key: &[u8], size: usize) -> Vec<u8> {
    key.iter().copied().cycle().take(size).collect()
}

/// Two databases, which are made if they are missing.
fn databases(env: &heed::Env) -> Result<[Database<'static, Bytes, Bytes>; 2], heed::Error> {
    let created = env.create_databases_and_commit(env.write_txn()?, |opener, txn| -> Result<_, heed::Error> {
        let mut create = |name| opener.create_database::<Bytes, Bytes>(txn, Some(name));
        Ok(CommitOrAbort::<_, ()>::Commit([create("a")?, create("b")?]))
    })?;
    Ok(Result::from(created).expect("it commits"))
}

/// Puts, replaces and deletes at random in two databases, in many transactions; calls `each` after each.
fn write(directory: &Path, transactions: usize, rows: u64, mut each: impl FnMut(usize)) {
    let env = open(directory);
    let databases = databases(&env).unwrap();
    let mut choices = Choices(7);
    for number in 0..transactions {
        let mut txn = env.write_txn().unwrap();
        for _ in 0..choices.below(40) {
            let key = choices.below(rows).to_be_bytes();
            let database = &databases[choices.below(2) as usize];
            match choices.below(8) {
                0..3 => drop(database.delete(&mut txn, &key).unwrap()),
                3 => database.put(&mut txn, &key, &value(&key, LARGE + choices.below(30_000) as usize)).unwrap(),
                _ => database.put(&mut txn, &key, &value(&key, choices.below(600) as usize)).unwrap(),
            }
        }
        // A queue that is deleted leaves much at once.
        if number % 50 == 49 {
            databases[1].clear(&mut txn).unwrap();
        }
        match choices.below(10) {
            0 => txn.abort(),
            _ => txn.commit().unwrap(),
        }
        each(number);
    }
}

fn rows(directory: &Path) -> Result<Vec<Rows>, heed::Error> {
    let env = try_open(directory)?;
    let databases = databases(&env)?;
    let txn = env.read_txn()?;
    let read = |database: &Database<'static, Bytes, Bytes>| {
        let rows = database.iter(&txn)?.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())));
        rows.collect::<Result<Rows, _>>()
    };
    databases.iter().map(read).collect()
}

#[test]
fn whatever_lmdb_writes_is_sound_and_no_page_is_lost() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), 600, 3000, |number| {
        let checked = check_in(temp.path()).unwrap().unwrap();
        assert_eq!(checked.lost, 0, "transaction {number}");
        assert_eq!(checked.names, [b"a", b"b"]);
    });
    let checked = check_in(temp.path()).unwrap().unwrap();
    assert!(checked.used > 500 && checked.free > 50, "{checked:?}");
}

#[test]
fn a_file_that_is_none_is_left_to_lmdb() {
    let temp = tempfile::tempdir().unwrap();
    for bytes in [&b""[..], b"short", &[b'x'; 16384]] {
        fs::write(temp.path().join("data.mdb"), bytes).unwrap();
        assert_eq!(check_in(temp.path()).unwrap(), None);
    }
    fs::remove_file(temp.path().join("data.mdb")).unwrap();
    drop(open(temp.path()));
    assert_eq!(check_in(temp.path()).unwrap(), Some(Checked::default()));
}

#[test]
fn every_flipped_byte_is_refused_or_changes_no_more_than_a_row() {
    let (temp, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(temp.path(), 15, 40, |_| {});
    let (original, expected) = (fs::read(temp.path().join("data.mdb")).unwrap(), rows(temp.path()).unwrap());
    let path = copy.path().join("data.mdb");
    fs::write(&path, &original).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    // RingQ's checksums are over key and value, so what is in one row is not a matter of pages.
    let differ = |found: &[Rows]| {
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), expected.iter().map(Vec::len).collect::<Vec<_>>());
        found.iter().flatten().zip(expected.iter().flatten()).filter(|(found, expected)| found != expected).count()
    };
    let (mut refused, mut harmless, mut in_rows) = (0, 0, 0);
    let mut in_overflow = 0;
    for (page, bytes) in original.chunks(4096).enumerate() {
        let begins = u64_at(bytes, 0) == page as u64 && u16_at(bytes, 10) == OVERFLOW;
        let is_value = in_overflow > 0;
        in_overflow = if begins { u32_at(bytes, 12) - 1 } else { in_overflow.saturating_sub(1) };
        for (at, byte) in bytes.iter().enumerate() {
            // In the middle of a value, and where there is nothing, all bytes are alike.
            let is_inside = is_value || at > 128 && (begins || at < usize::from(u16_at(bytes, 14)));
            if is_inside && at % 127 > 0 {
                continue;
            }
            let offset = (page * 4096 + at) as u64;
            file.write_at(&[byte ^ 1 << (at % 8)], offset).unwrap();
            let is_sound = check_in(copy.path()).is_ok_and(|it| it.is_none_or(|it| it.names == [b"a", b"b"]));
            let found = is_sound.then(|| rows(copy.path()));
            match found {
                // LMDB looks at some of it itself.
                None | Some(Err(_)) => refused += 1,
                Some(Ok(found)) if found == expected => harmless += 1,
                Some(Ok(found)) => {
                    in_rows += 1;
                    assert_eq!(differ(&found), 1, "byte {at} of page {page}");
                }
            }
            file.write_at(&[*byte], offset).unwrap();
        }
    }
    assert!(refused > 1000 && harmless > 1000 && in_rows > 100, "{refused} {harmless} {in_rows}");
}
