//! `--cpus N[,key=value]...`.

use crate::config::cpus::{CpuConfig, Idle, parse_list};
use crate::config::options::{Known, Options};
use crate::config::{ConfigError, MAX_CPUS};

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
];

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
/// An option that cannot be used, or not a host CPU for each vCPU.
pub fn parse(text: &str) -> Result<CpuConfig, ConfigError> {
    let (_, options) = Options::split("--cpus", text, OPTIONS)?;
    let config = CpuConfig {
        count: count(text).unwrap_or(1),
        pin: options.get("pin", parse_list)?.unwrap_or_default(),
        idle: options
            .get("idle", |value| match value {
                "native" => Some(Idle::Native),
                "exit" => Some(Idle::Exit),
                _ => None,
            })?
            .unwrap_or_default(),
    };
    let (cpus, pinned) = (config.count, config.pin.len());
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
        assert_eq!(parse("3"), Ok(CpuConfig::new(3)));
        assert_eq!(parse("3,idle=exit"), Ok(CpuConfig::new(3)));
        let all = CpuConfig {
            count: 4,
            pin: vec![1, 4, 5, 6],
            idle: Idle::Native,
        };
        assert_eq!(parse("4,pin=1,4-6,idle=native"), Ok(all.clone()));
        assert_eq!(parse("4,idle=native,pin=1,4-6"), Ok(all.clone()));
        assert!(all.dedicated() && !CpuConfig::new(4).dedicated());
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
