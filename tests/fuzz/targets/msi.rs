//! Any MSI capability and any accesses to it.

#![no_main]

mod access;

use access::Access;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pci::msi::{Msi, MsiCapability};

#[derive(Debug, Arbitrary)]
enum Step {
    Access(Access),
    Reset,
    /// The host has fewer vectors.
    Limit(u8),
    /// The host has no vector.
    RefuseEnable,
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
    // No more vectors may be in use than this.
    let mut limit = most;
    for step in &input.steps {
        match step {
            Step::Access(access) => {
                let mut data = access.bytes();
                let offset = access.offset % 32;
                if access.write {
                    msi.capability_write(offset, &data);
                } else {
                    msi.capability_read(offset, &mut data, &|vector| {
                        assert!(usize::from(vector) < limit);
                        vector % 2 == 0
                    });
                }
            }
            Step::Reset => {
                msi.reset();
                limit = most;
                assert!(!msi.is_enabled() && msi.vectors() == 1);
            }
            Step::Limit(vectors) => {
                let was_enabled = msi.is_enabled();
                msi.limit_vectors(*vectors);
                limit = limit.min(usize::from(*vectors).max(1));
                assert_eq!(msi.is_enabled(), was_enabled);
            }
            Step::RefuseEnable => {
                msi.refuse_enable();
                assert!(!msi.is_enabled());
            }
        }
        let messages = msi.messages();
        assert_eq!(messages.len(), usize::from(msi.vectors()));
        assert!(messages.len().is_power_of_two() && messages.len() <= limit);
        for (vector, message) in messages.iter().enumerate() {
            assert_eq!(message.data as usize % messages.len(), vector);
            assert_eq!(message.address, messages[0].address);
            assert_eq!(message.address % 4, 0);
        }
        assert_eq!(u64::from(msi.masked()) >> messages.len(), 0);
    }
});
