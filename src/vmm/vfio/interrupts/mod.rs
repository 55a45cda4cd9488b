//! A function's interrupts: INTx, MSI and MSI-X. One kind at a time is on.
//!
//! VFIO refuses to turn one kind on while another is on (drivers/vfio/pci/vfio_pci_intrs.c), and a
//! device whose MSI and MSI-X are both disabled uses INTx (PCI Express 6.0, 6.1.4.3 and 7.5.1.1.3).
//! So the wanted kind follows from the guest's registers (`Interrupts::wanted`), and the current
//! kind is turned off before another is turned on.
//!
//! The guest's registers ([`pci::msi`], [`pci::msix`]) decide, and the host's side (`msi`,
//! `msix`, `intx`) follows: it compares the registers with the state of VFIO and KVM, and
//! changes that state. If the host refuses a change, the registers are corrected, so that the guest
//! sees the refusal.

mod error;
mod intx;
pub mod msi;
mod msix;
mod refused;
mod report;

use std::ops::Range;
use std::sync::{Arc, Weak};

use intx::Intx;
use msi::MsiVectors;
use msix::MsixVectors;
use pci::byte_enable::{overlay, part_of};
use pci::msi::{Msi, MsiCapability};
use pci::msix::{CAPABILITY_SIZE, Msix, MsixCapability};

use crate::counters::wakeups::WakeupMeter;
use crate::event_thread::EventThread;
use crate::gsi::delivery::Delivery;
use crate::vfio::device::SharedDevice;

/// The kind of interrupt that is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// All kinds are off until the next [`Interrupts::power_on`].
    Off,
    Intx,
    Msi,
    Msix,
}

/// The registers that the guest has written.
enum Written {
    /// Registers of the MSI capability.
    Msi,
    /// Registers of these MSI-X vectors.
    Msix(Range<u16>),
}

/// The interrupts of one function.
pub struct Interrupts {
    mode: Mode,
    delivery: Delivery,
    intx: Option<Intx>,
    msi: Option<(Msi, MsiVectors)>,
    msix: Option<(Msix, MsixVectors)>,
}

impl Interrupts {
    /// Takes MSI and MSI-X if both the configuration space in `snapshot` and VFIO have them. INTx
    /// is added by [`Interrupts::connect_pin`].
    pub fn new(snapshot: &[u8], device: SharedDevice, delivery: Delivery) -> Self {
        let msi = MsiCapability::parse(snapshot)
            .zip(MsiVectors::new(Arc::clone(&device), delivery.clone()))
            .map(|(mut capability, vectors)| {
                capability.max_vectors = msi::available(&*device, capability.max_vectors);
                (Msi::new(capability), vectors)
            });
        let msix = MsixCapability::parse(snapshot)
            .map(Msix::new)
            .zip(MsixVectors::new(device, delivery.clone()));
        Self {
            mode: Mode::Intx,
            delivery,
            intx: None,
            msi,
            msix,
        }
    }

    /// Connects the pin to a GSI, once the function has its slot, and turns INTx on; returns
    /// whether that worked.
    pub fn connect_pin(
        &mut self,
        device: SharedDevice,
        gsi: u32,
        event_thread: Weak<EventThread>,
    ) -> bool {
        self.intx = Intx::new(device, self.delivery.clone(), event_thread, gsi);
        self.power_on();
        self.intx.as_ref().is_some_and(Intx::is_enabled)
    }

    /// Turns all kinds off for good, and drops the references to the device.
    pub fn release(&mut self) {
        *self = Self {
            mode: Mode::Off,
            delivery: self.delivery.clone(),
            intx: None,
            msi: None,
            msix: None,
        };
    }

    /// Counts the wake-ups of threads of this process for the device's interrupts.
    pub fn wakeups(&self) -> Arc<WakeupMeter> {
        Arc::clone(&self.delivery.wakeups)
    }

    /// The MSI-X capability, which locates the table and the pending bits.
    pub fn msix(&self) -> Option<&MsixCapability> {
        self.msix.as_ref().map(|(msix, _)| msix.capability())
    }

    /// The state after a reset: both capabilities disabled, INTx on.
    pub fn power_on(&mut self) {
        self.quiesce();
        self.enter(Mode::Intx);
    }

    /// Resets the registers of both capabilities, and turns all kinds off until the next
    /// [`Interrupts::power_on`].
    pub fn quiesce(&mut self) {
        if let Some((msix, _)) = &mut self.msix {
            msix.reset();
        }
        if let Some((msi, _)) = &mut self.msi {
            msi.reset();
        }
        self.enter(Mode::Off);
    }

