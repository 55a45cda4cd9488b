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
    /// MSI-X is on from now on.
    Enable,
    Reset,
    /// The host has no such vector.
    RefuseVector,
    /// The host has no vector.
    RefuseEnable,
}

/// The table's bytes, as far as software can write them (PCI Express 6.0, 7.7.2.5 to 7.7.2.8).
struct Table(Vec<u8>);

impl Table {
    fn write(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            let writable = match at % 16 {
                0 => !3,
                12 => 1,
                13..16 => 0,
                _ => !0,
            };
            if let Some(to) = self.0.get_mut(at as usize) {
                *to = byte & writable;
            }
        }
    }

    fn check(&self, msix: &Msix, offset: u64, len: usize) {
        let mut data = vec![0; len];
        msix.table_read(offset, &mut data);
        for (at, byte) in (offset..).zip(data) {
            let expected = self.0.get(at as usize).copied();
            assert_eq!(byte, expected.unwrap_or(byte), "byte {at:#x} of the table");
        }
    }
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
    // Each entry is masked after power-on.
    let power_on = || {
        let bytes = (0..usize::from(vectors) * 16).map(|at| u8::from(at % 16 == 12));
        Table(bytes.collect())
    };
    let mut table = power_on();
    // What each live vector sends, as known to a host that looks only where it is told to.
    let mut live = vec![None; usize::from(vectors)];
    for (step, access) in &input.steps {
        let mut data = access.bytes();
        // Mostly the first entries, so that one access meets another.
        let offset = match access.offset {
            0..0xc000 => u64::from(access.offset % 72),
            _ => u64::from(access.offset),
        };
        let written = match (step, access.write) {
            (Step::Control, true) => {
                msix.control_write(access.offset % 16, &data);
                0..vectors
            }
            (Step::Table, true) => {
                let written = msix.table_write(offset, &data);
                assert!(written.len() <= data.len().div_ceil(16) + 1);
                table.write(offset, &data);
                written
            }
            (Step::Enable, _) => {
                msix.control_write(2, &0x8000u16.to_le_bytes());
                0..vectors
            }
            (Step::Reset, _) => {
                msix.reset();
                table = power_on();
                live.fill(None);
                0..0
            }
            (Step::RefuseVector, _) => {
                msix.refuse_vector(access.offset);
                // It reads as masked.
                let masked = u64::from(access.offset) * 16 + 12;
                table.write(masked, &[1]);
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
                table.check(&msix, offset, data.len());
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
            assert_eq!(*live, msix.live(vector), "vector {vector} was not told");
        }
        assert_eq!(msix.live(vectors), None);
        assert!(msix.is_enabled() || live.iter().all(Option::is_none));
    }
});
