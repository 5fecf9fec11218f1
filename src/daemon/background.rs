//! `-d`: the server goes to the background, and the command that started it returns when it is known how that went.
//!
//! The process forks; the child is the server. The caller's process waits on a pipe for one byte that says that the server is ready.
//! Until then the child has the caller's standard error, so that what is wrong with a start is read where it was typed.
//!
//! Invariant: the caller gets status 0 only when the server is ready, and otherwise a message and another status, however the child
//! ended.

use anyhow::{Context, Result, bail};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{chdir, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use std::fs::File;
use std::io::{Read, Write};

/// A server in the background whose caller still waits.
pub struct Background {
    caller: File,
    null: File,
}

/// Forks. Returns in the child, which has left the caller's session and, unless `stay`, its working directory.
///
/// # Errors
/// When the system has no room for another process, there is no /dev/null, or another thread runs, which the child would lack.
pub fn detach(stay: bool) -> Result<Background> {
    let null = File::options().read(true).write(true).open("/dev/null").context("-d: cannot open /dev/null")?;
    let (ready, caller) = pipe_with(PipeFlags::CLOEXEC).context("-d: cannot make a pipe")?;
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        // Ours are started later, but a look-up of names can bring some.
        bail!("-d: {threads} threads run already (a module of nsswitch.conf?): start without -d, under a supervisor");
    }
    // SAFETY: there is no other thread whose locks the child could find held.
    match unsafe { fork() }.context("-d: cannot start a process in the background")? {
        ForkResult::Parent { child } => {
            // Or the end of the pipe would never come.
            drop(caller);
            // Leaves without dropping what is the child's now: sockets, locks.
            std::process::exit(await_ready(child, File::from(ready)))
        }
        ForkResult::Child => {
            setsid().context("-d: cannot leave the session")?;
            if !stay {
                chdir("/").context("-d: cannot change to /")?;
            }
            Ok(Background { caller: caller.into(), null })
        }
    }
}

impl Background {
    /// The server is ready: lets go of the terminal, but for standard error if it is kept, and lets the caller return.
    ///
    /// # Errors
    /// When standard input, output or error cannot be replaced.
    pub fn ready(mut self, keep_stderr: bool) -> Result<()> {
        let replaced = dup2_stdin(&self.null).and_then(|()| dup2_stdout(&self.null));
        let replaced = if keep_stderr { replaced } else { replaced.and_then(|()| dup2_stderr(&self.null)) };
        replaced.context("-d: cannot let go of the terminal")?;
        // A caller that was killed meanwhile does not wait any more.
        let _ = self.caller.write_all(b"r");
        Ok(())
    }
}

/// Waits for the server; returns what the caller's process is to end with.
fn await_ready(child: Pid, mut ready: File) -> i32 {
    if ready.read_exact(&mut [0]).is_ok() {
        return 0;
    }
    match waitpid(child, None) {
        // It has said why.
        Ok(WaitStatus::Exited(_, status)) if status != 0 => status,
        Ok(WaitStatus::Signaled(_, signal, _)) => {
            eprintln!("ringq: the server was ended by {signal:?} before it was ready");
            1
        }
        end => {
            eprintln!("ringq: the server ended before it was ready: {end:?}");
            1
        }
    }
}
