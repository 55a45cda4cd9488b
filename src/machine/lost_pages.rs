//! A page of a BAR that the host's kernel does not give any more, because the device has gone or
//! decodes no longer: its device is fenced off, and the guest goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Machine;
use crate::memory::{AddressSpace, RegionKind};
use crate::vcpu::LostPages;
use crate::vfio::function::VfioFunction;

/// The pages of the guest's devices, during one boot.
pub(super) struct DevicePages {
    functions: Vec<Arc<VfioFunction>>,
    space: Arc<AddressSpace>,
    others: usize,
    /// Faults that may still come without an address: every other vCPU may have touched what has
    /// gone at the same time.
    excused: AtomicUsize,
}

impl DevicePages {
    pub(super) fn new(machine: &Machine) -> Self {
        Self {
            functions: machine.vfio_functions(),
            space: Arc::clone(&machine.around.space),
            others: machine.vcpus.len().saturating_sub(1),
            excused: AtomicUsize::new(0),
        }
    }
}

impl LostPages for DevicePages {
    fn take_away(&self, address: Option<u64>) -> bool {
        let Some(address) = address else {
            // All of them, not the first alone.
            let fenced = self.functions.iter().filter(|f| f.lose_pages()).count();
            if fenced > 0 {
                self.excused.store(self.others, Ordering::Relaxed);
                return true;
            }
            let one_less = |n: usize| n.checked_sub(1);
            return self
                .excused
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                .is_ok();
        };
        match self.space.kind_at(address) {
            Some(RegionKind::Ram) => false,
            Some(RegionKind::Device) => {
                // Where another vCPU was quicker, nothing is there now.
                self.functions.iter().any(|f| f.lose_page(address))
                    || self.space.kind_at(address).is_none()
            }
            None => true,
        }
    }
}
