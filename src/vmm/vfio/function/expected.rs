//! What a guest will lack of a device, as far as an open device shows that before a run. A run
//! tells the same where it finds it.

use pci::bar::Bars;
use pci::capability::{self, id};
use pci::msi::MsiCapability;
use pci::msix::MsixCapability;
use pci::msix_layout::MsixLayout;

use crate::log::degraded::{self, Code};
use crate::vfio::device::{Device, Irq, SharedDevice};
use crate::vfio::function::{FunctionError, mmap_areas, reset, snapshot};
use crate::vfio::interrupts::msi;

/// Tells what a guest will lack of `device`, whose configuration space is `image`. `ours` are the
/// names of all devices of the guest.
///
/// # Errors
/// A run would fail: the device does not answer, or another user holds one of its BARs.
pub fn tell(
    device: &SharedDevice,
    image: &[u8],
    bars: &Bars,
    ours: &[String],
) -> Result<(), FunctionError> {
    if snapshot::is_dead(image) {
        return Err(FunctionError::Dead(device.name().into()));
    }
    if let Some(capability) = MsiCapability::parse(image)
        && device.irq(Irq::Msi).is_some()
    {
        msi::available(&**device, capability.max_vectors);
    }
    let msix = MsixCapability::parse(image).filter(|_| device.irq(Irq::Msix).is_some());
    let layout = msix.as_ref().map(MsixLayout::of);
    for bar in 0..pci::bar::BAR_COUNT {
        let trapped = layout.map(|msix| msix.ranges(bar)).unwrap_or_default();
        mmap_areas::map(device, bar, bars, &trapped)?;
    }
    if !device.can_reset()
        && let Err(why) = reset::scope(&**device, ours)
    {
        reset::tell_none(device.name(), &why);
    }
    tell_missing_events(&**device, capability::find(image, id::PCIE).is_some());
    Ok(())
}

/// Tells of the events that VFIO does not report. A conventional device is not expected to report
/// errors: they are those of PCI Express (6.2).
pub fn tell_missing_events(device: &dyn Device, is_express: bool) {
    if is_express && device.irq(Irq::Error).is_none() {
        tell_missing_event(device.name(), Irq::Error);
    }
    if device.irq(Irq::Request).is_none() {
        tell_missing_event(device.name(), Irq::Request);
    }
}

/// Tells that the VFIO driver of `device` does not report an event.
pub fn tell_missing_event(device: &str, irq: Irq) {
    let why = "the device's VFIO driver has no such interrupt";
    let (loss, hint) = match irq {
        Irq::Request => (
            Code::NoRequestEvent.loss("the host cannot ask for the device back", why),
            "end the guest before you unbind or remove the device",
        ),
        _ => (
            Code::NoErrorEvent.loss("mini-vmm does not learn of the device's errors", why),
            "look at `dmesg | grep -i aer` if the guest's driver complains",
        ),
    };
    degraded::tell(loss.of(device).hint(hint));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::vfio::function::test_device::TestDevice;

    #[test]
    fn a_device_that_lacks_much() {
        let device: SharedDevice = Arc::new(TestDevice::new().with_region(0, 0x4000, &[]));
        let bars = Bars::decode([0; 6], [0x4000, 0, 0, 0, 0, 0]).unwrap();
        let mut image = [0; 256];
        tell(&device, &image, &bars, &[]).unwrap();
        let told = degraded::list().into_iter();
        let told = told.filter(|loss| loss.device.as_deref() == Some("test"));
        let codes: Vec<_> = told.map(|loss| loss.code).collect();
        for code in [Code::BarTrapped, Code::NoReset, Code::NoRequestEvent] {
            assert!(codes.contains(&code), "{code}");
        }
        image[4..].fill(0xff);
        let error = tell(&device, &image, &bars, &[]).unwrap_err();
        assert!(matches!(error, FunctionError::Dead(_)), "{error}");
    }
}
