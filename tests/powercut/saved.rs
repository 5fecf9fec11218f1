//! A record that is kept in a file, so that one cut of it can be made again.
//!
//! Invariant: what is read back makes the same images and the same judgements. The file is a line of JSON, then the operations: a byte
//! that says which, of answers the place of their write, of writes the offset and the size, of those that are not zeros their bytes.

use crate::judge::{History, Promise};
use crate::recorder::Operation;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

const FLUSH: u8 = 0;
const BYTES: u8 = 1;
const ZEROS: u8 = 2;
const ANSWER: u8 = 3;

/// A load that has ended, and all that it did to the disk.
#[derive(Serialize, Deserialize)]
pub struct Saved {
    /// The file system.
    pub kind: String,
    /// What the server was started with.
    pub arguments: Vec<String>,
    /// What it is held to.
    pub promise: Promise,
    /// What clients were told.
    pub history: History,
    /// Operations before the server was first started.
    pub begin: usize,
    /// What reached the disk.
    #[serde(skip)]
    pub operations: Vec<Operation>,
}

impl Saved {
    /// Keeps it.
    ///
    /// # Errors
    /// Of the file.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        serde_json::to_writer(&mut file, self)?;
        file.write_all(b"\n")?;
        for operation in &self.operations {
            match operation {
                Operation::Flush => file.write_all(&[FLUSH])?,
                Operation::Answer(place) => {
                    file.write_all(&[ANSWER])?;
                    file.write_all(&(*place as u64).to_le_bytes())?;
                }
                Operation::Write(offset, bytes) => {
                    let is_zero = bytes.iter().all(|byte| *byte == 0);
                    file.write_all(&[if is_zero { ZEROS } else { BYTES }])?;
                    file.write_all(&offset.to_le_bytes())?;
                    file.write_all(&(bytes.len() as u64).to_le_bytes())?;
                    file.write_all(if is_zero { &[] } else { bytes })?;
                }
            }
        }
        file.flush()
    }

    /// Reads it back.
    ///
    /// # Errors
    /// Of the file, or of what is in it.
    pub fn read(path: &Path) -> io::Result<Saved> {
        let mut file = BufReader::new(File::open(path)?);
        let mut line = Vec::new();
        file.read_until(b'\n', &mut line)?;
        let mut saved: Saved = serde_json::from_slice(&line)?;
        let mut which = [0];
        while file.read(&mut which)? == 1 {
            if which[0] == FLUSH {
                saved.operations.push(Operation::Flush);
                continue;
            }
            let mut number = || {
                let mut bytes = [0; 8];
                file.read_exact(&mut bytes).map(|()| u64::from_le_bytes(bytes))
            };
            if which[0] == ANSWER {
                saved.operations.push(Operation::Answer(number()? as usize));
                continue;
            }
            let (offset, size) = (number()?, number()?);
            let mut bytes = vec![0; size as usize];
            if which[0] == BYTES {
                file.read_exact(&mut bytes)?;
            }
            saved.operations.push(Operation::Write(offset, bytes.into()));
        }
        Ok(saved)
    }
}
