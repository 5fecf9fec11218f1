//! The ballast: a file that takes up room which the store gets when there is no other.
//!
//! LMDB never writes in place, so even removing messages needs room, and a full file system would leave no way to become
//! less full. Giving the ballast up is that way. It is filled again, in pieces, when there is room besides.
//!
//! Invariant: `held` bytes of the file have blocks of their own, so that giving them up gives that room. Does not know
//! what is refused meanwhile.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::Error;

/// Name of the file in the data directory.
const FILE_NAME: &str = "ballast";

/// Bytes by which it grows at a time.
const PIECE_SIZE: u64 = 16 << 20;

/// Bytes of one write, where blocks are to be had only by writing.
const WRITE_SIZE: usize = 1 << 20;

/// Room held back for the store.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
    /// `None` while there has been no room even to create it, and when there is to be none.
    file: Option<File>,
    /// Bytes it has when it is whole.
    size: u64,
    /// Bytes it has.
    held: u64,
}

impl Ballast {
    /// None at all: it is always whole and never helps.
    pub fn none() -> Ballast {
        Ballast { path: PathBuf::new(), file: None, size: 0, held: 0 }
    }

    /// Opens what an earlier run left in `directory`, which the caller has locked. It may be less than `size` bytes, then
    /// [`Ballast::grow`] makes it whole; of more, the rest is given back. A `size` of 0 removes it.
    ///
    /// # Errors
    /// [`Error::Io`], but not for a full file system.
    pub fn open(directory: &Path, size: u64) -> Result<Ballast, Error> {
        let mut ballast = Ballast { path: directory.join(FILE_NAME), file: None, size, held: 0 };
        if size == 0 {
            match std::fs::remove_file(&ballast.path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failure("removing the ballast file")(e)),
                _ => Ok(ballast),
            }
        } else {
            match ballast.open_file() {
                Err(error) if !error.is_storage_full() => Err(error),
                _ => Ok(ballast),
            }
        }
    }

    fn open_file(&mut self) -> Result<(), Error> {
        let failure = failure("opening the ballast file");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o640);
        let file = options.open(&self.path).map_err(&failure)?;
        let metadata = file.metadata().map_err(&failure)?;
        // A copy of the directory may have left holes where the blocks were.
        let is_full = metadata.blocks().saturating_mul(512) >= metadata.len();
        self.held = if is_full { metadata.len().min(self.size) } else { 0 };
        file.set_len(self.held).map_err(&failure)?;
        self.file = Some(file);
        Ok(())
    }

    /// Whether all of it is there.
    pub fn is_whole(&self) -> bool {
        self.held == self.size
    }

    /// Bytes it takes to make it whole.
    pub fn missing(&self) -> u64 {
        self.size - self.held
    }

    /// Answers the error of a write: `Ok` when it found no room and the ballast has been given up, so that the write is worth
    /// repeating.
    ///
    /// # Errors
    /// The error it was given, when there is nothing to give up or it is another one; [`Error::Io`] when giving up failed.
    pub fn make_room(&mut self, error: Error) -> Result<(), Error> {
        let Some(file) = self.file.as_ref().filter(|_| self.held > 0 && error.is_storage_full()) else {
            return Err(error);
        };
        tracing::warn!(
            "{error}; the ballast of {} bytes is given up, and puts are refused until there is room for it again: free space in \
             the file system of the data directory (-H)",
            self.held
        );
        // The blocks of a truncated file may come free only with the file system's own commit.
        file.set_len(0).and_then(|()| file.sync_all()).map_err(failure("giving up the ballast"))?;
        self.held = 0;
        Ok(())
    }

    /// Takes up one piece more. Returns whether there was room for it.
    ///
    /// # Errors
    /// [`Error::Io`], but not for a full file system.
    pub fn grow(&mut self) -> Result<bool, Error> {
        match self.try_grow() {
            Err(error) if error.is_storage_full() => Ok(false),
            result => result.map(|()| true),
        }
    }

    fn try_grow(&mut self) -> Result<(), Error> {
        if self.file.is_none() {
            self.open_file()?;
        }
        let file = self.file.as_ref().expect("opened above");
        let piece = self.missing().min(PIECE_SIZE);
        let failure = failure("filling the ballast file");
        match fallocate(file, FallocateFlags::empty(), self.held, piece) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_piece(file, self.held, piece).map_err(failure)?,
            Err(e) => return Err(failure(e.into())),
        }
        self.held += piece;
        Ok(())
    }
}

