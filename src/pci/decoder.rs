//! Computes changes of the address map: compares the current addresses of the mapped BARs with the
//! addresses by registers and COMMAND (PCI Express 6.0, 7.5.1.1.3).
//!
//! A BAR decodes only while its enable bit in COMMAND is on. Sizing leaves all ones in a register
//! for a moment; while decoding is off, that moves no BAR. A change while decoding is on moves the
//! BAR at once. The expansion ROM counts as the seventh BAR, and also needs its own enable bit
//! (7.5.1.2.4). The caller carries the effects out and reports the outcome of each:
//! [`Decoder::confirm`] or [`Decoder::refuse`].

use crate::bar::{Bar, Bars, REGISTER_COUNT};

/// One change of the address map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarEffect {
    /// Map the BAR, which is not mapped now, at `address`.
    Map {
        /// Index of the BAR.
        bar: usize,
        /// First address, or port.
        address: u64,
    },
    /// Unmap the BAR.
    Unmap {
        /// Index of the BAR.
        bar: usize,
    },
    /// Map the BAR at another address.
    Move {
        /// Index of the BAR.
        bar: usize,
        /// The current address.
        from: u64,
        /// The new address.
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

/// The addresses at which the BARs of one function are mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoder {
    mapped: [Option<u64>; REGISTER_COUNT],
}

impl Decoder {
    /// No BAR is mapped.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the necessary changes, at most one effect for each BAR, and changes nothing itself.
    /// BARs that leave an address come first.
    ///
    /// The next call returns a refused address again, because the reason for the refusal may be
    /// gone by then. So a caller must not repeat the call until the result is empty.
    pub fn update(&self, bars: &Bars, memory_decode: bool, io_decode: bool) -> Vec<BarEffect> {
        self.update_where(bars, memory_decode, io_decode, |_, _| true)
    }

    /// As [`Decoder::update`], for a function behind a bridge: a BAR at an address that is not
    /// `allowed` does not decode. It keeps its registers.
    pub fn update_where(
        &self,
        bars: &Bars,
        memory_decode: bool,
        io_decode: bool,
        allowed: impl Fn(&Bar, u64) -> bool,
    ) -> Vec<BarEffect> {
        let mut effects: Vec<_> = (0..REGISTER_COUNT)
            .filter_map(|bar| {
                let to = wanted(bars, bar, memory_decode, io_decode);
                let to = to.filter(|at| bars.get(bar).is_some_and(|bar| allowed(bar, *at)));
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

    /// The address at which a BAR is mapped; `None` if it is not mapped.
    pub fn mapped(&self, bar: usize) -> Option<u64> {
        self.mapped.get(bar).copied().flatten()
    }

    /// Records that the caller has carried out the effect.
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

    /// Records that the caller could not map a BAR at the address in its registers. A mapped BAR
    /// keeps its current address, to which its registers are set back. An unmapped BAR stays
    /// unmapped, and keeps its registers.
    pub fn refuse(&self, bars: &mut Bars, bar: usize) {
        if let Some(old) = self.mapped(bar) {
            bars.set_address(bar, old);
        }
    }
}

/// The address of a BAR by its registers and COMMAND; `None` if the BAR does not decode.
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
