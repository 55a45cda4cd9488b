//! Uses of a device's network interfaces, and of interfaces on top of them such as VLANs: an
//! interface is up, has an address or a route, or is part of a bridge or bond.

use std::net::IpAddr;
use std::path::Path;
use std::{fs, io};

use vmm::hostinfo::sysfs::Sysfs;

use crate::in_use::lookup::{Below, names, text};
use crate::in_use::usage::Use;
use crate::interfaces::Address;
use crate::paths::HostPaths;

/// `IFF_UP` (netdevice(7)).
const UP: u32 = 1;

pub(super) fn uses(sysfs: &Sysfs, paths: &HostPaths, below: &Below) -> io::Result<Vec<Use>> {
    let class = sysfs.path("class/net");
    let routes = text(&paths.proc.join("net/route"))?;
    let routes6 = text(&paths.proc.join("net/ipv6_route"))?;
    let all = paths.addresses.read()?;
    let mut uses = Vec::new();
    for name in interfaces(&class, below)? {
        let path = class.join(&name);
        let addresses = addresses_of(&all, &name);
        let default_route =
            has_default_ipv4_route(&routes, &name) || has_default_ipv6_route(&routes6, &name);
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

/// The device's interfaces in order of name, followed by the interfaces on top of them. The
/// directory of an interface has a link `upper_NAME` for each interface on top (net/core/dev.c,
/// `netdev_adjacent_sysfs_add`).
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

/// Whether an interface is up (Documentation/ABI/testing/sysfs-class-net: flags).
fn is_up(interface: &Path) -> bool {
    let flags = fs::read_to_string(interface.join("flags")).unwrap_or_default();
    let digits = flags.trim().trim_start_matches("0x");
    u32::from_str_radix(digits, 16).is_ok_and(|flags| flags & UP != 0)
}

/// Whether /proc/net/route has a default route through the interface. A line has: interface,
/// destination, gateway, flags, ..., mask, .... Addresses are hexadecimal.
fn has_default_ipv4_route(text: &str, interface: &str) -> bool {
    text.lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .any(|fields| fields.first() == Some(&interface) && fields.get(7) == Some(&"00000000"))
}

/// An interface's addresses, without link-local addresses of IPv6: every interface that is up has
/// such an address.
fn addresses_of(all: &[Address], interface: &str) -> Vec<String> {
    all.iter()
        .filter(|(name, _)| name == interface)
        .filter(|(_, address)| match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        })
        .map(|(_, address)| address.to_string())
        .collect()
}

/// Whether /proc/net/ipv6_route has a default route through the interface. A line has: destination,
/// prefix length, ..., interface. The route of `lo` that rejects packets also looks like a default
/// route, but `lo` belongs to no device.
fn has_default_ipv6_route(text: &str, interface: &str) -> bool {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .any(|fields| {
            fields.last() == Some(&interface)
                && fields.get(1) == Some(&"00")
                && fields.first().is_some_and(|d| d.bytes().all(|b| b == b'0'))
        })
}
