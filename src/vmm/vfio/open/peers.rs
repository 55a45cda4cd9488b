//! Peer-to-peer DMA between open devices: whose BARs the other devices cannot reach.
//!
//! A container maps BARs by their host addresses. iommufd takes a BAR only as a dma-buf, and each
//! device is asked whether it can export one: the kernel's version, its configuration and the
//! device's driver all have a part in the answer.

use crate::config::device::DeviceConfig;
use crate::log::degraded::{self, Code, Degraded};
use crate::memory::PAGE_SIZE;
use crate::memory::dma_mapper::DmaMapper;
use crate::vfio::device::Device;
use crate::vfio::open::opened::Opened;

/// The number of a device's BARs.
const BARS: u32 = 6;

/// The way in which devices reach each other's BARs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the BARs' host addresses, in a container.
    Address,
    /// By dma-bufs of the devices that can export them.
    DmaBuf,
    /// Not at all.
    Missing,
}

/// The way of open devices; `None` if there is only one device.
pub fn way(opened: &Opened) -> Option<Way> {
    let devices = &opened.devices;
    (devices.len() > 1).then(|| match opened.mapper.dma_bufs() {
        None => Way::Address,
        Some(_) if devices.iter().any(|d| d.can_export()) => Way::DmaBuf,
        Some(_) => Way::Missing,
    })
}

/// Tells the user whose BARs the other devices cannot reach. `configs` are those of the devices, in
/// their order.
pub fn tell(opened: &Opened, configs: &[DeviceConfig]) {
    let devices = opened.devices.iter().map(|device| &**device as &dyn Device);
    let mapped = configs.iter().map(|config| config.mechanisms.mmap);
    let devices: Vec<_> = devices.zip(mapped).collect();
    losses(&devices, opened.mapper.dma_bufs().is_some())
        .into_iter()
        .for_each(degraded::tell);
}

/// The losses of open devices, each with whether the guest reaches its BARs directly. A lone device
/// has no peers.
fn losses(devices: &[(&dyn Device, bool)], by_dma_buf: bool) -> Vec<Degraded> {
    let of_use = |d: &(&dyn Device, bool)| (0..BARS).any(|bar| is_of_use(d.0, bar));
    let (mapped, trapped): (Vec<_>, Vec<_>) =
        devices.iter().copied().filter(of_use).partition(|d| d.1);
    if devices.len() < 2 {
        return Vec::new();
    }
    let mapped = mapped.into_iter().map(|(device, _)| device);
    let mut losses = match by_dma_buf {
        true => losses_by_dma_buf(&mapped.collect::<Vec<_>>()),
        false => Vec::new(),
    };
    losses.extend(trapped.into_iter().map(|(device, _)| trapped_loss(device)));
    losses
}

/// The loss of a device with `mmap=off`: the IOMMU maps the same pages that the guest has.
fn trapped_loss(device: &dyn Device) -> Degraded {
    let what = "no DMA from other devices to its BARs (peer-to-peer)";
    let loss = Code::NoPeerToPeer.loss(what, "with mmap=off no page of its BARs is mapped");
    loss.of(device.name())
        .hint("remove mmap=off, if the devices need it")
}

/// The losses of devices that are open by iommufd.
fn losses_by_dma_buf(devices: &[&dyn Device]) -> Vec<Degraded> {
    let (exporting, silent): (Vec<&dyn Device>, Vec<_>) =
        devices.iter().partition(|d| d.can_export());
    if silent.is_empty() {
        return Vec::new();
    }
    let loss = |what| {
        let why = "iommufd takes a BAR only as a dma-buf, and VFIO exports none here (it does from \
                   Linux 6.19 on, with CONFIG_PCI_P2PDMA and CONFIG_VFIO_PCI_DMABUF)";
        let loss = Code::NoPeerToPeer.loss(what, why);
        loss.hint("--iommu container, if the devices need it")
    };
    if exporting.is_empty() {
        return vec![loss(
            "no DMA from one device to the BARs of another (peer-to-peer)",
        )];
    }
    let of = |device: &&dyn Device| {
        loss("no DMA from other devices to its BARs (peer-to-peer)").of(device.name())
    };
    silent.iter().map(of).collect()
}

/// Whether a BAR has a page that another device can reach.
fn is_of_use(device: &dyn Device, bar: u32) -> bool {
    let areas = device.region(bar).mappable;
    areas.iter().any(|(_, size)| *size >= PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfio::function::test_device::TestDevice;

    fn told(devices: &[&TestDevice]) -> Vec<Option<String>> {
        let devices: Vec<_> = devices.iter().map(|d| (*d as &dyn Device, true)).collect();
        assert!(losses(&devices, false).is_empty());
        let losses = losses(&devices, true);
        assert!(losses.iter().all(|l| l.hint.contains("--iommu container")));
        losses.into_iter().map(|loss| loss.device).collect()
    }

    #[test]
    fn what_peers_cannot_reach_is_told_once() {
        let silent = || TestDevice::new().with_region(0, 0x4000, &[(0, 0x4000)]);
        let exporting = silent().with_exports();
        let (first, second) = (silent(), silent());
        let small = TestDevice::new().with_region(0, 0x100, &[(0, 0x100)]);
        let without = TestDevice::new().with_region(0, 0x4000, &[]);
        let named = Some("test".to_owned());
        // All of them, one of them, and a device that has nothing to reach.
        assert_eq!(told(&[&first, &second]), [None]);
        assert_eq!(told(&[&first, &small, &without]), [None]);
        assert_eq!(told(&[&first, &exporting, &second]), [named.clone(), named]);
        for nothing_lost in [&[&first][..], &[&exporting, &small], &[&small, &without]] {
            assert!(told(nothing_lost).is_empty());
        }
    }

    #[test]
    fn a_device_without_mapped_pages_is_out_of_reach() {
        let device = |name| {
            let device = TestDevice::new().with_name(name);
            device.with_region(0, 0x4000, &[(0, 0x4000)])
        };
        let (trapped, mapped) = (device("trapped"), device("mapped").with_exports());
        let without = TestDevice::new();
        let told = |devices: &[(&TestDevice, bool)], by_dma_buf| -> Vec<_> {
            let devices: Vec<_> = devices
                .iter()
                .map(|(d, mapped)| (*d as &dyn Device, *mapped))
                .collect();
            let losses = losses(&devices, by_dma_buf).into_iter();
            losses.map(|l| (l.device.unwrap(), l.hint)).collect()
        };
        let expected = [(
            "trapped".into(),
            "remove mmap=off, if the devices need it".into(),
        )];
        for by_dma_buf in [false, true] {
            let pair = [(&trapped, false), (&mapped, true)];
            assert_eq!(told(&pair, by_dma_buf), expected);
            // A lone device, and one that has no page to reach.
            assert_eq!(told(&pair[..1], by_dma_buf), []);
            let pair = [(&without, false), (&mapped, true)];
            assert_eq!(told(&pair, by_dma_buf), []);
        }
    }
}
