//! The journal: what makes an acknowledgement cheap. Each shard has its own, and one thread writes it.
//!
//! A journal is [`SEGMENTS`] files of equal size, written from the first to the last and round again. It holds records, one for each
//! batch of mutations, until the store has them. A start brings what is left into the store and begins a new
//! generation: a new random salt, and numbers from 1. docs/STORAGE.md has the bytes.
//!
//! Invariants:
//! 1. A record is valid only with the salt and the shard of its journal, at the place and with the number that are expected.
//!    So neither older records nor bytes a client sent pass for new ones.
//! 2. The salt is durable in the store before the first record of its generation is written.
//! 3. A reply is sent only when its record and all before it are written, and synced unless the run is unsynced.
//! 4. What the store does not have is not overwritten.
//! 5. A salt is in the store only while all files of its journal are there: files are made before, and removed after.
//!
//! From these follows what [`replay()`] does: every record up to the first that is not valid is applied; what is behind it was
//! never acknowledged, or the journal is damaged and the start refused.
//!
//! Does not know what mutations mean, nor who writes ([`Writer`] says what to write where) and when to checkpoint.
//!
//! Files: [`record`] is the format, [`writer`] gives records their places, [`mod@replay`] reads them back, [`files`] owns the files,
//! [`crate::page_buffer`] is memory for direct I/O.
//!
//! Step 6 to 7 of a message's path.

#[cfg(test)]
mod crash_tests;
pub mod files;
pub mod record;
pub mod replay;
pub mod writer;

pub use crate::page_buffer::{BLOCK_SIZE, PageBuffer};
pub use files::{FileSource, Files, FilesError, Mode, SyncMethod, existing};
pub use replay::{Outcome, ReadSegment, Receive, ReplayError, Torn, replay};
pub use writer::{Room, Write, Writer, WriterConfig};

use crate::ids::{Position, Seq, ShardId};
use crate::limits;

/// Segments of a journal. Four, so that one can be kept for removals and a checkpoint started at half.
pub const SEGMENTS: u32 = 4;

/// Where a generation begins.
pub const START: Position = Position { seq: Seq(1), segment: 0, offset: 0 };

/// One shard's journal unless configured, bytes: MemcacheQ's `-E 16384 -A 4096`.
pub const SHARE_SIZE_DEFAULT: u64 = 16384 * 4096;

/// Default `--journal-max`, bytes.
pub const JOURNAL_SIZE_MAX_DEFAULT: u64 = 1 << 30;

/// A share is at least this and four of the largest bodies, bytes: each segment then holds the largest message together with the
/// batch that it ends.
const SHARE_SIZE_MIN: u64 = 8 << 20;

const _: () = assert!(
    SHARE_SIZE_MIN / SEGMENTS as u64 >= limits::BATCH_SIZE as u64 + 2 * BLOCK_SIZE,
    "a segment, rounded down to a block, holds a header, a batch and the body that ends it"
);

/// What the operator wishes.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// `-E`; 0: the default, whatever `-A` says.
    pub pages: u64,
    /// `-A`, bytes.
    pub page_size: u64,
    /// `-t`.
    pub shards: u16,
    /// `--journal-max`, bytes.
    pub journal_size_max: u64,
    /// `-B`, bytes.
    pub body_size_max: usize,
}

/// What each shard gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Size of one file, bytes: a multiple of [`BLOCK_SIZE`].
    pub segment_size: u64,
    /// Files of one shard.
    pub segments: u32,
}

impl Layout {
    /// One shard's journal, bytes.
    pub fn share_size(&self) -> u64 {
        self.segment_size * u64::from(self.segments)
    }
}

/// The journal cannot be as small as was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LayoutError {
    /// `-E` times `-A` is too little.
    #[error(
        "a shard's journal of {wanted} bytes (-E times -A) is too small for messages of {body} bytes (-B): it needs at least \
         {least}. Raise -E, or lower -B"
    )]
    Share {
        /// What was asked, bytes.
        wanted: u64,
        /// `-B`, bytes.
        body: usize,
        /// What is needed, bytes.
        least: u64,
    },
    /// `--journal-max` is too little for so many shards.
    #[error(
        "the journals of {shards} shards (-t) with messages of {body} bytes (-B) need at least {least} bytes each, {total} \
         together, but --journal-max allows {allowed}. Raise --journal-max, or lower -t or -B"
    )]
    Total {
        /// How many share it.
        shards: u16,
        /// `-B`, bytes.
        body: usize,
        /// What each needs, bytes.
        least: u64,
        /// What they need together, bytes.
        total: u64,
        /// What they may have, bytes.
        allowed: u64,
    },
}

