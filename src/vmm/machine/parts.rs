//! The parts of a VM that are made in one piece.

use std::sync::Arc;
use std::{fs, io, thread};

use kvm_ioctls::{Cap, Kvm};
use vmm_sys_util::eventfd::EventFd;

use crate::config::memory::{MemoryConfig, Pages};
use crate::devices::serial::{Output, Serial};
use crate::gsi::routing::GsiRouting;
use crate::hostinfo::memory;
use crate::hostinfo::memory::HostMemory;
use crate::hostinfo::name::HostName;
use crate::machine::MachineError;
use crate::memory::dma::DmaError;
use crate::memory::pinning::PinningError;
use crate::vfio::device::Device;
use crate::vfio::open::candidate::Candidate;
use crate::vfio::open::{Opened, VfioError};
use crate::{layout, sys};

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

/// Whether RAM is pinned for any of the devices. For a mediated one the kernel pins what it uses.
pub(super) fn pins(candidates: &[Candidate]) -> bool {
    candidates.iter().any(|c| !is_mediated(c))
}

fn is_mediated(candidate: &Candidate) -> bool {
    matches!(candidate.name(), HostName::Mediated(_))
}

/// How much of RAM may be mapped while the guest runs already. A guest that is quicker waits, and that
/// is to take no more than a few seconds, since a vCPU that does not come back for twenty is a soft lockup
/// for Linux (Documentation/admin-guide/lockup-watchdogs.rst). A mediated device may use memory
/// before it masters any bus: it is a program.
pub(super) fn left_beside(memory: &MemoryConfig, candidates: &[Candidate]) -> u64 {
    /// With 4 KiB pages, and where pinning itself gets them.
    const SLOW: u64 = 1 << 30;
    const FAST: u64 = 8 << 30;
    match (memory.prefault, memory.pages) {
        (Some(true), _) => 0,
        _ if candidates.iter().any(is_mediated) => 0,
        (Some(false), _) | (_, Pages::Small) => SLOW,
        _ => FAST,
    }
}

/// All of RAM is pinned for a device of the bus, and a limit on that is better known before the guest
/// runs.
pub(super) fn check_lock(size: u64, candidates: &[Candidate]) -> Result<(), MachineError> {
    let limit = sys::memlock_limit();
    if limit >= size || !pins(candidates) {
        return Ok(());
    }
    // What cannot be read is left for the kernel to judge.
    let status = fs::read_to_string("/proc/self/status");
    if status.map_or(true, |status| sys::may_lock(&status)) {
        return Ok(());
    }
    Err(PinningError::Dma(DmaError::MemLock {
        need: size,
        limit,
        source: None,
    })
    .into())
}

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

/// Devices reset, which takes a tenth of a second of waiting, while `rest` is done. Where there are no
/// devices a thread would cost more than it saves.
///
/// # Errors
/// The first of what came of the two.
pub(super) fn side_by_side<R>(
    devices: bool,
    open: impl FnOnce() -> Result<Option<Opened>, VfioError> + Send,
    rest: impl FnOnce() -> Result<R, MachineError>,
) -> Result<(Option<Opened>, R), MachineError> {
    if !devices {
        return Ok((None, rest()?));
    }
    let (opened, rest) = thread::scope(|scope| {
        let opening = scope.spawn(open);
        let rest = rest();
        (opening.join(), rest)
    });
    let opened = opened.map_err(|_| MachineError::Thread)??;
    Ok((opened, rest?))
}

pub(super) fn make_serial(
    router: &GsiRouting,
    output: Output,
) -> Result<Arc<Serial>, MachineError> {
    let event =
        EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(MachineError::Descriptors)?;
    router.assign_irqfd(&event, layout::GSI_SERIAL)?;
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
