//! `--memory SIZE[,key=value]...`: the size of the guest's RAM, and the host's pages behind it.

use std::fmt;

use crate::config::options::{Flag, Known, OptionError, Options};
pub use crate::layout::MIN_MEMORY;

/// The default size of RAM.
pub const DEFAULT_MEMORY: &str = "512M";

static MEMORY: Flag = Flag {
    name: "--memory",
    lists: false,
    options: &[
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
        Known {
            name: "check",
            wanted: "on or off",
            example: "off",
        },
    ],
};

/// Guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Bytes, a multiple of the pages' size and at least [`MIN_MEMORY`].
    pub size: u64,
    /// The host's pages behind RAM.
    pub pages: Pages,
    /// Whether all RAM is made present, and mapped for devices, before the guest runs. `None`: with
    /// a device, RAM is made present and mapped while the guest starts; without a device, the
    /// kernel allocates a page when the guest touches it.
    pub prefault: Option<bool>,
    /// Whether other processes can map RAM: a memfd instead of private memory.
    pub shared: bool,
    /// Whether the host must have so much memory free. The check cannot know everything that the
    /// host would give back; without it, the kernel may kill a process for want of memory.
    pub check: bool,
}

impl MemoryConfig {
    /// `size` bytes, with the defaults for everything else.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            pages: Pages::default(),
            prefault: None,
            shared: false,
            check: true,
        }
    }

    /// Whether a run looks for free memory. Pages of the reserve are not looked for: they are
    /// reserved, or refused, when RAM is made.
    pub fn is_checked(&self) -> bool {
        self.check && !matches!(self.pages, Pages::Huge(_))
    }
}

/// The host's pages behind guest RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// Transparent huge pages, where the host has them.
    #[default]
    Transparent,
    /// 4 KiB only.
    Small,
    /// From the host's reserve of huge pages.
    Huge(HugePage),
}

impl Pages {
    /// The size of RAM must be a multiple of this number of bytes.
    pub fn granule(self) -> u64 {
        match self {
            Self::Transparent | Self::Small => 4096,
            Self::Huge(page) => page.size(),
        }
    }
}

/// A size of huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePage {
    /// 2 MiB.
    Mib2,
    /// 1 GiB.
    Gib1,
}

impl HugePage {
    /// Bytes.
    pub fn size(self) -> u64 {
        1 << self.shift()
    }

    /// The size's logarithm to base 2, for mmap(2) and memfd_create(2).
    pub fn shift(self) -> u32 {
        match self {
            Self::Mib2 => 21,
            Self::Gib1 => 30,
        }
    }
}

impl fmt::Display for HugePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mib2 => "2 MiB",
            Self::Gib1 => "1 GiB",
        })
    }
}

/// A `--memory` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// The size is wrong.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// An option or its value is wrong.
    #[error(transparent)]
    Option(#[from] OptionError),
}

impl MemoryError {
    /// The remedy to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Size(e) => e.hint(),
            Self::Option(e) => e.hint(),
        }
    }
}

/// A memory size that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number with a unit.
    #[error("`{0}` is not a size of memory")]
    Malformed(String),
    /// Too little to boot.
    #[error("{text} of memory is too little: the least is {least}M", least = MIN_MEMORY >> 20)]
    TooSmall {
        /// What the user wrote.
        text: String,
    },
    /// Not a whole number of the processor's pages.
    #[error("{text} of memory is not a whole number of 4 KiB pages")]
    NotPages {
        /// What the user wrote.
        text: String,
    },
    /// Not a whole number of huge pages.
    #[error("{text} of memory is not a multiple of its {page} pages")]
    NotMultiple {
        /// What the user wrote.
        text: String,
        /// The size of a page.
        page: HugePage,
    },
}

