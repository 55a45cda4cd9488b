//! The devices that the user named, found and checked without touching them.

use std::io;
use std::path::{Path, PathBuf};

use pci::Bdf;
use uuid::Uuid;

use crate::config::device::DeviceConfig;
use crate::config::slots;
use crate::hostinfo::device_node::device_node;
use crate::hostinfo::holders::Holders;
use crate::hostinfo::iova::Reach;
use crate::hostinfo::name::{HostName, parse_address};
use crate::hostinfo::pci_device::PciDevice;
use crate::hostinfo::sysfs::Sysfs;
use crate::sys::descriptor::Descriptor;
use crate::vfio::open::error::{StepError, VfioError};
use crate::vfio::open::nodes;
use crate::vfio::opener::Waiting;
use crate::vfio::uapi;

/// A device that has passed the checks and may be opened.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub(super) name: HostName,
    /// The device's directory in sysfs, which ends in the device's name.
    pub(super) path: PathBuf,
    pub(super) group: u32,
    /// The VF token that the user gave.
    pub(super) token: Option<Uuid>,
    /// The physical function, if the device is a virtual function.
    pub(super) physical: Option<Bdf>,
    /// The device's own node, if another process has opened it.
    pub(super) given: Option<Descriptor>,
}

impl Candidate {
    /// The host's name of the device.
    pub fn name(&self) -> HostName {
        self.name
    }

    /// The device's directory in sysfs.
    pub fn dir(&self) -> &Path {
        &self.path
    }

    /// The I/O addresses that the device's IOMMU can map, as far as `sysfs` tells.
    pub fn reach(&self, sysfs: &Sysfs) -> Reach {
        Reach::of_group(sysfs, &self.path, self.group)
    }

    /// Whether another process has opened the device's own node.
    pub fn is_given(&self) -> bool {
        self.given.is_some()
    }

    /// The device's node for iommufd, whose name is in the directory `vfio-dev`; `None` if the
    /// kernel makes no such node (Documentation/driver-api/vfio.rst, "VFIO Device cdev").
    pub fn cdev(&self) -> Option<String> {
        Some(nodes::device(&device_node(&self.path)?))
    }

    /// The device's name for VFIO_GROUP_GET_DEVICE_FD, followed by its VF token
    /// (drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_match).
    pub(super) fn name_and_token(&self) -> String {
        let name = self.name;
        self.token.map_or_else(
            || name.to_string(),
            |token| format!("{name} vf_token={}", token.hyphenated()),
        )
    }

    /// Makes the error of a step of opening the device.
    pub(super) fn failed(&self, source: StepError) -> VfioError {
        VfioError::Open {
            name: self.name,
            source,
        }
    }

    /// Makes the error of a call that has failed, or has not ended.
    pub(super) fn call_failed(&self, call: &'static str, source: io::Error) -> VfioError {
        match Waiting::behind(&source) {
            Some(waiting) => VfioError::Waits(waiting.clone()),
            None => self.failed(StepError::call(call, source)),
        }
    }

    /// Makes the error of the call that opens the device. The kernel checks the VF token first:
    /// EACCES means that a token is missing or wrong. EINVAL and EBUSY mean that another process
    /// has the device, if one is there: the kernel uses EINVAL for other reasons too.
    pub(super) fn not_given(&self, call: &'static str, source: io::Error) -> VfioError {
        match source.raw_os_error() {
            Some(libc::EACCES) => VfioError::TokenRefused {
                name: self.name,
                given: self.token.is_some(),
                physical: self.physical,
            },
            Some(libc::EINVAL | libc::EBUSY) => self.held(call, source),
            _ => self.call_failed(call, source),
        }
    }

    /// Names the processes that have the device, if there are any.
    fn held(&self, call: &'static str, source: io::Error) -> VfioError {
        let (group, device) = (nodes::group(self.group), self.cdev());
        let both = [Some(&group), device.as_ref()];
        let both: Vec<_> = both.into_iter().flatten().map(Path::new).collect();
        let holders = Holders::of(&both);
        // Without a holder in sight, a hidden one is likely only if the kernel says no more.
        if holders.processes.is_empty() && !holders.hidden {
            return self.failed(StepError::call(call, source));
        }
        VfioError::Held {
            name: self.name,
            holders: Box::new(holders),
            node: device.unwrap_or(group),
            call,
            source,
        }
    }
}

