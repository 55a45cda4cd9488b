//! The errors of delivering interrupts through KVM.

use crate::errnos;

/// The reason why a GSI, its route or its irqfd cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum GsiError {
    /// Every GSI is in use.
    #[error("all of KVM's interrupt routes are in use")]
    NoGsi,
    /// KVM refuses the routing table.
    #[error("{}", errnos::text("KVM_SET_GSI_ROUTING", .0))]
    Routing(#[source] kvm_ioctls::Error),
    /// The routing table has more entries than its structure can hold.
    #[error("the interrupt routing table has too many entries")]
    TooMany,
    /// An interrupt controller cannot be read or set.
    #[error("{}", errnos::text(.call, .source))]
    Irqchip {
        /// The call.
        call: &'static str,
        /// The errno.
        source: kvm_ioctls::Error,
    },
    /// KVM refuses an irqfd.
    #[error("GSI {gsi}: {}", errnos::text("KVM_IRQFD", .source))]
    Irqfd {
        /// The GSI.
        gsi: u32,
        /// The errno.
        source: kvm_ioctls::Error,
    },
    /// The thread that delivers interrupts cannot listen to an eventfd.
    #[error("a thread cannot listen to an interrupt")]
    Listen(#[source] std::io::Error),
    /// The host has no eventfd left.
    #[error("cannot make an eventfd")]
    EventFd(#[source] std::io::Error),
}

impl GsiError {
    /// The remedy to type, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Routing(e) => errnos::hint("KVM_SET_GSI_ROUTING", e),
            Self::Irqchip { call, source } => errnos::hint(call, source),
            Self::Irqfd { source, .. } => errnos::hint("KVM_IRQFD", source),
            Self::EventFd(_) | Self::Listen(_) => {
                Some("raise the limit with `ulimit -n 4096`".into())
            }
            Self::NoGsi | Self::TooMany => None,
        }
    }
}
