//! The processor's vendor.

use std::sync::OnceLock;

/// Whether the processor is Intel's.
pub fn is_intel() -> bool {
    static INTEL: OnceLock<bool> = OnceLock::new();
    *INTEL.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        is_intels(&text)
    })
}

fn is_intels(cpuinfo: &str) -> bool {
    let mut lines = cpuinfo.lines();
    let vendor = lines.find(|line| line.starts_with("vendor_id"));
    vendor.is_some_and(|line| line.ends_with("GenuineIntel"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendor_is_read() {
        let text = |vendor: &str| format!("processor\t: 0\nvendor_id\t: {vendor}\nflags\t: x\n");
        assert!(is_intels(&text("GenuineIntel")));
        assert!(!is_intels(&text("AuthenticAMD")));
        assert!(!is_intels(""));
    }
}
