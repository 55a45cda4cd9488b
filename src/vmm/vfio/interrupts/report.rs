//! Interrupts as a report shows them.

use pci::Message;
use pci::msix::{ENTRY_SIZE, Msix};

use crate::gsi::view::IrqfdView;
use crate::vfio::interrupts::intx::Intx;
use crate::vfio::interrupts::msix::MsixVectors;
use crate::vfio::interrupts::{Interrupts, Mode};
use crate::vfio::view::{InterruptView, Kind, MsixView, VectorView};

impl Interrupts {
    /// What the interrupts look like now.
    pub fn view(&self) -> InterruptView {
        let msi = self.msi.iter().filter(|_| self.mode == Mode::Msi);
        let msi = msi.flat_map(|(msi, vectors)| {
            let masked = msi.masked();
            let messages = msi.messages().into_iter().enumerate();
            messages.map(move |(n, message)| VectorView {
                message,
                masked: masked >> n & 1 != 0,
                irqfd: vectors.irqfd(n).map(IrqfdView::of),
            })
        });
        InterruptView {
            kind: match self.mode {
                Mode::Off => Kind::Off,
                Mode::Intx => Kind::Intx,
                Mode::Msi => Kind::Msi,
                Mode::Msix => Kind::Msix,
            },
            pin: self.intx.as_ref().map(Intx::gsi),
            msi: msi.collect(),
            msix: self.msix.as_ref().map(|(msix, vectors)| MsixView {
                control: control(msix),
                vectors: (0..msix.capability().vectors)
                    .map(|n| vector(msix, vectors, n))
                    .collect(),
            }),
        }
    }
}

/// Message Control, as the guest reads it.
fn control(msix: &Msix) -> u16 {
    let mut bytes = [0; 2];
    msix.capability_read(2, &mut bytes);
    u16::from_le_bytes(bytes)
}

/// An entry of the table, as the guest reads it.
fn vector(msix: &Msix, vectors: &MsixVectors, vector: u16) -> VectorView {
    let mut entry = [0; ENTRY_SIZE as usize];
    msix.table_read(u64::from(vector) * ENTRY_SIZE, &mut entry);
    let entry = u128::from_le_bytes(entry);
    VectorView {
        message: Message {
            address: entry as u64,
            data: (entry >> 64) as u32,
        },
        masked: entry >> 96 & 1 != 0,
        irqfd: vectors.irqfd(vector).map(IrqfdView::of),
    }
}
