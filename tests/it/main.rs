//! The integration tests: the server as its clients, its operator and chance meet it.

mod clients;
mod harness;
mod random;
mod ringqctl;
mod socket_peer;
mod transcript;
mod transcripts;
mod world;
