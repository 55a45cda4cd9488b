//! A device that fails, goes, or is taken back while the guest has it: the guest finds all ones in its
//! place, as where no device is, and lives on.

use std::sync::PoisonError;

use tracing::warn;

use crate::vfio::device::{CONFIG_REGION, Device};
use crate::vfio::function::bar_map::BarMap;
use crate::vfio::function::{State, VfioFunction};
use pci::regs::power::{PMCSR, STATE as POWER_STATE};
use pci::regs::{COMMAND, command};

impl VfioFunction {
    /// The device has failed: it reads as all ones from now on, and the guest lives. Tells whether
    /// it was there until now.
    pub fn fence(&self) -> bool {
        self.fence_if(|_| true)
    }

    /// Whether the device has failed, gone, or was taken back.
    pub fn is_fenced(&self) -> bool {
        self.lock().fenced
    }

    fn fence_if(&self, condition: impl FnOnce(&State) -> bool) -> bool {
        let mut state = self.lock();
        let now = !state.fenced && condition(&state);
        if now {
            self.silence(&mut state);
            state.fenced = true;
        }
        now
    }

    /// The host gets the device back: as [`VfioFunction::fence`], and nothing of ours keeps it open.
    pub fn release(&self) {
        self.fence();
        let mut state = self.lock();
        state.interrupts.release();
        // A mapped BAR keeps the device's file open.
        state.maps = std::array::from_fn(|_| BarMap::trapped());
        self.device
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// KVM could not get the page at a guest-physical address. If a piece of a BAR is there, the device
    /// is fenced off; tells whether it was.
    pub fn lose_page(&self, address: u64) -> bool {
        self.lose_if(|state| state.maps.iter().any(|map| map.covers(address)))
    }

    /// KVM could not get some page. If it may have been of this device, because VFIO gives none of it
    /// (drivers/vfio/pci/vfio_pci_core.c, `__vfio_pci_memory_enabled`), the device is fenced off; tells
    /// whether it was.
    pub fn lose_pages(&self) -> bool {
        self.lose_if(|state| state.maps.iter().any(BarMap::is_placed) && !self.decodes_memory())
    }

    /// An access that left KVM, and that the device refuses: where a piece is mapped, KVM could not
    /// get its page either, and the device is fenced off; tells whether it was.
    pub(super) fn lose_access(&self, device: &dyn Device, bar: usize, offset: u64) -> bool {
        self.lose_if(|state| {
            let map = state.maps.get(bar);
            // Now that nobody can switch decoding off meanwhile.
            map.is_some_and(|map| map.is_placed() && map.maps(offset))
                && device.read(bar as u32, offset, &mut [0]).is_err()
        })
    }

    fn lose_if(&self, condition: impl FnOnce(&State) -> bool) -> bool {
        let now = self.fence_if(condition);
        if now {
            let name = self.name();
            warn!("{name} has gone: the guest sees it no more, and lives on");
        }
        now
    }

    /// Whether the device answers, decodes memory, and is in D0.
    fn decodes_memory(&self) -> bool {
        let Some(device) = self.device() else {
            return false;
        };
        let read = |at: u16, data: &mut [u8]| device.read(CONFIG_REGION, at.into(), data).is_ok();
        let (mut id, mut command, mut pmcsr) = ([0; 4], [0; 2], [0; 2]);
        read(0, &mut id)
            && id != [0xff; 4]
            && read(COMMAND, &mut command)
            && u16::from_le_bytes(command) & command::MEMORY != 0
            && self.power.is_none_or(|cap| read(cap + PMCSR, &mut pmcsr))
            && pmcsr[0] & POWER_STATE == 0
    }
}
