//! `--cpus N[,key=value]...`: the vCPUs' number, topology, host CPUs and idle behaviour.

use crate::config::options::{Flag, Known, OptionError, Options};
use crate::config::topology::{MAX_CPUS, Topology, TopologyError, Wish};

static CPUS: Flag = Flag {
    name: "--cpus",
    lists: true,
    options: &[
        Known {
            name: "pin",
            wanted: "a list of host CPUs, each once",
            example: "0,2,4-7",
        },
        Known {
            name: "idle",
            wanted: "native or exit",
            example: "native",
        },
        Known {
            name: "sockets",
            wanted: NUMBER,
            example: "1",
        },
        Known {
            name: "cores",
            wanted: NUMBER,
            example: "2",
        },
        Known {
            name: "threads",
            wanted: NUMBER,
            example: "2",
        },
    ],
};

const NUMBER: &str = "a number, 1 or more";

/// vCPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuConfig {
    /// The number of vCPUs, and their sockets, cores and threads.
    pub topology: Topology,
    /// The host CPU of each vCPU; empty if the host's scheduler decides.
    pub pin: Vec<usize>,
    /// The behaviour of an idle vCPU.
    pub idle: Idle,
}

impl CpuConfig {
    /// `count` vCPUs, with the defaults for everything else.
    ///
    /// # Errors
    /// `count` is not 1 to [`MAX_CPUS`].
    pub fn new(count: u32) -> Result<Self, TopologyError> {
        Ok(Self {
            topology: Topology::new(count, Wish::default())?,
            pin: Vec::new(),
            idle: Idle::default(),
        })
    }

    /// Number of vCPUs.
    pub fn count(&self) -> u32 {
        self.topology.cpus()
    }

    /// Whether each vCPU has a host CPU for itself: it is pinned and does not leave the guest when
    /// idle.
    pub fn dedicated(&self) -> bool {
        self.idle == Idle::Native && !self.pin.is_empty()
    }
}

/// The behaviour of an idle vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// HLT and PAUSE leave the guest, and the host CPU is free for other threads.
    #[default]
    Exit,
    /// HLT, MWAIT and PAUSE run in the guest, which keeps its host CPU.
    Native,
}

/// Options of `--cpus` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuError {
    /// An option or its value is wrong.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The number of host CPUs differs from the number of vCPUs.
    #[error("{pinned} host CPUs are named for {cpus} vCPU{}", if *cpus == 1 { "" } else { "s" })]
    Pins {
        /// vCPUs.
        cpus: u32,
        /// Host CPUs.
        pinned: usize,
    },
    /// The product of sockets, cores and threads is not the number of vCPUs.
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

impl CpuError {
    /// The remedy to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Option(e) => e.hint(),
            Self::Pins { cpus: 1, .. } => "name one for it, for example pin=0".into(),
            Self::Pins { cpus, .. } => {
                format!("name one for each, for example pin=0-{}", cpus - 1)
            }
            Self::Topology(e) => e.hint(),
        }
    }
}

/// Parses the number before the options.
fn count(text: &str) -> Result<u32, String> {
    let count = text.split(',').next().unwrap_or_default();
    match number(count).map(u32::try_from) {
        Some(Ok(count @ 1..=MAX_CPUS)) => Ok(count),
        _ => Err(format!(
            "`{count}` is not a number from 1 to {MAX_CPUS}: the guest's interrupt controllers \
             reach no more processors"
        )),
    }
}

/// Checks that `text` begins with a valid number of vCPUs, and returns `text` unchanged.
///
/// # Errors
/// A sentence about the number.
pub fn check_count(text: &str) -> Result<String, String> {
    count(text).map(|_| text.into())
}

/// Parses the argument of `--cpus`, whose number [`check_count`] has checked.
///
/// # Errors
/// An option cannot be used, or host CPUs or topology do not match the number of vCPUs.
pub fn parse(text: &str) -> Result<CpuConfig, CpuError> {
    let (_, options) = Options::split(&CPUS, text)?;
    let number = |name| {
        options.get(name, |value| {
            let digits = value.bytes().all(|b| b.is_ascii_digit());
            let number = digits.then(|| value.parse().ok()).flatten();
            number.filter(|n| *n > 0)
        })
    };
    let wish = Wish {
        sockets: number("sockets")?,
        cores: number("cores")?,
        threads: number("threads")?,
    };
    let config = CpuConfig {
        topology: Topology::new(count(text).unwrap_or(1), wish)?,
        pin: options.get("pin", parse_list)?.unwrap_or_default(),
        idle: options
            .get("idle", |value| match value {
                "native" => Some(Idle::Native),
                "exit" => Some(Idle::Exit),
                _ => None,
            })?
            .unwrap_or_default(),
    };
    let (cpus, pinned) = (config.count(), config.pin.len());
    if pinned != 0 && pinned != cpus as usize {
        return Err(CpuError::Pins { cpus, pinned });
    }
    Ok(config)
}

