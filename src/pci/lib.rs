//! The guest's view of PCI, without a host: each access returns bytes or effects.
//!
//! | file | what |
//! | --- | --- |
//! | [`bdf`] | the address of a function |
//! | [`bus`] | the tree of buses: which function answers |
//! | [`host_bridge`] | the function at 00.0 |
//! | [`root_port`] | a PCI Express root port: a bridge to a bus of its own |
//! | [`upstream`] | what a root port lets through to the functions behind it |
//! | [`position`] | where a function is: on bus 0, or behind a root port |
//! | [`port_setup`] | the bus numbers and windows of root ports, as firmware sets them |
//! | [`access`] | ports 0xcf8/0xcfc and ECAM: decode an access to function and register |
//! | [`config_space`] | a byte-granular register file |
//! | [`regs`] | the registers of the header by name |
//! | [`byte_enable`] | the bytes of a register that an access covers |
//! | [`bar`] | the six base address registers, and the expansion ROM's |
//! | [`rom`] | the content of an expansion ROM, and its limits |
//! | [`decoder`] | turns changes of BARs or COMMAND into changes of the address map |
//! | [`bar_assignment`] | gives BARs and windows their first addresses, as firmware does |
//! | [`tree_assignment`] | the same for a tree with root ports |
//! | [`bridge_windows`] | how large a root port's windows must be |
//! | [`capability`] | walks and edits the capability chains |
//! | [`express`] | the PCI Express capability: the function's type, and registers by name |
//! | [`link`] | a link's speed and width |
//! | [`atomic_ops`] | the AtomicOps that a root port completes |
//! | [`host_path`] | what a root port shows of the host's way to a device |
//! | [`clique`] | a capability that tells drivers which GPUs reach each other |
//! | [`msix`], [`msi`] | the two interrupt capabilities as state machines |
//! | [`msix_layout`] | finds the MSI-X table and the pending bits in the BARs |
//!
//! The guest is hostile: any offset, length and value gets an answer. The code does not index,
//! unwrap or panic. The device, not the guest, bounds the size of a result.

#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod access;
pub mod addr;
pub mod atomic_ops;
pub mod bar;
pub mod bar_assignment;
pub mod bdf;
pub mod bridge_windows;
pub mod bus;
pub mod byte_enable;
pub mod capability;
pub mod clique;
pub mod config_space;
pub mod decoder;
pub mod express;
pub mod host_bridge;
pub mod host_path;
pub mod link;
pub mod msi;
pub mod msix;
pub mod msix_layout;
pub mod passed;
pub mod port_assignment;
pub mod port_setup;
pub mod position;
pub mod regs;
pub mod rom;
pub mod root_port;
pub mod tree_assignment;
pub mod upstream;

pub use bdf::{Bdf, BdfError};
pub use bus::{PciError, RootBus};

/// Bytes of a function's configuration space (PCI Express 6.0, 7.2).
pub const CONFIG_SPACE_SIZE: usize = 4096;

/// One function on the bus. Several vCPUs call a function at once, so each function has its own
/// lock.
pub trait PciFunction: Send + Sync {
    /// Fills `data` with the registers at `offset`.
    ///
    /// `data` has 1, 2 or 4 bytes, naturally aligned, and `offset` is below 4096: the bus has
    /// split the guest's access into such parts.
    fn config_read(&self, offset: u16, data: &mut [u8]);

    /// Writes the registers at `offset`; widths and offsets are as in [`PciFunction::config_read`].
    fn config_write(&self, offset: u16, data: &[u8]);

    /// Brings the function to its power-on state, as at a guest's reset.
    fn reset(&self);
}

/// A message-signalled interrupt: a write of `data` to `address` (PCI Express 6.0, 6.1.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The address of the write; dword-aligned.
    pub address: u64,
    /// The value of the write.
    pub data: u32,
}
