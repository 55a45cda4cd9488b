//! `vm.pci`: the guest's tree of functions as it is now, with what is behind each register.
//! Addresses and register values are hexadecimal strings, as in the report of `--stats`.

use pci::Bdf;
use pci::bar::BarKind;
use pci::regs::{self, bridge, command, header_type};
use serde::Serialize;
use vmm::control::Control;
use vmm::gsi::view::IrqfdView;
use vmm::memory::dma::DmaMap;
use vmm::memory::region::RegionKind;
use vmm::vfio::view::{BarView, FunctionView, InterruptView, Kind, MsixView, VectorView};

use crate::control::message::Message;

/// The answer to `vm.pci`.
#[derive(Debug, Serialize)]
pub struct Tree {
    functions: Vec<Function>,
    dma_maps: Vec<Map>,
}

/// A function.
#[derive(Debug, Serialize)]
struct Function {
    bdf: Bdf,
    /// The host's name; `None` for a function that mini-vmm emulates.
    host: Option<String>,
    vendor_id: String,
    device_id: String,
    class: String,
    command: Command,
    /// Only of a passed-through function.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<Device>,
    /// Only of a bridge.
    #[serde(skip_serializing_if = "Option::is_none")]
    bridge: Option<Bridge>,
}

#[derive(Debug, Serialize)]
struct Command {
    value: String,
    io: bool,
    memory: bool,
    bus_master: bool,
    intx_disabled: bool,
}

#[derive(Debug, Serialize)]
struct Device {
    reachable: bool,
    in_d0: bool,
    bars: Vec<Bar>,
    interrupts: Interrupts,
}

/// A BAR; `direct` and `trapped` divide it.
#[derive(Debug, Serialize)]
struct Bar {
    /// The number of its register; `rom` is the ROM.
    bar: String,
    kind: String,
    size: u64,
    /// The address in the register.
    address: String,
    /// The guest-physical address or the port at which it decodes.
    mapped_at: Option<String>,
    /// Parts that are memory slots of KVM: no exit.
    direct: Vec<Part>,
    /// Parts whose accesses are exits.
    trapped: Vec<Part>,
}

#[derive(Debug, Serialize)]
struct Part {
    offset: String,
    size: u64,
    /// Where the part is in the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// Whether other devices reach it by DMA.
    peers: bool,
}

#[derive(Debug, Serialize)]
struct Interrupts {
    kind: &'static str,
    /// The GSI of the pin.
    pin_gsi: Option<u32>,
    msi: Vec<Vector>,
    msix: Option<Msix>,
}

#[derive(Debug, Serialize)]
struct Msix {
    enabled: bool,
    function_masked: bool,
    vectors: Vec<Vector>,
}

#[derive(Debug, Serialize)]
struct Vector {
    vector: usize,
    address: String,
    data: String,
    masked: bool,
    /// What the message means to the local APICs; `None` for an address that is not theirs.
    message: Option<Message>,
    irqfd: Option<Irqfd>,
}

#[derive(Debug, Serialize)]
struct Irqfd {
    gsi: u32,
    eventfd: i32,
    assigned: bool,
    pending: bool,
}

#[derive(Debug, Serialize)]
struct Bridge {
    primary: u8,
    secondary: u8,
    subordinate: u8,
    /// `None` where base and limit make no window.
    memory: Option<Window>,
    prefetchable: Option<Window>,
    io: Option<Window>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Window {
    start: String,
    size: u64,
}

#[derive(Debug, Serialize)]
struct Map {
    kind: &'static str,
    iova: String,
    size: u64,
    mapped: u64,
}

impl Tree {
    /// The tree as it is now.
    pub fn new(control: &Control) -> Self {
        let maps = control.dma_maps();
        let emulated = control.emulated().into_iter();
        let emulated = emulated.map(|(bdf, header)| Function::emulated(bdf, &header));
        let passed = control.functions().into_iter();
        let passed = passed.map(|(bdf, f)| Function::passed(bdf, f.view(), &maps));
        let mut functions: Vec<_> = emulated.chain(passed).collect();
        functions.sort_by_key(|f| (f.bdf.bus, f.bdf.device, f.bdf.function));
        Self {
            functions,
            dma_maps: maps.iter().map(Map::new).collect(),
        }
    }
}

fn byte(header: &[u8; 64], at: u16) -> u8 {
    header.get(usize::from(at)).copied().unwrap_or(0)
}

fn word(header: &[u8; 64], at: u16) -> u16 {
    u16::from_le_bytes([byte(header, at), byte(header, at + 1)])
}

fn dword(header: &[u8; 64], at: u16) -> u32 {
    u32::from(word(header, at)) | u32::from(word(header, at + 2)) << 16
}

impl Function {
    fn new(bdf: Bdf, host: Option<String>, header: &[u8; 64], command: u16) -> Self {
        let class = dword(header, regs::REVISION) >> 8;
        Self {
            bdf,
            host,
            vendor_id: format!("{:#06x}", word(header, regs::VENDOR)),
            device_id: format!("{:#06x}", word(header, regs::VENDOR + 2)),
            class: format!("{class:#08x}"),
            command: Command {
                value: format!("{command:#06x}"),
                io: command & command::IO != 0,
                memory: command & command::MEMORY != 0,
                bus_master: command & command::BUS_MASTER != 0,
                intx_disabled: command & command::INTX_DISABLE != 0,
            },
            device: None,
            bridge: None,
        }
    }

