//! Guests that mean harm: any access, in any order, from two threads at once, must leave the VM
//! alive, hold no more than a device can have, and be forgotten by a reset.
//!
//! vCPUs would only be slower here: threads stand in for them, on the same bus and root bus, with
//! KVM's memory slots, routes and irqfds behind.

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use mini_vmm::bus::Bus;
use mini_vmm::interrupt::Router;
use mini_vmm::layout::Layout;
use mini_vmm::machine::Exit;
use mini_vmm::memory::AddressSpace;
use mini_vmm::memory::kvm_slots::KvmSlots;
use mini_vmm::pci::RootBus;
use mini_vmm::vfio::device::ROM_REGION;
use mini_vmm::vfio::function::{Surroundings, VfioFunction};
use mini_vmm::vfio::reset;
use mini_vmm::vfio::rom::RomSource;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::Test;
use crate::common::asm::Asm;
use crate::device::{BAR0, BAR1, BAR2, Call, FakeDevice, MSIX, PM, ROM, VECTORS};
use crate::irq_code::ENABLE;
use crate::pci::{COMMAND, IO, MASTER, MEMORY, ROM_REGISTER, SLOT, bar_register};
use crate::vm::Vm;

pub const TESTS: &[Test] = &[
    ("slot_ids_are_recycled", slot_ids_are_recycled),
    ("no_slot_left_for_a_bar", no_slot_left_for_a_bar),
    (
        "any_sequence_is_forgotten_by_a_reset",
        any_sequence_is_forgotten_by_a_reset,
    ),
    ("a_slow_rom_holds_nobody_up", a_slow_rom_holds_nobody_up),
    ("two_threads_race", two_threads_race),
    (
        "two_threads_race_on_an_old_kernel",
        two_threads_race_on_an_old_kernel,
    ),
    ("every_port_answers", every_port_answers),
    ("every_hole_answers", every_hole_answers),
];

/// Slots of the device's mapped pieces.
const PIECES: usize = 2;

/// A function on a bus with KVM behind it, and no guest.
struct Rig {
    device: Arc<FakeDevice>,
    function: Arc<VfioFunction>,
    bus: Arc<Bus>,
    root: RootBus,
    router: Arc<Router>,
    slots: Arc<KvmSlots>,
}

