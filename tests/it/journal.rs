//! The journal of the real process: what a start makes of it after `kill -9`, of damage and of a torn end, and how the server
//! lives with one that is small or has no room around it.
//!
//! Invariant of the tests that look into files: each message was acknowledged before the next was sent, so each has a record of
//! its own, one block long, and the later ones tell of its acknowledgement.

use crate::clients::skip;
use crate::crash::survive_kill_9;
use crate::facts::puts_and_gets;
use crate::harness::Server;
use crate::traffic::Link;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const BLOCK_SIZE: usize = 4096;

/// A record's bytes before its mutations, and where in them their size is.
const HEADER_SIZE: usize = 64;
const PAYLOAD_SIZE_AT: usize = 48;

/// The smallest journal there may be, and no checkpoint that nobody asks for.
const SMALL: [&str; 9] = ["-t", "1", "-B", "1024", "-E", "2049", "-C", "0", "-v"];

#[test]
fn acknowledged_messages_survive_kill_9_without_sync() {
    survive_kill_9("acknowledged_messages_survive_kill_9_without_sync", 20, 0, |round| match round % 4 {
        0 => &["-N", "-t", "1", "-m", "2"],
        1 => &["-N", "-t", "2"],
        2 => &["-N", "-t", "1"],
        _ => &["-N", "-t", "2", "-m", "4"],
    });
}

#[test]
fn journals_of_shards_that_are_no_more_are_replayed_and_removed() {
    let mut server = Server::start(&["-t", "3", "-C", "0", "-v"]);
    let mut link = Link::connect(server.addr()).expect("connect");
    for number in 0..24 {
        put(&mut link, &format!("q{number}"), number, 10);
    }
    assert_eq!(journals(server.data()), ["0", "1", "2"]);
    server.kill9();
    server.restart_with(&["-t", "1", "-C", "0", "-v"]);
    assert_eq!(journals(server.data()), ["0"]);
    let output = server.output();
    for shard in 0..3 {
        assert!(output.contains(&format!("journal of shard {shard}: ")), "{output}");
    }
    for retired in 1..3 {
        assert!(output.contains(&format!("the journal of shard {retired} was replayed and removed")), "{output}");
    }
    let mut link = Link::connect(server.addr()).expect("connect");
    for number in 0..24 {
        assert_eq!(take_all(&mut link, &format!("q{number}")), [number]);
    }
}

#[test]
fn a_flipped_byte_in_an_acknowledged_record_refuses_the_start_and_changes_nothing() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    put_and_kill(&data, 10);
    let third = 2 * BLOCK_SIZE;
    flip(&data, third + HEADER_SIZE + 5);
    let before = contents(&data);
    for _ in 0..2 {
        let refused = Server::try_start_in(&data, &SMALL).err().expect("a damaged journal");
        assert_eq!(refused.status.code(), Some(1), "{}", refused.output);
        for part in ["journal/0/segment-0 is damaged at byte 8192", "record 3 was acknowledged", "restore the whole"] {
            assert!(refused.output.contains(part), "{part:?} is missing in {}", refused.output);
        }
        for (path, bytes) in contents(&data) {
            assert!(before.get(&path) == Some(&bytes), "{} has changed", path.display());
        }
    }
    flip(&data, third + HEADER_SIZE + 5);
    let server = Server::start_in(&data, &SMALL);
    let mut link = Link::connect(server.addr()).expect("connect");
    assert_eq!(take_all(&mut link, "q"), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_last_record_that_is_torn_is_dropped_and_told() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    put_and_kill(&data, 10);
    let last = last_record(&data);
    flip(&data, last.offset + if last.is_cover { 40 } else { HEADER_SIZE + 5 });
    let server = Server::start_in(&data, &SMALL);
    if !last.is_cover {
        let told = format!("1 records from number 10 on (segment 0, byte {})", last.offset);
        assert!(server.output().contains(&told), "{told:?} is missing in {}", server.output());
    }
    check_all_but_what_was_torn(&server, &last);
}

#[test]
fn a_last_record_of_which_nothing_is_left_is_not_missed() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    put_and_kill(&data, 10);
    let last = last_record(&data);
    let segment = fs::OpenOptions::new().write(true).open(segment_0(&data)).expect("open the segment");
    segment.write_all_at(&[0; BLOCK_SIZE], last.offset as u64).expect("write to the segment");
    let server = Server::start_in(&data, &SMALL);
    check_all_but_what_was_torn(&server, &last);
}

fn check_all_but_what_was_torn(server: &Server, last: &LastRecord) {
    let mut link = Link::connect(server.addr()).expect("connect");
    let left = if last.is_cover { 10 } else { 9 };
    assert_eq!(take_all(&mut link, "q"), (0..left).collect::<Vec<_>>());
    assert_eq!(puts_and_gets(server, "q"), Some((left, left)));
    // The place of what was dropped is used again.
    for number in 10..20 {
        put(&mut link, "q", number, 10);
    }
    assert_eq!(take_all(&mut link, "q"), (10..20).collect::<Vec<_>>());
}

