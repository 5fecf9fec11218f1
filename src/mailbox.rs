//! Mailboxes: how a shard hears from other threads.
//!
//! A mailbox is a locked list that its owner empties in one swap, and an eventfd that is written only when the owner said
//! it is about to sleep; under load a send costs one uncontended lock and no system call. Senders never block. What
//! bounds the list is that every kind of mail is an answer to, or covered by a credit of, its receiver.
//!
//! Invariant: mail pushed before the owner's [`Mailbox::prepare_sleep`] returned `true` is seen by the owner before it
//! sleeps, and mail pushed after it wakes the owner.

use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// A list of mail and the means to wake its owner.
pub struct Mailbox<T> {
    mail: Mutex<Vec<T>>,
    asleep: AtomicBool,
    wake: OwnedFd,
}

impl<T> Mailbox<T> {
    /// An empty mailbox.
    ///
    /// # Errors
    /// When the process may not open another file.
    pub fn new() -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Mailbox { mail: Mutex::new(Vec::new()), asleep: AtomicBool::new(false), wake })
    }

    /// Adds mail, and wakes the owner if it sleeps.
    pub fn send(&self, mail: T) {
        self.lock().push(mail);
        if self.asleep.swap(false, Ordering::SeqCst) {
            // Only fails when the counter would overflow, and then the owner is awake anyway.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    /// Swaps the waiting mail into `into`, which must be empty.
    pub fn take(&self, into: &mut Vec<T>) {
        debug_assert!(into.is_empty());
        std::mem::swap(&mut *self.lock(), into);
    }

    /// Called by the owner before it sleeps on [`Mailbox::wake_fd`]. `false`: there is mail, do not sleep.
    pub fn prepare_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        if self.lock().is_empty() {
            return true;
        }
        self.asleep.store(false, Ordering::SeqCst);
        false
    }

    /// Called by the owner when it woke for another reason: senders need not wake it any more.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Becomes readable when mail arrives for a sleeping owner, who reads it to clear it.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<T>> {
        self.mail.lock().expect("no thread panics while it holds mail: a panic aborts the process")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wakes<T>(mailbox: &Mailbox<T>) -> bool {
        rustix::io::read(&mailbox.wake, &mut [0u8; 8]).is_ok()
    }

    #[test]
    fn only_a_sleeping_owner_is_woken() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.send(1);
        assert!(!wakes(&mailbox));
        assert!(!mailbox.prepare_sleep(), "there is mail");
        let mut mail = Vec::new();
        mailbox.take(&mut mail);
        assert_eq!(mail, [1]);
        assert!(mailbox.prepare_sleep());
        mailbox.send(2);
        mailbox.send(3);
        assert!(wakes(&mailbox));
        mail.clear();
        mailbox.take(&mut mail);
        assert_eq!(mail, [2, 3]);
    }

    #[test]
    fn mail_from_many_threads_arrives_once_and_in_each_senders_order() {
        let mailbox = Mailbox::new().unwrap();
        let mut seen = [0u32; 4];
        std::thread::scope(|scope| {
            for thread in 0..4usize {
                let mailbox = &mailbox;
                scope.spawn(move || (1..=1000u32).for_each(|n| mailbox.send((thread, n))));
            }
            let mut mail = Vec::new();
            while seen.iter().sum::<u32>() < 4000 {
                mailbox.take(&mut mail);
                for (thread, n) in mail.drain(..) {
                    assert_eq!(n, seen[thread] + 1);
                    seen[thread] = n;
                }
            }
        });
        assert_eq!(seen, [1000; 4]);
    }
}
