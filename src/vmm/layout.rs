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
//!                 │ ECAM, 1 MiB for each bus     │ bus 0, and one for each root port
//!  0x0_fec0_0000  ├──────────────────────────────┤ IOAPIC
//!  0x0_fee0_0000  ├──────────────────────────────┤ local APIC, MSI doorbell
//!  0x0_fffb_c000  ├──────────────────────────────┤ KVM's own four pages (TSS, identity map)
//!  0x1_0000_0000  ├──────────────────────────────┤ HIGH_RAM_START
//!                 │ high RAM                     │ up to 1012 GiB on AMD
//!                 ├──────────────────────────────┤ HYPERTRANSPORT_END
//!                 │ far RAM                      │ the rest on AMD, if any
//!                 ├──────────────────────────────┤ mmio64_start, 1 GiB aligned
//!                 │ 64-bit PCI window            │ sized from the BARs asked for
//!                 └──────────────────────────────┘
//! ```

use pci::Bdf;
use pci::addr::Range;
use pci::bar_assignment::Windows;

/// The least RAM a guest gets: a stock kernel does not unpack itself in less.
pub const MIN_MEMORY: u64 = 64 << 20;

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

/// ECAM of segment 0 (PCI Express 6.0, 7.2.2): 4 KiB a function, 256 functions a bus, from bus 0.
pub const ECAM_START: u64 = 0xe000_0000;
/// Size of the ECAM of one bus.
pub const ECAM_BUS_SIZE: u64 = 0x10_0000;

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

/// AMD's HyperTransport range, which AMD's IOMMUs do not translate (AMD I/O Virtualization
/// Technology, 2.1.2): on AMD, RAM and the 64-bit window lie outside of it.
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

/// First GSI of the four that INTA to INTC share, routed round-robin by device number in `_PRT`.
pub const GSI_INTX_BASE: u32 = 16;
/// How many GSIs INTA to INTC share.
pub const GSI_INTX_COUNT: u32 = 4;

/// The power button's interrupt: the first pin of the IOAPIC after those.
pub const GSI_POWER_BUTTON: u32 = GSI_INTX_BASE + GSI_INTX_COUNT;

/// The interrupt of INTD, of every device.
pub const GSI_INTD: u32 = GSI_POWER_BUTTON + 1;

/// Interrupt pins of a device, INTA to INTD.
pub const INTX_PINS: u8 = 4;

/// The pin of a root port's slot: INTD, whose GSI no function behind a port has. Linux gives a
/// device to its driver and takes it away in a thread of the slot's interrupt (drivers/pci/hotplug/
/// pciehp_hpc.c, `pciehp_ist`). A driver that frees an interrupt there waits for all threads
/// of that interrupt (kernel/irq/manage.c, `__synchronize_irq`), so for ever if its own is one of
/// them.
///
/// A port that is alone in its device should show INTA (PCI Local Bus 3.0, 2.2.6). Linux takes each
/// pin that `_PRT` has.
pub const SLOT_PIN: u8 = 3;

/// The pins of functions behind a port: INTA to INTC.
const PINS_BEHIND_PORT: u8 = SLOT_PIN;

/// The GSI of a device's pin (0 is INTA), as in `_PRT`.
pub fn gsi_of_pin(device: u8, pin: u8) -> u32 {
    match pin % INTX_PINS {
        SLOT_PIN => GSI_INTD,
        pin => GSI_INTX_BASE + (u32::from(device) + u32::from(pin)) % GSI_INTX_COUNT,
    }
}

/// The pin that a function shows (0 is INTA), and the GSI to which the pin leads. A port passes the
/// pins behind it on as its own: pin p of device d as pin (p + d) mod 4, and d is 0 on a link
/// (PCI-to-PCI Bridge Architecture 1.2, 9.1; PCI Express 6.0, 2.2.8.1).
pub fn pin_and_gsi(bdf: Bdf, port: Option<Bdf>) -> (u8, u32) {
    match port {
        None => {
            let pin = bdf.function % INTX_PINS;
            (pin, gsi_of_pin(bdf.device, pin))
        }
        Some(port) => {
            let pin = bdf.function % PINS_BEHIND_PORT;
            (pin, gsi_of_pin(port.device, pin))
        }
    }
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

/// The guest-physical addresses that the host's processor and its IOMMUs can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Bits of a physical address.
    pub bits: u8,
    /// Whether AMD or Hygon made the processor: the HyperTransport range is not used.
    pub amd: bool,
}

/// All addresses of so many bits.
impl From<u8> for Reach {
    fn from(bits: u8) -> Self {
        Self { bits, amd: false }
    }
}

