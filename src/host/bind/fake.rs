//! A made-up host in a temporary directory. A test can make a change of its kernel fail.

mod calls;
mod functions;
mod kernel;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use pci::Bdf;
use vmm::hostinfo::sysfs::Sysfs;
use vmm_sys_util::tempdir::TempDir;

pub use self::kernel::{FakeKernel, Fault};
use crate::bind::{Host, Records};
use crate::paths::{Addresses, HostPaths};

pub struct FakeHost {
    pub dir: TempDir,
    pub kernel: FakeKernel,
}

impl FakeHost {
    /// A host where these drivers are loaded.
    pub fn new(drivers: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let root = dir.as_path().to_owned();
        for below in [
            "sys/bus/pci/devices",
            "sys/bus/pci/drivers",
            "sys/class/vfio-dev",
            "dev/vfio",
            "proc/sys/kernel",
            "modules/6.1.0",
        ] {
            fs::create_dir_all(root.join(below)).unwrap();
        }
        fs::write(root.join("sys/bus/pci/drivers_probe"), "").unwrap();
        fs::write(root.join("proc/sys/kernel/osrelease"), "6.1.0\n").unwrap();
        let kernel = FakeKernel::at(root);
        for driver in drivers {
            kernel.add_driver(driver);
        }
        Self { dir, kernel }
    }

    /// A device of a class, bound to its driver if it has one.
    pub fn device(self, bdf: &str, class: u32, driver: Option<&str>, group: Option<u32>) -> Self {
        let bdf: Bdf = bdf.parse().unwrap();
        self.kernel.add_device(bdf, class, group);
        if let Some(driver) = driver {
            self.kernel.lock().natural.insert(bdf, driver.into());
            self.kernel.attach(bdf, driver).unwrap();
        }
        self
    }

    /// Writes an attribute of a device; the kernel does not react.
    pub fn set(&self, bdf: &str, name: &str, text: impl AsRef<[u8]>) {
        let bdf: Bdf = bdf.parse().unwrap();
        fs::write(self.kernel.device(bdf).join(name), text).unwrap();
    }

    pub fn host(&self) -> Host {
        let root = self.dir.as_path();
        Host {
            sysfs: Sysfs::at(root.join("sys")),
            paths: HostPaths {
                dev: root.join("dev"),
                proc: root.join("proc"),
                modules: root.join("modules"),
                etc: root.join("etc"),
                addresses: Addresses::These(Vec::new()),
            },
            records: Records::at(root.join("run")),
            kernel: Box::new(self.kernel.clone()),
            limit: Duration::ZERO,
        }
    }

    /// Makes a device a bridge or not, whatever its class says.
    pub fn bridge(self, bdf: &str, is: bool) -> Self {
        let bus = self.kernel.device(bdf.parse().unwrap());
        let bus = bus.join("secondary_bus_number");
        match is {
            true => fs::write(bus, "2\n").unwrap(),
            false => fs::remove_file(bus).unwrap(),
        }
        self
    }

    /// Lets a process open a node.
    pub fn open(&self, node: &str) {
        let process = self.dir.as_path().join("proc/4711");
        fs::create_dir_all(process.join("fd")).unwrap();
        fs::write(process.join("comm"), "qemu\n").unwrap();
        symlink(self.dir.as_path().join(node), process.join("fd/9")).unwrap();
    }

    /// Ends all processes that have a node open.
    pub fn close_all(&self) {
        fs::remove_dir_all(self.dir.as_path().join("proc/4711")).unwrap();
    }

    pub fn driver(&self, bdf: &str) -> Option<String> {
        self.kernel.driver(bdf.parse().unwrap())
    }

    /// The host without its records, as text: two hosts with equal snapshots are equal.
    pub fn snapshot(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for below in ["sys", "dev"] {
            describe(
                self.dir.as_path(),
                &self.dir.as_path().join(below),
                &mut lines,
            );
        }
        let state = self.kernel.lock();
        let owners = state.owners.iter().filter(|(_, owner)| **owner != (0, 0));
        lines.extend(owners.map(|(path, owner)| format!("{} {owner:?}", path.display())));
        lines.sort();
        lines
    }
}

fn describe(root: &Path, path: &Path, lines: &mut Vec<String>) {
    let name = path.strip_prefix(root).unwrap().display().to_string();
    let kind = fs::symlink_metadata(path).unwrap().file_type();
    if kind.is_symlink() {
        lines.push(format!(
            "{name} -> {}",
            fs::read_link(path).unwrap().display()
        ));
    } else if kind.is_dir() {
        lines.push(name);
        for entry in fs::read_dir(path).unwrap() {
            describe(root, &entry.unwrap().path(), lines);
        }
    } else {
        lines.push(format!("{name}: {:?}", fs::read(path).unwrap()));
    }
}
