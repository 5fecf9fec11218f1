//! LMDB's file, looked at page by page before LMDB maps it.
//!
//! LMDB trusts its file: a page number that is wrong leads it out of its map, one that is free and in use at once makes it overwrite what it
//! needs. So a start reads every page of every tree first, and the first of each run of overflow pages, with ordinary reads, and refuses a
//! file of which anything contradicts anything. What lies in values is not judged here: those have checksums of their own.
//!
//! Invariant: nothing that was read is trusted before it was compared, so that no file makes this code panic, recurse without end or take
//! memory without bound.
//!
//! The format is that of LMDB's data version 1 on a little-endian machine with pointers of 64 bits. docs/STORAGE.md says what is compared.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::thread;

use super::super::Error;

const OPERATION: &str = "reading the database's pages";

/// Bytes of a page's header: its number, padding, flags, and where its free space begins and ends.
const HEADER_SIZE: usize = 16;
/// Bytes of a node's header: size or page number, flags, size of the key.
const NODE_HEADER_SIZE: usize = 8;
/// Bytes that describe a tree.
const TREE_SIZE: usize = 48;
/// Pages at the beginning of the file that say where the trees are; the younger of them counts.
const METAS: u64 = 2;
/// Bytes of what such a page says, behind its header.
const META_SIZE: usize = 24 + 2 * TREE_SIZE + 16;
const META_MAGIC: u32 = 0xBEEF_C0DE;
const META_VERSION: u32 = 1;
/// What stands for the root of an empty tree.
const NO_PAGE: u64 = u64::MAX;
/// More levels no tree can have.
const DEPTH_MAX: u16 = 32;

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOW: u16 = 0x04;
/// Of a tree: its keys are integers.
const INTEGER_KEY: u16 = 0x08;
/// Of a node: its value lies in overflow pages.
const BIG_DATA: u16 = 0x01;
/// Of a node: its value describes a tree.
const SUB_DATA: u16 = 0x02;

/// Runs of overflow pages whose first pages are read together.
const HEADS_MAX: usize = 16 << 10;
/// Reads of such pages under way at once: a device answers many in the time of one.
const READERS: usize = 8;
/// So few are read one after the other.
const HEADS_FEW: usize = 64;

/// What a file is found to be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Checked {
    /// The named databases, in their order.
    pub(super) names: Vec<Vec<u8>>,
    /// Pages that are in use.
    pub(super) used: u64,
    /// Pages that may be used anew.
    pub(super) free: u64,
    /// Pages that are neither: they are of no use to anyone, and harm no one.
    pub(super) lost: u64,
}

/// Compares everything in the file with everything else that speaks of it. `None`: it is empty, or not of this format, which LMDB finds out
/// by itself without following anything.
///
/// # Errors
/// [`Error::Damaged`] with the first page that contradicts others, [`Error::Io`] when the file cannot be read.
pub(super) fn check(file: &File) -> Result<Option<Checked>, Error> {
    let size = file.metadata().map_err(failed)?.len();
    let Some((meta, page_size)) = read_metas(file, size)? else { return Ok(None) };
    let pages = size / page_size as u64;
    let words = usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX);
    let mut checker = Checker {
        file,
        page_size,
        pages,
        last_page: meta.last_page,
        claimed: vec![0; words],
        beyond: HashSet::new(),
        heads: Vec::new(),
    };
    let (mut free, mut trees) = (0, Vec::new());
    checker.walk(&meta.free, Kind::Free { through: meta.txn }, &mut |checker, node| {
        for page in free_pages(node.value)? {
            checker.claim(page, true)?;
            free += 1;
        }
        Ok(())
    })?;
    checker.walk(&meta.main, Kind::Main, &mut |_, node| {
        if node.is_tree {
            trees.push((node.key.to_vec(), Tree::decode(node.value)));
        }
        Ok(())
    })?;
    for (name, tree) in &trees {
        let walked = checker.walk(tree, Kind::Named, &mut |_, _| Ok(()));
        walked.map_err(|error| match error {
            Error::Damaged(text) => Error::Damaged(format!("{}: {text}", name.escape_ascii())),
            error => error,
        })?;
    }
    // The file may end before pages that were made and freed again, and never written.
    let behind_end = (meta.last_page + 1).saturating_sub(pages);
    if behind_end != checker.beyond.len() as u64 {
        return Err(Error::Damaged(format!(
            "it has {pages} pages, but page {} is the last one in use or free",
            meta.last_page
        )));
    }
    let claimed = checker.claimed.iter().map(|word| u64::from(word.count_ones())).sum::<u64>() + behind_end;
    let lost = meta.last_page + 1 - METAS - claimed;
    let names = trees.into_iter().map(|(name, _)| name).collect();
    Ok(Some(Checked { names, used: claimed - free, free, lost }))
}

