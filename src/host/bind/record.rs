//! A device's state before it was bound, and the changes that were made.

use std::path::PathBuf;

use pci::Bdf;
use serde::{Deserialize, Serialize};
use vmm::sys::process::Process;

use crate::bind::facts::Facts;
use crate::bind::form::{address, optional_address, run, write_run};

/// A node, and its owner before a user got it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The node under /dev/vfio.
    pub path: PathBuf,
    /// The earlier user.
    pub uid: u32,
    /// The earlier group.
    pub gid: u32,
}

/// A device's state before it was bound, and the changes that were made. The names of the fields
/// are the keys in the record's JSON file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The device.
    #[serde(rename = "device", deserialize_with = "address")]
    pub bdf: Bdf,
    /// The device's identity, from its attribute `modalias`. After a hot plug, another device may
    /// have the same address.
    pub modalias: String,
    /// The device's IOMMU group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// The driver that the device had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The module of that driver, in case the module must be loaded again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// The driver_override that the device had.
    #[serde(rename = "override", skip_serializing_if = "Option::is_none")]
    pub driver_override: Option<String>,
    /// The VFIO driver that the device got; `None` if the device keeps its driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
    /// The named device along with which this device was bound. Both devices are given back
    /// together.
    #[serde(
        default,
        deserialize_with = "optional_address",
        skip_serializing_if = "Option::is_none"
    )]
    pub along: Option<Bdf>,
    /// The run for which the device is bound. The device is given back when the run ends.
    #[serde(
        default,
        deserialize_with = "run",
        serialize_with = "write_run",
        skip_serializing_if = "Option::is_none"
    )]
    pub owner: Option<Process>,
    /// The user who got the device's nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// The nodes whose owner changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Node>,
    /// How many virtual functions were made of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub functions: Option<u32>,
    /// Whether host drivers bound new virtual functions before. The setting is off only while `host
    /// bind` makes functions.
    #[serde(default)]
    pub autoprobe: bool,
}

impl Record {
    /// An empty record with only the address.
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

    /// Whether the record belongs to this device, and not to another device that had the address
    /// before.
    pub fn is_of(&self, device: &Facts) -> bool {
        self.bdf == device.bdf() && self.modalias == device.modalias
    }
}
