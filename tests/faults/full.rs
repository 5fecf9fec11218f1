//! A small file system that other programs fill and empty.
//!
//! Invariant: puts are refused with an error while there is no room, everything else goes on, and nothing that was stored is lost.

use crate::alone::alone;
use crate::device::{Loop, Mounted};
use crate::harness::{Server, eventually};
use crate::is_thorough;
use crate::queue::{End, put, take};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// A journal of 8 MiB, so a ballast of twice that.
const ARGUMENTS: [&str; 10] = ["-t", "1", "-m", "2", "-B", "8192", "-E", "2064", "--min-free", "8"];
/// xfs takes no smaller one, bytes.
const DISK_SIZE: u64 = 320 << 20;
/// What another program leaves of it from the beginning on, and for `make faults`, bytes.
const LEFT_SIZE: u64 = 60 << 20;
const LEFT_SIZE_THOROUGH: u64 = 120 << 20;
/// What a start says that finds no room.
const REMEDY: &str = "free space in the file system of the data directory";
const FULL: &str = "SERVER_ERROR out of storage";
const NOTICE_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn a_full_ext4_is_emptied_and_filled_again() {
    fill("full::a_full_ext4_is_emptied_and_filled_again", "ext4", "mkfs.ext4");
}

#[test]
fn a_full_xfs_is_emptied_and_filled_again() {
    fill("full::a_full_xfs_is_emptied_and_filled_again", "xfs", "mkfs.xfs");
}

#[test]
fn a_server_starts_on_a_full_ext4_and_is_emptied() {
    start_while_full("full::a_server_starts_on_a_full_ext4_and_is_emptied", "ext4", "mkfs.ext4");
}

#[test]
fn a_server_starts_on_a_full_xfs_and_is_emptied() {
    start_while_full("full::a_server_starts_on_a_full_xfs_and_is_emptied", "xfs", "mkfs.xfs");
}

/// However a server ends on a full file system, the next one serves all it had, down to the last message.
fn start_while_full(name: &str, kind: &str, mkfs: &str) {
    on_small_disk(name, kind, mkfs, |tree| {
        write_up_to(&tree.join("others"), free_size(tree) - LEFT_SIZE);
        let mut server = Server::start_in(&tree.join("data"), &ARGUMENTS);
        let (stored, end) = put(server.addr(), 0, usize::MAX);
        assert_eq!(end, End::Refused(FULL.to_owned()));
        assert!(stored > 1000, "only {stored} messages found room");
        let (others, rest) = (tree.join("others"), tree.join("rest"));
        // What is in the journal finds room in the ballast, of which somebody else takes what is left.
        let mut taken = 0;
        let deaths = [Death::Kill, Death::Stop, Death::Kill, Death::Kill, Death::Stop, Death::Stop];
        for (number, death) in deaths.into_iter().enumerate() {
            write_up_to(&rest, DISK_SIZE);
            match death {
                Death::Kill => server.kill9(),
                // It says when it could not bring all into the database: the next start does.
                Death::Stop => match server.stop().code() {
                    Some(0) => {}
                    code => check_refusal(code, &server.output(), "restart it when the cause is gone"),
                },
            }
            if number == 2 {
                give_up_ballast(tree);
            }
            write_up_to(&rest, DISK_SIZE);
            if let Err(refused) = server.try_restart_with(&ARGUMENTS) {
                check_refusal(refused.status.code(), &refused.output, REMEDY);
                // Enough for what waits for the database, and less than --min-free.
                let size = fs::metadata(&rest).expect("its size").len() - (6 << 20);
                File::options().write(true).open(&rest).and_then(|rest| rest.set_len(size)).expect("some room");
                server.restart();
            }
            write_up_to(&rest, DISK_SIZE);
            assert_eq!(put(server.addr(), stored, stored + 1), (stored, End::Refused(FULL.to_owned())));
            let next = taken + stored / 8;
            assert_eq!(take(server.addr(), taken, next), next);
            taken = next;
        }
        let ballast = fs::metadata(tree.join("data/ballast")).expect("the ballast");
        let free = free_size(tree);
        // Some blocks xfs gives to nobody.
        assert!(
            ballast.blocks() == 0 && free < 64 << 10,
            "there is room: {free} bytes, and {} blocks",
            ballast.blocks()
        );
        assert_eq!(take(server.addr(), taken, usize::MAX), stored);
        server.kill9();
        server.restart();
        let mut client = server.connect();
        client.send(b"get q\r\ndelete q\r\n");
        client.expect(b"END\r\nDELETED\r\n");

        for path in [&others, &rest] {
            fs::remove_file(path).expect("removed");
        }
        eventually("puts are accepted again", NOTICE_TIMEOUT, || put(server.addr(), stored, stored + 1).1 == End::Done);
        server.restart();
        assert_eq!(take(server.addr(), stored, usize::MAX), stored + 1);
        assert!(server.stop().success(), "{}", server.output());
    });
}

