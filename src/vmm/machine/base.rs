//! What a VM has before its vCPUs and devices.

use std::sync::Arc;

use kvm_ioctls::{Kvm, VmFd};

use crate::boot::Images;
use crate::config::VmConfig;
use crate::gsi::irqchip;
use crate::gsi::routing::GsiRouting;
use crate::layout::Layout;
use crate::machine::MachineError;
use crate::machine::error::kvm_call;
use crate::memory::AddressSpace;
use crate::memory::kvm_slots::KvmSlots;
use crate::memory::ram::Ram;
use crate::{layout, phase};

/// The VM, its memory and its interrupt controllers.
pub(super) struct Base {
    /// Of RAM alone: no BAR is known yet.
    pub layout: Layout,
    pub ram: Arc<Ram>,
    pub vm: Arc<VmFd>,
    pub space: Arc<AddressSpace>,
    pub slots: Arc<KvmSlots>,
    pub irqchip: irqchip::PowerOn,
    pub router: Arc<GsiRouting>,
}

impl Base {
    /// Memory slots come before the interrupt controllers: afterwards each waits for a grace period.
    /// `phys_bits` is how many bits a guest-physical address has.
    pub fn new(
        kvm: &Kvm,
        config: &VmConfig,
        images: &Images,
        phys_bits: u8,
    ) -> Result<Self, MachineError> {
        let layout = Layout::new(config.memory.size, 0, phys_bits)?;
        images.check(&layout, &config.cmdline)?;
        let ram = {
            let _phase = phase!("allocate_ram");
            let (pages, shared) = (config.memory.pages, config.memory.shared);
            Arc::new(Ram::new(&layout, pages, shared)?)
        };
        let vm = Arc::new(kvm.create_vm().map_err(kvm_call("KVM_CREATE_VM"))?);
        vm.set_identity_map_address(layout::KVM_IDENTITY_MAP_ADDR)
            .map_err(kvm_call("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(layout::KVM_TSS_ADDR as usize)
            .map_err(kvm_call("KVM_SET_TSS_ADDR"))?;
        let space = Arc::new(AddressSpace::new());
        let slots = Arc::new(KvmSlots::new(Arc::clone(&vm), kvm.get_nr_memslots()));
        space.subscribe(slots.clone())?;
        for region in ram.regions() {
            space.add(region.clone())?;
        }
        vm.create_irq_chip()
            .map_err(kvm_call("KVM_CREATE_IRQCHIP"))?;
        let irqchip = irqchip::PowerOn::read(&vm).map_err(kvm_call("KVM_GET_IRQCHIP"))?;
        let router = GsiRouting::new(Arc::clone(&vm))?;
        Ok(Self {
            layout,
            ram,
            vm,
            space,
            slots,
            irqchip,
            router,
        })
    }
}
