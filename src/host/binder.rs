//! `managed=on` for a device that is added to a running guest: another process binds the device.
//!
//! Binding forks ([`crate::bind`]), and a process with threads may not. So a run to which devices
//! may be added has this process from the start. It has one thread, binds for the run as long as
//! the run lives, and ends with it. What it has bound is given back as all devices of the run are
//! ([`crate::managed`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, str, thread};

use pci::Bdf;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{Shutdown, shutdown};
use tracing::info;
use vmm::config::device::DeviceConfig;
use vmm::log::error_chain::with_causes;
use vmm::plug::AddError;
use vmm::plug::host_side::Claims;
use vmm::sandbox::{self, Mode};
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
    /// Starts the process for `run`, which must have one thread. No call of the kernel is waited
    /// for longer than `limit`.
    ///
    /// # Errors
    /// There are other threads, or no process can be made.
    pub fn start(run: Process, limit: Duration) -> io::Result<Self> {
        let (ours, theirs) = Packets::pair()?;
        let theirs = std::os::fd::OwnedFd::from(theirs);
        let child = process::detach(c"vmm-binder", &[&theirs], || {
            // A process that is not confined does nothing for a run that is.
            if let (Ok(()), Ok(socket)) = (sandbox::enter_helper(), theirs.try_clone()) {
                serve(&Packets::from(socket), &Host::with_limit(limit), run);
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
        if Mode::current() == Mode::On {
            let names: Vec<_> = addresses.clone().map(Into::into).collect();
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
        let answer = self.ask(BIND, addresses);
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
pub fn serve(socket: &Packets, host: &Host, run: Process) {
    while let Ok(Some(packet)) = socket.receive() {
        let Some((kind, names)) = packet.bytes.split_first() else {
            return;
        };
        let answer = answer(host, run, *kind, names);
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

fn answer(host: &Host, run: Process, kind: u8, names: &[u8]) -> Vec<u8> {
    let names = str::from_utf8(names).unwrap_or_default().lines();
    let outcome = match kind {
        BIND if run.lives() => bind_for(host, run, names),
        GIVE_BACK => give_back(host, run, names),
        RELEASE => all_lines(bind::release_run(host, run)),
        NOTE => Ok(note(host, run, names)),
        CHECK => match bind::check_calls(host, names) {
            Ok(()) => Ok(Vec::new()),
            Err(e) => Err(explained(e)),
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

fn note<'a>(host: &Host, run: Process, mut words: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut word = || words.next().unwrap_or_default();
    let (device, call) = (word(), word());
    let (Ok(pid), Ok(started)) = (word().parse(), word().parse()) else {
        return Vec::new();
    };
    let caller = Process { pid, started };
    match noted::is_allowed(host, run, device, call, caller) {
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
mod tests {
    use std::thread;

    use super::*;
    use crate::bind::fake::FakeHost;

    const DISK: &str = "0000:01:00.0";
    const NET: &str = "0000:02:00.0";

    fn fake() -> FakeHost {
        FakeHost::new(&["nvme", "e1000e", "vfio-pci"])
            .device(DISK, 0x01_0802, Some("nvme"), Some(1))
            .device(NET, 0x02_0000, Some("e1000e"), Some(2))
    }

    #[test]
    fn devices_are_bound_and_given_back_one_by_one() {
        let fake = fake();
        let (ours, theirs) = Packets::pair().unwrap();
        let run = Process::this().unwrap();
        let host = fake.host();
        let binder = Binder::over(ours, fake.host(), Duration::from_secs(10)).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| serve(&theirs, &host, run));
            let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
            binder.give_back(&names(&[DISK]));
            assert!(!binder.was_used());
            binder.bind(&names(&[DISK])).unwrap();
            binder.bind(&names(&[NET])).unwrap();
            for device in [DISK, NET] {
                assert_eq!(fake.driver(device).as_deref(), Some("vfio-pci"), "{device}");
            }
            // Only what is named, and what the run has.
            binder.give_back(&names(&[DISK, "0000:03:00.0"]));
            assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
            assert_eq!(fake.driver(NET).as_deref(), Some("vfio-pci"));
            let e = binder.bind(&names(&["0000:09:00.0"])).unwrap_err();
            assert!(e.to_string().contains("0000:09:00.0"), "{e}");
            assert!(e.hint().is_some());
            binder.give_back(&names(&[NET]));
            assert_eq!(fake.driver(NET).as_deref(), Some("e1000e"));
            binder.hang_up();
        });
        let e = binder.bind(&[DISK.into()]).unwrap_err();
        assert!(e.to_string().contains("has ended"), "{e}");
    }

    /// A process that is stopped, or waits for a command that is.
    #[test]
    fn an_answer_that_does_not_come_is_not_waited_for_without_end() {
        let limit = Duration::from_millis(20);
        let (ours, theirs) = Packets::pair().unwrap();
        let binder = Binder::over(ours, fake().host(), limit).unwrap();
        let e = binder.bind(&[DISK.into()]).unwrap_err();
        assert!(e.to_string().contains("does not answer"), "{e}");
        assert!(e.hint().unwrap().contains("vmm-binder"));
        // A late answer is nobody's.
        assert!(theirs.send(&[DONE], &[]).is_err());
        let e = binder.bind(&[DISK.into()]).unwrap_err();
        assert!(e.to_string().contains("has ended"), "{e}");
    }

    #[test]
    fn the_end_of_a_run_waits_for_one_call() {
        let (ours, _theirs) = Packets::pair().unwrap();
        let limit = Duration::from_millis(200);
        let binder = Binder::over(ours, fake().host(), limit).unwrap();
        thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let begun = Instant::now();
                let e = binder.bind(&[DISK.into()]).unwrap_err();
                (begun.elapsed(), e.to_string())
            });
            binder.end();
            let (took, text) = asked.join().unwrap();
            assert!(text.contains("does not answer"), "{text}");
            // Twelve calls are waited for otherwise.
            assert!(took >= limit && took < 12 * limit, "{took:?}");
        });
    }

    #[test]
    fn devices_of_a_run_that_lives_stay_when_it_asks_no_more() {
        let fake = fake();
        let run = Process::this().unwrap();
        let host = fake.host();
        let (ours, theirs) = Packets::pair().unwrap();
        let binder = Binder::over(ours, fake.host(), Duration::from_secs(10)).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| serve(&theirs, &host, run));
            binder.bind(&[DISK.into()]).unwrap();
            binder.hang_up();
        });
        assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
    }

    /// Nothing is bound for a run that has said that it ends.
    #[test]
    fn giving_all_devices_back_is_the_last_request() {
        let fake = fake();
        let run = Process::this().unwrap();
        let host = fake.host();
        let (ours, theirs) = Packets::pair().unwrap();
        let binder = Binder::over(ours, fake.host(), Duration::from_secs(10)).unwrap();
        thread::scope(|scope| {
            let ended = scope.spawn(move || serve(&theirs, &host, run));
            binder.bind(&[DISK.into()]).unwrap();
            let lines = binder.release(&[]).unwrap();
            assert!(lines.contains(DISK), "{lines}");
            ended.join().unwrap();
        });
        assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
        let e = binder.bind(&[NET.into()]).unwrap_err();
        assert!(e.to_string().contains("has ended"), "{e}");
        assert_eq!(fake.driver(NET).as_deref(), Some("e1000e"));
    }

    #[test]
    fn nothing_is_bound_for_a_run_that_was_killed() {
        let fake = fake();
        let run = Process {
            pid: std::process::id(),
            started: 1,
        };
        let answer = answer(&fake.host(), run, BIND, DISK.as_bytes());
        assert_eq!(answer.first(), Some(&FAILED));
        assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
    }
}