fn failed(source: io::Error) -> Error {
    Error::Io { operation: OPERATION, source }
}

fn damaged(page: u64, what: &str) -> Error {
    Error::Damaged(format!("page {page}: {what}"))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Where a tree is, and what it says of itself.
#[derive(Clone, Copy)]
struct Tree {
    flags: u16,
    depth: u16,
    counts: Counts,
    root: u64,
}

/// What a tree consists of.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Counts {
    branches: u64,
    leaves: u64,
    overflow: u64,
    entries: u64,
}

impl Tree {
    /// Reads [`TREE_SIZE`] bytes.
    fn decode(bytes: &[u8]) -> Tree {
        let [branches, leaves, overflow, entries, root] = [8, 16, 24, 32, 40].map(|at| u64_at(bytes, at));
        let counts = Counts { branches, leaves, overflow, entries };
        Tree { flags: u16_at(bytes, 4), depth: u16_at(bytes, 6), counts, root }
    }
}

/// What the younger meta page says.
struct Meta {
    free: Tree,
    main: Tree,
    last_page: u64,
    txn: u64,
}

/// The younger meta page and the size of pages, if the file has two meta pages that LMDB would take for such.
fn read_metas(file: &File, size: u64) -> Result<Option<(Meta, usize)>, Error> {
    let mut bytes = [0; HEADER_SIZE + META_SIZE];
    let mut metas = Vec::new();
    let mut page_size = 0;
    for page in 0..METAS {
        let offset = page * page_size as u64;
        if size < offset + bytes.len() as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut bytes, offset).map_err(failed)?;
        let meta = &bytes[HEADER_SIZE..];
        let tree = |at: usize| &meta[24 + at * TREE_SIZE..][..TREE_SIZE];
        if u32_at(meta, 0) != META_MAGIC || u32_at(meta, 4) != META_VERSION {
            return Ok(None);
        }
        let stated = u32_at(tree(0), 0) as usize;
        if page > 0 && stated != page_size || !stated.is_power_of_two() || !(512..=0x8000).contains(&stated) {
            return Err(damaged(page, "its size of pages is impossible, or not that of page 0"));
        }
        page_size = stated;
        let (last_page, txn) = (u64_at(meta, META_SIZE - 16), u64_at(meta, META_SIZE - 8));
        metas.push(Meta { free: Tree::decode(tree(0)), main: Tree::decode(tree(1)), last_page, txn });
    }
    // A transaction writes the page of its parity. So the two are of transactions that follow each other, or both of none.
    let [first, second] = [metas[0].txn, metas[1].txn];
    let younger = usize::from(second > first);
    let are_neighbours = first.abs_diff(second) == 1 && metas[younger].txn % 2 == younger as u64;
    if !are_neighbours && (first, second) != (0, 0) {
        return Err(damaged(younger as u64, &format!("the newest transactions are {first} and {second}")));
    }
    let meta = metas.swap_remove(younger);
    // What a page number is multiplied with must not overflow.
    if meta.last_page < METAS - 1 || meta.last_page > u64::MAX / (2 * page_size as u64) {
        return Err(damaged(younger as u64, "the last page is impossible"));
    }
    Ok(Some((meta, page_size)))
}

