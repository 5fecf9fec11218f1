//! The file that holds what was taken from the source until the destination has stored it.
//!
//! Invariant: a message that [`Spool::append`] took is offered by every later [`Spool::next`] of this spool or one opened on its file, in the
//! order of appending, until [`Spool::done`] has named it. What is whole in the file is never dropped and what is not is never
//! offered: a torn tail is cut off, and anything unreadable before something readable keeps the file from being opened.
//!
//! It survives the end of the process from `append` on, a power cut from [`Spool::sync`] on. One process has it at a time.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;

use super::record::{HEADER_SIZE, Header, Record, Salt, VERSION, decode, decode_header, encode, encode_header};

/// A file of this size is emptied when all in it is done, bytes: large enough that this is rare.
const EMPTIED_SIZE_MIN: u64 = 16 << 20;

/// Why a spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the spool {} is in use by another import; name another one with --spool", .0.display())]
    InUse(PathBuf),
    #[error("{} is not a spool of ringqctl; name another file with --spool", .0.display())]
    Foreign(PathBuf),
    #[error("the spool {} is of version {found}, and this ringqctl knows version {VERSION}", .path.display())]
    Unknown { path: PathBuf, found: u32 },
    #[error(
        "the spool {} is damaged at offset {offset}, and there are whole records behind it; \
         move it away and keep it to go on without what it holds", .path.display()
    )]
    Damaged { path: PathBuf, offset: u64 },
    #[error("the spool {} cannot be {what}: {source}", .path.display())]
    Io { path: PathBuf, what: &'static str, source: io::Error },
}

/// A message in the spool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Spooled {
    /// Names it in this spool.
    pub(super) number: u32,
    pub(super) queue: Vec<u8>,
    pub(super) flags: u32,
    pub(super) body: Vec<u8>,
}

/// Where a message stands that is not done.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: u32,
    offset: u64,
    size: usize,
}

/// What a file holds.
struct Contents {
    pending: VecDeque<Place>,
    next_number: u32,
    /// Where the last whole record ends.
    len: u64,
}

/// A spool that this process has to itself.
#[derive(Debug)]
pub(super) struct Spool {
    path: PathBuf,
    file: File,
    salt: Salt,
    pending: VecDeque<Place>,
    next_number: u32,
    /// Where the next record goes.
    len: u64,
    /// Up to where there are blocks on the disk.
    reserved: u64,
}

impl Spool {
    /// Opens a spool or makes one, and locks it.
    ///
    /// # Errors
    /// All of [`Error`].
    pub(super) fn open(path: &Path) -> Result<Spool, Error> {
        let failed = |what| move |source| Error::Io { path: path.into(), what, source };
        let file = open_locked(path)?;
        let bytes = fs::read(path).map_err(failed("read"))?;
        let salt = match header(path, &bytes)? {
            Some(salt) => salt,
            None => {
                // A name for this file that no other one has; nobody has to be kept from guessing it.
                let salt = Salt(RandomState::new().build_hasher().finish());
                file.set_len(0).map_err(failed("written"))?;
                file.write_all_at(&encode_header(salt), 0).map_err(failed("written"))?;
                file.sync_all().and_then(|()| sync_directory_of(path)).map_err(failed("synced"))?;
                salt
            }
        };
        let contents = contents(path, salt, &bytes)?;
        if (bytes.len() as u64) > contents.len {
            file.set_len(contents.len).and_then(|()| file.sync_data()).map_err(failed("cut to its whole records"))?;
        }
        let Contents { pending, next_number, len } = contents;
        Ok(Spool { path: path.into(), file, salt, pending, next_number, len, reserved: len })
    }

