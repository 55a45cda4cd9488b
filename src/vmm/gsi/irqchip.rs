//! The in-kernel interrupt controllers, and their power-on state for a reset.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_irqchip,
};
use kvm_ioctls::VmFd;

use crate::gsi::error::GsiError;

/// OCW1 of an 8259A with every pin masked.
const ALL_MASKED: u8 = 0xff;

/// The state of the controllers after KVM_CREATE_IRQCHIP (Documentation/virt/kvm/api.rst, 4.26
/// KVM_GET_IRQCHIP), with all pins of the PIC masked. KVM leaves the pins unmasked, and an
/// interrupt before the guest has set the PIC up would have the vector of an exception.
pub struct PowerOn(Vec<kvm_irqchip>);

impl PowerOn {
    /// Reads the state of both 8259A and of the IOAPIC, and masks the pins of both 8259A.
    ///
    /// # Errors
    /// The errno of KVM_GET_IRQCHIP or KVM_SET_IRQCHIP.
    pub fn read(vm: &VmFd) -> Result<Self, GsiError> {
        [
            KVM_IRQCHIP_PIC_MASTER,
            KVM_IRQCHIP_PIC_SLAVE,
            KVM_IRQCHIP_IOAPIC,
        ]
        .into_iter()
        .map(|chip_id| {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            let call = "KVM_GET_IRQCHIP";
            vm.get_irqchip(&mut chip)
                .map_err(|source| GsiError::Irqchip { call, source })?;
            if chip_id != KVM_IRQCHIP_IOAPIC {
                chip.chip.pic.imr = ALL_MASKED;
                set(vm, &chip)?;
            }
            Ok(chip)
        })
        .collect::<Result<_, _>>()
        .map(Self)
    }

    /// Writes the state back. No vCPU may be running.
    ///
    /// # Errors
    /// The errno of KVM_SET_IRQCHIP.
    pub fn write(&self, vm: &VmFd) -> Result<(), GsiError> {
        self.0.iter().try_for_each(|chip| set(vm, chip))
    }
}

fn set(vm: &VmFd, chip: &kvm_irqchip) -> Result<(), GsiError> {
    let call = "KVM_SET_IRQCHIP";
    let outcome = vm.set_irqchip(chip);
    outcome.map_err(|source| GsiError::Irqchip { call, source })
}
