//! One passed-through function: the glue between the guest's accesses and the device.
//!
//! The pure rooms say what an access means (`pci/`), the policy says who answers it
//! ([`config_policy`]), and this file carries the effects out, in an order
//! that leaves no moment in which the guest could touch what is not there: pieces leave the address
//! space before the device stops decoding, and enter it after the device has begun.

pub mod bar_map;
mod decode;
mod disconnect;
pub(super) mod hot_reset;
pub mod policy;
pub mod reset;
pub mod rom;
pub mod snapshot;
mod trap;
mod unused_vectors;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use pci::addr::Range;
use pci::bar::{BAR_COUNT, BarError, Bars};
use pci::capability::id;
use pci::config_space::ConfigSpace;
use pci::decoder::Decoder;
use pci::msix::MsixCapability;
use pci::regs::power::{PMCSR, STATE as POWER_STATE};
use pci::regs::{self, COMMAND, command};
use pci::{PciFunction, byte_enable, capability};
use tracing::warn;

use crate::bus::Bus;
use crate::coalesced::zones::Zones;
use crate::event_thread::EventThread;
use crate::gsi::routing::GsiRouting;
use crate::layout::Layout;
use crate::log::error_chain::with_causes;
use crate::log::limit::RateLimit;
use crate::memory::AddressSpace;
use crate::memory::gate::Gate;
use crate::vfio::device::{CONFIG_REGION, DeviceError, SharedDevice};
use crate::vfio::function::bar_map::{BarMap, Piece};
use crate::vfio::function::rom::{Rom, RomSource};
use crate::vfio::interrupts::Interrupts;

/// Why a function cannot be made of a device.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// The device does not answer.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Its BARs make no sense.
    #[error("{device}: {source}")]
    Bars {
        /// The device's address.
        device: String,
        /// What is wrong.
        source: BarError,
    },
}

/// The rooms of the VM that a function works on.
#[derive(Clone)]
pub struct Surroundings {
    /// Where mapped pieces go.
    pub space: Arc<AddressSpace>,
    /// Where trapped ranges go.
    pub bus: Arc<Bus>,
    /// Where interrupts go.
    pub router: Arc<GsiRouting>,
    /// Whose writes KVM keeps.
    pub zones: Arc<Zones>,
    /// Where BARs may be.
    pub layout: Layout,
    /// Where a vCPU waits until a device may use RAM.
    pub gate: Arc<Gate>,
}

/// A passed-through function.
pub struct VfioFunction {
    name: String,
    /// None once the host has it back.
    pub(super) device: RwLock<Option<SharedDevice>>,
    pub(super) around: Surroundings,
    pub(super) this: Weak<Self>,
    /// Where the MSI-X table and its pending bits are.
    pub(super) msix_place: Option<MsixCapability>,
    pub(super) rom: Rom,
    /// The power management capability.
    pub(super) power: Option<u16>,
    /// The bits of COMMAND's low byte that the device does not keep as they are written.
    stuck: u8,
    state: Mutex<State>,
    pub(super) limit: RateLimit,
}

pub(super) struct State {
    pub(super) config: ConfigSpace,
    /// `config` as it was at power-on.
    pristine: ConfigSpace,
    pub(super) bars: Bars,
    /// `bars` as firmware placed them.
    placed: Bars,
    pub(super) decoder: Decoder,
    pub(super) maps: [BarMap; BAR_COUNT],
    pub(super) interrupts: Interrupts,
    /// The entries of the MSI-X table that are not in use, while KVM keeps the writes to them.
    pub(super) spares: Option<Range>,
    /// COMMAND as the guest wrote it last.
    pub(super) command: u16,
    /// The device is in D0.
    pub(super) awake: bool,
    /// The device has failed or was taken away: nothing of it is there any more.
    pub(super) fenced: bool,
}

