//! Statistics of guests with a device: the counts are of what the guest did.

use std::collections::BTreeMap;

use iced_x86::code_asm::{dword_ptr, eax, ecx};
use mini_vmm::report::Report;
use vmm::log::degraded::{self, Code, Degraded};

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::common::golden;
use crate::device::{BAR1, BAR2, DOORBELL, FakeDevice, TABLE};
use crate::irq_code::ENABLE;
use crate::pci::{COMMAND, IO, MEMORY, SLOT, ecam};
use crate::vm::{Ended, Vm};

pub const TESTS: &[Test] = tests![
    registers_have_names,
    configuration_space,
    vcpus_count_apart,
    a_guest_cannot_make_it_grow,
    calls_of_a_device,
    nothing_without_the_flag,
    json_of_a_device_is_kept,
];

fn run(build: impl FnOnce(&mut Asm)) -> Report {
    let mut g = Asm::new();
    build(&mut g);
    g.power_off();
    let ended = Vm::new(g)
        .device(&FakeDevice::new().into_arc())
        .measured()
        .run();
    report(ended)
}

/// The report of a run that ended with the guest's power-off.
#[track_caller]
fn report(ended: Ended) -> Report {
    let report = ended.report.clone();
    ended.powered_off();
    report
}

/// Counts by name of the address range, offset in the range, and whether it is a write.
fn by_range(report: &Report) -> BTreeMap<(&str, &str, bool), u64> {
    let registers = report.exits.registers.iter();
    registers
        .filter_map(|r| {
            let range = r.range.as_deref()?.strip_prefix("0000:00:01.0 ")?;
            Some(((range, r.offset.as_deref()?, r.write), r.count))
        })
        .collect()
}

fn registers_have_names() {
    let report = run(|g| {
        g.command(MEMORY | IO);
        g.load32(BAR1 + 0x20);
        g.repeat(4, |g| {
            g.store(Width::Byte, BAR1 + 0x21, 1);
        });
        g.load32(TABLE + 12).store32(TABLE, 0xfee0_0000);
        g.input(Width::Word, BAR2 + 2).outb(BAR2 + 0x1f, 0);
        g.load32(ecam(SLOT, 0x100))
            .load32(ecam(0, 8))
            .load32(ecam(30, 0));
    });
    let expected = [
        (("BAR 1", "0x20", false), 1),
        (("BAR 1", "0x21", true), 4),
        (("BAR 0", "0x200c", false), 1),
        (("BAR 0", "0x2000", true), 1),
        (("BAR 2", "0x2", false), 1),
        (("BAR 2", "0x1f", true), 1),
        (("configuration space", "0x100", false), 1),
    ];
    assert_eq!(by_range(&report), BTreeMap::from(expected));
    let names = report
        .exits
        .registers
        .iter()
        .filter_map(|r| r.range.as_deref());
    let names: Vec<_> = names.filter(|name| name.ends_with("function")).collect();
    assert_eq!(names, ["configuration space of an absent function"]);
    assert_eq!(report.exits.other_registers, 0);
}

fn configuration_space() {
    let report = run(|g| {
        g.cfg_read(SLOT, 2, Width::Word);
        g.repeat(3, |g| {
            g.cfg_write(SLOT, COMMAND, Width::Word, 0);
        });
        g.store(Width::Word, ecam(SLOT, COMMAND), 0);
        // A bus without functions, and an address register whose enable bit is clear.
        g.cfg_address((7, 3, 1), 0x10);
        g.input(Width::Dword, 0xcfc);
        g.out(Width::Dword, 0xcf8, 0).input(Width::Dword, 0xcfc);
    });
    let registers = report.config_space.registers.iter();
    let counts: Vec<_> = registers
        .map(|r| (r.function.to_string(), &*r.register, r.write, r.count))
        .collect();
    let slot = "0000:00:01.0".to_string();
    let expected = [
        (slot.clone(), "0x4", true, 4),
        (slot, "0x2", false, 1),
        ("0000:07:03.1".to_string(), "0x10", false, 1),
    ];
    assert_eq!(counts, expected);
}

/// Counters of the other vCPUs that have started, and that are done.
const STARTED: u32 = 0x7_1000;
const DONE: u32 = STARTED + 4;
/// Addresses of no device.
const NOWHERE: u32 = 0xd800_0000;

