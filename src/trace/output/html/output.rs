//! The page as an output of the tracer: written at the end of a trace.

use std::io::Write;

use crate::event::Event;
use crate::output::emitter::Output;
use crate::output::html::collect::Collected;
use crate::output::html::page;
use crate::summary::Summary;

/// A page to a writer.
pub struct Html {
    to: Box<dyn Write>,
    command: String,
    filtered: bool,
    collected: Collected,
    failed: bool,
}

impl Html {
    /// Makes the output. `command` is the traced command, and `filtered` says that filters choose
    /// what is shown.
    pub fn new(to: Box<dyn Write>, command: String, filtered: bool) -> Self {
        Self {
            to,
            command,
            filtered,
            collected: Collected::default(),
            failed: false,
        }
    }
}

impl Output for Html {
    fn event(&mut self, event: &Event) {
        self.collected.add(event);
    }

    fn end(&mut self, summary: &Summary) {
        let page = page::page(&self.collected, summary, &self.command, self.filtered);
        self.failed = self.to.write_all(page.as_bytes()).is_err();
    }

    fn flush(&mut self) {
        if !self.failed {
            self.failed = self.to.flush().is_err();
        }
    }
}
