//! BARs whose pages this process cannot map.

use std::io;

use crate::hostinfo::iomem;
use crate::log::degraded::{self, Code};
use crate::memory::Region;
use crate::vfio::function::error::FunctionError;

/// A BAR whose pages this process cannot map. VFIO reserves the BAR when it is first used, and
/// reads fail too if that is refused (drivers/vfio/pci/vfio_pci_core.c,
/// `vfio_pci_core_setup_barmap`).
pub(super) fn unmapped(
    device: &str,
    bar: usize,
    error: &io::Error,
) -> Result<Vec<Region>, FunctionError> {
    if error.raw_os_error() == Some(libc::EBUSY) {
        return Err(FunctionError::Held {
            device: device.to_owned(),
            bar,
            // A mediated device has no address, and so no BARs in the host's memory.
            holders: device.parse().map(iomem::others).unwrap_or_default(),
        });
    }
    tell_trapped(device, bar, &format!("the BAR cannot be mapped: {error}"));
    Ok(Vec::new())
}

/// Tells that each access of the guest to a BAR is an exit.
pub(super) fn tell_trapped(device: &str, bar: usize, why: &str) {
    let loss = Code::BarTrapped.loss(format!("each access to BAR {bar} is an exit"), why);
    degraded::tell(loss.of(device).hint(
        "nothing, if the device is fast enough; otherwise see `dmesg | tail`, or use the device's \
         own VFIO driver",
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_that_another_holds_is_an_error() {
        let fails = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            unmapped("0000:45:00.0", 1, &error)
        };
        let error = fails(libc::EBUSY).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("0000:45:00.0: BAR 1 is held by another user"),
            "{text}"
        );
        assert!(error.hint().unwrap().contains("/proc/iomem"));
        let error = FunctionError::Held {
            device: "0000:45:00.0".into(),
            bar: 1,
            holders: vec!["BOOTFB".into()],
        };
        assert!(error.to_string().contains("held by BOOTFB, so"), "{error}");
        assert!(
            error
                .hint()
                .unwrap()
                .contains("initcall_blacklist=sysfb_init")
        );
        assert!(fails(libc::ENOMEM).unwrap().is_empty());
        let told = degraded::list();
        let told = told
            .iter()
            .filter(|d| d.device.as_deref() == Some("0000:45:00.0"));
        let codes: Vec<_> = told.map(|loss| loss.code).collect();
        assert_eq!(codes, [Code::BarTrapped]);
    }
}
