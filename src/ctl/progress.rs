//! A progress bar for what takes longer than a second. It draws on standard error if that is a terminal, and nothing otherwise.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is over sooner needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);

/// Something is under way until this is dropped.
pub(super) struct Progress {
    bar: ProgressBar,
    over: Option<mpsc::Sender<()>>,
    drawer: Option<JoinHandle<()>>,
}

impl Progress {
    /// Of something whose end is not known.
    pub(super) fn spinner(what: &'static str) -> Progress {
        Progress::begin(ProgressBar::new_spinner(), "{spinner} {msg}  {elapsed}", what)
    }

    /// Of so many steps.
    pub(super) fn bar(steps: u64, what: &'static str) -> Progress {
        Progress::begin(ProgressBar::new(steps), "{msg}  {wide_bar} {human_pos}/{human_len}  {eta} left", what)
    }

    fn begin(bar: ProgressBar, template: &str, what: &'static str) -> Progress {
        bar.set_draw_target(ProgressDrawTarget::hidden());
        bar.set_style(ProgressStyle::with_template(template).expect("a template without mistakes"));
        bar.set_message(what);
        let (over, is_over) = mpsc::channel();
        let late = bar.clone();
        let drawer = thread::spawn(move || {
            if is_over.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                late.set_draw_target(ProgressDrawTarget::stderr());
                late.enable_steady_tick(TICK);
            }
        });
        Progress { bar, over: Some(over), drawer: Some(drawer) }
    }

    /// So many steps more are done.
    pub(super) fn advance(&self, steps: u64) {
        self.bar.inc(steps);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(drawer) = self.drawer.take() {
            drawer.join().expect("the thread that draws does nothing that fails");
        }
        self.bar.finish_and_clear();
    }
}
