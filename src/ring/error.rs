//! Why a ring could not be started, and what the operator can do about it.
//!
//! The kernel answers with an errno only; which of several causes it was is read from the sysctls and the release.

use super::probe::kernel_release;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::io;

/// The cause and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// `kernel.io_uring_disabled` is 2.
    #[error(
        "io_uring is switched off for every process (kernel.io_uring_disabled = 2); allow it with `sysctl kernel.io_uring_disabled=0`"
    )]
    DisabledForAll,
    /// `kernel.io_uring_disabled` is 1 and this process is none of the privileged.
    #[error(
        "io_uring is reserved for processes with CAP_SYS_ADMIN or in the group kernel.io_uring_group = {group} (kernel.io_uring_disabled = 1); put RingQ's user in that group, set kernel.io_uring_group to a group it has, or allow io_uring with `sysctl kernel.io_uring_disabled=0`"
    )]
    ReservedForGroup {
        /// The value of `kernel.io_uring_group`; -1 is no group.
        group: String,
    },
    /// A filter around this process refuses the system calls.
    #[error(
        "io_uring is refused by a system call filter or security module around this process ({errno}). In a container use a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register (docker: --security-opt seccomp=PROFILE); under systemd add the three to SystemCallFilter="
    )]
    Filtered {
        /// What the kernel answered.
        errno: io::Error,
    },
    /// The kernel does not know the system call, or a filter pretends so.
    #[error(
        "this kernel ({release}) has no io_uring, or a container's seccomp profile hides it. RingQ needs Linux 6.1 or newer with CONFIG_IO_URING, and a profile that allows io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Absent {
        /// As `uname -r` prints it.
        release: String,
    },
    /// The kernel refuses the ring's flags.
    #[error("this kernel ({release}) does not know what RingQ asks of io_uring; RingQ needs Linux 6.1 or newer")]
    KernelTooOld {
        /// As `uname -r` prints it.
        release: String,
    },
    /// The kernel lacks an operation.
    #[error("io_uring of this kernel ({release}) has no {operation} operation; RingQ needs Linux 6.1 or newer")]
    KernelLacks {
        /// The operation's name without its IORING_OP prefix.
        operation: &'static str,
        /// As `uname -r` prints it.
        release: String,
    },
    /// The memory of the ring may not be locked or allocated.
    #[error(
        "no memory for io_uring's queues and buffers: the limit on locked memory is {memlock}; raise it (`ulimit -l`, systemd: LimitMEMLOCK=) or the memory limit of the container"
    )]
    NoMemory {
        /// The soft limit, in words.
        memlock: String,
    },
    /// No descriptor is left for the ring.
    #[error("no file descriptor left for io_uring ({errno}); raise `ulimit -n` (systemd: LimitNOFILE=)")]
    NoDescriptor {
        /// What the kernel answered.
        errno: io::Error,
    },
    /// Something none of the known causes explains.
    #[error("io_uring cannot be set up")]
    Other(#[source] io::Error),
}

/// The cause behind an error of setting up a ring on this machine.
pub fn diagnose(error: &io::Error) -> StartError {
    diagnose_on(error, sysctl("io_uring_disabled").as_deref(), || sysctl("io_uring_group").unwrap_or("-1".into()))
}

fn diagnose_on(error: &io::Error, disabled: Option<&str>, group: impl FnOnce() -> String) -> StartError {
    let Some(code) = Errno::from_io_error(error) else {
        return StartError::Other(io::Error::new(error.kind(), error.to_string()));
    };
    match (code, disabled) {
        (Errno::PERM, Some("2")) => StartError::DisabledForAll,
        (Errno::PERM, Some("1")) => StartError::ReservedForGroup { group: group() },
        (Errno::PERM | Errno::ACCESS, _) => StartError::Filtered { errno: code.into() },
        (Errno::NOSYS, _) => StartError::Absent { release: kernel_release() },
        (Errno::INVAL, _) => StartError::KernelTooOld { release: kernel_release() },
        (Errno::NOMEM, _) => StartError::NoMemory { memlock: memlock() },
        (Errno::MFILE | Errno::NFILE, _) => StartError::NoDescriptor { errno: code.into() },
        _ => StartError::Other(code.into()),
    }
}

/// A value of /proc/sys/kernel, `None` where the kernel has no such setting.
fn sysctl(name: &str) -> Option<String> {
    let value = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
    Some(value.trim().to_owned())
}

fn memlock() -> String {
    match getrlimit(Resource::Memlock).current {
        Some(size) => format!("{} KiB", size / 1024),
        None => "unlimited".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(errno: Errno, disabled: Option<&str>) -> String {
        diagnose_on(&errno.into(), disabled, || "1042".into()).to_string()
    }

    #[test]
    fn eperm_is_told_apart_by_the_sysctl() {
        assert!(message(Errno::PERM, Some("2")).contains("sysctl kernel.io_uring_disabled=0"));
        assert!(message(Errno::PERM, Some("1")).contains("kernel.io_uring_group = 1042"));
        assert!(message(Errno::PERM, Some("0")).contains("seccomp"));
        assert!(message(Errno::PERM, None).contains("SystemCallFilter="));
    }

    #[test]
    fn each_cause_names_its_remedy() {
        assert!(message(Errno::NOSYS, None).contains("CONFIG_IO_URING"));
        assert!(message(Errno::NOMEM, Some("0")).contains("LimitMEMLOCK="));
        assert!(message(Errno::MFILE, Some("0")).contains("ulimit -n"));
        let old = message(Errno::INVAL, Some("0"));
        assert!(old.contains("6.1 or newer"));
        assert!(old.contains(&kernel_release()));
    }

    #[test]
    fn an_unknown_cause_keeps_its_error() {
        let StartError::Other(source) = diagnose(&Errno::NOTTY.into()) else { panic!("ENOTTY has no known cause") };
        assert_eq!(Errno::from_io_error(&source), Some(Errno::NOTTY));
    }
}
