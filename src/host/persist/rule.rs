//! The text of a rule of udev (udev(7)).

use crate::persist::device::Persistent;

/// The beginning of a rule's first line.
const MARK: &str = "# mini-vmm: ";

/// The text of a device's rule.
///
/// A driver binds all devices that match it at the moment when it is loaded, and udev handles the
/// events of several devices at once. So the override is set by the event of *each* PCI device,
/// before that event loads a driver (80-drivers.rules), and not by the device's own event alone.
///
/// A device that has a driver keeps it: a host that uses the device must not lose it to a later
/// event.
///
/// udev writes an attribute when it reads the rule, and runs `RUN` after all rules. If the VFIO
/// driver is loaded before the override is set, the write to drivers_probe binds the device, and
/// otherwise the load does.
pub fn text(device: &Persistent) -> Result<String, serde_json::Error> {
    let Persistent {
        device: bdf,
        path,
        modalias,
        driver,
        module,
        user,
        ..
    } = device;
    let description = serde_json::to_string(device)?;
    let mut text = format!(
        r#"{MARK}{description}
# Written by `mini-vmm host bind {bdf} --persist`.
# `mini-vmm host unbind {bdf} --persist` removes it.

ACTION!="add", GOTO="nodes"
SUBSYSTEM!="pci", GOTO="nodes"
TEST!="/sys{path}", GOTO="other"
ATTR{{[pci/{bdf}]modalias}}!="{modalias}", GOTO="other"
TEST=="/sys{path}/driver", GOTO="end"
ATTR{{[pci/{bdf}]driver_override}}="{driver}"
KERNEL!="{bdf}", GOTO="end"
ATTR{{[subsystem/pci]drivers_probe}}="{bdf}"
RUN{{builtin}}+="kmod load {module}"
GOTO="end"

LABEL="other"
KERNEL=="{bdf}", ENV{{MINI_VMM_REFUSED}}="another device", \
  RUN+="/bin/sh -c 'echo mini-vmm: another device is at {bdf}, it stays with the host >/dev/kmsg'"
GOTO="end"

LABEL="nodes"
"#
    );
    if let Some(uid) = user {
        text.push_str(&format!(
            r#"SUBSYSTEM=="vfio-dev", KERNELS=="{bdf}", \
  ATTRS{{modalias}}=="{modalias}", OWNER="{uid}"
SUBSYSTEM=="vfio", TEST=="/sys/kernel/iommu_groups/%k/devices/{bdf}", \
  ATTR{{[pci/{bdf}]modalias}}=="{modalias}", OWNER="{uid}"
"#
        ));
    }
    text.push_str("LABEL=\"end\"\n");
    Ok(text)
}

/// The device that a rule describes; `None` if the text is no rule of this program.
pub fn parse(text: &str) -> Option<Persistent> {
    let line = text.lines().next()?.strip_prefix(MARK)?;
    let device: Persistent = serde_json::from_str(line).ok()?;
    (device.is_known() && is_plain(&device)).then_some(device)
}

/// Whether no text of the device means more to udev or to a shell than itself. The kernel's own
/// names have no other characters.
pub fn is_plain(device: &Persistent) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:".contains(c);
    let mut quoted = device.quoted().into_iter();
    quoted.all(|text| !text.is_empty() && text.chars().all(plain))
}
