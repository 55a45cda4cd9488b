//! The link of a network port that is measured: its addresses, and its other end.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use crate::error::{Context, Error, Result};
use crate::network::service;
use crate::session::device::Device;
use crate::session::settings::Settings;
use crate::work::task::PortId;

/// Addresses for a link of two ports of this machine: those that are kept for benchmarks (RFC 2544,
/// C.2.2). Each is in a namespace of its own, so none can be the host's.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const PREFIX: u8 = 30;

/// The other end of a link.
#[derive(Clone, Debug)]
pub enum End {
    /// A second port of this machine.
    Here(Box<Device>),
    /// Another machine, where `mini-vmm-bench serve` runs.
    There,
}

/// A link.
#[derive(Clone, Debug)]
pub struct Link {
    /// The port that is measured, and its addresses.
    pub id: PortId,
    /// The other end.
    pub end: End,
}

impl Link {
    /// Finds the link of a port. Nothing is changed.
    ///
    /// # Errors
    /// No other end is named, or it may not be used.
    pub fn find(device: &Device, mac: &str, settings: &Settings) -> Result<Self> {
        let id = |address, prefix, peer| PortId {
            mac: mac.to_owned(),
            address,
            prefix,
            peer,
        };
        match (&settings.peer_port, settings.peer_address) {
            (Some(other), _) => {
                let other = Device::find(other)?;
                if other.address == device.address {
                    return Err(Error::new(
                        "--peer-port names the port that is measured, and a link has two ends",
                    ));
                }
                if other.port().is_none() {
                    return Err(Error::new(format!(
                        "PCI device {} of --peer-port is no network port",
                        other.address
                    )));
                }
                other.check_unused()?;
                let peer = SocketAddrV4::new(PEER, service::PORT);
                Ok(Self {
                    id: id(ADDRESS, PREFIX, peer),
                    end: End::Here(Box::new(other)),
                })
            }
            (None, Some(peer)) => {
                let (address, prefix) = settings.own_address.ok_or_else(|| {
                    Error::new(
                        "the measured port needs an address of its own to reach the other end",
                    )
                    .with_hint("such as --own-address 192.0.2.1/24, one that nobody has")
                })?;
                check_address(address, prefix, *peer.ip())?;
                Ok(Self {
                    id: id(address, prefix, peer),
                    end: End::There,
                })
            }
            (None, None) => Err(Error::new(format!(
                "PCI device {} is a network port, and needs the other end of its link",
                device.address
            ))
            .with_hint(
                "--peer-port ADDR names a second port of this machine; or let `mini-vmm-bench \
                 serve IP` run on another one, and name it: --peer-address IP --own-address IP/24",
            )),
        }
    }

    /// The other end's address with its network.
    pub fn peer(&self) -> (Ipv4Addr, u8) {
        (*self.id.peer.ip(), self.id.prefix)
    }

    /// The other end in words.
    pub fn end_in_words(&self) -> String {
        match &self.end {
            End::Here(device) => {
                let name = device.port().map_or("?", |port| port.name.as_str());
                format!(
                    "{} ({}): {name} of this machine",
                    device.address,
                    device.driver_in_words()
                )
            }
            End::There => format!("{}, another machine", self.id.peer),
        }
    }
}

/// Checks that the measured port may have an address, and reaches the other end with it.
fn check_address(address: Ipv4Addr, prefix: u8, peer: Ipv4Addr) -> Result<()> {
    let all = host::interfaces::addresses().context("cannot read the host's addresses")?;
    let mut is_mine = all.iter().filter(|(_, of)| *of == IpAddr::V4(address));
    if let Some((name, _)) = is_mine.next() {
        return Err(Error::new(format!(
            "the address {address} is in use: the interface {name} of this host has it"
        ))
        .with_hint("name another one with --own-address"));
    }
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    let network = |address: Ipv4Addr| u32::from(address) & mask;
    if address == peer || network(address) != network(peer) {
        return Err(Error::new(format!(
            "{address}/{prefix} does not reach {peer}: both must be in one network, and differ"
        ))
        .with_hint(format!(
            "such as --own-address {}/24",
            Ipv4Addr::from(u32::from(peer) ^ 1)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_free_and_reaches_the_other_end() {
        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        assert!(check_address(ADDRESS, PREFIX, PEER).is_ok());
        for (address, prefix, peer, why) in [
            ("127.0.0.1", 8, "127.0.0.2", "in use"),
            ("192.0.2.1", 24, "192.0.3.1", "does not reach"),
            ("192.0.2.1", 24, "192.0.2.1", "does not reach"),
            ("192.0.2.1", 32, "192.0.2.2", "does not reach"),
        ] {
            let said = check_address(ip(address), prefix, ip(peer)).unwrap_err();
            assert!(said.to_string().contains(why), "{said}");
        }
        assert!(check_address(ip("192.0.2.1"), 0, ip("198.51.100.1")).is_ok());
    }
}
