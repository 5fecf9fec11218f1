//! What is on the screen, and what keys change about it. No terminal: keys come in, [`super::draw`] shows the rest.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::units::seconds;
use super::view::{Order, Settings, View, arrange};

/// What keys mean at the moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Keys,
    /// They are the text to filter by.
    Filter(String),
    Help,
}

/// What follows from a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Nothing but what is to be seen.
    Draw,
    /// Other queues are visible: the server is asked for them.
    Ask,
    Quit,
}

pub(super) struct Screen {
    pub(super) server: String,
    pub(super) delay: Duration,
    pub(super) view: Option<View>,
    pub(super) settings: Settings,
    pub(super) mode: Mode,
    pub(super) is_paused: bool,
    /// Since when there is no answer, and why.
    silent: Option<(Instant, SystemTime, String)>,
}

impl Screen {
    pub(super) fn new(server: String, delay: Duration, settings: Settings) -> Screen {
        Screen { server, delay, view: None, settings, mode: Mode::Keys, is_paused: false, silent: None }
    }

    /// The server has answered.
    pub(super) fn heard(&mut self, view: View) {
        self.view = Some(view);
        self.silent = None;
    }

    /// The server has not.
    pub(super) fn missed(&mut self, why: String) {
        let (since, at) = match self.silent.take() {
            Some((since, at, _)) => (since, at),
            None => (Instant::now(), SystemTime::now()),
        };
        self.silent = Some((since, at, why));
    }

    /// What to say while there is no answer.
    pub(super) fn silence(&self) -> Option<String> {
        let (since, at, why) = self.silent.as_ref()?;
        let old = if self.view.is_some() { "; what is shown is older" } else { "" };
        Some(format!("no answer since {} ({}): {why}{old}", clock(*at), seconds(since.elapsed().as_secs())))
    }

    pub(super) fn on_key(&mut self, key: KeyEvent) -> Step {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Step::Quit;
        }
        match &mut self.mode {
            Mode::Help => self.mode = Mode::Keys,
            Mode::Filter(text) => match key.code {
                KeyCode::Enter => self.mode = Mode::Keys,
                KeyCode::Esc => {
                    self.mode = Mode::Keys;
                    return self.filter(String::new());
                }
                KeyCode::Backspace => {
                    text.pop();
                    let text = text.clone();
                    return self.filter(text);
                }
                KeyCode::Char(letter) => {
                    text.push(letter);
                    let text = text.clone();
                    return self.filter(text);
                }
                _ => {}
            },
            Mode::Keys => return self.on_command(key.code),
        }
        Step::Draw
    }

    fn on_command(&mut self, code: KeyCode) -> Step {
        let page = self.settings.rows.max(1);
        let first = self.settings.first;
        match code {
            KeyCode::Char('q') => return Step::Quit,
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter(self.settings.filter.clone()),
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Esc => return self.filter(String::new()),
            KeyCode::Char('r') => return self.sort(Order::Ready),
            KeyCode::Char('i') => return self.sort(Order::In),
            KeyCode::Char('o') => return self.sort(Order::Out),
            KeyCode::Char('a') => return self.sort(Order::Oldest),
            KeyCode::Char('n') => return self.sort(Order::Name),
            KeyCode::Up => return self.move_to(first.saturating_sub(1)),
            KeyCode::Down => return self.move_to(first + 1),
            KeyCode::PageUp => return self.move_to(first.saturating_sub(page)),
            KeyCode::PageDown => return self.move_to(first + page),
            KeyCode::Home => return self.move_to(0),
            KeyCode::End => return self.move_to(usize::MAX),
            _ => {}
        }
        Step::Draw
    }

    fn sort(&mut self, order: Order) -> Step {
        let again = order == self.settings.order;
        self.settings =
            Settings { order, reversed: again && !self.settings.reversed, first: 0, ..self.settings.clone() };
        Step::Ask
    }

    fn filter(&mut self, filter: String) -> Step {
        if let Mode::Filter(text) = &mut self.mode {
            text.clone_from(&filter);
        }
        self.settings = Settings { filter, first: 0, ..self.settings.clone() };
        Step::Ask
    }

    fn move_to(&mut self, first: usize) -> Step {
        let shown = self.view.as_ref().map_or(0, |view| arrange(&view.rows, &self.settings).len());
        self.settings.first = first.min(shown.saturating_sub(self.settings.rows));
        Step::Ask
    }
}

