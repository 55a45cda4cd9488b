//! `managed=on` for a device that is added to a running guest: another process binds the device.
//!
//! Binding forks ([`crate::bind`]), and a process with threads may not. So a run to which devices
//! may be added has this process from the start. It has one thread, binds for the run as long as
//! the run lives, and ends with it. What it has bound is given back as all devices of the run are
//! ([`crate::managed`]).

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, str, thread};

use pci::Bdf;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{Shutdown, shutdown};
use tracing::info;
use vmm::broker::Named;
use vmm::config::device::DeviceConfig;
use vmm::hostinfo::name::{HostName, parse_address};
use vmm::log::error_chain::with_causes;
use vmm::plug::AddError;
use vmm::plug::host_side::Claims;
use vmm::sandbox::{self, Mode, run_as};
use vmm::sys::packets::Packets;
use vmm::sys::process::{self, Process};

use crate::bind::{self, BindError, BindRequest, Host};
use crate::noted;

/// How long the end of the process is waited for.
const EXIT_LIMIT: Duration = Duration::from_millis(100);
/// How often the wait for an answer looks whether it is over.
const LOOK: Duration = Duration::from_millis(50);
/// How long the process waits for the end of a run whose socket is closed.
const DYING: Duration = Duration::from_secs(5);
/// The most bytes of an answer's text.
const MOST_TEXT: usize = 4000;

/// The first byte of a message.
const BIND: u8 = b'b';
const GIVE_BACK: u8 = b'g';
/// Give all devices of the run back, at its end.
const RELEASE: u8 = b'r';
/// Note a call that goes on after the run.
const NOTE: u8 = b'n';
/// Check that no call of an earlier run goes on.
const CHECK: u8 = b'c';
const DONE: u8 = b'd';
const FAILED: u8 = b'f';

/// The run's side.
pub struct Binder {
    socket: Packets,
    /// Held from a question to its answer.
    asking: Mutex<()>,
    child: Option<u32>,
    host: Host,
    /// How long one call of the kernel is waited for.
    limit: Duration,
    /// Whether a device was bound.
    used: AtomicBool,
    /// The run ends: no answer is waited for much longer.
    ending: AtomicBool,
}

/// Why there is no answer.
enum NoAnswer {
    /// The process has ended, or is not asked any more.
    Gone,
    /// The process does not answer in time.
    Late,
    /// The answer is an error, with its hint.
    Refused(String, Option<String>),
}

impl NoAnswer {
    fn explained(self) -> (String, Option<String>) {
        match self {
            Self::Gone => (
                "the process that binds devices for this run has ended".into(),
                None,
            ),
            Self::Late => (
                "the process that binds devices for this run does not answer, and is not asked any \
                 more"
                .into(),
                Some("see what it waits for: ps -C vmm-binder -o pid,stat,wchan".into()),
            ),
            Self::Refused(text, hint) => (text, hint),
        }
    }

    fn into_add_error(self) -> AddError {
        let (text, hint) = self.explained();
        AddError::Host {
            text,
            hint,
            source: None,
            request: false,
        }
    }
}

impl Binder {
    /// Starts the process for `run`, which must have one thread. The process binds devices of
    /// `named` alone. No call of the kernel is waited for longer than `limit`.
    ///
    /// # Errors
    /// There are other threads, or no process can be made.
    pub fn start(run: Process, limit: Duration, named: Named) -> io::Result<Self> {
        let (ours, theirs) = Packets::pair()?;
        let news = named.news().map(AsRef::as_ref);
        let keep: Vec<&OwnedFd> = [theirs.as_ref()].into_iter().chain(news).collect();
        let child = process::detach(c"vmm-binder", &keep, || {
            // A process that is not confined does nothing for a run that is.
            if sandbox::enter_helper().is_ok() {
                serve(&theirs, &Host::with_limit(limit), run, &named);
            }
        })?;
        let mut binder = Self::over(ours, Host::with_limit(limit), limit)?;
        binder.child = Some(child);
        Ok(binder)
    }

    fn over(socket: Packets, host: Host, limit: Duration) -> io::Result<Self> {
        set_socket_timeout(&socket, Timeout::Recv, Some(LOOK))?;
        Ok(Self {
            socket,
            asking: Mutex::default(),
            child: None,
            host,
            limit,
            used: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        })
    }

    /// Whether a device was bound by it.
    pub fn was_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Gives back all devices that are bound for the run, which ends. A confined run cannot do that
    /// itself. Returns the lines of what was done.
    ///
    /// # Errors
    /// The message, and its hint.
    pub fn release(&self, devices: &[String]) -> Result<String, (String, Option<String>)> {
        self.ask(RELEASE, devices).map_err(NoAnswer::explained)
    }

