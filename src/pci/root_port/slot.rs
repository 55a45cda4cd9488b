//! The slot of a port that devices can be plugged into (PCI Express 6.0, 6.7.1, 7.5.3.9 to
//! 7.5.3.11): presence, the state of the link, an attention button, a power controller and its
//! indicator.
//!
//! The controller takes each command at once, and so completes none by an event (No Command
//! Completed Support): a driver waits for no command, and handles one interrupt less for each.

use crate::config_space::ConfigSpace;
use crate::root_port::express;

const CAPABILITIES: u16 = express::OFFSET + 0x14;
const CONTROL: u16 = express::OFFSET + 0x18;
const STATUS: u16 = express::OFFSET + 0x1a;

/// Slot Capabilities: attention button, power controller and power indicator are present; a device
/// may go by surprise; hot-plug capable; no command is completed by an event.
const PRESENT: u32 = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 18;
const NUMBER_SHIFT: u32 = 19;

/// Slot Control: the enables of events (bits 0 to 4 and 12) and of the interrupt, indicators, and
/// the power controller.
const CONTROL_BITS: u16 = 0x17ff;
const INTERRUPT_ENABLE: u16 = 1 << 5;
const POWER_INDICATOR: u16 = 3 << 8;
const INDICATOR_ON: u16 = 1 << 8;
const INDICATOR_BLINKS: u16 = 2 << 8;
const INDICATOR_OFF: u16 = 3 << 8;
const POWER_OFF: u16 = 1 << 10;
const LINK_CHANGED_ENABLE: u16 = 1 << 12;

/// Slot Status: the attention button was pressed.
pub(super) const BUTTON: u16 = 1 << 0;
/// Slot Status: presence has changed.
pub(super) const PRESENCE_CHANGED: u16 = 1 << 3;
/// Slot Status: a device is present.
const PRESENCE: u16 = 1 << 6;
/// Slot Status: the link has become active or inactive.
pub(super) const LINK_CHANGED: u16 = 1 << 8;
/// Events, which a write of one clears.
const EVENTS: u16 = 0x011f;

/// Adds the registers, of a slot with this number.
pub(super) fn add(config: &mut ConfigSpace, number: u8) {
    config.set_u32(CAPABILITIES, PRESENT | u32::from(number) << NUMBER_SHIFT);
    config.set_writable(CONTROL, &CONTROL_BITS.to_le_bytes());
    config.set_w1c(STATUS, &EVENTS.to_le_bytes());
}

/// Sets the registers to power-on: a device is there and has power, or the slot is empty and off.
pub(super) fn power_on(config: &mut ConfigSpace, occupied: bool) {
    let (control, status) = match occupied {
        true => (INDICATOR_ON, PRESENCE),
        false => (INDICATOR_OFF | POWER_OFF, 0),
    };
    config.set_u16(CONTROL, control);
    config.set_u16(STATUS, status);
}

/// Whether a device has come or gone.
pub(super) fn set_presence(config: &mut ConfigSpace, occupied: bool) {
    let status = config.u16(STATUS) & !PRESENCE;
    config.set_u16(STATUS, status | if occupied { PRESENCE } else { 0 });
}

/// Whether the power indicator is off: the guest has finished with the device that was there. A
/// guest waits for a second after it has turned the power off, and ignores what comes meanwhile
/// (drivers/pci/hotplug/pciehp_ctrl.c, `remove_board`).
pub(super) fn indicator_is_off(config: &ConfigSpace) -> bool {
    config.u16(CONTROL) & POWER_INDICATOR == INDICATOR_OFF
}

/// Whether the slot has power.
pub(super) fn has_power(config: &ConfigSpace) -> bool {
    config.u16(CONTROL) & POWER_OFF == 0
}

/// Lets events be pending until the guest clears them.
pub(super) fn raise(config: &mut ConfigSpace, events: u16) {
    config.set_u16(STATUS, config.u16(STATUS) | events);
}

/// Whether an enabled event is pending, and interrupts are enabled (6.7.3.4).
pub(super) fn interrupts(config: &ConfigSpace) -> bool {
    config.u16(CONTROL) & INTERRUPT_ENABLE != 0 && enabled(config) & config.u16(STATUS) != 0
}

/// The events that the guest has enabled, as bits of Slot Status.
fn enabled(config: &ConfigSpace) -> u16 {
    let control = config.u16(CONTROL);
    let link = match control & LINK_CHANGED_ENABLE {
        0 => 0,
        _ => LINK_CHANGED,
    };
    // The other enables have the same bits as their events.
    control & EVENTS & !LINK_CHANGED | link
}

/// Whether the guest hears of these events by interrupts.
pub(super) fn listens(config: &ConfigSpace, events: u16) -> bool {
    config.u16(CONTROL) & INTERRUPT_ENABLE != 0 && enabled(config) & events != 0
}

/// Whether the guest lets the power indicator blink: it has taken a press of the button, and a
/// second press cancels (6.7.1.1.2).
pub(super) fn indicator_blinks(config: &ConfigSpace) -> bool {
    config.u16(CONTROL) & POWER_INDICATOR == INDICATOR_BLINKS
}
