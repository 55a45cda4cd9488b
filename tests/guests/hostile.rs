//! Hostile guests. After any accesses, in any order, from several threads, the VM works, no more
//! resources are in use than a device can have, and a reset frees them.
//!
//! Threads do what vCPUs would, on one bus and root bus, with KVM's memory slots, routes and
//! irqfds. Real vCPUs are in `race`.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, RwLock, mpsc};
use std::thread;
use std::time::Duration;

use iced_x86::code_asm::{dword_ptr, eax, ecx, edx};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use vmm::machine::Exit;
use vmm::vfio::device::ROM_REGION;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{ASK, BAR0, BAR1, Call, FakeDevice, MSI, MSIX, PM, ROM, VECTORS};
use crate::irq_code::{ENABLE, MESSAGE_ADDRESS, MSI_64, MSI_ENABLE, MSI_MASKING, group};
use crate::pci::{COMMAND, IO, MASTER, MEMORY, ROM_REGISTER, bar_register};
use crate::rig::{AREAS, Rig};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    slot_ids_are_recycled,
    no_slot_left_for_a_bar,
    any_sequence_is_forgotten_by_a_reset,
    a_slow_rom_holds_nobody_up,
    threads_race,
    threads_race_on_an_old_kernel,
    every_port_answers,
    every_hole_answers,
];

/// MSI with as many messages as MSI-X has.
const SHAPE: u16 = MSI_64 | MSI_MASKING | 3 << 1;

/// A device with every kind of interrupt.
fn device() -> FakeDevice {
    FakeDevice::new().with_resampled_pin().with_msi(SHAPE)
}

#[derive(Clone, Debug)]
enum Action {
    Config(u16, Vec<u8>),
    ReadConfig(u16, usize),
    Store(u64, Vec<u8>),
    Load(u64, usize),
    Out(u16, Vec<u8>),
    Raise(u32),
    /// The device asserts its pin until so many acknowledgements.
    Ask(u8),
    Reset,
    /// The host has so many MSI vectors.
    Available(u32),
    /// The next so many SET_IRQS fail.
    Fail(u32),
}

fn act(rig: &Rig, action: &Action) {
    match action {
        Action::Config(offset, data) => rig.write(*offset, data),
        Action::ReadConfig(offset, len) => {
            assert_eq!(rig.read(*offset, *len).len(), *len);
        }
        Action::Store(address, data) => rig.bus.mmio_write(*address, data),
        Action::Load(address, len) => {
            let mut data = vec![0; *len];
            rig.bus.mmio_read(*address, &mut data);
        }
        Action::Out(port, data) => rig.bus.pio_write(*port, data),
        Action::Raise(vector) => {
            rig.device.raise(*vector);
        }
        Action::Ask(times) => rig.bus.mmio_write(u64::from(ASK), &[*times]),
        Action::Reset => rig.reset(),
        Action::Available(vectors) => rig.device.set_available_msi(*vectors),
        Action::Fail(count) => rig.device.failing_events.store(*count, Ordering::Relaxed),
    }
}

/// Bytes that are meaningful values more often than random ones.
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
        Just(MESSAGE_ADDRESS),
        (0u16..6).prop_map(|log| u32::from(group(log) | MSI_ENABLE)),
        (0u16..6).prop_map(|log| u32::from(group(log) | MSI_ENABLE) << 16),
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
        3 => prop::sample::select(&[MSI, MSI + 2, MSI + 2, MSI + 2, MSI + 12, MSI + 16][..]),
        1 => MSI..MSI + 24,
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
        2 => (0x200u64..0x208).prop_map(|o| o * 16 + 12),
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
        1 => prop::sample::select(&[0u8, 3][..]).prop_map(|d| Action::Config(PM + 4, vec![d])),
        2 => (register(), 1usize..9).prop_map(|(o, l)| Action::ReadConfig(o, l)),
        6 => (address(), bytes()).prop_map(|(a, d)| Action::Store(a, d)),
        2 => (address(), 1usize..9).prop_map(|(a, l)| Action::Load(a, l)),
        1 => (0x1000u16..0x1030, bytes()).prop_map(|(p, d)| Action::Out(p, d)),
        1 => (0..VECTORS).prop_map(Action::Raise),
        1 => (0..3u8).prop_map(Action::Ask),
        1 => Just(Action::Reset),
        1 => (1..9u32).prop_map(Action::Available),
        1 => (0..4u32).prop_map(Action::Fail),
    ]
}

fn slot_ids_are_recycled() {
    // One slot more than needed: a single leaked slot number shows soon.
    let rig = Rig::new(FakeDevice::new(), AREAS + 1);
    for _ in 0..1000 {
        rig.command(MEMORY);
        assert_eq!(rig.slots.in_use(), AREAS);
        rig.command(0);
        assert_eq!(rig.slots.in_use(), 0);
    }
}

