//! The DSDT: the namespace of a machine with one PCI Express root, a serial port, a power button
//! and CPUs.
//!
//! ACPI 6.5: 6.1 (identification), 6.4 (resources), 6.2.13 (`_PRT`), 6.2.11 (`_OSC`), 7.4.2
//! (`\_S5`); PCI Firmware 3.3, 4.5.1 (`_OSC` of PCI host bridges).

use std::ops;

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal,
    IO, If, Interrupt, Local, Memory32Fixed, Method, Name, NotEqual, ONE, Or, Package,
    PackageBuilder, Path, ResourceTemplate, Return, Scope, Store, Uuid, ZERO,
};
use acpi_tables::sdt::Sdt;
use pci::addr::Range;

use crate::boot::aml::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes};
use crate::boot::power_button;
use crate::layout;
use crate::layout::{
    ECAM_SIZE, ECAM_START, GSI_SERIAL, Layout, PCI_IO_END, PCI_IO_START, PORT_PCI_ADDRESS,
    PORT_PM_TIMER, PORT_SERIAL, PORT_SLEEP_CONTROL, SLEEP_TYPE_S5,
};

/// Bytes of a table's header.
const HEADER: u32 = 36;
/// Revision 2: integers are 64 bits wide (ACPI 6.5, 5.2.11.1).
const REVISION: u8 = 2;
/// Device numbers with interrupt pins; 0 is the host bridge.
const DEVICES: ops::Range<u8> = 1..32;

/// Builds the DSDT, header and checksum included, for `cpus` vCPUs.
pub(super) fn build(layout: &Layout, cpus: u32) -> Vec<u8> {
    let mut dsdt = Sdt::new(
        *b"DSDT",
        HEADER,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    let mut devices = pci_root(layout);
    devices.extend(motherboard());
    devices.extend(serial());
    devices.extend(power_button::devices());
    (0..cpus).for_each(|uid| devices.extend(cpu(uid)));
    dsdt.append_slice(&Scope::raw(Path::new("_SB_"), devices));
    dsdt.append_slice(&bytes(&Name::new(
        Path::new("_S5_"),
        // Only the first element is used on a machine without PM1 registers.
        &Package::new(vec![&SLEEP_TYPE_S5, &ZERO, &ZERO, &ZERO]),
    )));
    dsdt.as_slice().to_vec()
}

/// `_SB_.PCI0`: the root of segment 0, bus 0.
fn pci_root(layout: &Layout) -> Vec<u8> {
    let name = |name: &str, value: &dyn Aml| Name::new(Path::new(name), value);
    let resources = root_resources(layout);
    bytes(&Device::new(
        Path::new("PCI0"),
        vec![
            // A PCI Express root, which an older system may use as a PCI root.
            &name("_HID", &EISAName::new("PNP0A08")),
            &name("_CID", &EISAName::new("PNP0A03")),
            &name("_UID", &ZERO),
            &name("_SEG", &ZERO),
            &name("_BBN", &ZERO),
            &name(
                "_CRS",
                &ResourceTemplate::new(resources.iter().map(|r| &**r).collect()),
            ),
            &name("_PRT", &routing()),
            &Raw(osc()),
        ],
    ))
}

/// The root's resources: one bus, and the windows for BARs.
///
/// The 64-bit window is not declared prefetchable. Linux puts a prefetchable BAR into any window,
/// but puts a non-prefetchable BAR only into a non-prefetchable window
/// (`pci_bus_alloc_from_region`). Large non-prefetchable 64-bit BARs exist, for example an NVMe's.
fn root_resources(layout: &Layout) -> Vec<Box<dyn Aml>> {
    let mut resources: Vec<Box<dyn Aml>> = vec![
        Box::new(AddressSpace::new_bus_number(0u16, 0u16)),
        // Configuration mechanism 1 is the root's own, not passed on to the bus.
        Box::new(IO::new(PORT_PCI_ADDRESS, PORT_PCI_ADDRESS, 1, 8)),
        Box::new(AddressSpace::new_io(PCI_IO_START, PCI_IO_END, None)),
    ];
    if let Some((first, last)) = bounds(&layout.mmio32)
        && let (Ok(first), Ok(last)) = (u32::try_from(first), u32::try_from(last))
    {
        resources.push(Box::new(AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            first,
            last,
            None,
        )));
    }
    if let Some((first, last)) = bounds(&layout.mmio64) {
        resources.push(Box::new(AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            first,
            last,
            None,
        )));
    }
    resources
}

/// First and last address; `None` for an empty window.
fn bounds(range: &Range) -> Option<(u64, u64)> {
    let last = range.start.checked_add(range.size.checked_sub(1)?)?;
    Some((range.start, last))
}

