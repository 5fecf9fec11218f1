//! What a line of a client turned out to be, in whichever dialect.
//!
//! Invariant: a line that is refused says how much of what follows belongs to it; where that cannot be known, it is fatal.

/// One line, with the commands `C` and the heads of puts `S` of a dialect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line<C, S> {
    /// A command without a body.
    Command(C),
    /// `set`: the body follows, of the size it says and with two bytes behind it.
    Set(S),
    /// Say `reply`, skip `skip` bytes, go on.
    Refused {
        /// Empty under `noreply`.
        reply: &'static [u8],
        /// The announced body and the two bytes behind it, or 0.
        skip: u64,
    },
    /// Say `reply`, if anything, and close: what follows cannot be told from commands.
    Fatal {
        /// May be empty.
        reply: &'static [u8],
    },
}
