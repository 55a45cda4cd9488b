//! Addresses and links of the calling thread's network namespace, by rtnetlink(7). Each request is
//! a header, a fixed part and attributes (netlink(7)); the kernel answers with an error number or
//! with the link.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, send, socket_with};

use crate::error::{Context, Error, Result};

/// The bytes of a message's header.
const HEADER: usize = 16;

/// Message types (linux/netlink.h, linux/rtnetlink.h).
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;

/// Flags: a request, to which an acknowledgement is wanted, and which makes something new.
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

/// Attributes (linux/if_addr.h, linux/if_link.h).
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_MACVLAN_FLAGS: u16 = 2;
const IFLA_NET_NS_FD: u16 = 28;

/// The mode of a macvtap that has all of its port's packets, and a flag: the port's own filter of
/// addresses stays on.
const MACVLAN_MODE_PASSTHRU: u32 = 8;
const MACVLAN_FLAG_NOPROMISC: u16 = 1;

/// Flags of a link (netdevice(7)): it is up, and it has a carrier.
const IFF_UP: u32 = 0x1;
const IFF_RUNNING: u32 = 0x40;

/// A socket to the kernel.
pub struct Netlink {
    socket: OwnedFd,
    /// For requests that need a socket of the Internet.
    other: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// A socket of the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel gives none.
    pub fn open() -> Result<Self> {
        let kind = SocketType::RAW;
        let made = socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, None);
        let kind = SocketType::DGRAM;
        let other = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None);
        Ok(Self {
            socket: made.context("cannot ask the kernel about network ports")?,
            other: other.context("cannot make a socket")?,
            sequence: 0,
        })
    }

    /// The number of an interface.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn index(&self, name: &str) -> Result<u32> {
        let index = name_to_index(&self.other, name);
        index.context(format!("cannot find the network interface {name}"))
    }

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<()> {
        let flags = if up { IFF_UP } else { 0 };
        let body = link(index, flags, IFF_UP);
        let done = self.ask(RTM_NEWLINK, NLM_F_ACK, &body);
        let what = if up { "up" } else { "down" };
        done.map(drop)
            .context(format!("cannot set a network interface {what}"))
    }

    /// Whether an interface is up and has a carrier.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn is_running(&mut self, index: u32) -> Result<bool> {
        let answer = self.ask(RTM_GETLINK, 0, &link(index, 0, 0));
        let answer = answer.context("cannot read the state of a network interface")?;
        let wanted = IFF_UP | IFF_RUNNING;
        Ok(number(&answer, 8).is_some_and(|flags| flags & wanted == wanted))
    }

    /// Gives an interface an address.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let family = libc::AF_INET as u8;
        let mut body = vec![family, prefix, 0, 0];
        body.extend(index.to_ne_bytes());
        for kind in [IFA_LOCAL, IFA_ADDRESS] {
            attribute(&mut body, kind, &address.octets());
        }
        let done = self.ask(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE, &body);
        done.map(drop).context(format!(
            "cannot give a network interface the address {address}"
        ))
    }

    /// Moves an interface to another namespace. It loses its addresses, and is down there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn move_to(&mut self, index: u32, namespace: BorrowedFd<'_>) -> Result<()> {
        let mut body = link(index, 0, 0);
        let fd = namespace.as_raw_fd().to_ne_bytes();
        attribute(&mut body, IFLA_NET_NS_FD, &fd);
        let done = self.ask(RTM_NEWLINK, NLM_F_ACK, &body);
        done.map(drop)
            .context("cannot move a network interface to another namespace")
    }

    /// Makes a macvtap of a name over the interface `below`, whose packets and hardware address it
    /// has all.
    ///
    /// # Errors
    /// The kernel refuses, or has no macvtap (EOPNOTSUPP).
    pub fn add_macvtap(&mut self, name: &str, below: u32) -> std::result::Result<(), Errno> {
        let mut data = Vec::new();
        let mode = MACVLAN_MODE_PASSTHRU.to_ne_bytes();
        attribute(&mut data, IFLA_MACVLAN_MODE, &mode);
        let flags = MACVLAN_FLAG_NOPROMISC.to_ne_bytes();
        attribute(&mut data, IFLA_MACVLAN_FLAGS, &flags);
        let mut body = link(0, 0, 0);
        attribute(&mut body, IFLA_IFNAME, name.as_bytes());
        attribute(&mut body, IFLA_LINK, &below.to_ne_bytes());
        self.add("macvtap", body, &data)
    }

    /// Makes two interfaces, veth0 and veth1, with a link between.
    #[cfg(test)]
    pub(crate) fn add_pair(&mut self) -> std::result::Result<(), Errno> {
        self.add("veth", link(0, 0, 0), &[])
    }

    /// Makes an interface of a kind.
    fn add(
        &mut self,
        kind: &str,
        mut body: Vec<u8>,
        data: &[u8],
    ) -> std::result::Result<(), Errno> {
        let mut info = Vec::new();
        attribute(&mut info, IFLA_INFO_KIND, kind.as_bytes());
        attribute(&mut info, IFLA_INFO_DATA, data);
        attribute(&mut body, IFLA_LINKINFO, &info);
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.ask(RTM_NEWLINK, flags, &body).map(drop)
    }

    /// Removes an interface that is no hardware.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(&mut self, index: u32) -> Result<()> {
        let done = self.ask(RTM_DELLINK, NLM_F_ACK, &link(index, 0, 0));
        done.map(drop).context("cannot remove a network interface")
    }

    /// Sends a request, and returns the body of the answer.
    fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> std::result::Result<Vec<u8>, Errno> {
        self.sequence += 1;
        let message = message(kind, flags | NLM_F_REQUEST, self.sequence, body);
        send(&self.socket, &message, SendFlags::empty())?;
        loop {
            let mut answer = vec![0; 32 << 10];
            let (read, _) = recv(&self.socket, &mut answer[..], RecvFlags::empty())?;
            answer.truncate(read);
            if number(&answer, 8) != Some(self.sequence) {
                continue;
            }
            let is_error = answer.get(4..6) == Some(&NLMSG_ERROR.to_ne_bytes());
            let body = answer.split_off(HEADER.min(answer.len()));
            return match (is_error, number(&body, 0)) {
                (true, Some(0)) | (false, _) => Ok(body),
                // The kernel answers with the negative number of the error.
                (true, Some(number)) => Err(Errno::from_raw_os_error(
                    number.wrapping_neg().cast_signed(),
                )),
                (true, None) => Err(Errno::BADMSG),
            };
        }
    }
}