/// Which tree is walked.
#[derive(Clone, Copy)]
enum Kind {
    /// That of free pages, by the transaction that freed them, none younger than this one.
    Free {
        through: u64,
    },
    /// That of the named databases.
    Main,
    Named,
}

/// A key and its value; of a value in overflow pages only that of [`Kind::Free`] is read.
struct Node<'a> {
    key: &'a [u8],
    value: &'a [u8],
    /// The value describes a named database.
    is_tree: bool,
}

type Visit<'v, 'c> = &'v mut dyn FnMut(&mut Checker<'c>, Node<'_>) -> Result<(), Error>;

/// One tree while it is walked.
struct Walk<'v, 'c> {
    kind: Kind,
    found: Counts,
    visit: Visit<'v, 'c>,
}

struct Checker<'c> {
    file: &'c File,
    page_size: usize,
    /// Whole pages in the file.
    pages: u64,
    last_page: u64,
    /// A bit for each page of the file: it is used somewhere, or free.
    claimed: Vec<u64>,
    /// Free pages behind the end of the file.
    beyond: HashSet<u64>,
    /// Runs of overflow pages that are to be looked at: the first page, and how many the value needs.
    heads: Vec<(u64, u64)>,
}

impl<'c> Checker<'c> {
    /// A page is in use, or free; and never twice.
    fn claim(&mut self, page: u64, is_free: bool) -> Result<(), Error> {
        if !(METAS..=self.last_page).contains(&page) {
            return Err(damaged(page, "it is spoken of, and cannot be"));
        }
        let is_new = if page < self.pages {
            let (word, bit) = (&mut self.claimed[page as usize / 64], 1 << (page % 64));
            let is_new = *word & bit == 0;
            *word |= bit;
            is_new
        } else if is_free {
            self.beyond.insert(page)
        } else {
            return Err(damaged(page, "it is behind the end of the file"));
        };
        if is_new { Ok(()) } else { Err(damaged(page, "it is used twice, or used and free")) }
    }

