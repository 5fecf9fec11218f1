//! Whether a queue takes a put: its limits.
//!
//! Invariant: a put that is refused has changed nothing but the count of such.
//!
//! Does not know how a put is stored: that is [`super::execute`].

use super::Engine;

impl Engine {
    /// The queue for a put of so many bytes; it is created if need be. `None`: the put is refused.
    pub(super) fn admit(&mut self, name: &[u8], size: usize) -> Option<u32> {
        let Some(index) = self.find(name) else {
            if self.by_id.len() >= self.config.queues_max {
                return None;
            }
            if let Some(settings) = self.settings_of(name)
                && !settings.takes_size(size)
            {
                self.stats.refused_puts += 1;
                return None;
            }
            return Some(self.create(name));
        };
        if self.shelf(index).settings.is_some() && !self.has_place_for(index, size) {
            self.stats.refused_puts += 1;
            self.shelf(index).refused += 1;
            return None;
        }
        Some(index)
    }

    fn has_place_for(&mut self, index: u32, size: usize) -> bool {
        let shelf = self.shelf(index);
        let Some(settings) = &shelf.settings else { return true };
        let admissions = settings.max_admissions;
        settings.takes_size(size) && (admissions == 0 || shelf.queue.counters.puts < admissions)
    }
}
