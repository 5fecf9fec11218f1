//! One frame of `top`: the header, a sentence, the queues, the keys. The same on a terminal and as plain text.
//!
//! Invariant: it fits 80 columns and 24 lines, and draws on anything larger or smaller without failing.

use ratatui::Frame;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Clear, Paragraph, Row as TableRow, Table, Wrap};

use super::super::units::{bytes, count, micros, millis, rate, seconds};
use super::screen::{Mode, Screen};
use super::view::{Latency, Order, Row, View, arrange, visible};

/// Lines of the header, of the sentence, of the head of the table and of the keys.
const AROUND: [u16; 4] = [4, 2, 1, 1];

const HELP: &str = "\
r i o a n  sort by ready, in, out, age of the oldest
           message, name; again: the other way round
/          show only queues whose name contains a text;
           Enter keeps it, Escape drops it
Up Down PageUp PageDown Home End   move
p          pause and go on
q          quit

IN/s and OUT/s are counted between two looks at the
server. READY, OLDEST and WAITING of queues that were
never visible are not asked for.";

/// How many queues a frame of this height shows.
pub(super) fn rows_of(height: u16) -> usize {
    usize::from(height.saturating_sub(AROUND.iter().sum())).max(1)
}

/// How high a frame is that shows so many queues.
fn height_of(rows: usize) -> u16 {
    u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(AROUND.iter().sum())
}

pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let [header, sentence, table, keys] = Layout::vertical([
        Constraint::Length(AROUND[0]),
        Constraint::Length(AROUND[1]),
        Constraint::Min(AROUND[2]),
        Constraint::Length(AROUND[3]),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(head(screen)), header);
    let said = match (screen.silence(), &screen.view) {
        (Some(silence), _) => Text::from(silence).fg(Color::Red),
        (None, Some(view)) => Text::from(view.verdict()).add_modifier(Modifier::BOLD),
        (None, None) => Text::from("asking the server …"),
    };
    frame.render_widget(Paragraph::new(said).wrap(Wrap { trim: true }), sentence);
    if let Some(view) = &screen.view {
        draw_queues(frame, table, view, screen);
    }
    frame.render_widget(Paragraph::new(foot(screen)), keys);
    if screen.mode == Mode::Help {
        let text = Text::from(HELP);
        let area = centred(frame.area(), text.width() as u16 + 4, text.height() as u16 + 2);
        frame.render_widget(Clear, area);
        frame.render_widget(Paragraph::new(text).block(Block::bordered().title(" keys; any of them goes back ")), area);
    }
}

fn centred(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height }
}

fn head(screen: &Screen) -> Vec<Line<'static>> {
    let mut first = format!("ringqctl top  {}", screen.server);
    let Some(view) = &screen.view else {
        return vec![Line::from(first).bold()];
    };
    first +=
        &format!("  RingQ {}  up {}  every {:.1} s", view.version, seconds(view.uptime_s), screen.delay.as_secs_f64());
    let mut first = Line::from(first).bold();
    if screen.is_paused {
        first.push_span(Span::from("  PAUSED").fg(Color::Yellow));
    }
    let per_second = |n: Option<f64>| n.map_or("-".into(), rate);
    let figure = |us: Option<f64>| us.map_or("-".into(), micros);
    let both = |Latency { p50_us, p99_us }: Latency| format!("p50 {} p99 {}", figure(p50_us), figure(p99_us));
    let share = |used: u64, of: u64| (100 * used).checked_div(of).unwrap_or_default();
    vec![
        first,
        Line::from(format!(
            "puts {}/s  gets {}/s  ready {}  queues {}  connections {}, {} wait",
            per_second(view.put_rate),
            per_second(view.get_rate),
            count(view.ready),
            count(view.rows.len() as u64),
            count(view.connections),
            count(view.waiters),
        )),
        Line::from(format!(
            "put {}  get {}  memory {} of {}",
            both(view.put),
            both(view.get),
            bytes(view.memory),
            bytes(view.memory_max),
        )),
        Line::from(format!(
            "journal write p99 {}  commit p99 {}  journal {} %  checkpoints {}",
            figure(view.write.p99_us),
            figure(view.commit.p99_us),
            share(view.journal_used, view.journal_capacity),
            count(view.checkpoints),
        )),
    ]
}

fn draw_queues(frame: &mut Frame<'_>, area: Rect, view: &View, screen: &Screen) {
    let arranged = arrange(&view.rows, &screen.settings);
    let number = |text: String| Text::from(text).right_aligned();
    let row = |row: &&Row| {
        TableRow::new([
            Text::from(row.label.clone()),
            number(count(row.ready)),
            number(rate(row.put_rate)),
            number(rate(row.get_rate)),
            number(row.oldest_ms.map_or("-".into(), millis)),
            number(row.waiters.map_or("-".into(), count)),
        ])
    };
    let rows = visible(&arranged, &screen.settings).iter().map(row);
    let widths = [
        Constraint::Min(16),
        Constraint::Length(13),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(10),
        Constraint::Length(7),
    ];
    let [name, rest @ ..] = ["QUEUE", "READY", "IN/s", "OUT/s", "OLDEST", "WAITING"];
    let header = std::iter::once(Text::from(name)).chain(rest.into_iter().map(|text| number(text.into())));
    let header = TableRow::new(header).style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_widget(Table::new(rows, widths).header(header).column_spacing(1), area);
}

fn foot(screen: &Screen) -> Line<'static> {
    if let Mode::Filter(text) = &screen.mode {
        return Line::from(format!("show names with: {text}_"));
    }
    let order = match screen.settings.order {
        Order::Ready => "ready",
        Order::In => "in",
        Order::Out => "out",
        Order::Oldest => "oldest",
        Order::Name => "name",
    };
    let reversed = if screen.settings.reversed { ", reversed" } else { "" };
    let mut text = format!("q quit  ? help  p pause  r i o a n sort (by {order}{reversed})  / filter");
    if !screen.settings.filter.is_empty() {
        text += &format!(" ({})", screen.settings.filter);
    }
    Line::from(text).dim()
}

/// The frame as text, as wide as this and with room for these rows.
pub(super) fn plain(screen: &Screen, width: u16) -> String {
    let shown = screen.view.as_ref().map_or(0, |view| arrange(&view.rows, &screen.settings).len());
    let height = height_of(shown.min(screen.settings.rows)) - AROUND[3];
    // One line more for the keys, which nobody can press.
    let mut terminal = Terminal::new(TestBackend::new(width, height + AROUND[3])).expect("memory does not fail");
    terminal.draw(|frame| draw(frame, screen)).expect("memory does not fail");
    let buffer = terminal.backend().buffer();
    let mut out = String::new();
    for y in 0..height {
        let mut line = String::new();
        let mut x = 0;
        while x < width {
            let symbol = buffer[(x, y)].symbol();
            line.push_str(symbol);
            x += Span::raw(symbol).width().max(1) as u16;
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
