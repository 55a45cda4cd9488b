//! A page of a BAR that the host's kernel does not give any more, because the device has gone or
//! decodes no longer: its device is fenced off, and the guest goes on.

use std::sync::{Arc, Mutex, PoisonError};

use crate::machine::Machine;
use crate::memory::{AddressSpace, RegionKind};
use crate::vcpu::LostPages;
use crate::vfio::function::VfioFunction;

/// The pages of the guest's devices, during one boot.
pub(super) struct DevicePages {
    functions: Vec<Arc<VfioFunction>>,
    space: Arc<AddressSpace>,
    others: usize,
    seen: Mutex<Seen>,
}

/// What has gone, and who may not have heard of it yet.
#[derive(Default)]
struct Seen {
    /// Devices that are fenced off, by whomever.
    fenced: usize,
    /// Faults that may still come without an address: every other vCPU may have touched what has
    /// gone at the same time.
    excused: usize,
}

impl DevicePages {
    pub(super) fn new(machine: &Machine) -> Self {
        let functions = machine.vfio_functions();
        Self {
            seen: Mutex::new(Seen {
                fenced: count_fenced(&functions),
                excused: 0,
            }),
            functions,
            space: Arc::clone(&machine.around.space),
            others: machine.vcpus.len().saturating_sub(1),
        }
    }
}

fn count_fenced(functions: &[Arc<VfioFunction>]) -> usize {
    functions.iter().filter(|f| f.is_disconnected()).count()
}

impl LostPages for DevicePages {
    fn take_away(&self, address: Option<u64>) -> bool {
        let Some(address) = address else {
            // One vCPU after the other: the second must see what the first has done.
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            // All of them, not the first alone.
            for function in &self.functions {
                function.disconnect_if_unmappable();
            }
            let fenced = count_fenced(&self.functions);
            if fenced > seen.fenced {
                *seen = Seen {
                    fenced,
                    excused: self.others,
                };
                return true;
            }
            let excused = seen.excused > 0;
            seen.excused = seen.excused.saturating_sub(1);
            return excused;
        };
        match self.space.kind_at(address) {
            Some(RegionKind::Ram) => false,
            Some(RegionKind::Device) => {
                // Where another vCPU was quicker, nothing is there now.
                self.functions
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
    use crate::memory::mapping::Mapping;
    use crate::memory::{PAGE_SIZE, Region};

    fn pages(excused: usize) -> DevicePages {
        let space = AddressSpace::new();
        for (start, kind) in [(0, RegionKind::Ram), (0x8000, RegionKind::Device)] {
            let mapping = Arc::new(Mapping::anonymous(PAGE_SIZE, PAGE_SIZE).unwrap());
            let region = Region {
                start,
                size: PAGE_SIZE,
                mapping,
                offset: 0,
                kind,
            };
            space.add(region).unwrap();
        }
        DevicePages {
            functions: Vec::new(),
            space: Arc::new(space),
            others: 0,
            seen: Mutex::new(Seen { fenced: 0, excused }),
        }
    }

    #[test]
    fn what_no_device_explains_ends_the_run() {
        let pages = pages(0);
        assert!(!pages.take_away(Some(0x800)), "RAM");
        assert!(!pages.take_away(Some(0x8000)), "a piece of nobody's");
        assert!(!pages.take_away(None));
        // Another vCPU has been here already.
        assert!(pages.take_away(Some(0x4000)));
    }

    #[test]
    fn each_other_vcpu_may_fault_once() {
        let pages = pages(2);
        assert_eq!(
            [(); 4].map(|()| pages.take_away(None)),
            [true, true, false, false]
        );
    }
}
