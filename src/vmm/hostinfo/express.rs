//! Whether a device is at the end of a PCI Express link on the host, and what that link has.
//!
//! An ordinary user reads 64 bytes of `config`, which end before the capability. The attributes of
//! the link are there for everybody (Documentation/ABI/testing/sysfs-bus-pci: `current_link_speed`,
//! `current_link_width`, `max_link_speed`, `max_link_width`). The kernel makes them for each PCI
//! Express function, also for one without a link (drivers/pci/pci-sysfs.c,
//! `pcie_dev_attrs_are_visible`), whose speed is "Unknown".

use std::path::{Path, PathBuf};
use std::{fs, io};

use pci::Bdf;
use pci::config_space::CONVENTIONAL_SIZE;
use pci::express::{self, FunctionType};
use pci::link::{Link, Speed};

use crate::hostinfo::name::HostName;
use crate::hostinfo::sysfs::Sysfs;

/// A function on the host's PCI Express.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpressFacts {
    /// What kind of function it is.
    pub function_type: FunctionType,
    /// The function's link; a virtual function has that of its physical function. `None` if there
    /// is no link, or nobody tells of it.
    pub link: Option<Link>,
    /// Whether the function is a virtual function.
    pub is_virtual: bool,
}

impl Sysfs {
    /// The facts about a function. `config` is its configuration space as VFIO or sysfs shows it;
    /// without the part after the first 64 bytes, the attributes tell. `read` reads a file with a
    /// time limit, because the kernel wakes the device to ask for its link.
    pub fn express(
        &self,
        name: HostName,
        config: &[u8],
        read: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
    ) -> ExpressFacts {
        let whole = Some(config).filter(|config| config.len() >= CONVENTIONAL_SIZE);
        let HostName::Pci(bdf) = name else {
            // The parent's link is not the mediated device's: its driver emulates all registers.
            return ExpressFacts {
                function_type: FunctionType::of(config),
                link: express::link(config),
                is_virtual: false,
            };
        };
        let path = self.device_path(bdf);
        let physical = self.physical_function(bdf).ok().flatten();
        let link_of = physical.map_or(path.clone(), |physical| self.device_path(physical));
        let port = port_above(&path);
        // The registers of a virtual function's link are zero, or copies that the physical function
        // does not keep up to date (PCI Express 6.0, 9.3.5.6).
        let own = whole.and_then(express::link);
        let link = own.filter(|_| physical.is_none());
        let link = link
            .or_else(|| link_attributes(&link_of, read))
            // Both ends of a link have the same speed and width.
            .or_else(|| port.as_deref().and_then(|port| link_attributes(port, read)))
            .or(own);
        let function_type = match whole {
            Some(config) => FunctionType::of(config),
            None if !path.join("max_link_speed").exists() => FunctionType::Conventional,
            None if link.is_some() || port.is_some() => FunctionType::Endpoint,
            None => FunctionType::Integrated,
        };
        let has_link = !matches!(
            function_type,
            FunctionType::Conventional | FunctionType::Integrated
        );
        ExpressFacts {
            function_type,
            link: link.filter(|_| has_link),
            is_virtual: physical.is_some(),
        }
    }
}

/// The directory of the bridge above a device; `None` for a device on a root bus. A device's
/// directory is below that of its bridge.
fn port_above(device: &Path) -> Option<PathBuf> {
    let parent = fs::canonicalize(device).ok()?.parent()?.to_path_buf();
    parent.file_name()?.to_str()?.parse::<Bdf>().ok()?;
    Some(parent)
}

/// The link that the attributes in a device's directory tell of.
fn link_attributes(device: &Path, read: &dyn Fn(&Path) -> io::Result<Vec<u8>>) -> Option<Link> {
    let text = |name: &str| String::from_utf8(read(&device.join(name)).ok()?).ok();
    let speed = |name| Speed::from_rate(rate(&text(name)?)?);
    let width = |name| text(name)?.trim().parse::<u8>().ok();
    let max = speed("max_link_speed").zip(width("max_link_width"));
    Link::new(
        speed("current_link_speed")?,
        width("current_link_width")?,
        max,
    )
}