#[test]
fn after_db_checkpoint_nothing_is_left_to_replay() {
    const REPLAYED: &str = "records were replayed";
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    put_and_kill(&data, 10);
    let mut server = Server::start_in(&data, &SMALL);
    assert!(server.output().contains(REPLAYED), "{}", server.output());
    let mut link = Link::connect(server.addr()).expect("connect");
    for number in 10..20 {
        put(&mut link, "q", number, 10);
    }
    link.send(b"db_checkpoint\r\n").expect("send");
    assert_eq!(link.line().expect("a reply"), b"OK");
    server.kill9();
    // A second of silence may have come before the kill.
    let covers = usize::from(last_record(&data).is_cover);
    server.restart();
    let output = server.output();
    let replayed = output.matches(REPLAYED).count();
    assert!(replayed == 0 || output.contains(": 1 records were replayed") && covers == 1, "{output}");
    let mut link = Link::connect(server.addr()).expect("connect");
    assert_eq!(take_all(&mut link, "q"), (0..20).collect::<Vec<_>>());
}

/// Each round brings three times what the journal holds.
#[test]
fn the_smallest_journal_is_written_over_and_over() {
    const ROUND: u64 = 25_000;
    const SIZE: usize = 1000;
    let mut server = Server::start(&SMALL);
    for round in 0..2 {
        let mut link = Link::connect(server.addr()).expect("connect");
        for first in (round * ROUND..(round + 1) * ROUND).step_by(50) {
            assert_eq!(put_many(&mut link, "q", first..first + 50, SIZE), 50);
        }
        server.kill9();
        server.restart();
    }
    let mut link = Link::connect(server.addr()).expect("connect");
    assert_eq!(take_all(&mut link, "q"), (0..2 * ROUND).collect::<Vec<_>>());
}

#[test]
fn records_of_a_kibibyte_carry_messages_of_all_sizes() {
    let mut server = Server::start(&["-t", "2", "-L", "1", "-C", "0"]);
    let mut link = Link::connect(server.addr()).expect("connect");
    let sizes = [1, 10, 1000, 1023, 1024, 1025, 4096, 70_000, 1 << 20];
    let sizes = (0..180).map(|number| (number, sizes[number as usize % sizes.len()]));
    let requests: Vec<u8> = sizes.flat_map(|(number, size)| put_request("q", number, size.max(3))).collect();
    link.send(&requests).expect("send");
    for _ in 0..180 {
        assert_eq!(link.line().expect("a reply"), b"STORED");
    }
    server.kill9();
    server.restart();
    let mut link = Link::connect(server.addr()).expect("connect");
    assert_eq!(take_all(&mut link, "q"), (0..180).collect::<Vec<_>>());
}

#[test]
fn journals_that_do_not_fit_their_maximum_are_refused_with_the_numbers() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    let refused = Server::try_start_in(&data, &["-t", "4", "--journal-max", "16"]).err().expect("too little");
    assert_eq!(refused.status.code(), Some(2), "{}", refused.output);
    for part in ["--journal-max", "4 shards", "12582912 bytes each", "50331648 together", "16777216"] {
        assert!(refused.output.contains(part), "{part:?} is missing in {}", refused.output);
    }
    assert!(!data.exists(), "nothing is made before the numbers are right");
}

#[test]
fn a_full_disk_refuses_puts_loses_nothing_and_can_be_emptied() {
    const SIZE: usize = 8000;
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let mount = match Mount::tmpfs(scratch.path(), "120m") {
        Ok(mount) => mount,
        Err(reason) => return skip("full_disk", &reason),
    };
    let args = ["-t", "1", "-B", "8192", "-E", "2560", "--min-free", "8"];
    let mut server = Server::start_in(&mount.path.join("data"), &args);
    let mut link = Link::connect(server.addr()).expect("connect");
    let mut stored = 0;
    loop {
        let accepted = put_many(&mut link, "q", stored..stored + 20, SIZE);
        stored += accepted;
        if accepted < 20 {
            break;
        }
        assert!(stored * SIZE as u64 <= 120 << 20, "more than the disk holds was stored");
    }
    assert!(stored > 1000, "only {stored} messages found room");
    // What is full stays usable, also after a crash.
    let half = take(&mut link, "q", stored / 2);
    server.kill9();
    server.restart();
    let mut link = Link::connect(server.addr()).expect("connect");
    let rest = take_all(&mut link, "q");
    assert_eq!([half, rest].concat(), (0..stored).collect::<Vec<_>>());
    assert_eq!(puts_and_gets(&server, "q"), Some((stored, stored)));
    link.send(b"db_checkpoint\r\n").expect("send");
    assert_eq!(link.line().expect("a reply"), b"OK");
    // The database keeps the file's size, so that puts may go on being refused.
    let accepted = put_many(&mut link, "q", stored..stored + 1, SIZE);
    println!("{stored} messages found room; of one more after they were taken, {accepted}");
    assert!(server.stop().success());
}

