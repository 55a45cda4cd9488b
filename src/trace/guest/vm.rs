//! What an access means in one VM.

use crate::guest::access::{Access, Space};
use crate::guest::acpi::{self, Ecam, GuestMemory};
use crate::guest::functions::{self, Address, Functions};
use crate::guest::messages;
use crate::guest::nvme;
use crate::guest::ports;
use crate::guest::q35::HostBridge;

/// The address and the data registers of configuration mechanism 1 (PCI Local Bus 3.0, 3.2.2.3.2).
const CONFIG_ADDRESS: u64 = 0xcf8;
const CONFIG_DATA: std::ops::RangeInclusive<u64> = 0xcfc..=0xcff;
/// How often the ACPI tables are looked for: the guest's firmware may not have made them yet.
const SEARCHES: u32 = 4;
/// Accesses to unknown addresses after which they are looked for, the first time.
const FIRST_SEARCH: u32 = 1;

/// What an access means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    /// The function in the guest, such as `00:03.0`.
    pub function: Option<String>,
    /// The register, such as `BAR0`, `MSI-X[3] data`, `COM1 line status`.
    pub register: Option<String>,
    /// More, such as `sizing`.
    pub note: Option<String>,
    /// The specification of the register, and its section.
    pub document: Option<&'static str>,
}

/// Where registers are described.
const MECHANISM: &str = "PCI Local Bus 3.0, 3.2.2.3.2";
const HEADER: &str = "PCI Express 6.0, 7.5.1";
const CAPABILITIES: &str = "PCI Express 6.0, 7.5.2 to 7.9";
const MSIX_TABLE: &str = "PCI Express 6.0, 7.7.2";

impl Meaning {
    /// Function and register in one text.
    pub fn label(&self) -> Option<String> {
        match (&self.function, &self.register) {
            (Some(function), Some(register)) => Some(format!("{function} {register}")),
            (function, register) => function.clone().or_else(|| register.clone()),
        }
    }
}

/// What is known of a VM's guest.
#[derive(Debug, Default)]
pub struct GuestVm {
    config_address: u32,
    functions: Functions,
    ecam: Vec<Ecam>,
    host_bridge: HostBridge,
    unknown: u32,
    searches: u32,
}

impl GuestVm {
    /// What an access means, and learns from the access. A read must have its answer.
    pub fn meaning(&mut self, access: &Access, memory: &dyn GuestMemory) -> Meaning {
        let at = access.register.address;
        let config = match access.register.space {
            Space::Port if at == CONFIG_ADDRESS => return self.select(access),
            Space::Port if CONFIG_DATA.contains(&at) => self.selected(at),
            Space::Port => None,
            Space::Memory => self.by_ecam(at, memory),
        };
        if let Some((function, register)) = config {
            return self.config(function, register, access);
        }
        if let Some((function, bar, offset)) = self.functions.at(access.register.space, at) {
            return self.bar(function, bar, offset, access);
        }
        if access.register.space == Space::Port {
            return Meaning {
                register: ports::name(at, access.register.write),
                note: ports::character(at, access.register.write, &access.data),
                ..Meaning::default()
            };
        }
        Meaning {
            register: fixed(at),
            ..Meaning::default()
        }
    }

    fn select(&mut self, access: &Access) -> Meaning {
        let register = Some("PCI CONFIG_ADDRESS".to_string());
        let mut note = None;
        if let (true, 4, Some(value)) = (access.register.write, access.width, access.value()) {
            self.config_address = value as u32;
            note = self.selected(CONFIG_ADDRESS + 4).map(|(function, at)| {
                let name = self.functions.register(function, at);
                format!("selects {} {name}", functions::name(function))
            });
        }
        Meaning {
            register,
            note,
            document: Some(MECHANISM),
            ..Meaning::default()
        }
    }

    /// Function and register that a data port leads to.
    fn selected(&self, port: u64) -> Option<(Address, u16)> {
        let value = self.config_address;
        let byte = (port & 3) as u16;
        // AMD's extended access has bits 11:8 of the register in bits 27:24.
        let register = (value & 0xfc) as u16 | (value >> 16 & 0xf00) as u16 | byte;
        (value >> 31 == 1).then_some(((0, (value >> 16) as u8, (value >> 8) as u8), register))
    }

