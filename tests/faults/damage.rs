//! One bit after the other turned over in what a server left on the disk, and a server started on each.
//!
//! Invariant: whatever bit it is, no reader gets anything that was not stored, nor in another order, nothing is missing without a word, and
//! nothing hangs. In the journal each bit is refused or harmless; in the database it may also cost a message, of which is told.

use crate::harness::Server;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One shard with the smallest journal: starts are quick then.
const ARGUMENTS: [&str; 8] = ["-t", "1", "-B", "1024", "-E", "2049", "-C", "0"];
/// Silence of a server after which it hangs.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Set aside, or refused to one reader: what a server says of it.
const TOLD: [&str; 2] = ["failed its checksum and was set aside", "cannot be read"];
/// Who reads, and how often it is asked: more often than there are messages.
const READERS: [&str; 6] = ["jobs", "news", "news/group=web", "news/group=mail", "late", "settings"];
const MESSAGES: usize = 24;

/// So many zeros may be fields of something; more are room.
const ZEROS_MAX: usize = 64;

/// What became of one server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    /// All is as it was.
    Correct,
    /// It did not start, or stopped, with a reason.
    Refused,
    /// A message was set aside, or a queue's gets refused, and that was told.
    Told,
    /// Messages are missing or came back, and nothing was told.
    Displaced,
    /// A signal.
    Crashed,
    /// Something was served that had not been stored, or in another order.
    Wrong,
    /// Nothing came for ten seconds.
    Hung,
}

/// A data directory as a server left it, and what it serves.
pub struct Original {
    data: PathBuf,
    files: BTreeMap<PathBuf, Vec<u8>>,
    served: BTreeMap<&'static str, Vec<Vec<u8>>>,
    /// All that each reader could ever have got.
    stored: BTreeMap<&'static str, Vec<Vec<u8>>>,
}

impl Original {
    /// Fills a new directory, in every way that leaves its own kind of row. With `is_stopped` all is in the database, otherwise in the
    /// journal.
    pub fn new(data: &Path, is_stopped: bool) -> Original {
        let mut server = Server::start_in(data, &ARGUMENTS);
        let mut client = server.connect();
        for name in ["news/group=web", "news/group=mail"] {
            client.send(format!("get {name}\r\n").as_bytes());
            client.expect(b"END\r\n");
        }
        client.send(b"config settings max_age=9000 dead_letter=late max_deliveries=5\r\n");
        client.expect(b"OK\r\n");
        let mut stored: BTreeMap<&str, Vec<Vec<u8>>> = BTreeMap::new();
        for number in 0..MESSAGES {
            for name in ["jobs", "news", "late", "settings"] {
                let body = format!("{name} {number} {}", "x".repeat(number * 5));
                client.send(format!("set {name} {number} 0 {}\r\n{body}\r\n", body.len()).as_bytes());
                client.expect(b"STORED\r\n");
                for reader in READERS.iter().filter(|reader| reader.split('/').next() == Some(name)) {
                    let reply = format!("VALUE {reader} {number} {}\r\n{body}\r\nEND\r\n", body.len());
                    stored.entry(reader).or_default().push(reply.into());
                }
            }
        }
        client.command(b"get news\r\n", b"END\r\n");
        client.command(b"get news/group=web\r\n", b"END\r\n");
        client.command(b"get late/open\r\n", b"END\r\n");
        client.command(b"get late\r\n", b"END\r\n");
        client.send(b"get late/abort\r\ndelete nosuch\r\n");
        client.expect(b"END\r\nNOT_FOUND\r\n");
        if is_stopped {
            assert!(server.stop().success());
        } else {
            // Behind a second of silence, a record tells of all before it.
            std::thread::sleep(Duration::from_secs(2));
            server.kill9();
        }
        let kept = ["store/data.mdb", "journal/0/segment-0", "journal/0/segment-1"];
        let kept = kept.map(|path| (PathBuf::from(path), fs::read(data.join(path)).expect("a file")));
        let mut original = Original { data: data.to_owned(), files: kept.into(), served: BTreeMap::new(), stored };
        let mut server = Server::start_in(data, &ARGUMENTS);
        original.served = serve(&server).expect("all is served");
        assert!(server.stop().success());
        assert!(original.served["jobs"] == original.stored["jobs"] && original.is_part(&original.served));
        original
    }

