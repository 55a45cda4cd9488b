//! `--ports N[,key=value]...`: empty root ports, for devices that are added while the guest runs.
//!
//! A guest keeps the windows of a port that firmware has set, and finds no larger ones later. So
//! the windows are chosen at the start.

use std::fmt;

use pci::bridge_windows::{IO_GRANULE, MEMORY_GRANULE, NoRoom, Reserve, Window, size_text};

use crate::config::memory::parse_bytes;
use crate::config::options::{Flag, Known, OptionError, Options};
use crate::layout::{MMIO32_END, MMIO32_START, PCI_IO_END, PCI_IO_START};

/// The most root ports: 31 devices of 8 functions on bus 0.
pub const MAX_PORTS: u8 = 31 * 8;
/// The windows of I/O ports that there are for root ports.
const MAX_IO_WINDOWS: u64 = (PCI_IO_END as u64 + 1 - PCI_IO_START as u64) / IO_GRANULE;
/// Bytes below 4 GiB for all windows.
const HOLE: u64 = MMIO32_END - MMIO32_START;

static PORTS: Flag = Flag {
    name: "--ports",
    lists: false,
    options: &[
        Known {
            name: "mem32",
            wanted: "whole MiB, up to 512M",
            example: "16M",
        },
        Known {
            name: "mem64",
            wanted: "whole MiB, up to 32T",
            example: "64G",
        },
        Known {
            name: "io",
            wanted: "on or off",
            example: "on",
        },
    ],
};

/// The largest prefetchable window that can be asked for: half of the addresses of 46 bits.
const MOST_MEM64: u64 = 32 << 40;

/// What a port with a device keeps in its windows, at least. A guest's kernel gives a window that
/// is closed at the start a size of its own choice, because another device may come later
/// (pci_hotplug_mmio_size in Linux's drivers/pci/setup-bus.c).
pub const OCCUPIED: Reserve = Reserve {
    mem32: 1 << 20,
    pref64: 1 << 20,
    io: 0,
};

/// Empty root ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortsConfig {
    /// How many.
    pub count: u8,
    /// What each of them keeps free in its windows.
    pub reserve: Reserve,
}

impl Default for PortsConfig {
    /// No port; with a count, windows for most devices: 4 MiB below 4 GiB, and 1 GiB above.
    fn default() -> Self {
        Self {
            count: 0,
            reserve: Reserve {
                mem32: 4 << 20,
                pref64: 1 << 30,
                io: 0,
            },
        }
    }
}

impl PortsConfig {
    /// Ports that have room for what these lack, if there can be such ports: as many as now, or
    /// one.
    pub fn with_room(&self, lacks: &[NoRoom]) -> Option<Self> {
        let mut reserve = self.reserve;
        for lack in lacks {
            let needs = lack.needs.checked_next_multiple_of(MEMORY_GRANULE)?;
            match lack.window {
                Window::Memory32 => reserve.mem32 = reserve.mem32.max(needs),
                Window::Prefetchable => reserve.pref64 = reserve.pref64.max(needs),
                Window::Io => reserve.io = reserve.io.max(IO_GRANULE),
            }
        }
        let counts = [self.count.max(1), 1].into_iter();
        let mut ports = counts.map(|count| Self { count, reserve });
        ports.find(Self::is_possible)
    }

    /// One port more, if there can be so many.
    pub fn one_more(&self) -> Option<Self> {
        let count = self.count.checked_add(1)?;
        Some(Self { count, ..*self }).filter(Self::is_possible)
    }

    fn is_possible(&self) -> bool {
        parse(&self.to_string()).is_ok_and(|parsed| parsed == *self)
    }
}

/// The argument of `--ports`.
impl fmt::Display for PortsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = Self::default().reserve;
        write!(f, "{}", self.count)?;
        let sizes = [
            ("mem32", self.reserve.mem32, usual.mem32),
            ("mem64", self.reserve.pref64, usual.pref64),
        ];
        for (name, size, usual) in sizes {
            let mib = size / MEMORY_GRANULE;
            match () {
                () if size == usual => {}
                () if mib.is_multiple_of(1024) => write!(f, ",{name}={}G", mib / 1024)?,
                () => write!(f, ",{name}={mib}M")?,
            }
        }
        let io = if self.reserve.io > 0 { ",io=on" } else { "" };
        f.write_str(io)
    }
}

