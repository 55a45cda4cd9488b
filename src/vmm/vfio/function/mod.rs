//! One passed-through function: a guest's accesses, and their effects on the device and the VM.
//!
//! `pci` decodes an access. The [policy] decides whether the device or the VMM answers. This file
//! carries out the effects, in an order that keeps the guest from touching a BAR that does not
//! decode: a BAR leaves the guest's address map before the device stops decoding, and enters the
//! map after the device has started to decode.
//!
//! | file | what |
//! | --- | --- |
//! | [`policy`] | the treatment of each register, and the reason |
//! | [`snapshot`] | the device's configuration space when the device is opened |
//! | `connection` | the device, until the device is given back to the host |
//! | `command`, `power` | two registers that the device answers and the VMM follows |
//! | `slow_writes` | registers that reset the function or change its power state |
//! | `away` | a function while it is reset: only one vCPU waits |
//! | `behind_port` | what changes for a function when the root port above it does |
//! | `decode` | BARs: registers, enables, and where they are in the guest's address map |
//! | `options` | what the user chose for the function |
//! | [`mmap_areas`] | the areas of a BAR that the guest touches directly |
//! | `unmapped` | BARs without such areas |
//! | `bar_owner` | the device as the owner of its BARs, for the DMA of other devices |
//! | `trap`, `bar_side` | BARs on the bus, and the function behind them |
//! | `leaving` | what happens when the host takes the device back, or it fails |
//! | `report` | what the function looks like now |
//! | `link` | the link as the device tells now, for the root port above |
//! | [`mirrors`], `mirror_kinds` | registers in a BAR that lead to what the VMM emulates |
//! | [`rom`] | the expansion ROM |
//! | `unused_vectors` | MSI-X table entries whose writes KVM coalesces |
//! | `vm_resources` | the parts of the VM that a function uses |
//! | [`reset`] | all functions before the first boot and at a reboot |
//! | [`expected`] | what a guest will lack of a device, before there is a function |
//!
//! Which files a guest's write visits is in docs/walks.md.

mod away;
mod bar_owner;
mod bar_side;
mod behind_port;
mod command;
mod connection;
mod decode;
mod error;
pub mod expected;
mod leaving;
mod link;
mod mirror_kinds;
pub mod mirrors;
pub mod mmap_areas;
mod options;
pub mod policy;
mod power;
mod report;
pub mod reset;
pub mod rom;
mod slow_writes;
pub mod snapshot;
#[cfg(test)]
pub(crate) mod test_device;
mod trap;
mod unmapped;
mod unused_vectors;
mod vm_resources;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use command::Command;
use connection::Connection;
use decode::{AddressMap, BarDecode};
pub use error::FunctionError;
use mirrors::Mirrors;
use mmap_areas::Area;
pub use options::FunctionOptions;
use pci::PciFunction;
use pci::bar::{BAR_COUNT, Bars};
use pci::capability::{self, id};
use pci::config_space::{ConfigSpace, DeviceWrite, Part};
use pci::msix::FIRST_UNUSED_VECTOR;
use pci::msix_layout::MsixLayout;
use pci::regs::{self, COMMAND, command as command_bits};
use power::Power;
use rom::Rom;
use slow_writes::{BarAccesses, FunctionReset};
use trap::{BarAccess, BarTrap};
use unused_vectors::UnusedVectors;
pub use vm_resources::VmResources;

use crate::event_thread::EventThread;
use crate::memory::Region;
use crate::memory::dma_ready::DmaReady;
use crate::vfio::device::SharedDevice;
use crate::vfio::interrupts::Interrupts;

/// A passed-through function.
pub struct VfioFunction {
    /// Where the MSI-X table and the pending bits are.
    msix: Option<MsixLayout>,
    mirrors: Mirrors,
    rom: Arc<Rom>,
    power: Power,
    function_reset: FunctionReset,
    bar_accesses: BarAccesses,
    command: Command,
    dma_ready: Arc<DmaReady>,
    state: Mutex<State>,
    /// A slow write has ended.
    slow_write_ended: Condvar,
    /// The host has asked for the device.
    wanted: AtomicBool,
    /// After `state`, since a mapped page keeps the device's file open: the device closes last.
    connection: Connection,
}

