//! Power cuts for real: the server on ext4 and xfs whose disk is recorded, and started again on what cuts would have left.
//!
//! Invariant: what a client was told before a cut is compared with what the server says after it; nothing is taken from the server's word.

mod device;
#[path = "../it/harness.rs"]
#[allow(dead_code, reason = "shared with the other integration tests, which use all of it")]
mod harness;
mod image;
mod load;
mod recorder;

use device::{Loop, Mounted, run, text};
use harness::Server;
use image::Random;
use load::Promise;
use recorder::{DISK, Operation, Record};
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

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
                assert!(
                    body == vec![b'a' + number as u8; 10_000],
                    "{kind}: file {number} is damaged at cut {cut}, seed {seed}"
                );
            }
            drop(mounted);
            drop(disk);
        }
    }
}

/// What was acknowledged is there after every cut.
#[test]
fn acknowledged_messages_survive_power_cuts() {
    let kind = std::env::var("RINGQ_FS").unwrap_or("ext4".to_owned());
    let failed = cuts(&kind, &[], Promise::Durable);
    assert!(failed.is_empty(), "{} cuts: {}", failed.len(), failed.join("\n"));
}

/// Without sync, each queue is a prefix of what it was.
#[test]
fn without_sync_a_power_cut_leaves_a_prefix() {
    let kind = std::env::var("RINGQ_FS").unwrap_or("ext4".to_owned());
    let failed = cuts(&kind, &["-N"], Promise::Prefix);
    assert!(failed.is_empty(), "{} cuts: {}", failed.len(), failed.join("\n"));
}

/// The judge and the recorder see what is missing: a server that answers before it syncs cannot keep the promise.
#[test]
fn a_server_without_sync_fails_as_a_durable_one() {
    assert!(!cuts("ext4", &["-N"], Promise::Durable).is_empty());
}

/// Loads a server, and starts one on what each cut left; what went wrong.
fn cuts(kind: &str, options: &[&str], promise: Promise) -> Vec<String> {
    let number =
        |name: &str, otherwise: u64| std::env::var(name).map_or(otherwise, |value| value.parse().expect("a number"));
    let (count, seed) = (number("RINGQ_CUTS", 6), number("RINGQ_SEED", 1));
    let scratch = tempfile::tempdir().expect("a directory");
    let (fuse, tree, image) = (scratch.path().join("fuse"), scratch.path().join("tree"), scratch.path().join("image"));
    for directory in [&fuse, &tree] {
        fs::create_dir(directory).expect("a directory");
    }
    let arguments = [&["-t", "2", "-m", "2", "-E", "2200", "-B", "65536"], options].concat();
    let record = Record::new(SIZE);
    let session = record.mount(&fuse).expect("a FUSE mount");
    let disk = Loop::attach(&fuse.join(DISK), true).expect("a loop device");
    match kind {
        "ext4" => run("mkfs.ext4", &["-q", "-E", "nodiscard", text(disk.path())]),
        _ => run("mkfs.xfs", &["-q", "-K", text(disk.path())]),
    }
    .expect("a file system");
    let mounted = Mounted::mount(&disk, &tree).expect("a mount");
    let mut server = Server::start_in(&tree.join("data"), &arguments);
    let begin = record.len();
    let lives = load::run(server.addr(), &record, number("RINGQ_STEPS", 400) as usize, seed);
    let end = record.len();
    server.kill9();
    drop(mounted);
    drop(disk);
    session.umount_and_join().expect("unmounted");
    let operations = record.operations();
    println!("{kind} {options:?}: {} messages, operations {begin} to {end}", lives.len());
    let mut rng = Random(seed);
    let mut failed = Vec::new();
    for number in 0..count {
        let cut = begin + rng.below(end - begin);
        fs::write(&image, image::at_cut(&operations, cut, SIZE, seed ^ number << 20)).expect("an image");
        let judged =
            catch_unwind(|| judged(&image, &tree, &arguments).map(|left| load::judge(&lives, &left, cut, promise)));
        let judged =
            judged.unwrap_or_else(|_| Err("what the server said is above".to_owned())).and_then(|judged| judged);
        println!("cut {number} at {cut}: {judged:?}");
        failed.extend(judged.err().map(|error| format!("cut {number} at {cut}: {error}")));
    }
    failed
}

/// What a server finds on an image.
fn judged(image: &Path, tree: &Path, arguments: &[&str]) -> Result<Vec<load::Id>, String> {
    let disk = Loop::attach(image, false)?;
    let _mounted = Mounted::mount(&disk, tree)?;
    let mut server = Server::try_start_in(&tree.join("data"), arguments).map_err(|refused| format!("{refused:?}"))?;
    let left = load::drain(server.addr());
    match server.stop().success() {
        true => Ok(left),
        false => Err(server.output()),
    }
}
