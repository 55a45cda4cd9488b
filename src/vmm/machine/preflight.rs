//! Checks the configuration before anything is taken from the host.

use std::path::Path;

use crate::boot::Images;
use crate::config::VmConfig;
use crate::config::memory::{MemoryConfig, Pages};
use crate::hostinfo::memory;
use crate::hostinfo::memory::{HostMemory, Shortage};
use crate::hostinfo::resizable;
use crate::hostinfo::sysfs::Sysfs;
use crate::machine::error::MachineError;
use crate::machine::ram_setup::is_pinned_for_any;
use crate::memory::hugetlb;
use crate::memory::memlock;
use crate::memory::prefault::PrefaultError;
use crate::vfio::function::rom::RomSource;
use crate::vfio::open::VfioError;
use crate::vfio::open::candidate::{self, Candidate};
use crate::vfio::opener::Opener;
use crate::{phase, vcpu};

/// The files and devices that the user named: kernel and initrd, and for each `--vfio` the source
/// of the ROM and the device.
type Named = (Images, Vec<RomSource>, Vec<Candidate>);

/// Opens the files, finds the devices in sysfs, and checks that the host can give the VM its memory
/// and CPUs. The host stays as it is. `opener` makes the calls that may sleep.
///
/// # Errors
/// The first demand of the user that cannot be met.
pub(super) fn check(config: &VmConfig, opener: &Opener) -> Result<Named, MachineError> {
    let _phase = phase!("look_at_files");
    let images = Images::open(&config.kernel, config.initrd.as_deref())?;
    let roms = config
        .vfio
        .iter()
        .map(|device| RomSource::load(&device.rom));
    let roms = roms.collect::<Result<Vec<_>, _>>()?;
    config.addresses().map_err(VfioError::from)?;
    let candidates = candidate::find(&Sysfs::default(), &config.vfio)?;
    for candidate in &candidates {
        let dir = Sysfs::default().path_of(candidate.name());
        let name = candidate.name().to_string();
        resizable::tell_if_small(&name, &dir, |path| opener.read(&name, path));
    }
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
    if !config.is_checked() {
        return Ok(());
    }
    let present = devices || config.prefault == Some(true);
    let total = memory::total();
    let total_alone = HostMemory {
        total,
        available: total,
        group: None,
    };
    let host = match present {
        true => HostMemory::read().unwrap_or(total_alone),
        false => total_alone,
    };
    let asked = config.size;
    match host.shortage(asked, present) {
        None => Ok(()),
        Some(Shortage::Total(total)) => Err(MachineError::HostMemory { asked, total }),
        Some(short) => Err(MachineError::Present {
            asked,
            left: short.left(),
            group: short.is_of_group(),
            device: devices,
        }),
    }
}

/// Checks that this process may lock `size` bytes of RAM, because VFIO locks all RAM for a PCI
/// device. `interface` has opened the devices.
///
/// This is checked after the devices are open: an error of opening tells the user more.
///
/// # Errors
/// [`DmaError::MemLock`].
pub(super) fn check_memory_lock(
    size: u64,
    candidates: &[Candidate],
    interface: Option<&str>,
) -> Result<(), MachineError> {
    // If the capabilities cannot be read, the check passes, and the kernel decides later.
    if !is_pinned_for_any(candidates) || !Path::new("/proc/self/status").exists() {
        return Ok(());
    }
    match memlock::too_little(size, interface == Some("iommufd")) {
        Some(too_little) => Err(PrefaultError::Dma(too_little.error(None)).into()),
        None => Ok(()),
    }
}
