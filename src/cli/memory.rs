//! `--memory SIZE[,key=value]...`.

use vmm::config::memory::{HugePage, MemoryConfig, Pages};
use vmm::config::options::{Known, Options};
use vmm::config::{ConfigError, SizeError, parse_memory};

const OPTIONS: &[Known] = &[
    Known {
        name: "hugepages",
        wanted: "2M, 1G, thp or off",
        example: "2M",
    },
    Known {
        name: "prefault",
        wanted: "on or off",
        example: "on",
    },
    Known {
        name: "shared",
        wanted: "on or off",
        example: "on",
    },
];

/// What the flag's argument describes.
///
/// # Errors
/// A size that is none, too small, or no multiple of its pages; an option that cannot be used.
pub fn parse(text: &str) -> Result<MemoryConfig, ConfigError> {
    let (size, options) = Options::split("--memory", text, OPTIONS)?;
    let pages = options
        .get("hugepages", |value| match value {
            "2M" => Some(Pages::Huge(HugePage::Mib2)),
            "1G" => Some(Pages::Huge(HugePage::Gib1)),
            "thp" => Some(Pages::Transparent),
            "off" => Some(Pages::Small),
            _ => None,
        })?
        .unwrap_or_default();
    let config = MemoryConfig {
        size: parse_memory(size)?,
        pages,
        prefault: options.switch("prefault")?,
        shared: options.switch("shared")?.unwrap_or(false),
    };
    match pages {
        Pages::Huge(page) if !config.size.is_multiple_of(page.size()) => {
            let text = size.into();
            Err(SizeError::NotMultiple { text, page }.into())
        }
        _ => Ok(config),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_a_config() {
        assert_eq!(parse("512M"), Ok(MemoryConfig::new(512 << 20)));
        assert_eq!(parse("1G,hugepages=thp"), Ok(MemoryConfig::new(1 << 30)));
        let all = parse("2G,hugepages=1G,prefault=off,shared=on");
        let wanted = MemoryConfig {
            size: 2 << 30,
            pages: Pages::Huge(HugePage::Gib1),
            prefault: Some(false),
            shared: true,
        };
        assert_eq!(all, Ok(wanted));
        let small = parse("64M,hugepages=off,prefault=on").unwrap();
        assert_eq!((small.pages, small.prefault), (Pages::Small, Some(true)));
    }

    #[test]
    fn huge_pages_are_whole() {
        assert!(parse("66M,hugepages=2M").is_ok());
        for text in [
            "65M,hugepages=2M",
            "1536M,hugepages=1G",
            "65537K,hugepages=2M",
        ] {
            let e = parse(text).unwrap_err();
            assert!(
                matches!(e, ConfigError::Memory(SizeError::NotMultiple { .. })),
                "{text}"
            );
        }
    }
}
