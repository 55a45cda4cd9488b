//! What decoding would change: where BARs are mapped now against where the registers and COMMAND
//! say they should be (PCI Express 6.0, 7.5.1.1.3).
//!
//! BARs decode while their enable bit in COMMAND is on, and only then. So sizing, which leaves all
//! ones in a register for a moment, moves nothing as long as decoding is off; a change while it is
//! on moves the BAR at once. The expansion ROM is the seventh: it needs its own enable bit besides
//! (7.5.1.2.4). The caller does what the effects say and tells how it went:
//! [`Decoder::confirm`] or [`Decoder::refuse`].

use super::bar::{Bars, REGISTER_COUNT};

/// One change of the address map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarEffect {
    /// The BAR was nowhere and is now at `address`.
    Map {
        /// Index of the BAR.
        bar: usize,
        /// First address, or port.
        address: u64,
    },
    /// The BAR is nowhere now.
    Unmap {
        /// Index of the BAR.
        bar: usize,
    },
    /// The BAR goes elsewhere.
    Move {
        /// Index of the BAR.
        bar: usize,
        /// Where it is mapped.
        from: u64,
        /// Where it is to be.
        to: u64,
    },
}

impl BarEffect {
    /// Index of the BAR.
    pub fn bar(&self) -> usize {
        match *self {
            Self::Map { bar, .. } | Self::Unmap { bar } | Self::Move { bar, .. } => bar,
        }
    }
}

/// Where the BARs of one function are mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoder {
    mapped: [Option<u64>; REGISTER_COUNT],
}

impl Decoder {
    /// No BAR is mapped.
    pub fn new() -> Self {
        Self::default()
    }

    /// What has to change, at most one effect a BAR; nothing is changed here. Those that make
    /// room come first.
    ///
    /// A place that was refused is named again by the next call, since the reason may be gone by
    /// then: do not call this until it is empty.
    pub fn update(&self, bars: &Bars, memory_decode: bool, io_decode: bool) -> Vec<BarEffect> {
        let mut effects: Vec<_> = (0..REGISTER_COUNT)
            .filter_map(|bar| {
                let to = wanted(bars, bar, memory_decode, io_decode);
                match (self.mapped(bar), to) {
                    (None, Some(address)) => Some(BarEffect::Map { bar, address }),
                    (Some(_), None) => Some(BarEffect::Unmap { bar }),
                    (Some(from), Some(to)) if from != to => Some(BarEffect::Move { bar, from, to }),
                    _ => None,
                }
            })
            .collect();
        effects.sort_by_key(|effect| match effect {
            BarEffect::Unmap { .. } => 0,
            BarEffect::Move { .. } => 1,
            BarEffect::Map { .. } => 2,
        });
        effects
    }

    /// Where a BAR is mapped.
    pub fn mapped(&self, bar: usize) -> Option<u64> {
        self.mapped.get(bar).copied().flatten()
    }

    /// The caller has done what the effect says.
    pub fn confirm(&mut self, effect: &BarEffect) {
        let now = match *effect {
            BarEffect::Map { address, .. } => Some(address),
            BarEffect::Move { to, .. } => Some(to),
            BarEffect::Unmap { .. } => None,
        };
        if let Some(mapped) = self.mapped.get_mut(effect.bar()) {
            *mapped = now;
        }
    }

    /// The caller could not put a BAR where its registers say. It stays where it was, and the
    /// registers say so again; one that was nowhere stays nowhere, and its registers as written.
    pub fn refuse(&self, bars: &mut Bars, bar: usize) {
        if let Some(old) = self.mapped(bar) {
            bars.set_address(bar, old);
        }
    }
}

