//! Lists of many queues in one buffer: a queue's values in the order in which they came, without an allocation for each queue.
//!
//! Invariant: every [`Chain`] is used with the [`Chains`] that it was filled from, until that is cleared.

/// No further link.
const NONE: u32 = u32::MAX;

/// All the lists.
pub(super) struct Chains<T> {
    links: Vec<(T, u32)>,
}

/// Which values are one list's.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    first: u32,
    last: u32,
}

impl Default for Chain {
    fn default() -> Self {
        Chain { first: NONE, last: NONE }
    }
}

impl Chain {
    pub(super) fn is_empty(self) -> bool {
        self.first == NONE
    }
}

impl<T> Default for Chains<T> {
    fn default() -> Self {
        Chains { links: Vec::new() }
    }
}

impl<T: Copy> Chains<T> {
    /// Forgets all lists, and memory beyond `len_max` values.
    pub(super) fn clear(&mut self, len_max: usize) {
        self.links.clear();
        self.links.shrink_to(len_max);
    }

    /// Appends to one list.
    pub(super) fn push(&mut self, chain: &mut Chain, value: T) {
        let at = u32::try_from(self.links.len()).expect("a call has fewer mutations");
        self.links.push((value, NONE));
        match chain.is_empty() {
            true => chain.first = at,
            false => self.links[chain.last as usize].1 = at,
        }
        chain.last = at;
    }

    /// Replaces what is in `out` by one list.
    pub(super) fn collect(&self, chain: Chain, out: &mut Vec<T>) {
        out.clear();
        let mut next = chain.first;
        while next != NONE {
            let (value, after) = self.links[next as usize];
            out.push(value);
            next = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_list_keeps_its_order() {
        let (mut chains, mut out) = (Chains::default(), vec![7]);
        let [mut one, mut two, none] = [Chain::default(); 3];
        for value in 0..6 {
            chains.push(if value % 3 == 0 { &mut one } else { &mut two }, value);
        }
        chains.collect(two, &mut out);
        assert_eq!(out, [1, 2, 4, 5]);
        chains.collect(one, &mut out);
        assert_eq!(out, [0, 3]);
        chains.collect(none, &mut out);
        assert!(out.is_empty() && none.is_empty() && !one.is_empty());
    }
}
