//! The spool against files that were cut, changed, locked or not its own.

use super::*;
use tempfile::TempDir;

/// Bodies that would confuse a reader who looks for records by their bytes.
fn bodies() -> Vec<Vec<u8>> {
    let record = encode(Salt(1), HEADER_SIZE as u64, Record::Done { first: 0, count: 99 });
    vec![b"first".to_vec(), Vec::new(), record, vec![0; 40], b"last\r\n".to_vec()]
}

fn new_path() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spool");
    (directory, path)
}

fn offered(spool: &Spool) -> Vec<Vec<u8>> {
    spool.next(usize::MAX, usize::MAX).unwrap().into_iter().map(|message| message.body).collect()
}

/// A closed spool's bytes and where each of its records ends; the first end is that of the header.
fn filled(done: &[u32]) -> (Vec<u8>, Vec<usize>) {
    let (_directory, path) = new_path();
    let mut spool = Spool::open(&path).unwrap();
    let mut ends = vec![HEADER_SIZE];
    for (i, body) in bodies().iter().enumerate() {
        spool.append(b"queue", i as u32, body).unwrap();
        ends.push(spool.len as usize);
    }
    for number in done {
        spool.done(&[*number]).unwrap();
        ends.push(spool.len as usize);
    }
    (fs::read(&path).unwrap(), ends)
}

#[test]
fn what_is_not_done_is_offered_in_order_also_by_the_next_process() {
    let (_directory, path) = new_path();
    let mut spool = Spool::open(&path).unwrap();
    let bodies = bodies();
    for (i, body) in bodies.iter().enumerate() {
        spool.append(b"q\xff", u32::MAX - i as u32, body).unwrap();
    }
    assert_eq!(offered(&spool), bodies);
    spool.done(&[0, 1, 3]).unwrap();
    assert_eq!(offered(&spool), [&*bodies[2], &*bodies[4]]);
    drop(spool);

    assert_eq!(Spool::look(&path).unwrap(), 2);
    let mut spool = Spool::open(&path).unwrap();
    let messages = spool.next(9, usize::MAX).unwrap();
    let expected = Spooled { number: 2, queue: b"q\xff".into(), flags: u32::MAX - 2, body: bodies[2].clone() };
    assert_eq!((messages.len(), &messages[0]), (2, &expected));
    spool.append(b"q", 0, b"new").unwrap();
    spool.done(&[2, 4]).unwrap();
    assert_eq!(offered(&spool), [b"new"]);
    spool.done(&[5]).unwrap();
    assert_eq!(spool.pending_len(), 0);
    spool.remove().unwrap();
    assert!(!path.exists());
    assert_eq!(Spool::look(&path).unwrap(), 0);
}

#[test]
fn what_is_offered_at_once_is_bounded_and_never_nothing() {
    let (_directory, path) = new_path();
    let mut spool = Spool::open(&path).unwrap();
    for body in [&[0; 1000][..], b"a", b"b", b"c"] {
        spool.append(b"q", 0, body).unwrap();
    }
    assert_eq!(spool.next(9, 0).unwrap().len(), 1);
    assert_eq!(spool.next(9, 1020).unwrap().len(), 1);
    assert_eq!(spool.next(9, 1060).unwrap().len(), 3);
    assert_eq!(spool.next(2, usize::MAX).unwrap().len(), 2);
}

#[test]
fn a_tail_torn_at_any_byte_costs_no_whole_record() {
    let (bytes, ends) = filled(&[1, 0]);
    let bodies = bodies();
    for cut in 0..=bytes.len() {
        let whole = ends.iter().filter(|end| **end <= cut).count().saturating_sub(1);
        let mut expected: Vec<Vec<u8>> = bodies.iter().take(whole).cloned().collect();
        if whole > bodies.len() {
            expected.remove(1);
        }
        if whole > bodies.len() + 1 {
            expected.remove(0);
        }
        let (_directory, path) = new_path();
        fs::write(&path, &bytes[..cut]).unwrap();
        assert_eq!(Spool::look(&path).unwrap(), expected.len(), "cut at {cut}");
        let mut spool = Spool::open(&path).unwrap();
        assert_eq!(offered(&spool), expected, "cut at {cut}");
        // What is appended then follows what is whole.
        spool.append(b"q", 0, b"after").unwrap();
        drop(spool);
        expected.push(b"after".into());
        assert_eq!(offered(&Spool::open(&path).unwrap()), expected, "cut at {cut}, opened again");
    }
}

