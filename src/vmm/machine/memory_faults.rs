//! Handles memory faults: KVM cannot get a page of a BAR, because the device has gone or no longer
//! decodes memory. The device is disconnected from the guest, and the guest goes on.

use std::sync::{Arc, Mutex, PoisonError};

use crate::memory::address_space::AddressSpace;
use crate::memory::region::RegionKind;
use crate::vcpu::shared::MemoryFaultHandler;
use crate::vfio::function::VfioFunction;

/// Lists the functions that the guest has, and counts those that have left it.
pub(super) type FunctionList = Box<dyn Fn() -> (Vec<Arc<VfioFunction>>, usize) + Send + Sync>;

/// Handles the memory faults of one boot.
pub(super) struct DeviceFaults {
    list: FunctionList,
    space: Arc<AddressSpace>,
    /// The number of vCPUs, less one.
    other_vcpus: usize,
    seen: Mutex<Seen>,
}

/// The number of disconnected devices, and of faults that their disconnection still explains.
#[derive(Default)]
struct Seen {
    /// Devices that are disconnected, for any reason.
    disconnected: usize,
    /// Faults without an address that may still come: each other vCPU may have touched the lost
    /// pages at the same time.
    expected: usize,
}

impl DeviceFaults {
    /// Makes the handler for a guest with these functions, memory and number of vCPUs.
    pub fn new(list: FunctionList, space: Arc<AddressSpace>, vcpus: usize) -> Self {
        let seen = Seen {
            disconnected: count_disconnected(&list),
            expected: 0,
        };
        Self {
            seen: Mutex::new(seen),
            list,
            space,
            other_vcpus: vcpus.saturating_sub(1),
        }
    }

    /// Handles a fault for which KVM does not tell the address: disconnects every device that may
    /// have lost its pages.
    fn handle_unknown(&self) -> bool {
        // The lock admits one vCPU at a time: the second must see which devices the first has
        // disconnected.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for function in (self.list)().0 {
            function.disconnect_if_unmappable();
        }
        let disconnected = count_disconnected(&self.list);
        if disconnected > seen.disconnected {
            *seen = Seen {
                disconnected,
                expected: self.other_vcpus,
            };
            return true;
        }
        let expected = seen.expected > 0;
        seen.expected = seen.expected.saturating_sub(1);
        expected
    }
}

/// The number of functions that are disconnected or have left.
fn count_disconnected(list: &FunctionList) -> usize {
    let (functions, left) = list();
    left + functions.iter().filter(|f| f.is_disconnected()).count()
}

impl MemoryFaultHandler for DeviceFaults {
    fn handle(&self, address: Option<u64>) -> bool {
        let Some(address) = address else {
            return self.handle_unknown();
        };
        match self.space.kind_at(address) {
            Some(RegionKind::Ram) => false,
            Some(RegionKind::Device) => {
                // Another vCPU may have removed the region already.
                (self.list)()
                    .0
                    .iter()
                    .any(|f| f.disconnect_if_mapped_at(address))
                    || self.space.kind_at(address).is_none()
            }
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::mapping::{Mapping, PAGE_SIZE};
    use crate::memory::region::Region;

    fn faults(expected: usize) -> DeviceFaults {
        let space = AddressSpace::new();
        for (start, kind) in [(0, RegionKind::Ram), (0x8000, RegionKind::Device)] {
            let mapping = Arc::new(Mapping::anonymous(PAGE_SIZE, PAGE_SIZE).unwrap());
            let region = Region {
                start,
                size: PAGE_SIZE,
                mapping,
                offset: 0,
                kind,
                bar: None,
            };
            space.add(region).unwrap();
        }
        DeviceFaults {
            list: Box::new(|| (Vec::new(), 0)),
            space: Arc::new(space),
            other_vcpus: 0,
            seen: Mutex::new(Seen {
                disconnected: 0,
                expected,
            }),
        }
    }

    #[test]
    fn what_no_device_explains_ends_the_run() {
        let faults = faults(0);
        assert!(!faults.handle(Some(0x800)), "RAM");
        assert!(!faults.handle(Some(0x8000)), "of no device");
        assert!(!faults.handle(None));
        // Another vCPU has handled the fault already.
        assert!(faults.handle(Some(0x4000)));
    }

    #[test]
    fn each_other_vcpu_may_fault_once() {
        let faults = faults(2);
        assert_eq!(
            [(); 4].map(|()| faults.handle(None)),
            [true, true, false, false]
        );
    }
}
