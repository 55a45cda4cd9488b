//! Network interfaces of a device, and those on top of them (VLANs and the like): up, with an address,
//! a route, or a master.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::{Below, Places, Use, names, text};
use crate::host::sysfs::Sysfs;

/// `IFF_UP` (netdevice(7)).
const UP: u32 = 1;

pub(super) fn uses(sysfs: &Sysfs, places: &Places, below: &Below) -> io::Result<Vec<Use>> {
    let class = sysfs.path("class/net");
    let routes = text(&places.proc.join("net/route"))?;
    let routes6 = text(&places.proc.join("net/ipv6_route"))?;
    let addresses6 = text(&places.proc.join("net/if_inet6"))?;
    let local = text(&places.proc.join("net/fib_trie"))?;
    let mut uses = Vec::new();
    for name in interfaces(&class, below)? {
        let path = class.join(&name);
        let ipv4 = ipv4_routes(&routes, &name);
        let mut addresses = ipv4_addresses(&ipv4, &local);
        addresses.extend(ipv6_addresses(&addresses6, &name));
        let default_route =
            ipv4.iter().any(|r| r.mask == 0) || has_default_ipv6_route(&routes6, &name);
        let master = fs::read_link(path.join("master")).ok();
        let master = master.and_then(|m| m.file_name().map(|n| n.to_string_lossy().into_owned()));
        if is_up(&path) || !addresses.is_empty() || master.is_some() {
            uses.push(Use::Interface {
                name,
                addresses,
                default_route,
                master,
            });
        }
    }
    Ok(uses)
}

/// Those of the device, in order of name, and behind them those that the kernel has put on top of them:
/// an interface has a link `upper_NAME` for each (net/core/dev.c, `netdev_adjacent_sysfs_add`).
fn interfaces(class: &Path, below: &Below) -> io::Result<Vec<String>> {
    let mut found = names(class)?;
    found.retain(|name| below.has(&class.join(name)));
    let mut at = 0;
    while let Some(name) = found.get(at) {
        for entry in names(&class.join(name))? {
            if let Some(upper) = entry.strip_prefix("upper_")
                && !found.iter().any(|name| name == upper)
            {
                found.push(upper.into());
            }
        }
        at += 1;
    }
    Ok(found)
}

/// Documentation/ABI/testing/sysfs-class-net: flags.
fn is_up(interface: &Path) -> bool {
    let flags = fs::read_to_string(interface.join("flags")).unwrap_or_default();
    let digits = flags.trim().trim_start_matches("0x");
    u32::from_str_radix(digits, 16).is_ok_and(|flags| flags & UP != 0)
}

/// A route over an interface, in host order.
struct Route {
    destination: u32,
    mask: u32,
}

/// proc_net_route: interface, destination, gateway, flags, ..., mask, ...; addresses as the
/// processor stores them, in hexadecimal.
fn ipv4_routes(text: &str, interface: &str) -> Vec<Route> {
    let address = |field: Option<&&str>| {
        let raw = u32::from_str_radix(field?, 16).ok()?;
        Some(u32::from_be_bytes(raw.to_le_bytes()))
    };
    text.lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.first() == Some(&interface))
        .filter_map(|fields| {
            Some(Route {
                destination: address(fields.get(1))?,
                mask: address(fields.get(7))?,
            })
        })
        .collect()
}

/// The host's own addresses that one of the routes leads to directly. /proc has no list of IPv4
/// addresses by interface: `fib_trie` has them all, after which line "/32 host LOCAL" follows.
fn ipv4_addresses(routes: &[Route], fib_trie: &str) -> Vec<String> {
    let mut last = None;
    let mut found = BTreeSet::new();
    for line in fib_trie.lines() {
        if let Some((_, address)) = line.split_once("-- ") {
            last = address.trim().parse::<Ipv4Addr>().ok();
        } else if line.contains("/32 host LOCAL") {
            found.extend(last);
        }
    }
    let direct = |a: &Ipv4Addr| {
        routes
            .iter()
            .any(|r| r.mask != 0 && a.to_bits() & r.mask == r.destination)
    };
    let mine = found.iter().filter(|a| direct(a));
    mine.map(Ipv4Addr::to_string).collect()
}

/// proc_net_if_inet6: address, index, prefix, scope, flags, interface. Every interface that is up
/// has a link-local address, so those say nothing.
fn ipv6_addresses(text: &str, interface: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.last() == Some(&interface))
        .filter_map(|fields| u128::from_str_radix(fields.first()?, 16).ok())
        .map(Ipv6Addr::from_bits)
        .filter(|address| !address.is_unicast_link_local())
        .map(|address| address.to_string())
        .collect()
}

/// proc_net_ipv6_route: destination, its prefix's length, ..., interface; `lo` has one that rejects.
fn has_default_ipv6_route(text: &str, interface: &str) -> bool {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .any(|fields| {
            fields.last() == Some(&interface)
                && fields.get(1) == Some(&"00")
                && fields.first().is_some_and(|d| d.bytes().all(|b| b == b'0'))
        })
}
