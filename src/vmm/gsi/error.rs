//! The errors of delivering interrupts through KVM.

/// The reason why a GSI, its route or its irqfd cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum GsiError {
    /// Every GSI is in use.
    #[error("all of KVM's interrupt routes are in use")]
    NoGsi,
    /// KVM refuses the routing table.
    #[error("KVM_SET_GSI_ROUTING failed")]
    Routing(#[source] kvm_ioctls::Error),
    /// The routing table has more entries than its structure can hold.
    #[error("the interrupt routing table has too many entries")]
    TooMany,
    /// KVM refuses an irqfd.
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
