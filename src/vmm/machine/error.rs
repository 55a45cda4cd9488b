//! The errors of making and running a VM, with their remedies.

use std::io;

use pci::PciError;
use pci::bar_assignment::AssignError;

use crate::boot::BootError;
use crate::boot::acpi::AcpiError;
use crate::config::memory::MIN_MEMORY;
use crate::config::window;
use crate::errnos;
use crate::gsi::error::GsiError;
use crate::hostinfo::node_access::Cause;
use crate::layout::LayoutError;
use crate::log::error_chain::with_causes;
use crate::memory::error::MemoryError;
use crate::memory::prefault::PrefaultError;
use crate::memory::ram::RamError;
use crate::plug::AddError;
use crate::vcpu::error::VcpuError;
use crate::vfio::device::DeviceError;
use crate::vfio::function::FunctionError;
use crate::vfio::function::rom::RomError;
use crate::vfio::open::VfioError;
use crate::vfio::opener::Waiting;

/// The reason why a VM cannot be made or run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Variants are named after their modules, whose errors say more.
pub enum MachineError {
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Ram(#[from] RamError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Prefault(#[from] PrefaultError),
    #[error(transparent)]
    Interrupt(#[from] GsiError),
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    #[error(transparent)]
    Vfio(#[from] VfioError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Function(#[from] FunctionError),
    #[error(transparent)]
    Rom(#[from] RomError),
    #[error(transparent)]
    Pci(#[from] PciError),
    #[error(transparent)]
    BarAssignment(#[from] AssignError),
    #[error(
        "no device of this host can be added later: the guest's RAM at {start:#x}-{last:#x} lies \
         where no IOMMU can map it"
    )]
    RamOutOfReach { start: u64, last: u64 },
    #[error("an emulated device cannot get its addresses: {0}")]
    Bus(#[from] vm_device::bus::Error),
    #[error("cannot open {KVM}{cause}")]
    NoKvm { cause: Cause, source: io::Error },
    #[error("{}", errnos::text("KVM_GET_API_VERSION", .0))]
    KvmVersionCall(#[source] io::Error),
    #[error("this kernel's KVM has version {0} of its API, not 12")]
    KvmVersion(i32),
    #[error("this kernel's KVM lacks {name}, which is for {what}; Linux {since} and later have it")]
    KvmLacks {
        name: &'static str,
        what: &'static str,
        since: &'static str,
    },
    #[error("this host's KVM cannot take the performance counters from a guest")]
    PmuStays,
    #[error("{cpus} vCPUs are more than this host's KVM makes: {most}")]
    TooManyCpus { cpus: u32, most: u32 },
    #[error(
        "the last of {cpus} vCPUs has APIC ID {last}, and this host's KVM has IDs up to {}",
        ids.saturating_sub(1)
    )]
    HighApicId {
        cpus: u32,
        last: u32,
        /// The first ID that is too high.
        ids: u32,
    },
    #[error("{}", errnos::text(.name, .source))]
    Kvm {
        name: &'static str,
        source: kvm_ioctls::Error,
    },
    #[error(
        "{} of memory is more than this host has: {} in all",
        mib(.asked),
        mib(.total)
    )]
    HostMemory { asked: u64, total: u64 },
    #[error(
        "{} of memory is more than {}: {} are left, and {} needs all of it present",
        mib(.asked),
        if *.group { "this process's control group allows" } else { "this host has now" },
        mib(.left),
        if *.device { "a passed-through device" } else { "prefault=on" }
    )]
    Present {
        asked: u64,
        left: u64,
        /// Whether a control group sets the limit, and not the host's free memory.
        group: bool,
        /// Whether all memory must be present because of a device, and not because of
        /// `prefault=on`.
        device: bool,
    },
    #[error("this host's KVM cannot leave HLT to the guest (KVM_CAP_X86_DISABLE_EXITS)")]
    NativeIdle,
    #[error("the host has no descriptors or threads left")]
    Descriptors(#[source] io::Error),
    #[error("waiting for the guest failed")]
    Loop(#[source] io::Error),
    #[error("a thread failed while the VM was set up")]
    Thread,
    #[error("{0}")]
    Waits(Waiting),
    #[error(
        "{device}: BAR {bar} has {size:#x} bytes now that the device is open, and sysfs said \
         {early:#x}"
    )]
    BarChanged {
        device: String,
        bar: usize,
        /// By sysfs, before the device was opened.
        early: u64,
        /// By VFIO.
        size: u64,
    },
    #[error("the guest cannot continue: {0}")]
    Broken(String),
    #[error("the guest cannot continue: {0}")]
    Trapped(String),
}

/// KVM's node.
const KVM: &str = "/dev/kvm";

fn mib(bytes: &u64) -> String {
    format!("{} MiB", bytes >> 20)
}