    fn read(&self, page: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; self.page_size];
        self.file.read_exact_at(&mut bytes, page * self.page_size as u64).map_err(failed)?;
        Ok(bytes)
    }

    fn walk(&mut self, tree: &Tree, kind: Kind, visit: Visit<'_, 'c>) -> Result<(), Error> {
        let flags = if matches!(kind, Kind::Free { .. }) { INTEGER_KEY } else { 0 };
        let is_empty = tree.root == NO_PAGE;
        if tree.flags != flags || is_empty != (tree.depth == 0) || tree.depth > DEPTH_MAX {
            return Err(Error::Damaged("a tree's description is impossible".into()));
        }
        let mut walk = Walk { kind, found: Counts::default(), visit };
        if !is_empty {
            self.subtree(tree.root, tree.depth, [None, None], &mut walk)?;
        }
        self.look_at_heads(&mut walk)?;
        if walk.found != tree.counts {
            return Err(Error::Damaged(format!("a tree has {:?} and should have {:?}", walk.found, tree.counts)));
        }
        Ok(())
    }

    /// Walks a page and all below it, whose keys are not below the first bound and all below the second.
    fn subtree(
        &mut self,
        page: u64,
        depth: u16,
        [from, below]: [Option<&[u8]>; 2],
        walk: &mut Walk<'_, 'c>,
    ) -> Result<(), Error> {
        self.claim(page, false)?;
        let bytes = self.read(page)?;
        let expected = if depth == 1 { LEAF } else { BRANCH };
        if u64_at(&bytes, 0) != page || u16_at(&bytes, 10) != expected {
            return Err(damaged(page, "it is another page, or of another kind, than it should be"));
        }
        let nodes = nodes(page, &bytes, expected)?;
        // What is below the first child of a branch needs no key.
        let first_key = usize::from(expected == BRANCH);
        for at in first_key..nodes.len() {
            let key = nodes[at].key;
            let bound = if at > first_key { Some(nodes[at - 1].key) } else { from };
            let is_above =
                |bound| (at == first_key && is_at_most(walk.kind, bound, key)) || is_less(walk.kind, bound, key);
            let is_below = below.is_none_or(|bound| is_less(walk.kind, key, bound));
            if !has_possible_size(walk.kind, key) || !bound.is_none_or(is_above) || !is_below {
                return Err(damaged(page, &format!("key {at} is out of order, or no key")));
            }
        }
        if expected == LEAF {
            walk.found.leaves += 1;
            walk.found.entries += nodes.len() as u64;
            return nodes.iter().try_for_each(|node| self.leaf_node(page, node, walk));
        }
        walk.found.branches += 1;
        for (at, node) in nodes.iter().enumerate() {
            let from = if at > 0 { Some(node.key) } else { from };
            let below = nodes.get(at + 1).map(|next| next.key).or(below);
            self.subtree(node.number, depth - 1, [from, below], walk)?;
        }
        Ok(())
    }

    fn leaf_node(&mut self, page: u64, node: &RawNode<'_>, walk: &mut Walk<'_, 'c>) -> Result<(), Error> {
        let is_possible = match walk.kind {
            // Other programs keep rows there.
            Kind::Main => node.flags & !BIG_DATA == 0 || node.flags == SUB_DATA && node.data.len() == TREE_SIZE,
            Kind::Free { through } => node.flags & !BIG_DATA == 0 && (1..=through).contains(&u64_at(node.key, 0)),
            Kind::Named => node.flags & !BIG_DATA == 0,
        };
        if !is_possible {
            return Err(damaged(page, "a row is not of a kind that can be there"));
        }
        if node.flags != BIG_DATA {
            return (walk.visit)(self, Node { key: node.key, value: node.data, is_tree: node.flags == SUB_DATA });
        }
        let first = u64_at(node.data, 0);
        let pages = (HEADER_SIZE as u64 + node.number).div_ceil(self.page_size as u64);
        // All of them are claimed when it is known how many they are.
        if first.checked_add(pages).is_none_or(|end| end > self.pages) {
            return Err(damaged(first, "it is behind the end of the file"));
        }
        let mut value = Vec::new();
        if matches!(walk.kind, Kind::Free { .. }) {
            value.resize(node.number as usize, 0);
            let offset = first * self.page_size as u64 + HEADER_SIZE as u64;
            self.file.read_exact_at(&mut value, offset).map_err(failed)?;
        }
        self.heads.push((first, pages));
        if self.heads.len() >= HEADS_MAX {
            self.look_at_heads(walk)?;
        }
        (walk.visit)(self, Node { key: node.key, value: &value, is_tree: false })
    }

    /// Reads the first pages of runs of overflow pages, which say how many they are: not fewer than are needed.
    fn look_at_heads(&mut self, walk: &mut Walk<'_, 'c>) -> Result<(), Error> {
        let mut heads = std::mem::take(&mut self.heads);
        heads.sort_unstable();
        let (file, page_size) = (self.file, self.page_size as u64);
        let read = |first: u64| {
            let mut bytes = [0; HEADER_SIZE];
            file.read_exact_at(&mut bytes, first * page_size).map(|()| bytes)
        };
        let headers: Vec<io::Result<[u8; HEADER_SIZE]>> = if heads.len() <= HEADS_FEW {
            heads.iter().map(|(first, _)| read(*first)).collect()
        } else {
            let parts = heads.chunks(heads.len().div_ceil(READERS));
            thread::scope(|scope| {
                let readers: Vec<_> = parts
                    .map(|part| scope.spawn(move || part.iter().map(|(first, _)| read(*first)).collect::<Vec<_>>()))
                    .collect();
                readers.into_iter().flat_map(|reader| reader.join().expect("it only reads")).collect()
            })
        };
        for ((first, needed), header) in heads.iter().zip(headers) {
            let header = header.map_err(failed)?;
            let pages = u64::from(u32_at(&header, 12));
            let is_possible = u64_at(&header, 0) == *first && u16_at(&header, 10) == OVERFLOW && pages >= *needed;
            if !is_possible || first + pages > self.pages {
                return Err(damaged(*first, "it does not begin the overflow pages that it should"));
            }
            (*first..first + pages).try_for_each(|page| self.claim(page, false))?;
            walk.found.overflow += pages;
        }
        heads.clear();
        self.heads = heads;
        Ok(())
    }
}

