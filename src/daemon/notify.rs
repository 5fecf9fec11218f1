//! What systemd is told, where it asks to be (`Type=notify`); nothing otherwise.
//!
//! A message that cannot be delivered stops nothing: systemd's own timeouts are what follows.

use sd_notify::NotifyState;
use std::time::Duration;

/// The server serves, as this process. Also the end of [`reloading`].
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::MainPid(std::process::id()), NotifyState::Status(status)]);
}

/// Settings are read again.
pub fn reloading() {
    // Without the time systemd would wait in vain; a clock that cannot be read leaves nothing better to say.
    let now = NotifyState::monotonic_usec_now().unwrap_or(NotifyState::MonotonicUsec(0));
    send(&[NotifyState::Reloading, now]);
}

/// The server stops; this is what it is about.
pub fn stopping(status: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// The start or the stop takes at most so much longer from now on.
pub fn extend_timeout(by: Duration) {
    send(&[NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))]);
}

/// Everything is alive.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often systemd wants to hear [`alive`] at least; `None`: it does not care.
pub fn watchdog_timeout() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero())
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("systemd cannot be told {}: {error} (NOTIFY_SOCKET)", states[0]);
    }
}
