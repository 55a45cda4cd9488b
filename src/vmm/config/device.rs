//! `--vfio ADDR[,key=value]...`: a device to pass through, with its slot, ROM and token.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use uuid::Uuid;

use crate::config::mechanisms::Mechanisms;
use crate::config::options::{Flag, Known, OptionError, Options};
use crate::hostinfo::name::parse_uuid;
use crate::sys::descriptor::Descriptor;

/// An address on the guest's bus: device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// Device number, 1 to 31; 0 is the host bridge's.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}.{:x}", self.device, self.function)
    }
}

impl FromStr for Slot {
    type Err = ();

    /// `5`, `05` or `05.1`, in hexadecimal digits as `lspci` prints them.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (device, function) = text.split_once('.').unwrap_or((text, "0"));
        let number = |text: &str, most: u8| {
            let digits =
                (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
            let number = digits.then(|| u8::from_str_radix(text, 16).ok()).flatten();
            number.filter(|n| *n <= most).ok_or(())
        };
        let device = number(device, 0x1f)?;
        let function = number(function, 7)?;
        (device != 0).then_some(Self { device, function }).ok_or(())
    }
}

/// The source of a device's expansion ROM in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RomConfig {
    /// The device's own ROM, if it has one.
    #[default]
    Device,
    /// No ROM: for a ROM that hangs the host when it is read, or that the guest must not see.
    Off,
    /// A file of the host's.
    File(PathBuf),
}

/// Whether a device is behind a root port of its own in the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortChoice {
    /// As is right for the device.
    #[default]
    Auto,
    /// Behind a root port.
    On,
    /// On bus 0, as a part of the root complex.
    Off,
}

/// A device to pass through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceConfig {
    /// The host's address, or a path in sysfs, as the user wrote it.
    pub address: String,
    /// The device's own node, if another process has opened it.
    pub given: Option<Descriptor>,
    /// The address on the guest's bus 0, of the device or of its root port; `None` for the first
    /// free device number.
    pub slot: Option<Slot>,
    /// Whether the device is bound to VFIO for the run, and given back to its host driver
    /// afterwards.
    pub managed: bool,
    /// The device's expansion ROM.
    pub rom: RomConfig,
    /// The VF token: a secret that a physical function bound to VFIO shares with its virtual
    /// functions.
    pub vf_token: Option<Uuid>,
    /// The GPUDirect clique of an NVIDIA GPU, 0 to 15: drivers in the guest use peer-to-peer DMA
    /// between GPUs of one clique.
    pub clique: Option<u8>,
    /// Whether the device is behind a root port.
    pub port: PortChoice,
    /// What the device's registers and interrupts use of the kernel.
    pub mechanisms: Mechanisms,
}

static VFIO: Flag = Flag {
    name: "--vfio",
    lists: false,
    options: &[
        Known {
            name: "slot",
            wanted: "a device number from 01 to 1f and, if not 0, a function from 0 to 7",
            example: "05.0",
        },
        Known {
            name: "managed",
            wanted: "on or off",
            example: "on",
        },
        Known {
            name: "rombar",
            wanted: "on or off",
            example: "off",
        },
        Known {
            name: "romfile",
            wanted: "the path of a file",
            example: "vbios.rom",
        },
        Known {
            name: "vf-token",
            wanted: "a UUID",
            example: "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3",
        },
        Known {
            name: "clique",
            wanted: "a number from 0 to 15",
            example: "0",
        },
        Known {
            name: "port",
            wanted: "auto, on or off",
            example: "on",
        },
        Known {
            name: "mmap",
            wanted: "on or off",
            example: "off",
        },
        Known {
            name: "irqfd",
            wanted: "on or off",
            example: "off",
        },
    ],
};

/// A `--vfio` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceOptionError {
    /// An option or its value is wrong.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// `romfile=` together with `rombar=off`.
    #[error("`rombar=off` and `romfile=` contradict each other for --vfio {address}")]
    RomTwoWays {
        /// The device that the options were for.
        address: String,
    },
}

impl DeviceOptionError {
    /// The remedy to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Option(e) => e.hint(),
            Self::RomTwoWays { .. } => {
                "remove `romfile=` for no ROM, or `rombar=off` for the file's ROM".into()
            }
        }
    }
}

impl FromStr for DeviceConfig {
    type Err = DeviceOptionError;

    fn from_str(text: &str) -> Result<Self, DeviceOptionError> {
        let (address, options) = Options::split(&VFIO, text)?;
        let path = |value: &str| (!value.is_empty()).then(|| PathBuf::from(value));
        let rombar = options.switch("rombar")?.unwrap_or(true);
        let rom = match (rombar, options.get("romfile", path)?) {
            (true, None) => RomConfig::Device,
            (true, Some(path)) => RomConfig::File(path),
            (false, None) => RomConfig::Off,
            (false, Some(_)) => {
                let address = address.into();
                return Err(DeviceOptionError::RomTwoWays { address });
            }
        };
        Ok(Self {
            address: address.into(),
            given: None,
            slot: options.get("slot", |value| value.parse().ok())?,
            managed: options.switch("managed")?.unwrap_or(false),
            vf_token: options.get("vf-token", parse_uuid)?,
            clique: options.get("clique", clique)?,
            port: options.get("port", port)?.unwrap_or_default(),
            mechanisms: Mechanisms {
                mmap: options.switch("mmap")?.unwrap_or(true),
                irqfd: options.switch("irqfd")?.unwrap_or(true),
            },
            rom,
        })
    }
}

fn port(text: &str) -> Option<PortChoice> {
    match text {
        "auto" => Some(PortChoice::Auto),
        "on" => Some(PortChoice::On),
        "off" => Some(PortChoice::Off),
        _ => None,
    }
}