/// A `--ports` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    /// An option or its value is wrong.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The windows are larger than all addresses below 4 GiB that the guest has for PCI.
    #[error(
        "{count} ports with {} each below 4 GiB do not fit: there are {} for all devices",
        size_text(*each), size_text(HOLE)
    )]
    Memory32 {
        /// Ports.
        count: u8,
        /// Bytes for each.
        each: u64,
    },
    /// More windows of I/O ports than there are.
    #[error(
        "{count} root ports cannot all have I/O ports: there are {MAX_IO_WINDOWS} windows of {}",
        size_text(IO_GRANULE)
    )]
    Io {
        /// Ports.
        count: u8,
    },
}

impl PortsError {
    /// The remedy to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Option(e) => e.hint(),
            Self::Memory32 { count, each } => {
                let fits = HOLE / u64::from(*count) / MEMORY_GRANULE;
                // A window begins at a multiple of its largest BAR.
                let natural = 1u64 << fits.max(1).ilog2();
                match u8::try_from(HOLE / each.max(&1)) {
                    Ok(0) | Err(_) => format!("give less, for example mem32={natural}M"),
                    Ok(fewer) => {
                        format!("give less, for example mem32={natural}M, or --ports {fewer}")
                    }
                }
            }
            Self::Io { .. } => format!(
                "few devices need I/O ports: remove io=on, or give --ports {MAX_IO_WINDOWS}"
            ),
        }
    }
}

/// Parses the number before the options.
fn count(text: &str) -> Result<u8, String> {
    let count = text.split(',').next().unwrap_or_default();
    let digits = (1..=3).contains(&count.len()) && count.bytes().all(|b| b.is_ascii_digit());
    match digits.then(|| count.parse()) {
        Some(Ok(count @ 1..=MAX_PORTS)) => Ok(count),
        _ => Err(format!(
            "`{count}` is not a number of root ports from 1 to {MAX_PORTS}: bus 0 has 31 devices \
             of 8 functions"
        )),
    }
}

/// Checks that `text` begins with a valid number of ports, and returns `text` unchanged.
///
/// # Errors
/// A sentence about the number.
pub fn check_count(text: &str) -> Result<String, String> {
    count(text).map(|_| text.into())
}

