//! A small file system that other programs fill and empty.
//!
//! Invariant: puts are refused with an error while there is no room, everything else goes on, and nothing that was stored is lost.

use crate::alone::alone;
use crate::device::{Loop, Mounted};
use crate::harness::{Server, eventually};
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
/// What another program takes of it from the beginning on, bytes.
const TAKEN_SIZE: u64 = 200 << 20;
const NOTICE_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
#[ignore = "make faults: it takes a minute"]
fn a_full_ext4_is_emptied_and_filled_again() {
    fill("full::a_full_ext4_is_emptied_and_filled_again", "ext4", "mkfs.ext4");
}

#[test]
#[ignore = "make faults: it takes a minute"]
fn a_full_xfs_is_emptied_and_filled_again() {
    fill("full::a_full_xfs_is_emptied_and_filled_again", "xfs", "mkfs.xfs");
}

fn fill(name: &str, kind: &str, mkfs: &str) {
    alone(name, &["losetup", mkfs], &["/dev/loop-control"], || {
        let scratch = tempfile::tempdir().expect("a directory");
        let (image, tree) = (scratch.path().join("image"), scratch.path().join("tree"));
        fs::create_dir(&tree).expect("a directory");
        File::create(&image).and_then(|image| image.set_len(DISK_SIZE)).expect("an image");
        let disk = Loop::attach(&image, false).expect("a loop device");
        disk.format(kind).expect("a file system");
        let _mounted = Mounted::mount(&disk, &tree).expect("a mount");
        let (others, rest) = (tree.join("others"), tree.join("rest"));
        write_up_to(&others, TAKEN_SIZE);
        let data = tree.join("data");
        let mut server = Server::start_in(&data, &ARGUMENTS);

        let (stored, end) = put(server.addr(), 0, usize::MAX);
        assert_eq!(end, End::Refused("SERVER_ERROR out of storage".to_owned()));
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
        assert_eq!((refused, end), (stored, End::Refused("SERVER_ERROR out of storage".to_owned())));
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

/// Writes to a new file until it has this size or there is no room.
fn write_up_to(path: &Path, size: u64) {
    let mut file = File::create(path).expect("a file");
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
