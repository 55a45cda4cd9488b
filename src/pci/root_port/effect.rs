//! What a change of a port's registers asks of the VMM.

use crate::Message;
use crate::upstream::Forwarding;

/// What a change of a port's registers asks of the VMM, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortEffect {
    /// The port lets something else through: BARs behind it appear or vanish.
    Forward(Forwarding),
    /// The functions behind the port get a hot reset, because the secondary bus is in reset or the
    /// link has been disabled (PCI Express 6.0, 6.6.1), or the slot has lost its power. They read
    /// as ones until all that is over.
    Reset,
    /// The port sends this message: an event of its slot.
    Message(Message),
    /// The port asserts its interrupt pin, or no longer.
    Pin(bool),
}
