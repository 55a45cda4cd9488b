//! `--vfio ADDR,managed=on`: devices are bound for one run and given back when the run ends.
//!
//! If the run ends in order, this process gives the devices back. After SIGKILL or a crash, the
//! guardian gives them back. The guardian is a child process that is forked at the beginning of
//! every run with a device. It makes the calls that open, reset and close devices ([`Opener`]), so
//! that the run can end while one of them sleeps. Then it waits on a pidfd for the end of this
//! process, and gives the devices back when its last call has returned. A call that binds or
//! unbinds a device is made by a further process ([`crate::bind`]). The guardian has its own
//! session, so that signals of the terminal do not reach it, and shares only a socket and the pidfd
//! with this process. If the guardian is killed too, the records name a run that has ended, and the
//! next `host bind` or `host unbind` gives the devices back.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info};
use vmm::broker::{Admission, Broker, Device, Named, RunUser};
use vmm::config::device::DeviceConfig;
use vmm::log::error_chain::with_causes;
use vmm::log::stderr::say;
use vmm::sandbox::{Mode, run_as};
use vmm::sys::packets::Packets;
use vmm::sys::process;
use vmm::sys::process::Process;
use vmm::vfio::kernel_calls;
use vmm::vfio::opener::Opener;

use crate::bind;
use crate::bind::{BindError, BindRequest, Host, UnderWay};
use crate::binder::Binder;

/// How often the guardian looks whether a call has ended.
const LOOK: Duration = Duration::from_millis(100);

/// The devices that are bound for this run. Dropping the value gives them back.
pub struct Managed {
    run: Process,
    /// The devices that were bound at the start.
    bound: Vec<String>,
    /// Binds devices that are added while the guest runs.
    binder: Option<Arc<Binder>>,
    /// The time for which a call of the kernel is waited for.
    limit: Duration,
    opener: Arc<Opener>,
}

/// For which devices the other processes of a run act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rights {
    /// For all: the run has the rights that these processes have.
    Any,
    /// For the run's own. The run will not have its rights of now.
    Own,
    /// As [`Rights::Own`]. The run's process becomes this user's, whose clients have fewer rights
    /// than root's.
    Users(RunUser),
}

impl Managed {
    /// Starts the guardian of a run with these devices, and binds those with `managed=on`. Returns
    /// the bound devices, if there are or may be any, and the opener. Call this while the process
    /// has a single thread, because the process forks. With `later`, devices may be added while the
    /// guest runs, which `clients` name. Other processes act for the run, with these rights.
    ///
    /// # Errors
    /// A device cannot be bound. No device is bound then.
    pub fn take(
        devices: &[DeviceConfig],
        limit: Duration,
        (later, rights): (bool, Rights),
        clients: Arc<dyn Admission>,
    ) -> Result<(Option<Self>, Arc<Opener>), BindError> {
        let managed = devices.iter().filter(|d| d.managed);
        let addresses: Vec<_> = managed.map(|d| d.address.clone()).collect();
        if devices.is_empty() && !later {
            return Ok((None, kernel_calls::opener_here()));
        }
        if addresses.is_empty() && !later {
            return Ok((None, kernel_calls::opener_or_here(limit)));
        }
        let apart = rights != Rights::Any;
        let (mut managed, opener) = match Self::start(devices, limit, (later, rights), clients) {
            Ok(started) => started,
            // Nothing needs the guardian yet: a later add with `managed=on` is refused. A confined
            // run cannot open devices itself.
            Err(e) if addresses.is_empty() && !apart => {
                debug!("{}", with_causes(&e));
                return Ok((None, kernel_calls::opener_or_here(limit)));
            }
            Err(e) => return Err(e),
        };
        if !addresses.is_empty() {
            let request = BindRequest {
                addresses: addresses.clone(),
                owner: Some(managed.run),
                ..BindRequest::default()
            };
            for line in bind::bind(&Host::with_limit(limit), &request)? {
                info!("{line}");
            }
            managed.bound = addresses;
        }
        Ok((Some(managed), opener))
    }

    /// Starts the guardian, and with `later` the process that binds devices.
    fn start(
        devices: &[DeviceConfig],
        limit: Duration,
        (later, rights): (bool, Rights),
        clients: Arc<dyn Admission>,
    ) -> Result<(Self, Arc<Opener>), BindError> {
        let run = Process::this().map_err(BindError::Guardian)?;
        let end = process::own_end().map_err(BindError::Guardian)?;
        let named = || match rights {
            Rights::Own | Rights::Users(_) => Named::only(devices.iter().filter_map(Device::of)),
            Rights::Any => Named::any(),
        };
        // The guardian sees what clients name, and tells the binder. The run has no end of this.
        let (news, heard) = Packets::pair().map_err(BindError::Guardian)?;
        let binder = match later {
            true => {
                let binder = Binder::start(run, limit, named().hearing(heard));
                Some(binder.map_err(BindError::Guardian)?)
            }
            false => None,
        };
        let broker = Broker::new(named(), clients, later.then_some(news));
        let broker = match rights {
            Rights::Users(user) => broker.run_as(user),
            Rights::Own | Rights::Any => broker,
        };
        let opener = kernel_calls::opener(limit, broker, &[&end], || {
            process::wait_readable(&end);
            let host = Host::with_limit(limit);
            // Without records nothing was bound.
            if host.records.exist() {
                note(release_when_possible(&host, run));
            }
        })
        .map_err(BindError::Guardian)?;
        let managed = Self {
            run,
            bound: Vec::new(),
            binder: binder.map(Arc::new),
            limit,
            opener: Arc::clone(&opener),
        };
        Ok((managed, opener))
    }

