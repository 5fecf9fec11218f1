//! `-P`: a file with the server's process id while it serves.
//!
//! Who uses the file holds an `flock` on it, so whether it is in use is not guessed from the number in it, which another program may
//! have by now. It belongs to the open file, which is why it is taken after the fork.
//!
//! Invariants: the file of a running server is never written to or removed by another. What a file that is no pid file holds is
//! never overwritten.

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Anyone may read who runs.
const MODE: u32 = 0o644;

/// Bytes that are enough for a process id, and to see that something else is none.
const SIZE_MAX: u64 = 32;

/// How often a file is opened again that was removed by its owner between the opening and the locking.
const ATTEMPTS: usize = 100;

/// A pid file, locked until dropped, which removes it if this process wrote or made it.
pub struct PidFile {
    path: PathBuf,
    file: File,
    is_ours: bool,
}

impl PidFile {
    /// Opens or makes the file and locks it; a file that was left behind is taken over, its contents stay as they are for now.
    ///
    /// # Errors
    /// When a running server has it, when it holds something else than a process id, when it cannot be made.
    pub fn lock(path: &Path) -> Result<PidFile> {
        for _ in 0..ATTEMPTS {
            let (mut pid_file, is_made) =
                open(path).with_context(|| format!("-P {}: cannot open it", path.display()))?;
            match flock(&pid_file.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => bail!(
                    "-P {}: it belongs to process {}, which runs: stop it, or choose another file",
                    path.display(),
                    // Empty while that one is still starting.
                    pid_file.contents().ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "(starting)".into()),
                ),
                Err(error) => return Err(error).with_context(|| format!("-P {}: cannot lock it", path.display())),
            }
            if !pid_file.is_at_its_path() {
                continue;
            }
            // Not before it is locked: another start may have found it first.
            pid_file.is_ours = is_made;
            let contents = pid_file.contents().with_context(|| format!("-P {}: cannot read it", path.display()))?;
            if !contents.is_empty() && contents.parse::<u32>().is_err() {
                bail!("-P {}: there is a file that is no pid file: choose another name, or remove it", path.display());
            }
            return Ok(pid_file);
        }
        bail!("-P {}: it is removed again and again", path.display())
    }

    /// Writes this process's id. From now on the file is removed at the end.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self) -> io::Result<()> {
        self.is_ours = true;
        // The umask is for everything else.
        fchmod(&self.file, Mode::from_raw_mode(MODE)).or_else(|error| match error {
            // Another's file, taken over: its mode is not ours to change.
            Errno::PERM => Ok(()),
            error => Err(error),
        })?;
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn contents(&mut self) -> io::Result<String> {
        let mut bytes = Vec::new();
        self.file.rewind()?;
        (&self.file).take(SIZE_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Whether the path still leads to the open file.
    fn is_at_its_path(&self) -> bool {
        let place = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let at_path = std::fs::symlink_metadata(&self.path).map(place);
        at_path.is_ok_and(|at_path| self.file.metadata().is_ok_and(|meta| place(meta) == at_path))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Whoever put another file there may keep it.
        if self.is_ours && self.is_at_its_path() && std::fs::remove_file(&self.path).is_err() {
            // After `-u` its directory may be closed to us; an empty file says as well that nothing runs.
            let _ = self.file.set_len(0);
        }
    }
}

/// Opens the file; whether it was made is the second value.
fn open(path: &Path) -> io::Result<(PidFile, bool)> {
    let mut options = File::options();
    // Root writes here, perhaps in a directory that is not root's alone, so links are not followed; nor is a pipe waited for.
    options.read(true).write(true).mode(MODE).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
    let made = options.clone().create_new(true).open(path);
    let is_made = made.is_ok();
    let file = match made {
        // Created in case it was removed a moment ago.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            options.create(true).truncate(false).open(path)?
        }
        made => made?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok((PidFile { path: path.to_owned(), file, is_ours: false }, is_made))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &Path) -> String {
        PidFile::lock(path).err().expect("a refusal").to_string()
    }

    #[test]
    fn a_stale_file_is_taken_over_and_left_alone_by_a_start_that_fails() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("pid");
        std::fs::write(&path, "4711\n").unwrap();
        drop(PidFile::lock(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "4711\n");
        let mut taken = PidFile::lock(&path).unwrap();
        taken.write().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(taken);
        assert!(!path.exists());
    }

    #[test]
    fn a_start_that_fails_takes_the_file_with_it_that_it_made() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("pid");
        drop(PidFile::lock(&path).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn a_file_in_use_is_refused_with_its_owner() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("pid");
        let mut held = PidFile::lock(&path).unwrap();
        assert!(refusal(&path).contains("(starting)"));
        held.write().unwrap();
        let refused = refusal(&path);
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(path.exists());
    }

    #[test]
    fn what_is_no_pid_file_is_not_overwritten() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("ringq.toml");
        std::fs::write(&path, "port = 1").unwrap();
        assert!(refusal(&path).contains("no pid file"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "port = 1");
        let link = temp.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(refusal(&link).contains("link"));
        assert!(refusal(temp.path()).contains("cannot open"));
    }

    #[test]
    fn a_file_that_took_our_place_is_not_removed() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("pid");
        let mut held = PidFile::lock(&path).unwrap();
        held.write().unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "1\n").unwrap();
        drop(held);
        assert!(path.exists());
    }
}
