//! docs/OPERATIONS.md against the source: every line that the server logs at warn or error stands in its table, and so does every
//! signal and what a reload changes.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn operations() -> String {
    fs::read_to_string(root().join("docs/OPERATIONS.md")).expect("read the handbook")
}

fn sources(directory: PathBuf, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(&directory).expect("read a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => sources(path, found),
            false if path.extension().is_some_and(|it| it == "rs") => found.push(path),
            false => {}
        }
    }
}

/// What stands between the parenthesis that `text` begins with and its partner.
fn argument(text: &str) -> &str {
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            '(' if !in_string => depth += 1,
            ')' if !in_string => {
                depth -= 1;
                if depth == 0 {
                    return &text[1..at];
                }
            }
            _ => {}
        }
    }
    panic!("a call without an end: {text:.100}")
}

/// The string literals in it, put together as the compiler does.
fn literals(code: &str) -> String {
    let mut all = String::new();
    let mut rest = code;
    while let Some(start) = rest.find('"') {
        rest = &rest[start + 1..];
        let end = rest.char_indices().find(|(at, c)| *c == '"' && !rest[..*at].ends_with('\\')).expect("an end").0;
        let lines: Vec<&str> = rest[..end].split("\\\n").map(str::trim_start).collect();
        all += &lines.concat();
        all.push('\n');
        rest = &rest[end + 1..];
    }
    all
}

/// The texts of everything that is logged at warn or error, each with its place.
fn log_lines() -> Vec<(String, String)> {
    let mut files = Vec::new();
    sources(root().join("src"), &mut files);
    let mut lines = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).expect("read a source");
        let text = text.split("#[cfg(test)]").next().expect("something");
        let place = path.strip_prefix(root()).expect("below the root").display().to_string();
        let calls =
            ["tracing::warn!", "tracing::error!", "complain(Level::WARN", "complain(Level::ERROR", "log::fatal"];
        for call in calls {
            for (at, _) in text.match_indices(call) {
                let open = at + text[at..].find('(').expect("a call");
                lines.push((place.clone(), literals(argument(&text[open..]))));
            }
        }
    }
    lines
}

/// The second column of the table of log lines: phrases, with words in capitals for what varies.
fn phrases() -> Vec<String> {
    let text = operations();
    let rows = text.lines().filter(|line| line.starts_with("| warn |") || line.starts_with("| error |"));
    let cell = |row: &str| row.split(" | ").nth(1).expect("a second column").to_owned();
    rows.flat_map(|row| cell(row).split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn says(line: &str, phrase: &str) -> bool {
    let varies = |word: &str| word.trim_end_matches(':').chars().all(|c| c.is_ascii_uppercase());
    let pieces = phrase.split(' ').collect::<Vec<_>>();
    pieces.split(|word| varies(word)).filter(|piece| !piece.is_empty()).all(|piece| line.contains(&piece.join(" ")))
}

#[test]
fn every_warning_and_error_is_explained() {
    let (lines, phrases) = (log_lines(), phrases());
    assert!(lines.len() > 20 && phrases.len() > 20, "{} lines, {} phrases", lines.len(), phrases.len());
    let mut missing = Vec::new();
    for (place, line) in &lines {
        // What only passes an error on has no words of its own.
        let has_words = line.chars().filter(|c| c.is_alphabetic()).count() > 10;
        if has_words && !phrases.iter().any(|phrase| says(line, phrase)) {
            missing.push(format!("{place}: {line}"));
        }
    }
    assert!(missing.is_empty(), "not in the table: {missing:#?}");
}

#[test]
fn every_explanation_is_of_a_line_that_there_is() {
    let lines = log_lines();
    let mut files = Vec::new();
    sources(root().join("src"), &mut files);
    let source: String = files.iter().map(|path| literals_of_file(path)).collect();
    for phrase in phrases() {
        assert!(lines.iter().any(|(_, line)| says(line, &phrase)) || says(&source, &phrase), "nothing logs: {phrase}");
    }
}

/// A source with its broken string literals put together.
fn literals_of_file(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("read a source");
    text.split("\\\n").map(str::trim_start).collect()
}
