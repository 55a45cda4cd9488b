//! What the threads of all vCPUs share.

use std::sync::Arc;

use crate::bus::Bus;
use crate::coalesced::Coalesced;
use crate::counters::exits::Exits;
use crate::guest_event::Notifier;
use crate::memory::gate::Gate;

/// What the threads share.
#[derive(Clone)]
pub struct Shared {
    /// Where accesses go.
    pub bus: Arc<Bus>,
    /// Writes that come before what an exit asks for.
    pub coalesced: Arc<Coalesced>,
    /// Where a vCPU waits that lets a device use RAM.
    pub gate: Arc<Gate>,
    /// Who is told that a vCPU cannot go on.
    pub notifier: Arc<Notifier>,
    /// Exits are counted here.
    pub exits: Arc<Exits>,
    /// Who is asked when KVM cannot get a page.
    pub lost_pages: Arc<dyn LostPages>,
}

/// Knows whose pages the guest has, for when KVM cannot get one (KVM_RUN's EFAULT).
pub trait LostPages: Send + Sync {
    /// Takes the page at a guest-physical address, or whichever it was where KVM does not say, out
    /// of the guest's reach. Tells whether the guest can go on without it.
    fn take_away(&self, address: Option<u64>) -> bool;
}
