//! The kernel's ways to reset a device (Documentation/ABI/testing/sysfs-bus-pci, `reset_method`).

use std::fs;
use std::path::Path;

/// The kernel's reset methods for the device in `dir`, the first to be tried first. Empty if the
/// device has none, or before Linux 5.15.
pub fn methods(dir: &Path) -> Vec<String> {
    let list = fs::read_to_string(dir.join("reset_method")).unwrap_or_default();
    list.split_whitespace().map(String::from).collect()
}

/// Whether the kernel resets the device by D3hot and back first of all. Devices differ in what they
/// keep in D3hot, a graphics card's memory among it, so a reset of the bus is preferred where there
/// is one.
pub fn by_power_only(dir: &Path) -> bool {
    methods(dir).first().is_some_and(|method| method == "pm")
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    #[test]
    fn the_first_method_counts() {
        let dir = TempDir::new().unwrap();
        assert!(methods(dir.as_path()).is_empty() && !by_power_only(dir.as_path()));
        for (text, power) in [
            ("flr pm bus\n", false),
            ("pm bus\n", true),
            ("bus\n", false),
        ] {
            fs::write(dir.as_path().join("reset_method"), text).unwrap();
            assert_eq!(by_power_only(dir.as_path()), power, "{text}");
        }
        assert_eq!(methods(dir.as_path()), ["bus"]);
    }
}