/// `0` to `15`, in decimal digits alone.
fn clique(text: &str) -> Option<u8> {
    let digits = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.filter(|n| *n <= 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_in_every_form() {
        for (text, device, function) in [("5", 5, 0), ("05", 5, 0), ("1f.7", 31, 7), ("a.1", 10, 1)]
        {
            assert_eq!(text.parse(), Ok(Slot { device, function }), "{text}");
        }
        for text in [
            "", "0", "00.0", "20", "1.8", "1.", ".1", "1.1.1", "+1", "005", "é",
        ] {
            assert_eq!(text.parse::<Slot>(), Err(()), "{text}");
        }
        assert_eq!("a.1".parse::<Slot>().unwrap().to_string(), "0a.1");
    }

    #[test]
    fn options_follow_the_address() {
        let plain: DeviceConfig = "01:00.0".parse().unwrap();
        assert_eq!((plain.address.as_str(), plain.slot), ("01:00.0", None));
        let moved: DeviceConfig = "/sys/bus/pci/devices/0000:01:00.0,slot=4.1"
            .parse()
            .unwrap();
        assert_eq!(moved.address, "/sys/bus/pci/devices/0000:01:00.0");
        assert_eq!(moved.slot.unwrap().to_string(), "04.1");
        assert!(!moved.managed);
        let managed: DeviceConfig = "01:00.0,managed=on,slot=4".parse().unwrap();
        assert!(managed.managed && managed.slot.is_some());
        let unmanaged: DeviceConfig = "01:00.0,managed=off".parse().unwrap();
        assert!(!unmanaged.managed);
        let token = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3";
        let shared: DeviceConfig = format!("01:00.1,vf-token={token}").parse().unwrap();
        assert_eq!(shared.vf_token.unwrap().to_string(), token);
        for (text, clique) in [("0", 0), ("15", 15), ("07", 7)] {
            let gpu: DeviceConfig = format!("01:00.0,clique={text}").parse().unwrap();
            assert_eq!(gpu.clique, Some(clique));
        }
        for (text, mmap, irqfd) in [
            ("01:00.0", true, true),
            ("01:00.0,mmap=off", false, true),
            ("01:00.0,irqfd=off,mmap=on", true, false),
            ("01:00.0,mmap=off,irqfd=off", false, false),
        ] {
            let device: DeviceConfig = text.parse().unwrap();
            assert_eq!(device.mechanisms, Mechanisms { mmap, irqfd }, "{text}");
        }
        assert_eq!(plain.port, PortChoice::Auto);
        for (text, port) in [
            ("auto", PortChoice::Auto),
            ("on", PortChoice::On),
            ("off", PortChoice::Off),
        ] {
            let device: DeviceConfig = format!("01:00.0,port={text}").parse().unwrap();
            assert_eq!(device.port, port);
        }
    }

    #[test]
    fn a_rom_is_the_devices_none_or_a_files() {
        let file = RomConfig::File("/tmp/vbios.rom".into());
        for (text, rom) in [
            ("01:00.0", RomConfig::Device),
            ("01:00.0,rombar=on", RomConfig::Device),
            ("01:00.0,rombar=off,slot=4", RomConfig::Off),
            ("01:00.0,romfile=/tmp/vbios.rom", file.clone()),
            ("01:00.0,romfile=/tmp/vbios.rom,rombar=on", file),
        ] {
            assert_eq!(text.parse::<DeviceConfig>().unwrap().rom, rom, "{text}");
        }
    }

    #[test]
    fn each_mistake_is_named() {
        for (text, says, hints) in [
            ("01:00.0,frob=1", "`frob=1` is not an option", "slot="),
            ("01:00.0,slot", "`slot` is not an option", "slot="),
            ("01:00.0,", "`` is not an option", "slot="),
            ("01:00.0,slot=1,slot=2", "`slot` is given twice", "once"),
            (
                "01:00.0,slot=0",
                "`0` is not a value for `slot`",
                "slot=05.0",
            ),
            ("01:00.0,managed=yes", "`yes` is not a value", "managed=on"),
            ("01:00.0,managed", "`managed` is not an option", "managed="),
            (
                "01:00.0,slot=9.9",
                "`9.9` is not a value for `slot`",
                "from 01 to 1f",
            ),
            (
                "01:00.0,rombar=no",
                "`no` is not a value for `rombar`",
                "on or off",
            ),
            (
                "01:00.0,romfile=",
                "`` is not a value for `romfile`",
                "the path of a file",
            ),
            (
                "01:00.0,romfile=x,rombar=off",
                "contradict each other",
                "remove",
            ),
            ("01:00.0,romfile=x,romfile=y", "given twice", "once"),
            ("01:00.0,clique=16", "`16` is not a value", "from 0 to 15"),
            ("01:00.0,clique=-1", "`-1` is not a value", "from 0 to 15"),
            ("01:00.0,clique=+1", "`+1` is not a value", "from 0 to 15"),
            ("01:00.0,clique=", "`` is not a value", "clique=0"),
            (
                "01:00.0,port=yes",
                "`yes` is not a value",
                "auto, on or off",
            ),
            ("01:00.0,mmap=0", "`0` is not a value", "mmap=off"),
            ("01:00.0,mmap", "`mmap` is not an option", "mmap="),
            ("01:00.0,irqfd=no", "`no` is not a value", "irqfd=off"),
            ("01:00.0,mmap=off,mmap=off", "given twice", "once"),
            (
                "01:00.0,vf-token=secret",
                "`secret` is not a value for `vf-token`",
                "a UUID, for example vf-token=bd8d",
            ),
        ] {
            let error = text.parse::<DeviceConfig>().unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            assert!(error.hint().contains(hints), "{}", error.hint());
        }
    }
}
