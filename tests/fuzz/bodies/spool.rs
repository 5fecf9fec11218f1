//! The spool of `ringqctl import`. Either one that was written, cut and damaged, where what it holds is known; or records that somebody made up who
//! knew its salt and checksums.
//!
//! Promises: a message is offered until it is done, in its order; a torn end is cut off; what is unreadable before something readable keeps the
//! spool from being opened; no bytes make the reader panic.

use arbitrary::{Result, Unstructured};
use ringq::ctl::spooled;
use std::io::Write;

const SALT: u64 = 0x5a17_5a17_0000_0001;
const HEADER_SIZE: usize = 24;

/// A longer spool says nothing new, bytes.
const SPOOL_SIZE_MAX: usize = 16 << 10;

pub fn run(bytes: &[u8]) {
    if bytes.len() > SPOOL_SIZE_MAX {
        return;
    }
    let mut choices = Unstructured::new(bytes);
    // What ends too early says nothing more.
    let _ = match choices.arbitrary::<u8>() {
        Ok(kind) if kind.is_multiple_of(3) => forged(&mut choices),
        Ok(_) => written(&mut choices),
        Err(_) => Ok(()),
    };
}

type Message = (Vec<u8>, u32, Vec<u8>);

/// What a spool with these bytes offers.
fn opened(bytes: &[u8]) -> std::result::Result<Vec<Message>, String> {
    let mut file = tempfile::Builder::new().prefix("ringq-fuzz-").tempfile().expect("a temporary file");
    file.write_all(bytes).expect("write a file");
    spooled(file.path())
}

fn header() -> Vec<u8> {
    let mut bytes = [&b"RINGQSPL"[..], &1u32.to_le_bytes(), &SALT.to_le_bytes()].concat();
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    assert_eq!(bytes.len(), HEADER_SIZE);
    bytes
}

/// Appends a record whose checksum fits.
fn append(spool: &mut Vec<u8>, kind: u8, [first, second]: [u32; 2], name: &[u8], body: &[u8]) {
    let name_len = name.len() as u8;
    let mut record = vec![kind, name_len, 0, 0];
    record.extend_from_slice(&first.to_le_bytes());
    record.extend_from_slice(&second.to_le_bytes());
    record.extend_from_slice(name);
    record.extend_from_slice(body);
    let seed = crc32c::crc32c_append(crc32c::crc32c(&SALT.to_le_bytes()), &(spool.len() as u64).to_le_bytes());
    spool.extend_from_slice(&crc32c::crc32c_append(seed, &record).to_le_bytes());
    spool.extend_from_slice(&record);
}

fn written(choices: &mut Unstructured<'_>) -> Result<()> {
    let mut spool = header();
    // Where each record ends, and what is offered if it is the last.
    let mut states: Vec<(usize, Vec<(u32, Message)>)> = vec![(spool.len(), Vec::new())];
    let mut next = 0;
    for _ in 0..choices.int_in_range(0..=12u8)? {
        let mut pending = states.last().expect("there is one").1.clone();
        if choices.ratio(2, 3)? {
            let name = vec![b'a' + choices.int_in_range(0..=3u8)?; choices.int_in_range(1..=250)?];
            let (flags, size) = (choices.arbitrary()?, choices.int_in_range(0..=300usize)?);
            let body: Vec<u8> = (0..size).map(|at| 0x80 | at as u8).collect();
            append(&mut spool, 1, [flags, size as u32], &name, &body);
            pending.push((next, (name, flags, body)));
            next += 1;
        } else {
            let [first, count] = [choices.int_in_range(0..=12)?, choices.int_in_range(0..=4)?];
            append(&mut spool, 2, [first, count], b"", b"");
            pending.retain(|(number, _)| !(first..first + count).contains(number));
        }
        states.push((spool.len(), pending));
    }
    let offered = |state: &[(u32, Message)]| state.iter().map(|(_, message)| message.clone()).collect::<Vec<_>>();

    let cut = choices.int_in_range(HEADER_SIZE..=spool.len())?;
    let whole = states.iter().rfind(|(end, _)| *end <= cut).expect("the header is whole");
    assert_eq!(opened(&spool[..cut]), Ok(offered(&whole.1)), "cut at {cut}");

    let (at, bit) =
        (choices.int_in_range(HEADER_SIZE..=spool.len().max(HEADER_SIZE + 1) - 1)?, choices.int_in_range(0..=7u8)?);
    if at < spool.len() {
        spool[at] ^= 1 << bit;
        let damaged = states.iter().position(|(end, _)| at < *end).expect("it is in a record");
        let is_last = damaged == states.len() - 1;
        match opened(&spool) {
            Ok(messages) => {
                assert!(is_last, "record {damaged} is damaged, and what is behind it is not");
                assert_eq!(messages, offered(&states[damaged - 1].1));
            }
            Err(text) => assert!(!is_last && text.contains("is damaged at offset"), "{text}"),
        }
    }
    Ok(())
}

fn forged(choices: &mut Unstructured<'_>) -> Result<()> {
    let mut spool = if choices.ratio(7, 8)? { header() } else { Vec::new() };
    for _ in 0..choices.int_in_range(0..=8u8)? {
        let len = choices.int_in_range(0..=64usize)?;
        let bytes = choices.bytes(len.min(choices.len()))?;
        if choices.ratio(1, 4)? {
            spool.extend_from_slice(bytes);
            continue;
        }
        let (name, body) = bytes.split_at(bytes.len().min(choices.int_in_range(0..=8)?));
        let numbers = match choices.int_in_range(0..=3u8)? {
            0 => choices.arbitrary()?,
            _ => [choices.arbitrary()?, body.len() as u32],
        };
        append(&mut spool, choices.int_in_range(0..=3u8)?, numbers, name, body);
    }
    if let Err(text) = opened(&spool) {
        assert!(text.contains("ringq-fuzz-") && !text.contains('\n'), "{text}");
    }
    Ok(())
}
