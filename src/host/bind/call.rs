//! Makes the calls of the kernel that change a device. Each may sleep for ever.
//!
//! The unbind of a driver waits for the last process that has one of its nodes open (sound,
//! graphics), and a probe or a change of the number of virtual functions waits for firmware. The
//! sleep cannot be interrupted, and the device's lock is held meanwhile. So:
//!
//! 1. A process of its own makes the call. It is prepared first and begins after the journal names
//!    it, so that a later command finds it.
//! 2. If the call does not end at once, the lock of the records is given away until it ends. The
//!    journal keeps other commands from the device and from its group.
//! 3. After the limit, the command stops waiting. The journal says that the call is under way.
//!
//! A call is not made again while it goes on, nor after the kernel has ended its process: the
//! device's lock is then held for ever.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use pci::Bdf;
use tracing::debug;
use vmm::sys::process::Process;

use crate::bind::error::BindError;
use crate::bind::facts::virtual_functions;
use crate::bind::host::Host;
use crate::bind::kernel::CallEnd;
use crate::bind::under_way::{UnderWay, Waiter};
use crate::open_files::{Files, Open, open_files};
use crate::{limited, nodes};

/// The time for which a call is waited for with the lock. Most calls end within it.
const QUICK: Duration = Duration::from_millis(300);

/// Writes a text to an attribute that concerns a device.
pub(super) fn write(host: &Host, bdf: Bdf, path: PathBuf, text: &str) -> Result<(), BindError> {
    let command = format!("echo {} > {}", text.trim(), path.display());
    debug!("{command}");
    check_none(host, bdf)?;
    let failed = |path: PathBuf, source| BindError::Write {
        path,
        text: text.trim().to_owned(),
        source,
    };
    // A driver removes the nodes before it waits for the processes that have them open.
    let files = Files::of(nodes::of(&host.sysfs, &host.paths, bdf));
    let mut call = match host.kernel.prepare(&path, text) {
        Ok(call) => call,
        Err(source) => return Err(failed(path, source)),
    };
    let mut state = UnderWay::begin(command, call.process());
    host.records.set_call(bdf, state.clone())?;
    let started = call.start();
    let end = match started {
        Ok(()) => call.wait(QUICK.min(host.limit)),
        Err(e) => CallEnd::Returned(Err(e)),
    };
    let end = match end {
        CallEnd::Sleeps => {
            host.records.pause();
            let end = call.wait(host.limit.saturating_sub(QUICK));
            host.records.resume()?;
            end
        }
        end => end,
    };
    match end {
        CallEnd::Returned(outcome) => outcome.map_err(|source| failed(path, source)),
        CallEnd::Killed(libc::SIGKILL) => {
            let source = io::Error::from(io::ErrorKind::Interrupted);
            Err(failed(path, source))
        }
        CallEnd::Killed(signal) => {
            state.signal = Some(signal);
            host.records.set_call(bdf, state.clone())?;
            Err(BindError::UnderWay(bdf, Box::new(state)))
        }
        CallEnd::Sleeps => {
            state.given_up = true;
            state.holders = holders(host, &files);
            host.records.set_call(bdf, state.clone())?;
            Err(BindError::UnderWay(bdf, Box::new(state)))
        }
    }
}

/// Checks that no call for a device goes on or was lost in the kernel. While one does, each access
/// that takes the device's lock sleeps too, and so does a read of its `driver_override`.
/// A change of a physical function also takes the locks of its virtual functions, to remove them:
/// each waits for the other.
pub(super) fn check_none(host: &Host, bdf: Bdf) -> Result<(), BindError> {
    let functions = virtual_functions(&host.sysfs, bdf);
    let physical = host.sysfs.physical_function(bdf).ok().flatten();
    for bdf in [bdf].into_iter().chain(physical).chain(functions) {
        if let Some(state) = host.records.call_of(bdf)? {
            return Err(BindError::UnderWay(bdf, Box::new(state)));
        }
    }
    Ok(())
}

/// The processes that have nodes of the device open.
fn holders(host: &Host, files: &Files) -> Vec<Waiter> {
    let found = limited::within(limited::LIMIT, || {
        let open = open_files(&host.paths);
        files.among(&open).cloned().collect::<Vec<Open>>()
    });
    let found = found.unwrap_or_default().into_iter();
    let holders = found.map(|open| Waiter {
        process: Process::of(open.process),
        name: open.name,
        path: open.path,
    });
    holders.collect()
}
