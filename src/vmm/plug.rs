//! Adding a device to a running guest, and removing one: what is asked, and what is answered.
//!
//! | file | what |
//! | --- | --- |
//! | `error` | why a device is not added or not removed, and the remedy |
//! | [`host_side`] | what an add takes from the host, step by step |
//!
//! `machine::plugged` does the work. The controls know it by [`HotPlug`] alone.

mod error;
pub mod host_side;
pub(crate) mod look;

use std::sync::Arc;
use std::time::Duration;

pub use error::{AddError, GaveUp, Refusal, RemoveError};
use pci::Bdf;

use crate::config::device::DeviceConfig;
use crate::memory::dma::DmaMap;
use crate::vfio::function::VfioFunction;

/// How long a removal waits for the guest, unless the user says something else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A device to add: one function, or several functions of one device of the host.
#[derive(Clone, Debug)]
pub struct AddRequest {
    /// The functions.
    pub devices: Vec<DeviceConfig>,
}

/// A device that was added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// The functions.
    pub functions: Vec<AddedFunction>,
    /// Whether the guest hears of the device. A guest that does not listen to the slot does not
    /// turn its power on either, and does not see the device before the next reboot.
    pub heard: bool,
}

/// A function that was added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedFunction {
    /// The host's name, by which the function is removed.
    pub name: String,
    /// The address in the guest.
    pub bdf: Bdf,
    /// The address of the root port above.
    pub port: Bdf,
}

/// A device to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveRequest {
    /// The host's name of one of the device's functions.
    pub id: String,
    /// Whether the guest is not asked.
    pub force: bool,
    /// How long the guest is waited for; `None` is [`PATIENCE`].
    pub timeout: Option<Duration>,
}

/// What has come of a request to remove a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The attention button was pressed, now or by an earlier request that is still pending. An
    /// event tells of the end.
    Requested,
    /// The device is the host's again.
    Removed,
}

/// Why a device has left the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovedBy {
    /// The user asked, and the guest has given it up.
    Request,
    /// The user did not wait for the guest.
    Force,
    /// The host asked for the device (VFIO_PCI_REQ_IRQ_INDEX).
    Host,
}

impl RemovedBy {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Force => "force",
            Self::Host => "host",
        }
    }
}

/// Adds and removes devices, and knows those that are there.
pub trait HotPlug: Send + Sync {
    /// Adds a device. Returns when the guest has been told of it.
    ///
    /// # Errors
    /// The reason, after everything was undone. `gone` ends an add between two steps.
    fn add(&self, request: &AddRequest, gone: &dyn Fn() -> bool) -> Result<Added, AddError>;

    /// Asks the guest for a device, or takes it away.
    ///
    /// # Errors
    /// The reason; the device stays. `gone` ends the wait for the devices with which the guest
    /// begins.
    fn remove(
        &self,
        request: &RemoveRequest,
        gone: &dyn Fn() -> bool,
    ) -> Result<Removal, RemoveError>;

    /// The functions that are there now, with their addresses in the guest.
    fn functions(&self) -> Vec<(Bdf, Arc<VfioFunction>)>;

    /// What devices reach by DMA now.
    fn dma_maps(&self) -> Vec<DmaMap>;
}
