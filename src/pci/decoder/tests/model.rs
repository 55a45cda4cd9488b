//! Any accesses to the header against a plain model of the specification: the same registers, and
//! the same address ranges decoded.

use proptest::prelude::*;

use super::super::*;
use crate::bar::tests::any_bars;
use crate::bar::{Bar, BarKind};
use crate::byte_enable;
use crate::regs;
use crate::rom::ROM;

const COMMAND: usize = 4;
const END: usize = 0x34;

/// The register of a BAR or of the expansion ROM.
fn register(bar: usize) -> usize {
    match bar {
        ROM => regs::ROM.into(),
        _ => usize::from(regs::BAR) + 4 * bar,
    }
}

/// COMMAND, the BARs and the expansion ROM of a header by the book (PCI 3.0, 6.2.2 and 6.2.5).
struct Model {
    shapes: [Option<Bar>; REGISTER_COUNT],
    bytes: [u8; END],
    writable: [u8; END],
}

impl Model {
    fn new(bars: &Bars) -> Self {
        let mut model = Self {
            shapes: std::array::from_fn(|bar| bars.get(bar).copied()),
            bytes: [0; END],
            writable: [0; END],
        };
        model.writable[COMMAND..COMMAND + 2].fill(0xff);
        for (bar, shape) in model.shapes.into_iter().enumerate() {
            let Some(shape) = shape else { continue };
            let at = register(bar);
            // The kind is in the low bits. The size determines how many address bits are read-only.
            let (kind, flag_bits, len) = match shape.kind {
                BarKind::Io => (0b01, 0b11, 4),
                BarKind::Rom => (0, 0x7ff, 4),
                BarKind::Memory32 { prefetchable } => (u8::from(prefetchable) << 3, 0xf, 4),
                BarKind::Memory64 { prefetchable } => (u8::from(prefetchable) << 3 | 0b100, 0xf, 8),
            };
            model.bytes[at] = kind;
            let address = !(shape.size - 1) & !flag_bits;
            model.writable[at..at + len].copy_from_slice(&address.to_le_bytes()[..len]);
            // The ROM's own enable bit.
            model.writable[at] |= u8::from(bar == ROM);
        }
        model
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        for (at, byte) in (offset..END).zip(data) {
            self.bytes[at] = self.bytes[at] & !self.writable[at] | byte & self.writable[at];
        }
    }

    /// The address in a BAR's register or registers.
    fn address(&self, bar: usize, shape: Bar) -> u64 {
        let at = register(bar);
        let len = if matches!(shape.kind, BarKind::Memory64 { .. }) {
            8
        } else {
            4
        };
        let mut address = [0; 8];
        for (to, at) in address.iter_mut().zip(at..at + len) {
            *to = self.bytes[at] & self.writable[at];
        }
        // The ROM's enable bit is not part of the address.
        u64::from_le_bytes(address) & !1
    }

    /// The first address that a BAR decodes: the address in its register, while COMMAND lets it
    /// decode. Neither zero nor the end of the space, which sizing leaves, counts as an address.
    fn decoded(&self, bar: usize) -> Option<u64> {
        let shape = self.shapes[bar]?;
        let address = self.address(bar, shape);
        let last = u128::from(address) + u128::from(shape.size) - 1;
        let (enable, fits) = match shape.kind {
            BarKind::Io => (1, last <= 0xffff),
            BarKind::Memory32 { .. } | BarKind::Rom => (2, last < 0xffff_ffff),
            BarKind::Memory64 { .. } => (2, last < u128::from(u64::MAX)),
        };
        let on = bar != ROM || self.bytes[register(ROM)] & 1 == 1;
        (on && self.bytes[COMMAND] & enable != 0 && address != 0 && fits).then_some(address)
    }
}

/// The modules under test, put together as a function does it.
struct Function {
    command: u32,
    bars: Bars,
    decoder: Decoder,
}

