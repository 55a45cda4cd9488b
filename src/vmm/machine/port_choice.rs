//! `port=auto` in a run: what sysfs decides before the devices are open, and what their BARs leave
//! of it.

use std::path::Path;

use pci::bar::{BAR_COUNT, Bars};
use pci::{byte_enable, regs};
use tracing::info;

use crate::config::VmConfig;
use crate::config::port::{self, PortDecision};
use crate::config::port_fit;
use crate::hostinfo::name::HostName;
use crate::hostinfo::sysfs::Sysfs;
use crate::layout::Layout;
use crate::vfio::device::{CONFIG_REGION, Device};
use crate::vfio::open::Opened;
use crate::vfio::open::candidate::Candidate;
use crate::vfio::opener::Opener;

/// Decides for each device of `config`, and writes the decisions there.
pub(super) fn decide(config: &mut VmConfig, opener: &Opener) -> Vec<PortDecision> {
    // The type of the function is in the first 256 bytes. A read of all 4 KiB would hold the guest
    // up, by a millisecond on hardware and by fifty in an emulated machine.
    let read = |name: &HostName, path: &Path| match path.ends_with("config") {
        true => opener.read_start(&name.to_string(), path),
        false => opener.read(&name.to_string(), path),
    };
    let decisions = port::decide_all(&Sysfs::default(), &config.vfio, read);
    port::apply(&mut config.vfio, &decisions);
    decisions
}

/// Puts devices for which no port fits on bus 0. Logs each decision. `bars` are those of the
/// devices, or `None` if one does not answer: that is an error when it becomes a function.
pub(super) fn fit(
    config: &mut VmConfig,
    mut decisions: Vec<PortDecision>,
    (candidates, bars): (&[Candidate], Option<Vec<Bars>>),
    layout: &Layout,
) {
    if decisions.iter().any(|decision| decision.behind_port)
        && let Some(bars) = bars
    {
        port_fit::fit(
            &mut config.vfio,
            &mut decisions,
            &bars,
            &layout.windows(),
            &config.ports,
        );
    }
    for (device, decision) in candidates.iter().zip(decisions) {
        let name = device.name().to_string();
        info!("{name} is {decision}");
        port::tell_loss(&name, &decision);
    }
}

/// The BARs of open devices; `None` if one does not answer.
pub(super) fn bars_of(opened: &Opened) -> Option<Vec<Bars>> {
    opened
        .devices
        .iter()
        .map(|device| bars(&**device))
        .collect()
}

/// The BARs of a device, but for its expansion ROM, which does not keep a port from a device.
fn bars(device: &dyn Device) -> Option<Bars> {
    let mut registers = [0; 4 * BAR_COUNT];
    let at = u64::from(regs::BAR);
    device.read(CONFIG_REGION, at, &mut registers).ok()?;
    let raw = std::array::from_fn(|bar| byte_enable::u32_at(&registers, 4 * bar).unwrap_or(0));
    let sizes = std::array::from_fn(|bar| device.region(bar as u32).size);
    Bars::decode(raw, sizes).ok()
}
