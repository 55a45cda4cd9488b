//! Intel's integrated GPU: registers beyond the header that no capability has.
//!
//! Firmware gives the GPU a part of the host's memory ("stolen memory") and writes its addresses
//! into registers of configuration space. None of that memory is the guest's. The OpRegion, which
//! VFIO offers as a region of its own, has the firmware's tables of displays. It stays with the
//! host too: it may lead to more tables by address (RVDA), and its mailboxes ask the host's
//! firmware to act. Without it, Linux's i915 driver renders and computes, and finds a display only
//! by itself.

use pci::byte_enable;
use pci::config_space::ConfigSpace;
use pci::regs;

use crate::vfio::function::policy::rule::Treatment::Emulate;
use crate::vfio::function::policy::rule::{READ_ONLY, Register, register};

const INTEL: u16 = 0x8086;
/// The class of display controllers.
const DISPLAY: u8 = 0x03;
/// The address that an integrated GPU has on every host.
const HOME: &str = "0000:00:02.0";
/// Graphics control, GGC.
pub(super) const GGC: u16 = 0x50;
/// BAR 0 has 16 MiB or more from the eighth generation on, and 4 MiB before.
const GENERATION_8: u64 = 16 << 20;

const STOLEN: &str = "no memory of the host's is the guest's: address 0";
const FIRMWARE: &str = "a write asks the host's firmware to act";

/// The registers. A byte that a capability has is left alone: on some generations the PCI Express
/// capability is at 0x70.
pub const REGISTERS: &[Register] = &[
    register(
        GGC,
        2,
        "graphics control",
        Emulate,
        "stolen memory of size 0; the size of the translation table is the device's",
    ),
    register(0x5c, 4, "base of stolen memory", Emulate, STOLEN),
    register(0x70, 4, "base of the translation table", Emulate, STOLEN),
    register(
        0xc0,
        8,
        "base of stolen memory (generation 11)",
        Emulate,
        STOLEN,
    ),
    register(0xe0, 12, "SWSMI, ASLE, SWSCI", Emulate, FIRMWARE),
    register(0xfc, 4, "OpRegion", Emulate, "no OpRegion: address 0"),
];

/// What is done with registers that are neither in a capability nor in [`REGISTERS`].
pub(super) const GAP: Register = register(
    0x40,
    0xc0,
    "other registers",
    READ_ONLY,
    "firmware sets them up with the rest of the host",
);

/// Whether a device is Intel's integrated GPU.
pub fn is_igd(name: &str, snapshot: &[u8]) -> bool {
    name == HOME
        && byte_enable::u16_at(snapshot, regs::VENDOR.into()) == Some(INTEL)
        && byte_enable::u8_at(snapshot, usize::from(regs::REVISION) + 3) == Some(DISPLAY)
}

/// Graphics control with a stolen memory of size 0 (GMS). `bar_0` is the size of BAR 0.
pub(super) fn no_stolen_memory(config: &mut ConfigSpace, bar_0: u64) {
    let size = if bar_0 >= GENERATION_8 {
        0xff00
    } else {
        0x00f8
    };
    config.set_u16(GGC, config.u16(GGC) & !size);
}
