//! What a line of the log looks like: text for people, JSON for programs, and for the journal a priority in front.
//!
//! Invariant: a message is one line and cannot do anything to a terminal, whatever was in it.

use crate::config::LogFormat;
use rustix::fs::fstat;
use std::fmt;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{self, Format, FormatEvent, FormatFields, Json, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

/// Longest part of what a client sent that is shown, bytes.
const SHOWN_SIZE_MAX: usize = 1024;

/// Makes lines of events.
pub(super) struct Lines {
    format: LogFormat,
    /// systemd's journal reads the lines: it has the time, and takes the level from `<N>` in front.
    is_journal: bool,
    json: Format<Json>,
}

impl Lines {
    pub fn new(format: LogFormat, is_journal: bool) -> Lines {
        let json = format::format().json().flatten_event(true).with_current_span(false).with_span_list(false);
        Lines { format, is_journal, json }
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = event.metadata().level();
        if self.is_journal {
            write!(out, "<{}>", priority(level))?;
        }
        if self.format == LogFormat::Json {
            return self.json.format_event(ctx, out, event);
        }
        if !self.is_journal {
            SystemTime.format_time(&mut out)?;
            write!(out, " {level:>5} ")?;
        }
        ctx.format_fields(Writer::new(&mut OneLine(&mut out)), event)?;
        writeln!(out)
    }
}

/// As syslog counts.
fn priority(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Escapes what would end the line or steer a terminal.
struct OneLine<'a, 'w>(&'a mut Writer<'w>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(char::is_control) {
            let control = piece.chars().next_back().filter(|c| c.is_control());
            let plain = &piece[..piece.len() - control.map_or(0, char::len_utf8)];
            self.0.write_str(plain)?;
            if let Some(control) = control {
                write!(self.0, "{}", control.escape_default())?;
            }
        }
        Ok(())
    }
}

/// What a client sent, for a line of the log: everything that is not printable ASCII is escaped, and what is long is cut.
pub fn shown(bytes: &[u8]) -> String {
    match bytes.len().checked_sub(SHOWN_SIZE_MAX) {
        None | Some(0) => bytes.escape_ascii().to_string(),
        Some(more) => format!("{}... and {more} bytes more", bytes[..SHOWN_SIZE_MAX].escape_ascii()),
    }
}

/// Whether standard error goes to systemd's journal: it tells its services which file that is, as device and inode.
pub(super) fn is_journal() -> bool {
    let (Ok(stream), Ok(stderr)) = (std::env::var("JOURNAL_STREAM"), fstat(std::io::stderr())) else {
        return false;
    };
    stream == format!("{}:{}", stderr.st_dev, stderr.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    #[test]
    fn a_line_stays_one_line_and_plain() {
        let mut text = String::new();
        let mut writer = Writer::new(&mut text);
        OneLine(&mut writer).write_str("a\nb\r\x1b[31mc\u{9b}d\u{7f} \u{e9}\\").unwrap();
        assert_eq!(text, "a\\nb\\r\\u{1b}[31mc\\u{9b}d\\u{7f} \u{e9}\\");
    }

    #[test]
    fn what_clients_send_is_escaped_and_cut() {
        assert_eq!(shown(b"get a\x00\n\x1b\xff\\"), "get a\\x00\\n\\x1b\\xff\\\\");
        let long = shown(&[b'x'; SHOWN_SIZE_MAX + 7]);
        assert!(long.starts_with("xxx") && long.ends_with("xxx... and 7 bytes more"), "{long}");
        assert_eq!(shown(&[b'x'; SHOWN_SIZE_MAX]).len(), SHOWN_SIZE_MAX);
    }
}
