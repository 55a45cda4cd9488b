//! The policy applied to any device's configuration space, and any accesses to the result.

#![no_main]

mod access;

use access::Access;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pci::capability;
use pci::capability::ext_id;
use vmm::vfio::function::policy;

/// A device's registers: dwords anywhere in an image of zeros with a list of capabilities.
#[derive(Debug, Arbitrary)]
struct Input {
    extended: bool,
    registers: Vec<(u16, u32)>,
    accesses: Vec<Access>,
}

fuzz_target!(|input: Input| {
    let mut image = access::config_space(if input.extended { 4096 } else { 256 });
    for (at, value) in &input.registers {
        let at = (usize::from(*at) % image.len()) & !3;
        image[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let mut config = policy::apply(&image);
    // An extended space of zeros is hidden.
    let filled = image.iter().skip(256).any(|byte| *byte != 0);
    assert_eq!(config.size(), if filled { 4096 } else { 256 });

    // Hidden capabilities are in no list, and lists end.
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
        // The runs cover the access, in order and without a gap.
        let offset = access.offset % (4096 + 16);
        let mut at = offset;
        for (start, len, emulated) in config.runs(offset, data.len()) {
            assert_eq!(start, at);
            assert!(len > 0);
            assert!((0..len as u16).all(|i| config.is_emulated(start + i) == emulated));
            at += len as u16;
        }
        if access.write {
            config.write(offset, &data);
        } else {
            config.read(offset, &mut data);
        }
    }
});
