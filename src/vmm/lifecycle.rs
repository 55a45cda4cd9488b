//! The main loop: waits for the end of a run, and reports statistics on SIGUSR1.
//!
//! The main thread runs event-manager, which waits for the guest's events, for signals, and for the
//! keyboard ([`crate::console`]).

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use tracing::{error, info};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::register_signal_handler;

use crate::console::Console;
use crate::guest_event::{GuestEvent, Notifier};

/// The reason why the loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// An event of the guest: it ended the run, or cannot go on.
    Guest(GuestEvent),
    /// A signal asked for an orderly end.
    Signal(i32),
    /// The user typed Ctrl-A x.
    Quit,
}

/// Signals that end a run in an orderly way.
const ENDING: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// The data that the signal handlers write and the loop reads. A signal handler may do little more
/// than write it (signal-safety(7)).
struct SignalMail {
    wake: EventFd,
    ending: AtomicI32,
    report: AtomicBool,
}

static SIGNALS: OnceLock<SignalMail> = OnceLock::new();

extern "C" fn on_signal(number: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if let Some(mail) = SIGNALS.get() {
        if number == libc::SIGUSR1 {
            mail.report.store(true, Ordering::Release);
        } else {
            mail.ending.store(number, Ordering::Release);
        }
        // A full counter wakes the main loop too, and a signal handler could tell nobody.
        let _ = mail.wake.write(1);
    }
}

/// From now on records the signals that end a run, and SIGUSR1, for [`Lifecycle::wait`]. Must be
/// called before the terminal's mode is changed, because only an orderly end restores the mode.
///
/// # Errors
/// When a handler cannot be installed.
pub fn catch_signals() -> io::Result<()> {
    signals().map(|_| ())
}

/// Installs the handlers, once for the process.
fn signals() -> io::Result<&'static SignalMail> {
    if let Some(mail) = SIGNALS.get() {
        return Ok(mail);
    }
    let wake = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
    let mail = SIGNALS.get_or_init(|| SignalMail {
        wake,
        ending: AtomicI32::new(0),
        report: AtomicBool::new(false),
    });
    for number in ENDING.into_iter().chain([libc::SIGUSR1]) {
        register_signal_handler(number, on_signal)
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
    }
    Ok(mail)
}

/// The user's side of a run: the keyboard, and the report that SIGUSR1 asks for.
pub struct Terminal {
    /// The keyboard.
    pub console: Console,
    /// Called on SIGUSR1.
    pub report: Box<dyn Fn()>,
}

type Outcome = Arc<Mutex<Option<End>>>;

/// Asks the loop for an end, from any thread.
#[derive(Clone)]
pub struct Asker {
    outcome: Outcome,
    wake: Arc<EventFd>,
}

impl Asker {
    /// Asks for the end of the run.
    pub fn shut_down(&self) {
        self.ask(End::Quit);
    }

    /// Asks for a reset of the VM.
    pub fn reboot(&self) {
        self.ask(End::Guest(GuestEvent::Reset));
    }

    fn ask(&self, end: End) {
        set(&self.outcome, end);
        // A full counter wakes the main loop too.
        let _ = self.wake.write(1);
    }
}

/// The main loop.
pub struct Lifecycle {
    manager: EventManager<Box<dyn MutEventSubscriber>>,
    outcome: Outcome,
}

fn broken(e: event_manager::Error) -> io::Error {
    io::Error::other(format!("the main loop failed: {e}"))
}

impl Lifecycle {
    /// Makes a loop that waits for the guest's events and, with a terminal, for signals and the
    /// keyboard. The program passes a terminal; a test that runs a guest does not.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new(notifier: Arc<Notifier>, terminal: Option<Terminal>) -> io::Result<Self> {
        let mut manager = EventManager::new().map_err(broken)?;
        let outcome = Outcome::default();
        manager.add_subscriber(Box::new(GuestEvents {
            notifier,
            outcome: outcome.clone(),
        }) as Box<dyn MutEventSubscriber>);
        if let Some(Terminal {
            mut console,
            report,
        }) = terminal
        {
            let mail = signals()?;
            manager.add_subscriber(Box::new(Signals {
                mail,
                report,
                outcome: outcome.clone(),
            }));
            let quit = outcome.clone();
            console.on_quit(move || set(&quit, End::Quit));
            manager.add_subscriber(Box::new(console));
        }
        Ok(Self { manager, outcome })
    }

    /// Makes the loop listen to another thread's requests.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn asker(&mut self) -> io::Result<Asker> {
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        self.manager
            .add_subscriber(Box::new(Asked(Arc::clone(&wake))));
        Ok(Asker {
            outcome: self.outcome.clone(),
            wake,
        })
    }

    fn take(&self) -> Option<End> {
        let outcome = self.outcome.lock();
        outcome.unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until something ends the run.
    ///
    /// # Errors
    /// When waiting itself fails.
    pub fn wait(&mut self) -> io::Result<End> {
        loop {
            if let Some(end) = self.take() {
                return Ok(end);
            }
            self.manager.run().map_err(broken)?;
        }
    }

    /// Waits for so many milliseconds at most, and perhaps for less, until something ends the run.
    ///
    /// # Errors
    /// When waiting itself fails.
    pub fn wait_ms(&mut self, time: u16) -> io::Result<Option<End>> {
        if let Some(end) = self.take() {
            return Ok(Some(end));
        }
        let wait = self.manager.run_with_timeout(time.into());
        wait.map_err(broken)?;
        Ok(self.take())
    }
}

