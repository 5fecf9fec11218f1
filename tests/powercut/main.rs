//! Power cuts for real: the server on ext4 and xfs whose disk is recorded, and started again on what cuts would have left.
//!
//! Invariant: what a client was told before a cut is compared with what the server says after it; nothing is taken from the server's word.

mod alone;
mod device;
#[path = "../it/harness.rs"]
#[allow(dead_code, reason = "shared with the other integration tests, which use all of it")]
mod harness;
mod image;
mod judge;
mod load;
mod recorder;
mod saved;
#[path = "../it/skips.rs"]
mod skips;

use alone::alone;
use device::{Loop, Mounted, run, text};
use harness::Server;
use image::{Flushed, Random};
use judge::{History, Promise, Step};
use recorder::{DISK, Record};
use saved::Saved;
use std::env;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use tempfile::TempDir;

/// Of the disk, in bytes: xfs takes no smaller one.
const DISK_SIZE: usize = 320 << 20;
/// Journals as small as a body of 64 KiB allows, so that they are written over and over, and little memory, so that checkpoints are many.
const ARGUMENTS: [&str; 10] = ["-t", "2", "-m", "2", "-E", "2112", "-B", "65536", "-C", "1"];
/// Cuts of each kind within `cargo test`, and steps of each client for so few.
const FEW_CUTS: usize = 3;
const FEW_STEPS: usize = 100;
/// Steps of each client: enough for journals to be written over.
const STEPS: usize = 1000;
const PROGRAMS: [&str; 5] = ["losetup", "mkfs.ext4", "e2fsck", "mkfs.xfs", "xfs_repair"];
const DEVICES: [&str; 2] = ["/dev/fuse", "/dev/loop-control"];

/// The recorder itself: a file that was synced is whole after every later cut.
#[test]
fn what_was_synced_is_there_after_every_cut() {
    alone("what_was_synced_is_there_after_every_cut", &PROGRAMS, &DEVICES, || {
        for kind in kinds() {
            let places = Places::new();
            let record = Record::new(DISK_SIZE);
            let mut synced = Vec::new();
            recorded(&record, &kind, &places, || {
                for number in 0..8 {
                    let path = places.tree.join(format!("file{number}"));
                    fs::write(&path, [b'a' + number; 10_000]).expect("written");
                    fs::File::open(&path).expect("opened").sync_all().expect("synced");
                    fs::File::open(&places.tree).expect("opened").sync_all().expect("synced");
                    synced.push(record.moment().operations);
                }
            });
            let operations = record.take_operations();
            let mut flushed = Flushed::new(&operations, DISK_SIZE);
            for (number, cut) in synced.iter().enumerate() {
                flushed.image_at(*cut, number as u64, &places.image).expect("an image");
                let disk = Loop::attach(&places.image, false).expect("a loop device");
                let _mounted = Mounted::mount(&disk, &places.tree).expect("a file system that recovers");
                for earlier in 0..=number {
                    let body = fs::read(places.tree.join(format!("file{earlier}"))).expect("a file that was synced");
                    assert!(body == [b'a' + earlier as u8; 10_000], "{kind}: file {earlier} is damaged at cut {cut}");
                }
            }
        }
    });
}

/// What was acknowledged is there after every cut.
#[test]
fn acknowledged_messages_survive_power_cuts() {
    alone("acknowledged_messages_survive_power_cuts", &PROGRAMS, &DEVICES, || {
        for kind in kinds() {
            let outcome = cuts(&kind, &[], Promise::Durable);
            assert!(outcome.failed.is_empty(), "{} cuts failed:\n{}", outcome.failed.len(), outcome.failed.join("\n"));
        }
    });
}

/// Without sync, each queue is a prefix of what it was. That the same cuts break the promise of a durable server shows that recorder
/// and judge see what is missing.
#[test]
fn without_sync_a_power_cut_leaves_a_prefix() {
    alone("without_sync_a_power_cut_leaves_a_prefix", &PROGRAMS, &DEVICES, || {
        for kind in kinds() {
            let outcome = cuts(&kind, &["-N"], Promise::Prefix);
            assert!(outcome.failed.is_empty(), "{} cuts failed:\n{}", outcome.failed.len(), outcome.failed.join("\n"));
            assert!(outcome.not_durable > 0, "a server without sync has kept the promise of one with it");
        }
    });
}

