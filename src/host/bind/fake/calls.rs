//! Writes of the made-up kernel as calls that may sleep, or in which the kernel may fail.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pci::Bdf;
use vmm::sys::process::Process;

use super::{FakeKernel, Fault};
use crate::bind::{Call, CallEnd};

/// A prepared write of the made-up kernel.
struct FakeCall {
    kernel: FakeKernel,
    path: PathBuf,
    text: String,
    process: Process,
    /// Whether the call outlasts the time for which the lock is kept.
    pauses: bool,
}

/// A process that does not exist.
const NOBODY: Process = Process { pid: 0, started: 0 };

impl Call for FakeCall {
    fn process(&self) -> Process {
        self.process
    }

    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn wait(&mut self, _: Duration) -> CallEnd {
        let mut state = self.kernel.lock();
        let (fault, next) = (state.fault, state.changes + 1);
        if self.process != NOBODY {
            // Only this change sleeps.
            state.fault = Fault::Never;
            return CallEnd::Sleeps;
        }
        if self.pauses && fault == Fault::Pauses(next) {
            state.fault = Fault::Never;
            return CallEnd::Sleeps;
        }
        let meanwhile = state.meanwhile.take_if(|_| self.pauses);
        drop(state);
        if let Some(work) = meanwhile {
            work();
        }
        match fault {
            Fault::Oops(n) if n == next => {
                self.kernel.lock().changes += 1;
                CallEnd::Killed(libc::SIGSEGV)
            }
            _ => CallEnd::Returned(self.kernel.write(&self.path, &self.text)),
        }
    }
}

pub(super) fn prepare(kernel: &FakeKernel, path: &Path, text: &str) -> io::Result<Box<dyn Call>> {
    let mut state = kernel.lock();
    let mut process = NOBODY;
    if state.fault == Fault::Sleeps(state.changes + 1) {
        let mut sleep = Command::new("sleep");
        // A failed test must not leave a reader of its output waiting.
        sleep.arg("60").stdout(Stdio::null()).stderr(Stdio::null());
        let child = sleep.spawn()?;
        await_sleep(child.id());
        process = Process::of(child.id()).unwrap();
        state.asleep = Some((child, path.into(), text.into()));
    }
    let pauses = state.fault == Fault::Pauses(state.changes + 1);
    Ok(Box::new(FakeCall {
        pauses,
        kernel: kernel.clone(),
        path: path.into(),
        text: text.into(),
        process,
    }))
}

/// Waits until the child has begun to sleep. Before, a loader that waits for a page of its file
/// looks like a call that no signal can end.
fn await_sleep(pid: u32) {
    let sleeps = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| stat.contains("(sleep) S "))
    };
    for _ in 0..1000 {
        if sleeps() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("process {pid} does not sleep");
}

impl FakeKernel {
    /// Lets another command work while the change with this number, counted from now, goes on.
    pub fn meanwhile(&self, change: usize, work: impl FnOnce() + Send + 'static) {
        self.set_fault(Fault::Pauses(change));
        self.lock().meanwhile = Some(Box::new(work));
    }

    /// Ends the sleep of the change that sleeps: the change is made, and its process ends.
    pub fn wake(&self) {
        let mut state = self.lock();
        let (mut child, path, text) = state.asleep.take().unwrap();
        drop(state);
        self.write(&path, &text).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits for the end of the process that sleeps. Its change is not made.
    pub fn reap(&self) {
        let asleep = self.lock().asleep.take();
        let (mut child, ..) = asleep.unwrap();
        child.wait().unwrap();
    }

    /// Whether the sleeping change has the lock of a device.
    pub fn is_locked(&self, bdf: Bdf) -> bool {
        let state = self.lock();
        let names = |(_, path, text): &(std::process::Child, PathBuf, String)| {
            let named = text.trim() == bdf.to_string();
            named || path.starts_with(self.device(bdf))
        };
        state.asleep.as_ref().is_some_and(names)
    }
}
