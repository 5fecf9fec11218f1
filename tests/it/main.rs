//! The integration tests: the server as its clients, its operator and chance meet it.

// What may be unused here is used by tests/soak or tests/hostile, which share it.

mod activation;
mod admin;
mod admin_metrics;
mod allocations;
mod background;
mod backlog;
#[path = "../fuzz/bodies/mod.rs"]
mod bodies;
mod clients;
mod concurrency;
mod crash;
mod ctl_queues;
mod ctl_top;
mod daemon;
mod datagram;
mod engine;
mod examples;
#[allow(dead_code)]
mod facts;
mod flash_sale;
mod fuzz;
mod groups;
mod groups_crash;
#[allow(dead_code)]
mod harness;
#[allow(dead_code)]
mod history;
mod idle;
mod import;
mod journal;
mod kestrel;
mod layers;
mod lifecycle;
mod limits;
mod logging;
mod moves;
mod observe;
mod old_server;
mod operations;
mod options;
mod package;
mod passing;
mod peek;
mod readme;
mod reads;
mod reads_random;
mod ringqctl;
mod skips;
mod socket_peer;
mod sockets;
mod supervision;
#[allow(dead_code)]
mod traffic;
mod transcript;
mod transcripts;
mod udp;
mod waiting;

// What the simulator plays with: a server without threads, sockets or files.
#[path = "../sim/disk.rs"]
mod disk;
#[path = "../sim/lane.rs"]
mod lane;
#[allow(dead_code, reason = "the simulator needs more of it")]
#[path = "../sim/rng.rs"]
mod rng;
#[allow(dead_code, reason = "the simulator needs more of it")]
#[path = "../sim/world.rs"]
mod world;
