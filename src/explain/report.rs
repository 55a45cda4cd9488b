//! What `explain` says, as data; the fields' names are those of `--json` and do not change.
//!
//! Addresses are hexadecimal strings, sizes are numbers of bytes.

use serde::Serialize;

use crate::explain::registers::Field;

/// The whole of it.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// What keeps the devices from being passed through; then only what sysfs tells is told.
    pub problems: Vec<Problem>,
    /// Each device, in the order asked for.
    pub devices: Vec<Device>,
    /// The guest's physical addresses.
    pub guest_memory: Vec<Area>,
    /// What the IOMMU gets.
    pub dma: Dma,
}

/// What is wrong, and what to type.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// In a sentence.
    pub problem: String,
    /// What to type.
    pub hint: Option<String>,
}

/// A device and what the guest gets of it.
#[derive(Clone, Debug, Serialize)]
pub struct Device {
    /// The host's name for it.
    pub host: String,
    /// Where the guest finds it.
    pub guest: String,
    /// Its driver on the host.
    pub driver: Option<String>,
    /// Its IOMMU group, and who else is in it; none where there is no IOMMU.
    pub group: Option<Group>,
    /// How the host's kernel can reset it, best first.
    pub resets: Vec<String>,
    /// Only the header of its configuration space could be read: the rest takes root.
    pub partial: bool,
    /// Its configuration space.
    pub registers: Vec<Field>,
    /// Its BARs.
    pub bars: Vec<Bar>,
    /// Its interrupts.
    pub interrupts: Vec<Interrupt>,
}

/// An IOMMU group.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// Its number.
    pub number: u32,
    /// Its devices.
    pub members: Vec<Member>,
}

/// A device of a group.
#[derive(Clone, Debug, Serialize)]
pub struct Member {
    /// The host's name for it.
    pub host: String,
    /// Its driver.
    pub driver: Option<String>,
    /// While that driver holds it, no device of the group can be passed through.
    pub blocks: bool,
}

/// A base address register and what it decodes.
#[derive(Clone, Debug, Serialize)]
pub struct Bar {
    /// 0 to 5.
    pub index: usize,
    /// `ports`, `memory` or `memory, prefetchable`, with the width of its address.
    pub kind: String,
    /// Bytes.
    pub size: u64,
    /// Where the guest finds it at first.
    pub guest: String,
    /// What the guest reaches without an exit.
    pub mapped: Vec<Piece>,
    /// What mini-vmm answers.
    pub trapped: Vec<Piece>,
}

/// A part of a BAR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// From the BAR's start.
    pub offset: String,
    /// Bytes.
    pub size: u64,
}

/// A kind of interrupt that the guest may choose.
#[derive(Clone, Debug, Serialize)]
pub struct Interrupt {
    /// `MSI-X`, `MSI` or `INTx`.
    pub kind: &'static str,
    /// How many the guest may use.
    pub vectors: u32,
    /// How they reach the guest.
    pub way: String,
}

/// A range of guest-physical addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Area {
    /// First address.
    pub start: String,
    /// Last address.
    pub last: String,
    /// Bytes.
    pub size: u64,
    /// What is there.
    pub what: String,
    /// How deep it lies in another: 0, or 1 for what is in a window.
    pub depth: u8,
}

/// What devices can address.
#[derive(Clone, Debug, Serialize)]
pub struct Dma {
    /// `iommufd` or `container`; none where no device could be opened.
    pub interface: Option<&'static str>,
    /// RAM, at the addresses that the guest knows it by.
    pub maps: Vec<Extent>,
    /// What the IOMMU can map; empty where the kernel does not say.
    pub usable: Vec<Extent>,
    /// Between those: what it keeps for itself.
    pub reserved: Vec<Extent>,
    /// Bytes that will be pinned.
    pub pinned: u64,
    /// Bytes that this user may lock; none where there is no limit.
    pub memlock: Option<u64>,
}

/// A range of I/O addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// First address.
    pub start: String,
    /// Last address.
    pub last: String,
}
