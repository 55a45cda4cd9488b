//! `port=auto`: whether a device is behind a root port in the guest, and why.
//!
//! The decision is made before a device is opened, from what sysfs tells every user, so that
//! `explain` and a run decide alike.

use std::fmt;
use std::io;
use std::path::Path;

use pci::Bdf;
use pci::addr::Range;
use pci::bar::Bars;
use pci::bar_assignment::{AssignError, Windows};
use pci::bridge_windows::{Window, size_text};
use pci::express::FunctionType;
use pci::tree_assignment::{TreeFunction, assign_tree};

use crate::config::device::{DeviceConfig, PortChoice};
use crate::config::ports::{OCCUPIED, PortsConfig};
use crate::config::slots::{self, GuestAddress};
use crate::hostinfo::name::{HostName, parse_address};
use crate::hostinfo::sysfs::Sysfs;
use crate::log::degraded::{self, Code};

/// Whether a device is behind a root port in the guest, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortDecision {
    /// Whether the device is behind a root port.
    pub behind_port: bool,
    /// The reason.
    pub why: Why,
}

/// The reason for a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The user wants so, and the device is like that.
    Asked,
    /// The user wants a port for a device without a link.
    AskedWithoutLink,
    /// The device is at the end of a link on the host.
    Endpoint,
    /// The device is conventional PCI.
    Conventional,
    /// The device is integrated into the host's root complex.
    Integrated,
    /// The device is neither an endpoint nor conventional, by the code of its type.
    OtherType(u8),
    /// A mediated device is nowhere on the host's buses.
    Mediated,
    /// The windows of a root port for the device do not fit.
    NoRoom {
        /// Which of the windows.
        window: Window,
        /// Bytes that the window needs.
        needs: u64,
        /// The most bytes that it can have.
        has: u64,
    },
    /// With a root port for the device, something else does not fit: a BAR on bus 0, or a port that
    /// the user wants.
    MakesRoom {
        /// Where it does not fit.
        window: Window,
        /// Bytes that it needs.
        needs: u64,
    },
}

impl fmt::Display for PortDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (position, asked) = match self.behind_port {
            true => ("behind a root port", "`port=on`"),
            false => ("on bus 0", "`port=off`"),
        };
        match self.why {
            Why::Asked => write!(f, "{position}: {asked}"),
            why => write!(f, "{position}: {why}"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Why::Asked => f.write_str("the user wants it so"),
            Why::AskedWithoutLink => {
                f.write_str("`port=on`; it has no link, and the guest reads 2.5 GT/s x1")
            }
            Why::Endpoint => f.write_str("it is a PCI Express endpoint"),
            Why::Conventional => f.write_str("it is conventional PCI, without a link"),
            Why::Integrated => {
                f.write_str("it is integrated into the host's root complex, without a link")
            }
            Why::OtherType(code) => {
                write!(f, "it is no endpoint, but PCI Express type {code:#x}")
            }
            Why::Mediated => f.write_str("a mediated device has no link on the host"),
            Why::NoRoom { window, needs, has } => write!(
                f,
                "a root port for it needs {} of {window}, and {} are left",
                size_text(needs),
                size_text(has)
            ),
            Why::MakesRoom { window, needs } => write!(
                f,
                "a root port for it leaves too little room for another device or port, which needs \
                 {} of {window}",
                size_text(needs)
            ),
        }
    }
}

/// Decides for a device of this type; `None` is a mediated device.
pub fn decide(choice: PortChoice, function_type: Option<FunctionType>) -> PortDecision {
    let has_link = function_type == Some(FunctionType::Endpoint);
    let (behind_port, why) = match choice {
        PortChoice::Off => (false, Why::Asked),
        PortChoice::On if has_link => (true, Why::Asked),
        PortChoice::On => (true, Why::AskedWithoutLink),
        PortChoice::Auto => match function_type {
            Some(FunctionType::Endpoint) => (true, Why::Endpoint),
            Some(FunctionType::Conventional) => (false, Why::Conventional),
            Some(FunctionType::Integrated) => (false, Why::Integrated),
            Some(FunctionType::Other(code)) => (false, Why::OtherType(code)),
            None => (false, Why::Mediated),
        },
    };
    PortDecision { behind_port, why }
}

