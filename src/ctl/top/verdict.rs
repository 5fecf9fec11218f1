//! One sentence about the server: what becomes of the queues, whether the disk has to do with it, what needs attention.
//!
//! It says what the figures say, with the figures.

use super::super::units::{bytes, count, micros, millis, rate};
use super::view::{Row, View};

/// A queue that grows by less, messages a second, stands still.
const GROWTH_MIN: f64 = 1.0;
/// A queue that grows while its oldest message is younger than this, ms, has a burst, which does not hide one that is in trouble.
const OLD_MS: u64 = 10_000;
/// A put that takes longer is slow, µs: a disk that is not busy needs less.
const SLOW_US: f64 = 10_000.0;
/// Half of `-m` is for messages, and as much for changes that the database does not have yet.
const MEMORY_SHARE_MAX: f64 = 0.48;
/// The rest of the journal is kept for removals.
const JOURNAL_SHARE_MAX: f64 = 0.75;

pub(super) fn verdict(view: &View) -> String {
    let mut said = attention(view);
    said.push(queues(view));
    said.extend(disk(view));
    said.join("; ")
}

/// What somebody has to look at.
fn attention(view: &View) -> Vec<String> {
    let mut said = Vec::new();
    if !view.is_accepting {
        said.push("no connections are accepted for want of files".into());
    }
    if view.rejects {
        said.push(format!("connections are refused above the limit of {}", count(view.connections_max)));
    }
    if view.corrupt > 0 {
        said.push(format!("{} corrupt messages were set aside since the start", count(view.corrupt)));
    }
    let share = |used: u64, of: u64| if of == 0 { 0.0 } else { used as f64 / of as f64 };
    if share(view.journal_used, view.journal_capacity) >= JOURNAL_SHARE_MAX {
        said.push("puts wait until the database has caught up: the journal is full".into());
    } else if share(view.unstored, view.memory_max) >= MEMORY_SHARE_MAX {
        said.push(format!("puts wait until the database has caught up: {} behind", bytes(view.unstored)));
    }
    if share(view.memory, view.memory_max) >= MEMORY_SHARE_MAX {
        said.push("the queues are larger than memory, and messages are read back from the disk".into());
    }
    said
}

fn queues(view: &View) -> String {
    let growth = |row: &Row| row.put_rate - row.get_rate;
    let is_old = |row: &Row| row.oldest_ms.is_some_and(|age_ms| age_ms >= OLD_MS);
    let growing = view.rows.iter().filter(|row| growth(row) >= GROWTH_MIN && row.ready > 0);
    if let Some(row) = growing.max_by(|a, b| is_old(a).cmp(&is_old(b)).then(growth(a).total_cmp(&growth(b)))) {
        let mut text = format!("queue {} grows by {}/s", row.label, rate(growth(row)));
        if row.get_rate == 0.0 {
            text += " and nobody takes from it";
        }
        if let Some(oldest_ms) = row.oldest_ms {
            text += &format!(", oldest {}", millis(oldest_ms));
        }
        return text;
    }
    let Some(largest) = view.rows.iter().max_by_key(|row| row.ready).filter(|row| row.ready > 0) else {
        return "all queues are empty".into();
    };
    let (name, ready) = (&largest.label, count(largest.ready));
    let shrinks = -growth(largest);
    if shrinks >= GROWTH_MIN {
        format!("no queue grows; the largest, {name} with {ready}, shrinks by {}/s", rate(shrinks))
    } else if largest.get_rate == 0.0 {
        format!("no queue grows; nobody takes from the largest, {name} with {ready}")
    } else {
        format!("no queue grows; the largest is {name} with {ready}")
    }
}

/// What the journal's writes have to do with how long puts take. Nothing if there were no puts lately.
fn disk(view: &View) -> Option<String> {
    let (put, write) = (view.put.p99_us?, view.write.p99_us?);
    let figures = format!("journal writes p99 {} of put p99 {}", micros(write), micros(put));
    Some(if put < SLOW_US {
        format!("the disk is not the reason: {figures}")
    } else if write < put / 2.0 {
        format!("puts are slow, and the disk is not the reason: {figures}")
    } else {
        format!("the disk is slow: {figures}")
    })
}