impl Rig {
    /// With so many memory slots.
    fn new(device: FakeDevice, max_slots: usize) -> Self {
        let device = device.share();
        let vm = Arc::new(kvm_ioctls::Kvm::new().unwrap().create_vm().unwrap());
        vm.create_irq_chip().unwrap();
        let slots = Arc::new(KvmSlots::new(vm.clone(), max_slots));
        let space = Arc::new(AddressSpace::new());
        space.subscribe(slots.clone()).unwrap();
        let around = Surroundings {
            space,
            bus: Arc::new(Bus::new()),
            router: Router::new(vm).unwrap(),
            layout: Layout::new(64 << 20, 0, 40).unwrap(),
        };
        let (bus, router) = (around.bus.clone(), around.router.clone());
        let function = VfioFunction::new(device.clone(), around, RomSource::Device).unwrap();
        let mut bars = function.bars();
        let places = [
            (0, BAR0),
            (1, BAR1),
            (2, BAR2.into()),
            (4, 0xc001_0000),
            (6, ROM),
        ];
        for (bar, address) in places {
            bars.set_address(bar, address.into());
        }
        function.set_placed(bars);
        let root = RootBus::new();
        root.add(SLOT, 0, function.clone()).unwrap();
        Self {
            device,
            function,
            bus,
            root,
            router,
            slots,
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        self.root.config_write(0, SLOT, 0, offset, data);
    }

    fn read(&self, offset: u16, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.root.config_read(0, SLOT, 0, offset, &mut data);
        data
    }

    fn command(&self, value: u32) {
        self.write(COMMAND, &(value as u16).to_le_bytes());
    }

    fn load32(&self, address: u64) -> u32 {
        let mut data = [0; 4];
        self.bus.mmio_read(address, &mut data);
        u32::from_le_bytes(data)
    }

    fn act(&self, action: &Action) {
        match action {
            Action::Config(offset, data) => self.write(*offset, data),
            Action::ReadConfig(offset, len) => {
                assert_eq!(self.read(*offset, *len).len(), *len);
            }
            Action::Store(address, data) => self.bus.mmio_write(*address, data),
            Action::Load(address, len) => {
                let mut data = vec![0; *len];
                self.bus.mmio_read(*address, &mut data);
            }
            Action::Out(port, data) => self.bus.pio_write(*port, data),
            Action::Raise(vector) => {
                self.device.raise(*vector);
            }
            Action::Reset => self.reset(),
        }
    }

    /// As at a guest's reboot.
    fn reset(&self) {
        reset::devices(std::slice::from_ref(&self.function));
        self.root.reset();
    }

    /// Nothing is left of what was done, and the device can be used.
    fn check_reset(&self) {
        self.reset();
        assert_eq!(self.slots.in_use(), 0, "memory slots");
        assert_eq!(self.router.in_use(), 0, "GSIs");
        assert_eq!(self.device.wired(), [] as [u32; 0]);
        assert_eq!(self.load32(BAR1.into()), u32::MAX);
        let fresh = Self::new(FakeDevice::new(), 16);
        assert_eq!(self.read(0, 4096), fresh.read(0, 4096));

        self.command(MEMORY);
        assert_eq!(self.slots.in_use(), PIECES);
        self.device.poke(1, 0x20, 0x600d);
        assert_eq!(self.load32(u64::from(BAR1) + 0x20), 0x600d);
        self.write(MSIX + 2, &(ENABLE as u16).to_le_bytes());
        let table = u64::from(BAR0) + 0x2000;
        for entry in 0..u64::from(VECTORS) {
            assert_eq!(
                self.load32(table + entry * 16 + 12),
                1,
                "vector {entry} is masked"
            );
            self.bus.mmio_write(table + entry * 16 + 12, &[0; 4]);
        }
        let vectors = self.device.host_vectors() as usize;
        assert_eq!(self.device.wired().len(), vectors);
        assert_eq!(self.router.in_use(), vectors);
        self.root.get(SLOT, 0).unwrap().reset();
        assert_eq!((self.slots.in_use(), self.router.in_use()), (0, 0));
    }
}

#[derive(Clone, Debug)]
enum Action {
    Config(u16, Vec<u8>),
    ReadConfig(u16, usize),
    Store(u64, Vec<u8>),
    Load(u64, usize),
    Out(u16, Vec<u8>),
    Raise(u32),
    Reset,
}

/// Bytes that mean something more often than chance would have it.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        any::<u32>(),
        Just(0),
        Just(!0),
        Just(BAR0),
        Just(BAR0 + 0x1000),
        Just(ROM | 1),
        Just(0xc001_0000),
        Just(0xd000_0000),
        Just(ENABLE),
        Just(ENABLE << 16),
        Just(MEMORY | IO | MASTER),
        Just(0xfee0_0000),
    ];
    let len = prop::sample::select(&[1usize, 2, 4, 4, 4, 8][..]);
    (word, any::<u32>(), len).prop_map(|(low, high, len)| {
        let quad = u64::from(high) << 32 | u64::from(low);
        quad.to_le_bytes()[..len].to_vec()
    })
}

fn register() -> impl Strategy<Value = u16> {
    prop_oneof![
        3 => prop::sample::select(&[COMMAND, COMMAND, MSIX, MSIX + 2, MSIX + 3, PM + 4][..]),
        3 => (0..6u16).prop_map(bar_register),
        1 => Just(ROM_REGISTER),
        1 => 0..0x100u16,
        1 => 0..0x1000u16,
    ]
}

