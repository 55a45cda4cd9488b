//! Zones of coalesced MMIO: guest-physical ranges whose writes KVM keeps in the VM's ring instead
//! of making an exit for each (api.rst, 4.116).
//!
//! Registering a zone is cheap. Unregistering a zone waits for a grace period: some 20 µs, but
//! milliseconds soon after a registration (Linux 6.18 and later; older kernels wait at a
//! registration too). So zones are registered before the guest can access their device, and no vCPU
//! waits for a registration.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::{IoEventAddress, VmFd};
use pci::addr::Range;
use tracing::debug;

/// The zones of a VM in guest-physical memory.
#[derive(Default)]
pub struct CoalescedZones {
    /// `None` if KVM cannot coalesce writes.
    vm: Option<Arc<VmFd>>,
    held: Mutex<Vec<Range>>,
}

impl CoalescedZones {
    /// Makes an empty set. If `vm` is `None`, no zone can be added, and every write is an exit.
    pub fn new(vm: Option<Arc<VmFd>>) -> Self {
        Self {
            vm,
            held: Mutex::default(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Vec<Range>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a zone: KVM coalesces writes that lie wholly inside `range`. Returns whether KVM
    /// has accepted the zone.
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

    /// Unregisters the zone `range`, if there is such a zone. Earlier writes may still be in the
    /// ring.
    pub fn remove(&self, range: Range) {
        self.retain(|held| *held != range);
    }

    /// Unregisters all zones that overlap `range`, where another BAR will be mapped.
    pub fn remove_overlapping(&self, range: Range) {
        self.retain(|held| held.end() <= range.start || range.end() <= held.start);
    }

    fn retain(&self, stays: impl Fn(&Range) -> bool) {
        self.held().retain(|range| {
            if stays(range) {
                return true;
            }
            // KVM has accepted the zone before, so it has no reason to refuse.
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
