//! The options of `host bind`.

use vmm::sys::process::Process;

/// The options of `host bind`.
#[derive(Clone, Debug, Default)]
pub struct BindRequest {
    /// The addresses, as the user wrote them.
    pub addresses: Vec<String>,
    /// Bind all devices of the IOMMU groups.
    pub group: bool,
    /// Bind devices that the host uses, too.
    pub force: bool,
    /// The user who may open the nodes.
    pub user: Option<String>,
    /// Make this many virtual functions of each device, and bind these functions instead of the
    /// device.
    pub functions: Option<u32>,
    /// Bind the devices at each boot, too.
    pub persist: bool,
    /// Print the steps, and change nothing.
    pub dry_run: bool,
    /// The run for which the devices are bound.
    pub owner: Option<Process>,
}
