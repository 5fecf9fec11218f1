//! What all fuzz targets have: their bodies, which the integration tests include, too, and of these the server in virtual time and the models
//! that some bodies drive.

#![allow(dead_code)]

pub mod bodies;
#[path = "../it/disk.rs"]
mod disk;
#[path = "../it/law.rs"]
mod law;
#[path = "../it/random.rs"]
mod random;
#[path = "../it/reads_random.rs"]
mod reads_random;
#[path = "../it/world.rs"]
mod world;