    /// What binds devices that are added while the guest runs.
    pub fn binder(&self) -> Option<Arc<Binder>> {
        self.binder.clone()
    }
}

impl Managed {
    /// Lets the other process give the devices back: a confined run cannot.
    fn release_by(&self, binder: &Binder) {
        match binder.release(&self.bound) {
            Ok(lines) => lines.lines().for_each(|line| info!("{line}")),
            Err((text, hint)) => {
                say(format_args!("mini-vmm: {text}"));
                if let Some(hint) = hint {
                    say(format_args!("hint: {hint}"));
                }
            }
        }
    }
}

/// Whether this process lacks the rights that binding takes, so that another gives devices back.
pub fn must_ask() -> bool {
    Mode::current() != Mode::Off || run_as::has_changed()
}

/// The run must have closed the devices: the unbind of their driver waits for that.
impl Drop for Managed {
    fn drop(&mut self) {
        let binder = self.binder.take();
        let later = binder.as_ref().is_some_and(|binder| binder.was_used());
        if self.bound.is_empty() && !later {
            return;
        }
        if let Some(binder) = binder.filter(|_| must_ask())
            && !self.opener.is_stuck()
        {
            return self.release_by(&binder);
        }
        // While a call for a device sleeps, the unbind of its driver would wait for that call. A
        // fork beside other threads is not safe, and a call without a process of its own might hold
        // the run for ever.
        if self.opener.is_stuck() || !process::settle_to_one_thread() {
            say(format_args!(
                "mini-vmm: the devices are given back after the end of process {}{}",
                self.run.pid,
                if self.opener.is_stuck() {
                    " and of the call"
                } else {
                    ""
                }
            ));
            return;
        }
        let errors = match bind::release_run(&Host::with_limit(self.limit), self.run) {
            Ok((lines, errors)) => {
                for line in lines {
                    info!("{line}");
                }
                errors
            }
            Err(e) => vec![e],
        };
        for error in errors {
            say(format_args!("mini-vmm: {}", with_causes(&error)));
            if let Some(hint) = error.hint() {
                say(format_args!("hint: {hint}"));
            }
        }
    }
}

/// Gives the devices of a killed run back. A call that the run had begun may still go on in the
/// kernel, and another command may have the lock or change the device. The guardian has nothing
/// else to do, and waits without the lock until that has ended.
fn release_when_possible(host: &Host, run: Process) -> Result<bind::Outcome, BindError> {
    loop {
        let outcome = bind::release_run(host, run);
        let errors = match &outcome {
            Ok((_, errors)) => errors.as_slice(),
            Err(e) => std::slice::from_ref(e),
        };
        let call = errors.iter().find_map(BindError::sleeping_call);
        let waits = |e: &BindError| matches!(e, BindError::Busy | BindError::Changing { .. });
        if call.is_none() && !errors.iter().any(waits) {
            return outcome;
        }
        std::thread::sleep(LOOK);
        while call.as_ref().is_some_and(UnderWay::sleeps) {
            std::thread::sleep(LOOK);
        }
    }
}

/// Writes the guardian's messages to the kernel's log, because the guardian has no terminal.
fn note(outcome: Result<bind::Outcome, BindError>) {
    let (lines, errors) = outcome.unwrap_or_else(|e| (Vec::new(), vec![e]));
    let errors = errors.iter().map(|e| with_causes(e));
    let Ok(mut log) = OpenOptions::new().write(true).open("/dev/kmsg") else {
        return;
    };
    for line in lines.into_iter().chain(errors) {
        // One write is one message. Without the kernel's log there is nobody left to tell.
        let _ = log.write(format!("mini-vmm: after a killed run: {line}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;

    use super::*;
    use crate::bind::Entry;
    use crate::bind::fake::FakeHost;

    const DISK: &str = "0000:01:00.0";

    /// A disk that is bound for a run that has ended.
    fn bound() -> (FakeHost, Host, Process) {
        let fake =
            FakeHost::new(&["nvme", "vfio-pci"]).device(DISK, 0x01_0802, Some("nvme"), Some(1));
        let run = Process {
            pid: std::process::id(),
            started: 1,
        };
        let request = BindRequest {
            addresses: vec![DISK.into()],
            owner: Some(run),
            ..BindRequest::default()
        };
        bind::bind(&fake.host(), &request).unwrap();
        let mut host = fake.host();
        host.records = host.records.with_timeout(Duration::from_millis(10));
        (fake, host, run)
    }

    #[test]
    fn what_a_killed_run_had_is_recovered() {
        let (fake, host, _) = bound();
        let lines = bind::recover_all(&host).unwrap();
        assert_eq!(lines, ["0000:01:00.0: given back"]);
        assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
        assert_eq!(bind::recover_all(&host).unwrap(), [""; 0]);
    }

    #[test]
    fn the_guardian_waits_for_the_lock() {
        let (fake, host, run) = bound();
        let lock = fake.host().records.lock().unwrap();
        let ends = thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            drop(lock);
        });
        let (lines, errors) = release_when_possible(&host, run).unwrap();
        assert!(lines.len() == 1 && errors.is_empty(), "{errors:?}");
        assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
        ends.join().unwrap();
    }

    #[test]
    fn the_guardian_waits_for_a_command_that_changes_the_device() {
        let (fake, host, run) = bound();
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        let entry = Entry {
            bdf: DISK.parse().unwrap(),
            before: None,
            command: Process::of(other.id()),
            under_way: None,
        };
        host.records.write_journal(&[entry]).unwrap();
        let ends = thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            other.kill().unwrap();
            other.wait().unwrap();
        });
        let (_, errors) = release_when_possible(&host, run).unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
        ends.join().unwrap();
    }
}
