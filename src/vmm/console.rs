//! The user's terminal as the guest's serial console: raw while the guest runs, restored on every
//! way out.
//!
//! Typed characters go to the serial port as fast as the guest reads them. Ctrl-A begins a command,
//! as in QEMU.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, Once, PoisonError};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use tracing::debug;

use crate::devices::power_button::PowerButton;
use crate::devices::serial::Serial;
use crate::log::stderr::say;
use crate::sys::process;

const CTRL_A: u8 = 0x01;
/// The most bytes that are kept for a guest that does not read.
const MAX_WAITING: usize = 4096;
const HELP: &str = "\n\
Ctrl-A h  this help\n\
Ctrl-A x  quit mini-vmm\n\
Ctrl-A p  press the guest's power button\n\
Ctrl-A a  send Ctrl-A to the guest\n";

/// The meaning of a typed character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Send(u8),
    Quit,
    PowerButton,
    Help,
    Nothing,
}

/// Whether the last character was the escape character, Ctrl-A.
#[derive(Debug, Default)]
struct Escape(bool);

impl Escape {
    fn feed(&mut self, byte: u8) -> Key {
        if !std::mem::take(&mut self.0) {
            self.0 = byte == CTRL_A;
            return if self.0 {
                Key::Nothing
            } else {
                Key::Send(byte)
            };
        }
        match byte {
            b'x' | b'X' => Key::Quit,
            b'p' | b'P' => Key::PowerButton,
            b'h' | b'H' | b'?' => Key::Help,
            b'a' | b'A' | CTRL_A => Key::Send(CTRL_A),
            _ => Key::Nothing,
        }
    }
}

/// Carries standard input to the serial port.
pub struct Console {
    serial: Arc<Serial>,
    input: File,
    /// Whether standard input has ended.
    ended: bool,
    /// Whether standard input is a regular file, which epoll cannot watch. Such a file is read
    /// whenever the guest's receive buffer has room.
    plain: bool,
    listening: bool,
    /// Bytes that were typed and that the guest has not taken yet.
    waiting: VecDeque<u8>,
    escape: Option<Escape>,
    quit: Option<Box<dyn Fn()>>,
    power_button: Option<Arc<PowerButton>>,
    _raw: Option<RawTerminal>,
}

impl Console {
    /// Takes over standard input. A terminal is in raw mode until the console is dropped.
    ///
    /// # Errors
    /// Standard input cannot be duplicated, or the terminal's mode cannot be changed.
    pub fn new(serial: Arc<Serial>) -> io::Result<Self> {
        let stdin = io::stdin();
        let terminal = stdin.is_terminal();
        // A background job must not change the terminal: the kernel would stop the job.
        let ours = !terminal || in_foreground();
        let raw = (terminal && ours).then(RawTerminal::enter).transpose()?;
        Ok(Self {
            serial,
            input: stdin.as_fd().try_clone_to_owned()?.into(),
            ended: !ours,
            plain: false,
            listening: false,
            waiting: VecDeque::new(),
            escape: terminal.then(Escape::default),
            quit: None,
            power_button: None,
            _raw: raw,
        })
    }

    /// Sets the action of Ctrl-A x.
    pub fn on_quit(&mut self, quit: impl Fn() + 'static) {
        self.quit = Some(Box::new(quit));
    }

    /// Sets the button that Ctrl-A p presses.
    pub fn set_power_button(&mut self, button: Arc<PowerButton>) {
        self.power_button = Some(button);
    }

    /// Tells what was pressed: the guest itself may show nothing.
    fn press(&self) {
        let outcome = self.power_button.as_ref().map(|button| button.press());
        match outcome {
            Some(Ok(())) => say(format_args!(
                "mini-vmm: the power button is pressed; a guest that does not listen to it, such \
                 as one with acpi=off, does nothing (Ctrl-A x quits)"
            )),
            Some(Err(e)) => say(format_args!("mini-vmm: cannot press the power button: {e}")),
            None => {}
        }
    }

    /// Reads once; returns whether there may be more input.
    fn read(&mut self) -> bool {
        let mut buffer = [0u8; 256];
        let count = match self.input.read(&mut buffer) {
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return true,
            Err(e) => {
                debug!("standard input ends: {e}");
                0
            }
        };
        for &byte in buffer.iter().take(count) {
            match self
                .escape
                .as_mut()
                .map_or(Key::Send(byte), |e| e.feed(byte))
            {
                Key::Send(byte) if self.waiting.len() < MAX_WAITING => self.waiting.push_back(byte),
                Key::Send(_) => {}
                Key::Quit => {
                    if let Some(quit) = &self.quit {
                        quit();
                    }
                }
                Key::PowerButton => self.press(),
                Key::Help => {
                    say(format_args!("{HELP}"));
                }
                Key::Nothing => {}
            }
        }
        count > 0
    }

