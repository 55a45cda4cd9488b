//! The parts of a VM that are made in one piece.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use kvm_ioctls::{Cap, Kvm};
use tracing::debug;
use vmm_sys_util::eventfd::EventFd;

use super::MachineError;
use crate::config::memory::{MemoryConfig, Pages};
use crate::devices::serial::{Output, Serial};
use crate::host::memory::{self, HostMemory};
use crate::interrupt::Router;
use crate::layout;
use crate::memory::ram::Ram;
use crate::observe::progress::Progress;
use crate::phase;
use crate::vfio::device::Device;
use crate::vfio::{Opened, VfioError};

pub(super) fn open_kvm() -> Result<Kvm, MachineError> {
    let kvm =
        Kvm::new().map_err(|e| MachineError::NoKvm(io::Error::from_raw_os_error(e.errno())))?;
    let version = kvm.get_api_version();
    if version != kvm_bindings::KVM_API_VERSION as i32 {
        return Err(MachineError::KvmVersion(version));
    }
    let needed = [
        (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
        (Cap::Irqfd, "KVM_CAP_IRQFD"),
        (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
        (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    ];
    match needed
        .into_iter()
        .find(|(cap, _)| !kvm.check_extension(*cap))
    {
        Some((_, name)) => Err(MachineError::KvmLacks(name)),
        None => Ok(kvm),
    }
}

/// The most threads that make RAM present: more only wait for each other, since the kernel zeroes pages
/// as fast as the memory takes them.
const PREFAULT_THREADS: usize = 8;

/// Memory that the host has not would end in somebody's process being killed: say so first. With a
/// device, or with `prefault=on`, all of it must be there at once; else pages appear as they are
/// touched. Huge pages are counted apart, and set aside when RAM is made.
pub(super) fn check_memory(config: &MemoryConfig, devices: bool) -> Result<(), MachineError> {
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
    let group = memory::group_room().map(|room| (room, true));
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

/// Devices reset, which takes a tenth of a second of waiting, while RAM is zeroed and `rest` is done.
/// Where there are no devices all is done in turn: a thread costs more than it would save.
///
/// # Errors
/// The first of what came of the three.
pub(super) fn side_by_side<R>(
    devices: bool,
    open: impl FnOnce() -> Result<Option<Opened>, VfioError> + Send,
    fill: impl FnOnce() -> Result<(), MachineError> + Send,
    rest: impl FnOnce() -> Result<R, MachineError>,
) -> Result<(Option<Opened>, R), MachineError> {
    if !devices {
        fill()?;
        return Ok((None, rest()?));
    }
    let (opened, filled, rest) = thread::scope(|scope| {
        let opening = scope.spawn(open);
        let filling = scope.spawn(fill);
        let rest = rest();
        (opening.join(), filling.join(), rest)
    });
    let opened = opened.map_err(|_| MachineError::Thread)??;
    filled.map_err(|_| MachineError::Thread)??;
    Ok((opened, rest?))
}

/// Makes all of RAM present.
pub(super) fn populate(ram: &Ram) -> Result<(), MachineError> {
    let _phase = phase!("populate_ram");
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let progress = Progress::new("preparing the guest's memory", ram.size());
    let began = Instant::now();
    ram.populate(threads.min(PREFAULT_THREADS), &|done| progress.set(done))?;
    debug!(bytes = ram.size(), took = ?began.elapsed(), "RAM is present");
    Ok(())
}

pub(super) fn make_serial(router: &Router, output: Output) -> Result<Arc<Serial>, MachineError> {
    let event =
        EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(MachineError::Descriptors)?;
    router.attach(&event, layout::GSI_SERIAL)?;
    Ok(Arc::new(
        Serial::new(event, output).map_err(MachineError::Descriptors)?,
    ))
}

/// An upper bound of what 64-bit BARs take: everything.
pub(super) fn bytes_of_bars(opened: &Opened) -> u64 {
    let regions = opened
        .devices
        .iter()
        .flat_map(|d| (0..6).map(|i| d.region(i).size));
    regions.fold(0, u64::saturating_add)
}
