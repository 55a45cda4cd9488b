//! Any MSI capability and any accesses to it.

#![no_main]

mod access;

use access::Access;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pci::msi::{Msi, MsiCapability, MsiEffect};

#[derive(Debug, Arbitrary)]
enum Step {
    Access(Access),
    Reset,
    /// The host has fewer vectors, or none.
    Grant(u8),
    Refuse,
}

#[derive(Debug, Arbitrary)]
struct Input {
    control: u16,
    steps: Vec<Step>,
}

fuzz_target!(|input: Input| {
    let mut image = access::config_space(256);
    image[0x40] = 0x05;
    image[0x42..0x44].copy_from_slice(&input.control.to_le_bytes());
    let Some(capability) = MsiCapability::parse(&image) else {
        return;
    };
    let most = usize::from(capability.max_vectors);
    assert!(most.is_power_of_two() && most <= 32);
    let mut msi = Msi::new(capability);
    // How many vectors are in use by the effects.
    let mut in_use = None;
    for step in &input.steps {
        let effects = match step {
            Step::Access(access) => {
                let mut data = access.bytes();
                let offset = access.offset % 32;
                if access.write {
                    msi.capability_write(offset, &data)
                } else {
                    msi.capability_read(offset, &mut data, &|vector| vector % 2 == 0);
                    Vec::new()
                }
            }
            Step::Reset => msi.reset(),
            Step::Grant(vectors) => {
                msi.grant(*vectors);
                assert!(msi.vectors() <= (*vectors).max(1));
                in_use = in_use.map(|_| usize::from(msi.vectors()));
                Vec::new()
            }
            Step::Refuse => {
                msi.refuse();
                in_use = None;
                Vec::new()
            }
        };
        assert!(effects.len() <= 34);
        for effect in effects {
            match effect {
                MsiEffect::Enable { messages, .. } => {
                    assert!(messages.len().is_power_of_two() && messages.len() <= most);
                    for (vector, message) in messages.iter().enumerate() {
                        assert_eq!(message.data as usize % messages.len(), vector);
                    }
                    in_use = Some(messages.len());
                }
                MsiEffect::Disable => in_use = None,
                MsiEffect::Mask { vector } | MsiEffect::Unmask { vector } => {
                    assert!(in_use.is_some_and(|n| usize::from(vector) < n));
                }
                MsiEffect::Update { messages } => assert_eq!(Some(messages.len()), in_use),
            }
        }
        assert_eq!(msi.is_enabled(), in_use.is_some());
    }
});