impl Function {
    fn write(&mut self, offset: usize, data: &[u8]) {
        self.command =
            byte_enable::merge(self.command, COMMAND as u64, 0xffff, offset as u64, data);
        self.bars.write(offset as u16, data);
        let (memory, io) = (self.command & 2 != 0, self.command & 1 != 0);
        for effect in self.decoder.update(&self.bars, memory, io) {
            // Each effect must have the BAR's true current address.
            match effect {
                BarEffect::Map { bar, .. } => assert_eq!(self.decoder.mapped(bar), None),
                BarEffect::Unmap { bar } => assert!(self.decoder.mapped(bar).is_some()),
                BarEffect::Move { bar, from, .. } => {
                    assert_eq!(self.decoder.mapped(bar), Some(from));
                }
            }
            self.decoder.confirm(&effect);
        }
    }

    fn dword(&self, bar: usize) -> u32 {
        let mut data = [0; 4];
        self.bars.read(register(bar) as u16, &mut data);
        u32::from_le_bytes(data)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Vec<u8>),
    Command(u16),
    /// Writes an address in two halves, as guests write 64-bit addresses.
    Address(usize, u64),
    /// Sizes a BAR as software does: writes all ones, reads, and writes the old value back.
    Size(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let byte = prop_oneof![Just(0u8), Just(0xff), any::<u8>()];
    let address = prop_oneof![
        0u64..0x1_0000,
        (0u64..0x1_0000).prop_map(|a| a << 16),
        Just(!0),
        any::<u64>(),
    ];
    // The lowest bit enables a ROM.
    let address = (address, any::<bool>()).prop_map(|(a, enable)| a | u64::from(enable));
    let step = prop_oneof![
        4 => (0..END, prop::collection::vec(byte, 0..9))
            .prop_map(|(at, data)| Step::Write(at, data)),
        3 => (0u16..8).prop_map(Step::Command),
        4 => (0..REGISTER_COUNT, address).prop_map(|(bar, address)| Step::Address(bar, address)),
        2 => (0..REGISTER_COUNT).prop_map(Step::Size),
    ];
    prop::collection::vec(step, 0..50)
}

proptest! {
    #[test]
    fn as_the_book_has_it(bars in any_bars(), steps in steps()) {
        let mut model = Model::new(&bars);
        let mut function = Function { command: 0, bars, decoder: Decoder::new() };
        for step in steps {
            let writes = match step {
                Step::Write(offset, data) => vec![(offset, data)],
                Step::Command(value) => vec![(COMMAND, value.to_le_bytes().to_vec())],
                Step::Address(bar, address) => {
                    let at = register(bar);
                    let bytes = address.to_le_bytes();
                    vec![(at, bytes[..4].to_vec()), (at + 4, bytes[4..].to_vec())]
                }
                Step::Size(bar) => {
                    let at = register(bar);
                    let old = function.dword(bar);
                    function.write(at, &[0xff; 4]);
                    let answer = function.dword(bar);
                    if let Some(shape) = function.bars.get(bar) {
                        // The lowest bit that takes a one is the size (6.2.5.1).
                        let flags = match shape.kind {
                            BarKind::Rom => 0x7ff,
                            BarKind::Io => 3,
                            _ => 15,
                        };
                        let bits = answer & !flags;
                        let low = shape.size as u32;
                        prop_assert_eq!(bits & bits.wrapping_neg(), low);
                    }
                    function.write(at, &old.to_le_bytes());
                    prop_assert_eq!(function.dword(bar), old);
                    Vec::new()
                }
            };
            for (offset, data) in writes {
                model.write(offset, &data);
                function.write(offset, &data);
            }
            let mut read = [0; END - regs::BAR as usize];
            function.bars.read(regs::BAR, &mut read);
            prop_assert_eq!(&read, &model.bytes[usize::from(regs::BAR)..]);
            let command = function.command.to_le_bytes();
            prop_assert_eq!(&command[..2], &model.bytes[COMMAND..COMMAND + 2]);
            for bar in 0..REGISTER_COUNT {
                prop_assert_eq!(function.decoder.mapped(bar), model.decoded(bar), "BAR {}", bar);
            }
        }
    }
}
