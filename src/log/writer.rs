//! Where lines of the log go: first into a bounded buffer, then to a file or to standard error.
//!
//! Until it has a thread, whoever has a line writes it. After that nobody but the thread waits for what is written to: a line
//! that finds the buffer full is dropped and counted. Invariant: lines come out in the order in which they went in, none of
//! them cut; the lock of the buffer is never held while something is written.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes that may wait for the thread: some ten thousand lines. As many again may be in its hands.
const WAITING_SIZE_MAX: usize = 1 << 20;

/// A buffer up to this size is kept for reuse, bytes.
const SPARE_SIZE_MAX: usize = 64 << 10;

/// How long one write waits for a descriptor that is full and says so instead of blocking.
const FULL_WAIT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The log's way out.
pub(super) struct Writer {
    queue: Mutex<Queue>,
    /// There is something to do for the thread.
    filled: Condvar,
    /// Nothing waits and nothing is being written.
    idle: Condvar,
    /// Locked by whoever writes, and before the queue.
    output: Mutex<Output>,
}

#[derive(Default)]
struct Queue {
    lines: Vec<u8>,
    /// Lines that were dropped or could not be written, and were not told of.
    lost: u64,
    has_thread: bool,
    is_writing: bool,
    /// Device and inode of the file that lines pushed now will be in.
    file_id: Option<(u64, u64)>,
    /// To write to from now on.
    next: Option<File>,
}

struct Output {
    /// `None`: standard error, whatever that is at the time.
    file: Option<File>,
    /// The last line was written in part.
    is_torn: bool,
    /// Empty, for the next lines.
    spare: Vec<u8>,
}

impl Writer {
    /// Writes to `file`, or to standard error.
    pub fn new(file: Option<File>) -> Writer {
        Writer {
            queue: Mutex::new(Queue { file_id: file.as_ref().and_then(id_of), ..Queue::default() }),
            filled: Condvar::new(),
            idle: Condvar::new(),
            output: Mutex::new(Output { file, is_torn: false, spare: Vec::new() }),
        }
    }

    /// Takes whole lines.
    pub fn push(&self, lines: &[u8]) {
        let mut queue = lock(&self.queue);
        if queue.lines.len() + lines.len() > WAITING_SIZE_MAX {
            queue.lost += line_count(lines);
            return;
        }
        let was_empty = queue.lines.is_empty();
        queue.lines.extend_from_slice(lines);
        if !queue.has_thread {
            drop(queue);
            self.write_waiting();
        } else if was_empty {
            self.filled.notify_one();
        }
    }

    /// From now on another thread calls [`Writer::run`].
    pub fn leave_to_thread(&self) {
        lock(&self.queue).has_thread = true;
        self.filled.notify_one();
    }

    /// Writes what others have pushed, for ever. Tells `report` how many lines were lost, when lines can be written again.
    pub fn run(&self, report: impl Fn(u64)) -> ! {
        loop {
            let queue = lock(&self.queue);
            let is_unneeded = |queue: &mut Queue| queue.lines.is_empty() && queue.next.is_none();
            drop(self.filled.wait_while(queue, is_unneeded).unwrap_or_else(PoisonError::into_inner));
            let lost = self.write_waiting();
            if lost > 0 {
                report(lost);
            }
        }
    }

    /// Writes what waits. Returns how many lines were lost before, if these ones were not.
    fn write_waiting(&self) -> u64 {
        let mut output = lock(&self.output);
        let mut queue = lock(&self.queue);
        let mut lines = std::mem::replace(&mut queue.lines, std::mem::take(&mut output.spare));
        let next = queue.next.take();
        queue.is_writing = true;
        drop(queue);

        if let Some(file) = next {
            output.file = Some(file);
            output.is_torn = false;
        }
        let written = output.write(&lines);

        let mut queue = lock(&self.queue);
        queue.is_writing = false;
        queue.lost += line_count(&lines[written..]);
        let lost = if written == lines.len() { std::mem::take(&mut queue.lost) } else { 0 };
        self.idle.notify_all();
        drop(queue);
        if lines.capacity() <= SPARE_SIZE_MAX {
            lines.clear();
            output.spare = lines;
        }
        lost
    }

    /// Writes to this file from the next line on.
    pub fn replace(&self, file: File) {
        let mut queue = lock(&self.queue);
        queue.file_id = id_of(&file);
        queue.next = Some(file);
        if queue.has_thread {
            self.filled.notify_one();
        }
    }

    /// Device and inode of the file that is written to.
    pub fn file_id(&self) -> Option<(u64, u64)> {
        lock(&self.queue).file_id
    }

    /// Waits until everything is written, but not for ever.
    pub fn flush(&self, timeout: Duration) {
        let is_busy = |queue: &mut Queue| queue.is_writing || !queue.lines.is_empty();
        drop(self.idle.wait_timeout_while(lock(&self.queue), timeout, is_busy));
    }
}

