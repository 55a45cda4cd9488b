//! The guest's network port: it gets its address, and waits for the other end.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::network::netlink::{self, Netlink};
use crate::network::port;
use crate::work::task::PortId;

/// Waits for the port, and sets it up.
pub(super) fn set_up(id: &PortId, patience: Duration) -> Result<()> {
    let started = Instant::now();
    let found = loop {
        let all = port::all(Path::new("/sys"), None)?;
        // A virtual function may have another address in each kernel.
        let mine = all.iter().find(|port| port.mac == id.mac);
        if let Some(port) = mine.or(all.first()) {
            break port.clone();
        }
        if started.elapsed() > patience {
            return Err(Error::new(
                "no driver of the guest's kernel has bound the device and shown the network port",
            ));
        }
        thread::sleep(Duration::from_millis(10));
    };
    let mut netlink = Netlink::open()?;
    let index = netlink.index(&found.name)?;
    netlink.add_address(index, id.address, id.prefix)?;
    netlink.set_up(index, true)?;
    netlink::wait_for_carrier(&mut netlink, index, patience)
}
