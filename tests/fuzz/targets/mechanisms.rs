//! Configuration space by both mechanisms, ports 0xcf8 to 0xcff and ECAM, compared with a model of
//! single bytes: which function and register each byte of an access is.

#![no_main]

mod access;

use std::sync::{Arc, Mutex};

use access::Access;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pci::access::{ConfigPorts, Ecam, PORTS};
use pci::upstream::{Forwarding, Upstream};
use pci::{CONFIG_SPACE_SIZE, PciFunction, RootBus};
use vm_device::bus::{MmioAddress, PioAddress};
use vm_device::{DeviceMmio, DevicePio};

/// Device and function of the root port.
const PORT: (u8, u8) = (4, 1);
const HEADER_TYPE: usize = 0x0e;
const MULTI_FUNCTION: u8 = 0x80;

#[derive(Debug, Arbitrary)]
enum Step {
    /// A port from 0xcf8 on, and an access to it.
    Port(Access),
    /// The address register, whole.
    Address(Spot, u8),
    /// An access to ECAM: to a function that may exist, or anywhere.
    Ecam(Spot, Access),
    Anywhere(u32, Access),
    /// The root port has these buses from now on, and its link is up or down.
    Link(u8, u8, bool),
    PowerOn,
}

/// One of the functions, or of the addresses beside them.
#[derive(Clone, Copy, Debug, Arbitrary)]
struct Spot {
    bus: u8,
    devfn: u8,
}

impl Spot {
    /// Few buses and devices, so that most wanted have a function.
    fn address(self) -> u32 {
        u32::from(self.bus % 8) << 8 | u32::from(self.devfn % 48)
    }
}

/// A function whose registers are memory.
struct Registers(Mutex<Vec<u8>>);

impl Registers {
    fn with<R>(&self, offset: u16, len: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
        let at = usize::from(offset);
        assert!(matches!(len, 1 | 2 | 4), "{len} bytes");
        assert!(
            at % len == 0 && at < CONFIG_SPACE_SIZE,
            "unaligned: {at:#x}"
        );
        work(&mut self.0.lock().unwrap()[at..at + len])
    }
}

impl PciFunction for Registers {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.with(offset, data.len(), |bytes| data.copy_from_slice(bytes));
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.with(offset, data.len(), |bytes| bytes.copy_from_slice(data));
    }

    fn reset(&self) {}
}

/// A function of the model.
struct Function {
    bus: Where,
    device: u8,
    function: u8,
    bytes: Vec<u8>,
}

#[derive(PartialEq)]
enum Where {
    Root,
    Behind,
}

/// All functions, and the state that decides which of them an access means.
struct Model {
    functions: Vec<Function>,
    link: (u8, u8, bool),
    address: u32,
}

impl Model {
    /// The byte of a function's register, and whether its device has more functions.
    fn byte(&mut self, bus: u8, devfn: u8, register: usize) -> Option<(&mut u8, bool)> {
        let (secondary, _, up) = self.link;
        let wanted = match bus {
            0 => Where::Root,
            _ if bus == secondary && up && self.link.1 >= secondary => Where::Behind,
            _ => return None,
        };
        let (device, function) = (devfn >> 3, devfn & 7);
        let same = |f: &&Function| f.bus == wanted && f.device == device;
        let multi = self.functions.iter().filter(same).count() > 1;
        let mut all = self.functions.iter_mut();
        let found =
            all.find(|f| f.bus == wanted && (f.device, f.function) == (device, function))?;
        Some((found.bytes.get_mut(register)?, multi))
    }

    fn read(&mut self, bus: u8, devfn: u8, register: usize) -> u8 {
        match self.byte(bus, devfn, register) {
            Some((byte, multi)) if register == HEADER_TYPE && *byte != 0xff => {
                *byte & !MULTI_FUNCTION | if multi { MULTI_FUNCTION } else { 0 }
            }
            Some((byte, _)) => *byte,
            None => 0xff,
        }
    }

    /// Bus, device and function, and register of byte `i` of an access to port 0xcfc + `port`.
    fn by_port(&self, port: usize, i: usize) -> Option<(u8, u8, usize)> {
        let enabled = self.address >> 31 != 0;
        let [register, devfn, bus, _] = self.address.to_le_bytes();
        let spot = (bus, devfn, usize::from(register & 0xfc) + port + i);
        (enabled && port + i < 4).then_some(spot)
    }
}

/// The same of an access to ECAM. An access ends with its function's 4 KiB.
fn by_ecam(offset: u64, i: usize) -> Option<(u8, u8, usize)> {
    let register = (offset & 0xfff) as usize + i;
    let [devfn, bus, ..] = (offset >> 12).to_le_bytes();
    (register < CONFIG_SPACE_SIZE && offset < 1 << 28).then_some((bus, devfn, register))
}

