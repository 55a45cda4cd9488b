//! What an add takes from the host, in the order of an add. The program's part opens devices by
//! VFIO; a test has devices of its own, and steps that fail.

use std::sync::Arc;

use pci::bar::Bars;

use crate::config::device::DeviceConfig;
use crate::memory::dma::Dma;
use crate::plug::AddRequest;
use crate::plug::error::AddError;
use crate::vfio::device::SharedDevice;

/// A function of the host that may be added, as sysfs describes it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The host's name.
    pub name: String,
    /// The number of the function in its device on the host.
    pub number: u8,
    /// The BARs, without addresses; `None` if only the open device tells.
    pub bars: Option<Bars>,
}

/// Devices that are open for the guest.
pub struct OpenForAdd {
    /// In the order of the request.
    pub devices: Vec<SharedDevice>,
    /// The maps of guest memory that the devices use; `None` without an IOMMU, as in a test.
    pub dma: Option<Arc<Dma>>,
}

/// Binds devices to VFIO for a run, and gives them back: `managed=on`.
pub trait Claims: Send + Sync {
    /// Checks that no call of an earlier run sleeps for a device.
    ///
    /// # Errors
    /// One does.
    fn check(&self, devices: &[DeviceConfig]) -> Result<(), AddError>;

    /// Binds the devices at these addresses.
    ///
    /// # Errors
    /// A device cannot be bound. No device is bound then.
    fn bind(&self, addresses: &[String]) -> Result<(), AddError>;

    /// Gives those of these devices back that were bound for the run.
    fn give_back(&self, names: &[String]);

    /// The run ends: no answer is waited for much longer. What is bound for the run is given back
    /// with the run's other devices.
    fn end(&self);
}

/// The host's part of an add. Each step comes after the one before, and is undone in the reverse
/// order: [`HostSide::unmap`], dropping the devices, [`HostSide::give_back`].
pub trait HostSide: Send + Sync {
    /// Looks at the devices in sysfs, without touching them. `present` are the host's names of the
    /// guest's devices.
    ///
    /// # Errors
    /// A device that cannot be added.
    fn look(&self, request: &AddRequest, present: &[String]) -> Result<Vec<Found>, AddError>;

    /// Checks that this process may lock the guest's memory, and that the host has as much.
    ///
    /// # Errors
    /// A limit that is too low.
    fn check_limits(&self, request: &AddRequest) -> Result<(), AddError>;

    /// Binds the devices with `managed=on` to VFIO for this run.
    ///
    /// # Errors
    /// A device cannot be bound. No device is bound then.
    fn claim(&self, request: &AddRequest) -> Result<(), AddError>;

    /// Gives devices that were claimed back to their host drivers. Others stay.
    fn give_back(&self, names: &[String]);

    /// Opens the devices. They reach no memory yet, unless it is mapped for other devices already.
    ///
    /// # Errors
    /// A device cannot be opened. All are closed then.
    fn open(&self, request: &AddRequest) -> Result<OpenForAdd, AddError>;

    /// Maps all RAM and the BARs of the guest's other devices, if that is not done yet. `go_on` is
    /// called with the bytes that are mapped and all bytes of RAM, and returns whether to go on.
    ///
    /// # Errors
    /// Memory cannot be mapped, or `go_on` has returned `false`. What was mapped for these devices
    /// alone is unmapped again.
    fn map(&self, open: &OpenForAdd, go_on: &dyn Fn(u64, u64) -> bool) -> Result<(), AddError>;

    /// Ends the use of guest memory by these devices, of which `close` then closes all: without
    /// another device, memory is unmapped before.
    fn unmap(&self, dma: Option<&Arc<Dma>>, devices: usize, close: &mut dyn FnMut());

    /// The number of devices that use these maps has changed: with one alone, no BAR is mapped for
    /// others.
    fn tell_peers(&self, _dma: Option<&Arc<Dma>>) {}

    /// The run ends: no other process is waited for much longer.
    fn end(&self) {}
}
