//! Interrupts into the guest: KVM's interrupt controllers, and the GSIs that lead to them.
//!
//! A GSI is KVM's number of an interrupt line or message (Documentation/virt/kvm/api.rst, 4.52
//! KVM_SET_GSI_ROUTING). How a device of the host comes by its interrupts is in
//! [`crate::vfio::interrupts`].
//!
//! | file | what |
//! | --- | --- |
//! | [`routing`] | which GSI means which pin or message, and the eventfds that raise one |
//! | [`msi_irqfd`] | one message-signalled interrupt, from an eventfd to a message |
//! | [`irqchip`] | the power-on state of the interrupt controllers |
//! | [`error`] | why KVM does not deliver an interrupt |

pub mod error;
pub mod irqchip;
pub mod msi_irqfd;
pub mod routing;
