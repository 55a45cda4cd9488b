//! The bodies of `vm.add-device` and `vm.remove-device`: Cloud Hypervisor's fields, and those for
//! the other options of `--vfio`.

use std::io;
use std::path::absolute;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmm::config::device::{DeviceConfig, DeviceOptionError, PortChoice, RomConfig};
use vmm::hostinfo::name::HostName;
use vmm::sys::descriptor::Descriptor;

/// The body of `vm.add-device`. `None` is the default of an option.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AddDevice {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    managed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rombar: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    romfile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vf_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x_nv_gpudirect_clique: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pci_device_id: Option<u8>,
    // What a guest of mini-vmm does not have; the value that asks for nothing is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    iommu: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pci_segment: Option<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    x_exclude_mmap_bars: Vec<u64>,
    /// The number of a descriptor means nothing in another process: it comes beside the body.
    #[serde(skip_serializing)]
    fd: Option<i32>,
    /// The other functions of the same device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    functions: Vec<AddDevice>,
}

/// The body of `vm.remove-device`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveDevice {
    /// The name of a function of the device.
    pub id: String,
    /// Whether the guest is not asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// How many seconds the guest is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
}

impl RemoveDevice {
    /// How long the guest is waited for.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout.map(|s| Duration::from_secs(s.into()))
    }
}

/// Why a body cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// No JSON, or other fields.
    #[error("the body is not as {0} takes it")]
    Json(&'static str, #[source] serde_json::Error),
    /// Neither a path nor a descriptor.
    #[error("the request names no device: it has neither `path` nor a descriptor (SCM_RIGHTS)")]
    NoDevice,
    /// Two descriptors.
    #[error("the request has more than one descriptor")]
    Descriptors,
    /// A path and a descriptor.
    #[error("the request names two devices: by `path`, and by a descriptor")]
    Both,
    /// A value that the options of `--vfio` cannot have.
    #[error("`{0}` has a comma")]
    Comma(String),
    /// Functions of functions.
    #[error("`functions` of a function are not allowed")]
    Nested,
    /// Something that a guest of mini-vmm does not have.
    #[error("a guest of mini-vmm has no {0}")]
    Absent(&'static str),
    /// An option's value is wrong.
    #[error(transparent)]
    Option(#[from] DeviceOptionError),
}

impl BodyError {
    /// The remedy.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Json(..) => Some("docs/control.md has the fields".into()),
            Self::NoDevice => Some("send {\"path\": \"/sys/bus/pci/devices/ADDR\"}".into()),
            Self::Descriptors => Some("add each device by a request of its own".into()),
            Self::Both => Some("leave `path` out".into()),
            Self::Comma(_) => Some("each option is a field of its own".into()),
            Self::Absent(_) | Self::Nested => None,
            Self::Option(e) => Some(e.hint()),
        }
    }
}

