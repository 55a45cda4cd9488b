//! The device's PCI Express link: a link that is slower than what the device and its port can have
//! makes a run invalid (Documentation/ABI/testing/sysfs-bus-pci, current_link_speed).

use crate::context::fact::{Fact, LINK, LINK_UNDER_LOAD};
use crate::context::machine::Machine;

/// A link's speed in GT/s and its width.
pub type Link = (f64, u32);

/// The links that were seen while work was under way, each with how often.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded(Vec<(Link, u64)>);

impl Loaded {
    /// Adds a link that was seen.
    pub fn add(&mut self, link: Link) {
        match self.0.iter_mut().find(|(known, _)| *known == link) {
            Some((_, count)) => *count += 1,
            None => self.0.push((link, 1)),
        }
    }
}

/// The device's link now, if it has one.
pub fn now(machine: &Machine) -> Option<Link> {
    pair(
        machine.device("current_link_speed"),
        machine.device("current_link_width"),
    )
}

fn pair(speed: Option<String>, width: Option<String>) -> Option<Link> {
    let speed = speed?;
    let speed = speed.split(' ').next()?.parse().ok()?;
    let width = width?.trim_start_matches('x').parse().ok()?;
    (width > 0).then_some((speed, width))
}

/// What device and port can have, by the lesser of each.
fn best(machine: &Machine) -> Option<Link> {
    let device = pair(
        machine.device("max_link_speed"),
        machine.device("max_link_width"),
    )?;
    let port = pair(
        machine.port("max_link_speed"),
        machine.port("max_link_width"),
    );
    let port = port.unwrap_or(device);
    Some((device.0.min(port.0), device.1.min(port.1)))
}

fn is_less(link: Link, best: Link) -> bool {
    link.0 < best.0 || link.1 < best.1
}

fn words((speed, width): Link) -> String {
    format!("{speed} GT/s x{width}")
}

/// The link before the work. A link that is idle may be slower than the same link under load.
pub(super) fn link(machine: &Machine) -> Fact {
    let (Some(now), Some(best)) = (now(machine), best(machine)) else {
        return Fact::good(LINK, "the device has no PCI Express link of its own");
    };
    if is_less(now, best) {
        return Fact::bad(
            LINK,
            format!(
                "the link runs at {}; device and port can have {}",
                words(now),
                words(best)
            ),
            remedy(machine),
        );
    }
    Fact::good(
        LINK,
        format!("{}, the best that device and port can have", words(now)),
    )
}

fn remedy(machine: &Machine) -> String {
    format!(
        "reseat the card, then: lspci -vv -s {} | grep LnkSta",
        machine.address
    )
}

/// The link while the work ran; `None` if nobody has looked. The link was slow if it was so at half
/// of the looks or more: a single look may come while the link changes its speed.
pub(super) fn loaded(machine: &Machine, loaded: &Loaded) -> Option<Fact> {
    let best = best(machine)?;
    let sum = |links: &[&(Link, u64)]| links.iter().map(|(_, count)| count).sum::<u64>();
    let looks = sum(&loaded.0.iter().collect::<Vec<_>>());
    let slower = loaded.0.iter().filter(|(link, _)| is_less(*link, best));
    let slower: Vec<&(Link, u64)> = slower.collect();
    let count = sum(&slower);
    let most = slower.iter().max_by_key(|(_, count)| *count);
    Some(match most {
        _ if looks == 0 => return None,
        None => Fact::good(
            LINK_UNDER_LOAD,
            format!(
                "{} at least at all of {looks} looks while the work ran",
                words(best)
            ),
        ),
        Some((link, _)) => {
            let text = format!(
                "the link was slower at {count} of {looks} looks while the work ran, mostly {}; \
                 device and port can have {}",
                words(*link),
                words(best)
            );
            match count * 2 < looks {
                true => Fact::poor(LINK_UNDER_LOAD, text, remedy(machine)),
                false => Fact::bad(LINK_UNDER_LOAD, text, remedy(machine)),
            }
        }
    })
}
