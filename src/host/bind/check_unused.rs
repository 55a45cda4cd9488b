//! Checks that no process uses a device before its driver is unbound. Otherwise the driver would
//! wait for the process, perhaps forever, and virtual functions would be removed while they are in
//! use.

use std::path::PathBuf;
use std::{fs, io};

use crate::bind::error::BindError;
use crate::bind::facts::{Facts, unreadable, virtual_functions};
use crate::bind::host::Host;
use crate::bind::plan::Step;
use crate::bind::select::check_free;
use crate::open_files::{Holder, holders};

/// Checks that no process has the device or its group open. If the steps remove the device's
/// virtual functions, these are checked in the same way, and the host must not use them either.
pub(super) fn check_unused(host: &Host, now: &Facts, steps: &[Step]) -> Result<(), BindError> {
    check_held(host, now)?;
    if !takes_functions(steps) {
        return Ok(());
    }
    let physical = now.bdf();
    for bdf in virtual_functions(&host.sysfs, physical) {
        let Some(function) = Facts::read(&host.sysfs, bdf)? else {
            continue;
        };
        let free =
            check_held(host, &function).and_then(|()| check_free(host, &function.device, false));
        free.map_err(|cause| BindError::FunctionInUse {
            physical,
            cause: Box::new(cause),
        })?;
    }
    Ok(())
}

/// Whether these steps remove a device's virtual functions. Every driver removes them when the
/// driver is unbound, vfio-pci included (Documentation/PCI/pci-iov-howto.rst).
pub(super) fn takes_functions(steps: &[Step]) -> bool {
    steps
        .iter()
        .any(|step| matches!(step, Step::Unbind { .. } | Step::Functions { count: 0, .. }))
}

fn check_held(host: &Host, facts: &Facts) -> Result<(), BindError> {
    let bdf = facts.bdf();
    let holders = holders_of(host, facts);
    let holders = holders.map_err(unreadable(format!("the use of PCI device {bdf}")))?;
    if holders.is_empty() {
        return Ok(());
    }
    Err(BindError::Held { bdf, holders })
}

/// The processes that have a device, its group or another device of the group open through VFIO.
fn holders_of(host: &Host, facts: &Facts) -> io::Result<Vec<Holder>> {
    if !facts.device.is_vfio() {
        return Ok(Vec::new());
    }
    let vfio = host.paths.dev.join("vfio");
    let group = facts.device.group;
    // All devices of the group are checked. While a guest has one of them, the kernel binds no host
    // driver to another.
    let members = group.and_then(|group| host.sysfs.group_members(group).ok());
    let members = members.unwrap_or_else(|| vec![facts.device.clone()]);
    let cdevs = members
        .iter()
        .filter_map(|member| fs::read_dir(member.path.join("vfio-dev")).ok())
        .flat_map(|entries| entries.flatten())
        .map(|entry| vfio.join("devices").join(entry.file_name()));
    let group = group.map(|group| vfio.join(group.to_string()));
    let nodes: Vec<PathBuf> = group.into_iter().chain(cdevs).collect();
    holders(&host.paths, &nodes)
}
