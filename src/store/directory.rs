//! The data directory: created durably, and held by one daemon at a time.
//!
//! Invariant: while a [`DataDirectory`] lives, no other process holds one for the same directory. The lock is `flock` on
//! the file `lock` in it: it belongs to the open file, so it passes to the child of a fork, and the kernel drops it
//! however the process ends. Does not look at the database in `store/`.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::Error;

/// Owner and group may enter; the queues' contents are no one else's.
const DIRECTORY_MODE: u32 = 0o750;

/// Bytes of the lock file that are worth reading: a pid and a newline.
const PID_SIZE_MAX: u64 = 32;

/// Bytes that may still be written to the file system of a directory. `None`: it does not say.
pub fn free_size(path: &Path) -> Option<u64> {
    let volume = rustix::fs::statvfs(path).ok()?;
    Some(volume.f_bavail.saturating_mul(volume.f_frsize))
}

/// The directory with everything the daemon keeps, locked until dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    // Closing it is what unlocks. An explicit unlock would also take the lock from the other side of a fork.
    lock: File,
}

impl DataDirectory {
    /// Creates the directory and its parents where they are missing, and locks it.
    ///
    /// # Errors
    /// [`Error::Unusable`] when another process has it, or when it cannot be created or written; both name the directory.
    pub fn lock(path: &Path) -> Result<DataDirectory, Error> {
        create_durably(path)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(path.join("lock"))
            .map_err(|e| unusable(path, "its file `lock` cannot be opened", &e))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(in_use(path, &mut lock)),
            Err(e) => return Err(unusable(path, "it cannot be locked", &e.into())),
        }
        let directory = DataDirectory { path: path.to_path_buf(), lock };
        directory.write_pid()?;
        Ok(directory)
    }

    /// Notes the calling process as the holder, for the message a second daemon gets. To be called again after a fork.
    ///
    /// # Errors
    /// [`Error::Unusable`] when the lock file cannot be written, unless the disk is full.
    pub fn write_pid(&self) -> Result<(), Error> {
        let write = |mut file: &File| {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            writeln!(file, "{}", std::process::id())
        };
        match write(&self.lock) {
            // A full disk must not keep a daemon from starting: getting messages is how it becomes less full.
            Err(e) if e.kind() == io::ErrorKind::StorageFull => Ok(()),
            result => result.map_err(|e| unusable(&self.path, "its file `lock` cannot be written", &e)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Creates the directory and its missing parents so that they survive a power cut.
///
/// # Errors
/// [`Error::Unusable`], naming the directory.
pub(super) fn create_durably(path: &Path) -> Result<(), Error> {
    let missing: Vec<&Path> = path.ancestors().take_while(|a| !a.as_os_str().is_empty() && !a.exists()).collect();
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)
        .map_err(|e| unusable(path, "it cannot be created", &e))?;
    for created in missing {
        let parent = match created.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        sync_entries(parent)?;
    }
    Ok(())
}

/// Makes the names in a directory survive a power cut.
///
/// # Errors
/// [`Error::Unusable`], naming the directory.
pub(super) fn sync_entries(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|e| unusable(path, "it cannot be synced", &e))
}

fn unusable(path: &Path, what: &str, why: &io::Error) -> Error {
    Error::Unusable(format!(
        "the directory {} cannot be used: {what}: {why}. Check its owner and the file system, or choose another with -H",
        path.display()
    ))
}

fn in_use(path: &Path, lock: &mut File) -> Error {
    let mut text = String::new();
    // Only for the message: a holder that has not written its pid yet is still a holder.
    let read = lock.take(PID_SIZE_MAX).read_to_string(&mut text);
    let holder = match text.trim().parse::<u32>() {
        Ok(pid) if read.is_ok() => format!("process {pid}"),
        _ => "another process".to_owned(),
    };
    Error::Unusable(format!(
        "the data directory {} is in use by {holder}: stop that daemon, or choose another directory with -H",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn message(result: Result<DataDirectory, Error>) -> String {
        match result {
            Err(Error::Unusable(message)) => message,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn missing_parents_are_created_closed_to_others() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/b/c");
        let held = DataDirectory::lock(&path).unwrap();
        assert_eq!(held.path(), path);
        for directory in [&path, &temp.path().join("a")] {
            assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o007, 0);
        }
    }

    #[test]
    fn a_second_holder_is_refused_and_told_who_has_it() {
        let temp = tempfile::tempdir().unwrap();
        let held = DataDirectory::lock(temp.path()).unwrap();
        let message = message(DataDirectory::lock(temp.path()));
        assert!(message.contains(&temp.path().display().to_string()), "{message}");
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        drop(held);
        DataDirectory::lock(temp.path()).unwrap();
    }

    #[test]
    fn a_lock_file_without_a_pid_still_refuses() {
        let temp = tempfile::tempdir().unwrap();
        let held = DataDirectory::lock(temp.path()).unwrap();
        held.lock.set_len(0).unwrap();
        assert!(message(DataDirectory::lock(temp.path())).contains("another process"));
    }

    #[test]
    fn the_lock_lives_as_long_as_any_copy_of_its_file() {
        // A forked child shares the open file just as a duplicate does.
        let temp = tempfile::tempdir().unwrap();
        let held = DataDirectory::lock(temp.path()).unwrap();
        let copy = held.lock.try_clone().unwrap();
        drop(held);
        assert!(message(DataDirectory::lock(temp.path())).contains("in use"));
        drop(copy);
        DataDirectory::lock(temp.path()).unwrap();
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        std::fs::write(&path, b"").unwrap();
        assert!(message(DataDirectory::lock(&path)).contains("cannot be"));
    }
}