// --- messages ---

fn put_request(queue: &str, number: u64, size: usize) -> Vec<u8> {
    let mut request = format!("set {queue} 0 0 {size}\r\n{number}").into_bytes();
    let line_size = request.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    assert!(request.len() <= line_size + size, "the body has room for its number");
    request.resize(line_size + size, b' ');
    request.extend_from_slice(b"\r\n");
    request
}

fn put(link: &mut Link, queue: &str, number: u64, size: usize) {
    assert_eq!(put_many(link, queue, number..number + 1, size), 1);
}

/// Puts messages at once, and returns how many were stored before the first that found no room. None may be stored after it.
fn put_many(link: &mut Link, queue: &str, numbers: std::ops::Range<u64>, size: usize) -> u64 {
    let requests: Vec<u8> = numbers.clone().flat_map(|number| put_request(queue, number, size)).collect();
    link.send(&requests).expect("send");
    let mut stored = 0;
    for number in numbers.clone() {
        match &*link.line().expect("a reply") {
            b"STORED" if stored == number - numbers.start => stored += 1,
            b"SERVER_ERROR out of storage" => {}
            reply => panic!("the reply to {number}, with {stored} stored before: {}", reply.escape_ascii()),
        }
    }
    stored
}

/// Takes up to `count` messages.
fn take(link: &mut Link, queue: &str, count: u64) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut is_empty = false;
    while !is_empty && (numbers.len() as u64) < count {
        let asked = (count - numbers.len() as u64).min(64);
        link.send(format!("get {queue}\r\n").repeat(asked as usize).as_bytes()).expect("send");
        for _ in 0..asked {
            let Some((_, body)) = link.value().expect("a reply") else {
                is_empty = true;
                continue;
            };
            assert_eq!(link.value().expect("a reply"), None);
            let number = str::from_utf8(&body).ok().and_then(|body| body.trim_end().parse().ok());
            numbers.push(number.unwrap_or_else(|| panic!("not our message: {}", body.escape_ascii())));
        }
    }
    numbers
}

fn take_all(link: &mut Link, queue: &str) -> Vec<u64> {
    take(link, queue, u64::MAX)
}

/// A server that got `count` messages one by one and was killed.
fn put_and_kill(data: &Path, count: u64) {
    let mut server = Server::start_in(data, &SMALL);
    let mut link = Link::connect(server.addr()).expect("connect");
    for number in 0..count {
        put(&mut link, "q", number, 10);
    }
    server.kill9();
}

// --- files ---

/// The last record of shard 0's first segment.
struct LastRecord {
    offset: usize,
    /// It only tells that what is before it was acknowledged.
    is_cover: bool,
}

/// Of a journal that was new at the last start and has not reached its second segment, or one that wrote at least as many blocks as
/// the start before.
fn last_record(data: &Path) -> LastRecord {
    let segment = fs::read(segment_0(data)).expect("read the segment");
    let blocks = segment.chunks(BLOCK_SIZE).take_while(|block| block.starts_with(b"RINGQJNL")).count();
    let offset = blocks.checked_sub(1).expect("a record") * BLOCK_SIZE;
    let size = &segment[offset + PAYLOAD_SIZE_AT..][..4];
    LastRecord { offset, is_cover: size == [0; 4] }
}

fn segment_0(data: &Path) -> PathBuf {
    data.join("journal/0/segment-0")
}

fn flip(data: &Path, offset: usize) {
    let segment = fs::OpenOptions::new().read(true).write(true).open(segment_0(data)).expect("open the segment");
    let mut byte = [0];
    segment.read_exact_at(&mut byte, offset as u64).expect("read the segment");
    segment.write_all_at(&[byte[0] ^ 0x20], offset as u64).expect("write to the segment");
}

/// The directories of journals.
fn journals(data: &Path) -> Vec<String> {
    let entries = fs::read_dir(data.join("journal")).expect("read the journals' directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Every file of the journal and the database with its bytes; its locks are no data.
pub fn contents(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![data.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("read the data directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if !path.to_string_lossy().contains("lock") {
                let bytes = fs::read(&path).expect("read a file of the data directory");
                files.insert(path, bytes);
            }
        }
    }
    files
}

/// A file system of its own, for as long as it lives.
struct Mount {
    path: PathBuf,
}

impl Mount {
    /// # Errors
    /// Why this process may not mount.
    fn tmpfs(path: &Path, size: &str) -> Result<Mount, String> {
        let options = format!("size={size}");
        let mut command = Command::new("mount");
        let output = command.args(["-t", "tmpfs", "-o", &options, "ringq-test"]).arg(path).output();
        match output {
            Ok(output) if output.status.success() => Ok(Mount { path: path.to_owned() }),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(format!("mount: {error}")),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a failing test's server may end a moment later.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
