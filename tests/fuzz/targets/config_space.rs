//! The policy applied to any device's configuration space, and any accesses to the result.

#![no_main]

mod access;

use access::Access;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pci::capability;
use pci::capability::ext_id;
use pci::host_path::HostPath;
use vmm::vfio::function::policy;
use vmm::vfio::function::policy::rule::Treatment;
use vmm::vfio::function::policy::{Original, POLICY};

/// A device's registers: dwords anywhere in an image of zeros with a list of capabilities.
#[derive(Debug, Arbitrary)]
struct Input {
    extended: bool,
    registers: Vec<(u16, u32)>,
    accesses: Vec<Access>,
    behind_port: bool,
}

fuzz_target!(|input: Input| {
    let mut image = access::config_space(if input.extended { 4096 } else { 256 });
    for (at, value) in &input.registers {
        let at = (usize::from(*at) % image.len()) & !3;
        image[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let original = Original {
        name: "0000:00:02.0",
        snapshot: &image,
        hardware: &[],
        bar_0: 0,
        port: input.behind_port.then(HostPath::default),
    };
    let mut config = policy::apply(&original);
    // An extended space of zeros is hidden.
    let filled = image.iter().skip(256).any(|byte| *byte != 0);
    let size = if filled { 4096 } else { 256 };
    assert_eq!(
        config.size(),
        size,
        "an extended space of zeros is hidden, and no other"
    );

    // Hidden capabilities are in no list, and lists end.
    let hidden = |cap| POLICY.rule(&image, cap).treatment == Treatment::Hide;
    let standard = capability::standard(config.bytes());
    let extended = capability::extended(config.bytes());
    assert!(standard.len() <= 48 && extended.len() <= 960);
    for cap in &standard {
        assert!(!hidden(cap), "{cap:?}");
    }
    for cap in &extended {
        assert!(!hidden(cap), "{cap:?}");
    }
    assert!(extended.iter().all(|cap| cap.id != ext_id::SRIOV));

    for access in &input.accesses {
        let mut data = access.bytes();
        // The parts cover the access, in order and without a gap.
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