/// The time of day, as servers' logs have it.
fn clock(at: SystemTime) -> String {
    let s = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()) % 86_400;
    format!("{:02}:{:02}:{:02} UTC", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::super::draw::{draw, plain, rows_of};
    use super::super::view::{Latency, Row};
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn screen(queues: usize) -> Screen {
        let settings = Settings { order: Order::Ready, reversed: false, filter: String::new(), first: 0, rows: 16 };
        let mut screen = Screen::new("127.0.0.1:22201".into(), Duration::from_secs(2), settings);
        let row = |n: usize| Row {
            name: format!("queue-{n}").into(),
            label: format!("queue-{n}"),
            ready: n as u64,
            put_rate: 1.0,
            get_rate: 1.0,
            oldest_ms: None,
            waiters: Some(0),
        };
        let mut rows: Vec<Row> = (0..queues).map(row).collect();
        let mail = Row { name: b"mail".into(), label: "mail".into(), ..row(1_234_567) };
        rows.push(Row { put_rate: 500.0, get_rate: 380.0, oldest_ms: Some(35_000), ..mail });
        let p = |p50_us, p99_us| Latency { p50_us: Some(p50_us), p99_us: Some(p99_us) };
        screen.heard(View {
            version: "1.0.0".into(),
            uptime_s: 274_112,
            put_rate: Some(12_345.0),
            get_rate: Some(12_225.0),
            ready: 1_234_567,
            is_accepting: true,
            connections: 120,
            memory: 300 << 20,
            memory_max: 1 << 30,
            put: p(300.0, 600.0),
            get: p(200.0, 500.0),
            write: p(200.0, 400.0),
            commit: p(300.0, 500.0),
            rows,
            ..View::default()
        });
        screen
    }

    fn press(screen: &mut Screen, keys: &str) -> Step {
        let code = |key| match key {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '\u{8}' => KeyCode::Backspace,
            '>' => KeyCode::PageDown,
            '$' => KeyCode::End,
            key => KeyCode::Char(key),
        };
        keys.chars().map(|key| screen.on_key(KeyEvent::from(code(key)))).last().expect("a key")
    }

    #[test]
    fn a_frame_is_text() {
        let text = plain(&screen(2), 80);
        let expected = "\
ringqctl top  127.0.0.1:22201  RingQ 1.0.0  up 3 d 4 h  every 2.0 s
puts 12,345/s  gets 12,225/s  ready 1,234,567  queues 3  connections 120, 0 wait
put p50 300 us p99 600 us  get p50 200 us p99 500 us  memory 300 MiB of 1.0 GiB
journal write p99 400 us  commit p99 500 us  journal 0 %  checkpoints 0
queue mail grows by 120/s, oldest 35 s; the disk is not the reason: journal
writes p99 400 us of put p99 600 us
QUEUE                               READY      IN/s     OUT/s     OLDEST WAITING
mail                            1,234,567       500       380       35 s       0
queue-1                                 1       1.0       1.0          -       0
queue-0                                 0       1.0       1.0          -       0
";
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn any_size_can_be_drawn() {
        for (width, height) in [(1, 1), (10, 3), (80, 24), (300, 100), (20, 8)] {
            for keys in ["r", "?", "/"] {
                let mut screen = screen(100);
                screen.settings.rows = rows_of(height);
                press(&mut screen, keys);
                let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
                terminal.draw(|frame| draw(frame, &screen)).unwrap();
            }
        }
    }

    #[test]
    fn keys_sort_filter_move_and_quit() {
        let mut it = screen(100);
        assert_eq!(press(&mut it, "i"), Step::Ask);
        assert_eq!((it.settings.order, it.settings.reversed), (Order::In, false));
        press(&mut it, "i");
        assert!(it.settings.reversed);
        press(&mut it, "n");
        assert_eq!((it.settings.order, it.settings.reversed), (Order::Name, false));
        press(&mut it, "/-1q\u{8}\n");
        assert_eq!((&*it.settings.filter, &it.mode), ("-1", &Mode::Keys));
        press(&mut it, "/\u{1b}");
        assert_eq!(it.settings.filter, "");
        press(&mut it, ">");
        assert_eq!(it.settings.first, 16);
        press(&mut it, "$");
        assert_eq!(it.settings.first, 101 - 16);
        assert_eq!(press(&mut it, "p"), Step::Draw);
        assert!(it.is_paused);
        press(&mut it, "?");
        assert_eq!((press(&mut it, "q"), &it.mode), (Step::Draw, &Mode::Keys), "any key ends the help");
        assert_eq!(press(&mut it, "q"), Step::Quit);
        press(&mut it, "/");
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(it.on_key(interrupt), Step::Quit);
    }

    #[test]
    fn it_says_since_when_there_is_no_answer() {
        let mut it = screen(1);
        assert_eq!(it.silence(), None);
        it.missed("cannot connect".into());
        it.missed("the connection failed".into());
        let said = it.silence().expect("there is no answer");
        assert!(said.starts_with("no answer since ") && said.contains("UTC (0 s): the connection failed"), "{said}");
        it.heard(View::default());
        assert_eq!(it.silence(), None);
        assert_eq!(clock(UNIX_EPOCH + Duration::from_secs(86_400 + 3 * 3600 + 62)), "03:01:02 UTC");
    }
}
