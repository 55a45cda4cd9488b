//! `port=auto`: whether a device is behind a root port in the guest, and why.
//!
//! The decision is made before a device is opened, from what sysfs tells every user, so that
//! `explain` and a run decide alike.

use std::fmt;
use std::io;
use std::path::Path;

use pci::bridge_windows::{Window, size_text};
use pci::express::FunctionType;

use crate::config::device::{DeviceConfig, PortChoice};
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
                Some(sysfs.express(name, &registers, &read).function_type)
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

#[cfg(test)]
mod tests {
    use std::fs;

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
