//! The power button in the namespace: a Generic Event Device, and the button that it notifies.
//!
//! Hardware-reduced ACPI has neither an SCI nor general-purpose events. A Generic Event Device has
//! interrupts of its own instead (ACPI 6.5, 5.6.9): the guest's driver takes the interrupt and
//! evaluates `_EVT` with its GSI. Here `_EVT` notifies the button, which is a control method power
//! button (4.8.2.2.1.2). [`crate::devices::power_button`] raises the GSI.
//!
//! The interrupt is the only event, so there is no register that tells events apart, and `_EVT`
//! makes no exit.

use acpi_tables::aml::{
    Arg, Device, EISAName, Equal, If, Interrupt, Method, Name, Notify, Path, ResourceTemplate, ZERO,
};

use crate::boot::aml::bytes;
use crate::layout::GSI_POWER_BUTTON;

/// The button was pressed while the machine was on (ACPI 6.5, 5.6.6: control method power button).
const PRESSED: u8 = 0x80;

/// `PWRB` and `GEDV`, for the scope `_SB_`.
pub(super) fn devices() -> Vec<u8> {
    let mut devices = button();
    devices.extend(events());
    devices
}

/// `_SB_.PWRB`: the button.
fn button() -> Vec<u8> {
    bytes(&Device::new(
        Path::new("PWRB"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C0C")),
            &Name::new(Path::new("_UID"), &ZERO),
        ],
    ))
}

/// `_SB_.GEDV`: the Generic Event Device. Arg0 of `_EVT` is the GSI.
fn events() -> Vec<u8> {
    bytes(&Device::new(
        Path::new("GEDV"),
        vec![
            &Name::new(Path::new("_HID"), &"ACPI0013"),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    // Consumer, edge, active high, exclusive.
                    &Interrupt::new(true, true, false, false, GSI_POWER_BUTTON),
                ]),
            ),
            &Method::new(
                Path::new("_EVT"),
                1,
                true,
                vec![&If::new(
                    &Equal::new(&Arg(0), &GSI_POWER_BUTTON),
                    vec![&Notify::new(&Path::new("\\_SB_.PWRB"), &PRESSED)],
                )],
            ),
        ],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(aml: &[u8], part: &[u8]) -> bool {
        aml.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn the_event_device_notifies_the_button_of_its_own_interrupt() {
        let aml = devices();
        // An extended interrupt descriptor (6.4.3.6): consumer and edge, one GSI.
        assert!(has(&aml, &[0x89, 6, 0, 0b0011, 1, 20, 0, 0, 0]), "{aml:x?}");
        // NotifyOp, the path from the root, BytePrefix and the value (20.2.5.3).
        let notify = b"\x86\\\x2e_SB_PWRB\x0a\x80";
        assert!(has(&aml, notify), "{aml:x?}");
        // PNP0C0C as an EISA ID.
        assert!(has(&aml, &[0x0c, 0x41, 0xd0, 0x0c, 0x0c]), "{aml:x?}");
        assert!(has(&aml, b"_HID\x0dACPI0013\0"), "{aml:x?}");
    }
}