/// One cut of a record that a failure has kept.
#[test]
#[ignore = "make powercut RECORD=… CUT=… SEED=…"]
fn one_cut_again() {
    alone("one_cut_again", &PROGRAMS, &DEVICES, || {
        let path: String = variable("RINGQ_RECORD").expect("RINGQ_RECORD names a record");
        let saved = Saved::read(Path::new(&path)).expect("a record");
        let cut = variable("RINGQ_CUT").expect("RINGQ_CUT is a number of operations");
        let mut flushed = Flushed::new(&saved.operations, DISK_SIZE);
        let judged = cut_once(&saved, &mut flushed, cut, variable("RINGQ_SEED").unwrap_or(1), &Places::new());
        println!("cut at {cut}: {judged}");
        judged.result.expect("what was promised");
    });
}

/// What came of many cuts.
#[derive(Default)]
struct Outcome {
    /// What went wrong, with the command that makes the cut again.
    failed: Vec<String>,
    /// After how many the promise of a durable server was not kept.
    not_durable: usize,
}

/// What came of one.
struct Judged {
    result: Result<(), String>,
    is_durable: bool,
    /// How many messages were left.
    left: usize,
    /// Whether the file system had nothing to complain of afterwards.
    is_sound: bool,
}

impl Display for Judged {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let durable = if self.is_durable { "all that was acknowledged" } else { "not all that was acknowledged" };
        let sound = if self.is_sound { "" } else { ", the file system has complaints" };
        write!(formatter, "{} messages, {durable}{sound}: {:?}", self.left, self.result)
    }
}

/// Loads a server, and starts one on what each cut left.
fn cuts(kind: &str, options: &[&str], promise: Promise) -> Outcome {
    let (count, seed) = (variable("RINGQ_CUTS").unwrap_or(FEW_CUTS), variable("RINGQ_SEED").unwrap_or(1));
    let steps = variable("RINGQ_STEPS").unwrap_or(if count > FEW_CUTS { STEPS } else { FEW_STEPS });
    let places = Places::new();
    let saved = load(kind, &[&ARGUMENTS, options].concat(), promise, steps, seed, &places);
    let (begin, end) = (saved.begin, saved.operations.len());
    println!("{kind} {options:?}: {} messages, {begin} to {end} operations", saved.history.lives.len());
    let mut rng = Random(seed);
    // Spread over the whole, and half of them just when a client was told something: then the most is at stake.
    let mut cuts: Vec<usize> = (0..count)
        .map(|number| match number % 2 {
            0 => begin + (end - begin) * number / count + rng.below((end - begin).div_ceil(count)),
            _ => saved.history.lives[rng.below(saved.history.lives.len())].put.done.operations,
        })
        .collect();
    cuts.sort_unstable();
    let mut flushed = Flushed::new(&saved.operations, DISK_SIZE);
    let under_way = flushed.under_way();
    println!("{kind} {options:?}: {under_way} writes were under way when a flush came, which does not cover them");
    assert!(promise == Promise::Prefix || under_way > 0, "the loop device hands over one request at a time");
    let (mut outcome, mut unsound) = (Outcome::default(), 0);
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("powercut-{kind}-{promise:?}-{seed}.record"));
    for cut in cuts {
        let image_seed = rng.next();
        let judged = cut_once(&saved, &mut flushed, cut, image_seed, &places);
        println!("{kind} {options:?}: cut at {cut}, seed {image_seed}: {judged}");
        unsound += usize::from(!judged.is_sound);
        outcome.not_durable += usize::from(!judged.is_durable);
        if let Err(error) = judged.result {
            if outcome.failed.is_empty() {
                saved.write(&kept).expect("the record is kept");
            }
            let again = format!("make powercut RECORD={} CUT={cut} SEED={image_seed}", kept.display());
            outcome.failed.push(format!("{error}\nagain: {again}"));
        }
    }
    println!(
        "{kind} {options:?}: {count} cuts, {} failed; after {} what was acknowledged was not all there; {unsound} file systems with complaints",
        outcome.failed.len(),
        outcome.not_durable
    );
    outcome
}

/// Records the life of a server: two loads with `kill -9` and a recovery between them, and a stop.
fn load(kind: &str, arguments: &[&str], promise: Promise, steps: usize, seed: u64, places: &Places) -> Saved {
    let record = Record::new(DISK_SIZE);
    let mut history = History::default();
    let mut begin = 0;
    recorded(&record, kind, places, || {
        begin = record.moment().operations;
        let mut server = Server::start_in(&places.data(), arguments);
        load::run(server.addr(), &record, 0..steps, seed, &mut history);
        server.kill9();
        if steps >= STEPS {
            assert_journals_wrapped(&places.data());
        }
        server.restart();
        load::run(server.addr(), &record, steps..2 * steps, seed + 1, &mut history);
        let sent = record.moment();
        assert!(server.stop().success(), "{}", server.output());
        history.checkpoints.push(Step { sent, done: record.moment() });
    });
    let arguments = arguments.iter().map(|argument| argument.to_string()).collect();
    Saved { kind: kind.to_owned(), arguments, promise, history, begin, operations: record.take_operations() }
}

