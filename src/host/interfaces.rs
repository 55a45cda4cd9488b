//! Addresses of network interfaces (getifaddrs(3)).

use std::io;
use std::net::IpAddr;

/// The name of an interface, and one of the interface's addresses.
pub type Address = (String, IpAddr);

/// The addresses of all interfaces in this process's network namespace, also of interfaces that are
/// down.
///
/// # Errors
/// The errno of getifaddrs(3).
pub fn addresses() -> io::Result<Vec<Address>> {
    let found = if_addrs::get_if_addrs()?.into_iter();
    Ok(found
        .map(|found| (interface(&found.name), found.ip()))
        .collect())
}

/// The interface's name from a label: an IPv4 address may have a label such as `eth0:1`.
fn interface(label: &str) -> String {
    label.split(':').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn a_label_names_its_interface() {
        assert_eq!(interface("eth0:1"), "eth0");
        assert_eq!(interface("eth0"), "eth0");
    }

    /// Compares with /proc. The addresses differ between machines, but both sources must agree.
    #[test]
    fn the_kernel_says_the_same_elsewhere() {
        let found = addresses().unwrap();
        let text = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
        let wanted = text.lines().filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let bits = u128::from_str_radix(fields.first()?, 16).ok()?;
            let address = IpAddr::V6(Ipv6Addr::from_bits(bits));
            Some(((*fields.last()?).to_owned(), address))
        });
        for address in wanted {
            assert!(found.contains(&address), "{address:?} is not of {found:?}");
        }
        let local = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
        let loopback = local.contains("127.0.0.1");
        let address = ("lo".to_owned(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert!(found.contains(&address) || !loopback, "{found:?}");
    }
}
