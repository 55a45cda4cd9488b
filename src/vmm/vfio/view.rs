//! What a function looks like now, for a report: plain data without the device.

use pci::Message;
use pci::bar::BarKind;

use crate::gsi::view::IrqfdView;

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionView {
    /// The host's name of the device.
    pub name: String,
    /// The first bytes of configuration space that the VMM answers: IDs, class and header.
    pub header: [u8; 64],
    /// Whether the guest reaches the device: not after it was removed, nor during a reset.
    pub reachable: bool,
    /// COMMAND as the guest wrote it last.
    pub command: u16,
    /// Whether the device is in D0.
    pub in_d0: bool,
    /// BARs and the ROM.
    pub bars: Vec<BarView>,
    /// Interrupts.
    pub interrupts: InterruptView,
}

/// A BAR, or the ROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BarView {
    /// The number of its register; 6 is the ROM.
    pub index: usize,
    /// Its kind.
    pub kind: BarKind,
    /// Bytes.
    pub size: u64,
    /// The address in the register; 0 while it has none.
    pub address: u64,
    /// The address at which it is in the guest's address map; `None` while it does not decode.
    pub mapped: Option<u64>,
    /// The parts that the guest reaches without an exit, as offset and size; the others trap.
    pub direct: Vec<(u64, u64)>,
}

/// The kind of interrupt that is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None.
    Off,
    /// The pin.
    Intx,
    /// MSI.
    Msi,
    /// MSI-X.
    Msix,
}

/// The interrupts of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterruptView {
    /// The kind that is on.
    pub kind: Kind,
    /// The GSI of the pin, if the device has one.
    pub pin: Option<u32>,
    /// The vectors of MSI while it is on.
    pub msi: Vec<VectorView>,
    /// MSI-X, if the function has it.
    pub msix: Option<MsixView>,
}

/// MSI-X.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsixView {
    /// Message Control.
    pub control: u16,
    /// The table, whole.
    pub vectors: Vec<VectorView>,
}

/// A vector of MSI or MSI-X.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorView {
    /// The message in the registers.
    pub message: Message,
    /// Whether the vector's own mask is set.
    pub masked: bool,
    /// How it reaches the guest, once it has been in use.
    pub irqfd: Option<IrqfdView>,
}