    /// Messages that are not done in the spool at `path`, whether or not somebody is using it; it is not changed. 0 if there is no such file.
    ///
    /// # Errors
    /// All of [`Error`] but [`Error::InUse`].
    pub(super) fn look(path: &Path) -> Result<usize, Error> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            bytes => bytes.map_err(|source| Error::Io { path: path.into(), what: "read", source })?,
        };
        match header(path, &bytes)? {
            Some(salt) => Ok(contents(path, salt, &bytes)?.pending.len()),
            None => Ok(0),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Messages that are not done.
    pub(super) fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// Sees to it that so many bytes can be appended without the disk becoming full, where the file system can promise that.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no room.
    pub(super) fn reserve(&mut self, size: u64) -> Result<(), Error> {
        if self.len + size <= self.reserved {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.len, 2 * size) {
            Ok(()) => self.reserved = self.len + 2 * size,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(self.failed("given room")(error.into())),
        }
        Ok(())
    }

    /// Adds a message behind all others.
    ///
    /// # Errors
    /// [`Error::Io`]; then it is not in the spool.
    pub(super) fn append(&mut self, queue: &[u8], flags: u32, body: &[u8]) -> Result<(), Error> {
        let size = self.write(Record::Message { queue, flags, body })?;
        self.pending.push_back(Place { number: self.next_number, offset: self.len - size as u64, size });
        self.next_number += 1;
        Ok(())
    }

    /// Makes what was appended survive a power cut.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(self.failed("synced"))
    }

    /// The first messages that are not done: up to so many, of up to so many bytes, but one if there is any.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Damaged`].
    pub(super) fn next(&self, len_max: usize, size_max: usize) -> Result<Vec<Spooled>, Error> {
        let mut messages = Vec::new();
        let mut size = 0;
        for place in self.pending.iter().take(len_max) {
            size += place.size;
            if size > size_max && !messages.is_empty() {
                break;
            }
            let mut bytes = vec![0; place.size];
            self.file.read_exact_at(&mut bytes, place.offset).map_err(self.failed("read"))?;
            let Some((Record::Message { queue, flags, body }, _)) = decode(self.salt, place.offset, &bytes) else {
                return Err(Error::Damaged { path: self.path.clone(), offset: place.offset });
            };
            messages.push(Spooled { number: place.number, queue: queue.into(), flags, body: body.into() });
        }
        Ok(messages)
    }

    /// Marks messages, named in ascending order, as done, so that it survives a power cut.
    ///
    /// # Errors
    /// [`Error::Io`]; then they may be offered again.
    pub(super) fn done(&mut self, numbers: &[u32]) -> Result<(), Error> {
        for run in numbers.chunk_by(|a, b| a + 1 == *b) {
            self.write(Record::Done { first: run[0], count: run.len() as u32 })?;
        }
        self.sync()?;
        self.pending.retain(|place| numbers.binary_search(&place.number).is_err());
        if self.pending.is_empty() && self.len >= EMPTIED_SIZE_MIN {
            self.empty()?;
        }
        Ok(())
    }

    /// Removes the file of a spool in which all is done.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn remove(self) -> Result<(), Error> {
        assert!(self.pending.is_empty(), "what is not done is kept");
        fs::remove_file(&self.path).and_then(|()| sync_directory_of(&self.path)).map_err(self.failed("removed"))
    }

    /// Gives the disk back what is done.
    fn empty(&mut self) -> Result<(), Error> {
        self.file.set_len(HEADER_SIZE as u64).and_then(|()| self.file.sync_data()).map_err(self.failed("emptied"))?;
        (self.len, self.reserved, self.next_number) = (HEADER_SIZE as u64, HEADER_SIZE as u64, 0);
        Ok(())
    }

    /// Writes a record at the end; returns its size.
    fn write(&mut self, record: Record<'_>) -> Result<usize, Error> {
        let bytes = encode(self.salt, self.len, record);
        if let Err(error) = self.file.write_all_at(&bytes, self.len) {
            // What was written of it would be cut off by the next one who opens the file; the next record is written over it.
            let _ = self.file.set_len(self.len);
            return Err(self.failed("written")(error));
        }
        self.len += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> Error {
        let path = self.path.clone();
        move |source| Error::Io { path, what, source }
    }
}

/// The file, locked, and certain to be the one that has the name now: whoever had the lock may have removed it.
fn open_locked(path: &Path) -> Result<File, Error> {
    let failed = |what| move |source| Error::Io { path: path.into(), what, source };
    loop {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(failed("opened"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(Error::InUse(path.into())),
            Err(error) => return Err(failed("locked")(error.into())),
        }
        let locked = file.metadata().map_err(failed("read"))?;
        match fs::metadata(path) {
            Ok(named) if (named.dev(), named.ino()) == (locked.dev(), locked.ino()) => return Ok(file),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("read")(error)),
            _ => {}
        }
    }
}

/// The salt of a spool; none if nothing was ever put into it.
fn header(path: &Path, bytes: &[u8]) -> Result<Option<Salt>, Error> {
    match decode_header(bytes) {
        Header::Whole(salt) => Ok(Some(salt)),
        Header::Unfinished => Ok(None),
        Header::Unknown(version) => Err(Error::Unknown { path: path.into(), found: version }),
        Header::Foreign => Err(Error::Foreign(path.into())),
    }
}

/// Reads all records behind the header.
fn contents(path: &Path, salt: Salt, bytes: &[u8]) -> Result<Contents, Error> {
    let mut contents = Contents { pending: VecDeque::new(), next_number: 0, len: HEADER_SIZE as u64 };
    let rest_at = |offset: u64| bytes.get(offset as usize..).unwrap_or_default();
    while let Some((record, size)) = decode(salt, contents.len, rest_at(contents.len)) {
        match record {
            Record::Message { .. } => {
                contents.pending.push_back(Place { number: contents.next_number, offset: contents.len, size });
                contents.next_number += 1;
            }
            Record::Done { first, count } => {
                contents.pending.retain(|place| !(first..first.saturating_add(count)).contains(&place.number));
            }
        }
        contents.len += size as u64;
    }
    // A tail that was being written has nothing readable behind it.
    let is_record = |offset: &u64| decode(salt, *offset, rest_at(*offset)).is_some();
    match (contents.len..bytes.len() as u64).find(is_record) {
        Some(_) => Err(Error::Damaged { path: path.into(), offset: contents.len }),
        None => Ok(contents),
    }
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
