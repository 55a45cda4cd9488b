//! Any MSI-X capability, and any accesses to its control word, its table and its pending bits.

#![no_main]

mod access;

use access::Access;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pci::msix::{Msix, MsixCapability};

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
    /// The host has no such vector.
    RefuseVector,
    /// The host has no vector.
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
    // What each live vector sends, as known to a host that looks only where it is told to.
    let mut live = vec![None; usize::from(vectors)];
    for (step, access) in &input.steps {
        let mut data = access.bytes();
        let offset = u64::from(access.offset);
        let written = match (step, access.write) {
            (Step::Control, true) => {
                msix.control_write(access.offset % 16, &data);
                0..vectors
            }
            (Step::Table, true) => {
                let written = msix.table_write(offset, &data);
                assert!(written.len() <= data.len().div_ceil(16) + 1);
                written
            }
            (Step::Reset, _) => {
                msix.reset();
                live.fill(None);
                0..0
            }
            (Step::RefuseVector, _) => {
                msix.refuse_vector(access.offset);
                if let Some(live) = live.get_mut(usize::from(access.offset)) {
                    *live = None;
                }
                0..0
            }
            (Step::RefuseEnable, _) => {
                msix.refuse_enable();
                live.fill(None);
                0..0
            }
            (Step::Control, false) => {
                msix.capability_read(access.offset % 16, &mut data);
                0..0
            }
            (Step::Table, false) => {
                msix.table_read(offset, &mut data);
                0..0
            }
            // Read only.
            (Step::Pending, _) => {
                msix.pba_read(offset, &mut data, &|vector| {
                    assert!(vector < vectors);
                    vector % 3 == 0
                });
                0..0
            }
        };
        for vector in written {
            live[usize::from(vector)] = msix.live(vector);
        }
        for (vector, live) in (0..).zip(&live) {
            assert_eq!(*live, msix.live(vector), "vector {vector}");
        }
        assert_eq!(msix.live(vectors), None);
        assert!(msix.is_enabled() || live.iter().all(Option::is_none));
    }
});
