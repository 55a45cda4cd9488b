//! The policy applied to made-up devices.

use proptest::prelude::*;

use super::*;
use pci::atomic_ops::AtomicOps;
use pci::config_space::DeviceWrite::{Dropped, Masked, Whole};
use pci::link::Link;

/// The guest's space of a device whose chains sysfs tells.
fn apply(image: &[u8]) -> ConfigSpace {
    super::apply(&original(image))
}

fn original(image: &[u8]) -> Original<'_> {
    Original {
        name: "0000:01:00.0",
        snapshot: image,
        hardware: image,
        bar_0: 0,
        port: None,
    }
}

/// A made-up NVMe controller: PM at 0x40, MSI at 0x50, MSI-X at 0x70, PCIe at 0x80; SR-IOV at
/// 0x100, AER at 0x140, resizable BARs at 0x190.
fn device() -> Vec<u8> {
    let mut snapshot = vec![0u8; 4096];
    let mut put = |at: usize, bytes: &[u8]| snapshot[at..at + bytes.len()].copy_from_slice(bytes);
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

/// The guest's space of a device behind a root port.
fn behind(image: &[u8], path: HostPath) -> ConfigSpace {
    super::apply(&Original {
        port: Some(path),
        ..original(image)
    })
}

/// A link of 8 GT/s x4, of 16 GT/s x8 at most.
fn path() -> HostPath {
    HostPath {
        link: Link::from_registers(0x84, 0x43).unwrap(),
        payload: 1,
        atomic_ops: AtomicOps::NONE,
    }
}

/// The same device, with the link of [`path`] in its registers.
fn linked() -> Vec<u8> {
    let mut image = device();
    image[0x8c..0x94].copy_from_slice(&[0x84, 0x0c, 0x41, 0x00, 0x42, 0x00, 0x43, 0x10]);
    image[0xac..0xb4].copy_from_slice(&[0x1e, 0, 0, 0, 0x03, 0, 0x1e, 0]);
    image
}

#[test]
fn an_endpoint_behind_a_port_is_as_it_is() {
    let mut config = behind(&linked(), path());
    assert_eq!(config.u16(0x82), 0x0002, "an endpoint");
    // The device answers for capabilities and status of its link, and cannot be written.
    for at in (0x8c..0x90)
        .chain(0x92..0x94)
        .chain(0xac..0xb0)
        .chain(0xb2..0xb4)
    {
        assert!(!config.is_emulated(at), "{at:#x}");
        assert_eq!(config.device_write(at), Dropped, "{at:#x}");
    }
    // The controls begin as after a reset, and keep what the guest writes to themselves.
    assert_eq!((config.u16(0x90), config.u16(0xb0)), (0, 4));
    config.write(0x90, &[0xff; 2]);
    config.write(0xb0, &[0xff; 2]);
    assert_eq!((config.u16(0x90), config.u16(0xb0)), (0x03cb, 0xffbf));
    assert!(
        (0x90..0x92)
            .chain(0xb0..0xb2)
            .all(|at| config.is_emulated(at))
    );
    // A legacy endpoint stays one, and version 0 reads as 1.
    let mut legacy = linked();
    legacy[0x82] = 0x10;
    let config = behind(&legacy, path());
    assert_eq!(config.u16(0x82), 0x0011);
    assert!(!config.is_emulated(0xb0), "version 1 ends before");
    assert!(config.is_emulated(0x90));
}

#[test]
fn a_link_that_the_device_does_not_tell_of_is_the_ports() {
    let mut silent = linked();
    silent[0x92..0x94].fill(0);
    let mut integrated = linked();
    integrated[0x82] = 0x92;
    let mut copy = linked();
    copy[0x92] = 0x11;
    for image in [silent, integrated, copy] {
        let mut config = behind(&image, path());
        assert_eq!(config.u16(0x82), 0x0002);
        assert_eq!((config.u32(0x8c), config.u16(0x92)), (0x84, 0x43));
        assert_eq!((config.u32(0xac), config.u16(0xb2)), (0x1e, 0));
        assert!(
            (0x8c..0x94)
                .chain(0xac..0xb4)
                .all(|at| config.is_emulated(at))
        );
        config.write(0x8c, &[0xff; 4]);
        config.write(0x92, &[0xff; 2]);
        assert_eq!((config.u32(0x8c), config.u16(0x92)), (0x84, 0x43));
    }
    let slowest = behind(&device(), HostPath::default());
    assert_eq!((slowest.u32(0x8c), slowest.u16(0x92)), (0x11, 0x11));
    assert_eq!((slowest.u32(0xac), slowest.u16(0xb0)), (2, 1));
}

#[test]
fn atomic_ops_are_the_guests_where_the_port_completes_them() {
    let enabled = |config: &ConfigSpace| {
        let mut read = [0xff, 0xff];
        config.conceal(0xa8, &mut read);
        (of_ones(config, 0xa8, 2), read)
    };
    let without = behind(&linked(), path());
    assert_eq!(enabled(&without), (vec![0x1f, 0x03], [0xbf, 0xff]));
    for atomic_ops in [
        AtomicOps::ALL,
        AtomicOps {
            cas_128: true,
            ..AtomicOps::NONE
        },
    ] {
        let with = behind(
            &linked(),
            HostPath {
                atomic_ops,
                ..path()
            },
        );
        assert_eq!(enabled(&with), (vec![0x5f, 0x03], [0xff, 0xff]));
    }
}

#[test]
fn the_rest_is_the_same_behind_a_port() {
    let (root, port) = (apply(&linked()), behind(&linked(), path()));
    let link = |at: &u16| matches!(at, 0x82 | 0x8c..0x94 | 0xa8 | 0xac..0xb4);
    for at in (0..4096).filter(|at| !link(at)) {
        assert_eq!(root.is_emulated(at), port.is_emulated(at), "{at:#x}");
        assert_eq!(root.device_write(at), port.device_write(at), "{at:#x}");
        assert_eq!(root.u8(at), port.u8(at), "{at:#x}");
    }
    // A conventional device has no link to show.
    let mut conventional = linked();
    conventional[0x71] = 0;
    assert_eq!(
        behind(&conventional, HostPath::default()),
        apply(&conventional)
    );
}

#[test]
fn an_empty_extended_space_is_none() {
    let mut snapshot = device();
    snapshot[0x100..].fill(0);
    let config = apply(&snapshot);
    assert_eq!(config.size(), 256);
    assert!(config.is_emulated(0x100));
    assert_eq!(config.u32(0x100), !0);
    // Registers without a capability can be read.
    snapshot[0xfff] = 1;
    let config = apply(&snapshot);
    assert_eq!((config.size(), config.u32(0x100)), (4096, 0));
    assert!(!config.is_emulated(0xfff));
    assert_eq!(config.device_write(0xfff), Dropped);
    // Not where sysfs does not tell the chains.
    let unknown = Original {
        hardware: &snapshot[..64],
        ..original(&snapshot)
    };
    let config = super::apply(&unknown);
    assert!(config.is_emulated(0xfff) && config.u8(0xfff) == 0);
}

/// What the device gets of a write of ones, where it has zeros.
fn of_ones(config: &ConfigSpace, offset: u16, len: usize) -> Vec<u8> {
    config.for_device(offset, &vec![0xff; len], &vec![0; len])
}

#[test]
fn error_reports_and_agreements_are_the_hosts() {
    let config = apply(&device());
    // COMMAND without SERR# and parity; STATUS.
    assert_eq!(of_ones(&config, 0x04, 4), [0x17, 0x04, 0, 0]);
    // Device control and status, device control 2.
    assert_eq!(of_ones(&config, 0x88, 4), [0x10, 0xf8, 0, 0]);
    assert_eq!(of_ones(&config, 0xa8, 2), [0x1f, 0x03]);
    let mut enabled = [0x5f, 0xff];
    config.conceal(0xa8, &mut enabled);
    assert_eq!(enabled, [0x1f, 0xff], "AtomicOps read as off");
    // Power state and the selection of data; PME_Status is not cleared, and PME_En stays.
    assert_eq!(of_ones(&config, 0x44, 2), [0x03, 0x1e]);
    assert_eq!(config.for_device(0x44, &[3, 0], &[0, 0x81]), [3, 0x01]);
    // AER: all of it.
    for offset in 0x144..0x140 + 0x2c {
        assert_eq!(config.device_write(offset), Dropped, "{offset:#x}");
    }
    assert_eq!(config.device_write(0x04), Masked);
    assert_eq!(config.device_write(0x0c), Whole);
}

#[test]
fn vital_product_data_can_be_read_only() {
    let mut image = device();
    image[0x71] = 0xc0;
    image[0xc0..0xc4].copy_from_slice(&[0x03, 0x00, 0x00, 0x80]);
    let config = apply(&image);
    // The flag of an answered read is set. A guest's write must not carry it.
    assert_eq!(
        config.for_device(0xc2, &[0x10, 0x80], &[0, 0x80]),
        [0x10, 0]
    );
    assert_eq!(config.device_write(0xc4), Dropped);
}

/// VFIO shows no enhanced allocation, which lies where NVIDIA recommends that a clique be. Without
/// the hardware's chain, only its bytes tell that something is there.
#[test]
fn a_clique_is_not_where_vfio_unlinks() {
    let mut snapshot = device();
    snapshot[0..2].copy_from_slice(&0x10deu16.to_le_bytes());
    snapshot[0x0b] = 0x03;
    let mut hardware = snapshot.clone();
    for space in [&mut snapshot, &mut hardware] {
        space[0xc4..0xd8].fill(0xe5);
    }
    hardware[0x81] = 0xc4;
    hardware[0xc4..0xc6].copy_from_slice(&[0x14, 0xd8]);
    hardware[0xd8..0xdb].copy_from_slice(&[0x09, 0x00, 0x10]);
    snapshot[0x81] = 0xd8;
    snapshot[0xd8..0xdb].copy_from_slice(&[0x09, 0x00, 0x10]);
    for known in [&hardware[..], &[]] {
        let shown = Original {
            hardware: known,
            ..original(&snapshot)
        };
        let mut with_clique = snapshot.clone();
        clique::add(&mut with_clique, 5, &super::in_use(&snapshot, known)).unwrap();
        let config = super::apply(&Original {
            snapshot: &with_clique,
            ..shown
        });
        assert_eq!(clique::find(&with_clique), Some(0xf8));
        assert_eq!(config.u32(0xf8), 0x5008_0009);
        assert_eq!(config.u32(0xfc), 5 << 19 | 0x5032);
    }
}

#[test]
fn what_vfio_unlinks_is_hidden() {
    // Enhanced allocation behind PCIe, and secondary PCIe and IDE behind AER.
    let mut hardware = device();
    hardware[0x81] = 0xc0;
    hardware[0xc0..0xd0].fill(0xe5);
    hardware[0xc0..0xc2].copy_from_slice(&[0x14, 0x00]);
    hardware[0x140..0x144].copy_from_slice(&0x2002_0001u32.to_le_bytes());
    hardware[0x200..0x300].fill(0xe5);
    hardware[0x200..0x204].copy_from_slice(&0x2801_0019u32.to_le_bytes());
    hardware[0x280..0x284].copy_from_slice(&0x1901_0030u32.to_le_bytes());
    let mut snapshot = hardware.clone();
    snapshot[0x81] = 0;
    snapshot[0x140..0x144].copy_from_slice(&0x1902_0001u32.to_le_bytes());
    let shown = Original {
        hardware: &hardware,
        ..original(&snapshot)
    };
    let unlinked: Vec<_> = super::unlinked(&snapshot, &hardware)
        .iter()
        .map(|c| c.id)
        .collect();
    assert_eq!(unlinked, [id::EA, ext_id::SECONDARY, ext_id::IDE]);
    let config = super::apply(&shown);
    for offset in (0xc0..0x100).chain(0x200..0x300) {
        assert!(config.is_emulated(offset), "{offset:#x}");
        assert_eq!(config.u8(offset), 0, "{offset:#x}");
    }
    // Without the hardware's chains, only extended space is known to be the host's.
    let unknown = Original {
        hardware: &[],
        ..shown
    };
    let config = super::apply(&unknown);
    assert!(config.is_emulated(0x200) && !config.is_emulated(0xc8));
}

#[test]
fn a_hidden_head_keeps_its_link() {
    let mut hardware = device();
    hardware[0x100..0x104].copy_from_slice(&0x1401_001bu32.to_le_bytes());
    let mut snapshot = hardware.clone();
    snapshot[0x100..0x104].copy_from_slice(&0x1400_0000u32.to_le_bytes());
    let config = super::apply(&Original {
        hardware: &hardware,
        ..original(&snapshot)
    });
    assert_eq!(config.u32(0x100), 0x1400_0000);
    assert!((0x104..0x108).all(|at| config.is_emulated(at) && config.u8(at) == 0));
}

#[test]
fn an_integrated_gpu_shows_no_host_address() {
    let mut image = device();
    image[0..2].copy_from_slice(&0x8086u16.to_le_bytes());
    image[0x0b] = 3;
    // As on generations 9 and 10: PCI Express at 0x70.
    image[0x34] = 0x70;
    image[0x70..0x74].copy_from_slice(&[0x10, 0xd0, 0x92, 0x00]);
    image[0xd0..0xd8].copy_from_slice(&[0x01, 0, 0x22, 0, 0, 0, 0, 0]);
    for at in [0x50, 0x5c, 0xc0, 0xc4, 0xe0, 0xe4, 0xe8, 0xfc] {
        image[at..at + 4].copy_from_slice(&0xa5f1_c2c1u32.to_le_bytes());
    }
    let gpu = |name, bar_0| {
        super::apply(&Original {
            name,
            bar_0,
            ..original(&image)
        })
    };
    let config = gpu("0000:00:02.0", 16 << 20);
    for at in [0x5c, 0xc0, 0xc4, 0xe0, 0xe4, 0xe8, 0xfc] {
        assert_eq!(config.u32(at), 0, "{at:#x}");
        assert!((at..at + 4).all(|at| config.is_emulated(at)), "{at:#x}");
    }
    assert_eq!(config.u16(0x50), 0x00c1, "GMS is 0, GGMS is the device's");
    assert_eq!(gpu("0000:00:02.0", 4 << 20).u16(0x50), 0xc201);
    assert_eq!(config.u16(0x72), 0x0092, "the capability stays");
    assert_eq!(config.device_write(0xf0), Dropped);
    // A card of Intel's in a slot has no such registers.
    let config = gpu("0000:03:00.0", 16 << 20);
    assert!(!config.is_emulated(0xfc));
    assert_eq!(config.device_write(0xfc), Whole);
}

#[test]
fn cxl_is_hidden_and_other_vendors_are_not() {
    let mut image = device();
    image[0x190..0x198].copy_from_slice(&[0x23, 0, 0x01, 0, 0x98, 0x1e, 0x80, 0x03]);
    assert!(apply(&image).is_emulated(0x1a0));
    image[0x194..0x196].copy_from_slice(&0x8086u16.to_le_bytes());
    let config = apply(&image);
    assert!(!config.is_emulated(0x1a0));
    assert_eq!(config.device_write(0x1a0), Dropped);
}

#[test]
fn tables_have_a_row_for_each_id_in_order() {
    for (table, last) in [(POLICY.standard, 0x15), (POLICY.extended, 0x36)] {
        let ids: Vec<_> = table.iter().map(|rule| rule.id).collect();
        assert_eq!(ids, (0..=last).collect::<Vec<u16>>());
        for rule in table {
            assert!(!rule.reason.is_empty(), "{}", rule.name);
            let mut end = 2;
            for row in rule.registers {
                assert!(row.offset >= end, "{} of {}", row.name, rule.name);
                assert!(!row.reason.is_empty(), "{}", row.name);
                end = row.offset + row.len;
            }
        }
    }
    let mut end = 0;
    for row in POLICY.header {
        assert_eq!(row.offset, end, "{}", row.name);
        end += row.len;
    }
    assert_eq!(end, HEADER_SIZE);
    let rules = POLICY.standard.iter().chain(POLICY.extended);
    let registers = rules.flat_map(|rule| rule.registers).chain(POLICY.header);
    for row in registers {
        let behind = row.at(true);
        assert!(!behind.1.is_empty(), "{}", row.name);
        assert!(row.behind_port != Some(row.at(false)), "{}", row.name);
    }
}

proptest! {
    #[test]
    fn any_snapshot_is_accepted(
        mut snapshot in proptest::collection::vec(any::<u8>(), 256),
        big: bool,
        port: bool,
    ) {
        if big {
            snapshot.resize(4096, 0xa5);
        }
        let config = match port {
            true => behind(&snapshot, path()),
            false => apply(&snapshot),
        };
        prop_assert!(!config.is_emulated(4));
        prop_assert!(
            capability::extended(config.bytes()).iter().all(|c| c.id != ext_id::SRIOV)
        );
    }
}
