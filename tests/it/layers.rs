//! The source keeps to its layers: what may be named where, how long a file may be, where `unsafe` may stand.
//!
//! It reads files, not types: comments and literals are taken out, and a name counts wherever it stands, in tests too. So that a
//! path cannot hide in a brace, `use` of `std` and `crate` is written one module a line.

use std::fs;
use std::path::{Path, PathBuf};

/// No I/O, clock, thread or unsafe in here; docs/ARCHITECTURE.md says why.
const PURE: [&str; 11] =
    ["proto", "session", "queue", "engine", "stats", "latency", "mutation", "ids", "message_set", "limits", "clock"];

/// What pure code may not name.
const IMPURE_NAMES: [&str; 10] = [
    "std::net",
    "std::fs",
    "std::thread",
    "std::process",
    "Instant::now",
    "SystemTime",
    "unsafe",
    "io_uring",
    "heed",
    "rustix",
];

/// Modules of this crate that pure code may not name. The values that cross the store's boundary are not among them.
const IMPURE_MODULES: [&str; 19] = [
    "admin",
    "ring",
    "listen",
    "store::lmdb",
    "store::thread",
    "store::directory",
    "journal",
    "durability",
    "shard",
    "server",
    "udp",
    "mailbox",
    "host",
    "log",
    "config",
    "daemon",
    "client",
    "ctl",
    "bin",
];

/// Where `unsafe` may stand.
const UNSAFE_FILES: [&str; 10] = [
    "bench/loadgen/process.rs",
    "src/daemon/background.rs",
    "src/daemon/bus_error.rs",
    "src/host.rs",
    "src/listen/activation.rs",
    "src/ring/buffers.rs",
    "src/ring/mod.rs",
    "src/ring/tests.rs",
    "src/store/lmdb.rs",
    "tests/it/lifecycle.rs",
];

/// Where each of them is explained.
const UNSAFE_INVENTORY: &str = "docs/SECURITY.md";

const FILE_LINES_MAX: usize = 800;

#[test]
fn pure_modules_name_nothing_impure() {
    let mut seen = Vec::new();
    for file in rust_files(&["src"]) {
        let Some(module) = PURE.into_iter().find(|module| file.is_in(module)) else {
            continue;
        };
        seen.push(module);
        for name in IMPURE_NAMES {
            assert!(!names(&file.code, name), "{} names {name}, but {module} is pure", file.path);
        }
        for name in IMPURE_MODULES {
            assert!(!file.names_module(name), "{} names {name}, but {module} is pure", file.path);
        }
        assert!(
            module == "engine" || !file.names_module("store"),
            "{} names the store; only the engine may",
            file.path
        );
    }
    for module in PURE {
        assert!(seen.contains(&module), "there is no module {module} any more: this test looks at nothing");
    }
}

#[test]
fn io_uring_is_used_by_the_ring_and_lmdb_by_the_store() {
    for (name, owner) in [("io_uring", "ring"), ("heed", "store")] {
        let users: Vec<File> = rust_files(&["src"]).into_iter().filter(|file| names(&file.code, name)).collect();
        assert!(!users.is_empty(), "nothing uses {name}: this test looks for the wrong name");
        for file in users {
            assert!(file.is_in(owner), "{} names {name}, which is for {owner} only", file.path);
        }
    }
}

#[test]
fn ring_and_store_know_neither_each_other_nor_the_engine() {
    for file in rust_files(&["src"]) {
        let forbidden: &[&str] = match () {
            () if file.is_in("ring") => &["store", "engine", "shard", "server"],
            () if file.is_in("store") => &["ring", "engine", "shard", "server"],
            () => &[],
        };
        for name in forbidden {
            assert!(!file.names_module(name), "{} names {name}", file.path);
        }
    }
}

#[test]
fn paths_are_written_so_that_they_can_be_checked() {
    for file in rust_files(&["src"]) {
        for hidden in ["use std::{", "use crate::{", "use ::"] {
            assert!(!file.code.contains(hidden), "{}: `{hidden}` hides modules from this test", file.path);
        }
    }
}

#[test]
fn unsafe_stands_only_where_it_is_expected() {
    for file in rust_files(&["src", "bench", "tests"]) {
        let expected = UNSAFE_FILES.contains(&&*file.path);
        assert_eq!(names(&file.code, "unsafe"), expected, "{}: unsafe (left) or expected to be (right)", file.path);
    }
    for path in UNSAFE_FILES {
        assert!(root().join(path).is_file(), "{path} is gone: take it off the list");
    }
}

#[test]
fn every_file_with_unsafe_is_explained_and_no_other() {
    let text = fs::read_to_string(root().join(UNSAFE_INVENTORY)).expect("read the inventory");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let mut explained = Vec::new();
    for (path, rest) in rows.filter(|(path, _)| path.ends_with(".rs")) {
        let cells: Vec<&str> = rest.trim_end_matches(" |").split(" | ").collect();
        assert!(cells.len() == 2 && cells.iter().all(|cell| !cell.is_empty()), "{path}: why, and what keeps it sound");
        explained.push(path);
    }
    explained.sort_unstable();
    assert_eq!(explained, UNSAFE_FILES, "the table in {UNSAFE_INVENTORY} (left)");
}

