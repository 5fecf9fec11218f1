//! Queues: the order of messages ([`queue`]), the bytes of those in memory ([`memory`]), and what is counted
//! ([`counters`]). Pure; a queue knows neither connections nor the store.
//!
//! Step 5 of a message's path.

pub mod counters;
pub mod defaults;
pub mod memory;
pub mod meter;
#[allow(clippy::module_inception)]
pub mod queue;
pub mod settings;

pub use counters::Counters;
pub use defaults::Defaults;
pub use memory::Memory;
pub use meter::Meter;
pub use queue::{Apart, Entry, Head, Open, Queue};
pub use settings::{Explicit, Settings};
