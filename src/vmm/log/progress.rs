//! A progress bar for work that may take long. The bar appears only on a terminal, and only after a
//! second.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that takes less than this shows no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// Progress towards a number of bytes.
pub struct Progress {
    what: &'static str,
    total: u64,
    begun: Instant,
    bar: Mutex<Option<ProgressBar>>,
}

impl Progress {
    /// Starts the clock. `what` is the text beside the bar, `total` the number of bytes at the end.
    pub fn new(what: &'static str, total: u64) -> Self {
        Self {
            what,
            total,
            begun: Instant::now(),
            bar: Mutex::new(None),
        }
    }

    /// Sets the number of finished bytes. Any thread may call this.
    pub fn set(&self, done: u64) {
        if self.begun.elapsed() < PATIENCE || !io::stderr().is_terminal() {
            return;
        }
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        bar.get_or_insert_with(|| self.make_bar())
            .set_position(done);
    }

    fn make_bar(&self) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(self.total), ProgressDrawTarget::stderr());
        let template = "{msg} [{bar:30}] {bytes}/{total_bytes} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(self.what);
        bar
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get_mut().unwrap_or_else(PoisonError::into_inner) {
            bar.finish_and_clear();
        }
    }
}
