//! Checks that the guest's RAM and BARs, laid out as in a run, fit into the address widths of the
//! processor and of the IOMMU.

use pci::addr::Range;
use vmm::hostinfo::iova;
use vmm::layout::{Layout, Reach};

use crate::check::finding::Finding;
use crate::details::size_text;
use crate::facts::{DeviceFacts, HostFacts, Maker};

const NAME: &str = "addresses";

/// Returns the finding; `None` if the processor's address width is unknown.
pub(super) fn check(host: &HostFacts, devices: &[DeviceFacts]) -> Option<Finding> {
    let bits = host.cpu.phys_bits?;
    let all = devices.iter().flat_map(|d| &d.details.bars);
    let bars = all.map(|bar| bar.size).fold(0, u64::saturating_add);
    let ranges = iova::common(devices.iter().map(|device| &device.reach));
    let reach = Reach {
        bits,
        amd: host.cpu.maker == Maker::Amd,
    };
    let layout = Layout::new(host.wanted, bars, reach);
    let layout = match layout.and_then(|layout| layout.with_bars(bars, reach, &ranges)) {
        Ok(layout) => layout,
        Err(e) => {
            return Some(Finding::fail(
                NAME,
                e.to_string(),
                "pass fewer devices, or give the guest less memory with --memory",
            ));
        }
    };
    let holds = |r: &Range| ranges.iter().any(|range| range.contains(r.start, r.size));
    if let Some(ram) = layout.ram().find(|ram| !holds(ram)) {
        return Some(Finding::fail(
            NAME,
            format!(
                "RAM at {:#x}-{:#x} lies where the IOMMU cannot map it",
                ram.start,
                ram.end() - 1
            ),
            "give the guest less memory with --memory, so that it ends below the reserved range",
        ));
    }
    let ram = size_text(host.wanted);
    if devices.iter().all(|d| d.device.group.is_none()) {
        return Some(Finding::pass(
            NAME,
            format!("{ram} of RAM fit under {bits} bits"),
        ));
    }
    let what = format!(
        "{ram} of RAM and {} of BARs fit under {bits} bits",
        size_text(bars)
    );
    let known = devices.iter().all(|d| d.reach.bits.is_some());
    Some(if bars > 0 && !holds(&layout.mmio64) {
        Finding::warn(
            NAME,
            format!("{what}, but the IOMMU does not reach the BARs"),
            "give the guest less memory with --memory, if its devices must reach each other",
        )
    } else if known {
        Finding::pass(NAME, format!("{what}, and the IOMMU reaches them"))
    } else {
        // VFIO tells the width of the IOMMU's addresses only after the device is opened.
        Finding::pass(
            NAME,
            format!("{what}, clear of the IOMMU's reserved ranges"),
        )
    })
}
