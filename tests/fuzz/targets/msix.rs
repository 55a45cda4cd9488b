//! Any MSI-X capability, and any accesses to its control word, its table and its pending bits.

#![no_main]

mod access;

use access::Access;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pci::msix::{Msix, MsixCapability, MsixEffect};

#[derive(Debug, Arbitrary)]
struct Input {
    /// Message control, table and PBA registers of the capability.
    registers: [u32; 3],
    steps: Vec<(Step, Access)>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Control,
    Table,
    Pending,
    Reset,
    /// The host has no such vector, or none at all.
    Refuse,
    RefuseEnable,
}

fuzz_target!(|input: Input| {
    let mut image = access::config_space(256);
    for (at, register) in (0x40..).step_by(4).zip(input.registers) {
        image[at..at + 4].copy_from_slice(&register.to_le_bytes());
    }
    image[0x40] = 0x11;
    image[0x41] = 0;
    let Some(capability) = MsixCapability::parse(&image) else {
        return;
    };
    let mut msix = Msix::new(capability);
    let vectors = capability.vectors;
    assert!((1..=2048).contains(&vectors));
    // Vectors that are live by the effects.
    let mut live = vec![false; usize::from(vectors)];
    for (step, access) in &input.steps {
        let mut data = access.bytes();
        let offset = u64::from(access.offset);
        let effects = match (step, access.write) {
            (Step::Control, true) => msix.control_write(access.offset % 16, &data),
            (Step::Table, true) => msix.table_write(offset, &data),
            (Step::Reset, _) => msix.reset(),
            (Step::Refuse, _) => {
                msix.refuse(access.offset);
                if let Some(live) = live.get_mut(usize::from(access.offset)) {
                    *live = false;
                }
                Vec::new()
            }
            (Step::RefuseEnable, _) => {
                msix.refuse_enable();
                live.fill(false);
                Vec::new()
            }
            (Step::Control, false) => {
                msix.capability_read(access.offset % 16, &mut data);
                Vec::new()
            }
            (Step::Table, false) => {
                msix.table_read(offset, &mut data);
                Vec::new()
            }
            // Read only.
            (Step::Pending, _) => {
                msix.pba_read(offset, &mut data, &|vector| {
                    assert!(vector < vectors);
                    vector % 3 == 0
                });
                Vec::new()
            }
        };
        assert!(effects.len() <= usize::from(vectors) + 1);
        for effect in effects {
            match effect {
                MsixEffect::Enable => assert!(live.iter().all(|live| !live)),
                MsixEffect::Disable => live.fill(false),
                MsixEffect::Unmask { vector, message } => {
                    assert!(!std::mem::replace(&mut live[usize::from(vector)], true));
                    assert_eq!(msix.message(vector), Some(message));
                }
                MsixEffect::Mask { vector } => {
                    assert!(std::mem::replace(&mut live[usize::from(vector)], false));
                }
                MsixEffect::Update { vector, message } => {
                    assert!(live[usize::from(vector)]);
                    assert_eq!(msix.message(vector), Some(message));
                }
            }
        }
        for (vector, live) in live.iter().enumerate() {
            assert_eq!(*live, !msix.is_masked(vector as u16), "vector {vector}");
        }
    }
});
