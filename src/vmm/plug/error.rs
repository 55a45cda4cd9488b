//! Why a device is not added or not removed, and the remedy.

use std::error::Error;
use std::time::Duration;

use pci::Bdf;
use pci::bridge_windows::{NoRoom, size_text};

use crate::config::device::Slot;
use crate::config::ports::PortsConfig;

/// Whose fault a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request is wrong, whatever the VM does.
    Request,
    /// There is no such device in the guest.
    NotFound,
    /// The VM's state does not allow it now.
    State,
    /// The host has refused.
    Host,
}

/// Why a device is not added. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The run is over.
    #[error("the run has ended")]
    Ended,
    /// The vCPUs are stopped.
    #[error("the guest is paused: no device can be added")]
    Paused,
    /// The client has gone.
    #[error("nobody waits for the device any more")]
    Gone,
    /// No function is named.
    #[error("the request names no device")]
    Nothing,
    /// Functions of different devices of the host.
    #[error("{first} and {second} are not functions of one device of the host")]
    Several {
        /// One of them.
        first: String,
        /// Another.
        second: String,
    },
    /// Functions that the user wants at different ports.
    #[error("functions of one device share a root port, and the request names two slots")]
    TwoSlots,
    /// The device is there.
    #[error("{0} is the guest's already")]
    Present(String),
    /// The device was removed a moment ago.
    #[error("{0} is leaving the guest")]
    Leaving(String),
    /// The host wants the device for itself.
    #[error("the host asks for {0}")]
    Wanted(String),
    /// The device reports an error.
    #[error("{0} has failed while it was added")]
    Failed(String),
    /// The user wants the device on bus 0.
    #[error("no device can be added on bus 0 of a running guest")]
    OnBus0,
    /// There is no root port.
    #[error("the guest has no root port into which a device can be added")]
    NoPort,
    /// All ports have a device.
    #[error("all {count} root ports of the guest have a device")]
    Full {
        /// The ports.
        count: usize,
        /// What the guest should have begun with.
        more: Option<PortsConfig>,
    },
    /// The slot that the user names is no port.
    #[error("there is no root port at {0} in the guest")]
    NoSuchPort(Slot),
    /// The port that the user names has a device.
    #[error("the root port at {slot} already has {device}")]
    Taken {
        /// The port.
        slot: Slot,
        /// The device.
        device: String,
    },
    /// The windows of the port are too small.
    #[error(
        "{device} needs {} of {}, and the largest free root port of the guest has {}",
        size_text(lack.needs), lack.window, size_text(lack.has)
    )]
    NoRoom {
        /// The device.
        device: String,
        /// The window.
        lack: NoRoom,
        /// What the guest should have begun with, if there can be such ports.
        larger: Option<PortsConfig>,
    },
    /// The IOMMU of the device cannot reach all RAM.
    #[error(
        "the IOMMU of {device} cannot map the guest's RAM at {start:#x}-{last:#x}, so the device \
         cannot be added"
    )]
    OutOfReach {
        /// The device.
        device: String,
        /// The first address of the RAM.
        start: u64,
        /// The last.
        last: u64,
    },
    /// KVM would keep memory types that were right without the device.
    #[error(
        "{device} cannot be added: its IOMMU does not enforce cache coherency, and Linux {release} \
         (before 6.7) does not change the memory types of a running guest"
    )]
    OldMemoryTypes {
        /// The device.
        device: String,
        /// The kernel's release.
        release: String,
    },
    /// `managed=on` without the process that would bind the device.
    #[error("this run has no process that binds devices, so managed=on cannot be used")]
    NotManaged,
    /// The host has refused a step.
    #[error("{text}")]
    Host {
        /// The error chain.
        text: String,
        /// The remedy.
        hint: Option<String>,
        /// The cause, if it is not in the text.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
        /// Whether the request itself is wrong.
        request: bool,
    },
}

impl AddError {
    /// The host refuses because of `error`.
    pub fn host(error: impl Error + Send + Sync + 'static, hint: Option<String>) -> Self {
        Self::refused(error, hint, false)
    }

    /// The request asks for something that is not there.
    pub fn request(error: impl Error + Send + Sync + 'static, hint: Option<String>) -> Self {
        Self::refused(error, hint, true)
    }

    fn refused(
        error: impl Error + Send + Sync + 'static,
        hint: Option<String>,
        request: bool,
    ) -> Self {
        Self::Host {
            text: error.to_string(),
            hint,
            // Its own sentence is the text.
            source: error.source().map(|source| source.to_string().into()),
            request,
        }
    }

    /// Whose fault it is.
    pub fn kind(&self) -> Refusal {
        match self {
            Self::Nothing | Self::Several { .. } | Self::TwoSlots | Self::OnBus0 => {
                Refusal::Request
            }
            Self::NoSuchPort(_) => Refusal::Request,
            Self::Host { request: true, .. } => Refusal::Request,
            Self::Host { .. }
            | Self::Wanted(_)
            | Self::Failed(_)
            | Self::OutOfReach { .. }
            | Self::OldMemoryTypes { .. } => Refusal::Host,
            Self::Ended
            | Self::Paused
            | Self::Gone
            | Self::Present(_)
            | Self::Leaving(_)
            | Self::NoPort
            | Self::Full { .. }
            | Self::Taken { .. }
            | Self::NoRoom { .. }
            | Self::NotManaged => Refusal::State,
        }
    }

