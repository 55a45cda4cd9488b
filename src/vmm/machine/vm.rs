//! KVM's VM with its memory and interrupt controllers, before it has vCPUs and devices.

use std::io;
use std::sync::Arc;

use kvm_bindings::CpuId;
use kvm_ioctls::{Kvm, VmFd};

use crate::boot::Images;
use crate::config::VmConfig;
use crate::config::topology::Topology;
use crate::gsi::{irqchip, memory_messages::MemoryMessages, routing::GsiRouting};
use crate::layout::{Layout, Reach};
use crate::machine::capabilities;
use crate::machine::error::{MachineError, kvm_call, no_kvm};
use crate::memory::address_space::AddressSpace;
use crate::memory::kvm_slots::KvmSlots;
use crate::memory::ram::Ram;
use crate::sys::descriptor::Descriptor;
use crate::sys::kvm_file;
use crate::{layout, phase, vcpu};

/// The host's KVM and the abilities of its processors. Needed while a VM is made.
pub(super) struct HostKvm {
    /// /dev/kvm.
    pub fd: Kvm,
    /// The CPUID entries that KVM supports.
    pub cpuid: CpuId,
    /// The guest-physical addresses that a VM can use.
    pub reach: Reach,
}

impl HostKvm {
    /// Opens /dev/kvm, if it is not `given`, and checks for the capabilities that a VM needs.
    pub fn open(given: Option<Descriptor>) -> Result<Self, MachineError> {
        let fd = kvm_file::open(given).map_err(no_kvm)?;
        let version = fd.get_api_version();
        if version < 0 {
            return Err(MachineError::KvmVersionCall(io::Error::last_os_error()));
        }
        if version != kvm_bindings::KVM_API_VERSION as i32 {
            return Err(MachineError::KvmVersion(version));
        }
        capabilities::check(|cap| fd.check_extension_raw(cap.into()))?;
        let cpuid = fd
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm_call("KVM_GET_SUPPORTED_CPUID"))?;
        let reach = vcpu::reach(&cpuid);
        Ok(Self { fd, cpuid, reach })
    }

    /// Checks that KVM makes as many vCPUs (KVM_CAP_MAX_VCPUS) with such APIC IDs
    /// (KVM_CAP_MAX_VCPU_ID): a kernel may be built for fewer.
    pub fn check_cpus(&self, topology: &Topology) -> Result<(), MachineError> {
        let limits = (self.fd.get_max_vcpus(), self.fd.get_max_vcpu_id());
        check_cpus(topology, limits)
    }
}

/// `limits` are the most vCPUs, and the first APIC ID that is too high.
fn check_cpus(topology: &Topology, limits: (usize, usize)) -> Result<(), MachineError> {
    let [most, ids] = [limits.0, limits.1].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    let cpus = topology.cpus();
    if cpus > most {
        return Err(MachineError::TooManyCpus { cpus, most });
    }
    match topology.apic_ids().last().map(u32::from) {
        Some(last) if last >= ids => Err(MachineError::HighApicId { cpus, last, ids }),
        _ => Ok(()),
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
        let layout = Layout::new(config.memory.size, 0, kvm.reach)?;
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
        let irqchip = irqchip::PowerOn::read(&fd)?;
        let routing = GsiRouting::new(Arc::clone(&fd), MemoryMessages::new(ram.memory().clone()))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::topology::Wish;

    #[test]
    fn the_limits_of_kvm() {
        let wish = Wish {
            cores: Some(3),
            ..Wish::default()
        };
        // IDs 0 to 2 and 4 to 6.
        let six = Topology::new(6, wish).unwrap();
        assert!(check_cpus(&six, (6, 7)).is_ok());
        let e = check_cpus(&six, (5, 7)).unwrap_err();
        assert_eq!(
            e.to_string(),
            "6 vCPUs are more than this host's KVM makes: 5"
        );
        assert_eq!(e.hint().unwrap(), "give the guest fewer: --cpus 5");
        let e = check_cpus(&six, (6, 6)).unwrap_err();
        assert_eq!(
            e.to_string(),
            "the last of 6 vCPUs has APIC ID 6, and this host's KVM has IDs up to 5"
        );
        assert_eq!(e.hint().unwrap(), "IDs have no gaps with --cpus 6 alone");
        let e = check_cpus(&Topology::new(6, Wish::default()).unwrap(), (6, 4)).unwrap_err();
        assert_eq!(e.hint().unwrap(), "give the guest fewer: --cpus 4");
    }
}
