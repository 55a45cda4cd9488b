//! The windows of a port: base and limit registers (PCI Express 6.0, 7.5.1.3.8 to 7.5.1.3.12). Both
//! ends of a window are included. A window whose limit is below its base is closed.

use crate::addr::Range;
use crate::config_space::ConfigSpace;
use crate::port_setup::PortSetup;
use crate::regs::bridge;

/// The address bits that a base register has, from 1 MiB on.
const MEMORY_BITS: u16 = 0xfff0;
/// Low address bits of a memory window's last byte.
const MEMORY_LOW: u64 = 0xf_ffff;
/// The prefetchable window has 64-bit addresses.
const TYPE_64: u16 = 1;
/// The address bits of the base of a window of ports, from 4 KiB on.
const IO_BITS: u8 = 0xf0;
const IO_LOW: u64 = 0xfff;
/// Base and limit of a closed window, of memory and of ports.
const CLOSED: (u64, u64) = (0xfff0_f000, 0);

/// Makes the registers of the memory windows writable.
pub(super) fn set_writable(config: &mut ConfigSpace) {
    let [low, high] = MEMORY_BITS.to_le_bytes();
    for register in [bridge::MEMORY_BASE, bridge::PREFETCHABLE_BASE] {
        config.set_writable(register, &[low, high, low, high]);
    }
    config.set_writable(bridge::PREFETCHABLE_BASE_UPPER, &[0xff; 8]);
}

/// Makes the registers of the window of ports writable or not.
pub(super) fn set_io_writable(config: &mut ConfigSpace, io: bool) {
    let bits = if io { IO_BITS } else { 0 };
    config.set_writable(bridge::IO_BASE, &[bits; 2]);
}

/// Writes the windows that firmware has chosen. Without a window of ports its registers are zero,
/// by which a guest knows that there is none (7.5.1.3.6).
pub(super) fn set(config: &mut ConfigSpace, setup: &PortSetup) {
    let register = |address: u64| (address >> 16) as u16 & MEMORY_BITS;
    let (base, limit) = ends(setup.mem32);
    config.set_u16(bridge::MEMORY_BASE, register(base));
    config.set_u16(bridge::MEMORY_LIMIT, register(limit));
    let (base, limit) = ends(setup.pref64);
    config.set_u16(bridge::PREFETCHABLE_BASE, register(base) | TYPE_64);
    config.set_u16(bridge::PREFETCHABLE_LIMIT, register(limit) | TYPE_64);
    config.set_u32(bridge::PREFETCHABLE_BASE_UPPER, (base >> 32) as u32);
    config.set_u32(bridge::PREFETCHABLE_LIMIT_UPPER, (limit >> 32) as u32);
    let io = |port: u64| (port >> 8) as u8 & IO_BITS;
    let (base, limit) = setup.io.map_or((0, 0), |window| ends(Some(window)));
    config.set_u8(bridge::IO_BASE, io(base));
    config.set_u8(bridge::IO_LIMIT, io(limit));
}

/// First and last address of a window.
fn ends(window: Option<Range>) -> (u64, u64) {
    let window = window.filter(|window| window.size > 0);
    window.map_or(CLOSED, |window| {
        (window.start, window.start + (window.size - 1))
    })
}

/// The memory window and the prefetchable window, as the registers have them.
pub(super) fn memory(config: &ConfigSpace) -> [Option<Range>; 2] {
    let address = |register| u64::from(config.u16(register) & MEMORY_BITS) << 16;
    let upper = |register| u64::from(config.u32(register)) << 32;
    let base = upper(bridge::PREFETCHABLE_BASE_UPPER) | address(bridge::PREFETCHABLE_BASE);
    let limit = upper(bridge::PREFETCHABLE_LIMIT_UPPER) | address(bridge::PREFETCHABLE_LIMIT);
    [
        Range::inclusive(
            address(bridge::MEMORY_BASE),
            address(bridge::MEMORY_LIMIT) | MEMORY_LOW,
        ),
        Range::inclusive(base, limit | MEMORY_LOW),
    ]
}

/// The window of ports, as the registers have it.
pub(super) fn io(config: &ConfigSpace) -> Option<Range> {
    let port = |register| u64::from(config.u8(register) & IO_BITS) << 8;
    Range::inclusive(port(bridge::IO_BASE), port(bridge::IO_LIMIT) | IO_LOW)
}