    /// The bytes of a file that are in use: all but those behind the first of many zeros.
    pub fn used(&self, path: &str) -> Vec<usize> {
        let mut zeros = 0;
        let bytes = self.files[Path::new(path)].iter().enumerate();
        let used = bytes.filter(|(_, byte)| {
            zeros = if **byte == 0 { zeros + 1 } else { 0 };
            zeros <= ZEROS_MAX
        });
        used.map(|(offset, _)| offset).collect()
    }

    /// Starts a server on all as it was but for one bit, and says what became of it, and more in words.
    pub fn turned(&self, path: &str, offset: usize) -> (Outcome, String) {
        for (path, bytes) in &self.files {
            fs::write(self.data.join(path), bytes).expect("restored");
        }
        let mut bytes = self.files[Path::new(path)].clone();
        bytes[offset] ^= 1 << (offset % 8);
        fs::write(self.data.join(path), bytes).expect("damaged");
        match catch_unwind(|| Server::try_start_in(&self.data, &ARGUMENTS)) {
            Err(_) => (Outcome::Hung, "it was never ready".to_owned()),
            Ok(Err(refused)) => match refused.status.code() {
                Some(1) if !refused.output.is_empty() => (Outcome::Refused, refused.output),
                _ => (Outcome::Crashed, format!("{}: {}", refused.status, refused.output)),
            },
            Ok(Ok(server)) => self.compare(server),
        }
    }

    fn compare(&self, mut server: Server) -> (Outcome, String) {
        let served = serve(&server);
        if served.as_ref().is_err_and(|error| error.contains("timed out") || error.contains("temporarily unavailable"))
        {
            return (Outcome::Hung, server.output());
        }
        let status = server.stop();
        let output = server.output();
        if status.signal().is_some() {
            return (Outcome::Crashed, format!("{status}: {output}"));
        }
        let is_told = TOLD.iter().any(|told| output.contains(told));
        match served {
            _ if !status.success() => (Outcome::Refused, output),
            Err(error) => (Outcome::Wrong, format!("{error}: {output}")),
            Ok(served) if served == self.served => (Outcome::Correct, output),
            Ok(served) if is_told && self.is_part(&served) => (Outcome::Told, output),
            Ok(served) => {
                let outcome = if self.is_part(&served) { Outcome::Displaced } else { Outcome::Wrong };
                let differs = READERS.iter().filter(|reader| served[*reader] != self.served[*reader]);
                let differs = differs.map(|reader| {
                    let shown: Vec<_> = served[reader].iter().map(|bytes| bytes.escape_ascii().to_string()).collect();
                    format!(
                        "{reader}: {} instead of {} replies: {shown:?}",
                        served[reader].len(),
                        self.served[reader].len()
                    )
                });
                (outcome, format!("{:?}\n{output}", differs.collect::<Vec<_>>()))
            }
        }
    }

    /// Whether each reader got messages that were stored, in their order.
    fn is_part(&self, served: &BTreeMap<&str, Vec<Vec<u8>>>) -> bool {
        served.iter().all(|(reader, replies)| {
            let mut stored = self.stored[reader].iter();
            replies.iter().all(|reply| stored.any(|stored| stored == reply))
        })
    }
}

/// What each reader gets, until it gets nothing more or is refused.
fn serve(server: &Server) -> Result<BTreeMap<&'static str, Vec<Vec<u8>>>, String> {
    let mut stream = TcpStream::connect(server.addr()).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(SILENCE_MAX)).expect("a timeout");
    let mut served = BTreeMap::new();
    for reader in READERS {
        let replies: &mut Vec<_> = served.entry(reader).or_default();
        loop {
            stream.write_all(format!("get {reader}\r\n").as_bytes()).map_err(|error| error.to_string())?;
            let mut reply = Vec::new();
            while !reply.ends_with(b"END\r\n") && !reply.starts_with(b"SERVER_ERROR") {
                let mut bytes = [0; 4096];
                match stream.read(&mut bytes) {
                    Ok(0) => return Err("the connection ended".to_owned()),
                    Ok(size) => reply.extend_from_slice(&bytes[..size]),
                    Err(error) => return Err(error.to_string()),
                }
            }
            if reply == b"END\r\n" || reply.starts_with(b"SERVER_ERROR") || replies.len() > MESSAGES {
                break;
            }
            replies.push(reply);
        }
    }
    Ok(served)
}