struct Bus {
    root: Arc<RootBus>,
    ports: ConfigPorts,
    ecam: Ecam,
    upstream: Arc<Upstream>,
    model: Model,
}

impl Bus {
    fn new() -> Self {
        let root = Arc::new(RootBus::new());
        let upstream = Arc::new(Upstream::new());
        let mut functions = Vec::new();
        let mut made = |bus, device, function| {
            let bytes: Vec<u8> = (0..CONFIG_SPACE_SIZE).map(|at| at as u8 ^ device).collect();
            functions.push(Function {
                bus,
                device,
                function,
                bytes: bytes.clone(),
            });
            Arc::new(Registers(Mutex::new(bytes)))
        };
        for (device, function) in [(1, 0), (2, 0), (2, 7), (3, 5)] {
            let registers = made(Where::Root, device, function);
            root.add(device, function, registers).unwrap();
        }
        let registers = made(Where::Root, PORT.0, PORT.1);
        let shared = Arc::clone(&upstream);
        let port = root.add_port(PORT.0, PORT.1, registers, shared).unwrap();
        for function in [0, 3] {
            let registers = made(Where::Behind, 0, function);
            root.add_behind(port, function, registers).unwrap();
        }
        Self {
            ports: ConfigPorts::new(Arc::clone(&root)),
            ecam: Ecam(Arc::clone(&root)),
            root,
            upstream,
            model: Model {
                functions,
                link: (0, 0, false),
                address: 0,
            },
        }
    }

    fn by_port(&mut self, offset: u16, access: &Access) {
        let mut data = access.bytes();
        let len = data.len();
        if access.write {
            self.ports.pio_write(PioAddress(0xcf8), offset, &data);
        } else {
            self.ports.pio_read(PioAddress(0xcf8), offset, &mut data);
        }
        let Some(port) = usize::from(offset).checked_sub(4) else {
            // The address register is a dword and nothing else.
            let whole = offset == 0 && len == 4;
            if access.write && whole {
                let value = u32::from_le_bytes(data.try_into().unwrap());
                self.model.address = value & 0x80ff_fffc;
            } else if !access.write {
                let ones = vec![0xff; len];
                let address = self.model.address.to_le_bytes().to_vec();
                assert_eq!(data, if whole { address } else { ones });
            }
            return;
        };
        let wanted = (0..len).map(|i| self.model.by_port(port, i)).collect();
        self.compare("port", wanted, access, &data);
    }

    fn by_ecam(&mut self, offset: u64, access: &Access) {
        let mut data = access.bytes();
        if access.write {
            self.ecam.mmio_write(MmioAddress(0), offset, &data);
        } else {
            self.ecam.mmio_read(MmioAddress(0), offset, &mut data);
        }
        let wanted = (0..data.len()).map(|i| by_ecam(offset, i)).collect();
        self.compare("ECAM", wanted, access, &data);
    }

    /// Compares a read with the model, or writes into the model.
    fn compare(
        &mut self,
        way: &str,
        wanted: Vec<Option<(u8, u8, usize)>>,
        access: &Access,
        data: &[u8],
    ) {
        for (spot, byte) in wanted.into_iter().zip(data) {
            match (spot, access.write) {
                (None, true) => {}
                (None, false) => assert_eq!(*byte, 0xff, "{way}: no function has the byte"),
                // The host bridge's registers are its own.
                (Some((0, 0, _)), _) => {}
                (Some((bus, devfn, at)), true) => {
                    if let Some((to, _)) = self.model.byte(bus, devfn, at) {
                        *to = *byte;
                    }
                }
                (Some((bus, devfn, at)), false) => assert_eq!(
                    *byte,
                    self.model.read(bus, devfn, at),
                    "{way}: bus {bus:#x}, {devfn:#x}, register {at:#x}"
                ),
            }
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut bus = Bus::new();
    for step in &steps {
        match step {
            Step::Port(access) => bus.by_port(access.offset % PORTS, access),
            Step::Address(spot, register) => {
                let address = 1 << 31 | spot.address() << 8 | u32::from(*register);
                let data = address.to_le_bytes();
                bus.ports.pio_write(PioAddress(0xcf8), 0, &data);
                bus.model.address = address & 0x80ff_fffc;
            }
            Step::Ecam(spot, access) => {
                let offset = u64::from(spot.address()) << 12 | u64::from(access.offset & 0xfff);
                bus.by_ecam(offset, access);
            }
            Step::Anywhere(offset, access) => bus.by_ecam(u64::from(*offset), access),
            Step::Link(secondary, last, up) => {
                let (secondary, last) = (secondary % 8, last % 8);
                bus.model.link = (secondary, last, *up);
                bus.upstream.set(Forwarding {
                    secondary,
                    subordinate: last,
                    link_up: *up,
                    ..Forwarding::default()
                });
            }
            Step::PowerOn => {
                bus.ports.reset();
                bus.root.reset();
                bus.model.address = 0;
            }
        }
    }
});
