//! A made-up host for tests: directories, files and links as in /sys, /proc and /dev, under one
//! temporary directory.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use vmm::hostinfo::pci_device::PciDevice;
use vmm::hostinfo::sysfs::Sysfs;
use vmm_sys_util::tempdir::TempDir;

use crate::interfaces::Address;
use crate::paths::{Addresses, HostPaths};

/// The directory tree. Dropping the value removes it.
pub(crate) struct Tree {
    dir: TempDir,
    addresses: RefCell<Vec<Address>>,
}

impl Tree {
    pub fn new() -> Self {
        let tree = Self {
            dir: TempDir::new().unwrap(),
            addresses: RefCell::default(),
        };
        fs::create_dir_all(tree.path("sys/bus/pci/devices")).unwrap();
        tree
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.as_path().join(name)
    }

    pub fn sysfs(&self) -> Sysfs {
        Sysfs::at(self.path("sys"))
    }

    pub fn paths(&self) -> HostPaths {
        HostPaths {
            proc: self.path("proc"),
            dev: self.path("dev"),
            modules: self.path("lib/modules"),
            etc: self.path("etc"),
            addresses: Addresses::These(self.addresses.borrow().clone()),
        }
    }

    /// Adds a file and its directories.
    pub fn file(&self, name: &str, text: &str) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub fn directory(&self, name: &str) -> &Self {
        fs::create_dir_all(self.path(name)).unwrap();
        self
    }

    /// Adds a link to another path in the tree. The path need not exist.
    pub fn link(&self, name: &str, to: &str) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(self.path(to), path).unwrap();
        self
    }

    /// The real path of a device of [`Self::device`].
    pub fn home(bdf: &str) -> String {
        format!("sys/devices/pci0000:00/{bdf}")
    }

    /// Adds a PCI device with a class such as `0x010802` to a group. The driver vfio-pci registers
    /// it; the header of a PCI bridge's class is that of a bridge.
    pub fn device(
        &self,
        bdf: &str,
        class: &str,
        driver: Option<&str>,
        group: Option<u32>,
    ) -> &Self {
        let home = Self::home(bdf);
        self.file(&format!("{home}/class"), &format!("{class}\n"));
        self.header(bdf, u8::from(class.starts_with("0x0604")));
        if driver == Some("vfio-pci") {
            self.registered(bdf);
        }
        self.link(&format!("sys/bus/pci/devices/{bdf}"), &home);
        if let Some(driver) = driver {
            self.directory(&format!("sys/bus/pci/drivers/{driver}"));
            let to = format!("sys/bus/pci/drivers/{driver}");
            self.link(&format!("{home}/driver"), &to);
        }
        if let Some(group) = group {
            let members = format!("sys/kernel/iommu_groups/{group}");
            self.directory(&format!("{members}/devices"));
            self.link(&format!("{home}/iommu_group"), &members);
            self.link(&format!("{members}/devices/{bdf}"), &home);
        }
        self
    }

    /// Gives a device a configuration space with this header type, and no IDs. The kernel gives the
    /// bus numbers of a bridge.
    pub fn header(&self, bdf: &str, header: u8) -> &Self {
        let mut config = [0; 64];
        config[0x0e] = header;
        let home = Self::home(bdf);
        fs::write(self.path(&format!("{home}/config")), config).unwrap();
        let bus = format!("{home}/secondary_bus_number");
        match header & 0x7f {
            0 => drop(fs::remove_file(self.path(&bus))),
            _ => drop(self.file(&bus, "2\n")),
        }
        self
    }

    /// Registers a device with VFIO.
    pub fn registered(&self, bdf: &str) -> &Self {
        self.directory("sys/class/vfio-dev");
        let device = format!("{}/vfio-dev/vfio0", Self::home(bdf));
        self.file(&format!("{device}/dev"), "511:0\n")
    }

    pub fn find(&self, bdf: &str) -> PciDevice {
        self.sysfs().device(bdf.parse().unwrap()).unwrap().unwrap()
    }

    /// Gives an interface this address in addition.
    pub fn address(&self, interface: &str, address: &str) -> &Self {
        let address = address.parse().unwrap();
        self.addresses
            .borrow_mut()
            .push((interface.into(), address));
        self
    }

    /// Removes the addresses of all interfaces.
    pub fn no_addresses(&self) -> &Self {
        self.addresses.borrow_mut().clear();
        self
    }

    /// Adds a block device below a device's directory, with its number and the block devices
    /// stacked on it.
    pub fn disk(&self, home: &str, name: &str, id: &str, holders: &[&str]) -> &Self {
        let dir = format!("{home}/block/{name}");
        self.file(&format!("{dir}/dev"), &format!("{id}\n"));
        for holder in holders {
            self.directory(&format!("{dir}/holders/{holder}"));
        }
        self.link(&format!("sys/class/block/{name}"), &dir)
    }
}
