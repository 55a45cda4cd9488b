//! Calls of a run that opens, resets or closes a device, and that have not ended with the run. The
//! journal names them, and nothing is done for the device until they have ended. They change
//! nothing that is to be undone.

use std::time::Duration;

use pci::Bdf;
use vmm::hostinfo::name::{HostName, parse_address};
use vmm::log::error_chain::with_causes;
use vmm::sys::process::Process;

use crate::bind::error::BindError;
use crate::bind::host::Host;
use crate::bind::journal::Entry;
use crate::bind::under_way::UnderWay;

/// How long the end of a run waits for the lock.
const PATIENCE: Duration = Duration::from_millis(500);

/// Notes a call that goes on after a run, so that the next command finds it. `caller` is the thread
/// that makes the call. Returns a sentence if the call cannot be noted: only root writes the
/// records.
pub fn note_call_or_say(host: &Host, device: &str, call: &str, caller: Process) -> Option<String> {
    let bdf = device.parse().ok()?;
    let error = note_call(host, bdf, call, caller).err()?;
    Some(format!(
        "{device}: no record tells later commands of this call, which process {} makes: {}",
        caller.pid,
        with_causes(&error)
    ))
}

/// Notes a call that goes on. `caller` is the thread that makes the call.
///
/// # Errors
/// The journal cannot be written, or another command has the lock.
fn note_call(host: &Host, bdf: Bdf, call: &str, caller: Process) -> Result<(), BindError> {
    let records = host.records.clone().with_timeout(PATIENCE);
    let _lock = records.lock()?;
    let mut entries = records.readable()?;
    // An unfinished change of the device is undone as well, when the call has ended.
    let of_run = |entry: &Entry| entry.under_way.as_ref().is_some_and(|state| state.of_run);
    let alone = entries
        .iter()
        .all(|entry| entry.bdf != bdf || of_run(entry));
    entries.retain(|entry| entry.bdf != bdf || !alone);
    let under_way = UnderWay {
        given_up: true,
        of_run: alone,
        ..UnderWay::begin(call.to_owned(), caller)
    };
    if alone {
        entries.push(Entry::new(bdf, None));
    }
    for entry in entries.iter_mut().filter(|entry| entry.bdf == bdf) {
        entry.under_way = Some(under_way.clone());
    }
    records.write_journal(&entries)
}

/// Checks that no call for these devices of a run goes on.
///
/// # Errors
/// [`BindError::UnderWay`], or the journal cannot be read.
pub fn check_calls<'a>(
    host: &Host,
    addresses: impl IntoIterator<Item = &'a str>,
) -> Result<(), BindError> {
    for address in addresses {
        // The run itself refuses a bad address.
        let Ok(HostName::Pci(bdf)) = parse_address(address) else {
            continue;
        };
        if let Some(state) = host.records.call_of(bdf)? {
            return Err(BindError::UnderWay(bdf, Box::new(state)));
        }
    }
    Ok(())
}
