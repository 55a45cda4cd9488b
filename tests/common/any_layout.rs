//! Any configuration space and any accesses, made from bytes that a fuzzer or proptest chooses; and
//! the comparison of what reached the device, and what the guest read, with [`host_owned`].

use pci::atomic_ops::AtomicOps;
use pci::config_space::{ConfigSpace, DeviceWrite};
use pci::host_path::HostPath;
use pci::link::Link;
use vmm::vfio::function::policy::{Original, Policy};

use crate::host_owned::{self, Known, Owned};

/// The choices. After the last, all are zero.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }
}

/// The link of each device: 8 GT/s x4, at most 16 GT/s x8.
const LINK_CAPABILITIES: u32 = 0x84;
const LINK_STATUS: u16 = 0x43;

/// Where a capability is.
struct Located {
    at: u16,
    known: &'static Known,
}

/// What is the host's, and a name for each.
struct HostOwned {
    all: Vec<(String, Owned)>,
    /// Of each byte, the indices.
    by_byte: Vec<Vec<usize>>,
}

impl HostOwned {
    fn new(all: Vec<(String, Owned)>) -> Self {
        let mut by_byte = vec![Vec::new(); 4096];
        for (index, (_, o)) in all.iter().enumerate() {
            for at in o.offset..o.offset + o.len {
                by_byte[usize::from(at)].push(index);
            }
        }
        Self { all, by_byte }
    }

    fn of_byte(&self, at: u16) -> impl Iterator<Item = &(String, Owned)> {
        let indices = self.by_byte[usize::from(at)].iter();
        indices.map(|index| &self.all[*index])
    }
}

/// A device: its registers, and the chains as VFIO shows them.
struct Device {
    registers: Vec<u8>,
    snapshot: Vec<u8>,
    located: Vec<Located>,
    name: &'static str,
    is_igd: bool,
    /// Whether sysfs tells the hardware's chains.
    known: bool,
    /// What the root port above shows; `None` on bus 0.
    port: Option<HostPath>,
}

impl Device {
    fn new(choices: &mut Choices<'_>) -> Self {
        let kind = choices.byte();
        let (is_igd, known) = (kind & 1 == 1, kind & 2 == 0);
        let path = HostPath {
            // The device's link, or another, as for a virtual function.
            link: match kind & 64 {
                0 => Link::from_registers(LINK_CAPABILITIES, LINK_STATUS).unwrap(),
                _ => Link::SLOWEST,
            },
            payload: kind >> 6,
            atomic_ops: AtomicOps {
                bits_32: kind & 8 != 0,
                bits_64: kind & 16 != 0,
                cas_128: kind & 32 != 0,
            },
        };
        let fill = choices.byte() | 1;
        let registers = (0..4096u32).map(|at| (at as u8).wrapping_mul(37) ^ fill);
        let mut device = Self {
            registers: registers.collect(),
            snapshot: Vec::new(),
            located: Vec::new(),
            name: if is_igd {
                "0000:00:02.0"
            } else {
                "0000:01:00.0"
            },
            is_igd,
            known,
            port: (kind & 4 != 0).then_some(path),
        };
        let (vendor, class) = if is_igd { (0x8086u16, 3) } else { (0x1234, 1) };
        device.registers[..2].copy_from_slice(&vendor.to_le_bytes());
        device.registers[6] |= 0x10;
        device.registers[0x0b] = class;
        device.registers[0x0e] = 0;
        device.add_some(choices, 0x40, 0x100, host_owned::STANDARD);
        device.add_some(choices, 0x100, 0x1000, host_owned::EXTENDED);
        let mut registers = device.registers.clone();
        device.link(&mut registers, |_| true);
        // VFIO changes links, and leaves the rest.
        let mut snapshot = registers.clone();
        device.link(&mut snapshot, |located| located.known.shown);
        (device.registers, device.snapshot) = (registers, snapshot);
        device
    }

    /// Adds some capabilities, with gaps between.
    fn add_some(
        &mut self,
        choices: &mut Choices<'_>,
        start: u16,
        end: u16,
        table: &'static [Known],
    ) {
        let mut at = start;
        for _ in 0..choices.below(12) {
            let known = &table[choices.below(table.len())];
            // The extended chain begins where it does.
            let gap = if at == 0x100 {
                0
            } else {
                4 * choices.below(5) as u16
            };
            if at + gap + known.len > end {
                break;
            }
            at += gap;
            self.shape(at, known, start == 0x100);
            self.located.push(Located { at, known });
            at += known.len;
        }
    }

