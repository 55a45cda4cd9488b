//! `hvm_start_info`, which a kernel entered by PVH finds through `ebx`.
//!
//! Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h: the structure, a list of
//! modules of which the first is the initrd, and a memory map (since version 1).

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::GuestAddress;

use crate::boot::e820::e820;
use crate::boot::entry::Handover;
use crate::boot::error::BootError;
use crate::layout::{LOW_CMDLINE, LOW_PVH_INFO, LOW_PVH_MEMMAP, LOW_PVH_MODULES, Layout};
use crate::memory::guest_memory::GuestMemory;

/// The first version with a memory map.
const VERSION: u32 = 1;

/// Writes the start info, the module list and the memory map.
pub(super) fn write_start_info(
    memory: &GuestMemory,
    layout: &Layout,
    handover: &Handover,
) -> Result<(), BootError> {
    let map: Vec<_> = e820(layout)
        .iter()
        .map(|entry| hvm_memmap_table_entry {
            addr: entry.start,
            size: entry.size,
            // Xen's types are the same numbers as ACPI's.
            type_: entry.kind as u32,
            reserved: 0,
        })
        .collect();
    let modules: Vec<_> = handover
        .initrd
        .iter()
        .map(|initrd| hvm_modlist_entry {
            paddr: initrd.start,
            size: initrd.size,
            ..Default::default()
        })
        .collect();
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        nr_modules: modules.len() as u32,
        modlist_paddr: if modules.is_empty() {
            0
        } else {
            LOW_PVH_MODULES
        },
        cmdline_paddr: LOW_CMDLINE,
        rsdp_paddr: handover.rsdp,
        memmap_paddr: LOW_PVH_MEMMAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    let mut params = BootParams::new(&info, GuestAddress(LOW_PVH_INFO));
    params.set_sections(&map, GuestAddress(LOW_PVH_MEMMAP));
    params.set_modules(&modules, GuestAddress(LOW_PVH_MODULES));
    PvhBootConfigurator::write_bootparams(&params, memory).map_err(BootError::Configure)
}

#[cfg(test)]
mod tests {
    use pci::addr::Range;
    use vm_memory::Bytes;

    use super::*;
    use crate::memory::guest_memory::test_memory;

    #[test]
    fn says_where_everything_is() {
        let layout = Layout::new(64 << 20, 0, 40).unwrap();
        let memory = test_memory(&[(GuestAddress(0), 1 << 20)]);
        let handover = Handover {
            rsdp: 0xe_0000,
            initrd: Some(Range {
                start: 0x3f0_0000,
                size: 77,
            }),
        };
        write_start_info(&memory, &layout, &handover).unwrap();
        let info: hvm_start_info = memory.read_obj(GuestAddress(LOW_PVH_INFO)).unwrap();
        assert_eq!(info.magic, 0x336e_c578);
        assert_eq!((info.version, info.nr_modules), (1, 1));
        assert_eq!(info.rsdp_paddr, 0xe_0000);
        let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
        assert_eq!((module.paddr, module.size), (0x3f0_0000, 77));
        assert_eq!(info.memmap_entries as usize, e820(&layout).len());
        let first: hvm_memmap_table_entry =
            memory.read_obj(GuestAddress(info.memmap_paddr)).unwrap();
        assert_eq!((first.addr, first.size, first.type_), (0, 0x9_fc00, 1));
    }

    #[test]
    fn without_an_initrd_there_is_no_module_list() {
        let layout = Layout::new(64 << 20, 0, 40).unwrap();
        let memory = test_memory(&[(GuestAddress(0), 1 << 20)]);
        let handover = Handover {
            rsdp: 0xe_0000,
            initrd: None,
        };
        write_start_info(&memory, &layout, &handover).unwrap();
        let info: hvm_start_info = memory.read_obj(GuestAddress(LOW_PVH_INFO)).unwrap();
        assert_eq!((info.nr_modules, info.modlist_paddr), (0, 0));
    }
}
