//! `/debug/hgrm`: one latency histogram in the text form of HdrHistogram's tools, values in milliseconds.

use crate::latency::{Metric, Window};
use hdrhistogram::Histogram;
use std::fmt::Write;

/// Steps in each half of the distance to 100 %, as those tools print them.
const TICKS_PER_HALF: u32 = 5;
const US_PER_MS: f64 = 1000.0;

/// Which histogram is asked for: `metric=put&window=total`, which are the defaults.
///
/// # Errors
/// The parameter whose value cannot be, and what may stand there.
pub(super) fn parse(query: &str) -> Result<(Metric, Window), String> {
    let (mut metric, mut window) = (Metric::Put, Window::Total);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "metric" => {
                let found = Metric::ALL.into_iter().find(|metric| metric.name() == value);
                metric =
                    found.ok_or_else(|| format!("metric: allowed are {}", Metric::ALL.map(Metric::name).join(", ")))?;
            }
            "window" => {
                let found = Window::ALL.into_iter().find(|window| window.name() == value);
                window =
                    found.ok_or_else(|| format!("window: allowed are {}", Window::ALL.map(Window::name).join(", ")))?;
            }
            _ => {}
        }
    }
    Ok((metric, window))
}

/// The text; of nothing, if nothing was recorded.
pub(super) fn text(histogram: Option<&Histogram<u64>>) -> String {
    let empty = Histogram::new(2).expect("two digits are allowed");
    let histogram = histogram.unwrap_or(&empty);
    let mut out = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut count = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF) {
        count += step.count_since_last_iteration();
        let (value, quantile) = (step.value_iterated_to() as f64 / US_PER_MS, step.quantile_iterated_to());
        let _ = write!(out, "{value:12.3} {quantile:1.12} {count:10}");
        let _ = if quantile < 1.0 { writeln!(out, " {:14.2}", 1.0 / (1.0 - quantile)) } else { writeln!(out) };
    }
    let (mean, deviation) = (histogram.mean() / US_PER_MS, histogram.stdev() / US_PER_MS);
    let _ = writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
    let _ = writeln!(
        out,
        "#[Max     = {:12.3}, Total count    = {:12}]",
        histogram.max() as f64 / US_PER_MS,
        histogram.len()
    );
    let _ = writeln!(out, "#[Buckets = {:12}, SubBuckets     = {:12}]", histogram.buckets(), 256);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_has_all_values() {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 1_000_000, 2).unwrap();
        (1..=1000).for_each(|us| histogram.record(us).unwrap());
        let text = text(Some(&histogram));
        let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        let fields: Vec<&str> = last.split_whitespace().collect();
        assert_eq!(fields[1..], ["1.000000000000", "1000"], "{text}");
        assert!(text.contains("Total count    =         1000]"), "{text}");
    }

    #[test]
    fn an_empty_histogram_has_a_text() {
        assert!(text(None).contains("Total count    =            0]"));
    }

    #[test]
    fn metrics_and_windows_are_known_by_their_names() {
        assert_eq!(parse(""), Ok((Metric::Put, Window::Total)));
        assert_eq!(parse("window=5m&metric=journal_write"), Ok((Metric::Write, Window::FiveMinutes)));
        assert!(parse("metric=x").unwrap_err().contains("journal_write"));
        assert!(parse("window=x").unwrap_err().contains("10s"));
    }
}
