//! The end of the process when a page of the database's mapping cannot be had: with a reason instead of a bare signal.
//!
//! LMDB reads its file through a mapping. Where the device fails, or the file was cut or points outside itself, there is no error to
//! return: the kernel sends SIGBUS to the thread that reads.
//!
//! Invariant: only a fault inside the mapping of the database is spoken for; any other ends the process as it would have.

use crate::log;
use anyhow::{Context, Result};
use std::io;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::OnceLock;

/// What is mapped, and what a SIGBUS did before.
struct Watched {
    database: PathBuf,
    before: libc::sigaction,
}

static WATCHED: OnceLock<Watched> = OnceLock::new();

/// Speaks from now on for the mapping of a file, which may not be there yet, in a directory, which is. To be called once.
///
/// # Errors
/// When the system refuses the handler.
pub fn watch(directory: &Path, file: &str) -> Result<()> {
    // The kernel names what is mapped by its path without links.
    let directory = directory.canonicalize().context("cannot find the data directory")?;
    let database = directory.join(file);
    let database = database.canonicalize().unwrap_or(database);
    // SAFETY: zeroes are a valid sigaction: no handler, no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_bus_error as *const () as libc::sighandler_t;
    // Not on the alternate stack, which is small: the thread's own is sound, since this is no overflow of it.
    action.sa_flags = libc::SA_SIGINFO;
    let mut before = MaybeUninit::zeroed();
    // SAFETY: the first call only fills `before`, and what it filled is read only if it succeeded.
    let before = unsafe {
        check(libc::sigaction(libc::SIGBUS, ptr::null(), before.as_mut_ptr()))?;
        before.assume_init()
    };
    // Before there is a handler that reads it.
    let _ = WATCHED.set(Watched { database, before });
    // SAFETY: `action` is whole, and its handler has the form that SA_SIGINFO asks for.
    check(unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) })
}

fn check(result: libc::c_int) -> Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context("cannot watch for bus errors") }
}

/// The thread was reading, not in the middle of the log or of the allocator, since these map no files: both can be used.
extern "C" fn on_bus_error(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let Some(watched) = WATCHED.get() else { return };
    // SAFETY: the kernel hands a valid siginfo_t, which has an address for this signal.
    let address = unsafe { (*info).si_addr() } as usize;
    if is_mapped(address, &watched.database) {
        log::fatal(format_args!(
            "{} cannot be read: the device failed, or the file was cut or damaged; nothing more is acknowledged and the server \
             stops; restart it when the cause is gone",
            watched.database.display()
        ));
        // SAFETY: ends the process at once, without what other threads would have to take part in.
        unsafe { libc::_exit(1) }
    }
    // The access is repeated when this returns, and what was done before is done then.
    // SAFETY: `before` is what the system said was in force.
    unsafe { libc::sigaction(libc::SIGBUS, &raw const watched.before, ptr::null_mut()) };
}

/// Whether the address lies in a mapping of the file.
fn is_mapped(address: usize, file: &Path) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().any(|line| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let Some((start, end)) = range else { return false };
        let number = |text| usize::from_str_radix(text, 16).unwrap_or(0);
        (number(start)..number(end)).contains(&address) && file.to_str().is_some_and(|file| line.ends_with(file))
    })
}