    /// Notes a call that goes on after the run, as [`bind::note_call_or_say`].
    pub fn note(&self, device: &str, call: &str, caller: Process) -> Option<String> {
        let (pid, started) = (caller.pid.to_string(), caller.started.to_string());
        let words = [device.into(), call.into(), pid, started];
        match self.ask(NOTE, &words).map_err(NoAnswer::explained) {
            Ok(said) => (!said.is_empty()).then_some(said),
            Err((said, _)) => Some(said),
        }
    }

    /// Asks, and waits for the answer. Returns the lines of what was done.
    fn ask(&self, kind: u8, names: &[String]) -> Result<String, NoAnswer> {
        let _asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let message = [&[kind][..], names.join("\n").as_bytes()].concat();
        let sent = self.socket.send(&message, &[]);
        sent.map_err(|_| NoAnswer::Gone)?;
        let bytes = self.answer(names.len())?;
        let (kind, text) = bytes.split_first().ok_or(NoAnswer::Gone)?;
        // A long text is cut.
        let text = String::from_utf8_lossy(text);
        match *kind {
            DONE => Ok(text.into_owned()),
            _ => {
                let (text, hint) = text.split_once('\n').unwrap_or((&text, ""));
                let hint = (!hint.is_empty()).then(|| hint.into());
                Err(NoAnswer::Refused(text.into(), hint))
            }
        }
    }

    /// Waits for the answer about so many devices. Each call of the kernel has a limit, and there
    /// are some for each device; but the process may be stopped, or wait for a command that is.
    fn answer(&self, devices: usize) -> Result<Vec<u8>, NoAnswer> {
        let calls = u32::try_from(4 + 8 * devices).unwrap_or(u32::MAX);
        let mut end = Instant::now() + self.limit.saturating_mul(calls);
        loop {
            match self.socket.receive() {
                Ok(Some(packet)) => return Ok(packet.bytes),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                _ => return Err(NoAnswer::Gone),
            }
            if self.ending.load(Ordering::Relaxed) {
                // What goes on is left alone for as long as one call takes.
                end = end.min(Instant::now() + self.limit);
            }
            if Instant::now() >= end {
                // A late answer must not be taken for that of the next question.
                self.hang_up();
                return Err(NoAnswer::Late);
            }
        }
    }

