//! The memcache text protocol as bytes: lines in ([`command`] with [`key`], [`kestrel`]), replies out ([`reply`]). Pure; holds no state and knows
//! no queue.
//!
//! Step 3 of a message's path.

pub mod command;
pub mod kestrel;
pub mod key;
pub mod line;
pub mod options;
pub mod reply;

pub use command::{Command, Line, SetLine, parse_line};
pub use key::Key;

/// What a connection speaks: that of the port it came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Dialect {
    /// MemcacheQ's, and what RingQ adds to it.
    #[default]
    MemcacheQ,
    /// Kestrel's.
    Kestrel,
}
