//! What `host bind` is asked for.

use crate::sys::process::Process;

/// What `host bind` is asked for.
#[derive(Clone, Debug, Default)]
pub struct BindRequest {
    /// The devices, as the user wrote them.
    pub addresses: Vec<String>,
    /// All of their IOMMU groups.
    pub group: bool,
    /// Devices in use too.
    pub force: bool,
    /// Who may open the nodes.
    pub user: Option<String>,
    /// Make so many virtual functions of each device and bind them instead.
    pub functions: Option<u32>,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// The run that the devices are for.
    pub owner: Option<Process>,
}
