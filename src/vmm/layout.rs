//! Every guest-physical address, port and GSI of the machine, and the layout of RAM and windows.
//!
//! ```text
//!  0x0_0000_0000  ┌──────────────────────────────┐
//!                 │ RAM below 640 KiB            │ boot structures (LOW_*), then free
//!  0x0_000a_0000  ├──────────────────────────────┤
//!                 │ no RAM for the guest to use  │ ACPI tables at 0xe0000, the MP table
//!                 │                              │ at 0xf0000, a reboot stub at the end
//!  0x0_0010_0000  ├──────────────────────────────┤
//!                 │ low RAM (up to 3 GiB)        │ kernel, initrd
//!  0x0_c000_0000  ├──────────────────────────────┤ MMIO32_START
//!                 │ 32-bit PCI window (512 MiB)  │ BARs that need 32-bit addresses
//!  0x0_e000_0000  ├──────────────────────────────┤ ECAM_START
//!                 │ ECAM, 1 MiB for bus 0        │
//!  0x0_fec0_0000  ├──────────────────────────────┤ IOAPIC
//!  0x0_fee0_0000  ├──────────────────────────────┤ local APIC, MSI doorbell
//!  0x0_fffb_c000  ├──────────────────────────────┤ KVM's own four pages (TSS, identity map)
//!  0x1_0000_0000  ├──────────────────────────────┤ HIGH_RAM_START
//!                 │ high RAM                     │
//!                 ├──────────────────────────────┤ mmio64_start, 1 GiB aligned
//!                 │ 64-bit PCI window            │ sized from the BARs asked for
//!                 └──────────────────────────────┘
//! ```

use pci::addr::Range;
use pci::bar_assignment::Windows;

use crate::config::memory::MIN_MEMORY;

/// The zero page (`struct boot_params`; Documentation/arch/x86/boot.rst, "64-bit boot protocol").
pub const LOW_ZERO_PAGE: u64 = 0x7000;
/// The boot GDT for vCPU 0.
pub const LOW_GDT: u64 = 0x500;
/// An empty IDT for vCPU 0.
pub const LOW_IDT: u64 = 0x520;
/// PVH `hvm_start_info`.
pub const LOW_PVH_INFO: u64 = 0x6000;
/// PVH memory map entries.
pub const LOW_PVH_MEMMAP: u64 = 0x6100;
/// PVH module list.
pub const LOW_PVH_MODULES: u64 = 0x6080;
/// Identity page tables (PML4, one PDPT, four PDs) of the 64-bit entry.
pub const LOW_PAGE_TABLES: u64 = 0x9000;
/// The kernel command line.
pub const LOW_CMDLINE: u64 = 0x20000;
/// Bytes of the longest command line that fits, its final NUL included.
pub const LOW_CMDLINE_SIZE: u64 = 0x10000;
/// End (exclusive) of the conventional memory that the guest may use.
pub const LOW_RAM_END: u64 = 0x9_fc00;

/// Start of the ACPI tables. The RSDP comes first: a scan of the BIOS area finds it at this address
/// (ACPI 6.5, 5.2.5.1).
pub const ACPI_START: u64 = 0xe_0000;
/// End (exclusive) of the area for ACPI tables.
pub const ACPI_END: u64 = 0xf_0000;

/// The MP floating pointer structure, with the MP table after it. A kernel looks for the structure
/// between this address and 1 MiB (MultiProcessor Specification 1.4, 4.1).
pub const MP_TABLE: u64 = 0xf_0000;

/// The address to which a processor in real mode jumps to reset the machine: f000:fff0, in the
/// BIOS's segment.
pub const REBOOT_VECTOR: u64 = 0xf_fff0;

/// Start of the RAM above the BIOS area, the lowest address at which a kernel is loaded.
pub const HIGH_MEMORY_START: u64 = 0x10_0000;
/// End (exclusive) of low RAM; RAM continues at [`HIGH_RAM_START`].
pub const LOW_RAM_LIMIT: u64 = MMIO32_START;

/// 32-bit PCI window.
pub const MMIO32_START: u64 = 0xc000_0000;
/// End (exclusive) of the 32-bit PCI window.
pub const MMIO32_END: u64 = 0xe000_0000;

/// ECAM of segment 0, bus 0 (PCI Express 6.0, 7.2.2): 4 KiB a function, 256 functions.
pub const ECAM_START: u64 = 0xe000_0000;
/// Size of the ECAM of one bus.
pub const ECAM_SIZE: u64 = 0x10_0000;