/// Decides for each device. A device that does not exist is reported later, when it is opened.
/// `read` reads a file of the device that is named, with a time limit for example.
pub fn decide_all(
    sysfs: &Sysfs,
    configs: &[DeviceConfig],
    read: impl Fn(&HostName, &Path) -> io::Result<Vec<u8>>,
) -> Vec<PortDecision> {
    let types = configs.iter().map(|config| {
        // Nothing is read for a device for which the user has chosen.
        match parse_address(&config.address) {
            Ok(HostName::Mediated(_)) => None,
            _ if config.port == PortChoice::Off => Some(FunctionType::Conventional),
            Ok(name @ HostName::Pci(_)) => {
                let read = |path: &Path| read(&name, path);
                // What cannot be read is taken from the attributes.
                let registers = read(&sysfs.path_of(name).join("config")).unwrap_or_default();
                Some(sysfs.express_by(name, &registers, &read).function_type)
            }
            Err(_) => Some(FunctionType::Conventional),
        }
    });
    let pairs = configs.iter().zip(types);
    pairs
        .map(|(config, function_type)| decide(config.port, function_type))
        .collect()
}

/// Writes the decisions into the configuration, where `auto` is no choice any more.
pub fn apply(configs: &mut [DeviceConfig], decisions: &[PortDecision]) {
    for (config, decision) in configs.iter_mut().zip(decisions) {
        config.port = match decision.behind_port {
            true => PortChoice::On,
            false => PortChoice::Off,
        };
    }
}

/// Puts devices for which `auto` has chosen a port on bus 0, until the windows of all ports fit.
/// `bars` are the devices', and `empty` are the ports without one. The windows above 4 GiB are made
/// as large as they must be; those below, and those of I/O ports, are not. Where the user's own
/// choices do not fit, the assignment of addresses is
/// an error later.
pub fn fit(
    configs: &mut [DeviceConfig],
    decisions: &mut [PortDecision],
    bars: &[Bars],
    windows: &Windows,
    empty: &PortsConfig,
) {
    let windows = &Windows {
        mmio64: Range {
            start: 1 << 62,
            size: 1 << 62,
        },
        ..*windows
    };
    // Each round takes at least one device from its port.
    for _ in 0..configs.len() {
        let Ok(addresses) = slots::assign(configs) else {
            return;
        };
        let Some(failure) = too_large(&addresses, bars, windows, empty) else {
            return;
        };
        let chosen = |decision: &PortDecision| decision.why == Why::Endpoint;
        let at_port = |address: &GuestAddress| match &failure {
            AssignError::Window { port, .. } => address.in_tree().1 == Some(*port),
            _ => false,
        };
        let there = decisions.iter().zip(&addresses);
        let mut moved: Vec<_> = there
            .map(|(d, address)| chosen(d) && at_port(address))
            .collect();
        let own = moved.contains(&true);
        if !own {
            // It is a BAR on bus 0, or a port of the user's choice: another device makes room.
            let Some(last) = decisions.iter().rposition(chosen) else {
                return;
            };
            moved = (0..decisions.len()).map(|index| index == last).collect();
        }
        let Some(why) = why(failure, own) else {
            return;
        };
        for (decision, moved) in decisions.iter_mut().zip(moved) {
            if moved {
                *decision = PortDecision {
                    behind_port: false,
                    why,
                };
            }
        }
        apply(configs, decisions);
    }
}

/// Why a device is on bus 0 after a failure: its `own` port does not fit, or something else.
fn why(failure: AssignError, own: bool) -> Option<Why> {
    match failure {
        AssignError::Window {
            window, needs, has, ..
        } if own => Some(Why::NoRoom { window, needs, has }),
        AssignError::Window { window, needs, .. } => Some(Why::MakesRoom { window, needs }),
        AssignError::Bar { kind, size, .. } => Some(Why::MakesRoom {
            window: Window::of(kind),
            needs: size,
        }),
        AssignError::Buses => None,
    }
}

/// Tells of an endpoint that has no port, because none fits.
pub fn tell_loss(device: &str, decision: &PortDecision) {
    if let Why::NoRoom { .. } | Why::MakesRoom { .. } = decision.why {
        let what = "on bus 0: the guest sees neither the device's link nor AtomicOps";
        let loss = Code::NoPort.loss(what, decision.why.to_string()).of(device);
        let hint = "`port=off` for other devices leaves more to this one; `port=off` for this one \
                    says that bus 0 is as wanted";
        degraded::tell(loss.hint(hint));
    }
}

