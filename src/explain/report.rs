//! The explanation as data. The names of the fields are the keys of the JSON and do not change.
//!
//! Addresses are hexadecimal strings. Sizes are numbers of bytes.

use serde::Serialize;
use vmm::log::degraded::Degraded;

use crate::explain::registers::Field;

/// The explanation of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The reasons why devices cannot be passed through. If there is a reason, all other data come
    /// from sysfs.
    pub problems: Vec<Problem>,
    /// What the guest will get less of than its user expects, as far as this is known before the
    /// run.
    pub degraded: Vec<Degraded>,
    /// Each device, in the order of the command line.
    pub devices: Vec<Device>,
    /// The guest's physical addresses.
    pub guest_memory: Vec<Area>,
    /// The addresses that devices can access.
    pub dma: Dma,
    /// The guest's processors.
    pub guest_cpus: Cpus,
}

/// The guest's processors.
#[derive(Clone, Debug, Serialize)]
pub struct Cpus {
    /// How many there are.
    pub count: u32,
    /// Whether the guest can be a host of guests itself.
    pub nested: bool,
    /// Whether the guest has performance counters.
    pub pmu: bool,
}

/// A problem and its remedy.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// The problem, as a sentence.
    pub problem: String,
    /// The remedy, most often a command to type.
    pub hint: Option<String>,
}

/// A device, and the parts of it that the guest gets.
#[derive(Clone, Debug, Serialize)]
pub struct Device {
    /// The device's name on the host.
    pub host: String,
    /// The device's address in the guest.
    pub guest: String,
    /// The address of the root port above the device in the guest; `None` on bus 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Why the device is behind a root port, or on bus 0.
    pub port_reason: String,
    /// The link that the guest sees, behind a root port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The device's driver on the host.
    pub driver: Option<String>,
    /// The device's IOMMU group with all its devices; `None` without an IOMMU.
    pub group: Option<Group>,
    /// The host kernel's reset methods for the device, the best first.
    pub resets: Vec<String>,
    /// Whether only the header of the configuration space could be read. Only root can read the
    /// rest.
    pub partial: bool,
    /// The registers of the device's configuration space.
    pub registers: Vec<Field>,
    /// The device's BARs.
    pub bars: Vec<Bar>,
    /// The device's interrupts.
    pub interrupts: Vec<Interrupt>,
}

/// An IOMMU group.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// The group's number.
    pub number: u32,
    /// The group's devices.
    pub members: Vec<Member>,
}

/// A device of a group.
#[derive(Clone, Debug, Serialize)]
pub struct Member {
    /// The device's name on the host.
    pub host: String,
    /// The device's driver.
    pub driver: Option<String>,
    /// Whether the driver keeps guests from using the group.
    pub blocks: bool,
}

/// A base address register and what it decodes.
#[derive(Clone, Debug, Serialize)]
pub struct Bar {
    /// 0 to 5.
    pub index: usize,
    /// The kind: `ports`, `memory` or `memory, prefetchable`, with the width of the address.
    pub kind: String,
    /// The size in bytes.
    pub size: u64,
    /// The BAR's first address in the guest.
    pub guest: String,
    /// The parts that are mapped: the guest reaches them without an exit.
    pub mapped: Vec<Piece>,
    /// The parts that mini-vmm emulates.
    pub trapped: Vec<Piece>,
}

/// A part of a BAR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// The offset from the start of the BAR.
    pub offset: String,
    /// The size in bytes.
    pub size: u64,
}

/// A kind of interrupt that the guest may choose.
#[derive(Clone, Debug, Serialize)]
pub struct Interrupt {
    /// `MSI-X`, `MSI` or `INTx`.
    pub kind: &'static str,
    /// The number of interrupts that the guest may use.
    pub vectors: u32,
    /// The way by which the interrupts reach the guest.
    pub way: String,
}

/// A range of guest-physical addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Area {
    /// The first address.
    pub start: String,
    /// The last address.
    pub last: String,
    /// The size in bytes.
    pub size: u64,
    /// The use of the range.
    pub what: String,
    /// The depth: 0, or 1 for a range inside of a window.
    pub depth: u8,
}

/// The addresses that devices can access.
#[derive(Clone, Debug, Serialize)]
pub struct Dma {
    /// The interface: `iommufd` or `container`; `None` if no device could be opened.
    pub interface: Option<&'static str>,
    /// How the devices reach each other's BARs; `None` for fewer than two devices.
    pub peer_to_peer: Option<PeerToPeer>,
    /// The ranges of RAM. The I/O addresses are the guest-physical addresses.
    pub maps: Vec<Extent>,
    /// The ranges that the IOMMU can map; empty if the kernel does not show them.
    pub usable: Vec<Extent>,
    /// The gaps between the usable ranges. The IOMMU reserves these gaps.
    pub reserved: Vec<Extent>,
    /// The number of bytes that will be pinned.
    pub pinned: u64,
    /// The number of bytes that this user may lock; `None` without a limit.
    pub memlock: Option<u64>,
}

/// How devices reach each other's BARs by DMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerToPeer {
    /// The container maps the BARs by their addresses.
    Address,
    /// The devices export their BARs as dma-bufs, as far as each can.
    DmaBuf,
    /// Not at all: `degraded` has the reason.
    Missing,
    /// The devices are asked when they are open, and they are not.
    Unknown,
}

/// A range of I/O addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// The first address.
    pub start: String,
    /// The last address.
    pub last: String,
}
