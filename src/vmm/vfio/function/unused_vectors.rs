//! Coalesces writes to the unused entries of an MSI-X table.
//!
//! Linux masks each vector of a table before any interrupt is let through (`msix_mask_all`), and an
//! NVMe driver sets MSI-X up twice: for a table of 65 entries, 130 writes change nothing. So all
//! entries but the first form a zone of coalesced MMIO ([`CoalescedZones`]) from power-on until the
//! guest uses one of them:
//!
//! - While MSI-X is off or the function masked, an entry is plain memory. A read of an entry is an
//!   exit, and so is the write to the capability that lets interrupts through. The ring is emptied
//!   before such an exit is handled.
//! - Once interrupts come through, the zone is unregistered as soon as one of its entries is
//!   unmasked or has a message. A driver that first uses only the first vector keeps the zone until
//!   it sets MSI-X up again.
//! - The write that unmasks an entry of the zone is carried out at the next exit, or within a tenth
//!   of a second by the thread that empties the ring. A doorbell in a mapped page may be quicker:
//!   then the vector's first interrupt is late by as much. A driver that reads the table or the
//!   capability back finds the write carried out. Linux reads the message back before it unmasks.

use std::sync::Arc;

use pci::addr::Range;
use pci::bar::Bars;
use pci::msix::FIRST_UNUSED_VECTOR;
use pci::msix_layout::MsixLayout;

use crate::coalesced::zones::CoalescedZones;
use crate::layout::Layout;

/// The least number of entries: with fewer, a zone costs more than the exits that it saves.
const FEWEST: u16 = 16;

/// The zone of one function's unused vectors.
pub(super) struct UnusedVectors {
    msix: Option<MsixLayout>,
    layout: Layout,
    zones: Arc<CoalescedZones>,
    /// The registered zone; `None` while every write is an exit.
    zone: Option<Range>,
}

impl UnusedVectors {
    /// Makes the state for a function whose table is at `msix`. No zone is registered yet.
    pub(super) fn new(
        msix: Option<MsixLayout>,
        layout: Layout,
        zones: Arc<CoalescedZones>,
    ) -> Self {
        Self {
            msix,
            layout,
            zones,
            zone: None,
        }
    }

    /// Registers the zone, at power-on: no vCPU accesses the device yet, and `bars` have the
    /// addresses that firmware assigned.
    pub(super) fn coalesce(&mut self, bars: &Bars) {
        let zone = self.find(bars);
        if zone != self.zone {
            self.stop();
        }
        self.zone = zone.filter(|zone| self.zones.add(*zone));
    }

    /// Unregisters the zone if the guest uses one of its vectors. To be called after every access
    /// of the guest that changes MSI-X.
    pub(super) fn stop_coalescing_if(&mut self, used: impl FnOnce() -> bool) {
        if self.zone.is_some() && used() {
            self.stop();
        }
    }

    /// Unregisters the zone, if there is one.
    pub(super) fn stop(&mut self) {
        if let Some(zone) = self.zone.take() {
            self.zones.remove(zone);
        }
    }

    /// The addresses of the entries; `None` if there are too few entries or they lie outside of the
    /// windows for BARs.
    fn find(&self, bars: &Bars) -> Option<Range> {
        let msix = self.msix.as_ref()?;
        let (bar, offset, size) = msix.entries_from(FIRST_UNUSED_VECTOR)?;
        let start = bars.address(bar)?.checked_add(offset)?;
        let inside = offset.checked_add(size)? <= bars.get(bar)?.size;
        let wanted = msix.vectors() >= FEWEST && inside && self.layout.allows_bar(start, size);
        wanted.then_some(Range { start, size })
    }
}

#[cfg(test)]
mod tests {
    use pci::msix::MsixCapability;

    use super::*;

    fn unused(vectors: u16) -> UnusedVectors {
        let msix = MsixLayout::of(&MsixCapability {
            offset: 0x90,
            vectors,
            table_bar: 0,
            table_offset: 0x2000,
            pba_bar: 0,
            pba_offset: 0x3000,
        });
        let layout = Layout::new(64 << 20, 0, 40).unwrap();
        UnusedVectors::new(Some(msix), layout, Arc::default())
    }

    fn bars(size: u64, address: u64) -> Bars {
        let mut bars = Bars::decode([0; 6], [size, 0, 0, 0, 0, 0]).unwrap();
        bars.set_address(0, address);
        bars
    }

    #[test]
    fn the_zone_is_all_entries_but_the_first() {
        let range = Range {
            start: 0xc000_2010,
            size: 63 * 16,
        };
        assert_eq!(unused(64).find(&bars(0x4000, 0xc000_0000)), Some(range));
    }

    #[test]
    fn some_tables_have_no_zone() {
        // Too few entries, a table that its BAR does not hold, and a BAR outside of the windows.
        assert_eq!(unused(15).find(&bars(0x4000, 0xc000_0000)), None);
        assert_eq!(unused(64).find(&bars(0x2000, 0xc000_0000)), None);
        assert_eq!(unused(64).find(&bars(0x4000, 0x1000_0000)), None);
        assert_eq!(unused(64).find(&bars(0x4000, 0)), None);
    }

    #[test]
    fn what_kvm_does_not_keep_is_not_asked_for() {
        // Without a VM there are no zones.
        let mut unused = unused(64);
        unused.coalesce(&bars(0x4000, 0xc000_0000));
        unused.stop_coalescing_if(|| unreachable!("KVM keeps nothing"));
    }
}