    fn by_ecam(&mut self, at: u64, memory: &dyn GuestMemory) -> Option<(Address, u16)> {
        if self.ecam.is_empty() && self.searches < SEARCHES {
            self.unknown += 1;
            // After 1, 16, 256 and 4,096 accesses.
            if self.unknown >= FIRST_SEARCH << (4 * self.searches) {
                self.searches += 1;
                self.ecam = acpi::find(memory);
            }
        }
        self.ecam.iter().find_map(|ecam| {
            let (bus, devfn, register) = ecam.register(at)?;
            Some(((ecam.segment, bus, devfn), register))
        })
    }

    fn config(&mut self, function: Address, register: u16, access: &Access) -> Meaning {
        let write = access.register.write;
        let ecam = match function {
            (0, 0, 0) => self.host_bridge.learn(register, &access.data),
            _ => None,
        };
        if let Some(ecam) = ecam {
            self.ecam = vec![ecam];
        }
        let before = self.functions.get(function);
        let sizing = before.is_some_and(|shadow| shadow.is_sizing(register));
        self.functions
            .learn(function, register, write, &access.data);
        let name = self.functions.register(function, register);
        let sized = match (sizing && !write, self.functions.get(function)) {
            (true, Some(shadow)) => shadow.sized(register),
            _ => None,
        };
        let at = ecam.map(|ecam| format!("configuration space is at {:#x}", ecam.base));
        let note = at.or(sized).or_else(|| config_note(&name, access));
        Meaning {
            function: Some(functions::name(function)),
            register: Some(name),
            note,
            document: Some(match register {
                0..0x40 => HEADER,
                _ => CAPABILITIES,
            }),
        }
    }

    fn bar(&mut self, function: Address, bar: u8, offset: u64, access: &Access) -> Meaning {
        let plain = format!("BAR{bar}+{offset:#x}");
        let mut meaning = Meaning {
            function: Some(functions::name(function)),
            register: Some(plain),
            ..Meaning::default()
        };
        let Some(shadow) = self.functions.get(function) else {
            return meaning;
        };
        if let Some((of, table, entries)) = shadow.msix_table() {
            let inside = offset.checked_sub(table).filter(|_| of == bar);
            let inside = inside.filter(|at| *at < u64::from(entries) * 16);
            if let Some(at) = inside {
                if shadow.entries.len() != usize::from(entries) {
                    shadow.entries.resize(entries.into(), [0, 0, 0, 1]);
                }
                if let Some(entry) = shadow.entries.get_mut((at / 16) as usize) {
                    (meaning.register, meaning.note) = msix(entry, at, access);
                    meaning.document = Some(MSIX_TABLE);
                }
                return meaning;
            }
        }
        if bar == 0 && shadow.is_nvme() {
            if let (false, Some(value)) = (access.register.write, access.value()) {
                shadow.nvme.learn(offset, access.width, value);
            }
            if let Some(name) = shadow.nvme.name(offset) {
                meaning.note = meaning.register.replace(name);
                meaning.document = Some(nvme::DOCUMENT);
            }
        }
        meaning
    }
}

/// Bits of message control (PCI Express 6.0, 7.7.1.2 and 7.7.2.2).
const MSI_CONTROL: [(u64, &str); 1] = [(1, "enabled")];
const MSIX_CONTROL: [(u64, &str); 2] = [(1 << 15, "enabled"), (1 << 14, "all vectors masked")];

/// What the value of a register of configuration space means.
fn config_note(name: &str, access: &Access) -> Option<String> {
    let (write, value) = (access.register.write, access.value()?);
    match (name, write) {
        ("vendor ID", false) if value & 0xffff == 0xffff => Some("no function".into()),
        (name, true) if name.starts_with("BAR") && value == 0xffff_ffff => Some("sizing".into()),
        ("COMMAND", _) => Some(command(value)),
        ("MSI-X message control", true) => Some(flags(value, &MSIX_CONTROL, "disabled")),
        ("MSI message control", true) => Some(flags(value, &MSI_CONTROL, "disabled")),
        // A dword has ID and pointer, which cannot be written, and message control.
        ("MSI-X ID", true) if access.width == 4 => {
            Some(flags(value >> 16, &MSIX_CONTROL, "disabled"))
        }
        ("MSI ID", true) if access.width == 4 => Some(flags(value >> 16, &MSI_CONTROL, "disabled")),
        ("MSI message address", true) => messages::destination(value),
        ("MSI message data", true) => Some(format!("vector {:#04x}", value & 0xff)),
        ("power management PMCSR", true) => Some(match value & 3 {
            3 => "D3hot".into(),
            state => format!("D{state}"),
        }),
        _ => None,
    }
}