impl VfioFunction {
    /// Reads the device's configuration space and maps its BARs. Nothing is in the guest yet, and
    /// nothing of the ROM has been read.
    ///
    /// # Errors
    /// When the device does not answer or its BARs make no sense.
    pub fn new(
        device: SharedDevice,
        around: Surroundings,
        rom: RomSource,
    ) -> Result<Arc<Self>, FunctionError> {
        let image = snapshot::read(&*device)?;
        let mut pristine = policy::apply(&image);
        let region = image.len().min(device.region(CONFIG_REGION).size as usize);
        pristine.set_emulated(region as u16, image.len() - region);
        let raw = std::array::from_fn(|i| {
            byte_enable::u32_at(&image, usize::from(regs::BAR) + i * 4).unwrap_or(0)
        });
        let sizes = std::array::from_fn(|i| device.region(i as u32).size);
        let rom = Rom::new(&*device, rom);
        let bars = Bars::decode(raw, sizes)
            .and_then(|bars| rom.register(bars))
            .map_err(|source| FunctionError::Bars {
                device: device.name().into(),
                source,
            })?;
        let interrupts = Interrupts::new(&image, Arc::clone(&device), Arc::clone(&around.router));
        let msix_place = interrupts.msix().copied();
        let power = capability::find(&image, id::PM).map(|c| c.offset);
        let maps = std::array::from_fn(|bar| BarMap::of(&*device, bar, &bars, msix_place.as_ref()));
        let stuck = snapshot::turn_off(&*device)?;
        let state = State {
            config: pristine.clone(),
            pristine,
            placed: bars.clone(),
            bars,
            decoder: Decoder::new(),
            maps,
            interrupts,
            spares: None,
            command: 0,
            awake: true,
            fenced: false,
        };
        Ok(Arc::new_cyclic(|this| Self {
            name: device.name().into(),
            device: RwLock::new(Some(device)),
            around,
            this: this.clone(),
            msix_place,
            rom,
            power,
            stuck,
            state: Mutex::new(state),
            limit: RateLimit::default(),
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host's name of the device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The BARs and the ROM as the guest sees them now.
    pub fn bars(&self) -> Bars {
        self.lock().bars.clone()
    }

    /// The mapped pieces of a BAR.
    pub fn mapped_pieces(&self, bar: usize) -> Vec<Piece> {
        self.lock()
            .maps
            .get(bar)
            .map(|m| m.pieces().to_vec())
            .unwrap_or_default()
    }

    /// Firmware's placing: the addresses that BARs have at power-on and after every reset.
    pub fn set_placed(&self, bars: Bars) {
        let mut state = self.lock();
        state.placed = bars.clone();
        state.bars = bars;
        self.keep_spares(&mut state);
    }

    /// Wires the device's pin, if it has one, to a GSI. For the guest it is `pin` (0 is INTA),
    /// whatever it is on the host.
    pub fn connect_pin(&self, pin: u8, gsi: u32, service: Weak<EventThread>) {
        let mut state = self.lock();
        let (device, router) = (self.device(), Arc::clone(&self.around.router));
        if device.is_some_and(|d| state.interrupts.connect_pin(d, router, gsi, service)) {
            // 1 is INTA (PCI Local Bus 3.0, 6.2.4).
            state.pristine.set_u8(regs::INTERRUPT_PIN, pin + 1);
            state.config.set_u8(regs::INTERRUPT_PIN, pin + 1);
        }
    }

    /// Takes the function out of the guest's reach and stops its interrupts and DMA; the device
    /// itself stays open.
    pub fn quiesce(&self) {
        let mut state = self.lock();
        self.silence(&mut state);
    }

    /// Silent and awake, as a device must be while it or its bus is reset (a reset in D3 may not
    /// reach it). Tells whether there is a device still.
    pub(super) fn prepare_reset(&self) -> bool {
        let mut state = self.lock();
        if state.fenced {
            return false;
        }
        self.silence(&mut state);
        if let Some(power) = self.power {
            self.device_write(power + PMCSR, &[0, 0]);
        }
        state.awake = true;
        // Waking up may have brought back what the kernel saved when it fell asleep
        // (drivers/vfio/pci/vfio_pci_core.c, `vfio_pci_set_power_state`).
        self.device_write(COMMAND, &[0, 0]);
        true
    }

    /// Interrupts off, decoding and bus mastering off, pieces out of the address space.
    pub(super) fn silence(&self, state: &mut State) {
        state.interrupts.quiesce();
        state.command = 0;
        self.follow_decode(state);
        self.device_write(COMMAND, &[0, 0]);
    }

    /// COMMAND: what it takes away goes before the device hears of it, what it gives comes after.
    fn write_command(&self, state: &mut State, offset: u16, data: &[u8]) {
        let new = byte_enable::merge(
            state.command.into(),
            COMMAND.into(),
            0xffff,
            offset.into(),
            data,
        );
        let new = new as u16;
        state.command &= new;
        self.follow_decode(state);
        self.device_write(offset, data);
        state.command = new;
        self.follow_decode(state);
    }

    /// PMCSR: only in D0 does a device decode.
    fn write_power(&self, state: &mut State, pmcsr: u16, offset: u16, data: &[u8]) {
        let low = data
            .get(usize::from(pmcsr.saturating_sub(offset)))
            .copied()
            .unwrap_or(0);
        if low & POWER_STATE != 0 {
            state.awake = false;
            self.follow_decode(state);
        }
        self.device_write(offset, data);
        let mut now = [0];
        self.device_read(pmcsr, &mut now);
        state.awake = now[0] & POWER_STATE == 0;
        self.follow_decode(state);
    }

    /// The device, unless the host has it back.
    pub(super) fn device(&self) -> Option<SharedDevice> {
        self.device
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn device_write(&self, offset: u16, data: &[u8]) {
        if let Some(device) = self.device()
            && let Err(e) = device.write(CONFIG_REGION, offset.into(), data)
        {
            self.complain(&e);
        }
    }

    /// Reads the device's registers; ones where it does not answer.
    fn device_read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(device) = self.device()
            && let Err(e) = device.read(CONFIG_REGION, offset.into(), data)
        {
            data.fill(0xff);
            self.complain(&e);
        }
    }

    /// Logs what a guest's access met with; the guest has its answer already.
    pub(super) fn complain(&self, error: &DeviceError) {
        if self.limit.allow() {
            warn!("{}", with_causes(error));
        }
    }

    /// Decoding as it is, in what was read of a COMMAND register that does not tell.
    fn correct_command(&self, state: &State, offset: u16, data: &mut [u8]) {
        let low = COMMAND.checked_sub(offset).map(usize::from);
        if let Some(low) = low.and_then(|at| data.get_mut(at)) {
            *low = (*low & !self.stuck) | (state.command as u8 & self.stuck);
        }
    }

    /// Bytes that are answered here.
    fn write_emulated(&self, state: &mut State, offset: u16, data: &[u8]) {
        state.config.write(offset, data);
        if state.bars.write(offset, data) {
            self.follow_decode(state);
        }
        state.interrupts.config_write(offset, data);
        self.follow_spares(state);
    }

    fn read_emulated(&self, state: &State, offset: u16, data: &mut [u8]) {
        state.config.read(offset, data);
        state.bars.read(offset, data);
        state.interrupts.config_read(offset, data);
    }
}

/// Whether a write lets the device start requests of its own (7.5.1.1.3).
fn masters(offset: u16, data: &[u8]) -> bool {
    byte_enable::merge(
        0,
        COMMAND.into(),
        command::BUS_MASTER.into(),
        offset.into(),
        data,
    ) != 0
}

impl PciFunction for VfioFunction {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        let state = self.lock();
        if state.fenced {
            return;
        }
        let mut rest = data;
        for (at, len, emulated) in state.config.runs(offset, rest.len()) {
            let Some((run, tail)) = rest.split_at_mut_checked(len) else {
                return;
            };
            if emulated {
                self.read_emulated(&state, at, run);
            } else {
                self.device_read(at, run);
                self.correct_command(&state, at, run);
            }
            rest = tail;
        }
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        // Before the lock: the host may want the device back meanwhile.
        if masters(offset, data) && !self.around.gate.pass() {
            return;
        }
        let mut state = self.lock();
        if state.fenced {
            return;
        }
        let runs: Vec<_> = state.config.runs(offset, data.len()).collect();
        let mut rest = data;
        for (at, len, emulated) in runs {
            let Some((run, tail)) = rest.split_at_checked(len) else {
                return;
            };
            let touches =
                |register: u16, size| byte_enable::touches(at.into(), len, register.into(), size);
            let pmcsr = self.power.map(|cap| cap + PMCSR);
            if emulated {
                self.write_emulated(&mut state, at, run);
            } else if touches(COMMAND, 2) {
                self.write_command(&mut state, at, run);
            } else if let Some(pmcsr) = pmcsr.filter(|p| touches(*p, 1)) {
                self.write_power(&mut state, pmcsr, at, run);
            } else {
                self.device_write(at, run);
            }
            rest = tail;
        }
    }

    /// Registers as firmware left them, interrupts by the pin again. The device itself has been reset
    /// before, with all others ([`super::reset`]).
    fn reset(&self) {
        let mut state = self.lock();
        if state.fenced {
            return;
        }
        self.silence(&mut state);
        state.config = state.pristine.clone();
        state.bars = state.placed.clone();
        state.interrupts.power_on();
        self.keep_spares(&mut state);
    }
}

impl Drop for VfioFunction {
    fn drop(&mut self) {
        self.quiesce();
    }
}
