//! MSI on the host's side: one to 32 messages, each with an eventfd. All eventfds are set up before
//! the device may send a message.
//!
//! A driver reads in the capability how many messages it can have, and does not check whether it
//! got them (Linux, `pci_alloc_irq_vectors`). So the host is asked for all vectors once, before a
//! guest sees the capability. If the host has fewer vectors later, the capability shows that number
//! from then on.

use pci::Message;
use pci::msi::Msi;

use crate::gsi::delivery::Delivery;
use crate::gsi::msi_irqfd::MsiIrqfd;
use crate::log::degraded::{self, Code};
use crate::sys::eventfd;
use crate::vfio::device::{Device, DeviceError, Irq, SharedDevice};
use crate::vfio::interrupts::error::VectorError;
use crate::vfio::interrupts::refused::tell_refused;

/// The MSI vectors of one device.
pub struct MsiVectors {
    device: SharedDevice,
    delivery: Delivery,
    /// An irqfd for each vector in use; empty while MSI is off.
    irqfds: Vec<MsiIrqfd>,
}

impl MsiVectors {
    /// Takes a device's MSI vectors, which are off; `None` if VFIO offers no MSI.
    pub fn new(device: SharedDevice, delivery: Delivery) -> Option<Self> {
        device.irq(Irq::Msi)?;
        Some(Self {
            device,
            delivery,
            irqfds: Vec::new(),
        })
    }

    /// Sets the vectors up by the registers, which have MSI enabled. If the host can give fewer
    /// vectors, or refuses all, the registers show that afterwards. A guest must not end the VM, so
    /// a failure is only logged.
    pub fn follow(&mut self, msi: &mut Msi) {
        if self.irqfds.len() == usize::from(msi.vectors()) {
            return self.update(msi);
        }
        // VFIO cannot add MSI vectors while MSI is on (include/uapi/linux/vfio.h,
        // VFIO_IRQ_INFO_NORESIZE).
        self.disable();
        while let Err(error) = self.set_up(&msi.messages(), msi.masked()) {
            self.warn(&error);
            self.irqfds.clear();
            let count = match &error {
                VectorError::Device(e) => fewer(e, msi.vectors()),
                VectorError::Gsi(_) | VectorError::Absent { .. } => None,
            };
            match count {
                Some(count) => {
                    tell_fewer(self.device.name(), count, msi.vectors());
                    msi.limit_vectors(count);
                }
                None => return msi.refuse_enable(),
            }
        }
    }

    /// Sets new messages and masks; the number of vectors stays the same.
    fn update(&mut self, msi: &Msi) {
        if let Err(e) = self.route(&msi.messages()) {
            self.warn(&e);
        }
        for vector in 0..self.irqfds.len() {
            if let Err(e) = self.set_mask(vector, msi.masked()) {
                self.warn(&e);
            }
        }
    }

    /// The irqfd of a vector.
    pub fn irqfd(&self, vector: usize) -> Option<&MsiIrqfd> {
        self.irqfds.get(vector)
    }

    /// Whether a masked vector has an interrupt pending in its eventfd.
    pub fn pending(&self, vector: u8) -> bool {
        self.irqfds
            .get(usize::from(vector))
            .is_some_and(MsiIrqfd::pending)
    }

    /// Sets up all vectors. KVM has every eventfd before VFIO may signal it.
    fn set_up(&mut self, messages: &[Message], masked: u32) -> Result<(), VectorError> {
        self.irqfds = messages
            .iter()
            .map(|_| MsiIrqfd::new(self.delivery.clone()))
            .collect::<Result<_, _>>()?;
        self.route(messages)?;
        for vector in 0..self.irqfds.len() {
            self.set_mask(vector, masked)?;
        }
        let events: Vec<_> = self
            .irqfds
            .iter()
            .map(|irqfd| Some(eventfd::borrow(irqfd.event())))
            .collect();
        Ok(self.device.set_events(Irq::Msi, 0, &events)?)
    }

    fn route(&mut self, messages: &[Message]) -> Result<(), VectorError> {
        for (irqfd, message) in self.irqfds.iter_mut().zip(messages) {
            irqfd.route(*message)?;
        }
        Ok(self.delivery.routing.commit()?)
    }

    /// Masks or unmasks a vector by its bit in `masked`.
    fn set_mask(&mut self, vector: usize, masked: u32) -> Result<(), VectorError> {
        match self.irqfds.get_mut(vector) {
            Some(irqfd) if masked >> vector & 1 != 0 => Ok(irqfd.mask()?),
            Some(irqfd) => Ok(irqfd.unmask()?),
            None => Ok(()),
        }
    }

    /// Turns MSI off and gives all GSIs back.
    pub fn disable(&mut self) {
        if !self.irqfds.is_empty() {
            self.disable_in_vfio();
        }
        self.irqfds.clear();
    }

    fn disable_in_vfio(&self) {
        if let Err(e) = self.device.disable(Irq::Msi) {
            self.warn(&e.into());
        }
    }

    fn warn(&self, error: &VectorError) {
        let what = "MSI does not follow the guest's registers";
        tell_refused(self.device.name(), what, error);
    }
}

/// Returns how many of the device's `most` MSI vectors the host can give, a power of two, and tells
/// the user if these are fewer. MSI must be off, and is off again afterwards.
pub fn available(device: &dyn Device, most: u8) -> u8 {
    let mut count = most;
    // A single vector is not tried before the guest enables MSI: the capability cannot show fewer
    // than one.
    while count > 1 {
        let none = vec![None; count.into()];
        match device.set_events(Irq::Msi, 0, &none) {
            Ok(()) => {
                if let Err(e) = device.disable(Irq::Msi) {
                    tell_refused(device.name(), "MSI stays on", &e);
                }
                break;
            }
            Err(e) => match fewer(&e, count) {
                Some(left) => count = left,
                // VFIO's error does not tell a number; the guest's own attempt decides.
                None => return most,
            },
        }
    }
    if count < most {
        tell_fewer(device.name(), count, most);
    }
    count
}

/// Linux gives a device several MSI messages only if the IOMMU remaps interrupts
/// (arch/x86/kernel/apic/msi.c).
fn tell_fewer(device: &str, count: u8, most: u8) {
    let loss = Code::FewerMsiVectors.loss(
        format!("{count} of {most} MSI vectors"),
        "the host has no more for the device",
    );
    degraded::tell(loss.of(device).hint(
        "turn interrupt remapping on: in the firmware, and boot the host with intel_iommu=on \
         (Intel), without intremap=off",
    ));
}

/// How many vectors to ask for after `asked` was too many: a lower power of two.
fn fewer(error: &DeviceError, asked: u8) -> Option<u8> {
    let DeviceError::FewerVectors { available, .. } = error else {
        return None;
    };
    let most = u32::from(asked).saturating_sub(1).min(*available);
    Some(1 << most.checked_ilog2()?)
}

impl Drop for MsiVectors {
    fn drop(&mut self) {
        self.disable();
    }
}
