//! The memcache text protocol as bytes: lines in ([`command`]), replies out ([`reply`]). Pure; holds no state and knows
//! no queue.
//!
//! Step 3 of a message's path.

pub mod command;
pub mod options;
pub mod reply;

pub use command::{Command, Key, Line, SetLine, parse_line};