/// `_PRT`: pin p (0 is INTA) of device d raises GSI `GSI_INTX_BASE + (d + p) % count`.
fn routing() -> PackageBuilder {
    let mut table = PackageBuilder::new();
    for device in DEVICES {
        for pin in 0..layout::INTX_PINS {
            let gsi = layout::gsi_of_pin(device, pin);
            // 0xffff stands for all functions of the device. There is no link device, so the entry
            // has the number of a GSI.
            table.add_element(&Package::new(vec![
                &((u32::from(device) << 16) | 0xffff),
                &pin,
                &ZERO,
                &gsi,
            ]));
        }
    }
    table
}

/// `_OSC`: grants control of the PCI Express capability structure, and of no other feature.
///
/// There are no ports below the root, so there is neither hotplug nor PME to control. The host
/// handles errors. Arg0 is the UUID, Arg1 the revision, Arg3 the capabilities buffer: status,
/// support, control.
fn osc() -> Vec<u8> {
    const UUID: &str = "33db4d5b-1ff7-401c-9657-7441c03dd766";
    const CONTROL_CAPABILITY_STRUCTURE: u8 = 1 << 4;
    const STATUS_UNKNOWN_UUID: u8 = 1 << 2;
    const STATUS_UNKNOWN_REVISION: u8 = 1 << 3;
    const STATUS_MASKED: u8 = 1 << 4;
    let status = Path::new("CDW1");
    let control = Path::new("CDW3");
    bytes(&Method::new(
        Path::new("_OSC"),
        4,
        true,
        vec![
            &CreateDWordField::new(&status, &Arg(3), &0u8),
            &If::new(
                &Equal::new(&Arg(0), &Uuid::new(UUID)),
                vec![
                    &CreateDWordField::new(&control, &Arg(3), &8u8),
                    &And::new(&Local(0), &control, &CONTROL_CAPABILITY_STRUCTURE),
                    &If::new(
                        &NotEqual::new(&Arg(1), &ONE),
                        vec![&Or::new(&status, &status, &STATUS_UNKNOWN_REVISION)],
                    ),
                    &If::new(
                        &NotEqual::new(&control, &Local(0)),
                        vec![&Or::new(&status, &status, &STATUS_MASKED)],
                    ),
                    &Store::new(&control, &Local(0)),
                ],
            ),
            &Else::new(vec![&Or::new(&status, &status, &STATUS_UNKNOWN_UUID)]),
            &Return::new(&Arg(3)),
        ],
    ))
}

/// `_SB_.MBRD`: resources that are in use and belong to no other device. Linux uses MCFG only if a
/// motherboard device claims the range (PCI Firmware 3.3, 4.1.2, note 2).
fn motherboard() -> Vec<u8> {
    bytes(&Device::new(
        Path::new("MBRD"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C02")),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, ECAM_START as u32, ECAM_SIZE as u32),
                    // Sleep control, sleep status, reset.
                    &IO::new(PORT_SLEEP_CONTROL, PORT_SLEEP_CONTROL, 1, 3),
                    &IO::new(PORT_PM_TIMER, PORT_PM_TIMER, 1, 4),
                ]),
            ),
        ],
    ))
}

/// `_SB_.COM1`: a 16550.
fn serial() -> Vec<u8> {
    bytes(&Device::new(
        Path::new("COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &ONE),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &IO::new(PORT_SERIAL, PORT_SERIAL, 1, 8),
                    // Consumer, edge, active high, exclusive.
                    &Interrupt::new(true, true, false, false, GSI_SERIAL),
                ]),
            ),
        ],
    ))
}

/// `_SB_.Cxxx`: a processor, tied to its MADT entry by `_UID`.
fn cpu(uid: u32) -> Vec<u8> {
    bytes(&Device::new(
        Path::new(&format!("C{uid:03X}")),
        vec![
            &Name::new(Path::new("_HID"), &"ACPI0007"),
            &Name::new(Path::new("_UID"), &uid),
        ],
    ))
}

/// Bytes of AML.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pin_is_routed() {
        let table = bytes(&routing());
        // PackageOp, two bytes of length, the number of elements.
        assert_eq!((table[0], table[1] >> 6, table[3]), (0x12, 1, 31 * 4));
        // Device 1, INTA: GSI 17.
        let first = [0x0c, 0xff, 0xff, 0x01, 0x00, 0x00, 0x00, 0x0a, 17];
        assert!(table.windows(first.len()).any(|w| w == first));
    }

    #[test]
    fn an_empty_window_is_left_out() {
        let mut layout = Layout::new(64 << 20, 0, 40).unwrap();
        let before = root_resources(&layout).len();
        layout.mmio64.size = 0;
        assert_eq!(root_resources(&layout).len(), before - 1);
    }

    #[test]
    fn the_table_knows_its_length() {
        let dsdt = build(&Layout::new(64 << 20, 0, 40).unwrap(), 255);
        assert_eq!(dsdt[4..8], (dsdt.len() as u32).to_le_bytes());
    }
}
