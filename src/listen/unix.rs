//! A unix socket and its file: made, taken over from a server that is gone, and removed at the end.
//!
//! Who looks at a path and then changes it holds a lock of its directory, so that two servers that start, or one that starts and
//! one that ends, never remove each other's file. Invariant: nobody connects who `-a` keeps out, since the file has its mode
//! before the socket listens, and a socket that does not listen refuses everybody; a file that is not a dead socket is
//! never touched.

use super::{Error, PATIENCE, RETRY};
use rustix::fs::{AtFlags, FlockOperation, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Longest path, bytes: the kernel's `sun_path` has 108 with the zero at the end.
const PATH_LEN_MAX: usize = 107;

/// The file of a unix socket that this process made. Dropping it removes the file, unless another is in its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Holds the file's inode, so that its number does not pass to another file while we compare it.
    inode: OwnedFd,
}

/// Listens on a path; `mode` is who may connect.
///
/// # Errors
/// Why the path cannot be used; a path that is in use is waited for a little.
pub(super) fn listen(path: &Path, mode: u32, backlog: i32) -> Result<(OwnedFd, SocketFile), Error> {
    let length = path.as_os_str().len();
    if length > PATH_LEN_MAX {
        let path = path.display();
        let problem = format!("the path has {length} bytes, and a unix socket's at most {PATH_LEN_MAX}");
        return Err(Error(format!("cannot listen on unix:{path}: {problem}; choose a shorter one")));
    }
    let give_up = Instant::now() + PATIENCE;
    loop {
        match try_listen(path, mode, backlog) {
            Ok(made) => return Ok(made),
            Err(Problem::Lasting(error)) => return Err(error),
            Err(Problem::Passing(problem)) if Instant::now() >= give_up => return Err(refused(path, problem)),
            Err(Problem::Passing(_)) => std::thread::sleep(RETRY),
        }
    }
}

/// Why one try did not lead to a socket.
#[derive(Debug)]
pub(super) enum Problem {
    /// It may pass by itself.
    Passing(&'static str),
    Lasting(Error),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem::Lasting(error)
    }
}

pub(super) fn try_listen(path: &Path, mode: u32, backlog: i32) -> Result<(OwnedFd, SocketFile), Problem> {
    let Some(_lock) = lock_directory(path).map_err(|error| refused(path, error))? else {
        return Err(Problem::Passing("another process holds a lock of its directory"));
    };
    match occupant(path)? {
        Occupant::Nobody => {}
        Occupant::Server => {
            let problem = "a server listens on it; stop that one, or choose another path with -s or -l";
            return Err(Problem::Passing(problem));
        }
        Occupant::Dead => {
            fs::remove_file(path)
                .map_err(|error| refused(path, format!("what a server left cannot be removed: {error}")))?;
            tracing::info!("{}: what a server left that is gone was removed", path.display());
        }
    }
    Ok(make(path, mode, backlog).map_err(|error| refused(path, advised(error)))?)
}

fn make(path: &Path, mode: u32, backlog: i32) -> io::Result<(OwnedFd, SocketFile)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux gives the file that bind makes the socket's own mode, less the umask: never more than was asked for.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    socket.bind(&SockAddr::unix(path)?)?;
    let finish = || {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inode = rustix::fs::open(path, flags, Mode::empty())?;
        if rustix::fs::fstat(&inode)?.st_mode & 0o7777 != mode {
            // By way of the descriptor, so that nothing else gets the mode should the name have changed hands.
            let file = format!("/proc/self/fd/{}", inode.as_raw_fd());
            fs::set_permissions(file, fs::Permissions::from_mode(mode))?;
        }
        socket.listen(backlog)?;
        Ok(SocketFile { path: path.to_owned(), inode })
    };
    match finish() {
        Ok(file) => Ok((socket.into(), file)),
        Err(error) => {
            // Made a moment ago, under the lock.
            let _ = fs::remove_file(path);
            Err(error)
        }
    }
}

/// Who has a path.
enum Occupant {
    Nobody,
    /// A socket on which nobody listens.
    Dead,
    Server,
}

fn occupant(path: &Path) -> Result<Occupant, Error> {
    let kind = match fs::symlink_metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Occupant::Nobody),
        Err(error) => return Err(refused(path, error)),
    };
    if !kind.is_socket() {
        let what = match () {
            () if kind.is_dir() => "a directory",
            () if kind.is_symlink() => "a symbolic link",
            () if kind.is_file() => "a file",
            () => "something else than a socket",
        };
        return Err(refused(
            path,
            format!("there is {what}, which is left alone; choose another path, or move it away"),
        ));
    }
    let connect = || Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?.connect(&SockAddr::unix(path)?);
    match connect().map_err(|error| (Errno::from_io_error(&error), error)) {
        // Without room in its backlog, it still listens.
        Ok(()) | Err((Some(Errno::AGAIN), _)) => Ok(Occupant::Server),
        Err((Some(Errno::CONNREFUSED), _)) => Ok(Occupant::Dead),
        Err((Some(Errno::NOENT), _)) => Ok(Occupant::Nobody),
        Err((Some(Errno::PROTOTYPE), _)) => Err(refused(path, "a program has it for a socket of another type")),
        Err((_, error)) => Err(refused(path, format!("cannot tell whether a server listens on it: {error}"))),
    }
}

/// Locks the directory of a path until the descriptor is closed; `None` while another process has it.
fn lock_directory(path: &Path) -> Result<Option<OwnedFd>, String> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lock = match rustix::fs::open(directory, flags, Mode::empty()) {
        Ok(lock) => lock,
        Err(Errno::NOENT) => {
            return Err(format!("there is no directory {}; make it, or choose another path", directory.display()));
        }
        Err(error) => return Err(format!("the directory {} cannot be read: {error}", directory.display())),
    };
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(format!("the directory {} cannot be locked: {error}", directory.display())),
    }
}

fn refused(path: &Path, problem: impl std::fmt::Display) -> Error {
    Error(format!("cannot listen on unix:{}: {problem}", path.display()))
}

fn advised(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!("{error}: the server needs to write to the directory"),
        _ => error.to_string(),
    }
}

impl SocketFile {
    /// Makes the file another user's.
    pub(super) fn give_to(&self, uid: u32, gid: u32) -> Result<(), Error> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(&self.inode, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            .map_err(|error| Error(format!("cannot give unix:{} to the user of -u: {error}", self.path.display())))
    }

    fn remove(&self) -> Result<(), String> {
        let give_up = Instant::now() + PATIENCE;
        let _lock = loop {
            match lock_directory(&self.path)? {
                Some(lock) => break lock,
                None if Instant::now() >= give_up => return Err("another process holds a lock of its directory".into()),
                None => std::thread::sleep(RETRY),
            }
        };
        let ours = rustix::fs::fstat(&self.inode).map_err(|error| error.to_string())?;
        match fs::symlink_metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.st_dev, ours.st_ino) => {
                fs::remove_file(&self.path).map_err(|error| error.to_string())
            }
            // Another server has taken the path over, or somebody has removed the file.
            _ => Ok(()),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(problem) = self.remove() {
            tracing::warn!("unix:{} stays behind, and the next start removes it: {problem}", self.path.display());
        }
    }
}
