//! What clients of all shards do with open reads over the life of a server, against the model of them that the integration tests have, too. Each
//! byte is a choice: which client does what to which queue, how much time passes, who hangs up, when the power goes.
//!
//! Promises: after each step every client has heard exactly what the model says; in the end every message that is left comes out, in its order.

use crate::reads_random::Model;
use crate::rng::Rng;

/// A life of more choices shows nothing new.
const CHOICES_MAX: usize = 4096;

pub fn run(bytes: &[u8]) {
    let mut model = Model::new(Rng::given(&bytes[..bytes.len().min(CHOICES_MAX)]));
    while !model.rng.is_spent() {
        model.step();
        model.check();
    }
    model.finish();
}
