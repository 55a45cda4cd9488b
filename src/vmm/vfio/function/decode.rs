//! Where a function's BARs are in the guest: what the decoder says, done.
//!
//! A BAR is placed by giving its range to the bus, for what is trapped, and its mapped pieces to the
//! address space. A place that is refused leaves the BAR, and its register, where they were.

use std::sync::Arc;

use pci::addr::Range;
use pci::decoder::BarEffect;
use pci::regs::command;
use pci::rom::ROM;
use tracing::{debug, warn};

use crate::layout;
use crate::memory::MemoryError;
use crate::vfio::function::trap::BarTrap;
use crate::vfio::function::{State, VfioFunction};

/// Why a BAR cannot be where the guest wants it.
#[derive(Debug, thiserror::Error)]
enum PlaceRefusal {
    #[error("outside of the bus's windows")]
    Outside,
    #[error("{0}")]
    Taken(#[from] vm_device::bus::Error),
    #[error("{0}")]
    Memory(#[from] MemoryError),
}

impl VfioFunction {
    /// Brings the address map to where the BARs, COMMAND and the power state say it should be.
    pub(super) fn follow_decode(&self, state: &mut State) {
        let enabled = |bit| state.awake && !state.fenced && state.command & bit != 0;
        let effects =
            state
                .decoder
                .update(&state.bars, enabled(command::MEMORY), enabled(command::IO));
        for effect in &effects {
            if let BarEffect::Unmap { bar } | BarEffect::Move { bar, .. } = effect {
                self.displace(state, *bar);
            }
        }
        for effect in &effects {
            let (bar, to, from) = match *effect {
                BarEffect::Unmap { .. } => {
                    state.decoder.confirm(effect);
                    continue;
                }
                BarEffect::Map { bar, address } => (bar, address, None),
                BarEffect::Move { bar, from, to } => (bar, to, Some(from)),
            };
            match self.place(state, bar, to) {
                Ok(()) => {
                    debug!("{}: BAR {bar} is at {to:#x}", self.name());
                    state.decoder.confirm(effect);
                }
                // As behind a bridge that does not pass it on: nobody decodes there, and the
                // register keeps it, since one half of a 64-bit address comes before the other.
                Err(PlaceRefusal::Outside) => {
                    debug!(
                        "{}: BAR {bar} at {to:#x} is outside of the bus's windows",
                        self.name()
                    );
                    state.decoder.confirm(&BarEffect::Unmap { bar });
                }
                Err(why) => {
                    if self.limit.allow() {
                        warn!("{}: BAR {bar} cannot be at {to:#x}: {why}", self.name());
                    }
                    // Back to the old place, in the register too.
                    state.decoder.refuse(&mut state.bars, bar);
                    if from.is_some_and(|old| self.place(state, bar, old).is_err()) {
                        state.decoder.confirm(&BarEffect::Unmap { bar });
                    }
                }
            }
        }
    }

    fn place(&self, state: &mut State, bar: usize, address: u64) -> Result<(), PlaceRefusal> {
        let Some(shape) = state.bars.get(bar).copied() else {
            return Err(PlaceRefusal::Outside);
        };
        let trap = Arc::new(BarTrap {
            function: self.this.clone(),
            bar,
        });
        if shape.kind.is_io() {
            let (port, size) = (u16::try_from(address), u16::try_from(shape.size));
            let (Ok(port), Ok(size)) = (port, size) else {
                return Err(PlaceRefusal::Outside);
            };
            if port < layout::PCI_IO_START {
                return Err(PlaceRefusal::Outside);
            }
            return Ok(self.around.bus.insert_pio(port, size, trap)?);
        }
        if !self.around.layout.allows_bar(address, shape.size) {
            return Err(PlaceRefusal::Outside);
        }
        if bar == ROM {
            self.rom.enabled();
        }
        let range = Range {
            start: address,
            size: shape.size,
        };
        self.make_way(state, bar, range);
        self.around.bus.insert_mmio(address, shape.size, trap)?;
        if let Some(map) = state.maps.get_mut(bar)
            && let Err(e) = map.place(&self.around.space, address)
        {
            self.around.bus.remove_mmio(address);
            return Err(e.into());
        }
        Ok(())
    }

    /// Takes a BAR out of the guest's address map.
    fn displace(&self, state: &mut State, bar: usize) {
        let (Some(address), Some(shape)) = (state.decoder.mapped(bar), state.bars.get(bar)) else {
            return;
        };
        debug!("{}: BAR {bar} leaves {address:#x}", self.name());
        if shape.kind.is_io() {
            if let Ok(port) = u16::try_from(address) {
                self.around.bus.remove_pio(port);
            }
            return;
        }
        if let Some(map) = state.maps.get_mut(bar) {
            map.displace(&self.around.space);
        }
        self.around.bus.remove_mmio(address);
    }
}
