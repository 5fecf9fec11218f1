//! The connections of a ring: for each its socket, what the kernel does for it and what was asked for.
//!
//! Invariant: a slot and its bytes are freed only when none of its operations is in flight (ask → join → free). An idle
//! connection costs its slot and nothing else.

use super::operation::Operation;
use super::token::Token;
use crate::ids::ConnId;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// One connection, or a free place for one.
pub(super) struct Connection {
    /// `None` when the place is free, or its `Closed` has not been handed out yet.
    socket: Option<OwnedFd>,
    generation: u32,
    /// The send under way: the kernel reads it, so it is neither touched nor dropped before the send completes.
    pub sending: Vec<u8>,
    /// How much of `sending` the kernel has taken.
    pub sent: usize,
    pub recv: Operation,
    pub send: Operation,
    /// Looks whether the peer is gone, while receiving is paused and cannot tell.
    pub hangup: Operation,
    /// Receiving was paused by the caller.
    pub paused: bool,
    /// The peer closed or receiving failed.
    pub ended: bool,
    /// The connection was reported as broken.
    pub lost: bool,
    /// Receiving stopped for want of a buffer, and waits for its turn to start again.
    pub starved: bool,
    /// The caller asked to close.
    pub closing: bool,
}

const _: () = assert!(size_of::<Connection>() <= 64);

impl Connection {
    /// The socket's descriptor.
    pub fn fd(&self) -> RawFd {
        self.socket().as_raw_fd()
    }

    /// The socket.
    pub fn socket(&self) -> &OwnedFd {
        self.socket.as_ref().expect("a connection in use has a socket")
    }

    /// Whether receiving should be under way, as far as the connection goes.
    pub fn wants_recv(&self) -> bool {
        !self.paused && !self.ended && !self.closing
    }

    /// The bytes the kernel has not taken yet.
    pub fn unsent(&self) -> &[u8] {
        &self.sending[self.sent..]
    }
}

/// The table of connections.
pub(super) struct Connections {
    slots: Vec<Connection>,
    free: Vec<u32>,
    len_max: u32,
}

impl Connections {
    /// An empty table for at most `len_max` connections.
    pub fn new(len_max: u32) -> Self {
        Connections { slots: Vec::new(), free: Vec::new(), len_max }
    }

    /// How many places are in use, closing ones included.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a place for `socket`, or hands it back when all are in use.
    pub fn insert(&mut self, socket: OwnedFd) -> Result<ConnId, OwnedFd> {
        let Some(index) = self.free_place() else { return Err(socket) };
        let slot = &mut self.slots[index as usize];
        let generation = slot.generation.wrapping_add(1);
        *slot = Connection { socket: Some(socket), generation, ..vacant() };
        Ok(ConnId { index, generation })
    }

    fn free_place(&mut self) -> Option<u32> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        let index = u32::try_from(self.slots.len()).ok().filter(|len| *len < self.len_max)?;
        self.slots.push(vacant());
        Some(index)
    }

    /// The connection, when `conn` names its present life and it was not asked to close.
    pub fn open(&mut self, conn: ConnId) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(conn.index as usize)?;
        (slot.generation == conn.generation && slot.socket.is_some() && !slot.closing).then_some(slot)
    }

    /// The connection a completion belongs to.
    pub fn of(&mut self, token: Token) -> (ConnId, &mut Connection) {
        let slot = &mut self.slots[token.index as usize];
        assert!(slot.socket.is_some(), "a place is freed after its last completion");
        assert!(token.is_of(slot.generation), "a place is reused after its last completion");
        (ConnId { index: token.index, generation: slot.generation }, slot)
    }

    /// The connection at a place known to be in use.
    pub fn at(&mut self, conn: ConnId) -> &mut Connection {
        let slot = &mut self.slots[conn.index as usize];
        assert!(slot.generation == conn.generation);
        assert!(slot.socket.is_some());
        slot
    }

    /// Closes the socket of a connection whose operations have all completed. Its place stays taken until
    /// [`Connections::vacate`].
    pub fn close_socket(&mut self, conn: ConnId) {
        let slot = self.at(conn);
        assert!(slot.closing);
        assert!(slot.recv.is_idle());
        assert!(slot.send.is_idle());
        assert!(slot.hangup.is_idle());
        slot.socket = None;
        slot.sending = Vec::new();
    }

    /// Frees the place for the next connection. Returns how much the kernel took of a send that was cut off.
    pub fn vacate(&mut self, conn: ConnId) -> usize {
        let slot = &self.slots[conn.index as usize];
        assert!(slot.generation == conn.generation);
        assert!(slot.socket.is_none());
        self.free.push(conn.index);
        slot.sent
    }

    /// Every connection that was not asked to close.
    pub fn all_open(&self) -> Vec<ConnId> {
        let open = self.slots.iter().enumerate().filter(|(_, slot)| slot.socket.is_some() && !slot.closing);
        open.map(|(index, slot)| ConnId { index: index as u32, generation: slot.generation }).collect()
    }

    /// Forgets every connection without freeing what the kernel may still read.
    pub fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.slots));
        self.free.clear();
    }
}

fn vacant() -> Connection {
    Connection {
        socket: None,
        generation: 0,
        sending: Vec::new(),
        sent: 0,
        recv: Operation::default(),
        send: Operation::default(),
        hangup: Operation::default(),
        paused: false,
        ended: false,
        lost: false,
        starved: false,
        closing: false,
    }
}