/// What a page has between its header's bounds.
struct RawNode<'a> {
    key: &'a [u8],
    /// In a branch: the page below. In a leaf: the size of the value.
    number: u64,
    /// In a branch: 0.
    flags: u16,
    /// In a leaf: the value, or the number of its first overflow page.
    data: &'a [u8],
}

/// The nodes of a page in the order of its index, which lie at its end without gaps.
fn nodes(page: u64, bytes: &[u8], kind: u16) -> Result<Vec<RawNode<'_>>, Error> {
    let (lower, upper) = (usize::from(u16_at(bytes, 12)), usize::from(u16_at(bytes, 14)));
    if lower <= HEADER_SIZE || lower % 2 == 1 || lower > upper || upper > bytes.len() {
        return Err(damaged(page, "its bounds are impossible"));
    }
    let no_node = || damaged(page, "its index points to no node");
    let mut places = Vec::new();
    let mut nodes = Vec::new();
    for at in (HEADER_SIZE..lower).step_by(2) {
        let place = usize::from(u16_at(bytes, at));
        let (header, rest) = bytes.get(place..).and_then(<[u8]>::split_first_chunk).ok_or_else(no_node)?;
        let header: &[u8; NODE_HEADER_SIZE] = header;
        let (low, flags) = (u64::from(u32_at(header, 0)), u16_at(header, 4));
        let (number, flags, data_size) = match (kind, flags & BIG_DATA) {
            (BRANCH, _) => (low | u64::from(flags) << 32, 0, 0),
            (_, 0) => (low, flags, low as usize),
            _ => (low, flags, size_of::<u64>()),
        };
        let key_size = usize::from(u16_at(header, 6));
        let (key, rest) = rest.split_at_checked(key_size).ok_or_else(no_node)?;
        let data = rest.get(..data_size).ok_or_else(no_node)?;
        places.push((place, (NODE_HEADER_SIZE + key_size + data_size).next_multiple_of(2)));
        nodes.push(RawNode { key, number, flags, data });
    }
    places.sort_unstable();
    let end = places.iter().try_fold(upper, |end, (place, size)| (*place == end).then_some(end + size));
    if end != Some(bytes.len()) {
        return Err(damaged(page, "its nodes overlap, or leave gaps"));
    }
    Ok(nodes)
}

fn has_possible_size(kind: Kind, key: &[u8]) -> bool {
    match kind {
        Kind::Free { .. } => key.len() == size_of::<u64>(),
        _ => !key.is_empty(),
    }
}

/// Whether one key sorts before the other. One of an impossible size sorts nowhere.
fn is_less(kind: Kind, one: &[u8], other: &[u8]) -> bool {
    match kind {
        Kind::Free { .. } => {
            one.len() == size_of::<u64>() && other.len() == size_of::<u64>() && u64_at(one, 0) < u64_at(other, 0)
        }
        _ => one < other,
    }
}

fn is_at_most(kind: Kind, one: &[u8], other: &[u8]) -> bool {
    one == other || is_less(kind, one, other)
}

/// The pages of a row of free pages: their number, and they, from the last to the first. There may be room for more.
fn free_pages(value: &[u8]) -> Result<impl Iterator<Item = u64>, Error> {
    let (words, rest) = value.as_chunks::<8>();
    let (count, pages) =
        words.split_first().map(|(count, pages)| (u64::from_le_bytes(*count), pages)).unwrap_or_default();
    if words.is_empty() || !rest.is_empty() || count > pages.len() as u64 {
        return Err(Error::Damaged("a list of free pages is too short".into()));
    }
    Ok(pages[..count as usize].iter().map(|page| u64::from_le_bytes(*page)))
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
