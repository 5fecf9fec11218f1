//! The integration tests: the server as its clients, its operator and chance meet it.

mod allocations;
mod backlog;
mod clients;
mod concurrency;
mod crash;
mod engine;
mod facts;
mod harness;
mod history;
mod hostile;
mod journal;
mod layers;
mod lifecycle;
mod package;
mod passing;
mod random;
mod readme;
mod ringqctl;
mod simulation;
mod socket_peer;
mod traffic;
mod transcript;
mod transcripts;
mod waiting;
mod world;
