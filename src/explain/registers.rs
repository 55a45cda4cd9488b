//! Lists the registers of a configuration space: for each register the host's value, the guest's
//! value, and the reason for a difference.

use std::ops::Range;

use pci::capability::Capability;
use pci::config_space::{ConfigSpace, DeviceWrite};
use pci::{byte_enable, capability};
use serde::Serialize;
use vmm::vfio::function::policy;
use vmm::vfio::function::policy::rule::{CapabilityRule, Treatment};
use vmm::vfio::function::policy::{Original, POLICY, igd};

use crate::explain::register_names;

/// How the guest's accesses to a register are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Treated {
    /// Reads and writes go to the device.
    Passed,
    /// Reads go to the device, and writes have no effect.
    #[serde(rename = "read-only")]
    ReadOnly,
    /// mini-vmm answers.
    Emulated,
    /// The device answers for some bits, and mini-vmm for the others.
    Masked,
    /// The guest does not see the register.
    Hidden,
}

impl Treated {
    /// Returns the word for the report.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::ReadOnly => "read-only",
            Self::Emulated => "emulated",
            Self::Masked => "masked",
            Self::Hidden => "hidden",
        }
    }
}

/// A register, or a capability that is shown as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Field {
    /// Offset in configuration space.
    pub offset: u16,
    /// Length in bytes.
    pub length: u16,
    /// The name of the capability that contains the register; `None` in the header.
    pub capability: Option<&'static str>,
    /// The register's name in the specification.
    pub name: &'static str,
    /// The device's value, if it has 4 bytes or fewer.
    pub host: Option<String>,
    /// The guest's value at power-on, if that differs.
    pub guest: Option<String>,
    /// How the guest's accesses are handled.
    pub treatment: Treated,
    /// The reason.
    pub reason: &'static str,
}

/// Lists every register of a device. `config` is the guest's configuration space.
pub fn fields(original: &Original<'_>, config: &ConfigSpace) -> Vec<Field> {
    let image = original.snapshot;
    let behind_port = original.port.is_some();
    let view = View {
        image,
        config,
        behind_port,
    };
    let mut fields: Vec<Field> = register_names::HEADER
        .iter()
        .map(|(offset, length, name)| {
            let row = POLICY
                .header
                .iter()
                .find(|row| (row.offset..row.offset + row.len).contains(offset));
            view.field(
                *offset,
                *length,
                None,
                name,
                row.map_or("", |row| row.at(behind_port).1),
            )
        })
        .collect();
    for cap in capability::standard(image) {
        view.capability(&cap, POLICY.rule(image, &cap), &mut fields);
    }
    for cap in capability::extended(image) {
        view.capability(&cap, POLICY.rule(image, &cap), &mut fields);
    }
    let hardware = View {
        image: original.hardware,
        config,
        behind_port,
    };
    for cap in policy::unlinked(image, original.hardware) {
        let rule = POLICY.rule(original.hardware, &cap);
        let reason = match rule.treatment {
            Treatment::Hide => rule.reason,
            _ => "VFIO does not show it",
        };
        fields.push(hardware.hidden(&cap, rule.name, reason));
    }
    if igd::is_igd(original.name, image) {
        let rows = POLICY.igd.iter();
        fields.extend(rows.map(|row| view.field(row.offset, row.len, None, row.name, row.reason)));
    }
    fields
}

/// The reason for a capability whose first bytes differ from the device's.
const LINKED: &str = "relinked: the chain has what the guest gets";
/// Extended capabilities begin here (PCI Express 6.0, 7.6.3).
const EXTENDED_START: u16 = 0x100;

struct View<'a> {
    image: &'a [u8],
    config: &'a ConfigSpace,
    behind_port: bool,
}