#[test]
fn a_damaged_record_before_a_whole_one_is_refused_with_file_and_offset() {
    let (bytes, ends) = filled(&[0]);
    let (_directory, path) = new_path();
    let last_begins = ends[ends.len() - 2];
    for at in HEADER_SIZE..last_begins {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        let begins = *ends.iter().rfind(|end| **end <= at).unwrap();
        let error = Spool::open(&path).unwrap_err();
        assert!(matches!(&error, Error::Damaged { offset, .. } if *offset == begins as u64), "byte {at}: {error}");
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains(&format!("offset {begins}")), "{text}");
        assert!(matches!(Spool::look(&path), Err(Error::Damaged { .. })));
        assert_eq!(fs::read(&path).unwrap(), damaged, "it is left as it is");
    }
    // The last record cannot be told from one that was being written.
    for at in last_begins..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(offered(&Spool::open(&path).unwrap()), bodies(), "byte {at}: the mark is not there");
    }
}

#[test]
fn damage_that_comes_while_it_is_open_is_not_offered() {
    let (_directory, path) = new_path();
    let mut spool = Spool::open(&path).unwrap();
    spool.append(b"q", 0, b"body").unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"B", spool.len - 4).unwrap();
    assert!(matches!(spool.next(1, 1), Err(Error::Damaged { offset, .. }) if offset == HEADER_SIZE as u64));
}

#[test]
fn a_file_that_is_no_spool_is_left_alone() {
    let (_directory, path) = new_path();
    for text in [&b"notes"[..], b"notes that are longer than a header is"] {
        fs::write(&path, text).unwrap();
        assert!(matches!(Spool::open(&path), Err(Error::Foreign(_))));
        assert!(matches!(Spool::look(&path), Err(Error::Foreign(_))));
        assert_eq!(fs::read(&path).unwrap(), text);
    }
    let mut header = encode_header(Salt(1));
    header[8] = 2;
    fs::write(&path, header).unwrap();
    assert!(matches!(Spool::open(&path), Err(Error::Unknown { found: 2, .. })));
}

#[test]
fn a_second_importer_is_refused_while_the_first_one_lives() {
    let (_directory, path) = new_path();
    let mut first = Spool::open(&path).unwrap();
    first.append(b"q", 0, b"x").unwrap();
    assert!(matches!(Spool::open(&path), Err(Error::InUse(_))));
    assert_eq!(Spool::look(&path).unwrap(), 1);
    drop(first);
    assert_eq!(Spool::open(&path).unwrap().pending_len(), 1);
}

#[test]
fn a_file_in_which_all_is_done_does_not_grow_for_ever() {
    let (_directory, path) = new_path();
    let mut spool = Spool::open(&path).unwrap();
    let body = vec![7; 1 << 20];
    let mut largest = 0;
    for _ in 0..40 {
        spool.append(b"q", 0, &body).unwrap();
        let numbers: Vec<u32> = spool.next(9, 9).unwrap().iter().map(|message| message.number).collect();
        spool.done(&numbers).unwrap();
        largest = largest.max(fs::metadata(&path).unwrap().len());
    }
    assert!(largest < EMPTIED_SIZE_MIN + (2 << 20), "{largest}");
    spool.append(b"q", 0, b"kept").unwrap();
    drop(spool);
    assert_eq!(offered(&Spool::open(&path).unwrap()), [b"kept"]);
}

#[test]
fn a_place_that_cannot_be_written_is_told() {
    let error = Spool::open(Path::new("/nonexistent/spool")).unwrap_err();
    assert!(error.to_string().starts_with("the spool /nonexistent/spool cannot be opened: "), "{error}");
}
