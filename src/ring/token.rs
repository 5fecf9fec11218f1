//! A token: the 64 bits that travel with a submission and come back with its completions.
//!
//! Eight bits of kind, 24 of generation, 32 of index. Invariant: a place in a table is given up only after every operation
//! submitted for it has completed, so a completion always finds the life it belongs to; the generation is there to check
//! that.

/// What a submission was, and so what its completion means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    Accept = 1,
    Recv = 2,
    Send = 3,
    Watch = 4,
    CancelAccept = 5,
    CancelRecv = 6,
    CancelSend = 7,
    CancelWatch = 8,
    Write = 9,
    Sync = 10,
    Hangup = 11,
    CancelHangup = 12,
}

const KINDS: [Kind; 12] = [
    Kind::Accept,
    Kind::Recv,
    Kind::Send,
    Kind::Watch,
    Kind::CancelAccept,
    Kind::CancelRecv,
    Kind::CancelSend,
    Kind::CancelWatch,
    Kind::Write,
    Kind::Sync,
    Kind::Hangup,
    Kind::CancelHangup,
];

const GENERATION_MASK: u32 = (1 << 24) - 1;

/// Kind, life and place of one operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Token {
    pub kind: Kind,
    pub index: u32,
    generation: u32,
}

impl Token {
    /// A token for the place `index` in its `generation`; listeners and the watch have only one life, 0.
    pub fn new(kind: Kind, index: u32, generation: u32) -> Self {
        Token { kind, index, generation: generation & GENERATION_MASK }
    }

    /// Whether the operation belonged to this life of its place.
    pub fn is_of(self, generation: u32) -> bool {
        self.generation == generation & GENERATION_MASK
    }

    pub fn pack(self) -> u64 {
        (self.kind as u64) << 56 | u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub fn unpack(bits: u64) -> Self {
        let kind = (bits >> 56) as u8;
        let kind = KINDS.into_iter().find(|k| *k as u8 == kind);
        Token {
            kind: kind.expect("the kernel returns the tokens it was given"),
            index: bits as u32,
            generation: (bits >> 32) as u32 & GENERATION_MASK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_trip() {
        for kind in KINDS {
            for (index, generation) in [(0, 0), (7, 1), (u32::MAX, 0x00ff_ffff), (1, u32::MAX)] {
                let token = Token::new(kind, index, generation);
                assert_eq!(Token::unpack(token.pack()), token);
                assert!(token.is_of(generation));
                assert!(!token.is_of(generation.wrapping_add(1)));
            }
        }
    }
}