/// The number of `8.0 GT/s PCIe`, or of `8 GT/s`, as kernels before 5.7 have it.
fn rate(text: &str) -> Option<&str> {
    let (rate, unit) = text.trim().split_once(' ')?;
    unit.starts_with("GT/s").then_some(rate)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    /// A sysfs with devices below bridges, as the kernel has them.
    struct Tree(TempDir);

    impl Tree {
        fn new() -> Self {
            let dir = TempDir::new().unwrap();
            fs::create_dir_all(dir.as_path().join("bus/pci/devices")).unwrap();
            Self(dir)
        }

        /// Adds a device at the end of `path`, whose parts are bridges, with its attributes.
        fn add(&self, path: &str, attributes: Option<[&str; 4]>) -> &Self {
            let device = self.0.as_path().join("devices/pci0000:00").join(path);
            fs::create_dir_all(&device).unwrap();
            let names = [
                "current_link_speed",
                "current_link_width",
                "max_link_speed",
                "max_link_width",
            ];
            for (name, value) in names.iter().zip(attributes.unwrap_or_default()) {
                if attributes.is_some() {
                    fs::write(device.join(name), format!("{value}\n")).unwrap();
                }
            }
            let name = path.rsplit('/').next().unwrap();
            let link = self.0.as_path().join("bus/pci/devices").join(name);
            symlink(&device, link).unwrap();
            self
        }

        fn is_function_of(&self, function: &str, physical: &str) {
            let devices = self.0.as_path().join("bus/pci/devices");
            let link = devices.join(function).join("physfn");
            symlink(devices.join(physical), link).unwrap();
        }

        fn facts(&self, name: &str, config: &[u8]) -> ExpressFacts {
            let name = HostName::Pci(name.parse().unwrap());
            Sysfs::at(self.0.as_path()).express(name, config, &|path| fs::read(path))
        }
    }

    const PORT: &str = "0000:00:01.0";
    const BEHIND: &str = "0000:00:01.0/0000:01:00.0";
    const CARD: &str = "0000:01:00.0";
    const GEN_3: [&str; 4] = ["8.0 GT/s PCIe", "4", "16.0 GT/s PCIe", "8"];
    const NONE: [&str; 4] = ["Unknown", "0", "Unknown", "255"];

    fn text(facts: ExpressFacts) -> Option<String> {
        facts.link.map(|link| link.to_string())
    }

    /// A space with the capability at 0x40.
    fn config(flags: u16, capabilities: u32, status: u16) -> Vec<u8> {
        let mut space = vec![0; 256];
        space[6] = 0x10;
        space[0x34] = 0x40;
        space[0x40] = 0x10;
        space[0x42..0x44].copy_from_slice(&flags.to_le_bytes());
        space[0x4c..0x50].copy_from_slice(&capabilities.to_le_bytes());
        space[0x52..0x54].copy_from_slice(&status.to_le_bytes());
        space
    }

    #[test]
    fn the_attributes_tell_an_ordinary_user() {
        let tree = Tree::new();
        tree.add(PORT, Some(["8.0 GT/s PCIe", "4", "8.0 GT/s PCIe", "4"]));
        tree.add(BEHIND, Some(GEN_3));
        let facts = tree.facts(CARD, &[0; 64]);
        assert_eq!(facts.function_type, FunctionType::Endpoint);
        assert_eq!(text(facts).as_deref(), Some("8.0 GT/s x4"));
        assert_eq!(facts.link.unwrap().capabilities(), 0x84);
        // As kernels before 5.7 have it.
        tree.add("0000:00:02.0", Some(["2.5 GT/s", "1", "5 GT/s", "1"]));
        let old = tree.facts("0000:00:02.0", &[]);
        assert_eq!(text(old).as_deref(), Some("2.5 GT/s x1"));
        assert_eq!(old.link.unwrap().capabilities(), 0x12);
    }

    #[test]
    fn without_the_attributes_a_device_is_conventional() {
        let tree = Tree::new();
        tree.add("0000:00:1e.0/0000:05:00.0", None);
        let facts = tree.facts("0000:05:00.0", &[0; 64]);
        assert_eq!(facts.function_type, FunctionType::Conventional);
        assert_eq!(facts.link, None);
    }

    #[test]
    fn on_a_root_bus_without_a_link_a_function_is_integrated() {
        let tree = Tree::new();
        tree.add("0000:00:02.0", Some(NONE));
        let facts = tree.facts("0000:00:02.0", &[0; 64]);
        assert_eq!(facts.function_type, FunctionType::Integrated);
        assert_eq!(facts.link, None);
        // With a link it is an endpoint: a hypervisor shows such devices.
        tree.add("0000:00:03.0", Some(GEN_3));
        let facts = tree.facts("0000:00:03.0", &[0; 64]);
        assert_eq!(facts.function_type, FunctionType::Endpoint);
    }

    #[test]
    fn the_port_tells_of_a_link_that_the_device_hides() {
        let tree = Tree::new();
        tree.add(PORT, Some(GEN_3)).add(BEHIND, Some(NONE));
        let facts = tree.facts(CARD, &[0; 64]);
        assert_eq!(facts.function_type, FunctionType::Endpoint);
        assert_eq!(text(facts).as_deref(), Some("8.0 GT/s x4"));
    }

    #[test]
    fn a_virtual_function_has_its_physical_functions_link() {
        let tree = Tree::new();
        tree.add(PORT, Some(NONE)).add(BEHIND, Some(GEN_3));
        tree.add("0000:00:01.0/0000:01:10.0", Some(NONE));
        tree.is_function_of("0000:01:10.0", CARD);
        for registers in [vec![0; 64], config(2, 0x43, 0), config(2, 0x11, 0x11)] {
            let facts = tree.facts("0000:01:10.0", &registers);
            assert!(facts.is_virtual);
            assert_eq!(facts.function_type, FunctionType::Endpoint);
            assert_eq!(text(facts).as_deref(), Some("8.0 GT/s x4"));
        }
        // One of an integrated device is integrated.
        tree.add("0000:00:05.0", Some(NONE));
        tree.add("0000:00:05.1", Some(NONE));
        tree.is_function_of("0000:00:05.1", "0000:00:05.0");
        let facts = tree.facts("0000:00:05.1", &[]);
        assert_eq!(facts.function_type, FunctionType::Integrated);
    }

    #[test]
    fn the_registers_come_first() {
        let tree = Tree::new();
        tree.add(PORT, Some(GEN_3)).add(BEHIND, Some(GEN_3));
        let facts = tree.facts(CARD, &config(2, 0x104, 0x102));
        assert_eq!(text(facts).as_deref(), Some("5.0 GT/s x16"));
        // An integrated endpoint has no link, whatever the port above has.
        let facts = tree.facts(CARD, &config(0x92, 0, 0));
        assert_eq!(
            (facts.function_type, facts.link),
            (FunctionType::Integrated, None)
        );
        let facts = tree.facts(CARD, &[0; 256]);
        assert_eq!(
            (facts.function_type, facts.link),
            (FunctionType::Conventional, None)
        );
    }

    #[test]
    fn a_mediated_device_is_what_its_registers_say() {
        let sysfs = Sysfs::at("/nowhere");
        let name = HostName::Mediated("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001".parse().unwrap());
        let read = |path: &Path| fs::read(path);
        let facts = sysfs.express(name, &config(2, 0x43, 0x43), &read);
        assert_eq!(facts.function_type, FunctionType::Endpoint);
        assert_eq!(text(facts).as_deref(), Some("8.0 GT/s x4"));
        let facts = sysfs.express(name, &[0; 256], &read);
        assert_eq!(facts.function_type, FunctionType::Conventional);
    }
}
