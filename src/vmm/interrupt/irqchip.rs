//! The in-kernel interrupt controllers, and their power-on state for a reset.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_irqchip,
};
use kvm_ioctls::VmFd;

/// OCW1 of an 8259A with every pin masked.
const ALL_MASKED: u8 = 0xff;

/// What the controllers were like when they were made (api.rst, 4.26 KVM_GET_IRQCHIP), but for the
/// PIC's masks: KVM leaves its pins open, and an interrupt that nobody has set it up for would be an
/// exception to the guest.
pub struct PowerOn(Vec<kvm_irqchip>);

impl PowerOn {
    /// Reads all three, and masks the PIC.
    ///
    /// # Errors
    /// The errno.
    pub fn read(vm: &VmFd) -> Result<Self, kvm_ioctls::Error> {
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
            vm.get_irqchip(&mut chip)?;
            if chip_id != KVM_IRQCHIP_IOAPIC {
                chip.chip.pic.imr = ALL_MASKED;
                vm.set_irqchip(&chip)?;
            }
            Ok(chip)
        })
        .collect::<Result<_, _>>()
        .map(Self)
    }

    /// Writes all three back. No vCPU may be running.
    ///
    /// # Errors
    /// The errno.
    pub fn write(&self, vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
        self.0.iter().try_for_each(|chip| vm.set_irqchip(chip))
    }
}