/// An access to an entry of an MSI-X table (PCI Express 6.0, 7.7.2.5).
fn msix(entry: &mut [u32; 4], at: u64, access: &Access) -> (Option<String>, Option<String>) {
    const FIELDS: [&str; 4] = ["address", "upper address", "data", "vector control"];
    let field = (at / 4 % 4) as usize;
    let name = format!("MSI-X[{}] {}", at / 16, FIELDS[field]);
    let dwords = access.data.chunks_exact(4).enumerate();
    for (i, dword) in dwords.filter(|_| at.is_multiple_of(4) && access.register.write) {
        if let (Some(entry), Ok(bytes)) = (entry.get_mut(field + i), dword.try_into()) {
            *entry = u32::from_le_bytes(bytes);
        }
    }
    let address = u64::from(entry[0]) | u64::from(entry[1]) << 32;
    let message = || messages::describe(address, entry[2]);
    let note = match (access.register.write, field) {
        (false, _) => None,
        (true, 0) => messages::destination(address),
        (true, 1) => None,
        (true, 2) => message(),
        (true, _) if entry[3] & 1 == 0 => Some(match message() {
            Some(message) => format!("unmasked: address {address:#x}, {message}"),
            None => format!("unmasked: address {address:#x}, data {:#x}", entry[2]),
        }),
        (true, _) => Some("masked".into()),
    };
    (Some(name), note)
}

fn flags(value: u64, names: &[(u64, &str)], none: &str) -> String {
    let set = names.iter().filter(|(bit, _)| value & bit != 0);
    let set: Vec<_> = set.map(|(_, name)| *name).collect();
    match set.is_empty() {
        true => none.into(),
        false => set.join(", "),
    }
}

fn command(value: u64) -> String {
    const BITS: [(u64, &str); 6] = [
        (1, "I/O"),
        (1 << 1, "memory"),
        (1 << 2, "bus master"),
        (1 << 6, "parity"),
        (1 << 8, "SERR#"),
        (1 << 10, "INTx off"),
    ];
    flags(value, &BITS, "all off")
}

