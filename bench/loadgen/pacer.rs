//! Pacer: wakes the connections of a thread when their next request is due.
//!
//! The runtime's own timer has a grain of a millisecond, which would be most of a latency measured here; a timerfd
//! read through the ring is exact to the wake-up of the core. A closed loop never arms it.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio_uring::fs::File;

use crate::clock::{Clock, SECOND_NS};

/// Wakes one task of the same thread; raising it before the wait is not lost.
#[derive(Debug, Default)]
pub struct Signal {
    raised: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    /// Ends the current or the next wait.
    pub fn raise(&self) {
        self.raised.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Waits until raised.
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.raised.take() {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// The due times of one thread's connections.
pub struct Pacer {
    clock: Clock,
    timer: File,
    due: RefCell<BinaryHeap<Reverse<(u64, usize)>>>,
    signals: Vec<Rc<Signal>>,
    /// The time the timer is set to.
    armed_ns: Cell<u64>,
}

impl Pacer {
    /// A pacer for these connections; within the runtime only, because that closes its timer.
    pub fn new(clock: Clock, signals: Vec<Rc<Signal>>) -> io::Result<Pacer> {
        // Not O_NONBLOCK: the ring would answer EAGAIN instead of waiting.
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let timer = File::from_std(std::fs::File::from(timer));
        Ok(Pacer { clock, timer, due: RefCell::default(), signals, armed_ns: Cell::new(u64::MAX) })
    }

    /// Raises the signal of connection `index` at `due_ns`.
    pub fn wake_at(&self, due_ns: u64, index: usize) -> io::Result<()> {
        self.due.borrow_mut().push(Reverse((due_ns, index)));
        if due_ns < self.armed_ns.get() { self.arm(due_ns) } else { Ok(()) }
    }

    fn arm(&self, due_ns: u64) -> io::Result<()> {
        self.armed_ns.set(due_ns);
        // Zero would disarm it.
        let wait_ns = due_ns.saturating_sub(self.clock.now_ns()).max(1);
        let it_value = Timespec { tv_sec: (wait_ns / SECOND_NS) as i64, tv_nsec: (wait_ns % SECOND_NS) as _ };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        // SAFETY: the descriptor belongs to `timer`, which outlives this call.
        let timer = unsafe { BorrowedFd::borrow_raw(self.timer.as_raw_fd()) };
        timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    /// Raises signals for as long as the runtime lives; returns only with an error.
    pub async fn run(&self) -> io::Result<()> {
        let mut expiries = vec![0u8; 8];
        loop {
            let (result, buffer) = self.timer.read_at(expiries, 0).await;
            result?;
            expiries = buffer;
            self.raise_due();
            self.armed_ns.set(u64::MAX);
            let next = self.due.borrow().peek().map(|Reverse((due_ns, _))| *due_ns);
            if let Some(due_ns) = next {
                self.arm(due_ns)?;
            }
        }
    }

    fn raise_due(&self) {
        let now_ns = self.clock.now_ns();
        let mut due = self.due.borrow_mut();
        while let Some(&Reverse((due_ns, index))) = due.peek() {
            if due_ns > now_ns {
                break;
            }
            due.pop();
            self.signals[index].raise();
        }
    }
}
