//! Shows the progress of long steps: a spinner on a terminal, otherwise plain lines. A step prints
//! its name at the start, and its duration at the end.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The interval of progress lines without a terminal.
const EVERY: Duration = Duration::from_secs(30);

/// A running step.
#[derive(Debug)]
pub struct Step {
    what: String,
    started: Instant,
    said: Cell<Instant>,
    bar: Option<ProgressBar>,
}

impl Step {
    /// Starts a step. `what` is a short phrase such as "building mini-vmm".
    pub fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_message(what.clone());
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {wide_msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("  {what} ...");
        }
        Self {
            what,
            started: Instant::now(),
            said: Cell::new(Instant::now()),
            bar,
        }
    }

    /// Shows the step's progress: immediately on a terminal, otherwise at intervals.
    pub fn at(&self, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {detail}", self.what));
        } else if self.said.get().elapsed() >= EVERY {
            self.said.set(Instant::now());
            eprintln!(
                "  {}: {detail}, after {} s",
                self.what,
                self.started.elapsed().as_secs()
            );
        }
    }

    /// Ends the step.
    pub fn done(self) {
        let line = format!(
            "  {}: done in {:.1} s",
            self.what,
            self.started.elapsed().as_secs_f64()
        );
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("{line}");
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