impl AddDevice {
    /// Reads a body.
    ///
    /// # Errors
    /// It is no JSON, or has unknown fields.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        serde_json::from_slice(body).map_err(|e| BodyError::Json("vm.add-device", e))
    }

    /// The body for one function, which a descriptor may stand for.
    pub fn new(config: &DeviceConfig, by_descriptor: bool) -> io::Result<Self> {
        // Another process has another folder.
        let romfile = match &config.rom {
            RomConfig::File(path) => Some(absolute(path)?.to_string_lossy().into_owned()),
            RomConfig::Device | RomConfig::Off => None,
        };
        Ok(Self {
            path: (!by_descriptor).then(|| config.address.clone()),
            slot: config.slot.map(|slot| slot.to_string()),
            managed: config.managed.then_some(true),
            rombar: (config.rom == RomConfig::Off).then_some(false),
            romfile,
            vf_token: config.vf_token.map(|token| token.to_string()),
            port: match config.port {
                PortChoice::Auto => None,
                PortChoice::On => Some("on".into()),
                PortChoice::Off => Some("off".into()),
            },
            x_nv_gpudirect_clique: config.clique,
            ..Self::default()
        })
    }

    /// Adds another function of the same device.
    pub fn and(mut self, function: Self) -> Self {
        self.functions.push(function);
        self
    }

    /// All functions: the first, and the others.
    pub fn all(&self) -> impl Iterator<Item = &Self> {
        [self].into_iter().chain(&self.functions)
    }

    /// The name that the client gives to this function.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The function as `--vfio` has it. `given` is a descriptor that stands for it, with the name
    /// of its device.
    ///
    /// # Errors
    /// A value that is no value of its option, or a field for something that there is not.
    pub fn config(&self, given: Option<(Descriptor, HostName)>) -> Result<DeviceConfig, BodyError> {
        self.check()?;
        let address = match (&self.path, given) {
            (Some(_), Some(_)) => return Err(BodyError::Both),
            (None, None) => return Err(BodyError::NoDevice),
            (Some(path), None) if path.contains(',') => return Err(BodyError::Comma(path.clone())),
            (Some(path), None) => path.clone(),
            (None, Some((_, name))) => name.to_string(),
        };
        let mut text = address;
        let mut add = |name: &str, value: Option<&str>| {
            let Some(value) = value else {
                return Ok(());
            };
            if value.contains(',') {
                return Err(BodyError::Comma(value.into()));
            }
            text += &format!(",{name}={value}");
            Ok(())
        };
        let switch = |on: bool| if on { "on" } else { "off" };
        let slot = self.pci_device_id.map(|number| format!("{number:x}"));
        let clique = self.x_nv_gpudirect_clique.map(|number| number.to_string());
        add("slot", self.slot.as_deref())?;
        add("slot", slot.as_deref())?;
        add("managed", self.managed.map(switch))?;
        add("rombar", self.rombar.map(switch))?;
        add("romfile", self.romfile.as_deref())?;
        add("vf-token", self.vf_token.as_deref())?;
        add("port", self.port.as_deref())?;
        add("clique", clique.as_deref())?;
        let mut config: DeviceConfig = text.parse()?;
        config.given = given.map(|(file, _)| file);
        Ok(config)
    }

    /// Refuses what there is not.
    fn check(&self) -> Result<(), BodyError> {
        if self.functions.iter().any(|f| !f.functions.is_empty()) {
            return Err(BodyError::Nested);
        }
        let absent = [
            (self.iommu == Some(true), "IOMMU (`iommu`)"),
            (
                self.pci_segment.unwrap_or(0) != 0,
                "PCI segment but 0 (`pci_segment`)",
            ),
            (
                !self.x_exclude_mmap_bars.is_empty(),
                "way to keep BARs from being mapped (`x_exclude_mmap_bars`)",
            ),
        ];
        match absent.into_iter().find(|(wanted, _)| *wanted) {
            Some((_, what)) => Err(BodyError::Absent(what)),
            None => Ok(()),
        }
    }
}