/// In-kernel IOAPIC.
pub const IOAPIC_ADDR: u32 = 0xfec0_0000;
/// Local APICs.
pub const LAPIC_ADDR: u32 = 0xfee0_0000;
/// Three pages for KVM_SET_TSS_ADDR (Documentation/virt/kvm/api.rst, 4.36).
pub const KVM_TSS_ADDR: u64 = 0xfffb_d000;
/// One page for KVM_SET_IDENTITY_MAP_ADDR (api.rst, 4.40).
pub const KVM_IDENTITY_MAP_ADDR: u64 = 0xfffb_c000;

/// RAM above the 32-bit hole.
pub const HIGH_RAM_START: u64 = 0x1_0000_0000;

/// AMD's HyperTransport range, which AMD's IOMMUs do not translate: RAM lies below the range, and
/// the 64-bit window outside of it.
pub const HYPERTRANSPORT_START: u64 = 0xfd_0000_0000;
/// End (exclusive) of the HyperTransport range.
pub const HYPERTRANSPORT_END: u64 = 0x100_0000_0000;

/// 0xCF8, the address port of configuration mechanism 1 (PCI 3.0, 3.2.2.3.2).
pub const PORT_PCI_ADDRESS: u16 = 0xcf8;
/// 0xCFC, the data port of configuration mechanism 1.
pub const PORT_PCI_DATA: u16 = 0xcfc;
/// I/O ports that PCI BARs may use.
pub const PCI_IO_START: u16 = 0x1000;
/// Last I/O port (inclusive) that PCI BARs may use.
pub const PCI_IO_END: u16 = 0xffff;
/// COM1, a 16550.
pub const PORT_SERIAL: u16 = 0x3f8;
/// COM1's interrupt.
pub const GSI_SERIAL: u32 = 4;
/// ACPI sleep control register of the hardware-reduced model (ACPI 6.5, 4.8.3.7).
pub const PORT_SLEEP_CONTROL: u16 = 0x600;
/// ACPI sleep status register.
pub const PORT_SLEEP_STATUS: u16 = 0x601;
/// ACPI reset register (ACPI 6.5, 4.8.3.6).
pub const PORT_RESET: u16 = 0x602;
/// Writing this value to [`PORT_RESET`] resets the machine.
pub const RESET_VALUE: u8 = 0x01;
/// SLP_TYPx of S5, as in the DSDT's `_S5`.
pub const SLEEP_TYPE_S5: u8 = 5;

/// ACPI power management timer (ACPI 6.5, 4.8.3.3), a 32-bit register.
pub const PORT_PM_TIMER: u16 = 0x608;

/// First GSI of the four that PCI INTx pins share, routed round-robin by device number in `_PRT`.
pub const GSI_INTX_BASE: u32 = 16;
/// How many GSIs INTx pins share.
pub const GSI_INTX_COUNT: u32 = 4;

/// Interrupt pins of a device, INTA to INTD.
pub const INTX_PINS: u8 = 4;

/// The GSI of a device's pin (0 is INTA), as in `_PRT`.
pub fn gsi_of_pin(device: u8, pin: u8) -> u32 {
    GSI_INTX_BASE + (u32::from(device) + u32::from(pin)) % GSI_INTX_COUNT
}
/// IOAPIC pins, which have the first GSIs. The GSIs of MSIs come after them.
pub const IOAPIC_PINS: u32 = 24;

const GIB: u64 = 1 << 30;

/// The reason why a layout is not possible.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayoutError {
    /// Less than the smallest supported memory.
    #[error("{0} bytes of memory are too few to boot a kernel; the least is {MIN_MEMORY}")]
    TooSmall(u64),
    /// RAM does not fit under the physical address limit.
    #[error("{memory} bytes of memory do not fit below address {limit:#x}")]
    TooLarge {
        /// Bytes of RAM asked for.
        memory: u64,
        /// The first address that cannot be used.
        limit: u64,
    },
    /// The BARs do not fit in addition to RAM.
    #[error(
        "{window} bytes of device memory do not fit beside {memory} bytes of RAM below address \
         {limit:#x}, which is all that this host's processor addresses"
    )]
    NoWindow {
        /// Bytes of RAM asked for.
        memory: u64,
        /// Bytes of the BARs.
        window: u64,
        /// The first address that cannot be used.
        limit: u64,
    },
}

/// The first guest-physical address that a processor of `phys_bits` bits cannot use.
fn limit(phys_bits: u8) -> u64 {
    1u64.checked_shl(phys_bits.into()).unwrap_or(u64::MAX)
}

/// The two half-open ranges above RAM, below and above AMD's HyperTransport range.
fn above_ram(ram_end: u64, limit: u64) -> [(u64, u64); 2] {
    [
        (ram_end, limit.min(HYPERTRANSPORT_START)),
        (HYPERTRANSPORT_END, limit),
    ]
}