fn vcpus_count_apart() {
    const CPUS: u32 = 3;
    let mut g = Asm::new();
    let others = g.label();
    g.local_apic_on().start_others(others, STARTED);
    let not_yet = g.here();
    g.pause().load32(DONE).cmp_eax(CPUS - 1).jb(not_yet);
    g.load32(NOWHERE).power_off();
    g.bind(others);
    for cpu in 1..CPUS {
        let next = g.label();
        g.cmp_eax(cpu).jne(next);
        g.repeat(cpu * 100, |g| {
            g.store32(NOWHERE, 1);
        });
        g.lock_inc32(DONE).hang().bind(next);
    }
    let report = report(Vm::new(g).cpus(CPUS as u8).measured().run());
    let of = |reason| -> Vec<u64> { report.exits.vcpus.iter().map(|v| v[reason]).collect() };
    // The other vCPUs have numbers in the order in which they started.
    let mut written = of("mmio_write");
    written[1..].sort_unstable();
    assert_eq!(written, [0, 100, 200]);
    assert_eq!(of("mmio_read"), [1, 0, 0]);
    assert_eq!(report.exits.by_reason["mmio_write"], 300);
    // Writes of all vCPUs are counted for one register.
    let written: Vec<_> = report
        .exits
        .registers
        .iter()
        .filter(|r| r.write && r.space == "memory")
        .collect();
    assert_eq!((written.len(), written[0].count), (1, 300));
}

fn a_guest_cannot_make_it_grow() {
    const ACCESSES: u32 = 20_000;
    let report = run(|g| {
        g.mov_ecx(NOWHERE);
        let again = g.here();
        g.code(|a| {
            a.mov(eax, dword_ptr(ecx))?;
            a.add(ecx, 4)?;
            a.cmp(ecx, NOWHERE + 4 * ACCESSES)
        });
        g.jb(again);
        // All registers of all functions of a bus would be a million.
        for function in 0..8 {
            let start = ecam(SLOT, 0) + (function << 12);
            g.mov_ecx(start);
            let again = g.here();
            g.code(|a| {
                a.mov(eax, dword_ptr(ecx))?;
                a.add(ecx, 1)?;
                a.cmp(ecx, start + 0x400)
            });
            g.jb(again);
        }
    });
    let exits = &report.exits;
    assert!(exits.registers.len() <= 1024, "{}", exits.registers.len());
    let counted: u64 = exits.registers.iter().map(|r| r.count).sum();
    let reasons = ["pio_in", "pio_out", "mmio_read", "mmio_write"];
    let all: u64 = reasons.iter().map(|reason| exits.by_reason[reason]).sum();
    assert!(exits.other_registers > 0);
    assert_eq!(counted + exits.other_registers, all);
    assert!(all >= u64::from(ACCESSES) + 8 * 0x400);
    let config = &report.config_space;
    let counted: u64 = config.registers.iter().map(|r| r.count).sum();
    assert!(config.registers.len() <= 1024 && config.others > 0);
    assert_eq!(counted + config.others, 8 * 0x400);
}

/// Survives a reset.
const BOOTED: u32 = 0x20_0000;

fn calls_of_a_device() {
    let device = FakeDevice::new().into_arc();
    let mut g = Asm::new();
    let second = g.label();
    g.load32(BOOTED).cmp_eax(1).je(second);
    g.inc32(BOOTED).command(MEMORY).msix_control(ENABLE);
    g.unmask_with(3, 0x41).unmask_with(5, 0x41);
    g.msix_control(0).reset();
    g.bind(second).power_off();
    let report = report(Vm::new(g).device(&device).measured().run());
    let [told] = &report.devices[..] else {
        panic!("{:?}", report.devices);
    };
    assert_eq!(told.device, device.name);
    // The time is 0: the clock of this report began after the first vector.
    assert_eq!(told.first_vector_us, Some(0));
    // SET_IRQS: two device events, then on, two vectors, off. One reset, at the guest's reset.
    assert_eq!((told.set_irqs.calls, told.resets.calls), (6, 1));
    // The host has no interrupts of this device.
    assert_eq!(report.interrupts, []);
}

fn nothing_without_the_flag() {
    let mut g = Asm::new();
    g.command(MEMORY).load32(BAR1).power_off();
    let report = report(Vm::new(g).device(&FakeDevice::new().into_arc()).run());
    assert_eq!(report.exits.by_reason["mmio_read"], 1);
    assert_eq!(report.exits.registers, []);
    assert_eq!(report.config_space, Default::default());
    assert_eq!(report.devices, []);
    assert_eq!(report.kvm, Default::default());
    assert_eq!(report.first_exit_us, None);
}

/// What a run without a device does not show: `devices`, `interrupts`, and the device's phases.
fn json_of_a_device_is_kept() {
    let told = Degraded {
        code: Code::NoPeerToPeer,
        device: Some("golden".into()),
        what: "what".into(),
        why: "why".into(),
        hint: "hint".into(),
    };
    degraded::tell(told.clone());
    let mut report = run(|g| {
        g.interrupts(&[0x40])
            .command(MEMORY | IO)
            .msix_control(ENABLE);
        g.unmask_with(0, 0x40).store32(DOORBELL, 0);
        g.await_count(0x40, 1);
    });
    // The process has the losses of all tests' guests.
    report.degraded.retain(|loss| *loss == told);
    let mut report = serde_json::to_value(report).unwrap();
    // KVM names these counters.
    report.as_object_mut().unwrap().remove("kvm");
    golden::check("stats-device.txt", &golden::shape(&report));
}
