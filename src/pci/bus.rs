//! The tree of buses of segment 0. Bus 0 has 32 devices of 8 functions, the host bridge at 00.0.
//! Each root port on bus 0 has one bus behind it, with one device of up to 8 functions.
//!
//! The guest numbers the buses behind the ports. An access to another bus than 0 goes through the
//! port that has the bus among its own (PCI Express 6.0, 7.3.3): on the secondary bus only device 0
//! answers, because a link has one device, and behind that there is no further bridge.
//!
//! An absent function reads as all ones and ignores writes: the processor sees an unsupported
//! request so (PCI Express 6.0, 2.3.1). So does a function whose link is down.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::host_bridge::HostBridge;
use crate::regs::HEADER_TYPE;
use crate::regs::header_type::MULTI_FUNCTION;
use crate::upstream::Upstream;
use crate::{Bdf, CONFIG_SPACE_SIZE, PciFunction};

const DEVICES: u8 = 32;
const FUNCTIONS: u8 = 8;

/// The function and register of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
    /// Register, in bytes, below 4096.
    pub offset: u16,
    /// How many bytes of the access, from its first, belong to the function.
    pub len: usize,
}

/// The reason why a function cannot be put on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PciError {
    /// Device 0 is the host bridge.
    #[error("PCI device number 0 belongs to the host bridge")]
    Reserved,
    /// Device above 31 or function above 7.
    #[error("there is no PCI device {device:#x} function {function:#x} on a bus")]
    NoSuchSlot {
        /// Device number asked for.
        device: u8,
        /// Function number asked for.
        function: u8,
    },
    /// The address has a function already.
    #[error("PCI address {device:02x}.{function:x} is already taken")]
    Taken {
        /// Device number asked for.
        device: u8,
        /// Function number asked for.
        function: u8,
    },
    /// All device numbers have a function.
    #[error("all 31 PCI device numbers are taken")]
    Full,
    /// There is no root port at the address.
    #[error("there is no root port at {0}")]
    NoPort(Bdf),
    /// The bus behind the port has such a function already.
    #[error("function {function:x} behind the root port at {port} is already taken")]
    TakenBehind {
        /// The port.
        port: Bdf,
        /// Function number asked for.
        function: u8,
    },
}

type Function = Arc<dyn PciFunction>;
/// Called for each access; the flag says whether the access is a write.
type Watcher = Box<dyn Fn(Target, bool) + Send + Sync>;
/// Called before each access; returns whether the access is made.
type Admission = Box<dyn Fn(Target) -> bool + Send + Sync>;

/// The root bus, shared by all vCPUs. The lock is released before a function is called, so that a
/// function may change the bus, and a slow function does not delay another.
pub struct RootBus {
    tree: RwLock<Tree>,
    watcher: OnceLock<Watcher>,
    admission: OnceLock<Admission>,
}

struct Tree {
    /// The functions of bus 0. The index is device times 8 plus function, as in the address.
    slots: Vec<Option<Function>>,
    links: Vec<Link>,
}

/// The link below a root port.
struct Link {
    /// The port's index on bus 0.
    port: usize,
    upstream: Arc<Upstream>,
    /// The functions of the one device behind the port.
    behind: Vec<Option<Function>>,
}

impl RootBus {
    /// A bus with only the host bridge.
    pub fn new() -> Self {
        let bridge: Function = Arc::new(HostBridge::new());
        let mut slots = vec![Some(bridge)];
        slots.resize(usize::from(DEVICES) * usize::from(FUNCTIONS), None);
        let links = Vec::new();
        Self {
            tree: RwLock::new(Tree { slots, links }),
            watcher: OnceLock::new(),
            admission: OnceLock::new(),
        }
    }

    /// Calls `watcher` for each access of the guest from now on. A bus has at most one watcher.
    pub fn watch(&self, watcher: impl Fn(Target, bool) + Send + Sync + 'static) {
        // The first watcher stays.
        let _ = self.watcher.set(Box::new(watcher));
    }

    /// Calls `admits` before each access of the guest from now on. It may block, for a function
    /// that is not on the bus yet. Where it returns `false`, no function is accessed. The first one
    /// stays.
    pub fn set_admission(&self, admits: impl Fn(Target) -> bool + Send + Sync + 'static) {
        // The first one stays.
        let _ = self.admission.set(Box::new(admits));
    }

    /// Tells the watcher, and asks for admission. Returns the registers to access.
    fn admit(&self, target: Option<Target>, write: bool) -> Option<Target> {
        let target = target?;
        if let Some(watcher) = self.watcher.get() {
            watcher(target, write);
        }
        let admitted = self.admission.get().is_none_or(|admits| admits(target));
        admitted.then_some(target)
    }