impl Reach {
    /// The first address that cannot be used. AMD's processors from family 17h on have the
    /// HyperTransport range at the end of their addresses, at 40 bits or more, and a guest cannot
    /// use that range either (`vm_compute_max_gfn` in the kernel's tools/testing/selftests/kvm).
    fn limit(self) -> u64 {
        let end = 1u64.checked_shl(self.bits.into()).unwrap_or(u64::MAX);
        match self.amd && self.bits >= 40 {
            true => end.saturating_sub(HYPERTRANSPORT_END - HYPERTRANSPORT_START),
            false => end,
        }
    }

    /// The half-open ranges from `from` to the limit, without the HyperTransport range.
    fn above(self, from: u64) -> [(u64, u64); 2] {
        let limit = self.limit();
        match self.amd {
            true => [
                (from, limit.min(HYPERTRANSPORT_START)),
                (from.max(HYPERTRANSPORT_END), limit),
            ],
            false => [(from, limit), (limit, limit)],
        }
    }
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
    /// RAM from 4 GiB on, if any.
    pub high_ram: Option<Range>,
    /// RAM above the HyperTransport range, if any.
    pub far_ram: Option<Range>,
    /// The 32-bit PCI window.
    pub mmio32: Range,
    /// The 64-bit PCI window.
    pub mmio64: Range,
    /// The number of the last bus: bus 0 is the root, and each root port has one bus behind it.
    pub last_bus: u8,
}

impl Layout {
    /// Lays out `memory` bytes of RAM and a 64-bit window that can hold `bars64` bytes of naturally
    /// aligned BARs, in the addresses of `reach`.
    ///
    /// # Errors
    /// RAM or window do not fit, or there is too little RAM.
    pub fn new(memory: u64, bars64: u64, reach: impl Into<Reach>) -> Result<Self, LayoutError> {
        let reach = reach.into();
        if memory < MIN_MEMORY {
            return Err(LayoutError::TooSmall(memory));
        }
        let low = memory.min(LOW_RAM_LIMIT);
        let mut left = memory - low;
        let [high, far] = reach.above(HIGH_RAM_START).map(|(start, end)| {
            let size = left.min(end.saturating_sub(start));
            left -= size;
            (size > 0).then_some(Range { start, size })
        });
        if left > 0 {
            let limit = reach.limit();
            return Err(LayoutError::TooLarge { memory, limit });
        }
        let ram_only = Self {
            low_ram: Range {
                start: 0,
                size: low,
            },
            high_ram: high,
            far_ram: far,
            mmio32: Range {
                start: MMIO32_START,
                size: MMIO32_END - MMIO32_START,
            },
            mmio64: Range { start: 0, size: 0 },
            last_bus: 0,
        };
        ram_only.with_bars(bars64, reach, &[])
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
        reach: impl Into<Reach>,
        ranges: &[Range],
    ) -> Result<Self, LayoutError> {
        let reach = reach.into();
        let above = reach.above(self.ram_end());
        let reachable: Vec<_> = ranges
            .iter()
            .flat_map(|range| above.map(|(from, to)| (from.max(range.start), to.min(range.end()))))
            .collect();
        let anywhere = find_window(&above, bars64).ok_or(LayoutError::NoWindow {
            memory: self.ram().map(|r| r.size).sum(),
            window: bars64,
            limit: reach.limit(),
        })?;
        Ok(Self {
            mmio64: find_window(&reachable, bars64).unwrap_or(anywhere),
            ..self
        })
    }

    /// Returns the layout with buses up to `last`.
    pub fn with_last_bus(self, last: u8) -> Self {
        Self {
            last_bus: last,
            ..self
        }
    }

    /// The ECAM of all buses: at most 256 MiB, below the IOAPIC.
    pub fn ecam(&self) -> Range {
        Range {
            start: ECAM_START,
            size: (u64::from(self.last_bus) + 1) * ECAM_BUS_SIZE,
        }
    }

    /// The first address after RAM and the 32-bit hole.
    fn ram_end(&self) -> u64 {
        let last = self.far_ram.or(self.high_ram);
        last.map_or(HIGH_RAM_START, |r| r.end())
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
        let above = self.high_ram.into_iter().chain(self.far_ram);
        std::iter::once(self.low_ram).chain(above)
    }

    /// Whether a memory BAR may lie at `start`: inside one of the two windows.
    pub fn allows_bar(&self, start: u64, size: u64) -> bool {
        self.mmio32.contains(start, size) || self.mmio64.contains(start, size)
    }
}

#[cfg(test)]
mod tests;
