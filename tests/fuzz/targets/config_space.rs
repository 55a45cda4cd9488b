//! The policy applied to any device's configuration space, and any accesses to what comes out.

#![no_main]

mod access;

use access::Access;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pci::capability;
use pci::capability::ext_id;
use vmm::vfio::function::policy;

/// A device's registers: dwords put anywhere into an image of zeros that has a list of capabilities.
#[derive(Debug, Arbitrary)]
struct Input {
    extended: bool,
    registers: Vec<(u16, u32)>,
    accesses: Vec<Access>,
}

fuzz_target!(|input: Input| {
    let mut image = vec![0u8; if input.extended { 4096 } else { 256 }];
    // STATUS says so, and the pointer leads to 0x40 (PCI Express 6.0, 7.5.1.1.4 and 7.5.1.1.11).
    image[0x06] = 0x10;
    image[0x34] = 0x40;
    for (at, value) in &input.registers {
        let at = (usize::from(*at) % image.len()) & !3;
        image[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let mut config = policy::apply(&image);
    // Where nothing is in it, there is no extended space.
    let filled = image.iter().skip(256).any(|byte| *byte != 0);
    assert_eq!(config.size(), if filled { 4096 } else { 256 });

    // What is hidden is in no chain, and a chain ends.
    let hidden = |table: &[(u16, policy::Treatment, &str)], id| {
        let row = table.iter().find(|row| row.0 == id);
        row.is_some_and(|row| row.1 == policy::Treatment::Hide)
    };
    let standard = capability::standard(config.image());
    let extended = capability::extended(config.image());
    assert!(standard.len() <= 48 && extended.len() <= 960);
    for cap in &standard {
        assert!(!hidden(policy::STANDARD, cap.id), "{cap:?}");
    }
    for cap in &extended {
        assert!(!hidden(policy::EXTENDED, cap.id), "{cap:?}");
    }
    assert!(extended.iter().all(|cap| cap.id != ext_id::SRIOV));

    for access in &input.accesses {
        let mut data = access.bytes();
        // The parts are the access, in order and without a gap.
        let offset = access.offset % (4096 + 16);
        let mut at = offset;
        for part in config.split(offset, data.len()) {
            assert_eq!(part.offset, at);
            assert!(part.len > 0);
            let bytes = at..at + part.len as u16;
            assert!(
                bytes
                    .clone()
                    .all(|i| config.is_emulated(i) == part.emulated)
            );
            at = bytes.end;
        }
        if access.write {
            config.write(offset, &data);
        } else {
            config.read(offset, &mut data);
        }
    }
});
