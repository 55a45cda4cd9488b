//! Threads do what vCPUs would, on a root port and on the function behind it, at once. Whatever
//! they did, the function decodes and masters the bus as the registers of both say, and a reset
//! frees everything.

use std::sync::{Arc, Weak};
use std::thread;

use pci::RootBus;
use pci::addr::Range;
use pci::port_setup::PortSetup;
use pci::position::Position;
use pci::root_port::PortShape;
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use vmm::bus::Bus;
use vmm::gsi::emulated::EmulatedInterrupts;
use vmm::gsi::memory_messages::MemoryMessages;
use vmm::gsi::routing::GsiRouting;
use vmm::layout::Layout;
use vmm::memory::AddressSpace;
use vmm::memory::dma_ready::DmaReady;
use vmm::memory::guest_memory::GuestMemory;
use vmm::memory::kvm_slots::KvmSlots;
use vmm::port::{Port, PortInterrupts};
use vmm::vfio::function::rom::RomSource;
use vmm::vfio::function::{FunctionOptions, VfioFunction, VmResources, reset};

use crate::Test;
use crate::device::{BAR0, BAR1, BAR2, EXPRESS, FakeDevice, ID, PM, ROM};
use crate::pci::{COMMAND, IO, MASTER, MEMORY};

pub const TESTS: &[Test] = tests![threads_race_on_a_port,];

const SEEDS: u8 = 12;
const THREADS: u8 = 3;
const ACCESSES: usize = 300;

/// Two megabytes of 32-bit window: firmware's, and the next.
const FIRST: u32 = 0xc000_c000;
const SECOND: u32 = 0xc010_c010;
const CLOSED: u32 = 0x0000_fff0;
const ELSEWHERE: u32 = 0xc018_0000;
const BAR4: u64 = 0x1_0000_0000;

struct Fixture {
    device: Arc<FakeDevice>,
    function: Arc<VfioFunction>,
    bus: Arc<Bus>,
    root: RootBus,
    slots: Arc<KvmSlots>,
    routing: Arc<GsiRouting>,
}

impl Fixture {
    fn new() -> Self {
        let device = FakeDevice::new().with_resampled_pin().into_arc();
        let vm = Arc::new(kvm_ioctls::Kvm::new().unwrap().create_vm().unwrap());
        vm.create_irq_chip().unwrap();
        let slots = Arc::new(KvmSlots::new(vm.clone(), 100));
        let space = Arc::new(AddressSpace::new());
        space.subscribe(slots.clone()).unwrap();
        let resources = VmResources {
            space,
            bus: Arc::new(Bus::new()),
            routing: GsiRouting::new(vm, MemoryMessages::new(GuestMemory::new())).unwrap(),
            interrupt_thread: Arc::default(),
            zones: Arc::default(),
            layout: Layout::new(64 << 20, 0, 40).unwrap(),
            dma_ready: Arc::new(DmaReady::ready()),
        };
        let (bus, routing) = (resources.bus.clone(), resources.routing.clone());
        let shape = PortShape {
            number: 1,
            hot_plug: true,
            ..PortShape::default()
        };
        let kvm = Arc::new(EmulatedInterrupts::new(&routing));
        let port = Arc::new(Port::new(shape, PortInterrupts { kvm, gsi: 17 }));
        let upstream = Arc::clone(port.upstream());
        let options = FunctionOptions {
            position: Position::BehindPort(upstream.clone()),
            ..RomSource::Device.into()
        };
        let function = VfioFunction::new(device.clone(), resources, options).unwrap();
        function.connect_pin(0, 17, Weak::new());
        let mut bars = function.bars();
        let addresses = [
            (0, BAR0.into()),
            (1, BAR1.into()),
            (2, BAR2.into()),
            (4, BAR4),
            (6, ROM.into()),
        ];
        for (bar, address) in addresses {
            bars.set_address(bar, address);
        }
        function.set_reset_bars(bars);
        let root = RootBus::new();
        let bdf = root.add_port(1, 0, port.clone(), upstream).unwrap();
        root.add_behind(bdf, 0, function.clone()).unwrap();
        port.add_behind(&function);
        let range = |start, size| Some(Range { start, size });
        port.set_power_on(&PortSetup {
            secondary: 1,
            subordinate: 1,
            mem32: range(BAR0.into(), 1 << 20),
            pref64: range(BAR4, 1 << 20),
            io: range(0x1000, 0x1000),
        });
        Self {
            device,
            function,
            bus,
            root,
            slots,
            routing,
        }
    }

    fn write(&self, bus: u8, offset: u16, len: usize, value: u32) {
        let device = u8::from(bus == 0);
        let bytes = value.to_le_bytes();
        self.root
            .config_write(bus, device, 0, offset, &bytes[..len]);
    }

