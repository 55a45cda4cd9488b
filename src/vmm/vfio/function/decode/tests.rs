//! BARs without a guest and KVM: a bus, and an address space whose listener may refuse.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use pci::regs::{self, ROM as ROM_REGISTER};
use pci::rom::ENABLE;

use super::*;
use crate::memory::MemoryListener;
use crate::memory::error::StillUsed;
use crate::vfio::device::{ROM_REGION, SharedDevice};
use crate::vfio::function::mmap_areas;
use crate::vfio::function::rom::RomSource;
use crate::vfio::function::test_device::TestDevice;
use crate::vfio::function::trap::BarAccess;

const BAR0: u64 = 0xc000_0000;
const BAR1: u64 = 0xc001_0000;
const ROM_BASE: u64 = 0xc002_0000;
const PORTS: u64 = 0x1000;
/// The areas of BAR 0.
const AREAS: [(u64, u64); 2] = [(0x1000, 0x1000), (0x3000, 0x1000)];

/// Answers a read with the BAR's number.
struct Function;

impl BarAccess for Function {
    fn bar_read(&self, bar: usize, _: u64, data: &mut [u8]) {
        data.fill(bar as u8);
    }

    fn bar_write(&self, _: usize, _: u64, _: &[u8]) {}
}

/// Refuses one region, and remembers the others.
#[derive(Default)]
struct Listener {
    refused: Mutex<Option<u64>>,
    regions: Mutex<Vec<u64>>,
    refusals: AtomicU32,
}

impl MemoryListener for Listener {
    fn add(&self, region: &Region) -> Result<(), MemoryError> {
        if *self.refused.lock().unwrap() == Some(region.start) {
            self.refusals.fetch_add(1, Ordering::Relaxed);
            return Err(MemoryError::NoSlot(0));
        }
        self.regions.lock().unwrap().push(region.start);
        Ok(())
    }

    fn remove(&self, region: &Region) -> Result<(), StillUsed> {
        let mut regions = self.regions.lock().unwrap();
        regions.retain(|at| *at != region.start);
        Ok(())
    }
}

struct Fixture {
    decode: BarDecode,
    map: AddressMap,
    memory: Arc<Listener>,
    device: Arc<TestDevice>,
    rom: Arc<Rom>,
    _function: Arc<dyn BarAccess>,
}

impl Fixture {
    /// BAR 0 with two areas, BAR 1 without any, ports in BAR 2, and a ROM.
    fn new() -> Self {
        let device = TestDevice::new()
            .with_region(0, 0x4000, &AREAS)
            .with_region(ROM_REGION, 0x800, &[]);
        let device = Arc::new(device);
        let shared: SharedDevice = device.clone();
        let rom = Arc::new(Rom::new(&*device, RomSource::Device));
        let bars = Bars::decode([0, 0, 1, 0, 0, 0], [0x4000, 0x1000, 0x20, 0, 0, 0]).unwrap();
        let mut bars = rom.add_register(bars).unwrap();
        let map = AddressMap {
            bus: Arc::default(),
            space: Arc::default(),
            zones: Arc::default(),
            layout: Layout::new(64 << 20, 0, 40).unwrap(),
            upstream: None,
        };
        let memory = Arc::new(Listener::default());
        map.space.subscribe(memory.clone()).unwrap();
        let function: Arc<dyn BarAccess> = Arc::new(Function);
        let weak: Weak<dyn BarAccess> = Arc::downgrade(&function);
        let areas = std::array::from_fn(|bar| mmap_areas::map(&shared, bar, &bars, &[]).unwrap());
        let (traps, shared_rom) = (BarTrap::all(&weak), Arc::clone(&rom));
        let mut decode =
            BarDecode::new("test", bars.clone(), areas, traps, shared_rom, map.clone());
        for (bar, address) in [(0, BAR0), (1, BAR1), (2, PORTS), (ROM, ROM_BASE)] {
            bars.set_address(bar, address);
        }
        decode.set_reset_bars(bars);
        Self {
            decode,
            map,
            memory,
            device,
            rom,
            _function: function,
        }
    }

    fn regions(&self) -> Vec<u64> {
        self.memory.regions.lock().unwrap().clone()
    }

    fn set_bar(&mut self, bar: u16, address: u64) {
        let register = regs::BAR + 4 * bar;
        self.decode.write(register, &(address as u32).to_le_bytes());
    }

    /// The number of the BAR that answers at an address.
    fn answers(&self, address: u64) -> Option<u8> {
        let mut data = [0];
        self.map.bus.mmio_read(address, &mut data);
        (data[0] != 0xff).then_some(data[0])
    }

    fn port_answers(&self, port: u64) -> bool {
        let mut data = [0];
        self.map.bus.pio_read(port as u16, &mut data);
        data[0] == 2
    }

    fn address(&self, bar: usize) -> u64 {
        self.decode.bars().address(bar).unwrap()
    }
}

#[test]
fn enables_map_and_unmap() {
    let mut f = Fixture::new();
    assert!(f.regions().is_empty() && !f.decode.any_area_is_mapped());
    f.decode.set_command(command::MEMORY);
    assert_eq!(f.regions(), [BAR0 + 0x1000, BAR0 + 0x3000]);
    assert_eq!((f.answers(BAR0), f.answers(BAR1)), (Some(0), Some(1)));
    assert!(!f.port_answers(PORTS));
    f.decode.set_command(command::MEMORY | command::IO);
    assert!(f.port_answers(PORTS));
    f.decode.set_in_d0(false);
    assert!(f.regions().is_empty() && !f.port_answers(PORTS));
    assert_eq!(f.answers(BAR0), None);
    f.decode.set_in_d0(true);
    assert_eq!((f.regions().len(), f.answers(BAR1)), (2, Some(1)));
    f.decode.set_command(0);
    assert!(f.regions().is_empty() && f.answers(BAR1).is_none());
}