/// Finds a window for BARs of `bars` bytes in one of the half-open `spaces`. The window is twice as
/// large if possible, because a guest may move its BARs, and naturally aligned if possible, so that
/// the largest BAR fits at its start.
fn find_window(spaces: &[(u64, u64)], bars: u64) -> Option<Range> {
    let exact = bars.max(GIB).checked_next_power_of_two()?;
    let sizes = [exact.checked_mul(2), Some(exact)];
    let aligns = |size: u64| [size, GIB];
    sizes.into_iter().flatten().find_map(|size| {
        aligns(size).into_iter().find_map(|align| {
            spaces.iter().find_map(|&(from, to)| {
                let start = from.checked_next_multiple_of(align)?;
                (start.checked_add(size)? <= to).then_some(Range { start, size })
            })
        })
    })
}

/// The parts of the guest-physical map that depend on the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// RAM from address 0, at most 3 GiB.
    pub low_ram: Range,
    /// RAM above 4 GiB, if any.
    pub high_ram: Option<Range>,
    /// The 32-bit PCI window.
    pub mmio32: Range,
    /// The 64-bit PCI window.
    pub mmio64: Range,
}

impl Layout {
    /// Lays out `memory` bytes of RAM and a 64-bit window that can hold `bars64` bytes of naturally
    /// aligned BARs, under `phys_bits` bits of guest-physical address.
    ///
    /// # Errors
    /// RAM or window do not fit, or there is too little RAM.
    pub fn new(memory: u64, bars64: u64, phys_bits: u8) -> Result<Self, LayoutError> {
        if memory < MIN_MEMORY {
            return Err(LayoutError::TooSmall(memory));
        }
        let low = memory.min(LOW_RAM_LIMIT);
        let high = memory - low;
        let limit = limit(phys_bits).min(HYPERTRANSPORT_START);
        let end = HIGH_RAM_START.checked_add(high);
        if end.is_none_or(|end| end > limit) {
            return Err(LayoutError::TooLarge { memory, limit });
        }
        let ram_only = Self {
            low_ram: Range {
                start: 0,
                size: low,
            },
            high_ram: (high > 0).then_some(Range {
                start: HIGH_RAM_START,
                size: high,
            }),
            mmio32: Range {
                start: MMIO32_START,
                size: MMIO32_END - MMIO32_START,
            },
            mmio64: Range { start: 0, size: 0 },
        };
        ram_only.with_bars(bars64, phys_bits, &[])
    }

    /// Returns the layout with the same RAM and a 64-bit window for `bars64` bytes of BARs.
    /// `ranges` are the I/O addresses that the IOMMU can map. The window lies inside one of them,
    /// so that devices can reach each other's BARs. If no range is large enough, the window lies
    /// where [`Layout::new`] puts it, and peer-to-peer DMA does not work.
    ///
    /// # Errors
    /// [`LayoutError::NoWindow`].
    pub fn with_bars(
        self,
        bars64: u64,
        phys_bits: u8,
        ranges: &[Range],
    ) -> Result<Self, LayoutError> {
        let limit = limit(phys_bits);
        let above = above_ram(self.ram_end(), limit);
        let reachable: Vec<_> = ranges
            .iter()
            .flat_map(|range| above.map(|(from, to)| (from.max(range.start), to.min(range.end()))))
            .collect();
        let anywhere = find_window(&above, bars64).ok_or(LayoutError::NoWindow {
            memory: self.ram().map(|r| r.size).sum(),
            window: bars64,
            limit,
        })?;
        Ok(Self {
            mmio64: find_window(&reachable, bars64).unwrap_or(anywhere),
            ..self
        })
    }

    /// The first address after RAM and the 32-bit hole.
    fn ram_end(&self) -> u64 {
        self.high_ram.map_or(HIGH_RAM_START, |r| r.end())
    }

    /// The windows in which BARs may lie.
    pub fn windows(&self) -> Windows {
        let io_start = u64::from(PCI_IO_START);
        Windows {
            mmio32: self.mmio32,
            mmio64: self.mmio64,
            io: Range {
                start: io_start,
                size: u64::from(PCI_IO_END) + 1 - io_start,
            },
        }
    }

    /// RAM regions in address order.
    pub fn ram(&self) -> impl Iterator<Item = Range> + use<> {
        std::iter::once(self.low_ram).chain(self.high_ram)
    }

