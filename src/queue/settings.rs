//! What a queue does besides keeping messages in order: limits, times, and where messages go that it does not keep.
//!
//! Invariant: the default is a queue without any of it, and costs nothing.
//!
//! Does not know how settings are written by operators or where they are stored.

/// The settings of one queue. For numbers 0 means: none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Messages it holds at most.
    pub max_messages: u64,
    /// Bytes of the bodies it holds at most.
    pub max_bytes: u64,
    /// How old a message gets, s.
    pub max_age_s: u64,
    /// The largest body it takes, bytes.
    pub max_message_bytes: u64,
    /// How many messages it takes in its life.
    pub max_admissions: u64,
    /// A full queue drops its oldest messages for new ones, instead of refusing these.
    pub drop_oldest: bool,
    /// The exptime of a put counts, as memcached reads it.
    pub exptime: bool,
    /// Where messages go whose time is over. Empty: nowhere.
    pub expire_to: Box<[u8]>,
    /// How often a message is delivered at most.
    pub max_deliveries: u32,
    /// Where messages go that were delivered so often. Empty: nowhere.
    pub dead_letter: Box<[u8]>,
    /// An open read returns after this time, s.
    pub visibility_timeout_s: u64,
    /// The queue keeps messages for its groups only.
    pub groups_only: bool,
    /// A group that nobody has read from for so long ends, s.
    pub group_timeout_s: u64,
    /// What becomes of its messages is logged.
    pub trace: bool,
}
