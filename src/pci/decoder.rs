//! How the address map has to change: where BARs are mapped now, against where the registers and
//! COMMAND say that they should be (PCI Express 6.0, 7.5.1.1.3).
//!
//! A BAR decodes only while its enable bit in COMMAND is on. So sizing, which leaves all ones in a
//! register for a moment, moves nothing while decoding is off; a change while decoding is on moves
//! the BAR at once. The expansion ROM counts as the seventh BAR, and needs its own enable bit
//! besides (7.5.1.2.4). The caller carries the effects out and says of each whether that worked:
//! [`Decoder::confirm`] or [`Decoder::refuse`].

use crate::bar::{Bars, REGISTER_COUNT};

/// One change of the address map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarEffect {
    /// The BAR, unmapped until now, is to be at `address`.
    Map {
        /// Index of the BAR.
        bar: usize,
        /// First address, or port.
        address: u64,
    },
    /// The BAR is to be unmapped.
    Unmap {
        /// Index of the BAR.
        bar: usize,
    },
    /// The BAR is to be at another address.
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

    /// What has to change, at most one effect a BAR; nothing is changed here. BARs that leave an
    /// address come first.
    ///
    /// An address that was refused is named again by the next call, since the reason may be gone by
    /// then. So do not repeat the call until nothing is left.
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

    /// The caller could not map a BAR where its registers say. A mapped BAR stays where it is, and
    /// its registers say so again. An unmapped BAR stays unmapped, and keeps its registers.
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
    (decode && bars.is_enabled(index) && bar.can_decode_at(address)).then_some(address)
}

#[cfg(test)]
mod tests;
