//! RingQ: a durable message queue that speaks the memcache protocol.
//!
//! The library is the server's parts; the binaries put them together. Pure parts (no I/O, clock, thread or unsafe):
//! [`ids`], [`limits`], [`clock`], [`mutation`], [`page_buffer`], [`proto`], [`session`], [`queue`], [`stats`], [`engine`]. Impure ones:
//! [`listen`], [`ring`], [`journal`] (its files; the format and the writer are pure), [`kept`], [`durability`], [`store`], [`mailbox`], [`shard`],
//! [`udp`], [`admin`], [`server`], [`daemon`], [`config`], [`log`]; and the operator's tool [`ctl`] with its [`client`].
//! docs/ARCHITECTURE.md walks a message's path through them.

#[cfg(all(feature = "canary", not(debug_assertions)))]
compile_error!("the feature canary makes a server with a bug, for `make sim-canary` alone: build without it");

pub mod admin;
pub mod client;
pub mod clock;
pub mod config;
pub mod ctl;
pub mod daemon;
pub mod durability;
pub mod engine;
pub mod host;
pub mod ids;
pub mod journal;
pub mod kept;
pub mod latency;
pub mod limits;
pub mod listen;
pub mod log;
pub mod mailbox;
pub mod message_set;
pub mod mutation;
pub mod page_buffer;
pub mod proto;
pub mod queue;
pub mod ring;
pub mod server;
pub mod session;
pub mod shard;
pub mod stats;
pub mod store;
pub mod udp;
