//! The entries of an MSI-X table that are not in use, whose writes KVM may keep.
//!
//! Linux masks each vector of a table before it lets the first interrupt through (`msix_mask_all`), and
//! an NVMe driver sets MSI-X up twice: of a table with 65 entries that is 130 writes which change
//! nothing. So the entries behind the first are a zone ([`Zones`](crate::coalesced::zones::Zones)) from
//! power-on until one of them is used:
//!
//! - While MSI-X is off or the function masked, an entry is memory: who reads it, and the write to
//!   the capability that lets interrupts through, are exits, and find the ring emptied.
//! - Once interrupts come through, the zone goes as soon as an entry in it is unmasked or has a
//!   message. A driver that begins with the first vector alone keeps it for its second time.
//! - In between, the write that unmasks an entry of the zone is done at the next exit, or within a tenth of
//!   a second by the thread that empties the ring; a doorbell in a mapped page may be quicker, and the
//!   vector's first interrupt late by as much. A driver that reads anything of the table or the
//!   capability back finds it done. Linux reads the message back before it unmasks.

use pci::addr::Range;
use pci::msix::{ENTRY_SIZE, FIRST_UNUSED_VECTOR};

use crate::vfio::function::{State, VfioFunction};

/// With fewer entries a zone costs more than its writes' exits.
const FEWEST: u16 = 16;

impl VfioFunction {
    /// At power-on, when no vCPU runs and the BARs are where firmware has put them.
    pub(super) fn keep_spares(&self, state: &mut State) {
        let zone = self
            .msix_place
            .as_ref()
            .and_then(|place| {
                let bar = usize::from(place.table_bar);
                self.spares(state, bar, state.bars.address(bar)?)
            })
            .filter(|zone| self.around.layout.allows_bar(zone.start, zone.size));
        state.spares = zone.filter(|zone| self.around.zones.add(*zone));
    }

    /// After anything that the guest has done to MSI-X.
    pub(super) fn follow_spares(&self, state: &mut State) {
        if state.spares.is_some()
            && state.interrupts.uses_vectors_from(FIRST_UNUSED_VECTOR)
            && let Some(zone) = state.spares.take()
        {
            self.around.zones.remove(zone);
        }
    }

    /// Before a BAR comes to `range`: zones of other functions that were left there go, and the
    /// function's own if its table will be elsewhere.
    pub(super) fn make_way(&self, state: &State, bar: usize, range: Range) {
        let here = self.spares(state, bar, range.start);
        let kept = state.spares.filter(|zone| here == Some(*zone));
        self.around.zones.make_way(range, kept);
    }

    /// Where the entries are if `bar` is at `address`; nothing if the table is in another, or they are
    /// too few.
    fn spares(&self, state: &State, bar: usize, address: u64) -> Option<Range> {
        let place = self.msix_place.as_ref()?;
        let skipped = u64::from(FIRST_UNUSED_VECTOR) * ENTRY_SIZE;
        let start = u64::from(place.table_offset).checked_add(skipped)?;
        let size = place.table_size().checked_sub(skipped)?;
        let inside = start.checked_add(size)? <= state.bars.get(bar)?.size;
        (usize::from(place.table_bar) == bar && place.vectors >= FEWEST && inside).then_some(
            Range {
                start: address.checked_add(start)?,
                size,
            },
        )
    }
}
