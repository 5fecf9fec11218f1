//! `STAT` lines as a value: looked up by name, or as JSON.

use serde_json::{Map, Number, Value};

use crate::client::Stat;

use super::output::shown;

/// The lines of one answer, in the server's order.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer(pub(super) Vec<Stat>);

impl Answer {
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|stat| stat.name == name.as_bytes()).map(|stat| &*stat.value)
    }

    /// A number; `None`: there is no such line, or it holds something else.
    pub(super) fn number(&self, name: &str) -> Option<f64> {
        self.text(name)?.parse().ok()
    }

    /// A whole number, 0 if there is none.
    pub(super) fn count(&self, name: &str) -> u64 {
        self.text(name).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// One object, a field for each line.
    pub(super) fn flat(&self) -> Value {
        Value::Object(self.0.iter().map(|stat| (shown(&stat.name), value(&stat.value))).collect())
    }

    /// One object, with an object inside for each beginning of names up to a dot.
    pub(super) fn nested(&self) -> Value {
        let mut all = Map::new();
        for stat in &self.0 {
            let name = shown(&stat.name);
            insert(&mut all, &name, value(&stat.value));
        }
        Value::Object(all)
    }
}

/// Puts a value where its name says.
fn insert(object: &mut Map<String, Value>, name: &str, value: Value) {
    let Some((first, rest)) = name.split_once('.') else {
        object.insert(name.into(), value);
        return;
    };
    // A name that is also the beginning of another would lose its own value: the server has none such.
    match object.entry(first).or_insert_with(|| Value::Object(Map::new())) {
        Value::Object(inner) => insert(inner, rest, value),
        other => *other = value,
    }
}

/// A number if it looks like one.
pub(super) fn value(text: &str) -> Value {
    if let Ok(number) = text.parse::<u64>() {
        return number.into();
    }
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number = is_decimal.then(|| text.parse::<f64>().ok()).flatten().and_then(Number::from_f64);
    number.map_or_else(|| text.into(), Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(lines: &[(&str, &str)]) -> Answer {
        let stat = |(name, value): &(&str, &str)| Stat { name: name.as_bytes().into(), value: (*value).into() };
        Answer(lines.iter().map(stat).collect())
    }

    #[test]
    fn numbers_are_numbers_and_the_rest_is_text() {
        let flat =
            answer(&[("pid", "7"), ("rate", "1.5"), ("version", "1.0.0"), ("inter", ""), ("size", "1e3")]).flat();
        assert_eq!(flat, json!({ "pid": 7, "rate": 1.5, "version": "1.0.0", "inter": "", "size": "1e3" }));
    }

    #[test]
    fn names_with_dots_are_objects() {
        let nested =
            answer(&[("records", "1"), ("put.10s.p50", "2"), ("put.10s.p99", "3"), ("put.1m.p50", "4")]).nested();
        assert_eq!(nested, json!({ "records": 1, "put": { "10s": { "p50": 2, "p99": 3 }, "1m": { "p50": 4 } } }));
    }
}
