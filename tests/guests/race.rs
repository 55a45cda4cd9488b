//! Several vCPUs of one guest write the same registers at once: MSI, the MSI-X table, COMMAND, the
//! power state and the BARs. Whatever the state afterwards, the guest can set the device up again.

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{ACKNOWLEDGE, ASK, BAR0, BAR1, DOORBELL, FakeDevice, MSI, MSIX, PM, TABLE};
use crate::irq_code::{ENABLE, FUNCTION_MASK, MSI_64, MSI_ENABLE, MSI_MASKING, group};
use crate::pci::{COMMAND, IO, MASTER, MEMORY, SLOT, bar_register, ecam};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![vcpus_race, vcpus_race_on_an_old_kernel,];

const CPUS: u8 = 3;
const ROUNDS: u32 = 20;
/// Accesses of a round of one vCPU.
const ACCESSES: usize = 150;
/// Counters of the vCPUs that have started, and that are done.
const STARTED: u32 = 0x7_1000;
const DONE: u32 = STARTED + 4;
/// MSI with eight messages.
const SHAPE: u16 = MSI_64 | MSI_MASKING | 3 << 1;
/// A vector that the race cannot send: no access has this byte.
const V: u8 = 0x99;
/// Another address for BAR 0.
const ELSEWHERE: u32 = 0xd000_0000;

/// One access that changes what is mapped or which interrupt is on. No message made of these bytes
/// resets a processor: bits 8 to 10 of its data are all zeros or all ones (SDM volume 3A, 11.11.2).
/// Returns whether the access is always an exit. An access to a BAR's pages is an exit only while
/// they are unmapped, which the race decides.
fn access(g: &mut Asm, rng: &mut TestRng) -> bool {
    let mut pick = |from: &[u32]| from[rng.next_u32() as usize % from.len()];
    let register = |g: &mut Asm, by_port: u32, at: u16, width, value| match by_port {
        0 => drop(g.cfg_write(SLOT, at, width, value)),
        _ => drop(g.store(width, ecam(SLOT, at), value)),
    };
    let by_port = pick(&[0, 1]);
    let kind = pick(&[0, 0, 1, 2, 2, 2, 3, 3, 3, 3, 4, 5, 6, 7]);
    match kind {
        0 => {
            let value = pick(&[0, IO, MEMORY, MEMORY | MASTER, MEMORY | IO, MEMORY | IO]);
            register(g, by_port, COMMAND, Width::Word, value);
        }
        1 => register(g, by_port, PM + 4, Width::Word, pick(&[0, 0, 0, 3])),
        2 => {
            let on = group(pick(&[0, 1, 3, 5]) as u16) | MSI_ENABLE;
            match pick(&[0, 1, 2, 3]) {
                0 => register(g, by_port, MSI + 2, Width::Byte, pick(&[0, on.into()])),
                1 => register(g, by_port, MSI, Width::Dword, u32::from(on) << 16),
                2 => register(g, by_port, MSI + 12, Width::Byte, pick(&[0x40, 0x80])),
                _ => register(
                    g,
                    by_port,
                    MSI + 16,
                    Width::Dword,
                    pick(&[0, u32::MAX, 0xff]),
                ),
            }
        }
        3 => {
            let entry = TABLE + 16 * pick(&[0, 1, 2, 3, 7]);
            match pick(&[0, 0, 0, 1]) {
                0 => g.store32(entry + 12, pick(&[0, 0, 1])),
                _ => g.store(Width::Byte, entry + 8, pick(&[0x40, 0x47, 0x80])),
            };
        }
        4 => {
            let value = pick(&[ENABLE, ENABLE, ENABLE | FUNCTION_MASK, 0]);
            register(g, by_port, MSIX + 2, Width::Word, value);
        }
        5 => {
            let address = pick(&[BAR0, BAR0, ELSEWHERE, u32::MAX, BAR1 & !0xfff]);
            let (width, at) = match pick(&[0, 1]) {
                0 => (Width::Dword, 0),
                _ => (Width::Word, 2),
            };
            register(g, by_port, bar_register(0) + at, width, address >> (8 * at));
        }
        6 => drop(g.store32(
            pick(&[DOORBELL, DOORBELL, ASK, ACKNOWLEDGE]),
            pick(&[0, 1, 3]),
        )),
        _ => drop(g.load32(pick(&[TABLE + 12, TABLE + 0x1000, ecam(SLOT, MSI), BAR1]))),
    }
    kind < 6
}

fn race(device: FakeDevice) {
    let device = device.with_resampled_pin().with_msi(SHAPE).into_arc();
    let mut g = Asm::new();
    let others = g.label();
    g.local_apic_on().start_others(others, STARTED);
    let mut exits = 0;
    let mut race = |g: &mut Asm, cpu: u8| {
        // A fixed seed: each run has the same accesses. The race decides their order.
        let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[cpu; 32]);
        // No vCPU begins before all have started.
        let not_yet = g.here();
        g.pause().load32(STARTED).cmp_eax(u32::from(CPUS) - 1);
        g.jb(not_yet);
        g.repeat(ROUNDS, |g| {
            let certain = (0..ACCESSES).filter(|_| access(g, &mut rng)).count();
            exits += u64::from(ROUNDS) * certain as u64;
        });
        g.lock_inc32(DONE);
    };
    race(&mut g, 0);
    let not_yet = g.here();
    g.pause().load32(DONE).cmp_eax(CPUS.into()).jb(not_yet);
    // In D0, with the first addresses and everything off, the device works as any other.
    g.cfg_write(SLOT, PM + 4, Width::Word, 0).command(0);
    g.set_bar(0, BAR0).msi_control(0).msix_control(0);
    g.command(MEMORY).cfg_show(SLOT, bar_register(0));
    g.store32(BAR0 + 0x10, 0x600d).show(BAR0 + 0x10);
    g.unmask_with(4, V).msix_control(ENABLE);
    g.store32(DOORBELL, 4)
        .await_request(V)
        .show(TABLE + 64 + 12);
    g.msix_control(0)
        .msi_mask(SHAPE, 0)
        .msi_message(SHAPE, 0x98);
    g.msi_control(group(1) | MSI_ENABLE)
        .cfg_read(SLOT, MSI + 2, Width::Word)
        .print_eax();
    g.command(0).power_off();

    // The other vCPUs, each with its number in eax.
    g.bind(others);
    for cpu in 1..CPUS {
        let next = g.label();
        g.cmp_eax(cpu.into()).jne(next);
        race(&mut g, cpu);
        g.hang().bind(next);
    }
    let ended = Vm::new(g).cpus(CPUS).device(&device).run();
    assert_eq!(ended.slots.0, ended.slots.1);
    let (ports, memory) = ended.exits();
    assert!(
        ports + memory >= exits,
        "{ports} + {memory}, at least {exits}"
    );
    let msi = SHAPE | group(1) | MSI_ENABLE;
    assert_eq!(ended.numbers(), [BAR0, 0x600d, 0, msi.into()]);
    assert_eq!(
        (device.with_eventfd(), device.msi_with_eventfd()),
        (vec![], vec![])
    );
    assert_eq!(device.kind(), None);
}

fn vcpus_race() {
    race(FakeDevice::new());
}

fn vcpus_race_on_an_old_kernel() {
    race(FakeDevice::new().no_resize().available(5));
}
