//! `ringqctl top`: a live view of the server, as htop is one of a host.
//!
//! It knows what any client can ask for (`stats`, `stats latency`, `stats commit`, `stats queue`), and of single queues only those that are
//! visible. Invariant: however it ends, by a key, a signal, an error or a panic, the terminal is as it was before.
//!
//! Files: [`watch`] asks the server, [`view`] makes figures of its answers, [`verdict`] a sentence, [`screen`] knows the keys, [`draw`]
//! draws.

mod draw;
mod screen;
mod verdict;
mod view;
mod watch;

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::crossterm::terminal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::Context;
use super::exit::{BAD_USAGE, FAILED, Failure, Outcome, interrupts};
use super::output::{line, print};

use screen::{Screen, Step};
use view::{Order, Settings};
use watch::{Watch, Watcher};

/// How often keys, signals and answers are looked for.
const POLL: Duration = Duration::from_millis(100);
/// How often the screen is drawn when nothing happens: it may say for how long there was no answer.
const DRAW: Duration = Duration::from_secs(1);
/// Columns of a frame that goes to no terminal.
const WIDTH: u16 = 80;

/// Watch the server live: rates, latencies, and its queues, the largest first.
///
/// Keys: q quits, ? explains all others. A server that goes away is waited for.
#[derive(Args, Debug)]
pub(super) struct Top {
    /// Seconds between two looks at the server.
    #[arg(short, long, value_name = "SECONDS", default_value = "2", value_parser = delay)]
    delay: Duration,
    /// Print one frame as text, after two looks, and end. With --json: one object.
    #[arg(long)]
    once: bool,
    /// By what to sort the queues.
    #[arg(long, value_enum, default_value_t = Order::Ready)]
    sort: Order,
    /// Show only queues whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    filter: String,
    /// With --once or --json: show so many queues.
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
    rows: u16,
}

impl Top {
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let settings = Settings {
            order: self.sort,
            reversed: false,
            filter: self.filter.clone(),
            first: 0,
            rows: self.rows.into(),
        };
        let screen = Screen::new(context.server.to_string(), self.delay, settings);
        if self.once || context.json {
            return once(Watch::new(context.server.clone(), context.timeout), screen, context.json);
        }
        if !io::stdout().is_terminal() {
            return Err(Failure::new(BAD_USAGE, "top needs a terminal; --once prints one frame, --json an object"));
        }
        let stop = interrupts(&[SIGINT, SIGTERM, SIGHUP])?;
        // A panic restores the terminal, too: this sets a hook.
        let mut terminal = ratatui::try_init().map_err(|error| broken(&error))?;
        let watcher = Watcher::start(context.server.clone(), context.timeout);
        let ended = live(&mut terminal, &watcher, screen, &stop);
        ratatui::restore();
        ended.map_err(|error| broken(&error))
    }
}

fn broken(error: &io::Error) -> Failure {
    Failure::new(FAILED, format!("the terminal cannot be used: {error}"))
}

/// Two looks, so that there are rates.
fn once(mut watch: Watch, mut screen: Screen, json: bool) -> Result<Outcome, Failure> {
    watch.look(&screen.settings)?;
    thread::sleep(screen.delay);
    let view = watch.look(&screen.settings)?;
    if json {
        return print(line(&view.json(&screen.server, &screen.settings)));
    }
    screen.heard(view);
    let is_terminal = io::stdout().is_terminal();
    let width = is_terminal.then(|| terminal::size().ok()).flatten().map_or(WIDTH, |(width, _)| width);
    print(draw::plain(&screen, width))
}

fn live(
    terminal: &mut DefaultTerminal,
    watcher: &Watcher,
    mut screen: Screen,
    stop: &AtomicBool,
) -> Result<Outcome, io::Error> {
    let mut asked = false;
    let mut ask_at = Instant::now();
    let mut draw_at = Instant::now();
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(Outcome::Interrupted);
        }
        let mut now = Instant::now();
        if let Ok(look) = watcher.looks.try_recv() {
            asked = false;
            match look {
                Ok(view) => screen.heard(view),
                Err(error) => screen.missed(error.to_string()),
            }
            draw_at = now;
        }
        screen.settings.rows = draw::rows_of(terminal.size()?.height);
        if !asked && !screen.is_paused && ask_at <= now {
            watcher.ask(&screen.settings);
            asked = true;
            ask_at = now + screen.delay;
        }
        if draw_at <= now {
            terminal.draw(|frame| draw::draw(frame, &screen))?;
            draw_at = now + DRAW;
        }
        let mut wait = POLL;
        while event::poll(wait)? {
            wait = Duration::ZERO;
            now = Instant::now();
            draw_at = now;
            let Event::Key(key) = event::read()? else { continue };
            if key.kind == KeyEventKind::Release {
                continue;
            }
            match screen.on_key(key) {
                Step::Draw => {}
                Step::Ask => ask_at = now,
                Step::Quit => return Ok(Outcome::Done),
            }
        }
    }
}

fn delay(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.2..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("allowed are 0.2 to 3600".into()),
    }
}
