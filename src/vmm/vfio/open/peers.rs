//! Peer-to-peer DMA between open devices: whose BARs the other devices cannot reach.
//!
//! A container maps BARs by their host addresses. iommufd takes a BAR only as a dma-buf, and each
//! device is asked whether it can export one: the kernel's version, its configuration and the
//! device's driver all have a part in the answer.

use crate::log::degraded::{self, Code, Degraded};
use crate::memory::PAGE_SIZE;
use crate::memory::dma::DmaMapper;
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

/// Tells the user whose BARs the other devices cannot reach.
pub fn tell(opened: &Opened) {
    if opened.mapper.dma_bufs().is_some() {
        let devices = opened.devices.iter().map(|device| &**device as &dyn Device);
        losses(&devices.collect::<Vec<_>>())
            .into_iter()
            .for_each(degraded::tell);
    }
}

/// The losses of devices that are open by iommufd. A lone device has no peers.
fn losses(devices: &[&dyn Device]) -> Vec<Degraded> {
    let of_use = |d: &&&dyn Device| (0..BARS).any(|bar| is_of_use(**d, bar));
    let (exporting, silent): (Vec<_>, Vec<_>) =
        devices.iter().filter(of_use).partition(|d| d.can_export());
    if devices.len() < 2 || silent.is_empty() {
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
    let of = |device: &&&dyn Device| {
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
        let devices: Vec<&dyn Device> = devices.iter().map(|d| *d as &dyn Device).collect();
        let losses = losses(&devices);
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
}