fn address() -> impl Strategy<Value = u64> {
    let base = prop::sample::select(&[BAR0, BAR1, ROM - 0x2000, 0xd000_0000, 0xc001_0000][..]);
    let offset = prop_oneof![
        4 => (0x2000u64..0x2080).prop_map(|o| o & !3),
        1 => 0x2000u64..0x2090,
        1 => 0x2ff0u64..0x3010,
        1 => 0u64..0x4010,
    ];
    prop_oneof![
        9 => (base, offset).prop_map(|(base, offset)| u64::from(base) + offset),
        1 => any::<u64>(),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (register(), bytes()).prop_map(|(o, d)| Action::Config(o, d)),
        2 => (register(), 1usize..9).prop_map(|(o, l)| Action::ReadConfig(o, l)),
        6 => (address(), bytes()).prop_map(|(a, d)| Action::Store(a, d)),
        2 => (address(), 1usize..9).prop_map(|(a, l)| Action::Load(a, l)),
        1 => (0x1000u16..0x1030, bytes()).prop_map(|(p, d)| Action::Out(p, d)),
        1 => (0..VECTORS).prop_map(Action::Raise),
        1 => Just(Action::Reset),
    ]
}

fn slot_ids_are_recycled() {
    // One more than is needed, so that a single lost id is found out soon.
    let rig = Rig::new(FakeDevice::new(), PIECES + 1);
    for _ in 0..1000 {
        rig.command(MEMORY);
        assert_eq!(rig.slots.in_use(), PIECES);
        rig.command(0);
        assert_eq!(rig.slots.in_use(), 0);
    }
}

/// A BAR for which KVM has no slot is not there; the others are, and it comes when there is room.
fn no_slot_left_for_a_bar() {
    let rig = Rig::new(FakeDevice::new(), 1);
    rig.device.poke(1, 0x20, 0x600d);
    for _ in 0..10 {
        rig.command(MEMORY);
        assert_eq!(rig.slots.in_use(), 1);
        assert_eq!(rig.load32(u64::from(BAR1) + 0x20), 0x600d);
        rig.command(0);
        assert_eq!(rig.slots.in_use(), 0);
    }
    // The first BAR out of the way: its slot is the other's.
    rig.write(bar_register(0), &[0; 4]);
    rig.command(MEMORY);
    assert_eq!(rig.slots.in_use(), 1);
    rig.command(0);
}

fn any_sequence_is_forgotten_by_a_reset() {
    let config = Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    };
    let sequences = prop::collection::vec(action(), 0..80);
    let outcome = TestRunner::new(config).run(&(sequences, any::<bool>()), |(actions, old)| {
        let device = FakeDevice::new();
        let rig = Rig::new(if old { device.no_resize() } else { device }, 16);
        for action in &actions {
            rig.act(action);
            prop_assert!(rig.slots.in_use() <= PIECES);
            prop_assert!(rig.router.in_use() <= VECTORS as usize);
            if rig.device.command() & MEMORY as u16 == 0 {
                prop_assert_eq!(rig.slots.in_use(), 0);
            }
        }
        rig.check_reset();
        Ok(())
    });
    if let Err(e) = outcome {
        panic!("{e}");
    }
}

/// While one vCPU waits for the host to read the ROM, others use the device, switch it off, and
/// reset it.
fn a_slow_rom_holds_nobody_up() {
    let (begun, wait_begun) = mpsc::channel();
    let (go_on, wait_go_on) = mpsc::channel();
    let wait_go_on = Mutex::new(wait_go_on);
    let device = FakeDevice::new().on_call(move |_, call| {
        if matches!(call, Call::Read(ROM_REGION, ..)) {
            begun.send(()).unwrap();
            let wait = wait_go_on.lock().unwrap();
            wait.recv_timeout(Duration::from_secs(60)).expect("leave");
        }
    });
    let rig = Rig::new(device, 16);
    rig.device.poke(6, 8, 0x600d);
    let enable = |rig: &Rig| {
        rig.command(MEMORY);
        rig.write(ROM_REGISTER, &(ROM | 1).to_le_bytes());
    };
    enable(&rig);
    thread::scope(|scope| {
        let reader = scope.spawn(|| rig.load32(u64::from(ROM) + 8));
        wait_begun.recv_timeout(Duration::from_secs(60)).unwrap();
        rig.device.poke(1, 0x20, 0x600d);
        assert_eq!(rig.load32(u64::from(BAR1) + 0x20), 0x600d);
        rig.command(0);
        rig.root.get(SLOT, 0).unwrap().reset();
        enable(&rig);
        assert_eq!(rig.read(ROM_REGISTER, 4), (ROM | 1).to_le_bytes());
        assert!(!reader.is_finished());
        go_on.send(()).unwrap();
        assert_eq!(reader.join().unwrap(), 0x600d);
    });
    rig.check_reset();
}

