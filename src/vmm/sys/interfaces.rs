//! Addresses of network interfaces (getifaddrs(3)).

use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{io, ptr};

/// The name of an interface, and an address of it.
pub type Address = (String, IpAddr);

/// All addresses of the interfaces in this process's network namespace, also of interfaces that are
/// down, and addresses without a route.
///
/// # Errors
/// The errno.
pub fn addresses() -> io::Result<Vec<Address>> {
    let mut first = ptr::null_mut();
    // SAFETY: the call writes a pointer to a list that it allocates.
    if unsafe { libc::getifaddrs(&mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = first;
    // SAFETY: the list is valid until it is freed below; its end is a null pointer.
    while let Some(entry) = unsafe { next.as_ref() } {
        // SAFETY: the entry is one of getifaddrs', with a valid name and address.
        found.extend(unsafe { address(entry) });
        next = entry.ifa_next;
    }
    // SAFETY: the list came from getifaddrs, and nothing refers to it any more.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

/// # Safety
/// The entry's name is a C string; its address, if it has one, has the type that its family says.
unsafe fn address(entry: &libc::ifaddrs) -> Option<Address> {
    // SAFETY: the caller's promise; an address may be missing.
    let family = unsafe { entry.ifa_addr.as_ref() }?.sa_family;
    let ip = match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: this family's addresses have this type.
            let address = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned() };
            IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(address.sin_addr.s_addr)))
        }
        libc::AF_INET6 => {
            // SAFETY: this family's addresses have this type.
            let address = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr))
        }
        _ => return None,
    };
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy();
    // An IPv4 address may have a label of its own, `eth0:1`.
    let name = name.split(':').next().unwrap_or_default();
    Some((name.to_owned(), ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only the loopback interface is the same on all machines.
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