    /// Sets the fields that give a capability its size.
    fn shape(&mut self, at: u16, known: &Known, extended: bool) {
        let at = usize::from(at);
        let put = |registers: &mut [u8], offset: usize, bytes: &[u8]| {
            registers[at + offset..at + offset + bytes.len()].copy_from_slice(bytes);
        };
        let registers = &mut self.registers;
        match (extended, known.id) {
            (false, 0x05) => put(registers, 2, &[0x80, 0x01]),
            (false, 0x07) => put(registers, 2, &[0x00, 0x10]),
            (false, 0x09) => put(registers, 2, &[known.len as u8]),
            (false, 0x10) => {
                put(registers, 2, &[0x02, 0x00]);
                put(registers, 0x0c, &LINK_CAPABILITIES.to_le_bytes());
                put(registers, 0x12, &LINK_STATUS.to_le_bytes());
            }
            (false, 0x11) => put(registers, 2, &[0x07, 0x00]),
            (false, 0x12) => put(registers, 4, &[0x0f, 0x00]),
            (true, 0x01) => put(registers, 0x18, &[0x00, 0x08]),
            (true, 0x02 | 0x08 | 0x09) => put(registers, 4, &[0x00]),
            (true, 0x16) => put(registers, 4, &[0x07]),
            (true, 0x0b) => put(registers, 4, &(u32::from(known.len) << 20).to_le_bytes()),
            (true, 0x23) => put(
                registers,
                4,
                &(u32::from(known.len) << 20 | 0x1e98).to_le_bytes(),
            ),
            _ => {}
        }
    }

    /// Links the capabilities that `shown` chooses. The head of the extended chain stays, as VFIO
    /// has it, without an ID.
    fn link(&self, space: &mut [u8], shown: impl Fn(&Located) -> bool) {
        let (standard, extended): (Vec<_>, Vec<_>) =
            self.located.iter().partition(|p| p.at < 0x100);
        let mut pointer = 0x34;
        for located in standard.into_iter().filter(|p| shown(p)) {
            space[pointer] = located.at as u8;
            space[usize::from(located.at)] = located.known.id as u8;
            pointer = usize::from(located.at) + 1;
        }
        space[pointer] = 0;
        let linked: Vec<_> = extended
            .into_iter()
            .filter(|p| p.at == 0x100 || shown(p))
            .collect();
        if linked.is_empty() {
            space[0x100..0x104].fill(0);
        }
        for (i, located) in linked.iter().enumerate() {
            let next = linked.get(i + 1).map_or(0, |p| u32::from(p.at));
            let id = match shown(located) {
                true => u32::from(located.known.id) | 1 << 16,
                false => 0,
            };
            let at = usize::from(located.at);
            space[at..at + 4].copy_from_slice(&(next << 20 | id).to_le_bytes());
        }
    }

    /// What is the host's, at its offsets in configuration space, and a name for each.
    fn owned(&self) -> HostOwned {
        let header = host_owned::HEADER.iter();
        let mut all: Vec<_> = header.map(|o| ("header".to_string(), *o)).collect();
        for Located { at, known } in &self.located {
            // Without the hardware's chains, nothing tells of a standard capability that VFIO has
            // unlinked: its bytes are a gap.
            if *at < 0x100 && !known.shown && !self.known {
                continue;
            }
            for owned in known.owned.iter().filter(|o| o.offset + o.len <= known.len) {
                let offset = at + owned.offset;
                let kind = if *at < 0x100 { "standard" } else { "extended" };
                let name = format!("{kind} {:#x} + {:#x}", known.id, owned.offset);
                all.push((name, Owned { offset, ..*owned }));
            }
        }
        let express = self.located.iter().filter(|p| p.at < 0x100);
        for Located { at, .. } in express.filter(|p| p.known.id == host_owned::PCIE_ID) {
            let mut own = |owned: Owned, name: &str| {
                let offset = at + owned.offset;
                all.push((name.to_string(), Owned { offset, ..owned }));
            };
            if !self.port.is_some_and(|path| path.atomic_ops.any()) {
                own(host_owned::ATOMIC_REQUESTER, "AtomicOp requests");
            }
            if self.port.is_none() {
                for owned in host_owned::LINK {
                    own(owned, "link on bus 0");
                }
            }
        }
        let free = |owned: &&Owned| {
            let inside = |p: &Located| owned.offset < p.at + p.known.len && owned.offset + 4 > p.at;
            !self.located.iter().any(inside)
        };
        if self.is_igd {
            let igd = host_owned::IGD.iter().filter(free);
            all.extend(igd.map(|o| (format!("GPU {:#x}", o.offset), *o)));
        }
        // Extended space that no capability has.
        for offset in (0x100..0x1000).step_by(4) {
            let gap = Owned {
                offset,
                len: 4,
                kept: !0,
                never_one: 0,
                secret: 0,
            };
            if free(&&gap) {
                all.push((format!("gap at {offset:#x}"), gap));
            }
        }
        HostOwned::new(all)
    }

