//! The DSDT: the namespace of a machine with one PCI Express root, a serial port, a power button
//! and CPUs. Root ports are no devices of the namespace: the guest finds them, and routes the pins
//! behind a port itself (PCI Express 6.0, 2.2.8.1).
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
    GSI_SERIAL, Layout, PCI_IO_END, PCI_IO_START, PORT_PCI_ADDRESS, PORT_PM_TIMER, PORT_SERIAL,
    PORT_SLEEP_CONTROL, SLEEP_TYPE_S5,
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
    devices.extend(motherboard(layout));
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
            &Raw(osc(layout)),
        ],
    ))
}

/// The root's resources: the buses, and the windows for BARs.
///
/// The 64-bit window is not declared prefetchable. Linux puts a prefetchable BAR into any window,
/// but puts a non-prefetchable BAR only into a non-prefetchable window
/// (`pci_bus_alloc_from_region`). Large non-prefetchable 64-bit BARs exist, for example an NVMe's.
fn root_resources(layout: &Layout) -> Vec<Box<dyn Aml>> {
    let mut resources: Vec<Box<dyn Aml>> = vec![
        Box::new(AddressSpace::new_bus_number(0u16, layout.last_bus.into())),
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

/// `_PRT`: the GSI of each pin (0 is INTA) of each device.
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

/// `_OSC`: grants control of the PCI Express capability structure and, if there are root ports, of
/// native hot-plug. Each other feature that the guest asks for is masked, and the status says so.
///
/// The root ports raise no PME, and have neither AER nor DPC: the host handles errors. There is no
/// latency to tell, and no SHPC, which is conventional PCI's hot-plug controller. ACPI has no
/// hot-plug of its own here (no `_EJ0`, no `_RMV`). Arg0 is the UUID, Arg1 the revision, Arg3 the
/// capabilities buffer: status, support, control.
fn osc(layout: &Layout) -> Vec<u8> {
    const UUID: &str = "33db4d5b-1ff7-401c-9657-7441c03dd766";
    const CONTROL_NATIVE_HOT_PLUG: u8 = 1;
    const CONTROL_CAPABILITY_STRUCTURE: u8 = 1 << 4;
    const STATUS_UNKNOWN_UUID: u8 = 1 << 2;
    const STATUS_UNKNOWN_REVISION: u8 = 1 << 3;
    const STATUS_MASKED: u8 = 1 << 4;
    let granted = match layout.last_bus {
        0 => CONTROL_CAPABILITY_STRUCTURE,
        _ => CONTROL_CAPABILITY_STRUCTURE | CONTROL_NATIVE_HOT_PLUG,
    };
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
                    &And::new(&Local(0), &control, &granted),
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
fn motherboard(layout: &Layout) -> Vec<u8> {
    let ecam = layout.ecam();
    bytes(&Device::new(
        Path::new("MBRD"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C02")),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, ecam.start as u32, ecam.size as u32),
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
    use std::io;
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn every_pin_is_routed() {
        let table = bytes(&routing());
        // PackageOp, two bytes of length, the number of elements.
        assert_eq!((table[0], table[1] >> 6, table[3]), (0x12, 1, 31 * 4));
        // Device 1, INTA: GSI 17.
        let first = [0x0c, 0xff, 0xff, 0x01, 0x00, 0x00, 0x00, 0x0a, 17];
        assert!(table.windows(first.len()).any(|w| w == first));
        // Device 31, INTD: GSI 21.
        let last = [0x0c, 0xff, 0xff, 0x1f, 0x00, 0x0a, 0x03, 0x00, 0x0a, 21];
        assert!(table.windows(last.len()).any(|w| w == last));
    }

    #[test]
    fn an_empty_window_is_left_out() {
        let mut layout = Layout::new(64 << 20, 0, 40).unwrap();
        let before = root_resources(&layout).len();
        layout.mmio64.size = 0;
        assert_eq!(root_resources(&layout).len(), before - 1);
    }

    /// The machine's tables without root ports, as they were before it could have any.
    #[test]
    fn without_ports_nothing_has_changed() {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let layout = Layout::new(64 << 20, 0, 40).unwrap();
        assert_eq!(
            hex(&motherboard(&layout)),
            "5b823c4d425244085f4849440c41d00c02085f55494400085f43525311210a1e86090001000000e0000010\
             00470100060006010347010806080601047900"
        );
        assert_eq!(
            hex(&osc(&layout)),
            "1441075f4f53430c8a6b0043445731a04305936811130a105b4ddb33f71f1c4096577441c03dd7668a6b0a\
             08434457337b434457330a1060a010929369017d434457310a0843445731a013929343445733607d434457\
             310a1043445731706043445733a10c7d434457310a0443445731a46b"
        );
        let root = hex(&pci_root(&layout));
        assert!(root.starts_with(
            "5b82417350434930085f4849440c41d00a08085f4349440c41d00a03085f55494400085f53454700085f42\
             424e00085f4352531146070a72880d00020c00000000000000000001004701f80cf80c0108880d00010c03\
             00000010ffff000000f0871700000c0100000000000000c0ffffffdf00000000000000208a2b00000c0100\
             000000000000000000000001000000ffffff7f01000000000000000000000000000080000000007900085f\
             505254"
        ));
        assert_eq!(root.len(), 2 * 1843);
    }

    /// The buses are those of the root, of its configuration space, and of MCFG (boot::acpi).
    #[test]
    fn ports_have_buses_and_configuration_space() {
        let layout = Layout::new(64 << 20, 0, 40).unwrap().with_last_bus(40);
        // WordBusNumber: length 13, type 2, fixed bounds; granularity, 0 to 40, no offset, 41.
        let buses = [0x88, 13, 0, 2, 12, 0, 0, 0, 0, 0, 40, 0, 0, 0, 41, 0];
        let root = pci_root(&layout);
        assert!(root.windows(buses.len()).any(|w| w == buses));
        // Memory32Fixed: length 9, writable, 0xe0000000, 41 MiB.
        let ecam = [0x86, 9, 0, 1, 0, 0, 0, 0xe0, 0, 0, 0x90, 2];
        let board = motherboard(&layout);
        assert!(board.windows(ecam.len()).any(|w| w == ecam));
    }

    /// What a guest asks of `_OSC`: the UUID, its revision, and the control field.
    type Question = (&'static str, u8, u32);

    const PCI: &str = "5b 4d db 33 f7 1f 1c 40 96 57 74 41 c0 3d d7 66";
    const OTHER: &str = "6e b0 11 08 27 4a 44 f9 8d 60 3c bb c2 2e 7b 48";
    const SUPPORT: u32 = 0x11f;

    /// The status and the control field of each answer of `_OSC` in a machine with this last bus.
    /// ACPICA's interpreter, which Linux has too, runs the method; `None` if it is not installed.
    fn ask(last_bus: u8, questions: &[Question]) -> Option<Vec<[u32; 2]>> {
        let layout = Layout::new(64 << 20, 0, 40).unwrap();
        let name = format!("mini-vmm-osc-{}-{last_bus}.aml", std::process::id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, build(&layout.with_last_bus(last_bus), 1)).unwrap();
        let calls = questions.iter().map(|(uuid, revision, control)| {
            let words = [0, SUPPORT, *control].map(u32::to_le_bytes).concat();
            let words: Vec<_> = words.iter().map(|b| format!("{b:02x}")).collect();
            let words = words.join(" ");
            format!(r"evaluate \_SB.PCI0._OSC ({uuid}) {revision} 3 ({words})")
        });
        let calls = calls.collect::<Vec<_>>().join("\n") + "\nquit\n";
        let run = interpret(&file, &calls);
        std::fs::remove_file(&file).unwrap();
        let Ok(text) = run else {
            let why = "acpiexec is not installed (package acpica-tools)";
            assert!(std::env::var_os("MINI_VMM_REQUIRE").is_none(), "{why}");
            eprintln!("SKIPPED: {why}");
            return None;
        };
        // "[Buffer] Length 0C = 0000: 10 00 00 00 ...": the bytes of each returned buffer.
        let answer = |part: &str| {
            let (_, line) = part.split_once(": ").unwrap_or_else(|| panic!("{text}"));
            let bytes = line.split_whitespace();
            let bytes = bytes.map_while(|word| u8::from_str_radix(word, 16).ok());
            let bytes: Vec<_> = bytes.take(12).collect();
            let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            assert_eq!(word(4), SUPPORT, "{text}");
            [word(0), word(8)]
        };
        let answers: Vec<_> = text.split("[Buffer]").skip(1).map(answer).collect();
        assert_eq!(answers.len(), questions.len(), "{text}");
        Some(answers)
    }

    /// What ACPICA's interpreter says to these commands, with this table.
    fn interpret(table: &std::path::Path, commands: &str) -> io::Result<String> {
        let mut interpreter = Command::new("acpiexec")
            .arg(table)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut input = interpreter.stdin.take().unwrap();
        input.write_all(commands.as_bytes())?;
        drop(input);
        let output = interpreter.wait_with_output()?;
        Ok(String::from_utf8_lossy(&output.stdout).to_string())
    }

    /// Bits of the control field (PCI Firmware 3.3, 4.5.1): native hot-plug, SHPC, PME, AER, the
    /// capability structure, LTR, DPC, and what is not defined.
    #[test]
    fn the_guest_controls_hot_plug_and_nothing_of_the_hosts() {
        const MASKED: u32 = 1 << 4;
        for (last_bus, cases) in [
            (
                2,
                &[
                    ((PCI, 1, 0x1), [0, 0x1]),
                    ((PCI, 1, 0x11), [0, 0x11]),
                    ((PCI, 1, 0x10), [0, 0x10]),
                    ((PCI, 1, 0), [0, 0]),
                    ((PCI, 1, 0x3f), [MASKED, 0x11]),
                    ((PCI, 1, 0xbf), [MASKED, 0x11]),
                    ((PCI, 1, 0x02), [MASKED, 0]),
                    ((PCI, 1, 0x04), [MASKED, 0]),
                    ((PCI, 1, 0x08), [MASKED, 0]),
                    ((PCI, 1, 0x20), [MASKED, 0]),
                    ((PCI, 1, 0x80), [MASKED, 0]),
                    ((PCI, 1, 0xffff_ffff), [MASKED, 0x11]),
                    ((PCI, 2, 0x11), [1 << 3, 0x11]),
                    ((OTHER, 1, 0x11), [1 << 2, 0x11]),
                ][..],
            ),
            (
                0,
                &[
                    ((PCI, 1, 0x3f), [MASKED, 0x10]),
                    ((PCI, 1, 0x10), [0, 0x10]),
                ],
            ),
        ] {
            let questions: Vec<_> = cases.iter().map(|(question, _)| *question).collect();
            let Some(answers) = ask(last_bus, &questions) else {
                return;
            };
            for ((question, wanted), answer) in cases.iter().zip(answers) {
                assert_eq!(answer, *wanted, "last bus {last_bus}, {question:x?}");
            }
        }
    }

    /// ACPI's own hot-plug would compete with the native one.
    #[test]
    fn acpi_has_no_hot_plug() {
        let dsdt = build(&Layout::new(64 << 20, 0, 40).unwrap().with_last_bus(9), 1);
        for name in [b"_EJ0", b"_RMV", b"_SUN", b"_PS3"] {
            assert!(!dsdt.windows(4).any(|w| w == name), "{name:?}");
        }
    }

    #[test]
    fn the_table_knows_its_length() {
        let dsdt = build(&Layout::new(64 << 20, 0, 40).unwrap(), 255);
        assert_eq!(dsdt[4..8], (dsdt.len() as u32).to_le_bytes());
    }
}