impl View<'_> {
    fn capability(&self, cap: &Capability, rule: &'static CapabilityRule, to: &mut Vec<Field>) {
        let name = rule.name;
        if rule.treatment == Treatment::Hide {
            to.push(self.hidden(cap, name, rule.reason));
            return;
        }
        if rule.registers.is_empty() {
            to.push(self.field(cap.offset, cap.len, Some(name), name, rule.reason));
            return;
        }
        let header = if cap.extended { 4 } else { 2 };
        to.push(self.field(cap.offset, header, Some(name), "header", LINKED));
        for row in rule.registers {
            if row.offset + row.len <= cap.len {
                let offset = cap.offset + row.offset;
                let (_, reason) = row.at(self.behind_port);
                to.push(self.field(offset, row.len, Some(name), row.name, reason));
            }
        }
    }

    fn hidden(&self, cap: &Capability, name: &'static str, reason: &'static str) -> Field {
        let mut field = self.field(cap.offset, cap.len, Some(name), name, reason);
        field.treatment = Treated::Hidden;
        field.guest = None;
        field
    }

    fn field(
        &self,
        offset: u16,
        length: u16,
        capability: Option<&'static str>,
        name: &'static str,
        reason: &'static str,
    ) -> Field {
        // mini-vmm emulates the link of every capability. A register that contains the link is
        // therefore classified by its other bytes.
        let link = match capability == Some(name) {
            true if offset >= EXTENDED_START => 4,
            true => 2,
            false => 0,
        };
        let bytes = offset.saturating_add(link)..offset.saturating_add(length);
        let treatment = self.treatment(bytes);
        let host = value(self.image, offset, length);
        let guest = value(self.config.bytes(), offset, length);
        Field {
            offset,
            length,
            capability,
            name,
            guest: guest
                .filter(|guest| treatment != Treated::Passed && Some(guest) != host.as_ref()),
            host,
            treatment,
            reason: if treatment == Treated::Passed && capability.is_some() {
                ""
            } else {
                reason
            },
        }
    }
}

impl View<'_> {
    fn treatment(&self, bytes: Range<u16>) -> Treated {
        let of_byte = |at| match (self.config.is_emulated(at), self.config.device_write(at)) {
            (true, _) => Treated::Emulated,
            (false, DeviceWrite::Whole) => Treated::Passed,
            (false, DeviceWrite::Dropped) => Treated::ReadOnly,
            (false, DeviceWrite::Masked) => Treated::Masked,
        };
        let mut kinds = bytes.map(of_byte);
        let first = kinds.next().unwrap_or(Treated::Emulated);
        match kinds.all(|kind| kind == first) {
            true => first,
            false => Treated::Masked,
        }
    }
}

/// The bytes as one number, with the most significant digit first.
fn value(image: &[u8], offset: u16, length: u16) -> Option<String> {
    let length = usize::from(length);
    if !(1..=4).contains(&length) {
        return None;
    }
    let mut bytes = [0u8; 4];
    let from = image.get(usize::from(offset)..usize::from(offset) + length)?;
    bytes.get_mut(..length)?.copy_from_slice(from);
    let number = byte_enable::u32_at(&bytes, 0)?;
    Some(format!("{number:0width$x}", width = 2 * length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn device() -> Vec<u8> {
        let mut image = vec![0u8; 4096];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x00, &[0x36, 0x1b, 0x10, 0x00, 0x07, 0x05, 0x10, 0x00]);
        put(0x10, &[0x04, 0x00, 0xeb, 0xfe]);
        put(0x34, &[0x40]);
        put(0x3c, &[0x0b, 0x01]);
        put(0x40, &[0x01, 0x80, 0x03, 0x00]);
        put(0x80, &[0x10, 0x00, 0x02, 0x00]);
        put(0x8c, &[0x11; 8]);
        put(0x100, &0x0001_0010u32.to_le_bytes());
        image
    }

    fn explain(name: &str, image: &[u8]) -> Vec<Field> {
        let original = Original {
            name,
            snapshot: image,
            hardware: image,
            bar_0: 0,
            port: None,
        };
        fields(&original, &policy::apply(&original))
    }

    #[test]
    fn each_register_says_how_and_why() {
        let image = device();
        let fields = explain("0000:01:00.0", &image);
        let find = |name| fields.iter().find(|f| f.name == name).unwrap();
        let vendor = find("vendor ID");
        assert_eq!(vendor.host.as_deref(), Some("1b36"));
        assert_eq!(
            (vendor.treatment, &vendor.guest),
            (Treated::ReadOnly, &None)
        );
        let bar = find("BAR 0");
        assert_eq!(bar.treatment, Treated::Emulated);
        assert_eq!(bar.host.as_deref(), Some("feeb0004"));
        assert_eq!(bar.guest.as_deref(), Some("00000000"));
        assert!(bar.reason.contains("never move"));
        let link = find("link capabilities");
        assert_eq!(link.capability, Some("PCI Express"));
        assert_eq!(link.treatment, Treated::Emulated);
        assert_eq!(find("device control").treatment, Treated::Masked);
        let hidden = find("SR-IOV");
        assert_eq!(hidden.treatment, Treated::Hidden);
        assert!(hidden.reason.contains("belong to the host"));
    }

    proptest! {
        #[test]
        fn any_device_is_described(
            mut image in proptest::collection::vec(any::<u8>(), 256),
            big: bool,
        ) {
            if big {
                image.resize(4096, 0x5a);
            }
            let fields = explain("0000:00:02.0", &image);
            prop_assert!(fields.len() >= register_names::HEADER.len());
            prop_assert!(fields.iter().all(|f| usize::from(f.offset) < image.len()));
        }
    }
}
