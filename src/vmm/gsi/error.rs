//! Why KVM does not deliver an interrupt.

/// A GSI, its route or its irqfd cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GsiError {
    /// Every GSI carries a message.
    #[error("all of KVM's interrupt routes are in use")]
    NoGsi,
    /// KVM does not accept the routing table.
    #[error("KVM_SET_GSI_ROUTING failed")]
    Routing(#[source] kvm_ioctls::Error),
    /// The routing table has more entries than its structure can hold.
    #[error("the interrupt routing table has too many entries")]
    TooMany,
    /// KVM does not accept an irqfd.
    #[error("KVM_IRQFD for GSI {gsi} failed")]
    Irqfd {
        /// The GSI.
        gsi: u32,
        /// The errno.
        source: kvm_ioctls::Error,
    },
    /// The host has no eventfd left.
    #[error("cannot make an eventfd")]
    EventFd(#[source] std::io::Error),
}