    /// The remedy, most often a command to type.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Host { hint, .. } => hint.clone(),
            Self::Paused => Some("let it go on: mini-vmm ctl PATH resume".into()),
            Self::Several { .. } => Some("add each device by a request of its own".into()),
            Self::TwoSlots => Some("leave `slot=` out of all functions but one".into()),
            Self::Present(name) => {
                Some(format!("remove it first: mini-vmm ctl PATH remove {name}"))
            }
            Self::Leaving(_) => Some("wait for the event device-removed, and add it then".into()),
            Self::OnBus0 => Some("leave `port=off` out".into()),
            Self::NoPort => Some("start the guest with --ports 1 or more".into()),
            Self::Full { more, .. } => Some(match more {
                Some(ports) => {
                    format!("remove a device, or start the guest with more: --ports {ports}")
                }
                None => "remove a device".into(),
            }),
            Self::NoSuchPort(_) | Self::Taken { .. } => Some(
                "leave `slot=` out for the first free root port; `mini-vmm ctl PATH pci` shows all"
                    .into(),
            ),
            Self::NoRoom { device, larger, .. } => Some(match larger {
                Some(ports) => format!("start the guest with larger windows: --ports {ports}"),
                None => format!(
                    "no port can have such a window: start the guest with the device, --vfio \
                     {device}"
                ),
            }),
            Self::OutOfReach { .. } => Some(
                "start the guest with less memory (--memory), so that it ends below the range"
                    .into(),
            ),
            Self::OldMemoryTypes { device, .. } => Some(format!(
                "start the guest with the device, --vfio {device}, or boot the host with Linux 6.7 \
                 or newer"
            )),
            Self::NotManaged => Some(
                "start the guest with --api-socket or --ports; or bind the device first: mini-vmm \
                 host bind ADDR"
                    .into(),
            ),
            Self::Wanted(_) => Some(
                "nothing, if you unbind or remove the device on the host; add it afterwards".into(),
            ),
            Self::Failed(_) => Some(
                "find the error with `dmesg | grep -i aer`; a new add resets the device".into(),
            ),
            Self::Ended | Self::Gone | Self::Nothing => None,
        }
    }
}

/// Why a device is not removed. The device stays.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The run is over.
    #[error("the run has ended")]
    Ended,
    /// The client has gone.
    #[error("nobody waits for the removal any more")]
    Gone,
    /// The vCPUs are stopped.
    #[error("the guest is paused: its driver cannot give a device up")]
    Paused,
    /// There is no such device.
    #[error("the guest has no device {0}")]
    NotFound(String),
    /// The device is not behind a port.
    #[error("{0} is on bus 0 of the guest, where no device can be given up")]
    OnBus0(String),
    /// The guest does not hear the attention button.
    #[error("the guest does not listen to the slot of {id} (root port {port})")]
    NotListening {
        /// The device.
        id: String,
        /// The port.
        port: Bdf,
    },
    /// There is no thread for the wait.
    #[error("the host has no threads left")]
    Thread(#[source] std::io::Error),
}

impl RemoveError {
    /// Whose fault it is.
    pub fn kind(&self) -> Refusal {
        match self {
            Self::NotFound(_) => Refusal::NotFound,
            Self::Ended
            | Self::Gone
            | Self::Paused
            | Self::OnBus0(_)
            | Self::NotListening { .. } => Refusal::State,
            Self::Thread(_) => Refusal::Host,
        }
    }

    /// The remedy, most often a command to type.
    pub fn hint(&self) -> Option<String> {
        let force = |id: &str| format!("mini-vmm ctl PATH remove {id} --force");
        match self {
            Self::Ended | Self::Gone | Self::NotFound(_) => None,
            Self::Paused => Some("let it go on: mini-vmm ctl PATH resume; or --force".into()),
            Self::OnBus0(id) => Some(format!(
                "take it without asking the guest: {}; start the guest with port=on for the next \
                 time",
                force(id)
            )),
            Self::NotListening { id, .. } => Some(format!(
                "load pciehp in the guest (CONFIG_HOTPLUG_PCI_PCIE; a guest without MSI needs \
                 pcie_ports=native too), or take the device without asking the guest: {}",
                force(id)
            )),
            Self::Thread(_) => Some("raise the limit of threads with `ulimit -u`".into()),
        }
    }
}

/// Why a removal that was begun has ended without success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaveUp {
    /// The guest has not turned the power off in time.
    Timeout(Duration),
    /// The guest was reset.
    Reset,
}

impl std::fmt::Display for GaveUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Timeout(after) => write!(
                f,
                "the guest has not given the device up in {} s",
                after.as_secs_f32()
            ),
            Self::Reset => f.write_str("the guest was reset meanwhile, and has the device"),
        }
    }
}
