//! The entries of an MSI-X table that are not in use, whose writes KVM may keep.
//!
//! Linux masks each vector of a table before any interrupt is let through (`msix_mask_all`), and an
//! NVMe driver sets MSI-X up twice: for a table of 65 entries that is 130 writes which change
//! nothing. So the entries behind the first are a zone of coalesced writes
//! ([`CoalescedZones`]) from power-on until one of them is used:
//!
//! - While MSI-X is off or the function masked, an entry is memory. A read of the entry, and the
//!   write to the capability that lets interrupts through, are exits, and find the ring emptied.
//! - Once interrupts come through, the zone goes as soon as an entry in it is unmasked or has a
//!   message. A driver that begins with the first vector alone keeps the zone for its second time.
//! - In between, the write that unmasks an entry of the zone is done at the next exit, or within a
//!   tenth of a second by the thread that empties the ring. A doorbell in a mapped page may be
//!   quicker, and the vector's first interrupt late by as much. A driver that reads anything of the
//!   table or the capability back finds the write done; Linux reads the message back before it
//!   unmasks.

use std::sync::Arc;

use pci::addr::Range;
use pci::bar::Bars;
use pci::msix::FIRST_UNUSED_VECTOR;
use pci::msix_layout::MsixLayout;

use crate::coalesced::zones::CoalescedZones;
use crate::layout::Layout;

/// With fewer entries a zone costs more than the exits of its writes.
const FEWEST: u16 = 16;

/// The zone of one function's unused vectors.
pub(super) struct UnusedVectors {
    msix: Option<MsixLayout>,
    layout: Layout,
    zones: Arc<CoalescedZones>,
    /// While KVM keeps the writes.
    zone: Option<Range>,
}

impl UnusedVectors {
    /// Of a function with its table as in `msix`. KVM keeps nothing yet.
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

    /// Lets KVM keep the writes, at power-on: no vCPU runs, and `bars` are as firmware assigned
    /// them.
    pub(super) fn coalesce(&mut self, bars: &Bars) {
        let zone = self.find(bars);
        if zone != self.zone {
            self.stop();
        }
        self.zone = zone.filter(|zone| self.zones.add(*zone));
    }

    /// Makes the writes exits again if the guest uses one of the vectors. To be called after all
    /// that the guest does to MSI-X.
    pub(super) fn stop_coalescing_if(&mut self, used: impl FnOnce() -> bool) {
        if self.zone.is_some() && used() {
            self.stop();
        }
    }

    fn stop(&mut self) {
        if let Some(zone) = self.zone.take() {
            self.zones.remove(zone);
        }
    }

    /// Where the entries are; `None` where they are too few or not in a window for BARs.
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
