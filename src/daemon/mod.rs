//! The process around the shards: what makes of a server a daemon that init systems and operators can run.
//!
//! Everything here happens on the main thread, before the shards start, beside them, or after them. The order of a start is
//! [`crate::server`]'s. Files: [`background`] forks, [`pid_file`] and [`user`] are `-P` and `-u`, [`resources`] sets limits, [`signals`]
//! listens, [`supervisor`] is the main thread's loop while shards run, [`rounds`] asks all shards how they are, [`report`] words what they
//! said, [`notify`] tells systemd, [`bus_error`] says why when the database cannot be read.

pub mod background;
pub mod bus_error;
pub mod notify;
pub mod pid_file;
mod report;
pub mod resources;
mod rounds;
pub mod signals;
pub mod supervisor;
pub mod user;