    /// Puts a function at a free address on bus 0.
    pub fn add(&self, device: u8, function: u8, f: Arc<dyn PciFunction>) -> Result<Bdf, PciError> {
        let mut tree = self.write_tree();
        *tree.free_slot(device, function)? = Some(f);
        Ok(on_bus(device, function))
    }

    /// Puts a function, as function 0, at the first device number from 1 on without a function.
    pub fn add_next(&self, f: Arc<dyn PciFunction>) -> Result<Bdf, PciError> {
        let mut tree = self.write_tree();
        let device = (1..DEVICES)
            .find(|device| occupied(&tree.slots, *device) == 0)
            .ok_or(PciError::Full)?;
        *tree.free_slot(device, 0)? = Some(f);
        Ok(on_bus(device, 0))
    }

    /// Puts a root port at a free address on bus 0. `upstream` is what the port lets through.
    pub fn add_port(
        &self,
        device: u8,
        function: u8,
        port: Arc<dyn PciFunction>,
        upstream: Arc<Upstream>,
    ) -> Result<Bdf, PciError> {
        let mut tree = self.write_tree();
        *tree.free_slot(device, function)? = Some(port);
        tree.links.push(Link {
            port: index(device, function).unwrap_or_default(),
            upstream,
            behind: vec![None; FUNCTIONS.into()],
        });
        Ok(on_bus(device, function))
    }

    /// Puts a function behind a root port, as function `function` of the one device there.
    pub fn add_behind(
        &self,
        port: Bdf,
        function: u8,
        f: Arc<dyn PciFunction>,
    ) -> Result<(), PciError> {
        let mut tree = self.write_tree();
        let link = tree.link(port).ok_or(PciError::NoPort(port))?;
        let slot = link.behind.get_mut(usize::from(function));
        let slot = slot.ok_or(PciError::NoSuchSlot {
            device: 0,
            function,
        })?;
        if slot.is_some() {
            return Err(PciError::TakenBehind { port, function });
        }
        *slot = Some(f);
        Ok(())
    }

    /// Removes a function from bus 0; with a root port goes all that is behind the port. The host
    /// bridge cannot be removed.
    pub fn remove(&self, device: u8, function: u8) -> Option<Arc<dyn PciFunction>> {
        if device == 0 {
            return None;
        }
        let at = index(device, function)?;
        let mut tree = self.write_tree();
        tree.links.retain(|link| link.port != at);
        tree.slots.get_mut(at).and_then(Option::take)
    }

    /// Removes a function from behind a root port.
    pub fn remove_behind(&self, port: Bdf, function: u8) -> Option<Arc<dyn PciFunction>> {
        let mut tree = self.write_tree();
        let link = tree.link(port)?;
        link.behind.get_mut(usize::from(function))?.take()
    }

    /// The function at an address on bus 0.
    pub fn get(&self, device: u8, function: u8) -> Option<Arc<dyn PciFunction>> {
        self.read_tree()
            .slots
            .get(index(device, function)?)?
            .clone()
    }

    /// Resets every function: those on bus 0 first, root ports among them.
    pub fn reset(&self) {
        let functions: Vec<_> = {
            let tree = self.read_tree();
            let behind = tree.links.iter().flat_map(|link| &link.behind);
            tree.slots.iter().chain(behind).flatten().cloned().collect()
        };
        for function in functions {
            function.reset();
        }
    }

    /// Reads `data` from `offset` on, in parts that a function accepts. Bytes without a function or
    /// register read as all ones.
    pub fn config_read(&self, bus: u8, device: u8, function: u8, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        let Some((f, multi_function)) = self.find(bus, device, function) else {
            return;
        };
        for (at, range) in aligned_parts(offset, data.len()) {
            let Some(part) = data.get_mut(range) else {
                continue;
            };
            f.config_read(at, part);
            // The bus sets the multi-function bit, because only the bus knows whether the slot has
            // more functions. The host's value would make the guest look for functions that it does
            // not have. All ones are no header type: the function does not answer.
            let index = HEADER_TYPE.checked_sub(at).map(usize::from);
            let byte = index.and_then(|index| part.get_mut(index));
            if let Some(byte) = byte.filter(|byte| **byte != 0xff) {
                *byte &= !MULTI_FUNCTION;
                if multi_function {
                    *byte |= MULTI_FUNCTION;
                }
            }
        }
    }

