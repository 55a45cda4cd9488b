//! KVM's memory slots as a listener (Documentation/virt/kvm/api.rst, 4.35
//! KVM_SET_USER_MEMORY_REGION).
//!
//! Slot IDs are reused, so a guest cannot exhaust them by turning memory decoding off and on.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use tracing::debug;

use crate::memory::error::{MemoryError, StillUsed};
use crate::memory::listener::MemoryListener;
use crate::memory::region::Region;

/// Mirrors the address space into KVM.
pub struct KvmSlots {
    vm: Arc<VmFd>,
    max: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// IDs that were used before and are free again.
    free: Vec<u32>,
    /// The least ID that was never used.
    next: u32,
    /// Ids in use, by the guest-physical start of the region.
    used: HashMap<u64, u32>,
}

impl KvmSlots {
    /// The slots of `vm`: at most `max` (KVM_CAP_NR_MEMSLOTS).
    pub fn new(vm: Arc<VmFd>, max: usize) -> Self {
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        Self {
            vm,
            max,
            state: Mutex::default(),
        }
    }

    /// How many slots are in use now.
    pub fn in_use(&self) -> usize {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .used
            .len()
    }

    fn set(&self, slot: u32, region: &Region, size: u64) -> Result<(), kvm_ioctls::Error> {
        let argument = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start,
            memory_size: size,
            userspace_addr: region.host_address(),
        };
        debug!(
            slot,
            start = region.start,
            size,
            "KVM_SET_USER_MEMORY_REGION"
        );
        // SAFETY: the region holds its host mapping, and the address space keeps the region until
        // the slot is deleted; regions do not overlap.
        unsafe { self.vm.set_user_memory_region(argument) }
    }
}

impl MemoryListener for KvmSlots {
    fn add(&self, region: &Region) -> Result<(), MemoryError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = match state.free.pop() {
            Some(slot) => slot,
            None if state.next < self.max => {
                state.next += 1;
                state.next - 1
            }
            None => return Err(MemoryError::NoSlot(self.max)),
        };
        if let Err(source) = self.set(slot, region, region.size) {
            state.free.push(slot);
            let (start, size) = (region.start, region.size);
            return Err(MemoryError::Slot {
                start,
                size,
                source,
            });
        }
        state.used.insert(region.start, slot);
        Ok(())
    }

    fn remove(&self, region: &Region) -> Result<(), StillUsed> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = state.used.remove(&region.start) else {
            return Ok(());
        };
        // No known kernel fails here. The ID of such a slot is not used again.
        self.set(slot, region, 0).map_err(|e| StillUsed {
            by: "KVM",
            start: region.start,
            size: region.size,
            source: io::Error::from_raw_os_error(e.errno()),
        })?;
        state.free.push(slot);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use kvm_ioctls::Kvm;

    use super::*;
    use crate::memory::address_space::AddressSpace;
    use crate::memory::mapping::{Mapping, PAGE_SIZE};
    use crate::memory::region::RegionKind;

    /// KVM does not fail here, so the VM's descriptor becomes one that refuses every ioctl.
    #[test]
    fn a_slot_that_is_not_deleted_keeps_its_memory() {
        let Ok(kvm) = Kvm::new() else {
            println!("SKIPPED: /dev/kvm cannot be opened");
            return;
        };
        let vm = Arc::new(kvm.create_vm().unwrap());
        let slots = Arc::new(KvmSlots::new(Arc::clone(&vm), 8));
        let space = AddressSpace::new();
        space.subscribe(slots.clone()).unwrap();
        let region = Region {
            start: 0x1000,
            size: PAGE_SIZE,
            mapping: Arc::new(Mapping::anonymous(PAGE_SIZE, PAGE_SIZE).unwrap()),
            offset: 0,
            kind: RegionKind::Ram,
            bar: None,
        };
        let mapping = Arc::downgrade(&region.mapping);
        space.add(region.clone()).unwrap();
        assert!(space.remove(0x1000));
        space.add(region).unwrap();
        let null = File::open("/dev/null").unwrap();
        // SAFETY: both descriptors are open, and nothing reads or writes the VM's.
        assert!(unsafe { libc::dup2(null.as_raw_fd(), vm.as_raw_fd()) } >= 0);
        assert!(space.remove(0x1000));
        assert_eq!(slots.in_use(), 0);
        drop((space, slots, vm));
        assert!(mapping.upgrade().is_some());
    }
}