/// What a guest's accesses change. Its lock is never taken with the bus's lock held.
struct State {
    /// Cleared when the device fails or goes away: from then on the guest reads all ones.
    connected: bool,
    /// Set while a vCPU makes a slow write without the lock: the guest reads all ones.
    away: bool,
    /// Whether requests were let through when the device last got COMMAND.
    requests_through: bool,
    /// The emulated registers, and the guest's last value of COMMAND.
    config: ConfigSpace,
    /// `config` at power-on.
    reset_config: ConfigSpace,
    decode: BarDecode,
    interrupts: Interrupts,
    unused_vectors: UnusedVectors,
}

impl State {
    /// Whether the guest reaches the device.
    fn reachable(&self) -> bool {
        self.connected && !self.away
    }

    /// COMMAND as the guest wrote it last.
    fn command(&self) -> u16 {
        let mut bytes = [0; 2];
        self.config.read(COMMAND, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// A guest's read of emulated registers.
    fn read_emulated(&self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
        self.decode.read(offset, data);
        self.interrupts.config_read(offset, data);
    }

    /// A guest's write of emulated registers with side effects.
    fn write_emulated(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
        self.decode.write(offset, data);
        self.interrupts.config_write(offset, data);
        self.stop_coalescing_if_used();
    }

    fn coalesce_unused_vectors(&mut self) {
        self.unused_vectors.coalesce(self.decode.bars());
    }

    fn stop_coalescing_if_used(&mut self) {
        let interrupts = &self.interrupts;
        let used = || interrupts.uses_vectors_from(FIRST_UNUSED_VECTOR);
        self.unused_vectors.stop_coalescing_if(used);
    }
}

impl VfioFunction {
    /// Reads the device's configuration space and maps its BARs into this process. The guest's
    /// address map stays as it is, and the ROM is not read yet.
    ///
    /// # Errors
    /// The device does not answer, or its BARs cannot be used.
    pub fn new(
        device: SharedDevice,
        vm: VmResources,
        options: FunctionOptions,
    ) -> Result<Arc<Self>, FunctionError> {
        let mut snapshot = snapshot::read(&*device)?;
        if snapshot::is_dead(&snapshot) {
            return Err(FunctionError::Dead(device.name().into()));
        }
        if let Some(clique) = options.clique {
            snapshot::add_clique(&*device, &mut snapshot, clique)?;
        }
        let mut config = snapshot::for_guest(&*device, &snapshot, options.port());
        let function_reset = FunctionReset::find(&snapshot);
        function_reset.mark(&mut config);
        rom::tell_if_empty(&*device, &snapshot, &options.rom);
        let rom = Arc::new(Rom::new(&*device, options.rom));
        let bars =
            decode::read_bars(&snapshot, &*device, &rom).map_err(|source| FunctionError::Bars {
                device: device.name().into(),
                source,
            })?;
        let delivery = vm.delivery(options.mechanisms.irqfd);
        let interrupts = Interrupts::new(&snapshot, Arc::clone(&device), delivery);
        let msix = interrupts.msix().map(MsixLayout::of);
        let mirrors = Mirrors::find(&*device, &snapshot);
        let mut areas: [Vec<Region>; BAR_COUNT] = Default::default();
        for (bar, areas) in areas.iter_mut().enumerate() {
            let mut trapped = mirrors.ranges(bar);
            trapped.extend(msix.iter().flat_map(|msix| msix.ranges(bar)));
            let mapped = mmap_areas::map(&device, bar, &bars, &trapped)?;
            if options.mechanisms.mmap {
                *areas = mapped;
            }
        }
        let upstream = options.position.upstream().cloned();
        let command = Command::clear(&*device)?.behind(upstream.clone());
        let unused_vectors = UnusedVectors::new(msix, vm.layout, Arc::clone(&vm.zones));
        let map = AddressMap {
            bus: vm.bus,
            space: vm.space,
            zones: vm.zones,
            layout: vm.layout,
            upstream,
        };
        Ok(Arc::new_cyclic(|this: &Weak<Self>| {
            let traps = BarTrap::all(&(this.clone() as Weak<dyn BarAccess>));
            let decode = BarDecode::new(device.name(), bars, areas, traps, Arc::clone(&rom), map);
            Self {
                slow_write_ended: Condvar::new(),
                wanted: AtomicBool::new(false),
                connection: Connection::new(device),
                msix,
                mirrors,
                rom,
                power: Power::find(&snapshot),
                function_reset,
                bar_accesses: BarAccesses::default(),
                command,
                dma_ready: vm.dma_ready,
                state: Mutex::new(State {
                    connected: true,
                    away: false,
                    requests_through: false,
                    reset_config: config.clone(),
                    config,
                    decode,
                    interrupts,
                    unused_vectors,
                }),
            }
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host's name of the device.
    pub fn name(&self) -> &str {
        self.connection.name()
    }

    /// The device; `None` once the device has been given back to the host.
    pub(super) fn device(&self) -> Option<SharedDevice> {
        self.connection.device()
    }

    /// Whether the device has the capability of PCI Express.
    pub fn is_express(&self) -> bool {
        capability::find(self.lock().reset_config.bytes(), id::PCIE).is_some()
    }

    /// The BARs and the ROM as the guest sees them now.
    pub fn bars(&self) -> Bars {
        self.lock().decode.bars().clone()
    }

    /// The areas of a BAR that the guest touches directly.
    pub fn mmap_areas(&self, bar: usize) -> Vec<Area> {
        let state = self.lock();
        let areas = state.decode.areas(bar).iter();
        areas.map(|area| (area.start, area.size)).collect()
    }

    /// Sets the addresses that the BARs have after power-on and after every reset.
    pub fn set_reset_bars(&self, bars: Bars) {
        let mut state = self.lock();
        state.decode.set_reset_bars(bars);
        state.coalesce_unused_vectors();
    }

    /// Sets the addresses that the BARs have after every reset, and not before.
    pub fn set_bars_after_reset(&self, bars: Bars) {
        self.lock().decode.set_bars_after_reset(bars);
    }

    /// Connects the device's interrupt pin, if there is one, to a GSI. The guest reads the pin as
    /// `pin` (0 is INTA), whichever pin the device uses on the host.
    pub fn connect_pin(&self, pin: u8, gsi: u32, service: Weak<EventThread>) {
        let mut state = self.lock();
        let device = self.device();
        if device.is_some_and(|d| state.interrupts.connect_pin(d, gsi, service)) {
            // 1 is INTA (PCI Local Bus 3.0, 6.2.4).
            state.reset_config.set_u8(regs::INTERRUPT_PIN, pin + 1);
            state.config.set_u8(regs::INTERRUPT_PIN, pin + 1);
        }
    }

    /// Unmaps the function's BARs from the guest and stops its interrupts and DMA. The device stays
    /// open.
    pub fn quiesce(&self) {
        self.quiesce_locked(&mut self.lock());
    }

    /// Turns interrupts, decoding and bus mastering off, and removes the BARs from the address map.
    fn quiesce_locked(&self, state: &mut State) {
        state.interrupts.quiesce();
        state.config.set_u16(COMMAND, 0);
        state.decode.set_command(0);
        self.connection.write_config(COMMAND, &self.command.quiet());
    }

    /// Writes registers that the device answers. The host's bits stay as they are. Returns the
    /// lock, which a slow write releases meanwhile.
    fn write_passed<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        part: &Part,
        data: &[u8],
    ) -> MutexGuard<'a, State> {
        let mut merged = data.to_vec();
        if part.write == DeviceWrite::Masked
            && self.connection.read_config(part.offset, &mut merged)
        {
            // A device that is off its bus for a moment reads as ones. The host's bits are unknown.
            if merged.iter().all(|byte| *byte == 0xff)
                && state.config.keeps_host_bits(part.offset, part.len)
            {
                return state;
            }
            merged = state.config.for_device(part.offset, data, &merged);
        } else if part.write != DeviceWrite::Whole {
            return state;
        }
        match part.side_effects {
            true if part.touches(COMMAND, 2) => {
                self.write_command(&mut state, part.offset, &merged);
            }
            true if self.is_slow(&state, part.offset, &merged) => {
                return self.write_slowly(state, part.offset, &merged);
            }
            _ => self.connection.write_config(part.offset, &merged),
        }
        state
    }

    /// Writes COMMAND. BARs whose decoding the write turns off are unmapped before the device gets
    /// the write. BARs whose decoding it turns on are mapped afterwards.
    fn write_command(&self, state: &mut State, offset: u16, data: &[u8]) {
        let old = state.command();
        state.config.write(offset, data);
        let new = state.command();
        state.decode.set_command(old & new);
        state.requests_through = self.command.lets_requests_through();
        let for_device = Command::for_device(offset, data, state.requests_through);
        self.connection.write_config(offset, &for_device);
        // A device may answer again only after the slow write that it did not answer.
        if !state.decode.is_in_d0() {
            state
                .decode
                .set_in_d0(self.power.is_in_d0(&self.connection));
        }
        state.decode.set_command(new);
    }

    /// Whether a write resets the device or changes its power state.
    fn is_slow(&self, state: &State, offset: u16, data: &[u8]) -> bool {
        let in_d0 = state.decode.is_in_d0();
        self.function_reset.starts(offset, data) || self.power.changes(in_d0, offset, data)
    }
}

impl PciFunction for VfioFunction {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        let state = self.lock();
        if !state.reachable() {
            return;
        }
        let mut rest = data;
        for part in state.config.split(offset, rest.len()) {
            let Some((bytes, tail)) = rest.split_at_mut_checked(part.len) else {
                return;
            };
            if part.emulated {
                state.read_emulated(part.offset, bytes);
            } else {
                self.connection.read_config(part.offset, bytes);
                state.config.conceal(part.offset, bytes);
                self.command.correct(state.command(), part.offset, bytes);
            }
            rest = tail;
        }
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        // The vCPU waits before it takes the lock, because the host may ask for the device
        // meanwhile.
        if sets_bus_master(offset, data) && !self.dma_ready.wait_ready() {
            return;
        }
        let mut state = self.lock();
        if !state.reachable() {
            return;
        }
        let parts: Vec<Part> = state.config.split_write(offset, data.len()).collect();
        let mut rest = data;
        for part in parts {
            if !state.reachable() {
                return;
            }
            let Some((bytes, tail)) = rest.split_at_checked(part.len) else {
                return;
            };
            match (part.emulated, part.side_effects) {
                (true, false) => state.config.write(part.offset, bytes),
                (true, true) => state.write_emulated(part.offset, bytes),
                (false, _) => state = self.write_passed(state, &part, bytes),
            }
            rest = tail;
        }
    }

    /// Sets the registers back to their state at power-on, and interrupts to INTx. The device
    /// itself has been reset before, together with all others ([`reset`]).
    fn reset(&self) {
        let mut state = self.lock();
        if !state.connected {
            return;
        }
        self.quiesce_locked(&mut state);
        state.config = state.reset_config.clone();
        state.decode.reset();
        state.interrupts.power_on();
        state.coalesce_unused_vectors();
    }
}

impl Drop for VfioFunction {
    fn drop(&mut self) {
        self.quiesce();
    }
}

/// Whether a write sets Bus Master Enable, and so lets the device start requests of its own
/// (PCI Express 6.0, 7.5.1.1.3).
fn sets_bus_master(offset: u16, data: &[u8]) -> bool {
    let at = COMMAND.checked_sub(offset).map(usize::from);
    let low = at.and_then(|at| data.get(at));
    low.is_some_and(|low| u16::from(*low) & command_bits::BUS_MASTER != 0)
}

#[cfg(test)]
mod tests;