    /// Gives the guest as many bytes as its receive buffer has room for.
    fn pump(&mut self) {
        let taken = self.serial.type_in(self.waiting.make_contiguous());
        self.waiting.drain(..taken);
    }

    /// Starts or stops listening to standard input. A terminal is always listened to, because
    /// Ctrl-A x must work even if the guest does not read. A pipe is listened to only while
    /// `waiting` is empty, so that the pipe's writer blocks if the guest does not read.
    fn adjust(&mut self, ops: &mut EventOps) {
        let want = !self.ended && (self.escape.is_some() || self.waiting.is_empty());
        if self.plain || want == self.listening {
            return;
        }
        let events = Events::new(&self.input, EventSet::IN);
        let outcome = if want {
            ops.add(events)
        } else {
            ops.remove(events)
        };
        match outcome {
            Ok(()) => self.listening = want,
            Err(e) => {
                debug!("standard input is read as a plain file: {e}");
                self.plain = true;
                self.drain_plain();
            }
        }
    }

    fn drain_plain(&mut self) {
        while self.waiting.is_empty() && !self.ended {
            self.ended = !self.read();
            self.pump();
        }
    }
}

impl MutEventSubscriber for Console {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(e) = ops.add(Events::new(self.serial.can_type(), EventSet::IN)) {
            debug!("typing will stop at the first full buffer: {e}");
        }
        self.adjust(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.fd() == self.serial.can_type().as_raw_fd() {
            // The eventfd only wakes this thread; an empty one has nothing to read.
            let _ = self.serial.can_type().read();
        } else {
            self.ended = !self.read();
        }
        self.pump();
        if self.plain {
            self.drain_plain();
        }
        self.adjust(ops);
    }
}

/// The terminal's mode before the run, for the panic hook: a panic may end the process without
/// running destructors.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// A raw terminal, restored when dropped and on a panic.
struct RawTerminal;

impl RawTerminal {
    fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        let mut mode = tcgetattr(io::stdin())?;
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(mode.clone());
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                before(info);
            }));
        });
        mode.make_raw();
        // Output processing stays on, because mini-vmm's own messages need their line ends
        // translated.
        mode.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        set_mode(&mode)?;
        Ok(Self)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal's mode, if it was changed. May be called by a signal handler.
pub fn restore() {
    // The panic hook runs this: try_lock cannot hang, even if the panicking thread held the lock.
    if let Ok(mut saved) = SAVED.try_lock()
        && let Some(mode) = saved.take()
    {
        // A terminal that has gone needs no mode.
        let _ = set_mode(&mode);
    }
}

fn set_mode(mode: &Termios) -> io::Result<()> {
    Ok(tcsetattr(io::stdin(), OptionalActions::Now, mode)?)
}

/// Whether this process is in the terminal's foreground: the kernel stops a job in the background
/// that changes the terminal (termios(3), tcgetpgrp(3)).
fn in_foreground() -> bool {
    let owner = match tcgetpgrp(io::stdin()) {
        Ok(owner) => owner.as_raw_nonzero().get(),
        // So rustix reports a group of a PID namespace that this process does not see. Its `Pid`
        // cannot hold that group's number, 0.
        Err(Errno::OPNOTSUPP) => 0,
        // Without job control, as on a terminal that is not the controlling one, nothing is
        // stopped.
        Err(_) => return true,
    };
    owner == process::group()
}

/// Standard output without a buffer, because a guest's prompt has no newline. Each write is one
/// system call.
///
/// # Errors
/// When the host has no descriptors left.
pub fn stdout() -> io::Result<File> {
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_character() {
        let mut escape = Escape::default();
        let keys: Vec<_> = b"a\x01x\x01p\x01h\x01a\x01\x01\x01zb"
            .iter()
            .map(|b| escape.feed(*b))
            .collect();
        use Key::{Help, Nothing, PowerButton, Quit, Send};
        assert_eq!(
            keys,
            [
                Send(b'a'),
                Nothing,
                Quit,
                Nothing,
                PowerButton,
                Nothing,
                Help,
                Nothing,
                Send(1),
                Nothing,
                Send(1),
                Nothing,
                Nothing,
                Send(b'b'),
            ]
        );
    }
}