/// What does not fit; `None` if all BARs and windows fit.
fn too_large(
    addresses: &[GuestAddress],
    bars: &[Bars],
    windows: &Windows,
    empty: &PortsConfig,
) -> Option<AssignError> {
    let mut bars = bars.to_vec();
    let mut ports: Vec<Bdf> = Vec::new();
    for (_, port) in addresses.iter().map(GuestAddress::in_tree) {
        ports.extend(port.filter(|port| !ports.contains(port)));
    }
    ports.sort();
    // Any names that no other port has.
    let without_device = (0..empty.count).map(|number| Bdf {
        segment: 0,
        bus: u8::MAX,
        device: number >> 3,
        function: number & 7,
    });
    let with_device = ports.iter().map(|port| (*port, OCCUPIED));
    let ports: Vec<_> = with_device
        .chain(without_device.map(|port| (port, empty.reserve)))
        .collect();
    let functions = addresses.iter().zip(&mut bars).map(|(address, bars)| {
        let (name, port) = address.in_tree();
        TreeFunction { name, port, bars }
    });
    assign_tree(functions.collect(), &ports, windows).err()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use pci::bar::{Bar, BarKind};
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    #[test]
    fn endpoints_get_a_port() {
        let all = [
            Some(FunctionType::Endpoint),
            Some(FunctionType::Conventional),
            Some(FunctionType::Integrated),
            Some(FunctionType::Other(0xa)),
            None,
        ];
        let texts = |choice| all.map(|kind| decide(choice, kind).to_string());
        assert_eq!(
            texts(PortChoice::Auto),
            [
                "behind a root port: it is a PCI Express endpoint",
                "on bus 0: it is conventional PCI, without a link",
                "on bus 0: it is integrated into the host's root complex, without a link",
                "on bus 0: it is no endpoint, but PCI Express type 0xa",
                "on bus 0: a mediated device has no link on the host",
            ]
        );
        let on = "behind a root port: `port=on`";
        let slow = format!("{on}; it has no link, and the guest reads 2.5 GT/s x1");
        let slow = slow.as_str();
        assert_eq!(texts(PortChoice::On), [on, slow, slow, slow, slow]);
        assert_eq!(texts(PortChoice::Off), ["on bus 0: `port=off`"; 5]);
    }

    fn bars(kind: BarKind, size: u64) -> Bars {
        let bar = Bar { kind, size };
        Bars::new([Some(bar), None, None, None, None, None]).unwrap()
    }

    /// A 64-bit BAR that is not prefetchable: below 4 GiB behind a port alone.
    const NVME: BarKind = BarKind::Memory64 {
        prefetchable: false,
    };

    /// The decisions for endpoints with such a BAR each.
    fn fitted(devices: &[(&str, u64)]) -> Vec<String> {
        let with_kind = devices.iter().map(|(text, mib)| (*text, *mib, NVME));
        fitted_kinds(&with_kind.collect::<Vec<_>>())
    }

    /// The decisions for endpoints with these choices, and a BAR of so many MiB each.
    fn fitted_kinds(devices: &[(&str, u64, BarKind)]) -> Vec<String> {
        const MIB: u64 = 1 << 20;
        let window = |start, size| Range { start, size };
        let windows = Windows {
            mmio32: window(0xc000_0000, 512 * MIB),
            mmio64: window(1 << 40, 1 << 40),
            io: window(0x1000, 0xf000),
        };
        let configs = devices.iter().map(|(text, ..)| text.parse().unwrap());
        let mut configs: Vec<DeviceConfig> = configs.collect();
        let kinds = configs.iter().map(|config| config.port);
        let decisions = kinds.map(|choice| decide(choice, Some(FunctionType::Endpoint)));
        let mut decisions: Vec<_> = decisions.collect();
        apply(&mut configs, &decisions);
        let bars = devices.iter().map(|(_, mib, kind)| bars(*kind, mib * MIB));
        let bars: Vec<_> = bars.collect();
        fit(
            &mut configs,
            &mut decisions,
            &bars,
            &windows,
            &PortsConfig::default(),
        );
        for (config, decision) in configs.iter().zip(&decisions) {
            tell_loss(&format!("fitted {devices:?} {}", config.address), decision);
            assert_eq!(config.port == PortChoice::On, decision.behind_port);
        }
        decisions.iter().map(PortDecision::to_string).collect()
    }

    #[test]
    fn what_does_not_fit_is_on_bus_0() {
        let endpoint = "behind a root port: it is a PCI Express endpoint";
        assert_eq!(fitted(&[("1:0.0", 256), ("2:0.0", 16)]), [endpoint; 2]);
        let found = fitted(&[("1:0.0", 1024), ("2:0.0", 16)]);
        assert_eq!(found[1], endpoint);
        for part in [
            "on bus 0: a root port for it needs 1 GiB of",
            "512 MiB are left",
        ] {
            assert!(found[0].contains(part), "{}", found[0]);
        }
        let told = degraded::list().into_iter();
        let told = told.filter(|loss| loss.code == Code::NoPort);
        let told: Vec<_> = told.filter(|loss| loss.why.contains("1 GiB of")).collect();
        assert_eq!(told.len(), 1);
        assert!(
            told[0]
                .device
                .as_deref()
                .is_some_and(|name| name.ends_with("1:0.0"))
        );
        // Two that fit alone: one of them has the port.
        let found = fitted(&[("1:0.0", 512), ("2:0.0", 256)]);
        assert_eq!(found[0], endpoint);
        assert!(found[1].contains("on bus 0: a root port for it needs 256 MiB"));
        // What the user wants comes first, and is left to the error if it cannot be.
        let found = fitted(&[("1:0.0", 512), ("2:0.0,port=on", 256)]);
        let makes_room = "on bus 0: a root port for it leaves too little room for another device \
                          or port, which needs 256 MiB of memory below 4 GiB";
        assert_eq!(found, [makes_room, "behind a root port: `port=on`"]);
        let found = fitted(&[("1:0.0,port=on", 1024)]);
        assert_eq!(found, ["behind a root port: `port=on`"]);
    }

    /// A 32-bit BAR on bus 0 lies only below 4 GiB, where the windows of ports are as well.
    #[test]
    fn a_port_makes_room_for_a_bar_on_bus_0() {
        let near = BarKind::Memory32 {
            prefetchable: false,
        };
        let off = "on bus 0: `port=off`";
        let found = fitted_kinds(&[("1:0.0,port=off", 16, near), ("2:0.0", 512, NVME)]);
        assert_eq!(found[0], off);
        assert!(found[1].contains("which needs 16 MiB of memory below 4 GiB"));
        // Nobody makes room for what fits nowhere.
        let found = fitted_kinds(&[("1:0.0,port=off", 1024, near)]);
        assert_eq!(found, [off]);
        let found = fitted_kinds(&[("1:0.0,port=off", 256, near), ("2:0.0", 16, NVME)]);
        assert_eq!(found[1], "behind a root port: it is a PCI Express endpoint");
    }

    #[test]
    fn sysfs_decides_before_the_device_is_open() {
        let dir = TempDir::new().unwrap();
        let sysfs = Sysfs::at(dir.as_path());
        let add = |name: &str, config: &[u8], link: Option<&str>| {
            let device = sysfs.device_path(name.parse().unwrap());
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("config"), config).unwrap();
            if let Some(link) = link {
                fs::write(device.join("current_link_speed"), link).unwrap();
                fs::write(device.join("max_link_speed"), link).unwrap();
                fs::write(device.join("current_link_width"), "4\n").unwrap();
                fs::write(device.join("max_link_width"), "4\n").unwrap();
            }
        };
        // Root reads the type.
        let mut whole = vec![0; 4096];
        whole[6] = 0x10;
        whole[0x34] = 0x40;
        whole[0x40..0x44].copy_from_slice(&[0x10, 0, 0x92, 0]);
        add("0000:00:02.0", &whole, Some("Unknown\n"));
        whole[0x42] = 0x02;
        add("0000:01:00.0", &whole, None);
        // Others do not.
        add("0000:02:00.0", &[0; 64], Some("8.0 GT/s PCIe\n"));
        add("0000:03:00.0", &[0; 64], None);
        let names = [
            "00:02.0",
            "01:00.0",
            "02:00.0",
            "03:00.0",
            "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001",
            "02:00.0,port=off",
            "0000:77:00.0",
            "nonsense",
        ];
        let configs = names.map(|name| name.parse::<DeviceConfig>().unwrap());
        let behind = decide_all(&sysfs, &configs, |_, path| fs::read(path));
        let behind: Vec<_> = behind.iter().map(|d| d.behind_port).collect();
        assert_eq!(
            behind,
            [false, true, true, false, false, false, false, false]
        );
    }
}
