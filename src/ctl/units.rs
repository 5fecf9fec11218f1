//! Numbers for people: grouped digits, sizes, spans of time. What is for programs is JSON, with plain numbers.

/// With a comma between thousands.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// So many a second: small numbers with a decimal.
pub(super) fn rate(n: f64) -> String {
    if n >= 9.95 { count(n.round() as u64) } else { format!("{:.1}", n.max(0.0)) }
}

/// Bytes, in the largest unit that leaves at least one.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut size = n as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if size < 10.0 { format!("{size:.1} {}", UNITS[unit]) } else { format!("{size:.0} {}", UNITS[unit]) }
}

/// A latency that was measured in microseconds.
pub(super) fn micros(us: f64) -> String {
    match us {
        ..1_000.0 => format!("{us:.0} us"),
        ..10_000.0 => format!("{:.1} ms", us / 1e3),
        ..1_000_000.0 => format!("{:.0} ms", us / 1e3),
        ..60_000_000.0 => format!("{:.1} s", us / 1e6),
        _ => seconds((us / 1e6) as u64),
    }
}

/// An age or an uptime: the two largest units.
pub(super) fn seconds(s: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)];
    let at = UNITS.iter().position(|(_, size)| s >= *size).unwrap_or(UNITS.len() - 1);
    let (unit, size) = UNITS[at];
    let first = format!("{} {unit}", s / size);
    match UNITS.get(at + 1) {
        Some((unit, smaller)) if s % size >= *smaller => format!("{first} {} {unit}", s % size / smaller),
        _ => first,
    }
}

/// An age: below a second with a decimal.
pub(super) fn millis(ms: u64) -> String {
    if ms < 10_000 { format!("{:.1} s", ms as f64 / 1e3) } else { seconds(ms / 1000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_from_the_right() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567"), (100_000, "100,000")] {
            assert_eq!(count(n), text);
        }
        for (n, text) in [(0.0, "0.0"), (9.94, "9.9"), (9.96, "10"), (1234.5, "1,235"), (-1.0, "0.0")] {
            assert_eq!(rate(n), text);
        }
    }

    #[test]
    fn sizes_and_times_are_in_units_that_fit() {
        for (n, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (64 << 20, "64 MiB"), (5 << 50, "5120 TiB")]
        {
            assert_eq!(bytes(n), text);
        }
        for (us, text) in
            [(400.0, "400 us"), (1500.0, "1.5 ms"), (80_000.0, "80 ms"), (2.5e6, "2.5 s"), (9e7, "1 min 30 s")]
        {
            assert_eq!(micros(us), text);
        }
        for (s, text) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3661, "1 h 1 min"), (90_000, "1 d 1 h"), (86_405, "1 d")]
        {
            assert_eq!(seconds(s), text);
        }
        assert_eq!((millis(300), millis(35_200)), ("0.3 s".into(), "35 s".into()));
    }
}
