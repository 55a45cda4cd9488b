//! KVM's VM with its memory and interrupt controllers, before it has vCPUs and devices.

use std::io;
use std::sync::Arc;

use kvm_bindings::CpuId;
use kvm_ioctls::{Kvm, VmFd};

use crate::boot::Images;
use crate::config::VmConfig;
use crate::gsi::{irqchip, routing::GsiRouting};
use crate::layout::Layout;
use crate::machine::capabilities;
use crate::machine::error::{MachineError, kvm_call};
use crate::memory::address_space::AddressSpace;
use crate::memory::kvm_slots::KvmSlots;
use crate::memory::ram::Ram;
use crate::{layout, phase, vcpu};

/// The host's KVM and the abilities of its processors. Needed while a VM is made.
pub(super) struct HostKvm {
    /// /dev/kvm.
    pub fd: Kvm,
    /// The CPUID entries that KVM supports.
    pub cpuid: CpuId,
    /// Bits of a guest-physical address.
    pub phys_bits: u8,
}

impl HostKvm {
    /// Opens /dev/kvm and checks for the capabilities that a VM with or without `devices` needs.
    pub fn open(devices: bool) -> Result<Self, MachineError> {
        let fd =
            Kvm::new().map_err(|e| MachineError::NoKvm(io::Error::from_raw_os_error(e.errno())))?;
        let version = fd.get_api_version();
        if version != kvm_bindings::KVM_API_VERSION as i32 {
            return Err(MachineError::KvmVersion(version));
        }
        capabilities::check(|cap| fd.check_extension_raw(cap.into()), devices)?;
        let cpuid = fd
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm_call("KVM_GET_SUPPORTED_CPUID"))?;
        let phys_bits = vcpu::phys_bits(&cpuid);
        Ok(Self {
            fd,
            cpuid,
            phys_bits,
        })
    }
}

/// The VM, its RAM and its interrupt controllers.
pub(super) struct Vm {
    pub fd: Arc<VmFd>,
    /// The layout, with a 64-bit window of the least size: no BAR is known yet.
    pub layout: Layout,
    pub ram: Arc<Ram>,
    pub space: Arc<AddressSpace>,
    pub slots: Arc<KvmSlots>,
    pub irqchip: irqchip::PowerOn,
    pub routing: Arc<GsiRouting>,
}

impl Vm {
    /// Makes the VM. The memory slots come before the interrupt controllers: once there are
    /// interrupt controllers, KVM waits for a grace period at each slot.
    pub fn new(kvm: &HostKvm, config: &VmConfig, images: &Images) -> Result<Self, MachineError> {
        let layout = Layout::new(config.memory.size, 0, kvm.phys_bits)?;
        images.check(&layout, &config.cmdline)?;
        let ram = {
            let _phase = phase!("allocate_ram");
            let (pages, shared) = (config.memory.pages, config.memory.shared);
            Arc::new(Ram::new(&layout, pages, shared)?)
        };
        let fd = Arc::new(kvm.fd.create_vm().map_err(kvm_call("KVM_CREATE_VM"))?);
        fd.set_identity_map_address(layout::KVM_IDENTITY_MAP_ADDR)
            .map_err(kvm_call("KVM_SET_IDENTITY_MAP_ADDR"))?;
        fd.set_tss_address(layout::KVM_TSS_ADDR as usize)
            .map_err(kvm_call("KVM_SET_TSS_ADDR"))?;
        capabilities::protect_host(&fd);
        capabilities::choose_pmu(&fd, &config.cpus, &kvm.cpuid)?;
        let space = Arc::new(AddressSpace::new());
        let slots = Arc::new(KvmSlots::new(Arc::clone(&fd), kvm.fd.get_nr_memslots()));
        space.subscribe(slots.clone())?;
        for region in ram.regions() {
            space.add(region.clone())?;
        }
        fd.create_irq_chip()
            .map_err(kvm_call("KVM_CREATE_IRQCHIP"))?;
        let irqchip = irqchip::PowerOn::read(&fd).map_err(kvm_call("KVM_GET_IRQCHIP"))?;
        let routing = GsiRouting::new(Arc::clone(&fd))?;
        Ok(Self {
            fd,
            layout,
            ram,
            space,
            slots,
            irqchip,
            routing,
        })
    }
}
