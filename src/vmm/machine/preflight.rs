//! Checks the configuration before anything is taken from the host.

use std::fs;

use crate::boot::Images;
use crate::config::VmConfig;
use crate::config::memory::{MemoryConfig, Pages};
use crate::hostinfo::memory;
use crate::hostinfo::memory::HostMemory;
use crate::hostinfo::sysfs::Sysfs;
use crate::machine::error::MachineError;
use crate::machine::ram_setup::is_pinned_for_any;
use crate::memory::error::DmaError;
use crate::memory::hugetlb;
use crate::memory::prefault::PrefaultError;
use crate::vfio::function::rom::RomSource;
use crate::vfio::open::candidate::{self, Candidate};
use crate::{phase, sys, vcpu};

/// The files and devices that the user named: kernel and initrd, and for each `--vfio` the source
/// of the ROM and the device.
type Named = (Images, Vec<RomSource>, Vec<Candidate>);

/// Opens the files, finds the devices in sysfs, and checks that the host can give the VM its memory
/// and CPUs. The host stays as it is.
///
/// # Errors
/// The first demand of the user that cannot be met.
pub(super) fn check(config: &VmConfig) -> Result<Named, MachineError> {
    let _phase = phase!("look_at_files");
    let images = Images::open(&config.kernel, config.initrd.as_deref())?;
    let roms = config
        .vfio
        .iter()
        .map(|device| RomSource::load(&device.rom));
    let roms = roms.collect::<Result<Vec<_>, _>>()?;
    let candidates = candidate::find(&Sysfs::default(), &config.vfio)?;
    check_memory(&config.memory, !candidates.is_empty())?;
    if config.memory.pages == Pages::Transparent {
        hugetlb::tell_if_none(config.memory.shared);
    }
    vcpu::pin::check(&config.cpus.pin)?;
    Ok((images, roms, candidates))
}

/// Checks that the host has enough memory. Otherwise the kernel would kill some process later.
///
/// With a device, or with `prefault=on`, all of the memory must be free at the start. Otherwise the
/// kernel allocates a page when the guest touches it. Huge pages are not checked: they are reserved
/// when RAM is made.
fn check_memory(config: &MemoryConfig, devices: bool) -> Result<(), MachineError> {
    let asked = config.size;
    if matches!(config.pages, Pages::Huge(_)) {
        return Ok(());
    }
    let total = memory::total();
    if asked > total {
        return Err(MachineError::HostMemory { asked, total });
    }
    if !devices && config.prefault != Some(true) {
        return Ok(());
    }
    let host = HostMemory::read().map(|host| (host.available, false));
    let group = memory::group_left().map(|left| (left, true));
    match host.into_iter().chain(group).min() {
        Some((left, group)) if asked > left => Err(MachineError::Present {
            asked,
            left,
            group,
            device: devices,
        }),
        _ => Ok(()),
    }
}

/// Checks that this process may lock `size` bytes of RAM, because VFIO locks all RAM for a PCI
/// device.
///
/// This is checked after the devices are open: an error of opening tells the user more.
///
/// # Errors
/// [`DmaError::MemLock`].
pub(super) fn check_memory_lock(size: u64, candidates: &[Candidate]) -> Result<(), MachineError> {
    let limit = sys::memlock_limit();
    if limit >= size || !is_pinned_for_any(candidates) {
        return Ok(());
    }
    // If the capabilities cannot be read, the check passes, and the kernel decides later.
    let status = fs::read_to_string("/proc/self/status");
    if status.map_or(true, |status| sys::may_lock(&status)) {
        return Ok(());
    }
    Err(PrefaultError::Dma(DmaError::MemLock {
        need: size,
        limit,
        source: None,
    })
    .into())
}
