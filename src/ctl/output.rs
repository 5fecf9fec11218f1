//! What subcommands write to standard output: text, tables, JSON. A failed write is a failure of the subcommand.

use std::io::{self, Write};

use serde_json::Value;

use super::exit::{Failure, Outcome};

/// Rows as lines, columns under each other.
pub(super) fn table<const N: usize>(rows: Vec<[String; N]>) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// Rows as lines, columns under each other: the first `left` of them start at the same place, the others, which are numbers, end there.
pub(super) fn numbers(rows: &[Vec<String>], left: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(at, (cell, &width))| match at < left {
            true => format!("{cell:width$}"),
            false => format!("{cell:>width$}"),
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// The cells of a row.
pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(String::from).into()
}

/// A name as text. What is no UTF-8, or could steer a terminal, is escaped.
pub(super) fn shown(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) if !text.chars().any(char::is_control) => text.into(),
        _ => name.escape_ascii().to_string(),
    }
}

pub(super) fn line(value: &Value) -> String {
    format!("{value}\n")
}

pub(super) fn print(text: String) -> Result<Outcome, Failure> {
    write(text.as_bytes())?;
    Ok(Outcome::Done)
}

pub(super) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let rows = vec![["QUEUE", "PUTS"].map(String::from), ["é", "10"].map(String::from)];
        assert_eq!(table(rows), "QUEUE  PUTS\né      10\n");
    }

    #[test]
    fn numbers_end_under_each_other() {
        let rows = [row(["WHAT", "N", "MAX"]), row(["put", "100", "7"])];
        assert_eq!(numbers(&rows, 1), "WHAT    N  MAX\nput   100    7\n");
    }

    #[test]
    fn names_cannot_steer_a_terminal() {
        assert_eq!(shown("café".as_bytes()), "café");
        assert_eq!(shown(b"\x1b[2J"), "\\x1b[2J");
        assert_eq!(shown("\u{9b}2J".as_bytes()), "\\xc2\\x9b2J");
        assert_eq!(shown(b"\xff"), "\\xff");
    }
}
