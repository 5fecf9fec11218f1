//! Reads, writes and syncs that fail under a running server, and under one that starts.
//!
//! Invariant: the server ends by itself and names the file and the cause; a start without the fault has everything that was
//! acknowledged, and at most one message more.

use crate::alone::alone;
use crate::failing::{Ask, Failing, Fault};
use crate::harness::Server;
use crate::is_thorough;
use crate::queue::{End, put, take};
use fuser::BackgroundSession;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;
use tempfile::TempDir;

/// A journal of 8 MiB and a checkpoint each second.
const ARGUMENTS: [&str; 10] = ["-t", "1", "-m", "2", "-B", "8192", "-E", "2064", "-C", "1"];
const END_TIMEOUT: Duration = Duration::from_secs(30);
const DEVICES: [&str; 1] = ["/dev/fuse"];
const DATABASE: &str = "data/store/data.mdb";
const JOURNAL: &str = "data/journal/0/segment-";
const CAUSE: &str = "Input/output error";

#[test]
fn a_journal_that_cannot_be_written_ends_the_server() {
    let name = "device_errors::a_journal_that_cannot_be_written_ends_the_server";
    end_under_load(name, &[], Ask::Write, JOURNAL, &[JOURNAL, "cannot be written at byte", CAUSE]);
}

/// Each write is synced with it, so it is the write that fails.
#[test]
fn a_journal_that_cannot_be_synced_ends_the_server() {
    let name = "device_errors::a_journal_that_cannot_be_synced_ends_the_server";
    end_under_load(name, &[], Ask::Sync, JOURNAL, &[JOURNAL, "cannot be written at byte", CAUSE]);
}

#[test]
fn a_journal_that_cannot_be_written_ends_the_server_without_sync() {
    let name = "device_errors::a_journal_that_cannot_be_written_ends_the_server_without_sync";
    end_under_load(name, &["-N"], Ask::Write, JOURNAL, &[JOURNAL, "cannot be written at byte", CAUSE]);
}

#[test]
fn a_journal_that_cannot_be_synced_ends_the_server_without_sync() {
    let name = "device_errors::a_journal_that_cannot_be_synced_ends_the_server_without_sync";
    end_under_load(name, &["-N"], Ask::Sync, JOURNAL, &[JOURNAL, "cannot be synced", CAUSE]);
}

#[test]
fn a_database_that_cannot_be_written_ends_the_server() {
    let name = "device_errors::a_database_that_cannot_be_written_ends_the_server";
    end_under_load(name, &[], Ask::Write, DATABASE, &["the store in", "data: committing", CAUSE]);
}

#[test]
fn a_database_that_cannot_be_synced_ends_the_server() {
    let name = "device_errors::a_database_that_cannot_be_synced_ends_the_server";
    end_under_load(name, &[], Ask::Sync, DATABASE, &["the store in", "data: committing", CAUSE]);
}

/// LMDB reads through a mapping, so what comes of a bad device is no error but a signal.
#[test]
fn a_database_that_cannot_be_read_ends_the_server() {
    alone("device_errors::a_database_that_cannot_be_read_ends_the_server", &[], &DEVICES, || {
        let disk = Disk::new();
        let mut server = disk.start().expect("a start");
        // More than memory holds.
        let (stored, end) = put(server.addr(), 0, 1500);
        assert_eq!(end, End::Done);
        server.restart();
        disk.forget(DATABASE);
        disk.failing.fail(Some(Fault { ask: Ask::Read, path: DATABASE, spared: 0 }));
        let taken = take(server.addr(), 0, stored);
        assert!(taken < stored, "the fault did not come");
        check_end(
            server.wait_for_end(END_TIMEOUT),
            &server.output(),
            &[DATABASE, "cannot be read", "the device failed"],
        );
        disk.failing.fail(None);
        let server = disk.start().expect("a start");
        assert_eq!(take(server.addr(), taken, usize::MAX), stored);
    });
}

/// Whatever a start reads, writes or syncs first, it says what failed, and the next one finds all there is.
#[test]
fn a_start_that_meets_a_bad_device_is_refused() {
    alone("device_errors::a_start_that_meets_a_bad_device_is_refused", &[], &DEVICES, || {
        let disk = Disk::new();
        let mut server = disk.start().expect("a start");
        let (stored, _) = put(server.addr(), 0, 200);
        server.kill9();
        for (ask, path, named) in [
            (Ask::Read, DATABASE, "data"),
            (Ask::Read, JOURNAL, "journal/0/segment-"),
            (Ask::Sync, JOURNAL, "journal/0/segment-"),
            (Ask::Write, DATABASE, "the store in"),
            (Ask::Sync, DATABASE, "the store in"),
        ] {
            disk.forget(path);
            disk.failing.fail(Some(Fault { ask, path, spared: 0 }));
            let refused =
                disk.start().err().unwrap_or_else(|| panic!("{ask:?} of {path} failed, and the server started"));
            assert!(disk.failing.failed() > 0, "{ask:?} of {path} did not come");
            check_end(refused.status, &refused.output, &[named, CAUSE]);
            disk.failing.fail(None);
        }
        let server = disk.start().expect("a start");
        assert_eq!(take(server.addr(), 0, usize::MAX), stored);
    });
}

/// A data directory on a device that can fail.
struct Disk {
    failing: Failing,
    session: BackgroundSession,
    scratch: TempDir,
}

impl Disk {
    fn new() -> Disk {
        let failing = Failing::new();
        let scratch = tempfile::tempdir().expect("a directory");
        let session = failing.mount(scratch.path()).expect("a FUSE mount");
        Disk { failing, session, scratch }
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    fn start(&self) -> Result<Server, crate::harness::StartRefused> {
        Server::try_start_in(&self.data(), &ARGUMENTS)
    }

    /// Has the kernel forget what it keeps of the files whose path begins so: the next read is one of the device.
    fn forget(&self, path: &str) {
        for inode in self.failing.inodes(path) {
            self.session.notifier().inval_inode(inode, 0, 0).expect("the kernel forgets");
        }
    }
}

/// Has the fault come in the middle of a load, a few requests earlier or later; after each everything is there.
fn end_under_load(name: &str, options: &[&str], ask: Ask, path: &'static str, named: &[&str]) {
    alone(name, &[], &DEVICES, || {
        let arguments = [&ARGUMENTS, options].concat();
        for spared in if is_thorough() { &[0, 1, 2, 7, 20][..] } else { &[1] } {
            let disk = Disk::new();
            let mut server = Server::start_in(&disk.data(), &arguments);
            let (stored, _) = put(server.addr(), 0, 20);
            disk.failing.fail(Some(Fault { ask, path, spared: *spared }));
            let (stored, end) = put(server.addr(), stored, usize::MAX);
            assert_eq!(end, End::Gone);
            check_end(server.wait_for_end(END_TIMEOUT), &server.output(), named);
            disk.failing.fail(None);
            let mut server = Server::start_in(&disk.data(), &arguments);
            let there = take(server.addr(), 0, usize::MAX);
            assert!(there == stored || there == stored + 1, "{there} of {stored} messages are there");
            assert!(server.stop().success(), "{}", server.output());
        }
    });
}

fn check_end(status: ExitStatus, output: &str, named: &[&str]) {
    assert_eq!(status.code(), Some(1), "{status}: {output}");
    for part in named {
        assert!(output.contains(part), "{part:?} is missing in {output}");
    }
}