    /// Completes a read of configuration space: where `data` covers the MSI or MSI-X capability,
    /// its bytes are overwritten by the guest's registers.
    pub fn config_read(&self, offset: u16, data: &mut [u8]) {
        if let Some((msi, vectors)) = &self.msi {
            let (at, size) = (msi.capability().offset, msi.capability().size());
            overlay(at, size, offset, data, |first, part| {
                msi.capability_read(first, part, &|v| vectors.pending(v));
            });
        }
        if let Some((msix, _)) = &self.msix {
            overlay(
                msix.capability().offset,
                CAPABILITY_SIZE,
                offset,
                data,
                |first, part| {
                    msix.capability_read(first, part);
                },
            );
        }
    }

    /// A guest's write of configuration space. Bytes outside of the two capabilities are ignored.
    /// While all kinds are off the write is dropped.
    pub fn config_write(&mut self, offset: u16, data: &[u8]) {
        if self.mode == Mode::Off {
            return;
        }
        if let Some((msi, _)) = &mut self.msi {
            let (at, size) = (msi.capability().offset, msi.capability().size());
            if let Some((first, part)) = part_of(at, size, offset, data) {
                msi.capability_write(first, part);
                self.follow(Written::Msi);
            }
        }
        if let Some((msix, _)) = &mut self.msix {
            let (at, vectors) = (msix.capability().offset, msix.capability().vectors);
            if let Some((first, part)) = part_of(at, CAPABILITY_SIZE, offset, data) {
                msix.control_write(first, part);
                self.follow(Written::Msix(0..vectors));
            }
        }
    }

    /// A read of the MSI-X table.
    pub fn table_read(&self, offset: u64, data: &mut [u8]) {
        if let Some((msix, _)) = &self.msix {
            msix.table_read(offset, data);
        }
    }

    /// A write to the MSI-X table. While all kinds are off the write is dropped.
    pub fn table_write(&mut self, offset: u64, data: &[u8]) {
        if let Some((msix, _)) = &mut self.msix
            && self.mode != Mode::Off
        {
            let vectors = msix.table_write(offset, data);
            self.follow(Written::Msix(vectors));
        }
    }

    /// Whether interrupts are in MSI-X mode and the guest uses vector `first` or a later vector
    /// ([`Msix::uses_vectors_from`]).
    pub fn uses_vectors_from(&self, first: u16) -> bool {
        let msix = self.msix.as_ref().filter(|_| self.mode == Mode::Msix);
        msix.is_some_and(|(msix, _)| msix.uses_vectors_from(first))
    }

    /// A read of the MSI-X pending bits.
    pub fn pending_read(&self, offset: u64, data: &mut [u8]) {
        if let Some((msix, vectors)) = &self.msix {
            vectors.pending_read(msix, offset, data);
        }
    }

    /// The kind that the guest's registers enable. Enabling MSI and MSI-X at once is undefined (PCI
    /// Express 6.0, 7.7.2.2); MSI-X wins.
    fn wanted(&self) -> Mode {
        let msix = self.msix.as_ref();
        let msi = self.msi.as_ref();
        if msix.is_some_and(|(msix, _)| msix.is_enabled()) {
            Mode::Msix
        } else if msi.is_some_and(|(msi, _)| msi.is_enabled()) {
            Mode::Msi
        } else {
            Mode::Intx
        }
    }

    /// Brings the device to the state of the registers, after a write.
    fn follow(&mut self, written: Written) {
        if self.mode == self.wanted() {
            match (self.mode, written) {
                (Mode::Msi, Written::Msi) => {
                    if let Some((msi, vectors)) = &mut self.msi {
                        vectors.follow(msi);
                    }
                }
                (Mode::Msix, Written::Msix(range)) => {
                    if let Some((msix, vectors)) = &mut self.msix {
                        vectors.follow(msix, range);
                    }
                }
                // The write concerns a kind that is off.
                _ => {}
            }
        }
        // A kind that the host refuses is no longer wanted, so the loop ends at INTx at the latest.
        while self.mode != self.wanted() {
            self.enter(self.wanted());
        }
    }

    /// Turns the current kind off, and `mode` on by its registers.
    fn enter(&mut self, mode: Mode) {
        match std::mem::replace(&mut self.mode, mode) {
            old if old == mode => {}
            Mode::Off => {}
            Mode::Intx => {
                if let Some(intx) = &mut self.intx {
                    intx.disable();
                }
            }
            Mode::Msi => {
                if let Some((_, vectors)) = &mut self.msi {
                    vectors.disable();
                }
            }
            Mode::Msix => {
                if let Some((_, vectors)) = &mut self.msix {
                    vectors.disable();
                }
            }
        }
        match mode {
            Mode::Off => {}
            Mode::Intx => {
                if let Some(intx) = &mut self.intx {
                    intx.enable();
                }
            }
            Mode::Msi => {
                if let Some((msi, vectors)) = &mut self.msi {
                    vectors.follow(msi);
                }
            }
            Mode::Msix => {
                if let Some((msix, vectors)) = &mut self.msix {
                    vectors.enable(msix);
                }
            }
        }
    }
}