impl Output {
    /// Writes lines as far as that goes; returns how many bytes of them.
    fn write(&mut self, lines: &[u8]) -> usize {
        if lines.is_empty() || self.is_torn && write_all(self.fd(), b"\n") == 0 {
            return 0;
        }
        let written = write_all(self.fd(), lines);
        self.is_torn = lines[..written].last().is_some_and(|last| *last != b'\n');
        written
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_ref().map_or(rustix::stdio::stderr(), File::as_fd)
    }
}

/// Writes until all is written or it cannot be; returns how many bytes were. An error is not worth more: there is nowhere to tell
/// of it.
pub(super) fn write_all(fd: BorrowedFd<'_>, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match rustix::io::write(fd, &bytes[written..]) {
            Ok(0) => break,
            Ok(size) => written += size,
            Err(Errno::INTR) => {}
            // Whoever gave us the descriptor may have made it non-blocking. What else the wait ends with, the next write tells.
            Err(Errno::AGAIN) if !has_waited_in_vain(fd) => {}
            Err(_) => break,
        }
    }
    written
}

fn has_waited_in_vain(fd: BorrowedFd<'_>) -> bool {
    poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&FULL_WAIT)) == Ok(0)
}

fn id_of(file: &File) -> Option<(u64, u64)> {
    file.metadata().ok().map(|file| (file.dev(), file.ino()))
}

fn line_count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

/// A thread that panicked ends the process; what it left behind is whole lines in any case.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, Read};
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    /// A writer to a pipe that says that it is full instead of blocking.
    fn to_pipe() -> (Writer, PipeReader) {
        let (reader, pipe) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&pipe, true).unwrap();
        (Writer::new(Some(OwnedFd::from(pipe).into())), reader)
    }

    /// What can be read once the writer is gone.
    fn read(writer: Writer, mut reader: PipeReader) -> String {
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn lines_are_written_at_once_while_there_is_no_thread() {
        let (writer, mut reader) = to_pipe();
        writer.push(b"a\n");
        let mut line = [0; 2];
        reader.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"a\n");
        writer.push(b"b\n");
        writer.flush(Duration::MAX);
        assert_eq!(read(writer, reader), "b\n");
    }

    #[test]
    fn a_line_that_finds_no_room_is_dropped_whole_and_counted() {
        let (writer, reader) = to_pipe();
        // The thread that would take them is busy.
        lock(&writer.queue).has_thread = true;
        let line = [[b'x'; 1023].as_slice(), b"\n"].concat();
        (0..WAITING_SIZE_MAX / line.len() + 3).for_each(|_| writer.push(&line));
        let queue = lock(&writer.queue);
        assert_eq!((queue.lines.len(), queue.lost), (WAITING_SIZE_MAX, 3));
        drop(queue);
        writer.flush(Duration::ZERO);
        drop((writer, reader));
    }

    #[test]
    fn what_could_not_be_written_is_counted_and_the_next_line_is_whole() {
        let (writer, mut reader) = to_pipe();
        lock(&writer.queue).has_thread = true;
        const LINES: usize = 1000;
        let line = [[b'x'; 998].as_slice(), b"\n"].concat();
        (0..LINES).for_each(|_| writer.push(&line));
        assert_eq!(writer.write_waiting(), 0, "as long as nothing can be written, nothing can be told");
        let mut held = vec![0; 1 << 20];
        let size = reader.read(&mut held).unwrap();
        assert_ne!(held[size - 1], b'\n', "the last line is torn");
        let written = held[..size].iter().filter(|byte| **byte == b'\n').count();
        writer.push(b"next\n");
        assert_eq!(writer.write_waiting(), (LINES - written) as u64);
        assert_eq!(read(writer, reader), "\nnext\n");
    }

    #[test]
    fn lines_go_to_the_new_file_in_order() {
        let (writer, old) = to_pipe();
        writer.push(b"a\n");
        let (reader, pipe) = std::io::pipe().unwrap();
        writer.replace(OwnedFd::from(pipe).into());
        writer.push(b"b\n");
        assert_eq!(read(writer, reader), "b\n");
        let mut text = String::new();
        { old }.read_to_string(&mut text).unwrap();
        assert_eq!(text, "a\n");
    }

    #[test]
    fn a_thread_writes_all_that_many_have() {
        let (reader, pipe) = std::io::pipe().unwrap();
        let writer = Arc::new(Writer::new(Some(OwnedFd::from(pipe).into())));
        let thread = writer.clone();
        std::thread::spawn(move || thread.run(|_| ()));
        writer.leave_to_thread();
        let read = std::thread::spawn(move || {
            let mut lines = std::io::BufRead::lines(std::io::BufReader::new(reader));
            (0..4000).map(|_| lines.next().unwrap().unwrap()).collect::<Vec<_>>()
        });
        std::thread::scope(|scope| {
            for who in 0..4 {
                let writer = &writer;
                scope.spawn(move || (0..1000).for_each(|n| writer.push(format!("{who} {n}\n").as_bytes())));
            }
        });
        writer.flush(Duration::MAX);
        let lines = read.join().unwrap();
        for who in 0..4 {
            let own = lines.iter().filter_map(|line| line.strip_prefix(&format!("{who} ")));
            assert!(own.eq((0..1000).map(|n| n.to_string()).collect::<Vec<_>>().iter()), "{who}");
        }
    }
}