/// Fills `size` bytes from `offset` on with what no file system makes smaller.
fn write_piece(file: &File, mut offset: u64, size: u64) -> io::Result<()> {
    let mut word = offset | 1;
    let mut block = Vec::with_capacity(WRITE_SIZE);
    while block.len() < WRITE_SIZE {
        // Xorshift: never 0, and the same at no two places of the block.
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        block.extend_from_slice(&word.to_le_bytes());
    }
    let end = offset + size;
    while offset < end {
        let len = WRITE_SIZE.min(usize::try_from(end - offset).unwrap_or(WRITE_SIZE));
        file.write_all_at(&block[..len], offset)?;
        offset += len as u64;
    }
    // Blocks may be found only now, and much unwritten data would hold up the journals' next flush.
    file.sync_data()
}

fn failure(operation: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { operation, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = PIECE_SIZE + 100_000;

    fn full() -> Error {
        failure("testing")(io::ErrorKind::StorageFull.into())
    }

    fn blocks(directory: &Path) -> u64 {
        directory.join(FILE_NAME).metadata().unwrap().blocks() * 512
    }

    fn whole(directory: &Path) -> Ballast {
        let mut ballast = Ballast::open(directory, SIZE).unwrap();
        while !ballast.is_whole() {
            assert!(ballast.grow().unwrap());
        }
        ballast
    }

    #[test]
    fn it_grows_in_pieces_that_take_up_room_and_stays_whole_over_a_restart() {
        let temp = tempfile::tempdir().unwrap();
        let mut ballast = Ballast::open(temp.path(), SIZE).unwrap();
        assert_eq!((ballast.is_whole(), ballast.missing()), (false, SIZE));
        assert!(ballast.grow().unwrap());
        assert_eq!((ballast.is_whole(), ballast.missing()), (false, 100_000));
        drop(ballast);
        let mut ballast = Ballast::open(temp.path(), SIZE).unwrap();
        assert_eq!(ballast.missing(), 100_000);
        assert!(ballast.grow().unwrap() && ballast.is_whole());
        assert!(blocks(temp.path()) >= SIZE);
    }

    #[test]
    fn it_is_given_up_once_and_only_for_a_full_file_system() {
        let temp = tempfile::tempdir().unwrap();
        let mut ballast = whole(temp.path());
        let other = failure("testing")(io::ErrorKind::TimedOut.into());
        assert!(matches!(ballast.make_room(other), Err(Error::Io { .. })));
        assert!(ballast.is_whole());
        ballast.make_room(full()).unwrap();
        assert_eq!((ballast.missing(), blocks(temp.path())), (SIZE, 0));
        assert!(ballast.make_room(full()).unwrap_err().is_storage_full());
        assert!(ballast.grow().unwrap());
    }

    #[test]
    fn another_size_is_kept_from_the_next_start_on() {
        let temp = tempfile::tempdir().unwrap();
        drop(whole(temp.path()));
        assert!(Ballast::open(temp.path(), 4096).unwrap().is_whole());
        assert_eq!(blocks(temp.path()), 4096);
        let mut none = Ballast::open(temp.path(), 0).unwrap();
        assert!(none.is_whole() && !temp.path().join(FILE_NAME).exists());
        assert!(none.make_room(full()).is_err());
    }

    #[test]
    fn a_file_with_holes_is_not_whole() {
        let temp = tempfile::tempdir().unwrap();
        File::create(temp.path().join(FILE_NAME)).unwrap().set_len(SIZE).unwrap();
        assert_eq!(Ballast::open(temp.path(), SIZE).unwrap().missing(), SIZE);
    }

    #[test]
    fn written_pieces_take_up_room_too() {
        let temp = tempfile::tempdir().unwrap();
        let file = File::create(temp.path().join(FILE_NAME)).unwrap();
        write_piece(&file, 0, WRITE_SIZE as u64 + 5).unwrap();
        write_piece(&file, WRITE_SIZE as u64 + 5, 3).unwrap();
        assert_eq!(file.metadata().unwrap().len(), WRITE_SIZE as u64 + 8);
        assert!(blocks(temp.path()) > WRITE_SIZE as u64);
    }
}
