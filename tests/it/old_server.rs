//! A scripted MemcacheQ: a queue server in a thread that answers as that one does and misbehaves when told to.
//!
//! Invariant: as in MemcacheQ, a message is gone from its queue before a byte of it is sent. It is a source or a destination; what it
//! was given stays when a connection goes.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// What the listing of MemcacheQ ends before, bytes.
const LISTING_SIZE_MAX: usize = 2048;
/// What MemcacheQ keeps free in it besides the name.
const LISTING_SPARE: usize = 50;

/// What happens to an answer instead of its being sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// So many bytes of it are sent, then nothing more, until the client goes.
    Stall(usize),
    /// So many bytes of it are sent, then the connection is closed.
    Cut(usize),
    /// It is held back until [`OldServer::heal`].
    Wait,
    /// This is sent in its place, and the request has no effect.
    Say(&'static str),
}

/// What happens: the requests that are answered well first, and the fault.
type Plan = Option<(usize, Fault)>;

#[derive(Default)]
pub struct State {
    /// For each queue the `VALUE` blocks that gets are answered with.
    pub queues: BTreeMap<String, VecDeque<Vec<u8>>>,
    /// Gets that were made.
    pub gets: usize,
    /// What was put: the line after `set `, and the body.
    pub stored: Vec<(String, Vec<u8>)>,
    /// Whether `stats queue` is unknown.
    pub is_silent_about_queues: bool,
    get_plan: Plan,
    set_plan: Plan,
}

pub struct OldServer {
    address: String,
    state: Arc<Mutex<State>>,
}

impl OldServer {
    pub fn start() -> OldServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address").to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, state) = (stream.expect("accept"), shared.clone());
                // A connection that breaks is the client's affair.
                thread::spawn(move || _ = serve(&stream, &state));
            }
        });
        OldServer { address, state }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of it has panicked")
    }

    /// Puts a message into a queue; flags and length are printed as MemcacheQ would.
    pub fn add(&self, queue: &str, flags: i32, body: &[u8]) {
        let head = format!("VALUE {queue} {flags} {}\r\n", body.len());
        self.add_block(queue, &[head.as_bytes(), body, b"\r\n"].concat());
    }

    /// Puts something into a queue that is sent as it is.
    pub fn add_block(&self, queue: &str, block: &[u8]) {
        self.state().queues.entry(queue.into()).or_default().push_back(block.into());
    }

    /// The fault befalls the get after so many more gets.
    pub fn fail_get(&self, after: usize, fault: Fault) {
        self.state().get_plan = Some((after, fault));
    }

    /// The same for sets. A set whose answer is lost has been stored.
    pub fn fail_set(&self, after: usize, fault: Fault) {
        self.state().set_plan = Some((after, fault));
    }

    /// From now on nothing goes wrong.
    pub fn heal(&self) {
        let mut state = self.state();
        (state.get_plan, state.set_plan) = (None, None);
    }

    /// Whether a fault of a get has happened.
    pub fn has_failed(&self) -> bool {
        self.state().get_plan.is_none()
    }

    pub fn left(&self, queue: &str) -> usize {
        self.state().queues.get(queue).map_or(0, VecDeque::len)
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut input = BufReader::new(stream);
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
        line.clear();
        let answer = if let Some(put) = text.strip_prefix("set ") {
            let size: usize = put.rsplit(' ').next().and_then(|size| size.parse().ok()).expect("a length");
            let mut body = vec![0; size + 2];
            input.read_exact(&mut body)?;
            body.truncate(size);
            set(state, put, body)
        } else if let Some(queue) = text.strip_prefix("get ") {
            get(state, queue)
        } else if text == "stats queue" {
            (listing(&state.lock().expect("sound")), None)
        } else {
            (b"ERROR\r\n".to_vec(), None)
        };
        if !send(stream, state, answer)? {
            return Ok(());
        }
    }
    Ok(())
}

type Answer = (Vec<u8>, Option<Fault>);

fn set(state: &Mutex<State>, put: &str, body: Vec<u8>) -> Answer {
    let mut state = state.lock().expect("sound");
    let fault = due(&mut state.set_plan);
    if !matches!(fault, Some(Fault::Say(_))) {
        state.stored.push((put.into(), body));
    }
    (b"STORED\r\n".to_vec(), fault)
}

fn get(state: &Mutex<State>, queue: &str) -> Answer {
    let mut state = state.lock().expect("sound");
    state.gets += 1;
    let fault = due(&mut state.get_plan);
    let block = match fault {
        Some(Fault::Say(_)) => None,
        _ => state.queues.get_mut(queue).and_then(VecDeque::pop_front),
    };
    ([block.unwrap_or_default(), b"END\r\n".to_vec()].concat(), fault)
}

/// Counts a request; its fault, if it has one. A fault happens once, but for words, and one that waits.
fn due(plan: &mut Plan) -> Option<Fault> {
    let (after, fault) = plan.as_mut()?;
    if *after > 0 {
        *after -= 1;
        return None;
    }
    let fault = *fault;
    if fault != Fault::Wait {
        *plan = None;
    }
    Some(fault)
}

fn listing(state: &State) -> Vec<u8> {
    if state.is_silent_about_queues {
        return b"ERROR\r\n".to_vec();
    }
    let mut listing = Vec::new();
    for (name, messages) in &state.queues {
        if listing.len() + name.len() + LISTING_SPARE > LISTING_SIZE_MAX {
            break;
        }
        listing.extend_from_slice(format!("STAT {name} {}/0\r\n", messages.len()).as_bytes());
    }
    listing.extend_from_slice(b"END\r\n");
    listing
}

/// Sends an answer or does what its fault is; whether the connection goes on.
fn send(mut stream: &TcpStream, state: &Mutex<State>, (answer, fault): Answer) -> std::io::Result<bool> {
    match fault {
        None => stream.write_all(&answer)?,
        Some(Fault::Say(words)) => stream.write_all(format!("{words}\r\n").as_bytes())?,
        Some(Fault::Cut(size)) => {
            stream.write_all(&answer[..size])?;
            return Ok(false);
        }
        Some(Fault::Stall(size)) => {
            stream.write_all(&answer[..size])?;
            std::io::copy(&mut stream, &mut std::io::sink())?;
            return Ok(false);
        }
        Some(Fault::Wait) => {
            let is_waiting = || {
                let state = state.lock().expect("sound");
                state.get_plan.is_some() || state.set_plan.is_some()
            };
            while is_waiting() {
                thread::sleep(Duration::from_millis(2));
            }
            stream.write_all(&answer)?;
        }
    }
    Ok(true)
}