#[cfg(test)]
mod tests {
    use super::super::view::Latency;
    use super::*;

    fn row(name: &str, ready: u64, put_rate: f64, get_rate: f64) -> Row {
        let oldest_ms = (name == "mail").then_some(35_000);
        Row { name: name.into(), label: name.into(), ready, put_rate, get_rate, oldest_ms, waiters: None }
    }

    fn view(put_us: f64, write_us: f64, rows: &[Row]) -> View {
        let p99 = |us| Latency { p50_us: None, p99_us: Some(us) };
        View { is_accepting: true, put: p99(put_us), write: p99(write_us), rows: rows.to_vec(), ..View::default() }
    }

    #[test]
    fn it_names_what_grows_and_what_is_to_blame() {
        let growing = [row("jobs", 9000, 5.0, 5.0), row("mail", 70, 500.0, 380.0)];
        assert_eq!(
            verdict(&view(600.0, 400.0, &growing)),
            "queue mail grows by 120/s, oldest 35 s; the disk is not the reason: journal writes p99 400 us of put p99 600 us"
        );
        let stuck = [row("jobs", 10, 4.0, 0.0)];
        assert_eq!(
            verdict(&view(90_000.0, 80_000.0, &stuck)),
            "queue jobs grows by 4.0/s and nobody takes from it; the disk is slow: journal writes p99 80 ms of put p99 90 ms"
        );
        assert!(verdict(&view(12_000.0, 8600.0, &[])).contains("the disk is slow"));
        assert!(
            verdict(&view(90_000.0, 400.0, &[]))
                .ends_with("puts are slow, and the disk is not the reason: journal writes p99 400 us of put p99 90 ms")
        );
    }

    #[test]
    fn a_burst_does_not_hide_a_queue_that_grows_and_is_old() {
        let burst = Row { oldest_ms: Some(9_999), ..row("burst", 70, 500.0, 1.0) };
        let said = |rows: &[Row]| verdict(&view(600.0, 400.0, rows));
        assert!(said(&[burst.clone(), row("mail", 70, 5.0, 1.0)]).starts_with("queue mail grows by 4.0/s"));
        assert!(said(&[burst, row("mail", 70, 1.0, 1.0)]).starts_with("queue burst grows by 499/s"));
    }

    #[test]
    fn without_growth_it_names_the_largest() {
        for (rows, expected) in [
            (vec![], "all queues are empty"),
            (vec![row("a", 0, 9.0, 0.0)], "all queues are empty"),
            (vec![row("a", 1000, 1.0, 5.0)], "no queue grows; the largest, a with 1,000, shrinks by 4.0/s"),
            (
                vec![row("a", 5, 0.0, 0.0), row("b", 2, 0.0, 0.0)],
                "no queue grows; nobody takes from the largest, a with 5",
            ),
            (vec![row("a", 5, 7.0, 7.0)], "no queue grows; the largest is a with 5"),
        ] {
            let quiet = View { is_accepting: true, rows, ..View::default() };
            assert_eq!(verdict(&quiet), expected, "and nothing about the disk without puts");
        }
    }

    #[test]
    fn it_says_first_what_needs_attention() {
        let bad = View {
            is_accepting: false,
            rejects: true,
            connections_max: 1024,
            corrupt: 2,
            journal_used: 8,
            journal_capacity: 10,
            unstored: 49 << 20,
            memory: 49 << 20,
            memory_max: 100 << 20,
            ..View::default()
        };
        let said = verdict(&bad);
        for words in ["for want of files", "limit of 1,024", "2 corrupt", "the journal is full", "larger than memory"] {
            assert!(said.contains(words), "{words} is not in: {said}");
        }
        assert!(said.ends_with("all queues are empty"), "{said}");
        let behind = verdict(&View { journal_used: 7, ..bad });
        assert!(behind.contains("49 MiB behind"), "{behind}");
    }
}