/// Finds the devices that the user named and checks them as far as possible without touching them.
///
/// An address is `01:00.0`, `0000:01:00.0`, a mediated device's UUID, or the path of either's
/// directory in sysfs.
///
/// # Errors
/// The first mistake, with its remedy.
pub fn find(sysfs: &Sysfs, configs: &[DeviceConfig]) -> Result<Vec<Candidate>, VfioError> {
    // The guest's bus has a slot for each device, and the guest will find them all.
    slots::assign(configs)?;
    let mut names: Vec<HostName> = Vec::new();
    for config in configs {
        let address = &config.address;
        let name = parse_address(address).map_err(|_| VfioError::BadAddress(address.clone()))?;
        if names.contains(&name) {
            return Err(VfioError::Twice(name));
        }
        names.push(name);
    }
    let checked = names.into_iter().zip(configs).map(|(name, config)| {
        let checked = match name {
            HostName::Pci(bdf) => check_pci(sysfs, bdf, config.vf_token),
            HostName::Mediated(uuid) => check_mediated(sysfs, uuid, config.vf_token),
        }?;
        check_given(name, config.given)?;
        Ok(Candidate {
            given: config.given,
            ..checked
        })
    });
    checked.collect()
}

fn unreadable(what: String) -> impl FnOnce(io::Error) -> VfioError {
    move |source| VfioError::Sysfs { what, source }
}

fn check_pci(sysfs: &Sysfs, bdf: Bdf, token: Option<Uuid>) -> Result<Candidate, VfioError> {
    let name = HostName::Pci(bdf);
    let facts = sysfs
        .device(bdf)
        .map_err(unreadable(name.in_words()))?
        .ok_or(VfioError::NoDevice(bdf))?;
    if facts.is_bridge() {
        return Err(VfioError::Bridge(bdf));
    }
    let Some(group) = facts.group else {
        return Err(VfioError::NoGroup(bdf));
    };
    if facts.no_iommu {
        return Err(VfioError::NoIommuMode(bdf));
    }
    if !facts.is_vfio() {
        return Err(VfioError::NotVfio {
            bdf,
            vgpu: facts.vgpu_type_file(),
            driver: facts.driver,
        });
    }
    let culprits: Vec<_> = sysfs
        .group_members(group)
        .map_err(unreadable(format!("IOMMU group {group}")))?
        .into_iter()
        .filter(PciDevice::blocks_group)
        .collect();
    if !culprits.is_empty() {
        return Err(VfioError::NotViable {
            bdf,
            group,
            culprits,
        });
    }
    let physical = sysfs
        .physical_function(bdf)
        .map_err(unreadable(name.in_words()))?;
    if token.is_some() && !takes_token(sysfs, bdf, physical)? {
        return Err(VfioError::TokenUnused(name));
    }
    Ok(Candidate {
        name,
        path: facts.path,
        group,
        token,
        physical,
        given: None,
    })
}

/// Whether the kernel compares tokens for a function: for a virtual function if its physical
/// function is bound to VFIO too, and for a physical function (drivers/vfio/pci/vfio_pci_core.c,
/// vfio_pci_validate_vf_token).
fn takes_token(sysfs: &Sysfs, bdf: Bdf, physical: Option<Bdf>) -> Result<bool, VfioError> {
    let Some(physical) = physical else {
        return Ok(sysfs.has_virtual_functions(bdf));
    };
    let holder = sysfs
        .device(physical)
        .map_err(unreadable(HostName::Pci(physical).in_words()))?;
    Ok(holder.is_some_and(|h| h.is_vfio()))
}

/// Checks that nobody has bound the device through a file that was handed over: the kernel binds a
/// file once (drivers/vfio/device_cdev.c), and answers no other call before.
fn check_given(name: HostName, given: Option<Descriptor>) -> Result<(), VfioError> {
    let Some(given) = given else { return Ok(()) };
    let file = given
        .look()
        .map_err(|source| VfioError::Given { name, source })?;
    match uapi::device_info(&file) {
        Ok(_) => Err(VfioError::BoundBefore(name)),
        Err(_) => Ok(()),
    }
}

/// Checks that a mediated device is used as a PCI device, has a driver, and gets no VF token. The
/// device is alone in its group, so the group's other members need no check.
fn check_mediated(sysfs: &Sysfs, uuid: Uuid, token: Option<Uuid>) -> Result<Candidate, VfioError> {
    let name = HostName::Mediated(uuid);
    let facts = sysfs
        .mediated(uuid)
        .map_err(unreadable(name.in_words()))?
        .ok_or(VfioError::NoMediated(uuid))?;
    if !facts.is_pci() {
        return Err(VfioError::NotPci {
            uuid,
            api: facts.api,
        });
    }
    let Some(group) = facts.group else {
        return Err(VfioError::Driverless(uuid));
    };
    if token.is_some() {
        return Err(VfioError::TokenUnused(name));
    }
    Ok(Candidate {
        name,
        path: facts.path,
        group,
        token: None,
        physical: None,
        given: None,
    })
}

#[cfg(test)]
mod tests;
