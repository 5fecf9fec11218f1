//! What the configuration file says of queues: `[queue]` of all, `[queues."PATTERN"]` of those whose names match.
//!
//! Invariant: an error names the table and the key.

use crate::proto::options::split;
use crate::queue::{Defaults, Explicit};
use toml::{Table, Value};

/// Takes both tables out of a file.
///
/// # Errors
/// What is wrong with them.
pub(super) fn take(file: &mut Table) -> Result<Defaults, String> {
    let all = match file.remove("queue") {
        None => Explicit::default(),
        Some(value) => settings("*", table_of("queue", value)?).map_err(|problem| format!("[queue] {problem}"))?,
    };
    let mut patterns = Vec::new();
    if let Some(value) = file.remove("queues") {
        for (pattern, value) in table_of("queues", value)? {
            let named = format!("queues.{pattern:?}");
            let is_name = matches!(split(pattern.as_bytes()), Ok((_, b""))) && !pattern.contains(' ');
            if !is_name {
                return Err(format!("[{named}] is no pattern of queue names: allowed are their bytes, and *"));
            }
            let of = settings(&pattern, table_of(&named, value)?).map_err(|problem| format!("[{named}] {problem}"))?;
            patterns.push((Box::from(pattern.as_bytes()), of));
        }
    }
    Ok(Defaults::new(all, patterns))
}

fn table_of(name: &str, value: Value) -> Result<Table, String> {
    match value {
        Value::Table(table) => Ok(table),
        other => Err(format!("`{name}` is a table, written [{name}], not a {}", other.type_str())),
    }
}

fn settings(pattern: &str, table: Table) -> Result<Explicit, String> {
    let mut explicit = Explicit::default();
    for (key, value) in table {
        let text = match value {
            Value::String(text) => text,
            Value::Integer(number) => number.to_string(),
            Value::Boolean(true) => "on".to_owned(),
            Value::Boolean(false) => "off".to_owned(),
            other => return Err(format!("`{key}` cannot be a {}", other.type_str())),
        };
        let set = explicit.set_value(pattern.as_bytes(), key.as_bytes(), text.as_bytes());
        set.map_err(|invalid| invalid.to_string())?;
    }
    Ok(explicit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Defaults, String> {
        let mut table = text.parse().unwrap();
        let defaults = take(&mut table)?;
        assert!(table.is_empty(), "{table}");
        Ok(defaults)
    }

    #[test]
    fn tables_say_what_queues_do() {
        let defaults = read(
            "[queue]\nmax_age = '30d'\n[queues.'orders-*']\nmax_messages = 1000\nwhen_full = 'drop_oldest'\n\
             groups_only = true\n[queues.orders-eu]\nmax_age = 60\n",
        )
        .unwrap();
        let eu = defaults.of(b"orders-eu");
        assert_eq!((eu.max_age_s, eu.max_messages, eu.drop_oldest, eu.groups_only), (60, 1000, true, true));
        assert_eq!((defaults.of(b"mail").max_age_s, defaults.of(b"mail").max_messages), (2_592_000, 0));
        assert!(read("").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_table() {
        for (text, parts) in [
            ("queue = 1", ["`queue`", "not a integer"]),
            ("queues.a = 1", ["queues.\"a\"", "not a integer"]),
            ("[queue]\nfoo = 1", ["[queue]", "unknown setting foo"]),
            ("[queue]\nmax_age = 'soon'", ["[queue]", "bad value for max_age: soon"]),
            ("[queue]\nmax_age = 1.5", ["[queue]", "`max_age` cannot be a float"]),
            ("[queues.'a/b']\nmax_age = 1", ["[queues.\"a/b\"]", "no pattern"]),
            ("[queues.'a b']\nmax_age = 1", ["[queues.\"a b\"]", "no pattern"]),
            ("[queues.'a*']\nmax_age = -1", ["[queues.\"a*\"]", "bad value for max_age: -1"]),
            ("[queues.a]\nexpire_to = 'a'", ["[queues.\"a\"]", "it is the queue itself"]),
        ] {
            let problem = read(text).unwrap_err();
            assert!(parts.iter().all(|part| problem.contains(part)), "{text}: {problem}");
        }
    }
}