/// Parses the argument of `--ports`, whose number [`check_count`] has checked.
///
/// # Errors
/// An option cannot be used, or the windows are larger than what there is for all devices.
pub fn parse(text: &str) -> Result<PortsConfig, PortsError> {
    let (_, options) = Options::split(&PORTS, text)?;
    let size = |name, most: u64| {
        options.get(name, |value| {
            let bytes = parse_bytes(value)?;
            let whole = bytes.is_multiple_of(MEMORY_GRANULE);
            (bytes > 0 && bytes <= most && whole).then_some(bytes)
        })
    };
    let least = PortsConfig::default().reserve;
    let config = PortsConfig {
        count: count(text).unwrap_or(0),
        reserve: Reserve {
            mem32: size("mem32", HOLE)?.unwrap_or(least.mem32),
            pref64: size("mem64", MOST_MEM64)?.unwrap_or(least.pref64),
            io: match options.switch("io")? {
                Some(true) => IO_GRANULE,
                _ => 0,
            },
        },
    };
    let (count, each) = (config.count, config.reserve.mem32);
    if u64::from(count) * each > HOLE {
        return Err(PortsError::Memory32 { count, each });
    }
    if config.reserve.io > 0 && u64::from(count) > MAX_IO_WINDOWS {
        return Err(PortsError::Io { count });
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn windows_have_sizes() {
        assert_eq!(PortsConfig::default().count, 0);
        for (text, count, mem32, pref64, io) in [
            ("1", 1, 4, 1024, 0),
            ("128", 128, 4, 1024, 0),
            ("2,mem32=16M", 2, 16, 1024, 0),
            ("2,mem64=64G,io=on", 2, 4, 64 << 10, 0x1000),
            ("1,mem32=512M,mem64=32T,io=off", 1, 512, 32 << 20, 0),
            ("248,mem32=2", 248, 2, 1024, 0),
            ("15,io=on", 15, 4, 1024, 0x1000),
            ("3,mem32=3072K", 3, 3, 1024, 0),
        ] {
            let wanted = PortsConfig {
                count,
                reserve: Reserve {
                    mem32: mem32 * MIB,
                    pref64: pref64 * MIB,
                    io,
                },
            };
            assert_eq!(parse(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn a_device_that_lacks_room_gets_ports_that_have_it() {
        let lack = |window, needs| NoRoom {
            window,
            needs,
            has: 0,
        };
        let near = lack(Window::Memory32, 64 * MIB);
        let far = lack(Window::Prefetchable, 16 << 30);
        let io = lack(Window::Io, IO_GRANULE);
        for (now, lacks, larger) in [
            ("2", &[near][..], Some("2,mem32=64M")),
            // The windows that are large enough stay.
            ("2,mem64=8G", &[near], Some("2,mem32=64M,mem64=8G")),
            ("2", &[near, far], Some("2,mem32=64M,mem64=16G")),
            (
                "2,io=on,mem32=128M",
                &[far],
                Some("2,mem32=128M,mem64=16G,io=on"),
            ),
            ("16", &[io], Some("1,io=on")),
            ("64", &[near], Some("1,mem32=64M")),
            ("1", &[lack(Window::Memory32, 1 << 30)], None),
            ("1", &[lack(Window::Prefetchable, u64::MAX)], None),
        ] {
            let ports = parse(now).unwrap().with_room(lacks);
            let text = ports.map(|ports| ports.to_string());
            assert_eq!(text.as_deref(), larger, "{now}");
        }
        let none = PortsConfig::default().with_room(&[near]).unwrap();
        assert_eq!(none.to_string(), "1,mem32=64M");
        let more = |now| Some(parse(now).unwrap().one_more()?.to_string());
        assert_eq!(more("3,mem32=8M").as_deref(), Some("4,mem32=8M"));
        assert_eq!((more("15,io=on"), more("248,mem32=2M")), (None, None));
    }

    #[test]
    fn counts() {
        for text in ["1", "31", "248", "2,io=on"] {
            assert_eq!(check_count(text), Ok(text.into()));
        }
        for text in [
            "", "0", "249", "256", "1000", "-1", "+1", " 1", "two", ",io=on", "00001",
        ] {
            assert!(check_count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn each_mistake_has_a_remedy() {
        for (text, says, hints) in [
            (
                "2,frob=1",
                "`frob=1` is not an option of --ports 2",
                "mem32=",
            ),
            ("2,", "`` is not an option", "mem32="),
            ("2,mem32=0", "`0` is not a value for `mem32`", "mem32=16M"),
            ("2,mem32=", "`` is not a value for `mem32`", "mem32=16M"),
            (
                "2,mem32=1G",
                "`1G` is not a value for `mem32`",
                "up to 512M",
            ),
            ("2,mem32=1500K", "`1500K` is not a value", "whole MiB"),
            ("2,mem64=0G", "`0G` is not a value for `mem64`", "mem64=64G"),
            (
                "2,mem64=64T",
                "`64T` is not a value for `mem64`",
                "up to 32T",
            ),
            (
                "2,mem64=-1G",
                "`-1G` is not a value for `mem64`",
                "mem64=64G",
            ),
            ("2,mem32=4M,mem32=8M", "`mem32` is given twice", "once"),
            ("2,io=yes", "`yes` is not a value for `io`", "on or off"),
            ("2,io", "`io` is not an option", "io="),
            (
                "129",
                "129 ports with 4 MiB each below 4 GiB do not fit: there are 512 MiB for all",
                "mem32=2M, or --ports 128",
            ),
            (
                "2,mem32=512M",
                "2 ports with 512 MiB each",
                "mem32=256M, or --ports 1",
            ),
            (
                "16,io=on",
                "16 root ports cannot all have I/O ports: there are 15 windows of 4 KiB",
                "remove io=on, or give --ports 15",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains(says), "{text}: {error}");
            assert!(error.hint().contains(hints), "{text}: {}", error.hint());
        }
    }
}
