//! The other end of a link, if it is a second port of this machine: the port is lent to a namespace
//! for the run, where a service answers.

use std::net::SocketAddrV4;

use crate::error::{Error, Result};
use crate::network::lent::Lent;
use crate::network::service::Service;
use crate::session::cpus;
use crate::session::link::{End, Link};

/// The other end. Its port goes back when this is dropped.
pub struct OtherEnd {
    // The service ends before its port goes.
    service: Service,
    lent: Lent,
    cpus: Vec<usize>,
}

impl OtherEnd {
    /// Starts the other end on CPUs that the subjects do not have, if there are any.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn start(link: &Link, used: &[usize]) -> Result<Option<Self>> {
        let End::Here(device) = &link.end else {
            return Ok(None);
        };
        let port = device.port();
        let port = port.ok_or_else(|| Error::new("the other end is no network port"))?;
        let lent = Lent::new(&port.name, Some(link.peer()))?;
        let cpus = beside(used, &cpus::allowed()?);
        let service = lent.run(|| {
            cpus::confine(&cpus)?;
            Service::start(SocketAddrV4::new(*link.id.peer.ip(), link.id.peer.port()))
        })??;
        Ok(Some(Self {
            service,
            lent,
            cpus,
        }))
    }

    /// Runs something at the other end.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.lent.run(|| {
            cpus::confine(&self.cpus)?;
            Ok(work())
        })?
    }

    /// Ends the service, and gives the port back.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn end(self) -> Result<()> {
        drop(self.service);
        self.lent.give_back()
    }
}

/// The CPUs that are not used; all if none is left.
fn beside(used: &[usize], allowed: &[usize]) -> Vec<usize> {
    let free = allowed.iter().filter(|cpu| !used.contains(cpu));
    let free: Vec<usize> = free.copied().collect();
    if free.is_empty() {
        allowed.to_vec()
    } else {
        free
    }
}

#[cfg(test)]
mod tests {
    use super::beside;

    #[test]
    fn the_other_end_has_other_cpus_if_there_are_any() {
        assert_eq!(beside(&[0, 1], &[0, 1, 2, 3]), [2, 3]);
        assert_eq!(beside(&[0, 1], &[0, 1]), [0, 1]);
    }
}
