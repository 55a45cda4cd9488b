//! How each register is treated: passed to the device, emulated by the VMM, or hidden.
//!
//! The tables are the policy. [`apply`] turns a device's configuration space into the guest's.
//! Register names and offsets: PCI Express Base 6.0, 7.5 (header and PCIe capability), 7.6 to 7.9
//! (extended capabilities).

use pci::capability;
use pci::capability::{ext_id, id};
use pci::config_space::{CONVENTIONAL_SIZE, ConfigSpace};
use pci::regs;
use pci::regs::header_type;
use pci::regs::power::PMCSR;

use crate::vfio::function::clique;

/// How a register is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Reads and writes go to the device; VFIO filters them once more.
    Pass,
    /// The VMM answers.
    Emulate,
    /// The guest does not see the capability: it is unlinked from its chain, and its bytes read as
    /// zero.
    Hide,
}
use Treatment::{Emulate, Hide, Pass};

/// A row of the header's policy: offset, length, treatment, reason.
pub struct Row(pub u16, pub u16, pub Treatment, pub &'static str);

/// Type 0 header.
pub const HEADER: &[Row] = &[
    Row(
        regs::VENDOR,
        4,
        Pass,
        "vendor and device as VFIO shows them: a virtual function's own are all ones",
    ),
    Row(
        regs::COMMAND,
        2,
        Pass,
        "COMMAND reaches the device, so that a guest can stop DMA; decoding is followed here",
    ),
    Row(
        regs::STATUS,
        2,
        Pass,
        "STATUS, write-1-to-clear in the device",
    ),
    Row(
        regs::REVISION,
        6,
        Pass,
        "revision, class, cache line, latency",
    ),
    Row(
        regs::HEADER_TYPE,
        1,
        Emulate,
        "header type: the multi-function bit follows the guest's slot",
    ),
    Row(
        regs::BIST,
        1,
        Emulate,
        "BIST could hang the device; VFIO hides it too",
    ),
    Row(regs::BAR, 24, Emulate, "BARs: the hardware's never move"),
    Row(regs::CARDBUS, 4, Emulate, "CardBus pointer: nothing there"),
    Row(regs::SUBSYSTEM, 4, Pass, "subsystem ids"),
    Row(
        regs::ROM,
        4,
        Emulate,
        "expansion ROM: as the BARs; its content is read once, through VFIO, or is a file's",
    ),
    Row(
        regs::CAPABILITIES,
        4,
        Emulate,
        "head of the capability chain, relinked",
    ),
    Row(regs::RESERVED, 4, Emulate, "reserved"),
    Row(
        regs::INTERRUPT_LINE,
        1,
        Emulate,
        "interrupt line: the guest's own note",
    ),
    Row(
        regs::INTERRUPT_PIN,
        1,
        Emulate,
        "interrupt pin: the guest's, by function number, where the device has one",
    ),
    Row(regs::MIN_GRANT, 2, Pass, "minimum grant, maximum latency"),
];

/// Registers of the header whose write changes more than their value: COMMAND, the BARs and the
/// ROM's.
const SIDE_EFFECTS: [(u16, usize); 3] = [(regs::COMMAND, 2), (regs::BAR, 24), (regs::ROM, 4)];

/// Standard capabilities. A capability that is not listed is passed.
pub const STANDARD: &[(u16, Treatment, &str)] = &[
    (
        id::PM,
        Pass,
        "the kernel does the transition; decoding is followed here",
    ),
    (
        id::MSI,
        Emulate,
        "VFIO_DEVICE_SET_IRQS sets the messages up",
    ),
    (
        id::MSIX,
        Emulate,
        "VFIO_DEVICE_SET_IRQS sets the vectors up; the table is virtual",
    ),
    (
        id::PCIE,
        Pass,
        "but an endpoint on a root bus is integrated, and has no link",
    ),
];

/// Extended capabilities. A capability that is not listed is passed.
pub const EXTENDED: &[(u16, Treatment, &str)] = &[
    (ext_id::SRIOV, Hide, "virtual functions belong to the host"),
    (ext_id::ARI, Hide, "function numbers follow the guest's bus"),
    (
        ext_id::REBAR,
        Hide,
        "a BAR that changes its size under VFIO's maps",
    ),
    (ext_id::VF_REBAR, Hide, "as the resizable BARs"),
    (
        ext_id::ATS,
        Hide,
        "address translation needs an IOMMU in the guest",
    ),
    (
        ext_id::PRI,
        Hide,
        "page requests need an IOMMU in the guest",
    ),
    (
        ext_id::PASID,
        Hide,
        "process address spaces need an IOMMU in the guest",
    ),
    (
        ext_id::LTR,
        Hide,
        "needs a root port, which the guest lacks",
    ),
    (ext_id::L1SS, Hide, "link states belong to the host's port"),
    (
        ext_id::PTM,
        Hide,
        "needs a root port, which the guest lacks",
    ),
    (ext_id::DPC, Hide, "containment belongs to the host's port"),
];

/// Device/Port Type of a Root Complex Integrated Endpoint (7.5.3.2): an endpoint on a root bus.
const RC_INTEGRATED_ENDPOINT: u16 = 0x9;
/// Registers of the PCIe capability that describe a link (7.5.3.6 to 7.5.3.8, 7.5.3.18 to
/// 7.5.3.20): offset and length. An integrated endpoint has no link.
const LINK_REGISTERS: [(u16, u16); 2] = [(0x0c, 8), (0x2c, 8)];

fn treatment(table: &[(u16, Treatment, &str)], id: u16) -> Treatment {
    table
        .iter()
        .find(|row| row.0 == id)
        .map_or(Pass, |row| row.1)
}

/// Makes the guest's configuration space out of the device's, `snapshot` (256 or 4096 bytes).
///
/// An extended space of all zeros is hidden: it reads as all ones, as on a machine without ECAM,
/// and a guest does not read it again. Linux would look for each capability that it knows behind a
/// null header: 28 exits in a boot.
pub fn apply(snapshot: &[u8]) -> ConfigSpace {
    let mut snapshot = snapshot.to_vec();
    let extended = snapshot.get(CONVENTIONAL_SIZE..).unwrap_or_default();
    if extended.iter().all(|byte| *byte == 0) {
        snapshot.truncate(CONVENTIONAL_SIZE);
    }
    let mut hidden: Vec<(u16, u16)> = Vec::new();
    for cap in capability::standard(&snapshot) {
        if treatment(STANDARD, cap.id) == Hide {
            hidden.push((cap.offset, cap.len));
        }
    }
    for cap in capability::extended(&snapshot) {
        if treatment(EXTENDED, cap.id) == Hide {
            // The capability's header stays, because it may be the head of the chain and link to
            // the next.
            hidden.push((cap.offset + 4, cap.len.saturating_sub(4)));
        }
    }
    capability::hide_standard(&mut snapshot, |cap| treatment(STANDARD, cap.id) == Hide);
    let headers: Vec<u16> = capability::extended(&snapshot)
        .iter()
        .map(|cap| cap.offset)
        .collect();
    capability::hide_extended(&mut snapshot, |cap| treatment(EXTENDED, cap.id) == Hide);

    let mut config = ConfigSpace::new(snapshot.len());
    config.bytes_mut().copy_from_slice(&snapshot);
    for Row(offset, len, treatment, _) in HEADER {
        if *treatment == Emulate {
            config.set_emulated(*offset, usize::from(*len));
        }
    }
    for offset in [regs::BIST, regs::INTERRUPT_LINE, regs::INTERRUPT_PIN] {
        config.set_u8(offset, 0);
    }
    let layout = config.u8(regs::HEADER_TYPE) & !header_type::MULTI_FUNCTION;
    config.set_u8(regs::HEADER_TYPE, layout);
    let bars = (regs::BAR..regs::CARDBUS).step_by(4);
    for offset in bars.chain([regs::CARDBUS, regs::ROM]) {
        config.set_u32(offset, 0);
    }
    config.set_writable(regs::INTERRUPT_LINE, &[0xff]);
    // The device answers COMMAND. The guest's last value is kept in `config` as well.
    config.set_writable(regs::COMMAND, &[0xff; 2]);
    for (offset, len) in SIDE_EFFECTS {
        config.set_side_effects(offset, len);
    }
    if let Some(cap) = capability::find(&snapshot, id::PM) {
        config.set_side_effects(cap.offset + PMCSR, 1);
    }

    for cap in capability::standard(config.bytes()) {
        // ID and next pointer are emulated, because the chain is relinked.
        config.set_emulated(cap.offset, 2);
        match cap.id {
            id::MSI | id::MSIX => {
                config.set_emulated(cap.offset, usize::from(cap.len));
                config.set_side_effects(cap.offset, usize::from(cap.len));
            }
            id::PCIE => express(&mut config, cap.offset),
            _ => {}
        }
    }
    // The device does not have it.
    if let Some(offset) = clique::find(config.bytes()) {
        config.set_emulated(offset, clique::LENGTH.into());
    }
    for offset in headers {
        config.set_emulated(offset, 4);
    }
    for (offset, len) in hidden {
        for at in offset..offset.saturating_add(len) {
            config.set_u8(at, 0);
            config.set_emulated(at, 1);
        }
    }
    config
}

/// Makes the PCIe capability read as that of an endpoint that is integrated into the root complex,
/// without a link: Linux accepts no other endpoint on a root bus. Version 0 reads as 1.
fn express(config: &mut ConfigSpace, offset: u16) {
    let flags = config.u16(offset + 2);
    let version = (flags & 0xf).max(1);
    config.set_u16(
        offset + 2,
        (flags & 0xff00) | RC_INTEGRATED_ENDPOINT << 4 | version,
    );
    config.set_emulated(offset + 2, 2);
    // A capability of version 1 ends after the link registers; the next bytes may be another's.
    let count = if version >= 2 { 2 } else { 1 };
    for (at, len) in LINK_REGISTERS.into_iter().take(count) {
        for byte in at..at + len {
            config.set_u8(offset + byte, 0);
        }
        config.set_emulated(offset + at, usize::from(len));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A made-up NVMe controller: PM at 0x40, MSI at 0x50, MSI-X at 0x70, PCIe at 0x80; SR-IOV at
    /// 0x100, AER at 0x140, resizable BARs at 0x190.
    fn device() -> Vec<u8> {
        let mut snapshot = vec![0u8; 4096];
        let mut put =
            |at: usize, bytes: &[u8]| snapshot[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x00, &[0x36, 0x1b, 0x10, 0x00, 0x07, 0x05, 0x10, 0x00]);
        put(0x0e, &[0x80, 0x40]);
        put(0x10, &[0x04, 0x00, 0xeb, 0xfe]);
        put(0x30, &[0x01, 0x00, 0xc0, 0xfe]);
        put(0x34, &[0x40]);
        put(0x3c, &[0x0b, 0x01]);
        put(0x40, &[0x01, 0x50, 0x03, 0x00]);
        put(0x50, &[0x05, 0x70, 0x80, 0x01, 0xaa, 0xbb, 0xcc, 0xdd]);
        put(0x70, &[0x11, 0x80, 0x40, 0x80]);
        put(0x80, &[0x10, 0x00, 0x02, 0x00]);
        put(0x8c, &[0x11; 8]);
        put(0xac, &[0x22; 8]);
        put(0x100, &0x1401_0010u32.to_le_bytes());
        put(0x104, &[0x33; 0x3c]);
        put(0x140, &0x1902_0001u32.to_le_bytes());
        put(0x190, &0x0001_0015u32.to_le_bytes());
        snapshot
    }

    #[test]
    fn chains_are_relinked() {
        let config = apply(&device());
        let ids: Vec<_> = capability::standard(config.bytes())
            .iter()
            .map(|c| c.id)
            .collect();
        assert_eq!(ids, [id::PM, id::MSI, id::MSIX, id::PCIE]);
        let ids: Vec<_> = capability::extended(config.bytes())
            .iter()
            .map(|c| c.id)
            .collect();
        // The head of the chain cannot be unlinked: it is a null capability.
        assert_eq!(ids, [ext_id::NULL, ext_id::AER]);
        let passed = |o| !config.is_emulated(o);
        assert!(
            !passed(0x41) && passed(0x44),
            "the header is relinked, the registers pass"
        );
        assert!(!passed(0x140) && passed(0x144));
        // Hidden bytes read as zero and never reach the device.
        for offset in (0x104..0x140).chain(0x194..0x198) {
            assert!(!passed(offset), "{offset:#x}");
            assert_eq!(config.u8(offset), 0, "{offset:#x}");
        }
    }

    #[test]
    fn the_header_keeps_its_promises() {
        let config = apply(&device());
        for offset in [0x00, 0x04, 0x06, 0x09, 0x2c] {
            assert!(!config.is_emulated(offset), "{offset:#x}");
        }
        assert_eq!(config.u8(0x0e), 0);
        assert_eq!(config.u8(0x0f), 0);
        assert_eq!(config.u32(0x10), 0);
        assert_eq!(config.u32(0x30), 0);
        assert_eq!(config.u16(0x3c), 0);
        let mut config = config;
        config.write(0x3c, &[0x55, 0x55]);
        assert_eq!(config.u16(0x3c), 0x0055);
    }

    #[test]
    fn only_followed_registers_have_side_effects() {
        let config = apply(&device());
        let follows = |at| config.split(at, 1).all(|part| part.side_effects);
        // COMMAND, the first and the last BAR, the ROM, PMCSR, MSI and MSI-X.
        for offset in [0x04, 0x05, 0x10, 0x27, 0x30, 0x44, 0x52, 0x72, 0x7b] {
            assert!(follows(offset), "{offset:#x}");
        }
        // IDs, STATUS, interrupt line and pin, the rest of power management, PCIe, extended space.
        for offset in [0x00, 0x06, 0x28, 0x3c, 0x3d, 0x42, 0x45, 0x88, 0x144] {
            assert!(!follows(offset), "{offset:#x}");
        }
        // COMMAND as the guest writes it is kept besides.
        let mut config = config;
        config.set_u16(regs::COMMAND, 0);
        config.write(regs::COMMAND, &[0x06, 0x04, 0xff, 0xff]);
        assert_eq!(config.u16(regs::COMMAND), 0x0406);
    }

    #[test]
    fn an_endpoint_on_the_root_bus_is_integrated() {
        let config = apply(&device());
        assert_eq!(config.u16(0x82), 0x0092);
        assert!(
            config.bytes()[0x8c..0x94]
                .iter()
                .chain(&config.bytes()[0xac..0xb4])
                .all(|b| *b == 0)
        );
        assert!(!config.is_emulated(0x88), "device control passes");
        let mut old = device();
        old[0x82] = 0;
        let config = apply(&old);
        assert_eq!(config.u16(0x82), 0x0091);
        assert!(!config.is_emulated(0xac), "version 1 ends before");
    }

    #[test]
    fn an_empty_extended_space_is_none() {
        let mut snapshot = device();
        snapshot[0x100..].fill(0);
        let config = apply(&snapshot);
        assert_eq!(config.size(), 256);
        assert!(config.is_emulated(0x100));
        assert_eq!(config.u32(0x100), !0);
        // Registers without a capability are something to reach.
        snapshot[0xfff] = 1;
        let config = apply(&snapshot);
        assert_eq!((config.size(), config.u32(0x100)), (4096, 0));
        assert!(!config.is_emulated(0xfff));
    }

    proptest! {
        #[test]
        fn any_snapshot_is_accepted(
            mut snapshot in proptest::collection::vec(any::<u8>(), 256),
            big: bool,
        ) {
            if big {
                snapshot.resize(4096, 0xa5);
            }
            let config = apply(&snapshot);
            prop_assert!(!config.is_emulated(4));
            prop_assert!(
                capability::extended(config.bytes()).iter().all(|c| c.id != ext_id::SRIOV)
            );
        }
    }
}
