//! Power cuts for real: the server on ext4 and xfs whose disk is recorded, and started again on what cuts would have left.
//!
//! Invariant: what a client was told before a cut is compared with what the server says after it; nothing is taken from the server's word.

mod device;
mod image;
mod recorder;

use device::{Loop, Mounted, run, text};
use recorder::{DISK, Operation, Record};
use std::fs;

const SIZE: usize = 320 << 20;

/// The recorder itself: a file that was synced is whole after every later cut, one that was not may be gone.
#[test]
fn what_was_synced_is_there_after_every_cut() {
    for kind in ["ext4", "xfs"] {
        let scratch = tempfile::tempdir().expect("a directory");
        let (fuse, tree) = (scratch.path().join("fuse"), scratch.path().join("tree"));
        for directory in [&fuse, &tree] {
            fs::create_dir(directory).expect("a directory");
        }
        let record = Record::new(SIZE);
        let session = record.mount(&fuse).expect("a FUSE mount");
        let disk = Loop::attach(&fuse.join(DISK), true).expect("a loop device");
        println!("{}", run("losetup", &["-l", text(disk.path())]).expect("losetup"));
        let made = match kind {
            "ext4" => run("mkfs.ext4", &["-q", "-E", "nodiscard", text(disk.path())]),
            _ => run("mkfs.xfs", &["-q", "-K", text(disk.path())]),
        };
        made.expect("a file system");
        let mounted = Mounted::mount(&disk, &tree).expect("a mount");
        let mut synced = Vec::new();
        for number in 0..8 {
            let path = tree.join(format!("file{number}"));
            fs::write(&path, vec![b'a' + number; 10_000]).expect("written");
            fs::File::open(&path).expect("opened").sync_all().expect("synced");
            fs::File::open(&tree).expect("opened").sync_all().expect("synced");
            synced.push(record.len());
        }
        println!("{kind}: {} operations, synced at {synced:?}", record.len());
        drop(mounted);
        drop(disk);
        session.umount_and_join().expect("unmounted");
        let operations = record.operations();
        let flushes = operations.iter().filter(|operation| matches!(operation, Operation::Flush)).count();
        println!("{kind}: {flushes} flushes");
        let image = scratch.path().join("image");
        for seed in 0..8_usize {
            let cut = synced[seed] + seed % 3;
            fs::write(&image, image::at_cut(&operations, cut, SIZE, seed as u64)).expect("an image");
            let disk = Loop::attach(&image, false).expect("a loop device");
            let mounted = Mounted::mount(&disk, &tree).expect("a file system that recovers");
            for number in 0..=seed {
                let body = fs::read(tree.join(format!("file{number}"))).expect("a file that was synced");
                assert!(body == vec![b'a' + number as u8; 10_000], "{kind}: file {number} is damaged at cut {cut}, seed {seed}");
            }
            drop(mounted);
            drop(disk);
        }
    }
}