impl MachineError {
    /// The remedy, most often a command to type.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Boot(e) => e.hint(),
            Self::Vfio(e) => e.hint(),
            Self::Waits(waiting) => Some(waiting.hint()),
            Self::Rom(e) => Some(e.hint()),
            Self::Function(e) => e.hint(),
            Self::Memory(e) => e.hint(),
            Self::Prefault(PrefaultError::Dma(e)) => e.hint(),
            Self::NoKvm { cause, .. } => {
                let module = "kvm_intel (or kvm_amd), and turn virtualisation on in the firmware";
                let permit = "as root: usermod -aG kvm $USER (with your user's name for $USER), \
                              then log in again";
                cause.hint(KVM, module, permit)
            }
            Self::Layout(LayoutError::TooSmall(_)) => {
                Some("give the guest more, for example --memory 512M".into())
            }
            Self::Layout(LayoutError::TooLarge { .. }) => {
                Some("give the guest less memory with --memory".into())
            }
            Self::BarAssignment(e) => Some(window::remedy(e).into()),
            Self::Layout(LayoutError::NoWindow { .. }) => Some(
                "pass fewer devices, give the guest less memory with --memory, or fewer or smaller \
                 root ports, for example --ports 1,mem64=1G"
                    .into(),
            ),
            Self::RamOutOfReach { .. } => Some(
                "give the guest less memory with --memory, so that it ends below the reserved \
                 range, or remove --ports"
                    .into(),
            ),
            Self::Ram(e) | Self::Prefault(PrefaultError::Ram(e)) => Some(e.hint()),
            Self::Prefault(PrefaultError::Thread(_)) => {
                Some("raise the limit of threads with `ulimit -u`".into())
            }
            Self::Vcpu(e) => e.hint(),
            Self::KvmLacks { .. } => Some("boot the host with a newer kernel".into()),
            Self::PmuStays => Some(
                "boot a kernel that has KVM_CAP_PMU_CAPABILITY (Linux 5.18), or as root, for all \
                 guests: modprobe kvm enable_pmu=0; or remove pmu=off from --cpus"
                    .into(),
            ),
            Self::TooManyCpus { most, .. } => Some(format!("give the guest fewer: --cpus {most}")),
            Self::HighApicId { cpus, ids, .. } => Some(match cpus <= ids {
                true => format!("IDs have no gaps with --cpus {cpus} alone"),
                false => format!("give the guest fewer: --cpus {ids}"),
            }),
            Self::NativeIdle => Some("remove idle=native from --cpus".into()),
            Self::Kvm { name, source } => errnos::hint(name, source),
            Self::KvmVersionCall(e) => errnos::hint("KVM_GET_API_VERSION", e),
            Self::Interrupt(e) => e.hint(),
            Self::Device(e) => e.hint(),
            Self::Descriptors(_) => Some("raise the limit with `ulimit -n`".into()),
            Self::HostMemory { asked, total } => Some(less(*total, unchecked(*asked))),
            Self::Present {
                asked, left, group, ..
            } => Some(less(
                *left,
                match group {
                    true => format!("raise the group's limit, or {}", unchecked(*asked)),
                    false => unchecked(*asked),
                },
            )),
            Self::BarChanged { .. } => Some(
                "start the guest again; the size may have been changed meanwhile (a resizable BAR)"
                    .into(),
            ),
            Self::Trapped(_) => Some(
                "remove mmap=off from --vfio: with it KVM emulates each access to a BAR, and KVM \
                 does not know every instruction"
                    .into(),
            ),
            _ => None,
        }
    }
}

/// Advises to give the guest half of `there` bytes, rounded to huge pages of 2 MiB, or to do
/// something else.
fn less(there: u64, or: String) -> String {
    let half = ((there / 2) & !0x1f_ffff).max(MIN_MEMORY);
    format!(
        "give the guest less, for example --memory {}M, or {or}",
        half >> 20
    )
}

/// Advises to start a guest of `asked` bytes without the check.
fn unchecked(asked: u64) -> String {
    format!(
        "start it all the same with --memory {}M,check=off",
        asked >> 20
    )
}

/// Makes the error of a /dev/kvm that cannot be opened.
pub(super) fn no_kvm(source: io::Error) -> MachineError {
    MachineError::NoKvm {
        cause: Cause::of(KVM, "misc/kvm", &[], &source),
        source,
    }
}

/// Makes the error of a failed KVM call.
pub(super) fn kvm_call(name: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> MachineError {
    move |source| MachineError::Kvm { name, source }
}

/// Makes the error of an add of which the host, or the device, refuses a step.
pub(super) fn refused(error: impl Into<MachineError>) -> AddError {
    let error: MachineError = error.into();
    let hint = error.hint();
    AddError::Host {
        text: with_causes(&error),
        hint,
        source: None,
        request: false,
    }
}