    fn read(&self, bus: u8, offset: u16) -> u32 {
        let mut data = [0; 4];
        let device = u8::from(bus == 0);
        self.root.config_read(bus, device, 0, offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// One access to the port, or to the function by a number that the bus may have.
    fn access(&self, rng: &mut TestRng) {
        let mut pick = |from: &[u32]| from[rng.next_u32() as usize % from.len()];
        let bus = pick(&[1, 1, 9]) as u8;
        match pick(&[0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10]) {
            0 => self.write(0, COMMAND, 2, pick(&[0, MEMORY, IO, 7, 7, 0x407])),
            1 => self.write(
                0,
                0x20,
                4,
                pick(&[FIRST, FIRST, SECOND, CLOSED, 0xc010_c000]),
            ),
            2 => self.write(0, 0x3e, 2, pick(&[0, 0, 0, 0x40])),
            3 => self.write(0, 0x50, 2, pick(&[0, 0, 0, 0x10])),
            4 => self.write(0, 0x58, 2, pick(&[0x100, 0x1120, 0x1129, 0x700])),
            5 => self.write(0, 0x5a, 2, u32::MAX),
            6 => self.write(
                0,
                0x18,
                4,
                pick(&[0x0001_0100, 0x0001_0100, 0x0009_0900, 0]),
            ),
            7 => self.write(bus, COMMAND, 2, pick(&[0, MEMORY, 7, 7, MEMORY | MASTER])),
            8 => self.write(bus, 0x10, 4, pick(&[BAR0, BAR0, ELSEWHERE, 0, u32::MAX])),
            9 => self.write(bus, PM + 4, 2, pick(&[0, 0, 3])),
            _ => self.write(bus, EXPRESS + 8, 2, pick(&[0, 0x8000])),
        }
        let address = pick(&[BAR0 + 0x20, BAR1 + 0x20, ELSEWHERE + 0x20]);
        let mut data = [0; 4];
        self.bus.mmio_read(address.into(), &mut data);
        self.bus.mmio_write(address.into(), &data);
        self.read(bus, pick(&[0, 4, 0x10]) as u16);
    }

    /// The function decodes and masters the bus as both their registers say.
    fn check(&self) {
        for (offset, value) in [(0x18, 0x0001_0100), (0x58, 0x100), (0x50, 0), (0x3c, 0x100)] {
            self.write(0, offset, 4, value);
        }
        assert_eq!(self.read(1, 0), ID);
        let (port, own) = (self.read(0, COMMAND), self.read(1, COMMAND));
        let in_d0 = self.read(1, PM + 4) & 3 == 0;
        let both = |bit| port & own & bit != 0;
        let master = self.device.command() & MASTER as u16 != 0;
        assert_eq!(master, both(MASTER), "port {port:#x}, function {own:#x}");
        let window = self.read(0, 0x20);
        let (base, limit) = (window << 16, window | 0xf_ffff);
        let low = |at: u32, size: u32| at >= base && at <= limit && limit - at >= size - 1;
        let [bar0, bar1] = [0x10, 0x14].map(|at| self.read(1, at) & !0xf);
        let high = u64::from(self.read(1, 0x24)) << 32 | u64::from(self.read(1, 0x20) & !0xf);
        let decoded = [
            (0, u64::from(bar0), bar0 != 0 && low(bar0, 0x4000)),
            (1, u64::from(bar1), bar1 != 0 && low(bar1, 0x100)),
            (4, high, high == BAR4),
        ];
        let mut areas = 0;
        for (bar, address, inside) in decoded {
            self.device.poke(bar, 0x40, 0x600d_0000 | bar as u32);
            let mut data = [0; 4];
            self.bus.mmio_read(address + 0x40, &mut data);
            let on = in_d0 && both(MEMORY) && inside;
            let expected = if on {
                0x600d_0000 | bar as u32
            } else {
                u32::MAX
            };
            let what = format!("BAR {bar} at {address:#x}, window {window:#x}");
            assert_eq!(u32::from_le_bytes(data), expected, "{what}");
            areas += usize::from(on && bar != 1);
        }
        assert_eq!(self.slots.in_use(), areas);
    }

    /// As at a guest's reboot.
    fn reset(&self) {
        reset::devices(std::slice::from_ref(&self.function));
        self.root.reset();
        assert_eq!((self.slots.in_use(), self.routing.in_use()), (0, 0));
        assert_eq!(self.read(0, 0x18) & 0xff_ffff, 0x0001_0100);
        assert_eq!((self.read(1, 0), self.read(1, 0x10)), (ID, BAR0));
        self.write(0, COMMAND, 2, MEMORY);
        self.write(1, COMMAND, 2, MEMORY);
        self.check();
        assert_eq!(self.slots.in_use(), 2);
        self.write(0, COMMAND, 2, 0);
    }
}

fn threads_race_on_a_port() {
    let fixture = Fixture::new();
    for seed in 0..SEEDS {
        thread::scope(|scope| {
            for number in 0..THREADS {
                let fixture = &fixture;
                scope.spawn(move || {
                    let seed = [seed * THREADS + number; 32];
                    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
                    (0..ACCESSES).for_each(|_| fixture.access(&mut rng));
                });
            }
        });
        fixture.check();
        fixture.reset();
    }
}