#[test]
fn a_start_that_has_no_room_for_what_is_in_the_journal_is_refused() {
    let name = "full::a_start_that_has_no_room_for_what_is_in_the_journal_is_refused";
    on_small_disk(name, "ext4", "mkfs.ext4", |tree| {
        let data = tree.join("data");
        let mut server = Server::start_in(&data, &[&ARGUMENTS[..], &["-C", "3600"]].concat());
        // Less than a checkpoint is made for.
        let (stored, _) = put(server.addr(), 0, 50);
        server.kill9();
        give_up_ballast(tree);
        let others = tree.join("others");
        write_up_to(&others, DISK_SIZE);
        for _ in 0..3 {
            let refused = Server::try_start_in(&data, &ARGUMENTS).err().expect("there is no room");
            check_refusal(refused.status.code(), &refused.output, REMEDY);
        }
        fs::remove_file(&others).expect("removed");
        let mut server = Server::start_in(&data, &ARGUMENTS);
        assert_eq!(take(server.addr(), 0, usize::MAX), stored);
        assert!(server.stop().success(), "{}", server.output());
    });
}

/// How a server ends.
#[derive(Clone, Copy, Debug)]
enum Death {
    Kill,
    Stop,
}

/// As a server does that meets a full file system, before others take the room.
fn give_up_ballast(tree: &Path) {
    let ballast = File::options().write(true).open(tree.join("data/ballast"));
    ballast.and_then(|ballast| ballast.set_len(0)).expect("no ballast");
}

/// It ended for want of room, and says what to do.
fn check_refusal(code: Option<i32>, output: &str, remedy: &str) {
    assert!(
        code == Some(1) && output.contains("No space left on device") && output.contains(remedy),
        "{code:?}: {output}"
    );
    println!("{}", output.lines().last().unwrap_or_default());
}

/// Runs `body` with a small file system of this kind.
fn on_small_disk(name: &str, kind: &str, mkfs: &str, body: impl FnOnce(&Path)) {
    alone(name, &["losetup", mkfs], &["/dev/loop-control"], || {
        let scratch = tempfile::tempdir().expect("a directory");
        let (image, tree) = (scratch.path().join("image"), scratch.path().join("tree"));
        fs::create_dir(&tree).expect("a directory");
        File::create(&image).and_then(|image| image.set_len(DISK_SIZE)).expect("an image");
        let disk = Loop::attach(&image, false).expect("a loop device");
        disk.format(kind).expect("a file system");
        let _mounted = Mounted::mount(&disk, &tree).expect("a mount");
        body(&tree);
    });
}

fn fill(name: &str, kind: &str, mkfs: &str) {
    on_small_disk(name, kind, mkfs, |tree| {
        let (others, rest) = (tree.join("others"), tree.join("rest"));
        let left = if is_thorough() { LEFT_SIZE_THOROUGH } else { LEFT_SIZE };
        write_up_to(&others, free_size(tree) - left);
        let data = tree.join("data");
        let mut server = Server::start_in(&data, &ARGUMENTS);

        let (stored, end) = put(server.addr(), 0, usize::MAX);
        assert_eq!(end, End::Refused(FULL.to_owned()));
        assert!(stored > 1000, "only {stored} messages found room");
        // Refused with room for removals; now there is none for anybody.
        write_up_to(&rest, DISK_SIZE);
        let half = take(server.addr(), 0, stored / 2);
        assert_eq!(half, stored / 2);
        let mut client = server.connect();
        client.send(b"db_checkpoint\r\n");
        client.expect(b"OK\r\n");
        eventually("it is told", NOTICE_TIMEOUT, || server.output().contains("the ballast of"));
        let (refused, end) = put(server.addr(), stored, stored + 1);
        assert_eq!((refused, end), (stored, End::Refused(FULL.to_owned())));
        assert_eq!(take(server.addr(), half, usize::MAX), stored);
        client.send(b"delete q\r\nget q\r\n");
        client.expect(b"DELETED\r\nEND\r\n");

        for path in [&others, &rest] {
            fs::remove_file(path).expect("removed");
        }
        let mut again = stored;
        eventually("puts are accepted again", NOTICE_TIMEOUT, || {
            again = put(server.addr(), stored, stored + 100).0;
            again > stored
        });
        assert_eq!(put(server.addr(), again, stored + 100), (stored + 100, End::Done));
        let ballast = fs::metadata(data.join("ballast")).expect("the ballast");
        let journals: u64 = (0..4)
            .map(|segment| fs::metadata(data.join(format!("journal/0/segment-{segment}"))).expect("a segment").len())
            .sum();
        assert!(ballast.blocks() * 512 >= 2 * journals, "the ballast is not whole: {} blocks", ballast.blocks());
        server.kill9();
        server.restart();
        assert_eq!(take(server.addr(), stored, usize::MAX), stored + 100);
        assert!(server.stop().success(), "{}", server.output());
    });
}

/// Bytes that are free where this is.
fn free_size(path: &Path) -> u64 {
    let volume = rustix::fs::statvfs(path).expect("a file system");
    volume.f_bavail * volume.f_frsize
}

/// Writes to the end of a file until it has this size or there is no room.
fn write_up_to(path: &Path, size: u64) {
    let mut file = File::options().create(true).append(true).open(path).expect("a file");
    // Smaller and smaller, so that the last block is taken, too.
    for piece in [1 << 20, 1 << 16, 1 << 12] {
        while file.metadata().expect("its size").len() + piece <= size {
            match file.write_all(&vec![b'x'; piece as usize]).and_then(|()| file.sync_data()) {
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                result => result.expect("written"),
            }
        }
    }
}