#[test]
fn an_area_is_where_the_bar_is() {
    let mut f = Fixture::new();
    assert!(!f.decode.area_is_at(BAR0 + 0x1000) && !f.decode.maps(0, 0x1000));
    f.decode.set_command(command::MEMORY);
    let maps = |offset| f.decode.maps(0, offset);
    assert!(maps(0x1000) && maps(0x3fff) && !maps(0xfff) && !maps(0x2000) && !maps(0x4000));
    assert!(f.decode.area_is_at(BAR0 + 0x1000) && f.decode.any_area_is_mapped());
    assert!(!f.decode.area_is_at(BAR0 + 0x2000) && !f.decode.area_is_at(0x1000));
    assert!(!f.decode.maps(1, 0) && !f.decode.maps(9, 0));
    f.set_bar(0, 0xd000_0000);
    assert!(f.decode.area_is_at(0xd000_3000) && !f.decode.area_is_at(BAR0 + 0x1000));
}

#[test]
fn an_address_that_is_taken_is_refused_and_rolled_back() {
    let mut f = Fixture::new();
    f.decode.set_command(command::MEMORY);
    f.set_bar(0, BAR1 & !0x3fff);
    assert_eq!((f.address(0), f.answers(BAR0)), (BAR0, Some(0)));
    assert_eq!((f.regions().len(), f.answers(BAR1)), (2, Some(1)));
}

#[test]
fn a_refusal_of_the_address_space_leaves_nothing_behind() {
    let mut f = Fixture::new();
    // The second area is refused at the new address, so the first must be removed again.
    *f.memory.refused.lock().unwrap() = Some(0xd000_3000);
    f.decode.set_command(command::MEMORY);
    f.set_bar(0, 0xd000_0000);
    assert_eq!(f.memory.refusals.load(Ordering::Relaxed), 1);
    assert_eq!((f.address(0), f.answers(BAR0)), (BAR0, Some(0)));
    assert_eq!(f.regions(), [BAR0 + 0x1000, BAR0 + 0x3000]);
    assert_eq!(f.answers(0xd000_0000), None);
}

#[test]
fn a_bar_that_can_be_nowhere_is_unmapped() {
    let mut f = Fixture::new();
    *f.memory.refused.lock().unwrap() = Some(BAR0 + 0x3000);
    f.decode.set_command(command::MEMORY);
    // An unmapped BAR has no old address to go back to, so the register keeps its value.
    assert!(f.regions().is_empty() && f.answers(BAR0).is_none());
    assert_eq!((f.address(0), f.answers(BAR1)), (BAR0, Some(1)));
    // The reason may be gone the next time.
    *f.memory.refused.lock().unwrap() = None;
    f.decode.set_command(command::MEMORY);
    assert_eq!((f.regions().len(), f.answers(BAR0)), (2, Some(0)));
}

#[test]
fn outside_of_the_windows_no_bar_answers() {
    let mut f = Fixture::new();
    f.decode.set_command(command::MEMORY | command::IO);
    for address in [0x8000_0000, BAR0] {
        f.set_bar(0, address);
        let inside = address == BAR0;
        assert_eq!(f.address(0), address);
        assert_eq!(f.answers(address), inside.then_some(0));
        assert_eq!(f.regions().len(), if inside { 2 } else { 0 });
    }
    // Ports of the chipset's own devices.
    f.set_bar(2, 0x40);
    assert!(!f.port_answers(0x40) && !f.port_answers(PORTS));
    assert_eq!(f.address(2), 0x40);
}

#[test]
fn the_rom_hears_that_it_is_enabled() {
    let mut f = Fixture::new();
    f.decode.set_command(command::MEMORY);
    let mut data = [0];
    f.device.set_deaf(true);
    assert!(f.rom.read(&*f.device, 0, &mut data).is_err());
    f.device.set_deaf(false);
    f.rom.read(&*f.device, 0, &mut data).unwrap();
    assert_eq!(data, [0xff]);
    let enabled = ROM_BASE as u32 | ENABLE;
    f.decode.write(ROM_REGISTER, &enabled.to_le_bytes());
    assert_eq!(f.answers(ROM_BASE), Some(ROM as u8));
    f.rom.read(&*f.device, 0, &mut data).unwrap();
    assert_eq!(data, [0xa5]);
}

#[test]
fn a_reset_brings_back_what_firmware_assigned() {
    let mut f = Fixture::new();
    f.set_bar(0, 0xd000_0000);
    f.decode.set_command(command::MEMORY);
    assert_eq!(f.answers(0xd000_0000), Some(0));
    f.decode.set_command(0);
    f.decode.reset();
    let mut register = [0; 4];
    f.decode.read(regs::BAR, &mut register);
    assert_eq!(u64::from(u32::from_le_bytes(register)), BAR0);
    f.decode.set_command(command::MEMORY);
    assert_eq!(f.regions(), [BAR0 + 0x1000, BAR0 + 0x3000]);
    f.decode.set_command(0);
    f.decode.release();
    f.decode.set_command(command::MEMORY);
    assert!(f.regions().is_empty() && f.decode.areas(0).is_empty());
}