    /// Whether a memory BAR may lie at `start`: inside one of the two windows.
    pub fn allows_bar(&self, start: u64, size: u64) -> bool {
        self.mmio32.contains(start, size) || self.mmio64.contains(start, size)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_memory_stays_low() {
        let l = Layout::new(512 << 20, 0, 40).unwrap();
        assert_eq!(
            l.low_ram,
            Range {
                start: 0,
                size: 512 << 20
            }
        );
        assert_eq!(l.high_ram, None);
        assert!(l.mmio64.start >= HIGH_RAM_START);
    }

    #[test]
    fn memory_is_split_at_the_hole() {
        let l = Layout::new(4 << 30, 0, 40).unwrap();
        assert_eq!(l.low_ram.end(), MMIO32_START);
        assert_eq!(
            l.high_ram,
            Some(Range {
                start: HIGH_RAM_START,
                size: 1 << 30
            })
        );
    }

    #[test]
    fn large_bars_find_a_window() {
        // Two devices of 128 GiB and a little more: above 1 TiB where the processor reaches that
        // far, tightly after RAM where it does not.
        let bars = (256 << 30) + (1 << 20);
        let far = Layout::new(16 << 30, bars, 46).unwrap().mmio64;
        assert_eq!((far.start, far.size), (1 << 40, 1 << 40));
        let near = Layout::new(16 << 30, 256 << 30, 39).unwrap().mmio64;
        assert_eq!((near.start, near.size), (256 << 30, 256 << 30));
        assert!(matches!(
            Layout::new(16 << 30, bars, 39),
            Err(LayoutError::NoWindow { .. })
        ));
    }

    /// An Intel IOMMU of 39 bits under a processor of 46, the MSI range left out.
    #[test]
    fn the_window_is_where_the_iommu_reaches() {
        let ranges = [
            Range::inclusive(0, 0xfedf_ffff).unwrap(),
            Range::inclusive(0xfef0_0000, (1 << 39) - 1).unwrap(),
        ];
        let bars = 200 << 30;
        let l = Layout::new(16 << 30, bars, 46).unwrap();
        assert!(l.mmio64.start >= 1 << 40);
        let near = l.with_bars(bars, 46, &ranges).unwrap();
        assert_eq!(near.mmio64.start, 256 << 30);
        assert!(near.mmio64.end() <= 1 << 39);
        assert_eq!(
            Layout {
                mmio64: l.mmio64,
                ..near
            },
            l,
            "nothing else moves"
        );
        // BARs that do not fit there, or an IOMMU that does not tell its ranges, change nothing.
        let l = Layout::new(16 << 30, 400 << 30, 46).unwrap();
        assert_eq!(l.with_bars(400 << 30, 46, &ranges), Ok(l));
        assert_eq!(l.with_bars(400 << 30, 46, &[]), Ok(l));
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert_eq!(
            Layout::new(1 << 20, 0, 40),
            Err(LayoutError::TooSmall(1 << 20))
        );
        assert!(matches!(
            Layout::new(64 << 30, 0, 36),
            Err(LayoutError::TooLarge { .. })
        ));
        assert!(matches!(
            Layout::new(1 << 41, 0, 52),
            Err(LayoutError::TooLarge { .. })
        ));
        assert!(matches!(
            Layout::new(1 << 30, u64::MAX, 46),
            Err(LayoutError::NoWindow { .. })
        ));
        assert!(matches!(
            Layout::new(u64::MAX, 0, 52),
            Err(LayoutError::TooLarge { .. })
        ));
    }

    proptest! {
        #[test]
        fn nothing_overlaps(
            memory in MIN_MEMORY..(900u64 << 30),
            bars in 0u64..(64 << 30),
            bits in 36u8..=52,
        ) {
            if let Ok(l) = Layout::new(memory, bars, bits) {
                prop_assert_eq!(l.ram().map(|r| r.size).sum::<u64>(), memory);
                prop_assert!(l.low_ram.end() <= MMIO32_START);
                let top = l.high_ram.map_or(HIGH_RAM_START, |r| r.end());
                prop_assert!(l.mmio64.start >= top);
                prop_assert!(l.mmio64.size >= bars);
                prop_assert!(l.mmio64.end() <= 1u64 << bits);
                prop_assert!(top <= HYPERTRANSPORT_START);
                prop_assert!(
                    l.mmio64.end() <= HYPERTRANSPORT_START || l.mmio64.start >= HYPERTRANSPORT_END
                );
                prop_assert_eq!(l.mmio64.start % GIB, 0);
                let half = Range { start: 0, size: 1 << (bits - 1) };
                let near = l.with_bars(bars, bits, &[half]).unwrap().mmio64;
                prop_assert!(near == l.mmio64 || half.contains(near.start, near.size));
                prop_assert!(near.start >= top && near.size >= bars);
            }
        }
    }
}
