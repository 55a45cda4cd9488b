//! The device's link while the work runs: many devices and ports slow an idle link down, so only a
//! link under load says what the work had.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::context::link::{self, Loaded};
use crate::context::machine::Machine;
use crate::subjects::trial::UNDER_WAY;

/// The time between two looks. It is longer than the pause before each kind of work.
const PAUSE: Duration = Duration::from_millis(200);

/// A thread that looks at the link now and then while work is under way.
pub struct Looks {
    found: Arc<Mutex<Loaded>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Looks {
    /// Looks from now on at the link of the device with this address.
    pub fn start(address: &str) -> Self {
        let (found, over) = (Arc::new(Mutex::new(Loaded::default())), Arc::default());
        let machine = Machine::at(Path::new("/"), address, &[]);
        let thread = thread::spawn({
            let (found, over) = (Arc::clone(&found), Arc::clone(&over));
            move || look(&machine, &found, &over)
        });
        Self {
            found,
            over,
            thread: Some(thread),
        }
    }

    /// What was found.
    pub fn end(mut self) -> Loaded {
        self.stop();
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn stop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that has panicked has found what it has found.
            let _ = thread.join();
        }
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        self.stop();
    }
}

fn look(machine: &Machine, found: &Mutex<Loaded>, over: &AtomicBool) {
    let mut number = None;
    while !over.load(Ordering::Relaxed) {
        thread::sleep(PAUSE);
        let now = UNDER_WAY.load(Ordering::Relaxed);
        // The same work was under way at the last look and is now, so the link is not idle.
        if now != 0
            && number == Some(now)
            && let Some(seen) = link::now(machine)
            && UNDER_WAY.load(Ordering::Relaxed) == now
        {
            found
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .add(seen);
        }
        number = Some(now);
    }
}