    fn emulated(bdf: Bdf, header: &[u8; 64]) -> Self {
        let kind = byte(header, regs::HEADER_TYPE) & !header_type::MULTI_FUNCTION;
        let bridge = (kind == header_type::BRIDGE).then(|| Bridge::new(header));
        Self {
            bridge,
            ..Self::new(bdf, None, header, word(header, regs::COMMAND))
        }
    }

    fn passed(bdf: Bdf, view: FunctionView, maps: &[DmaMap]) -> Self {
        let function = Self::new(bdf, Some(view.name), &view.header, view.command);
        let bars = view.bars.iter().map(|bar| Bar::new(bar, maps));
        Self {
            device: Some(Device {
                reachable: view.reachable,
                in_d0: view.in_d0,
                bars: bars.collect(),
                interrupts: Interrupts::new(&view.interrupts),
            }),
            ..function
        }
    }
}

impl Bar {
    fn new(bar: &BarView, maps: &[DmaMap]) -> Self {
        let part = |(offset, size): (u64, u64)| {
            let address = bar.mapped.map(|mapped| mapped + offset);
            let reached = |map: &&DmaMap| {
                map.kind == RegionKind::Device && address == Some(map.iova) && map.mapped == size
            };
            Part {
                offset: format!("{offset:#x}"),
                size,
                address: address.map(|a| format!("{a:#x}")),
                peers: maps.iter().find(reached).is_some(),
            }
        };
        Self {
            bar: match bar.kind {
                BarKind::Rom => "rom".into(),
                _ => bar.index.to_string(),
            },
            kind: bar.kind.to_string(),
            size: bar.size,
            address: format!("{:#x}", bar.address),
            mapped_at: bar.mapped.map(|at| format!("{at:#x}")),
            trapped: rest(bar).into_iter().map(part).collect(),
            direct: bar.direct.iter().copied().map(part).collect(),
        }
    }
}

/// The parts of a BAR that are not direct.
fn rest(bar: &BarView) -> Vec<(u64, u64)> {
    let mut direct = bar.direct.clone();
    direct.sort_unstable();
    let (mut at, mut rest) = (0, Vec::new());
    for (offset, size) in direct.into_iter().chain([(bar.size, 0)]) {
        if offset > at {
            rest.push((at, offset - at));
        }
        at = at.max(offset.saturating_add(size));
    }
    rest
}

impl Interrupts {
    fn new(view: &InterruptView) -> Self {
        Self {
            kind: match view.kind {
                Kind::Off => "off",
                Kind::Intx => "intx",
                Kind::Msi => "msi",
                Kind::Msix => "msix",
            },
            pin_gsi: view.pin,
            msi: vectors(&view.msi),
            msix: view.msix.as_ref().map(Msix::new),
        }
    }
}

impl Msix {
    fn new(view: &MsixView) -> Self {
        // PCI Express 6.0, 7.7.2.2: MSI-X Enable and Function Mask.
        let (enable, mask) = (1 << 15, 1 << 14);
        Self {
            enabled: view.control & enable != 0,
            function_masked: view.control & mask != 0,
            vectors: vectors(&view.vectors),
        }
    }
}

fn vectors(views: &[VectorView]) -> Vec<Vector> {
    let irqfd = |irqfd: IrqfdView| Irqfd {
        gsi: irqfd.gsi,
        eventfd: irqfd.eventfd,
        assigned: irqfd.assigned,
        pending: irqfd.pending,
    };
    let vector = |(vector, view): (usize, &VectorView)| Vector {
        vector,
        address: format!("{:#x}", view.message.address),
        data: format!("{:#x}", view.message.data),
        masked: view.masked,
        message: Message::decode(view.message),
        irqfd: view.irqfd.map(irqfd),
    };
    views.iter().enumerate().map(vector).collect()
}

impl Bridge {
    /// Bus numbers and windows (PCI Express 6.0, 7.5.1.3).
    fn new(header: &[u8; 64]) -> Self {
        let window = |start: u64, last: u64| {
            (start <= last).then(|| Window {
                start: format!("{start:#x}"),
                size: last - start + 1,
            })
        };
        let memory = |at: u16| u64::from(word(header, at) & 0xfff0) << 16;
        let upper = |at: u16| u64::from(dword(header, at)) << 32;
        let io = |at: u16| u64::from(byte(header, at) & 0xf0) << 8;
        // Base and limit of zero without any bit for a width: the bridge has no such window.
        let has_io = word(header, bridge::IO_BASE) != 0;
        Self {
            primary: byte(header, bridge::PRIMARY),
            secondary: byte(header, bridge::SECONDARY),
            subordinate: byte(header, bridge::SUBORDINATE),
            memory: window(
                memory(bridge::MEMORY_BASE),
                memory(bridge::MEMORY_LIMIT) | 0xf_ffff,
            ),
            prefetchable: window(
                memory(bridge::PREFETCHABLE_BASE) | upper(bridge::PREFETCHABLE_BASE_UPPER),
                memory(bridge::PREFETCHABLE_LIMIT)
                    | upper(bridge::PREFETCHABLE_LIMIT_UPPER)
                    | 0xf_ffff,
            ),
            io: has_io
                .then(|| window(io(bridge::IO_BASE), io(bridge::IO_LIMIT) | 0xfff))
                .flatten(),
        }
    }
}

impl Map {
    fn new(map: &DmaMap) -> Self {
        Self {
            kind: match map.kind {
                RegionKind::Ram => "ram",
                RegionKind::Device => "bar",
            },
            iova: format!("{:#x}", map.iova),
            size: map.size,
            mapped: map.mapped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_divided() {
        let bar = |direct: &[(u64, u64)]| BarView {
            index: 0,
            kind: BarKind::Memory32 {
                prefetchable: false,
            },
            size: 0x4000,
            address: 0,
            mapped: None,
            direct: direct.to_vec(),
        };
        assert_eq!(rest(&bar(&[])), [(0, 0x4000)]);
        assert_eq!(rest(&bar(&[(0, 0x4000)])), []);
        assert_eq!(
            rest(&bar(&[(0x2000, 0x1000), (0, 0x1000)])),
            [(0x1000, 0x1000), (0x3000, 0x1000)]
        );
    }

    #[test]
    fn windows_of_a_bridge() {
        let mut header = [0; 64];
        header[0x18..0x1b].copy_from_slice(&[0, 1, 2]);
        header[0x20..0x24].copy_from_slice(&[0x00, 0xc0, 0x30, 0xc0]);
        // A base above the limit closes the window.
        header[0x24..0x28].copy_from_slice(&[0xf1, 0xff, 0x01, 0x00]);
        let bridge = Bridge::new(&header);
        let window = |start: &str, size| {
            Some(Window {
                start: start.into(),
                size,
            })
        };
        assert_eq!(
            (bridge.primary, bridge.secondary, bridge.subordinate),
            (0, 1, 2)
        );
        assert_eq!(bridge.memory, window("0xc0000000", 4 << 20));
        assert_eq!((bridge.prefetchable, bridge.io), (None, None));
        header[0x24..0x28].copy_from_slice(&[0x01, 0x00, 0xf1, 0x3f]);
        header[0x28] = 0x10;
        header[0x2c] = 0x10;
        header[0x1c..0x1e].copy_from_slice(&[0x11, 0x21]);
        let bridge = Bridge::new(&header);
        assert_eq!(bridge.prefetchable, window("0x1000000000", 1 << 30));
        assert_eq!(bridge.io, window("0x1000", 0x2000));
    }
}