    /// A write as it reaches the device: an error if it carries what it must not.
    fn judge(&self, owned: &HostOwned, offset: u16, data: &[u8]) -> Result<(), String> {
        for (at, new) in (offset..).zip(data) {
            let old = self.registers[usize::from(at)];
            for (name, o) in owned.of_byte(at) {
                let index = usize::from(at - o.offset);
                let [kept, never] = [o.kept, o.never_one].map(|bits| bits.to_le_bytes()[index]);
                if (old ^ new) & kept != 0 || new & never != 0 {
                    return Err(format!("{name} gets {new:#04x}, had {old:#04x}"));
                }
            }
        }
        Ok(())
    }
}

/// A guest's write, carried out as the program does: see `VfioFunction::config_write`.
fn write(
    config: &mut ConfigSpace,
    device: &Device,
    owned: &HostOwned,
    (offset, data): (u16, &[u8]),
) -> Result<(), String> {
    let parts: Vec<_> = config.split_write(offset, data.len()).collect();
    let mut rest = data;
    for part in parts {
        let (bytes, tail) = rest.split_at(part.len);
        rest = tail;
        let at = usize::from(part.offset);
        match part.write {
            _ if part.emulated => config.write(part.offset, bytes),
            DeviceWrite::Dropped => {}
            DeviceWrite::Whole => device.judge(owned, part.offset, bytes)?,
            DeviceWrite::Masked => {
                let current = &device.registers[at..at + part.len];
                let merged = config.for_device(part.offset, bytes, current);
                device.judge(owned, part.offset, &merged)?;
            }
        }
    }
    Ok(())
}

/// A guest's read.
fn read(config: &ConfigSpace, device: &Device, offset: u16) -> u8 {
    let mut data = [0];
    if config.is_emulated(offset) {
        config.read(offset, &mut data);
    } else {
        data[0] = device.registers[usize::from(offset)];
        config.conceal(offset, &mut data);
    }
    data[0]
}

/// Makes a device and accesses from `input`. The error names the first thing that reached the
/// device or the guest and must not.
pub fn check(policy: &Policy, input: &[u8]) -> Result<(), String> {
    let mut choices = Choices(input);
    let device = Device::new(&mut choices);
    let hardware: &[u8] = if device.known { &device.registers } else { &[] };
    let mut config = policy.apply(&Original {
        name: device.name,
        snapshot: &device.snapshot,
        hardware,
        bar_0: 16 << 20,
        port: device.port,
    });
    let owned = device.owned();
    for (name, o) in &owned.all {
        for index in 0..o.len {
            let secret = o.secret.to_le_bytes()[usize::from(index)];
            let value = read(&config, &device, o.offset + index);
            if value & secret != 0 {
                return Err(format!("{name} shows {value:#x}"));
            }
        }
    }
    // Each of the host's registers once, and then anything.
    for (_, o) in &owned.all {
        for value in [0u32, !0] {
            let data = &value.to_le_bytes()[..usize::from(o.len)];
            write(&mut config, &device, &owned, (o.offset, data))?;
        }
    }
    while !choices.0.is_empty() {
        let width = 1 << choices.below(3);
        let offset = u16::from_le_bytes([choices.byte(), choices.byte()]) % 0x1000;
        let offset = offset & !(width - 1);
        let data: Vec<u8> = (0..width).map(|_| choices.byte()).collect();
        write(&mut config, &device, &owned, (offset, &data))?;
    }
    Ok(())
}
