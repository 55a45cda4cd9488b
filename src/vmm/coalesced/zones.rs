//! Zones of coalesced MMIO: guest-physical ranges whose writes KVM keeps in the VM's ring
//! (api.rst, 4.116).
//!
//! To register a zone costs little. To unregister one waits for a grace period: some 20 µs, but
//! milliseconds soon after a zone was registered (Linux 6.18 and later; older kernels wait at
//! registering too). So zones are registered before the guest runs, and none while it runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::{IoEventAddress, VmFd};
use pci::addr::Range;
use tracing::debug;

/// The zones of a VM in guest-physical memory.
#[derive(Default)]
pub struct CoalescedZones {
    /// `None` where KVM keeps no writes.
    vm: Option<Arc<VmFd>>,
    held: Mutex<Vec<Range>>,
}

impl CoalescedZones {
    /// No zones yet. Without `vm` there will be none: every write is an exit.
    pub fn new(vm: Option<Arc<VmFd>>) -> Self {
        Self {
            vm,
            held: Mutex::default(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Vec<Range>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes KVM keep writes that lie wholly inside `range`, and returns whether KVM does.
    pub fn add(&self, range: Range) -> bool {
        let mut held = self.held();
        if held.contains(&range) {
            return true;
        }
        let (Some(vm), Ok(size)) = (&self.vm, u32::try_from(range.size)) else {
            return false;
        };
        let added = vm.register_coalesced_mmio(IoEventAddress::Mmio(range.start), size);
        debug!(
            start = range.start,
            size,
            ok = added.is_ok(),
            "KVM_REGISTER_COALESCED_MMIO"
        );
        if added.is_ok() {
            held.push(range);
        }
        added.is_ok()
    }

    /// Makes writes to a zone exits again; nothing where `range` is no zone. Earlier writes may be
    /// in the ring still.
    pub fn remove(&self, range: Range) {
        self.retain(|held| *held != range);
    }

    /// Makes writes to all zones that overlap `range` exits again: something else will be there.
    pub fn remove_overlapping(&self, range: Range) {
        self.retain(|held| held.end() <= range.start || range.end() <= held.start);
    }

    fn retain(&self, stays: impl Fn(&Range) -> bool) {
        self.held().retain(|range| {
            if stays(range) {
                return true;
            }
            // The size is one that was accepted, and the zone is there: KVM has nothing to refuse.
            if let (Some(vm), Ok(size)) = (&self.vm, u32::try_from(range.size)) {
                let gone = vm.unregister_coalesced_mmio(IoEventAddress::Mmio(range.start), size);
                debug!(
                    start = range.start,
                    size,
                    ok = gone.is_ok(),
                    "KVM_UNREGISTER_COALESCED_MMIO"
                );
            }
            false
        });
    }
}