/// A BAR for which KVM has no slot is not mapped; the others are. The BAR is mapped when a slot is
/// free.
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
    // When the first BAR is unmapped, its slot is free for the other.
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
    let cases = (sequences, any::<bool>(), any::<bool>(), any::<bool>());
    let outcome = TestRunner::new(config).run(&cases, |(actions, old, few, started)| {
        let mut device = device();
        if old {
            device = device.no_resize();
        }
        if few {
            device = device.available(3);
        }
        let rig = Rig::new(device, 16);
        if started {
            rig.command(MEMORY);
            rig.write(MSIX + 3, &[0x80]);
        }
        for action in &actions {
            act(&rig, action);
            prop_assert!(rig.slots.in_use() <= AREAS);
            prop_assert!(rig.routing.in_use() <= VECTORS as usize);
            rig.check_interrupts();
            rig.check_decoding();
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

/// While one vCPU waits for the host to read the ROM, other vCPUs use the device, switch decode
/// off, and reset it.
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
        rig.reset();
        enable(&rig);
        assert_eq!(rig.read(ROM_REGISTER, 4), (ROM | 1).to_le_bytes());
        assert!(!reader.is_finished());
        go_on.send(()).unwrap();
        assert_eq!(reader.join().unwrap(), 0x600d);
    });
    rig.check_reset();
}

const THREADS: u8 = 4;

fn race(device: FakeDevice) {
    const EACH: usize = 2000;
    let rig = Rig::new(device, 16);
    // No vCPU runs during a reset.
    let running = RwLock::new(());
    thread::scope(|scope| {
        for seed in 0..THREADS {
            let (rig, running) = (&rig, &running);
            scope.spawn(move || {
                // A fixed seed: each run has the same actions. The race decides their order.
                let rng = prop::test_runner::TestRng::from_seed(
                    prop::test_runner::RngAlgorithm::ChaCha,
                    &[seed; 32],
                );
                let mut runner = TestRunner::new_with_rng(Config::default(), rng);
                let strategy = action();
                for _ in 0..EACH {
                    let action = strategy.new_tree(&mut runner).unwrap().current();
                    if matches!(action, Action::Reset) {
                        let _stopped = running.write().unwrap();
                        act(rig, &action);
                    } else {
                        let _running = running.read().unwrap();
                        act(rig, &action);
                    }
                }
            });
        }
    });
    rig.check_interrupts();
    rig.check_decoding();
    rig.check_reset();
}

fn threads_race() {
    race(device());
}

fn threads_race_on_an_old_kernel() {
    race(device().no_resize().available(5));
}

/// Reads and writes of every port but those that end the run, in every width.
fn every_port_answers() {
    let mut g = Asm::new();
    for width in [Width::Byte, Width::Word, Width::Dword] {
        let (again, skip) = (g.label(), g.label());
        g.mov_ecx(0xffff).bind(again);
        g.code(|a| a.mov(edx, ecx)).in_dx(width);
        // Not the sleep control, sleep status and reset registers, nor accesses that overlap them.
        g.code(|a| {
            a.mov(eax, ecx)?;
            a.sub(eax, 0x5f8)
        });
        g.cmp_eax(0x10).jb(skip);
        g.mov_eax(0).out_dx(width);
        g.bind(skip).code(|a| a.dec(ecx)).jne(again);
    }
    g.print("\nalive\n").power_off();
    let ended = Vm::new(g).device(&FakeDevice::new().into_arc()).run();
    assert_eq!(ended.exits().0 / 65_535, 5);
    assert!(ended.powered_off().ends_with("\nalive\n"));
}

/// Loads and stores all over the 32-bit hole, but for the interrupt controllers.
fn every_hole_answers() {
    let device = FakeDevice::new().into_arc();
    let mut g = Asm::new();
    g.command(MEMORY | IO);
    for (start, end) in [(0xc000_0000, 0xfec0_0000u32), (0xfef0_0000, 0xfffb_0000)] {
        // An odd step, for every alignment.
        g.mov_ecx(start);
        let again = g.here();
        g.code(|a| {
            a.mov(eax, dword_ptr(ecx))?;
            a.mov(dword_ptr(ecx), eax)?;
            a.add(ecx, 0x8005)?;
            a.cmp(ecx, end)
        });
        g.jb(again);
    }
    g.command(0).print("alive").power_off();
    let ended = Vm::new(g).device(&device).run();
    assert_eq!(ended.slots.0, ended.slots.1);
    assert!(ended.exits().1 > 50_000);
    assert!(matches!(ended.exit, Ok(Exit::PowerOff)), "{:?}", ended.exit);
    assert_eq!(ended.text, "alive");
}
