//! Messages to addresses that are not the local APICs': a message is a memory write, and none of
//! these becomes an interrupt.

use std::sync::Arc;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{DOORBELL, FakeDevice, MSI, PBA, TABLE};
use crate::irq_code::{ENABLE, MSI_64, MSI_ENABLE, MSI_MASKING};
use crate::pci::{COMMAND, MASTER, MEMORY, SLOT};
use crate::ports::PORT;
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    an_entry_writes_to_ram,
    an_entry_changes_its_kind,
    a_masked_entry_writes_later,
    an_entry_to_nowhere,
    an_msi_writes_to_ram,
    a_port_writes_to_ram,
    a_reset_ends_the_writes,
];

const V: u8 = 0x41;
/// RAM to which messages go. Its low bits are those of a message for processor 0.
const AT: u32 = 0x30_0000;
/// What a message writes. Its low bits are those of an interrupt.
const DATA: u32 = 0x5a5a_0000 | V as u32;

impl Asm {
    /// Sets an entry's address and data.
    fn entry(&mut self, entry: u32, high: u32, low: u32, data: u32) -> &mut Self {
        let at = TABLE + 16 * entry;
        self.store32(at, low)
            .store32(at + 4, high)
            .store32(at + 8, data)
    }

    /// Waits until a dword of RAM has a value.
    fn await_value(&mut self, address: u32, value: u32) -> &mut Self {
        let (again, there) = (self.here(), self.label());
        self.pause().load32(address).cmp_eax(value).je(there);
        self.jmp(again).bind(there)
    }
}

fn numbers(device: &Arc<FakeDevice>, build: impl FnOnce(&mut Asm)) -> Vec<u32> {
    let mut g = Asm::new();
    g.interrupts(&[V]).command(MEMORY);
    build(&mut g);
    g.power_off();
    Vm::new(g).device(device).run().numbers()
}

/// By a small MSI-X table and by one that KVM coalesces.
fn both(build: impl Fn(&mut Asm)) -> Vec<u32> {
    let [few, many] = [FakeDevice::new(), FakeDevice::new().with_vectors(64)]
        .map(|device| numbers(&device.into_arc(), &build));
    assert_eq!(few, many);
    many
}

fn an_entry_writes_to_ram() {
    let shown = both(|g| {
        g.msix_control(ENABLE).entry(2, 0, AT, DATA).unmask(2);
        for _ in 0..3 {
            g.store32(DOORBELL, 2).await_value(AT, DATA).store32(AT, 0);
        }
        g.show_count(V);
    });
    assert_eq!(shown, [0]);
}

/// The entry stays unmasked, as a hostile guest leaves it.
fn an_entry_changes_its_kind() {
    let shown = both(|g| {
        g.msix_control(ENABLE).unmask_with(0, V);
        for round in 1..4 {
            g.store32(DOORBELL, 0).await_count(V, round);
            g.entry(0, 0, AT, DATA + round).store32(DOORBELL, 0);
            g.await_value(AT, DATA + round).show_count(V);
            g.unmask_with(0, V);
        }
        g.store32(AT, 0).store32(DOORBELL, 0).await_count(V, 4);
        g.show(AT);
    });
    assert_eq!(shown, [1, 2, 3, 0]);
}

fn a_masked_entry_writes_later() {
    let shown = both(|g| {
        g.msix_control(ENABLE).entry(1, 0, AT, DATA).unmask(1);
        g.mask(1).store32(DOORBELL, 1).show_count(V);
        g.show(AT).show(PBA);
        g.unmask(1).await_value(AT, DATA).show(PBA).show_count(V);
    });
    assert_eq!(shown, [0, 0, 1 << 1, 0, 0]);
}

/// Above RAM, in a window for BARs, in the firmware's range, and above 4 GiB with the low bits of
/// a local APIC.
fn an_entry_to_nowhere() {
    let addresses = [
        (0, 0x2000_0000),
        (0, 0xd800_0000),
        (0, 0xfed0_0000),
        (0, 0xfef0_0000),
        (1, 0xfee0_0000),
        (0x0100_0000, 0xfee0_0000),
        (u32::MAX, 0xfee0_0000),
        (u32::MAX, u32::MAX - 3),
    ];
    let shown = both(|g| {
        g.msix_control(ENABLE);
        for (high, low) in addresses {
            g.entry(0, high, low, DATA).unmask(0).store32(DOORBELL, 0);
            g.show_count(V);
        }
        g.unmask_with(0, V).store32(DOORBELL, 0).await_count(V, 1);
    });
    assert_eq!(shown, [0; 8]);
}

