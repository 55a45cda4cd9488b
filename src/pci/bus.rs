//! Bus 0 of segment 0: 32 devices of 8 functions, the host bridge at 00.0.
//!
//! An absent function reads as all ones and ignores writes: the processor sees an unsupported
//! request so (PCI Express 6.0, 2.3.1).

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::host_bridge::HostBridge;
use crate::regs::HEADER_TYPE;
use crate::regs::header_type::MULTI_FUNCTION;
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
}

type Function = Arc<dyn PciFunction>;
/// Called for each access; the flag says whether the access is a write.
type Watcher = Box<dyn Fn(Target, bool) + Send + Sync>;

/// The root bus, shared by all vCPUs. The lock is released before a function is called, so that a
/// function may change the bus, and a slow function does not delay another.
pub struct RootBus {
    /// The functions. The index is device times 8 plus function, as in the address.
    slots: RwLock<Vec<Option<Function>>>,
    watcher: OnceLock<Watcher>,
}

impl RootBus {
    /// A bus with only the host bridge.
    pub fn new() -> Self {
        let bridge: Function = Arc::new(HostBridge::new());
        let mut slots = vec![Some(bridge)];
        slots.resize(usize::from(DEVICES) * usize::from(FUNCTIONS), None);
        Self {
            slots: RwLock::new(slots),
            watcher: OnceLock::new(),
        }
    }

    /// Calls `watcher` for each access of the guest from now on. A bus has at most one watcher.
    pub fn watch(&self, watcher: impl Fn(Target, bool) + Send + Sync + 'static) {
        // The first watcher stays.
        let _ = self.watcher.set(Box::new(watcher));
    }

    fn tell(&self, target: Option<Target>, write: bool) {
        if let (Some(target), Some(watcher)) = (target, self.watcher.get()) {
            watcher(target, write);
        }
    }

    /// Puts a function at a free address.
    pub fn add(&self, device: u8, function: u8, f: Arc<dyn PciFunction>) -> Result<Bdf, PciError> {
        if device == 0 {
            return Err(PciError::Reserved);
        }
        let mut slots = self.write_slots();
        let slot = index(device, function)
            .and_then(|i| slots.get_mut(i))
            .ok_or(PciError::NoSuchSlot { device, function })?;
        if slot.is_some() {
            return Err(PciError::Taken { device, function });
        }
        *slot = Some(f);
        Ok(on_bus(device, function))
    }

    /// Puts a function, as function 0, at the first device number from 1 on without a function.
    pub fn add_next(&self, f: Arc<dyn PciFunction>) -> Result<Bdf, PciError> {
        let mut slots = self.write_slots();
        let device = (1..DEVICES)
            .find(|device| occupied(&slots, *device) == 0)
            .ok_or(PciError::Full)?;
        let slot = index(device, 0)
            .and_then(|i| slots.get_mut(i))
            .ok_or(PciError::Full)?;
        *slot = Some(f);
        Ok(on_bus(device, 0))
    }

    /// Removes a function from the bus. The host bridge cannot be removed.
    pub fn remove(&self, device: u8, function: u8) -> Option<Arc<dyn PciFunction>> {
        if device == 0 {
            return None;
        }
        self.write_slots()
            .get_mut(index(device, function)?)
            .and_then(Option::take)
    }

    /// The function at an address.
    pub fn get(&self, device: u8, function: u8) -> Option<Arc<dyn PciFunction>> {
        self.read_slots().get(index(device, function)?)?.clone()
    }

