//! Chooses the VFIO driver of a device: vfio-pci, or a variant driver for devices of its kind.
//!
//! A variant driver lists its devices in the running kernel's modules.alias as other drivers do,
//! but with the prefix `vfio_pci:` instead of `pci:` (Documentation/driver-api/vfio.rst;
//! include/linux/mod_devicetable.h, PCI_DEVICE_DRIVER_OVERRIDE). vfio-pci itself is listed for
//! every device. The alias with the fewest wildcards wins.

/// The driver for every device.
pub const GENERIC: &str = "vfio-pci";

/// A driver, and the module that contains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// The driver's name in /sys/bus/pci/drivers.
    pub name: String,
    /// The module's name for modprobe.
    pub module: String,
}

impl Driver {
    /// vfio-pci.
    pub fn generic() -> Self {
        Self {
            name: GENERIC.into(),
            module: GENERIC.into(),
        }
    }

    /// Whether this is another driver than vfio-pci.
    pub fn is_variant(&self) -> bool {
        self.name != GENERIC
    }
}

/// The best driver that modules.alias lists for a device's `modalias`.
pub fn choose(modalias: &str, aliases: &str) -> Driver {
    let Some(wanted) = modalias.strip_prefix("pci:") else {
        return Driver::generic();
    };
    let matching = aliases.lines().filter_map(|line| {
        let line = line.strip_prefix("alias vfio_pci:")?;
        let (pattern, module) = line.split_once(' ')?;
        matches(pattern.as_bytes(), wanted.as_bytes())
            .then(|| (pattern.matches('*').count(), module.trim()))
    });
    match matching.min_by_key(|(wildcards, _)| *wildcards) {
        // Module names have underscores where file names may have dashes; the driver is `vfio-pci`.
        None | Some((_, "vfio_pci" | "vfio-pci")) => Driver::generic(),
        Some((_, module)) => Driver {
            name: module.into(),
            module: module.into(),
        },
    }
}

/// The driver of the host that matches a device's `modalias` and is a part of the kernel itself.
/// `info` is modules.builtin.modinfo: texts such as `nvme.alias=pci:v*d*sv*sd*bc01sc08i02*`, each
/// with a NUL byte behind it (Documentation/kbuild/kbuild.rst).
pub fn built_in(modalias: &str, info: &[u8]) -> Option<String> {
    let wanted = modalias.strip_prefix("pci:")?;
    info.split(|byte| *byte == 0).find_map(|text| {
        let text = str::from_utf8(text).ok()?;
        let (module, pattern) = text.split_once(".alias=pci:")?;
        matches(pattern.as_bytes(), wanted.as_bytes()).then(|| module.to_owned())
    })
}

/// Whether a text matches a pattern in which `*` stands for any text, as in fnmatch(3). For each
/// `*`, the time is linear in the lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if text.get(t) == Some(byte) => {
                p += 1;
                t += 1;
            }
            _ => match &mut star {
                // Extend the text of the `*` by one byte.
                Some((at, taken)) => {
                    *taken += 1;
                    (p, t) = (*at + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIASES: &str = "\
# Aliases extracted from modules themselves.
alias pci:v00001B36d00000010sv*sd*bc*sc*i* nvme
alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci
alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci
alias vfio_pci:v00001AF4d00001041sv*sd*bc02sc00i00* virtio_vfio_pci
alias vfio_pci:
alias vfio_pci:v*
";

    #[test]
    fn the_most_particular_driver_wins() {
        for (modalias, driver) in [
            (
                "pci:v000015B3d0000101Esv000015B3sd00000001bc02sc00i00",
                "mlx5_vfio_pci",
            ),
            (
                "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00",
                "virtio_vfio_pci",
            ),
            (
                "pci:v00001AF4d00001041sv00001AF4sd00001100bc01sc00i00",
                "vfio-pci",
            ),
            (
                "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02",
                "vfio-pci",
            ),
            ("", "vfio-pci"),
            ("usb:v1B36", "vfio-pci"),
        ] {
            assert_eq!(choose(modalias, ALIASES).name, driver, "{modalias}");
        }
        let generic = choose("pci:v000015B3d0000101Esv0sd0bc02sc00i00", "");
        assert_eq!(generic, Driver::generic());
        assert!(!generic.is_variant());
    }

    #[test]
    fn a_driver_of_the_kernel_itself_is_found() {
        let info = b"nvme.author=somebody\0nvme.alias=pci:v*d*sv*sd*bc01sc08i02*\0\
            vfio_pci.alias=vfio_pci:v*d*sv*sd*bc*sc*i*\0x.alias=pci:\0";
        let disk = "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02";
        let card = "pci:v00008086d000010D3sv00008086sd0000A01Fbc02sc00i00";
        assert_eq!(built_in(disk, info).as_deref(), Some("nvme"));
        for (modalias, info) in [
            (card, &info[..]),
            (disk, b""),
            ("", info),
            (disk, b"\xff\0"),
        ] {
            assert_eq!(built_in(modalias, info), None, "{modalias}");
        }
    }

    #[test]
    fn stars_take_what_they_must() {
        for (pattern, text, fits) in [
            ("", "", true),
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("a*bc*", "abbbcx", true),
            ("*a*a*", "a", false),
            ("abc", "ab", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                fits,
                "{pattern} {text}"
            );
        }
        let stars = "*a".repeat(200);
        assert!(!matches(stars.as_bytes(), "a".repeat(199).as_bytes()));
    }
}