fn an_msi_writes_to_ram() {
    for shape in [0, MSI_64, MSI_MASKING, MSI_64 | MSI_MASKING] {
        let device = FakeDevice::new().with_msi(shape).into_arc();
        let shown = numbers(&device, |g| {
            g.msi_message(shape, V.into()).msi_control(MSI_ENABLE);
            g.store32(DOORBELL, 0).await_count(V, 1);
            g.store32(AT, u32::MAX);
            g.cfg_write(SLOT, MSI + 4, Width::Dword, AT);
            // 16 bits of data: the upper half of what is written is zero.
            g.store32(DOORBELL, 0).await_value(AT, V.into());
            g.show_count(V);
            if shape & MSI_64 != 0 {
                g.msi_message(shape, V.into());
                g.cfg_write(SLOT, MSI + 8, Width::Dword, 1);
                g.store32(DOORBELL, 0).show_count(V);
            }
            g.msi_message(shape, V.into());
            g.store32(DOORBELL, 0).await_count(V, 2).show_count(V);
        });
        let wanted: &[_] = if shape & MSI_64 != 0 {
            &[1, 1, 2]
        } else {
            &[1, 2]
        };
        assert_eq!(shown, wanted, "{shape:#x}");
    }
}

fn a_port_writes_to_ram() {
    const LINK_CONTROL: u16 = 0x50;
    const SLOT_CONTROL: u16 = 0x58;
    const SLOT_STATUS: u16 = 0x5a;
    let device = FakeDevice::new().into_arc();
    let mut g = Asm::new();
    g.interrupts(&[V]);
    let link = |g: &mut Asm| {
        for value in [0x10, 0] {
            g.write_at(PORT, LINK_CONTROL, Width::Word, value);
            g.write_at(PORT, SLOT_STATUS, Width::Word, 0x0100);
        }
    };
    g.write_at(PORT, 0x84, Width::Dword, AT);
    g.write_at(PORT, 0x8c, Width::Word, V.into());
    g.write_at(PORT, 0x82, Width::Word, 1);
    g.write_at(PORT, SLOT_CONTROL, Width::Word, 0x1120);
    // A write needs Bus Master Enable.
    g.store32(AT, u32::MAX);
    link(&mut g);
    g.show(AT).write_at(PORT, COMMAND, Width::Word, MASTER);
    link(&mut g);
    g.show(AT).show_count(V);
    for (high, low) in [(0, 0xd800_0000), (1, 0xfee0_0000), (0, 0xfed0_0000)] {
        g.write_at(PORT, 0x84, Width::Dword, low);
        g.write_at(PORT, 0x88, Width::Dword, high);
        link(&mut g);
        g.show_count(V);
    }
    g.write_at(PORT, 0x84, Width::Dword, 0xfee0_0000);
    g.write_at(PORT, 0x88, Width::Dword, 0);
    link(&mut g);
    g.await_count(V, 2).show_count(V).power_off();
    let shown = Vm::new(g).device_behind_port(&device, "1").run().numbers();
    assert_eq!(shown, [u32::MAX, V.into(), 0, 0, 0, 0, 2]);
}

/// Nothing of the first boot writes to RAM of the second.
fn a_reset_ends_the_writes() {
    /// Where the first boot leaves a mark in RAM.
    const MARK: u32 = 0x7_1000;
    let device = FakeDevice::new().into_arc();
    let shown = numbers(&device, |g| {
        let again = g.label();
        g.load32(MARK).cmp_eax(1).je(again);
        g.msix_control(ENABLE).entry(0, 0, AT, DATA).unmask(0);
        g.store32(DOORBELL, 0).await_value(AT, DATA);
        g.store32(MARK, 1).reset();
        g.bind(again).store32(AT, 0).store32(DOORBELL, 0);
        g.show_count(V).show(AT);
    });
    assert_eq!(shown, [0, 0]);
}
