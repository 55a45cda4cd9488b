//! What a device was before it was bound, and what was done with it.

use std::path::PathBuf;

use pci::Bdf;
use serde::{Deserialize, Serialize};
use vmm::sys::process::Process;

use crate::bind::facts::Facts;
use crate::bind::form::{address, optional_address, run, write_run};

/// The owner that a node had before a user got the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The node under /dev/vfio.
    pub path: PathBuf,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// What a device was, and what was done with it. The field names are the JSON keys of its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The device.
    #[serde(rename = "device", deserialize_with = "address")]
    pub bdf: Bdf,
    /// The device's identity, from its attribute `modalias`: after a hot plug, another device may
    /// have the same address.
    pub modalias: String,
    /// The device's IOMMU group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// The driver that the device had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// That driver's module, in case it has to be loaded again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// The driver_override that the device had.
    #[serde(rename = "override", skip_serializing_if = "Option::is_none")]
    pub driver_override: Option<String>,
    /// The VFIO driver that the device got; `None` when it keeps its own driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
    /// The device that this one was bound along with: both go back together.
    #[serde(
        default,
        deserialize_with = "optional_address",
        skip_serializing_if = "Option::is_none"
    )]
    pub along: Option<Bdf>,
    /// The run that the device is for: the device goes back at that run's end.
    #[serde(
        default,
        deserialize_with = "run",
        serialize_with = "write_run",
        skip_serializing_if = "Option::is_none"
    )]
    pub owner: Option<Process>,
    /// The user that got the device's nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// The nodes that changed their owner.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Node>,
    /// How many virtual functions were made of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub functions: Option<u32>,
    /// Whether the host's drivers took new virtual functions before. The setting is off only while
    /// functions are made here.
    #[serde(default)]
    pub autoprobe: bool,
}

impl Record {
    /// A record that holds no more than the address.
    pub(super) fn new(bdf: Bdf) -> Self {
        Self {
            bdf,
            modalias: String::new(),
            group: None,
            driver: None,
            module: None,
            driver_override: None,
            bound: None,
            along: None,
            owner: None,
            user: None,
            nodes: Vec::new(),
            functions: None,
            autoprobe: false,
        }
    }

    /// A record of a device before its first change.
    pub(super) fn of(facts: &Facts) -> Self {
        Self {
            modalias: facts.modalias.clone(),
            group: facts.device.group,
            driver: facts.device.driver.clone(),
            module: facts.module.clone(),
            driver_override: facts.driver_override.clone(),
            ..Self::new(facts.bdf())
        }
    }

    /// Whether the record is of this device, and not of another that had the address before.
    pub fn is_of(&self, device: &Facts) -> bool {
        self.bdf == device.bdf() && self.modalias == device.modalias
    }
}