/// Records the first reason to end. A reboot of the guest is not final: a later reason replaces it,
/// so that a user's request to end at the same moment is not lost.
fn set(outcome: &Outcome, end: End) {
    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
    let again = matches!(
        *outcome,
        Some(End::Guest(GuestEvent::Reset | GuestEvent::TripleFault))
    );
    if outcome.is_none() || again {
        *outcome = Some(end);
    }
}

fn listen(ops: &mut EventOps, event: &EventFd) {
    if let Err(e) = ops.add(Events::new(event, EventSet::IN)) {
        error!("the main loop cannot listen to an event: {e}");
    }
}

struct GuestEvents {
    notifier: Arc<Notifier>,
    outcome: Outcome,
}

impl MutEventSubscriber for GuestEvents {
    fn init(&mut self, ops: &mut EventOps) {
        listen(ops, self.notifier.wake());
    }

    fn process(&mut self, _: Events, _: &mut EventOps) {
        if let Some(event) = self.notifier.take() {
            set(&self.outcome, End::Guest(event));
        }
    }
}

/// Wakes the loop for the requests of an [`Asker`].
struct Asked(Arc<EventFd>);

impl MutEventSubscriber for Asked {
    fn init(&mut self, ops: &mut EventOps) {
        listen(ops, &self.0);
    }

    fn process(&mut self, _: Events, _: &mut EventOps) {
        // The eventfd only wakes this loop; an empty one has nothing to read.
        let _ = self.0.read();
    }
}

struct Signals {
    mail: &'static SignalMail,
    report: Box<dyn Fn()>,
    outcome: Outcome,
}

impl MutEventSubscriber for Signals {
    fn init(&mut self, ops: &mut EventOps) {
        listen(ops, &self.mail.wake);
    }

    fn process(&mut self, _: Events, _: &mut EventOps) {
        // The eventfd only wakes this loop; an empty one has nothing to read.
        let _ = self.mail.wake.read();
        if self.mail.report.swap(false, Ordering::AcqRel) {
            (self.report)();
        }
        let number = self.mail.ending.swap(0, Ordering::AcqRel);
        if number != 0 {
            info!("signal {number}: ending in order");
            set(&self.outcome, End::Signal(number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_is_asked_for_is_not_lost_in_a_reboot() {
        let outcome = Outcome::default();
        set(&outcome, End::Guest(GuestEvent::Reset));
        set(&outcome, End::Signal(libc::SIGTERM));
        set(&outcome, End::Guest(GuestEvent::Reset));
        assert_eq!(*outcome.lock().unwrap(), Some(End::Signal(libc::SIGTERM)));
    }

    #[test]
    fn another_thread_may_ask() {
        let mut lifecycle = Lifecycle::new(Arc::new(Notifier::new().unwrap()), None).unwrap();
        let asker = lifecycle.asker().unwrap();
        let (again, reboot) = (asker.clone(), End::Guest(GuestEvent::Reset));
        std::thread::spawn(move || again.reboot());
        assert_eq!(lifecycle.wait().unwrap(), reboot);
        asker.reboot();
        asker.shut_down();
        assert_eq!(lifecycle.wait().unwrap(), End::Quit);
    }

    #[test]
    fn the_first_event_counts() {
        let notifier = Arc::new(Notifier::new().unwrap());
        let mut lifecycle = Lifecycle::new(notifier.clone(), None).unwrap();
        notifier.notify(GuestEvent::Reset);
        notifier.notify(GuestEvent::TripleFault);
        assert_eq!(lifecycle.wait().unwrap(), End::Guest(GuestEvent::Reset));
        notifier.notify(GuestEvent::PowerOff);
        assert_eq!(lifecycle.wait().unwrap(), End::Guest(GuestEvent::PowerOff));
    }
}