/// A message.
fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = len.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    // The kernel fills in the sender.
    message.extend([0; 4]);
    message.extend(body);
    message
}

/// The fixed part of a request about a link (struct ifinfomsg).
fn link(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for field in [index, flags, change] {
        body.extend(field.to_ne_bytes());
    }
    body
}

/// Adds an attribute. The next one begins at a multiple of four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(len.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// The interface of a name, if it has a carrier within a time.
///
/// # Errors
/// There is none, or the time is over.
pub fn wait_for_carrier(
    netlink: &mut Netlink,
    index: u32,
    patience: std::time::Duration,
) -> Result<()> {
    let started = std::time::Instant::now();
    while !netlink.is_running(index)? {
        if started.elapsed() > patience {
            return Err(Error::new(format!(
                "the network port has no carrier after {} s",
                patience.as_secs()
            ))
            .with_hint("see whether the cable is in, and whether the other end is up"));
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_length_and_its_fields() {
        let mut body = link(7, IFF_UP, IFF_UP);
        attribute(&mut body, IFLA_NET_NS_FD, &5_u32.to_ne_bytes());
        let message = message(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 9, &body);
        assert_eq!(message.len(), 16 + 16 + 8);
        assert_eq!(number(&message, 0), Some(40));
        assert_eq!(number(&message, 8), Some(9));
        assert_eq!(number(&message, 16 + 4), Some(7));
        assert_eq!(number(&message, 36), Some(5));
        assert_eq!(number(&message, 37), None);
    }

    #[test]
    fn an_attribute_is_filled_up_to_four_bytes() {
        let mut body = Vec::new();
        attribute(&mut body, 7, b"abcde");
        attribute(&mut body, 8, &[]);
        assert_eq!(body[4..12], *b"abcde\0\0\0");
        assert_eq!((body[0], body[2], body.len()), (9, 7, 16));
        assert_eq!((body[12], body[14]), (4, 8));
    }

    #[test]
    fn what_is_not_there_is_told() {
        let mut netlink = Netlink::open().unwrap();
        assert!(netlink.index("no-such-port").is_err());
        assert!(netlink.is_running(u32::MAX >> 1).is_err());
    }
}
