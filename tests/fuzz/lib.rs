//! What all fuzz targets have: their bodies, which the integration tests include, too, and of these the server in virtual time and the model
//! that some bodies drive.

#![allow(dead_code)]

pub mod bodies;
#[path = "../sim/disk.rs"]
mod disk;
#[path = "../sim/lane.rs"]
mod lane;
#[path = "../it/reads_random.rs"]
mod reads_random;
#[path = "../sim/rng.rs"]
mod rng;
#[path = "../sim/world.rs"]
mod world;
