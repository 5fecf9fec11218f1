//! What the running kernel offers the ring: what it needs, found by trying, and what it could use.
//!
//! It decides nothing: [`Ring::new`] refuses a kernel without what is needed, and nothing optional is used yet.

use super::{Config, Event, Ring, StartError};
use io_uring::{IoUring, Probe, opcode};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fmt;
use std::time::Duration;

/// The operations the ring submits.
const NEEDED: [(&str, u8); 7] = [
    ("ACCEPT", opcode::AcceptMulti::CODE),
    ("RECV", opcode::RecvMulti::CODE),
    ("SEND", opcode::Send::CODE),
    ("POLL_ADD", opcode::PollAdd::CODE),
    ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
    ("WRITE", opcode::Write::CODE),
    ("FSYNC", opcode::Fsync::CODE),
];

/// How long the trial of a receive may take before it counts as failed.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// One thing the kernel has or lacks.
#[derive(Clone, Debug)]
pub struct Feature {
    /// What it is called.
    pub name: &'static str,
    /// Whether the kernel has it.
    pub found: bool,
    /// Whether RingQ starts without it.
    pub needed: bool,
}

/// What was found; displayed as one line each.
#[derive(Clone, Debug)]
pub struct Features {
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// What was looked for, in order.
    pub list: Vec<Feature>,
}

impl Features {
    /// Whether everything needed is there.
    pub fn suffice(&self) -> bool {
        self.list.iter().all(|feature| feature.found || !feature.needed)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kernel: {}", self.kernel)?;
        for feature in &self.list {
            let verdict = match (feature.found, feature.needed) {
                (true, _) => "yes",
                (false, true) => "NO (needed)",
                (false, false) => "no (optional)",
            };
            writeln!(f, "{}: {verdict}", feature.name)?;
        }
        Ok(())
    }
}

/// Sets up a small ring as the server would, tries a receive on it, and looks for what is optional.
///
/// # Errors
/// When no ring can be set up at all; the error says why and what to do.
pub fn probe() -> Result<Features, StartError> {
    // One as large as a shard's: the memory it takes may be forbidden.
    drop(Ring::new(&Config::default())?);
    let config = Config { entries: 8, recv_buffers: 2, recv_buffer_size: 4096, connections_max: 1 };
    let mut ring = Ring::new(&config)?;
    let opcodes = opcodes(&ring.io)?;
    let params = ring.io.params();
    let bundles = params.is_feature_recvsend_bundle();
    let min_wait = params.is_feature_min_timeout();
    let feature = |name, found, needed| Feature { name, found, needed };
    let list = vec![
        feature("single issuer, deferred task work, provided buffer ring", true, true),
        feature("multishot receive", receives(&mut ring), true),
        feature("zero-copy send (SEND_ZC)", opcodes.is_supported(opcode::SendZc::CODE), false),
        feature("receive and send bundles", bundles, false),
        feature("waiting for several completions with a minimum timeout", min_wait, false),
    ];
    Ok(Features { kernel: kernel_release(), list })
}

/// Refuses a kernel that lacks an operation the ring submits.
pub(super) fn require(io: &IoUring) -> Result<(), StartError> {
    let opcodes = opcodes(io)?;
    match NEEDED.iter().find(|(_, code)| !opcodes.is_supported(*code)) {
        None => Ok(()),
        Some((name, _)) => Err(StartError::KernelLacks { operation: name, release: kernel_release() }),
    }
}

/// The running kernel's release.
pub(super) fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn opcodes(io: &IoUring) -> Result<Probe, StartError> {
    let mut probe = Probe::new();
    io.submitter().register_probe(&mut probe).map_err(|error| super::diagnose(&error))?;
    Ok(probe)
}

/// Whether two messages come in, the second without the receive being submitted again.
fn receives(ring: &mut Ring) -> bool {
    let Ok((near, far)) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None) else {
        return false;
    };
    let Ok(conn) = ring.adopt(near) else { return false };
    let received = (0..2u8).all(|byte| rustix::io::write(&far, &[byte]).is_ok() && receives_byte(ring, byte));
    ring.close(conn);
    received
}

fn receives_byte(ring: &mut Ring, expected: u8) -> bool {
    ring.set_timer(Some(TRIAL_TIMEOUT));
    loop {
        if ring.turn(true).is_err() {
            return false;
        }
        while let Some(event) = ring.next_event() {
            match event {
                Event::Received { bytes, .. } => return bytes == [expected],
                Event::Ended { .. } | Event::Timer => return false,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_finds_what_the_ring_needs_where_a_ring_starts() {
        let features = probe().expect("a ring starts here");
        assert!(features.suffice(), "{features}");
        let lines = features.to_string();
        assert!(lines.contains("multishot receive: yes"), "{lines}");
        assert_eq!(lines.lines().count(), features.list.len() + 1);
    }

    #[test]
    fn a_lack_of_something_needed_shows() {
        let feature = |found, needed| Feature { name: "x", found, needed };
        let of = |list| Features { kernel: "6.1.0".into(), list };
        assert!(of(vec![feature(false, false), feature(true, true)]).suffice());
        let features = of(vec![feature(false, true)]);
        assert!(!features.suffice());
        assert!(features.to_string().contains("x: NO (needed)"));
    }
}