/// Divides the journal's size among the shards. Shares shrink to fit the total.
///
/// # Errors
/// When a share would be too small for the largest message, with the numbers.
pub fn layout(wish: &Wish) -> Result<Layout, LayoutError> {
    assert!(wish.shards > 0, "there is a shard");
    let body = wish.body_size_max;
    let least = SHARE_SIZE_MIN + 4 * body as u64;
    let wanted = if wish.pages == 0 { SHARE_SIZE_DEFAULT } else { wish.pages.saturating_mul(wish.page_size) };
    if wanted < least {
        return Err(LayoutError::Share { wanted, body, least });
    }
    let share = wanted.min(wish.journal_size_max / u64::from(wish.shards));
    if share < least {
        let total = least * u64::from(wish.shards);
        return Err(LayoutError::Total { shards: wish.shards, body, least, total, allowed: wish.journal_size_max });
    }
    let segment_size = share / u64::from(SEGMENTS) / BLOCK_SIZE * BLOCK_SIZE;
    Ok(Layout { segment_size, segments: SEGMENTS })
}

/// The path of a segment below the data directory, for paths and for what the operator is told.
fn segment_name(shard: ShardId, segment: u32) -> String {
    format!("journal/{shard}/segment-{segment}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISH: Wish =
        Wish { pages: 16384, page_size: 4096, shards: 4, journal_size_max: 1 << 30, body_size_max: 1 << 20 };

    #[test]
    fn the_default_is_64_mib_in_four_segments() {
        let expected = Ok(Layout { segment_size: 16 << 20, segments: 4 });
        assert_eq!(layout(&WISH), expected);
        assert_eq!(layout(&Wish { pages: 0, page_size: 512, ..WISH }), expected);
        assert_eq!(layout(&WISH).unwrap().share_size(), SHARE_SIZE_DEFAULT);
    }

    #[test]
    fn shares_shrink_to_the_total() {
        let layout = layout(&Wish { shards: 33, ..WISH }).unwrap();
        assert!(layout.share_size() * 33 <= 1 << 30);
        assert!(layout.share_size() * 33 > (1 << 30) - 33 * 4 * BLOCK_SIZE);
        assert!(layout.segment_size.is_multiple_of(BLOCK_SIZE));
    }

    #[test]
    fn a_share_too_small_for_the_largest_body_is_refused_with_the_numbers() {
        let least = (8 << 20) + (4 << 20);
        let exact = Wish { pages: least / 4096, ..WISH };
        assert_eq!(layout(&exact).unwrap().share_size(), least);
        let error = layout(&Wish { pages: least / 4096 - 1, ..WISH }).unwrap_err();
        assert!(layout(&Wish { pages: 0, body_size_max: 15 << 20, ..WISH }).is_err(), "the default has its limit, too");
        assert_eq!(error, LayoutError::Share { wanted: least - 4096, body: 1 << 20, least });
        for number in ["12578816", "1048576", "12582912"] {
            assert!(error.to_string().contains(number), "{error}");
        }
    }

    #[test]
    fn a_total_too_small_for_the_shards_is_refused_with_the_numbers() {
        let error = layout(&Wish { shards: 100, ..WISH }).unwrap_err();
        let least = (8 << 20) + (4 << 20);
        let total = 100 * least;
        assert_eq!(error, LayoutError::Total { shards: 100, body: 1 << 20, least, total, allowed: 1 << 30 });
    }

    #[test]
    fn absurd_wishes_do_not_overflow() {
        let wish = Wish { pages: u64::MAX, page_size: u64::MAX, ..WISH };
        assert_eq!(layout(&wish).unwrap().share_size(), 256 << 20);
    }
}
