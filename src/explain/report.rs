//! What `explain` says, as data. The names of the fields are those of `--json` and do not change.
//!
//! Addresses are hexadecimal strings, sizes are numbers of bytes.

use serde::Serialize;

use crate::explain::registers::Field;

/// The explanation of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// Why the devices cannot be passed through; the rest then comes from sysfs alone.
    pub problems: Vec<Problem>,
    /// Each device, in the order asked for.
    pub devices: Vec<Device>,
    /// The guest's physical addresses.
    pub guest_memory: Vec<Area>,
    /// What devices can address.
    pub dma: Dma,
}

/// A problem and its remedy.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// The problem, as a sentence.
    pub problem: String,
    /// The remedy to type.
    pub hint: Option<String>,
}

/// A device and what the guest gets of it.
#[derive(Clone, Debug, Serialize)]
pub struct Device {
    /// The host's name for it.
    pub host: String,
    /// Its address in the guest.
    pub guest: String,
    /// Its driver on the host.
    pub driver: Option<String>,
    /// Its IOMMU group with all devices in it; `None` without an IOMMU.
    pub group: Option<Group>,
    /// How the host's kernel can reset it, best first.
    pub resets: Vec<String>,
    /// Whether only the header of its configuration space could be read: reading the rest takes
    /// root.
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
    /// Whether that driver keeps the whole group from being passed through.
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
    /// Its first address in the guest.
    pub guest: String,
    /// Parts that the guest reaches without an exit.
    pub mapped: Vec<Piece>,
    /// Parts that mini-vmm answers.
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
    /// Their way to the guest.
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
    /// Its use.
    pub what: String,
    /// Depth: 0, or 1 for a range inside of a window.
    pub depth: u8,
}

/// What devices can address.
#[derive(Clone, Debug, Serialize)]
pub struct Dma {
    /// `iommufd` or `container`; `None` where no device could be opened.
    pub interface: Option<&'static str>,
    /// RAM: I/O addresses are guest-physical addresses.
    pub maps: Vec<Extent>,
    /// Ranges that the IOMMU can map; empty where the kernel does not say.
    pub usable: Vec<Extent>,
    /// The gaps between these, which the IOMMU reserves.
    pub reserved: Vec<Extent>,
    /// Bytes that will be pinned.
    pub pinned: u64,
    /// Bytes that this user may lock; `None` without a limit.
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