/// The highest host CPU of any kernel (CONFIG_NR_CPUS is 8192 at most).
pub const MAX_HOST_CPU: usize = 8191;

/// Reads a list of host CPUs as taskset(1) takes it: `0,2,4-7`, or every second CPU with `0-6:2`.
/// The first CPU is for vCPU 0. `None` if the list is malformed or names a CPU twice.
pub fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (range, step) = part.split_once(':').unwrap_or((part, "1"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last, step) = (number(first)?, number(last)?, number(step)?);
        if first > last || step == 0 || (part.contains(':') && !range.contains('-')) {
            return None;
        }
        for cpu in (first..=last).step_by(step) {
            if cpus.contains(&cpu) {
                return None;
            }
            cpus.push(cpu);
        }
    }
    Some(cpus)
}

/// Reads a number that consists of digits only: no sign, no space.
fn number(text: &str) -> Option<usize> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten()?;
    (number <= MAX_HOST_CPU).then_some(number)
}

/// Formats a list of CPUs in its shortest form, as the kernel prints it: `0-3,8`.
pub fn format_list(cpus: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let text: Vec<_> = ranges
        .iter()
        .map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        })
        .collect();
    text.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_as_taskset_has_them() {
        for (text, cpus, back) in [
            ("0", &[0][..], "0"),
            ("3,1", &[3, 1], "3,1"),
            ("0,2,4-7", &[0, 2, 4, 5, 6, 7], "0,2,4-7"),
            ("0-6:2", &[0, 2, 4, 6], "0,2,4,6"),
            ("8191", &[8191], "8191"),
        ] {
            assert_eq!(parse_list(text).as_deref(), Some(cpus), "{text}");
            assert_eq!(format_list(cpus), back);
        }
        for text in [
            "",
            ",",
            "0,",
            "x",
            "-1",
            "1-",
            "-",
            "3-1",
            "0-3:0",
            "2:2",
            "0:",
            "+1",
            " 1",
            "0,0",
            "0-3,2",
            "8192",
            "99999999999999999999",
            "0-1-2",
        ] {
            assert_eq!(parse_list(text), None, "{text}");
        }
    }

    #[test]
    fn options_become_a_config() {
        let plain = |cpus| CpuConfig::new(cpus).unwrap();
        assert_eq!(parse("3"), Ok(plain(3)));
        assert_eq!(parse("3,idle=exit"), Ok(plain(3)));
        let all = CpuConfig {
            pin: vec![1, 4, 5, 6],
            idle: Idle::Native,
            ..plain(4)
        };
        assert_eq!(parse("4,pin=1,4-6,idle=native"), Ok(all.clone()));
        assert_eq!(parse("4,idle=native,pin=1,4-6"), Ok(all.clone()));
        assert!(all.dedicated() && !plain(4).dedicated());
        for text in ["4,sockets=2,cores=1,threads=2", "4,cores=1,sockets=2"] {
            let wish = Wish {
                sockets: Some(2),
                cores: Some(1),
                threads: Some(2),
            };
            let topology = Topology::new(4, wish).unwrap();
            let wanted = CpuConfig {
                topology,
                ..plain(4)
            };
            assert_eq!(parse(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn numbers_that_do_not_go_together() {
        let e = parse("3,threads=2").unwrap_err();
        assert_eq!(e.to_string(), "3 vCPUs cannot have 2 threads a core");
        assert!(e.hint().contains("--cpus 4,sockets=1,cores=2,threads=2"));
        for text in ["4,cores=0", "4,cores=", "4,cores=+2", "4,cores=99999999999"] {
            let e = parse(text).unwrap_err();
            assert!(e.to_string().contains("is not a value for `cores`"), "{e}");
        }
    }

    #[test]
    fn a_host_cpu_for_each() {
        for (text, cpus, pinned) in [("2,pin=0", 2, 1), ("1,pin=0-2", 1, 3)] {
            assert_eq!(parse(text), Err(CpuError::Pins { cpus, pinned }));
        }
    }

    #[test]
    fn counts() {
        for text in ["1", "64", "255", "2,pin=0-1"] {
            assert_eq!(check_count(text), Ok(text.into()));
        }
        for text in [
            "",
            "0",
            "256",
            "65536",
            "4294967297",
            "-1",
            "+1",
            " 1",
            "1 ",
            "two",
            ",pin=1",
        ] {
            assert!(check_count(text).is_err(), "{text}");
        }
    }
}