    /// Writes `data` from `offset` on, in such parts. Bytes without a function or register are
    /// dropped.
    pub fn config_write(&self, bus: u8, device: u8, function: u8, offset: u16, data: &[u8]) {
        let Some((f, _)) = self.find(bus, device, function) else {
            return;
        };
        for (at, range) in aligned_parts(offset, data.len()) {
            if let Some(part) = data.get(range) {
                f.config_write(at, part);
            }
        }
    }

    /// A guest's read of the registers that [`crate::access`] has decoded. Bytes without a register
    /// read as all ones.
    pub fn read(&self, target: Option<Target>, data: &mut [u8]) {
        data.fill(0xff);
        let target = self.admit(target, false);
        if let Some((t, data)) = target.and_then(|t| Some((t, data.get_mut(..t.len)?))) {
            self.config_read(t.bus, t.device, t.function, t.offset, data);
        }
    }

    /// A guest's write of the registers that [`crate::access`] has decoded. Bytes without a
    /// register are dropped.
    pub fn write(&self, target: Option<Target>, data: &[u8]) {
        let target = self.admit(target, true);
        if let Some((t, data)) = target.and_then(|t| Some((t, data.get(..t.len)?))) {
            self.config_write(t.bus, t.device, t.function, t.offset, data);
        }
    }

    /// Returns the function, and whether its device has other functions.
    fn find(&self, bus: u8, device: u8, function: u8) -> Option<(Function, bool)> {
        let tree = self.read_tree();
        if bus == 0 {
            let f = tree.slots.get(index(device, function)?)?.clone()?;
            return Some((f, occupied(&tree.slots, device) > 1));
        }
        let mut links = tree
            .links
            .iter()
            .map(|link| (&link.behind, link.upstream.now()));
        let (behind, now) = links.find(|(_, now)| now.has_bus(bus))?;
        if !now.link_up || bus != now.secondary || device != 0 {
            return None;
        }
        let f = behind.get(usize::from(function))?.clone()?;
        Some((f, occupied(behind, 0) > 1))
    }

    fn read_tree(&self) -> RwLockReadGuard<'_, Tree> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_tree(&self) -> RwLockWriteGuard<'_, Tree> {
        self.tree.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tree {
    /// The slot of bus 0 at an address, which has no function yet.
    fn free_slot(&mut self, device: u8, function: u8) -> Result<&mut Option<Function>, PciError> {
        if device == 0 {
            return Err(PciError::Reserved);
        }
        let slot = index(device, function)
            .and_then(|i| self.slots.get_mut(i))
            .ok_or(PciError::NoSuchSlot { device, function })?;
        match slot {
            Some(_) => Err(PciError::Taken { device, function }),
            None => Ok(slot),
        }
    }

    /// The link below a port.
    fn link(&mut self, port: Bdf) -> Option<&mut Link> {
        let at = index(port.device, port.function).filter(|_| port.bus == 0)?;
        self.links.iter_mut().find(|link| link.port == at)
    }
}

impl Default for RootBus {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for RootBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tree = self.read_tree();
        f.debug_struct("RootBus")
            .field("functions", &tree.slots.iter().flatten().count())
            .field("ports", &tree.links.len())
            .finish()
    }
}

/// The address of a function on this bus.
fn on_bus(device: u8, function: u8) -> Bdf {
    Bdf {
        segment: 0,
        bus: 0,
        device,
        function,
    }
}

fn index(device: u8, function: u8) -> Option<usize> {
    (device < DEVICES && function < FUNCTIONS)
        .then(|| usize::from(device) * usize::from(FUNCTIONS) + usize::from(function))
}

/// The number of functions that a device has.
fn occupied(slots: &[Option<Function>], device: u8) -> usize {
    let functions = index(device, 0)
        .and_then(|i| slots.get(i..))
        .unwrap_or_default();
    let functions = functions.iter().take(FUNCTIONS.into());
    functions.filter(|slot| slot.is_some()).count()
}

/// Splits an access into naturally aligned parts of 1, 2 and 4 bytes, as a bridge would. Returns
/// the register of each part, and its range in the access. Ends at the end of the configuration
/// space.
fn aligned_parts(offset: u16, len: usize) -> impl Iterator<Item = (u16, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = usize::from(offset).checked_add(done)?;
        if done >= len || at >= CONFIG_SPACE_SIZE {
            return None;
        }
        let size = [4, 2, 1]
            .into_iter()
            .find(|size| at % size == 0 && size + done <= len)?;
        let part = done..done + size;
        done += size;
        Some((u16::try_from(at).ok()?, part))
    })
}

#[cfg(test)]
mod tests;