    /// The process ends with its socket.
    fn hang_up(&self) {
        // Fails only if the other end is closed already.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

impl Claims for Binder {
    /// A confined run may read no records whose folder is newer than the run.
    fn check(&self, devices: &[DeviceConfig]) -> Result<(), AddError> {
        let addresses = devices.iter().map(|device| &*device.address);
        if Mode::current() == Mode::On || run_as::has_changed() {
            let names: Vec<_> = addresses.clone().map(sysfs_name).collect();
            match self.ask(CHECK, &names) {
                Err(NoAnswer::Gone) => {}
                answer => return answer.map(drop).map_err(NoAnswer::into_add_error),
            }
        }
        bind::check_calls(&self.host, addresses).map_err(|e| {
            let hint = e.hint();
            AddError::host(e, hint)
        })
    }

    fn bind(&self, addresses: &[String]) -> Result<(), AddError> {
        self.used.store(true, Ordering::Relaxed);
        let names: Vec<_> = addresses
            .iter()
            .map(|address| sysfs_name(address))
            .collect();
        let answer = self.ask(BIND, &names);
        let lines = answer.map_err(NoAnswer::into_add_error)?;
        lines.lines().for_each(|line| info!("{line}"));
        Ok(())
    }

    fn give_back(&self, names: &[String]) {
        // Without a device there is nothing to give back.
        if !self.was_used() {
            return;
        }
        match self.ask(GIVE_BACK, names) {
            Ok(lines) => lines.lines().for_each(|line| info!("{line}")),
            // The end of the run gives all of its devices back.
            Err(NoAnswer::Gone | NoAnswer::Late) if self.ending.load(Ordering::Relaxed) => {}
            Err(e) => {
                let (text, hint) = e.explained();
                vmm::log::stderr::say(format_args!("mini-vmm: {text}"));
                if let Some(hint) = hint {
                    vmm::log::stderr::say(format_args!("hint: {hint}"));
                }
            }
        }
    }

    fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }
}

impl Drop for Binder {
    fn drop(&mut self) {
        self.hang_up();
        if let Some(child) = self.child.take() {
            process::reap_within(child, EXIT_LIMIT);
        }
    }
}

/// Answers requests until the run has ended, has its devices given back, or asks no more.
pub fn serve(socket: &Packets, host: &Host, run: Process, named: &Named) {
    while let Ok(Some(packet)) = socket.receive() {
        let Some((kind, names)) = packet.bytes.split_first() else {
            return;
        };
        let answer = answer(host, run, named, *kind, names);
        if *kind == RELEASE {
            // The run has ended: a guest that goes on has no devices bound after that. If nobody
            // hears the answer, the guardian and the next command know from the records.
            let _ = socket.send(&answer, &[]);
            return;
        }
        if socket.send(&answer, &[]).is_err() || !run.lives() {
            if ends_within(run, DYING) {
                // Nobody has the device: the run was killed meanwhile.
                let _ = bind::release_run(host, run);
            }
            // A run that lives gives its devices back at its end.
            return;
        }
    }
}

fn ends_within(run: Process, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while run.lives() {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(LOOK);
    }
    true
}

fn answer(host: &Host, run: Process, named: &Named, kind: u8, names: &[u8]) -> Vec<u8> {
    let names = str::from_utf8(names).unwrap_or_default().lines();
    let foreign = |may: &dyn Fn(HostName) -> bool| {
        let own = |name: &str| whole_name(name).is_some_and(may);
        // A run that is not confined hears the host's own words for what is no device.
        let foreign = names.clone().find(|name| !named.is_any() && !own(name));
        foreign.map(str::to_owned)
    };
    let outcome = match kind {
        BIND if run.lives() => match foreign(&|name| named.is_managed(name)) {
            Some(name) => Err(not_named(&name, "managed=on")),
            None => bind_for(host, run, names),
        },
        // Only records of the run are used.
        GIVE_BACK => give_back(host, run, names),
        RELEASE => all_lines(bind::release_run(host, run)),
        NOTE => Ok(note(host, run, named, names)),
        CHECK => match foreign(&|name| named.has(name)) {
            Some(name) => Err(not_named(&name, "it")),
            None => match bind::check_calls(host, names) {
                Ok(()) => Ok(Vec::new()),
                Err(e) => Err(explained(e)),
            },
        },
        _ => Err((String::new(), None)),
    };
    let (kind, text) = match outcome {
        Ok(lines) => (DONE, lines.join("\n")),
        Err((text, hint)) => (
            FAILED,
            text.replace('\n', " ") + "\n" + &hint.unwrap_or_default(),
        ),
    };
    let bytes = text.as_bytes();
    let end = bytes.len().min(MOST_TEXT);
    [&[kind][..], &bytes[..end]].concat()
}

type Outcome = Result<Vec<String>, (String, Option<String>)>;

/// The device with a name in the form of sysfs: no path, which could lead anywhere.
fn whole_name(text: &str) -> Option<HostName> {
    let name: HostName = text.parse().ok()?;
    (name.to_string() == text).then_some(name)
}

/// An address in the form of sysfs, if it is one.
fn sysfs_name(address: &str) -> String {
    parse_address(address).map_or_else(|_| address.into(), |name| name.to_string())
}

/// What a run is told that asks for a device which is not its own.
fn not_named(address: &str, what: &str) -> (String, Option<String>) {
    let text = format!(
        "{address}: neither a flag nor a request that the process which binds devices has seen \
         names {what} for this run"
    );
    let hint = "send the request in one piece; docs/security.md says what the sandbox sees";
    (text, Some(hint.into()))
}

fn bind_for<'a>(host: &Host, run: Process, names: impl Iterator<Item = &'a str>) -> Outcome {
    let request = BindRequest {
        addresses: names.map(Into::into).collect(),
        owner: Some(run),
        ..BindRequest::default()
    };
    bind::bind(host, &request).map_err(explained)
}

fn give_back<'a>(host: &Host, run: Process, names: impl Iterator<Item = &'a str>) -> Outcome {
    let wanted: Vec<Bdf> = names.filter_map(|name| name.parse().ok()).collect();
    all_lines(bind::release_of_run(host, run, |bdf| wanted.contains(&bdf)))
}

fn note<'a>(
    host: &Host,
    run: Process,
    named: &Named,
    mut words: impl Iterator<Item = &'a str>,
) -> Vec<String> {
    let mut word = || words.next().unwrap_or_default();
    let (device, call) = (word(), word());
    let (Ok(pid), Ok(started)) = (word().parse(), word().parse()) else {
        return Vec::new();
    };
    let caller = Process { pid, started };
    let own = named.is_any() || whole_name(device).is_some_and(|name| named.has(name));
    match own && noted::is_allowed(host, run, device, call, caller) {
        true => Vec::from_iter(bind::note_call_or_say(host, device, call, caller)),
        // A call that has ended meanwhile needs no note either.
        false => Vec::new(),
    }
}

fn all_lines(outcome: Result<bind::Outcome, BindError>) -> Outcome {
    let (lines, errors) = outcome.map_err(explained)?;
    match errors.into_iter().next() {
        Some(e) => Err(explained(e)),
        None => Ok(lines),
    }
}

fn explained(error: BindError) -> (String, Option<String>) {
    (with_causes(&error), error.hint())
}

#[cfg(test)]
mod tests;
