//! A port that the host lends to a namespace. It goes back when this is dropped, without an address
//! and down, as only such ports are lent.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::network::namespace::Namespace;
use crate::network::netlink::{Netlink, wait_for_carrier};
use crate::say;

/// A lent port, in a namespace of its own.
#[derive(Debug)]
pub struct Lent {
    namespace: Namespace,
    home: Namespace,
    name: String,
    is_away: bool,
}

impl Lent {
    /// Moves an interface of the calling thread's namespace to a new one, gives it an address, if
    /// it shall have one, and sets it up.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(name: &str, address: Option<(Ipv4Addr, u8)>) -> Result<Self> {
        let home = Namespace::own()?;
        let mut lent = Self {
            namespace: Namespace::new()?,
            home,
            name: name.to_owned(),
            is_away: false,
        };
        let mut netlink = Netlink::open()?;
        let index = netlink.index(name)?;
        netlink.move_to(index, rustix::fd::AsFd::as_fd(&lent.namespace))?;
        lent.is_away = true;
        lent.namespace.run(|| {
            let mut netlink = Netlink::open()?;
            let index = netlink.index(name)?;
            if let Some((address, prefix)) = address {
                netlink.add_address(index, address, prefix)?;
            }
            netlink.set_up(index, true)
        })??;
        Ok(lent)
    }

    /// Waits for the carrier.
    ///
    /// # Errors
    /// The time is over.
    pub fn wait_for_carrier(&self, patience: Duration) -> Result<()> {
        self.run(|| {
            let mut netlink = Netlink::open()?;
            let index = netlink.index(&self.name)?;
            wait_for_carrier(&mut netlink, index, patience)
        })?
    }

    /// Runs something in the port's namespace.
    ///
    /// # Errors
    /// As for [`Namespace::run`].
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.run(work)
    }

    /// Gives the port back.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn give_back(mut self) -> Result<()> {
        self.go_back()
    }

    pub(super) fn go_back(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.is_away) {
            return Ok(());
        }
        let (name, home) = (&self.name, &self.home);
        let back = self.namespace.run(|| {
            let mut netlink = Netlink::open()?;
            let index = netlink.index(name)?;
            netlink.set_up(index, false)?;
            netlink.move_to(index, rustix::fd::AsFd::as_fd(home))
        })?;
        back.map_err(|e: Error| {
            e.with_hint("it goes back when mini-vmm-bench has ended: ip -br link shows it")
        })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Err(error) = self.go_back() {
            say::error(&error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::network::service::Service;
    use crate::work::task::{Engine, FunctionId, PortId, Target, Task, port_works};
    use crate::work::trial::{self, Opened};

    const FIRST: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 1), 30);
    const SECOND: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 2), 30);

    /// A host's network, as far as this process may make one.
    fn host() -> Option<Namespace> {
        let made = Namespace::new();
        if let Err(error) = &made {
            let required = std::env::var_os("MINI_VMM_REQUIRE").is_some();
            assert!(!required, "{error}");
            println!("SKIPPED: {error}");
        }
        made.ok()
    }

    /// All work of a turn over two lent ports, which are back afterwards, down and in this order.
    fn all_work() {
        Netlink::open().unwrap().add_pair().unwrap();
        let (first, second) = (
            Lent::new("veth0", Some(FIRST)).unwrap(),
            Lent::new("veth1", Some(SECOND)).unwrap(),
        );
        let patience = Duration::from_secs(10);
        first.wait_for_carrier(patience).unwrap();
        assert!(Netlink::open().unwrap().index("veth0").is_err());
        let service = second.run(|| Service::start(SocketAddrV4::new(SECOND.0, 5210)));
        let service = service.unwrap().unwrap();
        let task = Task {
            works: port_works(),
            warm_up_ms: 5,
            measure_ms: 100,
            engine: Engine::Threads,
            target: Target::Port(PortId {
                mac: String::new(),
                address: FIRST.0,
                prefix: FIRST.1,
                peer: service.address,
            }),
            function: FunctionId::default(),
            destroy: None,
        };
        let never = AtomicBool::new(false);
        let done = first.run(|| {
            let mut done = 0;
            let opened = Opened::Peer(service.address);
            let worked = trial::work(&task, opened, 1, &never, &mut |message| {
                done += usize::from(matches!(message, crate::work::task::Message::Done(_)));
            });
            worked.map(|()| done)
        });
        assert_eq!(done.unwrap().unwrap(), 4);
        drop(service);
        first.give_back().unwrap();
        // Dropping gives back, too.
        drop(second);
        let mut netlink = Netlink::open().unwrap();
        for name in ["veth0", "veth1"] {
            let index = netlink.index(name).unwrap();
            assert!(!netlink.is_running(index).unwrap());
        }
        assert!(Lent::new("veth7", Some(FIRST)).is_err());
    }

    #[test]
    fn lent_ports_work_and_go_back() {
        if let Some(host) = host() {
            host.run(all_work).unwrap();
        }
    }

    #[test]
    fn an_address_that_is_refused_leaves_no_port_away() {
        let Some(host) = host() else { return };
        host.run(|| {
            Netlink::open().unwrap().add_pair().unwrap();
            let bad = (FIRST.0, 33);
            assert!(Lent::new("veth0", Some(bad)).is_err());
            assert!(Netlink::open().unwrap().index("veth0").is_ok());
        })
        .unwrap();
    }
}
