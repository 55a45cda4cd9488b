//! A guest resets the function behind a root port by the port's registers.

use vmm::vfio::device::Irq;

use crate::Test;
use crate::common::asm::Width;
use crate::device::{Call, ID, MSIX};
use crate::irq_code::ENABLE;
use crate::pci::{COMMAND, MASTER, MEMORY, bar_register};
use crate::ports::{
    BAR0, BAR1, BEHIND, BRIDGE_CONTROL, LINK_CONTROL, LINK_DISABLE, NOWHERE, PORT, RESET, THERE,
    device, look, numbers,
};
use crate::reset_kinds::{Outcome, Resets};

pub const TESTS: &[Test] = tests![
    a_secondary_bus_reset_resets_the_function,
    a_disabled_link_resets_the_function,
    a_device_without_a_reset_gets_a_hot_reset,
];

/// Resets the function by a bit of the port. The device is reset once, reads as ones until the bit
/// is cleared, and then has no addresses and decodes nothing.
fn reset_by(register: u16, bit: u32) {
    let device = device().into_arc();
    let both = MEMORY | MASTER;
    let shown = numbers(&device, |g| {
        g.commands(both, both);
        g.write_at(BEHIND, MSIX + 2, Width::Word, ENABLE);
        look(g);
        g.write_at(PORT, register, Width::Word, bit);
        look(g);
        g.show_at(BEHIND, 0);
        // Dropped.
        g.write_at(BEHIND, bar_register(0), Width::Dword, BAR0);
        g.write_at(PORT, register, Width::Word, bit);
        g.write_at(PORT, register, Width::Word, 0);
        g.show_at(BEHIND, 0).show_at(BEHIND, COMMAND);
        g.show_at(BEHIND, bar_register(0)).show_at(BEHIND, MSIX);
        look(g);
        g.write_at(BEHIND, bar_register(0), Width::Dword, BAR0);
        g.write_at(BEHIND, bar_register(1), Width::Dword, BAR1);
        g.write_at(BEHIND, COMMAND, Width::Word, MEMORY);
        look(g);
    });
    assert_eq!(shown[..2], THERE);
    assert_eq!(shown[2..5], [u32::MAX; 3]);
    assert_eq!(shown[5..8], [ID, 0x0010_0000, 0]);
    assert_eq!(shown[8] & 0xc000_0000, 0, "MSI-X is off");
    assert_eq!(shown[9..11], NOWHERE);
    assert_eq!(shown[11..], THERE);
    assert_eq!(device.count(&Call::Reset), 1);
    // The device was quiet before its reset.
    let calls = device.calls();
    let reset = calls.iter().position(|call| *call == Call::Reset).unwrap();
    let quiet = |call: &Call| matches!(call, Call::Config(4, data) if data[0] & 7 == 0);
    assert!(calls[..reset].iter().rev().take(3).any(quiet), "{calls:?}");
    let off = calls
        .iter()
        .rposition(|call| *call == Call::Disable(Irq::Msix));
    assert!(off.unwrap() < reset, "{calls:?}");
}

fn a_secondary_bus_reset_resets_the_function() {
    reset_by(BRIDGE_CONTROL, RESET);
}

fn a_disabled_link_resets_the_function() {
    reset_by(LINK_CONTROL, LINK_DISABLE);
}

/// A hot reset is made where it resets what is behind the port, and nothing else.
fn a_device_without_a_reset_gets_a_hot_reset() {
    let alone = Resets {
        hot: Outcome::Works,
        bus: &["0000:01:00.0"],
        ..Resets::NONE
    };
    let with_another = Resets {
        bus: &["0000:01:00.0", "0000:01:00.1"],
        ..alone
    };
    for (resets, hot_resets) in [(alone, 1), (with_another, 0)] {
        let mut device = device();
        device.resets = resets;
        let device = device.into_arc();
        let shown = numbers(&device, |g| {
            g.print("00000001\n");
            g.write_at(PORT, BRIDGE_CONTROL, Width::Word, RESET);
            g.write_at(PORT, BRIDGE_CONTROL, Width::Word, 0);
            g.show_at(BEHIND, 0);
        });
        assert_eq!(shown, [1, ID]);
        // One before the first boot, where that is possible, and one by the guest.
        assert_eq!(device.count(&Call::HotReset), 2 * hot_resets);
        assert_eq!(device.count(&Call::Reset), 0);
    }
}