impl RemoveDevice {
    /// Reads a body.
    ///
    /// # Errors
    /// It is no JSON, or has unknown fields.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        serde_json::from_slice(body).map_err(|e| BodyError::Json("vm.remove-device", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DeviceConfig, BodyError> {
        AddDevice::parse(text.as_bytes())?.config(None)
    }

    #[track_caller]
    fn refused(text: &str, says: &str) {
        let error = parse(text).unwrap_err();
        let said = format!("{error}: {:?}", std::error::Error::source(&error));
        assert!(said.contains(says), "{said}");
    }

    /// What ch-remote makes of `path=` and of `path=,id=,iommu=off,pci_device_id=`.
    #[test]
    fn bodies_of_ch_remote() {
        let device = "/sys/bus/pci/devices/0000:01:00.0/";
        let plain = parse(&format!(
            r#"{{"pci_segment":0,"path":"{device}","x_exclude_mmap_bars":[]}}"#
        ));
        let plain = plain.unwrap();
        assert_eq!((&*plain.address, plain.slot), (device, None));
        let more = format!(
            r#"{{"id":"gpu","iommu":false,"pci_segment":0,"pci_device_id":16,"path":"{device}",
            "x_nv_gpudirect_clique":3,"x_exclude_mmap_bars":[],"fd":7}}"#
        );
        let body = AddDevice::parse(more.as_bytes()).unwrap();
        assert_eq!(body.id(), Some("gpu"));
        let config = body.config(None).unwrap();
        assert_eq!(config.slot.unwrap().to_string(), "10.0");
        assert_eq!(config.clique, Some(3));
        let remove = RemoveDevice::parse(br#"{"id":"gpu"}"#).unwrap();
        assert_eq!(
            (&*remove.id, remove.force, remove.timeout()),
            ("gpu", false, None)
        );
    }

    #[test]
    fn each_option_of_a_run_arrives() {
        for text in [
            "01:00.0",
            "01:00.0,slot=05.1,managed=on,port=on",
            "01:00.0,rombar=off,port=off",
            "01:00.0,romfile=/tmp/rom,clique=15",
            "01:00.0,vf-token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3",
        ] {
            let config: DeviceConfig = text.parse().unwrap();
            let body = AddDevice::new(&config, false).unwrap();
            let sent = serde_json::to_vec(&body).unwrap();
            let arrived = AddDevice::parse(&sent).unwrap();
            assert_eq!(arrived, body);
            assert_eq!(arrived.config(None).unwrap(), config, "{text}");
        }
        let relative: DeviceConfig = "01:00.0,romfile=rom".parse().unwrap();
        let body = AddDevice::new(&relative, false).unwrap();
        assert!(body.romfile.unwrap().starts_with('/'));
    }

    #[test]
    fn functions_of_one_device() {
        let body = r#"{"path": "1:0.0", "functions": [{"path": "1:0.1", "rombar": false}]}"#;
        let body = AddDevice::parse(body.as_bytes()).unwrap();
        let all: Vec<_> = body.all().map(|f| f.config(None).unwrap()).collect();
        assert_eq!((&*all[0].address, &*all[1].address), ("1:0.0", "1:0.1"));
        assert_eq!(all[1].rom, RomConfig::Off);
        refused(
            r#"{"path": "1:0.0", "functions": [{"functions": [{}]}]}"#,
            "are not allowed",
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("", "EOF"),
            ("7", "expected struct"),
            ("{}", "names no device"),
            (r#"{"path": 7}"#, "expected a string"),
            (r#"{"path": "1:0.0", "mode": 1}"#, "unknown field `mode`"),
            (r#"{"path": "1:0.0", "iommu": true}"#, "no IOMMU"),
            (r#"{"path": "1:0.0", "pci_segment": 1}"#, "segment but 0"),
            (
                r#"{"path": "1:0.0", "x_exclude_mmap_bars": [0]}"#,
                "from being mapped",
            ),
            (r#"{"path": "1:0.0,managed=on"}"#, "has a comma"),
            (r#"{"path": "1:0.0", "romfile": "a,b"}"#, "has a comma"),
            (
                r#"{"path": "1:0.0", "slot": "32"}"#,
                "not a value for `slot`",
            ),
            (
                r#"{"path": "1:0.0", "pci_device_id": 0}"#,
                "not a value for `slot`",
            ),
            (
                r#"{"path": "1:0.0", "slot": "5", "pci_device_id": 5}"#,
                "given twice",
            ),
            (
                r#"{"path": "1:0.0", "port": "yes"}"#,
                "not a value for `port`",
            ),
        ] {
            refused(text, says);
        }
        for text in [
            "",
            "{}",
            r#"{"id": 7}"#,
            r#"{"id": "a", "b": 1}"#,
            r#"{"id":"a","timeout":-1}"#,
        ] {
            assert!(RemoveDevice::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