/// Fixed addresses of a PC (Intel SDM volume 3, 11.4.1; ICH9, IOAPIC).
fn fixed(address: u64) -> Option<String> {
    let name = match address {
        0xfec0_0000..0xfec0_1000 => "I/O APIC",
        0xfee0_0000..0xfee0_1000 => "local APIC",
        0xfed0_0000..0xfed0_0400 => "HPET",
        0xfed4_0000..0xfed4_5000 => "TPM",
        _ => return None,
    };
    Some(format!("{name}+{:#x}", address & 0xfff))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::access::Register;

    struct NoMemory;

    impl GuestMemory for NoMemory {
        fn read(&self, _: u64, _: &mut [u8]) -> bool {
            false
        }
    }

    fn access(space: Space, address: u64, write: bool, data: &[u8]) -> Access {
        Access {
            register: Register {
                space,
                address,
                write,
            },
            width: data.len() as u8,
            count: 1,
            data: data.to_vec(),
        }
    }

    fn port(vm: &mut GuestVm, address: u64, write: bool, value: u32) -> Meaning {
        let access = access(Space::Port, address, write, &value.to_le_bytes());
        vm.meaning(&access, &NoMemory)
    }

    fn text(meaning: &Meaning) -> String {
        let label = meaning.label().unwrap_or_default();
        format!("{label} ({})", meaning.note.as_deref().unwrap_or_default())
    }

    /// Reads or writes a register of 00:03.0.
    fn config(vm: &mut GuestVm, register: u32, write: bool, value: u32) -> String {
        let selects = port(vm, 0xcf8, true, 0x8000_1800 | register);
        assert!(selects.note.unwrap().starts_with("selects 00:03.0 "));
        text(&port(vm, 0xcfc, write, value))
    }

    fn store(vm: &mut GuestVm, address: u64, value: u32) -> String {
        let access = access(Space::Memory, address, true, &value.to_le_bytes());
        text(&vm.meaning(&access, &NoMemory))
    }

    #[test]
    fn a_host_bridge_tells_where_configuration_space_is() {
        let mut vm = GuestVm::default();
        for (register, write, value) in [(0, false, 0x29c0_8086), (0x60, true, 0xb000_0001)] {
            port(&mut vm, 0xcf8, true, 0x8000_0000 | register);
            let meaning = text(&port(&mut vm, 0xcfc, write, value));
            assert_eq!(
                meaning.contains("space is at 0xb0000000"),
                write,
                "{meaning}"
            );
        }
        let written = store(&mut vm, 0xb00f_a010, u32::MAX);
        assert_eq!(written, "00:1f.2 BAR0 (sizing)");
    }

    #[test]
    fn a_device_is_found_sized_and_used() {
        let mut vm = GuestVm::default();
        let vm = &mut vm;
        assert_eq!(config(vm, 0, false, 0x0010_1b36), "00:03.0 vendor ID ()");
        assert_eq!(config(vm, 8, false, 0x0108_0202), "00:03.0 revision ()");
        assert_eq!(config(vm, 0x10, true, u32::MAX), "00:03.0 BAR0 (sizing)");
        assert_eq!(
            config(vm, 0x10, false, 0xffff_c004),
            "00:03.0 BAR0 (size 0x4000)"
        );
        assert_eq!(config(vm, 0x10, true, 0xfe00_0004), "00:03.0 BAR0 ()");
        assert_eq!(config(vm, 0x14, true, u32::MAX), "00:03.0 BAR1 (sizing)");
        assert_eq!(
            config(vm, 0x14, false, u32::MAX),
            "00:03.0 BAR1 (upper half of BAR0, size 0x4000)"
        );
        config(vm, 0x14, true, 0);
        config(vm, 0x34, false, 0x40);
        config(vm, 0x40, false, 0x0040_0011);
        assert_eq!(config(vm, 0x44, false, 0x2000), "00:03.0 MSI-X table ()");
        assert_eq!(
            config(vm, 4, true, 6),
            "00:03.0 COMMAND (memory, bus master)"
        );
        let label = "00:03.0 MSI-X[2]";
        let at = 0xfe00_2020;
        assert_eq!(
            store(vm, at, 0xfee0_1000),
            format!("{label} address (CPU 1)")
        );
        assert_eq!(store(vm, at + 4, 0), format!("{label} upper address ()"));
        assert_eq!(
            store(vm, at + 8, 0x22),
            format!("{label} data (vector 0x22, CPU 1)")
        );
        let unmasked = "(unmasked: address 0xfee01000, vector 0x22, CPU 1)";
        assert_eq!(
            store(vm, at + 12, 0),
            format!("{label} vector control {unmasked}")
        );
        assert_eq!(
            store(vm, at + 12, 1),
            format!("{label} vector control (masked)")
        );
        assert_eq!(store(vm, 0xfe00_0014, 1), "00:03.0 CC (BAR0+0x14)");
        assert_eq!(store(vm, 0xfe00_1008, 1), "00:03.0 SQ1TDBL (BAR0+0x1008)");
        assert_eq!(store(vm, 0xfe00_4000, 1), " ()");
    }

    #[test]
    fn a_message_of_msi_is_told() {
        let mut vm = GuestVm::default();
        let vm = &mut vm;
        config(vm, 0, false, 0x11e8_1234);
        config(vm, 0x34, false, 0x40);
        config(vm, 0x40, false, 0x0080_0005);
        assert_eq!(
            config(vm, 0x44, true, 0xfee0_1000),
            "00:03.0 MSI message address (CPU 1)"
        );
        assert_eq!(
            config(vm, 0x4c, true, 0x41),
            "00:03.0 MSI message data (vector 0x41)"
        );
        assert_eq!(
            config(vm, 0x40, true, 0x0081_0005),
            "00:03.0 MSI ID (enabled)"
        );
    }

    #[test]
    fn an_absent_function_is_told() {
        let mut vm = GuestVm::default();
        let answer = config(&mut vm, 0, false, u32::MAX);
        assert_eq!(answer, "00:03.0 vendor ID (no function)");
        assert_eq!(text(&port(&mut vm, 0x80, true, 1)), "POST code ()");
    }

    #[test]
    fn no_access_panics() {
        let mut vm = GuestVm::default();
        config(&mut vm, 0, false, 1);
        for address in [0, 0xcf8, 0xcff, 0xfffe, u64::MAX, 0xfee0_0000] {
            for space in [Space::Port, Space::Memory] {
                for write in [false, true] {
                    for len in [0, 1, 3, 8, 64] {
                        let mut access = access(space, address, write, &vec![0xff; len]);
                        vm.meaning(&access, &NoMemory);
                        access.width = 255;
                        vm.meaning(&access, &NoMemory);
                    }
                }
            }
        }
    }
}
