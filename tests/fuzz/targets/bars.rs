//! Any BARs, any accesses to their registers, and a decoder whose effects may be refused.

#![no_main]

mod access;

use access::Access;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pci::bar::{Bars, REGISTER_COUNT};
use pci::decoder::{BarEffect, Decoder};

#[derive(Debug, Arbitrary)]
struct Input {
    raw: [u32; 6],
    sizes: [u64; 6],
    rom: u64,
    steps: Vec<Step>,
}

/// A guest's access, then COMMAND's two bits, and which BARs are refused.
#[derive(Debug, Arbitrary)]
struct Step {
    access: Access,
    memory: bool,
    io: bool,
    refused: u8,
}

fuzz_target!(|input: Input| {
    let Ok(mut bars) = Bars::decode(input.raw, input.sizes) else {
        return;
    };
    if let Ok(with_rom) = bars.clone().with_rom(input.rom) {
        bars = with_rom;
    }
    let mut decoder = Decoder::new();
    for step in &input.steps {
        let mut data = step.access.bytes();
        // The registers, and some bytes before and after them.
        let offset = 0x0c + step.access.offset % 0x2c;
        if step.access.write {
            bars.write(offset, &data);
        } else {
            bars.read(offset, &mut data);
        }
        let effects = decoder.update(&bars, step.memory, step.io);
        assert!(effects.len() <= REGISTER_COUNT);
        for effect in &effects {
            let refused = step.refused >> effect.bar() & 1 != 0;
            if refused && !matches!(effect, BarEffect::Unmap { .. }) {
                decoder.refuse(&mut bars, effect.bar());
            } else {
                decoder.confirm(effect);
            }
        }
        for (index, bar, address) in bars.iter() {
            assert!(bar.size.is_power_of_two());
            assert_eq!(address % bar.size, 0, "BAR {index} is naturally aligned");
            let decodes = if bar.kind.is_io() {
                step.io
            } else {
                step.memory && bars.is_enabled(index)
            };
            if let Some(mapped) = decoder.mapped(index) {
                assert!(decodes, "BAR {index} is mapped and does not decode");
                assert_eq!(mapped % bar.size, 0);
                let end = mapped.checked_add(bar.size - 1).expect("it ends");
                assert!(!bar.kind.is_io() || end <= 0xffff);
                assert!(bar.kind.is_64bit() || end <= u64::from(u32::MAX));
            }
        }
    }
});