/// The first record of each journal is not the first of its generation: the place of that was used again.
fn assert_journals_wrapped(data: &Path) {
    for shard in ["0", "1"] {
        let segment = fs::read(data.join("journal").join(shard).join("segment-0")).expect("a journal");
        let sequence = u64::from_le_bytes(segment[32..40].try_into().expect("eight bytes"));
        assert!(sequence > 1, "the journal of shard {shard} was not written over");
    }
}

/// Makes the image of a cut, starts a server on it and compares.
fn cut_once(saved: &Saved, flushed: &mut Flushed, cut: usize, seed: u64, places: &Places) -> Judged {
    flushed.image_at(cut, seed, &places.image).expect("an image");
    let arguments: Vec<&str> = saved.arguments.iter().map(String::as_str).collect();
    let left = catch_unwind(|| left_on(places, &arguments));
    let left = left.unwrap_or_else(|_| Err("what the server said is above".to_owned()));
    let check = match &*saved.kind {
        "ext4" => run("e2fsck", &["-f", "-n", text(&places.image)]),
        _ => run("xfs_repair", &["-n", "-f", text(&places.image)]),
    };
    if let Err(said) = &check {
        println!("{said}");
    }
    let judge = |promise| left.clone().and_then(|left| saved.history.judge(&left, cut, promise));
    Judged {
        result: judge(saved.promise),
        is_durable: judge(Promise::Durable).is_ok(),
        left: left.as_ref().map_or(0, Vec::len),
        is_sound: check.is_ok(),
    }
}

/// What a server finds on an image.
fn left_on(places: &Places, arguments: &[&str]) -> Result<Vec<judge::Id>, String> {
    let disk = Loop::attach(&places.image, false)?;
    let _mounted = Mounted::mount(&disk, &places.tree)?;
    let mut server = Server::try_start_in(&places.data(), arguments).map_err(|refused| format!("{refused:?}"))?;
    let left = load::drain(server.addr());
    match server.stop().success() {
        true => Ok(left),
        false => Err(server.output()),
    }
}

/// Does something on a new file system whose disk is recorded, and unmounts it.
fn recorded(record: &Record, kind: &str, places: &Places, body: impl FnOnce()) {
    let session = record.mount(&places.fuse).expect("a FUSE mount");
    let disk = Loop::attach(&places.fuse.join(DISK), true).expect("a loop device");
    let attached = run("losetup", &["--noheadings", "--output", "DIO", text(disk.path())]).expect("losetup");
    assert_eq!(attached.trim(), "1", "the loop device passes the page cache by");
    disk.format(kind).expect("a file system");
    let mounted = Mounted::mount(&disk, &places.tree).expect("a mount");
    body();
    drop(mounted);
    drop(disk);
    // The kernel lets go of a loop device's file a little later than of the device.
    let fuse = text(&places.fuse);
    harness::eventually("the disk is free", Duration::from_secs(30), || run("umount", &[fuse]).is_ok());
    session.join().expect("the recorder ends");
}

/// Directories to mount on, and the file of the image.
struct Places {
    fuse: PathBuf,
    tree: PathBuf,
    image: PathBuf,
    _scratch: TempDir,
}

impl Places {
    fn new() -> Places {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = |name: &str| scratch.path().join(name);
        let places = Places { fuse: path("fuse"), tree: path("tree"), image: path("image"), _scratch: scratch };
        for directory in [&places.fuse, &places.tree] {
            fs::create_dir(directory).expect("a directory");
        }
        places
    }

    fn data(&self) -> PathBuf {
        self.tree.join("data")
    }
}

/// The file systems: both, unless one is named.
fn kinds() -> Vec<String> {
    match variable::<String>("RINGQ_FS") {
        Some(kind) => vec![kind],
        None => vec!["ext4".to_owned(), "xfs".to_owned()],
    }
}

/// What a variable says, if it is set and not empty.
fn variable<T: FromStr<Err: Display>>(name: &str) -> Option<T> {
    let value = env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(value.parse().unwrap_or_else(|error| panic!("{name}={value}: {error}")))
}