/// Where registers and COMMAND say that a BAR should be.
fn wanted(bars: &Bars, index: usize, memory_decode: bool, io_decode: bool) -> Option<u64> {
    let bar = bars.get(index)?;
    let address = bars.address(index)?;
    let decode = if bar.kind.is_io() {
        io_decode
    } else {
        memory_decode
    };
    (decode && bars.is_enabled(index) && bar.is_placed(address)).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::super::bar::tests::any_bars;
    use super::super::bar::{Bar, BarKind};
    use super::super::rom::{ROM, ROM_OFFSET};
    use super::*;
    use proptest::prelude::*;

    const MEMORY: BarKind = BarKind::Memory32 {
        prefetchable: false,
    };

    fn bars() -> Bars {
        let memory = Bar {
            kind: MEMORY,
            size: 0x1000,
        };
        let io = Bar {
            kind: BarKind::Io,
            size: 0x20,
        };
        Bars::new([Some(memory), Some(io), None, None, None, None]).unwrap()
    }

    fn apply(decoder: &mut Decoder, bars: &Bars, memory: bool, io: bool) -> Vec<BarEffect> {
        let effects = decoder.update(bars, memory, io);
        effects.iter().for_each(|e| decoder.confirm(e));
        effects
    }

    #[test]
    fn sizing_with_decode_off_moves_nothing() {
        let (mut bars, mut decoder) = (bars(), Decoder::new());
        for value in [!0u32, 0xc000_0000] {
            bars.write(0x10, &value.to_le_bytes());
            assert_eq!(apply(&mut decoder, &bars, false, false), []);
        }
        let map = BarEffect::Map {
            bar: 0,
            address: 0xc000_0000,
        };
        assert_eq!(apply(&mut decoder, &bars, true, false), [map]);
        assert_eq!(apply(&mut decoder, &bars, true, false), []);
        let unmap = BarEffect::Unmap { bar: 0 };
        assert_eq!(apply(&mut decoder, &bars, false, false), [unmap]);
    }

    #[test]
    fn a_change_with_decode_on_moves_at_once() {
        let (mut bars, mut decoder) = (bars(), Decoder::new());
        bars.set_address(0, 0xc000_0000);
        apply(&mut decoder, &bars, true, true);
        bars.write(0x11, &[0x10]);
        let moved = BarEffect::Move {
            bar: 0,
            from: 0xc000_0000,
            to: 0xc000_1000,
        };
        assert_eq!(apply(&mut decoder, &bars, true, true), [moved]);
        // Sizing with decode on takes the BAR away until an address is back.
        bars.write(0x10, &[0xff; 4]);
        assert_eq!(
            apply(&mut decoder, &bars, true, true),
            [BarEffect::Unmap { bar: 0 }]
        );
        bars.write(0x10, &[0; 4]);
        assert_eq!(apply(&mut decoder, &bars, true, true), []);
    }

    #[test]
    fn each_space_has_its_own_enable() {
        let (mut bars, mut decoder) = (bars(), Decoder::new());
        bars.set_address(0, 0xc000_0000);
        bars.set_address(1, 0x2000);
        let port = BarEffect::Map {
            bar: 1,
            address: 0x2000,
        };
        assert_eq!(apply(&mut decoder, &bars, false, true), [port]);
    }

    #[test]
    fn a_rom_has_two_switches() {
        let mut bars = Bars::default().with_rom(0x1000).unwrap();
        let mut decoder = Decoder::new();
        bars.set_address(ROM, 0xc000_0000);
        assert_eq!(apply(&mut decoder, &bars, true, true), []);
        bars.write(ROM_OFFSET, &[1]);
        assert_eq!(apply(&mut decoder, &bars, false, true), []);
        let map = BarEffect::Map {
            bar: ROM,
            address: 0xc000_0000,
        };
        assert_eq!(apply(&mut decoder, &bars, true, false), [map]);
        // A place that is refused: back to the old one, and still on.
        bars.write(ROM_OFFSET, &0xd000_0001u32.to_le_bytes());
        assert_eq!(decoder.update(&bars, true, false).len(), 1);
        decoder.refuse(&mut bars, ROM);
        assert_eq!(apply(&mut decoder, &bars, true, false), []);
        bars.write(ROM_OFFSET, &[0]);
        let unmap = BarEffect::Unmap { bar: ROM };
        assert_eq!(apply(&mut decoder, &bars, true, false), [unmap]);
    }

    #[test]
    fn refused() {
        let (mut bars, mut decoder) = (bars(), Decoder::new());
        bars.set_address(0, 0xc000_0000);
        decoder.refuse(&mut bars, 0);
        assert_eq!(bars.address(0), Some(0xc000_0000));
        apply(&mut decoder, &bars, true, true);
        bars.set_address(0, 0xfee0_0000);
        assert_eq!(decoder.update(&bars, true, true).len(), 1);
        decoder.refuse(&mut bars, 0);
        assert_eq!(bars.address(0), Some(0xc000_0000));
        assert_eq!(decoder.update(&bars, true, true), []);
        decoder.refuse(&mut bars, 99);
        decoder.confirm(&BarEffect::Unmap { bar: 99 });
    }

    proptest! {
        #[test]
        fn ends_where_the_registers_say(
            bars in any_bars(),
            steps in prop::collection::vec(
                (0x0cu16..0x38, prop::collection::vec(any::<u8>(), 0..9), any::<bool>(), any::<bool>(), any::<bool>()),
                0..30,
            ),
        ) {
            let (mut bars, mut decoder) = (bars, Decoder::new());
            for (offset, data, memory, io, accept) in steps {
                bars.write(offset, &data);
                let effects = decoder.update(&bars, memory, io);
                prop_assert!(effects.len() <= REGISTER_COUNT);
                for effect in &effects {
                    let bar = effect.bar();
                    if accept || matches!(effect, BarEffect::Unmap { .. }) {
                        decoder.confirm(effect);
                        prop_assert_eq!(decoder.mapped(bar), wanted(&bars, bar, memory, io));
                    } else {
                        let before = decoder.mapped(bar);
                        decoder.refuse(&mut bars, bar);
                        prop_assert_eq!(decoder.mapped(bar), before);
                    }
                }
                for bar in 0..REGISTER_COUNT {
                    let now = decoder.mapped(bar);
                    if accept || now.is_some() {
                        prop_assert_eq!(now, wanted(&bars, bar, memory, io));
                    }
                }
            }
        }
    }
}
