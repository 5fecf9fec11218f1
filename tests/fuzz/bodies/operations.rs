//! What a server does over its life, against three models that the integration tests have, too. The first byte chooses the model, each
//! further one is a choice: which client does what to which queue, what the disk, the mail and the store do, how much time passes, when the
//! power goes.

use crate::law::Trial;
use crate::random::{History, Rng};
use crate::reads_random::Model;

/// A life of more choices shows nothing new.
const CHOICES_MAX: usize = 4096;

pub fn run(bytes: &[u8]) {
    let Some((model, choices)) = bytes.split_first() else { return };
    let rng = Rng::given(&choices[..choices.len().min(CHOICES_MAX)]);
    match model % 3 {
        0 => reads(rng),
        1 => law(rng),
        _ => history(rng),
    }
}

/// Open reads, where after each step all comes to rest and every client has heard exactly what it must.
fn reads(rng: Rng) {
    let mut model = Model::new(rng);
    while !model.rng.is_spent() {
        model.step();
        model.check();
    }
    model.finish();
}

/// Everything that a queue can do: what was put is somewhere, and counted there once.
fn law(rng: Rng) {
    let mut trial = Trial::new(rng);
    while !trial.rng.is_spent() {
        trial.step();
    }
    trial.check();
}

/// Everything under way at once: nothing is lost, doubled or out of order.
fn history(rng: Rng) {
    let mut history = History::new(rng);
    while !history.rng.is_spent() {
        history.run(1);
    }
    history.finish();
}