    /// Resets every function.
    pub fn reset(&self) {
        let functions: Vec<_> = self.read_slots().iter().flatten().cloned().collect();
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
            // not have.
            let index = HEADER_TYPE.checked_sub(at).map(usize::from);
            if let Some(byte) = index.and_then(|index| part.get_mut(index)) {
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
        self.tell(target, false);
        if let Some((t, data)) = target.and_then(|t| Some((t, data.get_mut(..t.len)?))) {
            self.config_read(t.bus, t.device, t.function, t.offset, data);
        }
    }

    /// A guest's write of the registers that [`crate::access`] has decoded. Bytes without a
    /// register are dropped.
    pub fn write(&self, target: Option<Target>, data: &[u8]) {
        self.tell(target, true);
        if let Some((t, data)) = target.and_then(|t| Some((t, data.get(..t.len)?))) {
            self.config_write(t.bus, t.device, t.function, t.offset, data);
        }
    }

    /// Returns the function, and whether its device has other functions.
    fn find(&self, bus: u8, device: u8, function: u8) -> Option<(Function, bool)> {
        if bus != 0 {
            return None;
        }
        let slots = self.read_slots();
        let f = slots.get(index(device, function)?)?.clone()?;
        Some((f, occupied(&slots, device) > 1))
    }

    fn read_slots(&self) -> RwLockReadGuard<'_, Vec<Option<Function>>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_slots(&self) -> RwLockWriteGuard<'_, Vec<Option<Function>>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for RootBus {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for RootBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let functions = self.read_slots().iter().flatten().count();
        f.debug_struct("RootBus")
            .field("functions", &functions)
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
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;
    use crate::access::decode_ecam;
    use crate::config_space::ConfigSpace;

    struct Plain(Mutex<ConfigSpace>);

    impl Plain {
        fn new(header_type: u8) -> Arc<Self> {
            let mut space = ConfigSpace::new(4096);
            space.set_writable(0, &[0xff; 4096]);
            space.set_u8(HEADER_TYPE, header_type);
            Arc::new(Self(Mutex::new(space)))
        }
    }

    impl PciFunction for Plain {
        fn config_read(&self, offset: u16, data: &mut [u8]) {
            assert!([1, 2, 4].contains(&data.len()));
            assert_eq!(usize::from(offset) % data.len(), 0);
            assert!(offset < 4096);
            self.0.lock().unwrap().read(offset, data);
        }
        fn config_write(&self, offset: u16, data: &[u8]) {
            assert!([1, 2, 4].contains(&data.len()));
            assert_eq!(usize::from(offset) % data.len(), 0);
            assert!(offset < 4096);
            self.0.lock().unwrap().write(offset, data);
        }
        fn reset(&self) {
            *self.0.lock().unwrap() = ConfigSpace::new(4096);
        }
    }

    fn byte(bus: &RootBus, device: u8, function: u8, offset: u16) -> u8 {
        let mut data = [0];
        bus.config_read(0, device, function, offset, &mut data);
        data[0]
    }

    #[test]
    fn slots() {
        let bus = RootBus::new();
        let taken = |device, function| Err(PciError::Taken { device, function });
        let none = |device, function| Err(PciError::NoSuchSlot { device, function });
        assert_eq!(bus.add(0, 1, Plain::new(0)), Err(PciError::Reserved));
        assert_eq!(bus.add(32, 0, Plain::new(0)), none(32, 0));
        assert_eq!(bus.add(1, 8, Plain::new(0)), none(1, 8));
        assert_eq!(bus.add(2, 1, Plain::new(0)), Ok(on_bus(2, 1)));
        assert_eq!(bus.add(2, 1, Plain::new(0)), taken(2, 1));
        let devices: Vec<_> = (0..30)
            .map(|_| bus.add_next(Plain::new(0)).unwrap().device)
            .collect();
        let expected: Vec<_> = (1..32).filter(|d| *d != 2).collect();
        assert_eq!(devices, expected);
        assert_eq!(bus.add_next(Plain::new(0)), Err(PciError::Full));
        assert!(bus.remove(7, 0).is_some());
        assert!(bus.remove(7, 0).is_none());
        assert!(bus.get(7, 0).is_none());
        assert_eq!(bus.add_next(Plain::new(0)).unwrap().device, 7);
        assert!(bus.remove(0, 0).is_none());
        assert!(bus.get(0, 0).is_some());
        assert!(bus.get(200, 200).is_none());
    }

    #[test]
    fn absent_is_all_ones() {
        let bus = RootBus::new();
        bus.add(1, 0, Plain::new(0)).unwrap();
        for (number, device, function) in [(0, 1, 1), (1, 1, 0), (0, 31, 7), (0, 255, 255)] {
            let mut data = [0; 4];
            bus.config_write(number, device, function, 0, &[0; 4]);
            bus.config_read(number, device, function, 0, &mut data);
            assert_eq!(data, [0xff; 4]);
        }
    }

    #[test]
    fn multi_function_bit_follows_the_slot() {
        let bus = RootBus::new();
        bus.add(1, 0, Plain::new(0x80)).unwrap();
        bus.add(2, 0, Plain::new(0x00)).unwrap();
        assert_eq!(byte(&bus, 1, 0, HEADER_TYPE), 0x00);
        bus.add(2, 3, Plain::new(0x00)).unwrap();
        assert_eq!(byte(&bus, 2, 0, HEADER_TYPE), 0x80);
        let mut dword = [0; 4];
        bus.config_read(0, 2, 0, 0x0c, &mut dword);
        assert_eq!(dword, [0, 0, 0x80, 0]);
        bus.remove(2, 3);
        assert_eq!(byte(&bus, 2, 0, HEADER_TYPE), 0x00);
        assert_eq!(byte(&bus, 2, 3, HEADER_TYPE), 0xff);
        // Its neighbours are not touched.
        bus.config_write(0, 1, 0, 0x0f, &[0x80]);
        assert_eq!(byte(&bus, 1, 0, 0x0f), 0x80);
        assert_eq!(byte(&bus, 0, 0, HEADER_TYPE), 0x00);
    }

    #[test]
    fn reset_reaches_every_function() {
        let bus = RootBus::new();
        bus.add(3, 0, Plain::new(0)).unwrap();
        bus.config_write(0, 3, 0, 0x40, &[1]);
        bus.reset();
        assert_eq!(byte(&bus, 3, 0, 0x40), 0);
    }

    #[test]
    fn parts_are_aligned() {
        let split = |offset, len| aligned_parts(offset, len).collect::<Vec<_>>();
        assert_eq!(split(4, 4), [(4, 0..4)]);
        assert_eq!(split(0, 8), [(0, 0..4), (4, 4..8)]);
        assert_eq!(split(1, 3), [(1, 0..1), (2, 1..3)]);
        assert_eq!(split(2, 4), [(2, 0..2), (4, 2..4)]);
        assert_eq!(split(4095, 4), [(4095, 0..1)]);
        assert_eq!(split(4096, 4), []);
        assert_eq!(split(0, 0), []);
    }

    proptest! {
        #[test]
        fn parts_cover_the_access(offset: u16, len in 0usize..40) {
            let expected = len.min(CONFIG_SPACE_SIZE.saturating_sub(offset.into()));
            let mut next = 0;
            for (at, range) in aligned_parts(offset, len) {
                prop_assert_eq!(range.start, next);
                prop_assert_eq!(usize::from(at), usize::from(offset) + range.start);
                prop_assert!([1, 2, 4].contains(&range.len()));
                prop_assert_eq!(usize::from(at) % range.len(), 0);
                next = range.end;
            }
            prop_assert_eq!(next, expected);
        }

        #[test]
        fn any_access_is_as_memory(
            accesses in prop::collection::vec(
                (0xff0u64..0x1008, prop::collection::vec(any::<u8>(), 0..9)),
                0..20,
            ),
        ) {
            let bus = RootBus::new();
            bus.add(1, 0, Plain::new(0)).unwrap();
            let base = 1 << 15;
            let mut model = [0u8; 4096];
            for (offset, data) in accesses {
                bus.write(decode_ecam(base + offset, data.len()), &data);
                for (i, byte) in data.iter().enumerate().filter(|_| offset < 4096) {
                    if let Some(to) = model.get_mut(offset as usize + i) {
                        *to = *byte;
                    }
                }
                let mut read = vec![0; data.len()];
                bus.read(decode_ecam(base + offset, read.len()), &mut read);
                for (i, byte) in read.iter().enumerate() {
                    prop_assert_eq!(*byte, *model.get(offset as usize + i).unwrap_or(&0xff));
                }
            }
        }
    }
}
