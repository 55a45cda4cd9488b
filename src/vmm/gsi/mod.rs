//! Interrupts into the guest: KVM's interrupt controllers, and the GSIs that lead to them.
//!
//! A GSI is KVM's number of an interrupt line or message (Documentation/virt/kvm/api.rst, 4.52
//! KVM_SET_GSI_ROUTING). [`crate::vfio::interrupts`] connects the interrupts of the host's devices
//! to GSIs.
//!
//! | file | what |
//! | --- | --- |
//! | [`routing`] | maps each GSI to a pin or message, and eventfds to GSIs |
//! | [`msi_irqfd`] | one message-signalled interrupt, from an eventfd to a message |
//! | [`delivery`], [`by_thread`] | by irqfds, or by a thread (`irqfd=off`) |
//! | [`memory_messages`] | messages that are no interrupts, but writes to RAM |
//! | [`emulated`] | interrupts of devices that this program emulates |
//! | [`irqchip`] | the power-on state of the interrupt controllers |
//! | [`error`] | the errors of delivering interrupts through KVM |

pub mod by_thread;
pub mod delivery;
pub mod emulated;
pub mod error;
pub mod irqchip;
pub mod memory_messages;
pub mod msi_irqfd;
pub mod routing;
pub mod view;