impl SizeError {
    /// The remedy to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Malformed(_) => {
                "give a number with K, M, G or T, for example --memory 512M or --memory 4G; \
                 a bare number means MiB"
                    .into()
            }
            Self::TooSmall { .. } => {
                format!("give the guest more, for example --memory {DEFAULT_MEMORY}")
            }
            Self::NotPages { .. } => {
                "give a multiple of 4K, for example --memory 65536K or --memory 512M".into()
            }
            Self::NotMultiple { page, .. } => {
                format!("give it whole pages of {page}, or smaller ones")
            }
        }
    }
}

/// Parses the argument of `--memory`.
///
/// # Errors
/// A size that is malformed, too small, or not a multiple of its pages; an option that cannot be
/// used.
pub fn parse(text: &str) -> Result<MemoryConfig, MemoryError> {
    let (size, options) = Options::split(&MEMORY, text)?;
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
        size: parse_size(size)?,
        pages,
        prefault: options.switch("prefault")?,
        shared: options.switch("shared")?.unwrap_or(false),
        check: options.switch("check")?.unwrap_or(true),
    };
    match pages {
        Pages::Huge(page) if !config.size.is_multiple_of(page.size()) => {
            let text = size.into();
            Err(SizeError::NotMultiple { text, page }.into())
        }
        _ => Ok(config),
    }
}

/// Reads `512M`, `4G`, `4GiB`; a bare number means MiB, as in QEMU. The result is in bytes. Nothing
/// is rounded. `None` if the text is malformed or the number is beyond 64 bits.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    // The standard library would take a sign.
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    let unit = text
        .get(digits.len()..)
        .unwrap_or_default()
        .to_ascii_lowercase();
    let shift = match unit.as_str() {
        "k" | "kb" | "kib" => 10,
        "" | "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// Reads the size of RAM, in the form of [`parse_bytes`].
///
/// # Errors
/// Malformed, less than [`MIN_MEMORY`], or no whole number of pages.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let bytes = parse_bytes(text).ok_or_else(|| SizeError::Malformed(text.into()))?;
    if bytes < MIN_MEMORY {
        return Err(SizeError::TooSmall { text: text.into() });
    }
    if !bytes.is_multiple_of(4096) {
        return Err(SizeError::NotPages { text: text.into() });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("512M", 512u64 << 20),
            ("512", 512 << 20),
            ("4G", 4 << 30),
            ("4GiB", 4 << 30),
            ("65536k", 64 << 20),
            ("1t", 1 << 40),
            ("65540k", (64 << 20) + 4096),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "M",
            "12X",
            "-1G",
            "1.5G",
            "99999999999999999999",
            "18014398509481984K",
            "4 G",
            " 4G",
            "4G ",
            "+4G",
            "4_096M",
            "0x400M",
            "512.5M",
            "4GG",
        ] {
            assert!(
                matches!(parse_size(text), Err(SizeError::Malformed(_))),
                "{text}"
            );
        }
        for text in ["65537k", "65539K"] {
            let e = parse_size(text).unwrap_err();
            assert!(matches!(e, SizeError::NotPages { .. }), "{text}");
        }
        assert!(matches!(parse_size("63M"), Err(SizeError::TooSmall { .. })));
        assert!(matches!(parse_size("0"), Err(SizeError::TooSmall { .. })));
    }

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
            check: true,
        };
        assert_eq!(all, Ok(wanted));
        assert!(!wanted.is_checked());
        assert_eq!(parse("1G,check=on"), Ok(MemoryConfig::new(1 << 30)));
        assert!(MemoryConfig::new(1 << 30).is_checked());
        assert!(!parse("900T,check=off").unwrap().is_checked());
        let small = parse("64M,hugepages=off,prefault=on").unwrap();
        assert_eq!((small.pages, small.prefault), (Pages::Small, Some(true)));
    }

    #[test]
    fn huge_pages_are_whole() {
        assert!(parse("66M,hugepages=2M").is_ok());
        for text in [
            "65M,hugepages=2M",
            "1536M,hugepages=1G",
            "65540K,hugepages=2M",
        ] {
            let e = parse(text).unwrap_err();
            assert!(
                matches!(e, MemoryError::Size(SizeError::NotMultiple { .. })),
                "{text}"
            );
        }
    }
}
