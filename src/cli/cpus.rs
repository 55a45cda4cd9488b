//! `--cpus N[,key=value]...`.

use vmm::config::cpus::{CpuConfig, Idle, parse_list};
use vmm::config::options::{Known, Options};
use vmm::config::topology::{Topology, Wish};
use vmm::config::{ConfigError, MAX_CPUS};

const OPTIONS: &[Known] = &[
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
];

const NUMBER: &str = "a number, 1 or more";

/// The number before the options, for the parser of flags to complain of.
fn count(text: &str) -> Result<u32, String> {
    let count = text.split(',').next().unwrap_or_default();
    match count.parse() {
        Ok(count @ 1..=MAX_CPUS) => Ok(count),
        _ => Err(format!("`{count}` is no number from 1 to {MAX_CPUS}")),
    }
}

/// Lets text pass that begins with a number of vCPUs.
///
/// # Errors
/// What is wrong with the number.
pub fn check_count(text: &str) -> Result<String, String> {
    count(text).map(|_| text.into())
}

/// What the flag's argument describes; its number was checked.
///
/// # Errors
/// An option that cannot be used, not a host CPU for each vCPU, or more or fewer threads than vCPUs.
pub fn parse(text: &str) -> Result<CpuConfig, ConfigError> {
    let (_, options) = Options::split("--cpus", text, OPTIONS)?;
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
        return Err(ConfigError::Pins { cpus, pinned });
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert!(e.to_string().contains("is no value for `cores`"), "{e}");
        }
    }

    #[test]
    fn a_host_cpu_for_each() {
        for (text, cpus, pinned) in [("2,pin=0", 2, 1), ("1,pin=0-2", 1, 3)] {
            assert_eq!(parse(text), Err(ConfigError::Pins { cpus, pinned }));
        }
    }

    #[test]
    fn counts() {
        for text in ["1", "64", "2,pin=0-1"] {
            assert_eq!(check_count(text), Ok(text.into()));
        }
        for text in ["", "0", "65", "-1", "two", ",pin=1"] {
            assert!(check_count(text).is_err(), "{text}");
        }
    }
}