#[test]
fn files_can_be_read_in_one_sitting() {
    // Cargo writes it, and nobody reads it.
    for path in files(&["src", "bench", "tests"]).into_iter().filter(|path| !path.ends_with("Cargo.lock")) {
        let lines = fs::read(&path).expect("read a source").iter().filter(|byte| **byte == b'\n').count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines, above {FILE_LINES_MAX}", path.display());
    }
}

#[test]
fn files_say_first_what_they_are() {
    for file in rust_files(&["src", "bench", "tests"]) {
        assert!(file.text.starts_with("//! "), "{} does not start with a header", file.path);
    }
}

#[test]
fn comments_and_literals_are_no_code() {
    let source = concat!(
        "//! unsafe\nfn f<'a>(x: &'a str) { /* unsafe /* nested */ unsafe */\n",
        r##"let _ = ("unsafe \" unsafe", r#"unsafe " unsafe"#, b"unsafe", '"', '\'', b'"', '\\'); // unsafe"##,
        "\nheed::open(); }"
    );
    let code = code_of(source);
    assert!(!names(&code, "unsafe"), "{code}");
    assert!(names(&code, "heed"), "{code}");
}

#[test]
fn names_are_whole_words() {
    assert!(names("use crate::ring;", "crate::ring"));
    assert!(names("unsafe { }", "unsafe"));
    assert!(!names("use crate::ringlet;", "crate::ring"));
    assert!(!names("use tokio_uring::net;", "io_uring"));
    assert!(!names("fn unshare_unsafe()", "unsafe"));
}

/// A source file.
struct File {
    /// From the top of the repository.
    path: String,
    text: String,
    /// `text` without comments and literals.
    code: String,
}

impl File {
    /// Whether it belongs to a module of `src`.
    fn is_in(&self, module: &str) -> bool {
        let inside = self.path.strip_prefix("src/").and_then(|path| path.strip_prefix(module));
        inside.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    }

    /// Whether it names a module of the crate, from the top or from where it stands.
    fn names_module(&self, module: &str) -> bool {
        names(&self.code, &format!("crate::{module}")) || names(&self.code, &format!("super::{module}"))
    }
}

fn rust_files(directories: &[&str]) -> Vec<File> {
    let paths = files(directories).into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("read a source");
        let path = path.strip_prefix(root()).expect("below the root").to_str().expect("a readable path").to_owned();
        File { path, code: code_of(&text), text }
    };
    let files: Vec<File> = paths.map(read).collect();
    assert!(files.len() > 3, "there are sources in {directories:?}");
    files
}

/// All files below these directories that are kept with the source.
fn files(directories: &[&str]) -> Vec<PathBuf> {
    let mut pending: Vec<PathBuf> = directories.iter().map(|directory| root().join(directory)).collect();
    let mut files = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
            let path = entry.expect("read a directory").path();
            if !path.is_dir() {
                files.push(path);
            } else if !path.ends_with("__pycache__") {
                pending.push(path);
            }
        }
    }
    files.sort();
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether `name` stands in `code`, not as a part of a longer word.
fn names(code: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + name.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// Rust source with comments and the contents of literals left out.
fn code_of(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let (kept, skipped) = match first {
            '/' if rest.starts_with("//") => ("", rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => (" ", block_comment_size(rest)),
            '"' => ("\"\"", string_size(rest)),
            'r' if is_raw_string(rest) && !code.ends_with(|c: char| c.is_alphanumeric() && c != 'b') => {
                ("\"\"", raw_string_size(rest))
            }
            '\'' => char_literal_size(rest).map_or(("'", 1), |size| ("' '", size)),
            _ => (&rest[..first.len_utf8()], first.len_utf8()),
        };
        code.push_str(kept);
        rest = &rest[skipped..];
    }
    code
}

fn block_comment_size(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    panic!("a comment without an end");
}

fn string_size(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

fn is_raw_string(text: &str) -> bool {
    text[1..].trim_start_matches('#').starts_with('"')
}

fn raw_string_size(text: &str) -> usize {
    let hashes = text[1..].bytes().take_while(|byte| *byte == b'#').count();
    let end = format!("\"{}", "#".repeat(hashes));
    let start = 1 + hashes + 1;
    start + text[start..].find(&end).expect("a raw string has an end") + end.len()
}

/// Size of a character literal; none if the quote begins a lifetime.
fn char_literal_size(text: &str) -> Option<usize> {
    let inside = &text[1..];
    if inside.starts_with('\\') {
        return Some(1 + 2 + inside[2..].find('\'')? + 1);
    }
    let first = inside.chars().next()?.len_utf8();
    inside[first..].starts_with('\'').then_some(1 + first + 1)
}