fn race(device: FakeDevice) {
    const EACH: usize = 4000;
    let rig = Rig::new(device, 16);
    thread::scope(|scope| {
        for seed in [1u8, 2] {
            let rig = &rig;
            scope.spawn(move || {
                // Seeded: the same actions at every run, in an order that the race decides.
                let rng = prop::test_runner::TestRng::from_seed(
                    prop::test_runner::RngAlgorithm::ChaCha,
                    &[seed; 32],
                );
                let mut runner = TestRunner::new_with_rng(Config::default(), rng);
                let strategy = action();
                for _ in 0..EACH {
                    let action = strategy.new_tree(&mut runner).unwrap().current();
                    rig.act(&action);
                }
            });
        }
    });
    rig.check_reset();
}

fn two_threads_race() {
    race(FakeDevice::new());
}

fn two_threads_race_on_an_old_kernel() {
    race(FakeDevice::new().no_resize().available(5));
}

/// Reads and writes of every port but those that end the run, in every width.
fn every_port_answers() {
    let mut g = Asm::new();
    for instruction in [&[0xec][..], &[0x66, 0xed], &[0xed]] {
        let (again, skip) = (g.label(), g.label());
        g.mov_ecx(0xffff).bind(again);
        g.emit(&[0x89, 0xca]).emit(instruction); // mov edx, ecx; in
        // Sleep control, status and reset, and what reaches into them, are left alone.
        g.emit(&[0x89, 0xc8, 0x2d]).emit(&0x5f8u32.to_le_bytes()); // mov eax, ecx; sub eax, 0x5f8
        g.cmp_eax(0x10).jb(skip);
        g.emit(&[0x31, 0xc0]); // xor eax, eax
        let [prefix @ .., opcode] = instruction else {
            unreachable!()
        };
        g.emit(prefix).emit(&[opcode + 2]); // out
        g.bind(skip).emit(&[0x49]).jne(again); // dec ecx
    }
    g.print("\nalive\n").power_off();
    let ended = Vm::new(g).device(&FakeDevice::new().share()).run();
    assert_eq!(ended.exits().0 / 65_535, 5);
    assert!(ended.powered_off().ends_with("\nalive\n"));
}

/// Loads and stores all over the 32-bit hole, but for the interrupt controllers.
fn every_hole_answers() {
    let device = FakeDevice::new().share();
    let mut g = Asm::new();
    g.command(MEMORY | IO);
    for (start, end) in [(0xc000_0000, 0xfec0_0000u32), (0xfef0_0000, 0xfffb_0000)] {
        // Odd steps, so that every alignment is met.
        g.mov_ecx(start);
        let again = g.here();
        g.emit(&[0x8b, 0x01, 0x89, 0x01]); // mov eax, [ecx]; mov [ecx], eax
        g.emit(&[0x81, 0xc1]).emit(&0x8005u32.to_le_bytes()); // add ecx, 0x8005
        g.emit(&[0x81, 0xf9]).emit(&end.to_le_bytes()).jb(again); // cmp ecx, end
    }
    g.command(0).print("alive").power_off();
    let ended = Vm::new(g).device(&device).run();
    assert_eq!(ended.slots.0, ended.slots.1);
    assert!(ended.exits().1 > 50_000);
    assert!(matches!(ended.exit, Ok(Exit::PowerOff)), "{:?}", ended.exit);
    assert_eq!(ended.text, "alive");
}
