//! The device's PCI Express link: a link that is slower than what the device and its port can have
//! makes a run invalid (Documentation/ABI/testing/sysfs-bus-pci, current_link_speed).

use crate::context::fact::{Fact, LINK};
use crate::context::machine::Machine;

/// A link's speed in GT/s and its width.
type Link = (f64, u32);

pub(super) fn link(machine: &Machine) -> Fact {
    let pair = |speed: Option<String>, width: Option<String>| -> Option<Link> {
        let speed = speed?;
        let speed = speed.split(' ').next()?.parse().ok()?;
        let width = width?.trim_start_matches('x').parse().ok()?;
        (width > 0).then_some((speed, width))
    };
    let now = pair(
        machine.device("current_link_speed"),
        machine.device("current_link_width"),
    );
    let device = pair(
        machine.device("max_link_speed"),
        machine.device("max_link_width"),
    );
    let (Some(now), Some(device)) = (now, device) else {
        return Fact::good(LINK, "the device has no PCI Express link of its own");
    };
    let port = pair(
        machine.port("max_link_speed"),
        machine.port("max_link_width"),
    );
    let port = port.unwrap_or(device);
    let best = (device.0.min(port.0), device.1.min(port.1));
    let words = |(speed, width): Link| format!("{speed} GT/s x{width}");
    if now.0 < best.0 || now.1 < best.1 {
        return Fact::bad(
            LINK,
            format!(
                "the link runs at {}; device and port can have {}",
                words(now),
                words(best)
            ),
            format!(
                "reseat the card, then: lspci -vv -s {} | grep LnkSta",
                machine.address
            ),
        );
    }
    Fact::good(
        LINK,
        format!("{}, the best that device and port can have", words(now)),
    )
}
