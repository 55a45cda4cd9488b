//! The made-up kernel: it reacts to a write as Linux does (drivers/base/bus.c,
//! drivers/pci/pci-driver.c), and can fail at a change.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, io};

use pci::Bdf;

use super::calls;
use crate::bind::{Call, Kernel};

/// The change at which the kernel fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Never.
    #[default]
    Never,
    /// Once, at the change with this number.
    At(usize),
    /// At each change from this number on.
    From(usize),
    /// Once, the change with this number does not end before [`FakeKernel::wake`].
    Sleeps(usize),
    /// Once, the change with this number takes so long that the lock is given away meanwhile.
    Pauses(usize),
    /// Once, the kernel fails in the change with this number (an oops): the writing process is
    /// ended, and the change is not complete.
    Oops(usize),
    /// The kernel never fails, but the program is killed after the change with this number, by a
    /// panic that the program does not catch.
    Killed(usize),
}

/// The state of the kernel that sysfs does not show.
#[derive(Default)]
pub(super) struct State {
    /// The driver that matches a device by its identity.
    pub(super) natural: BTreeMap<Bdf, String>,
    /// Drivers whose probe of a device fails.
    pub(super) refuses: Vec<(String, Bdf)>,
    /// Modules that can be loaded.
    pub(super) loadable: Vec<String>,
    /// Commands of the host that fail.
    pub(super) failing: Vec<String>,
    pub(super) owners: BTreeMap<PathBuf, (u32, u32)>,
    pub(super) fault: Fault,
    /// The process that sleeps in the change at which [`Fault::Sleeps`] occurred, and the change.
    pub(super) asleep: Option<(Child, PathBuf, String)>,
    /// What another command does while the change at which [`Fault::Pauses`] occurs goes on.
    pub(super) meanwhile: Option<Box<dyn FnOnce() + Send>>,
    pub(super) changes: usize,
    /// Every change, as the equivalent shell command.
    pub(super) log: Vec<String>,
}

#[derive(Clone)]
pub struct FakeKernel {
    pub(super) root: PathBuf,
    state: Arc<Mutex<State>>,
}

/// Whether a driver of the made-up kernel registers its devices with VFIO. `vfio-x` does not.
fn registers(driver: &str) -> bool {
    driver == "vfio-pci" || driver.ends_with("_vfio_pci")
}

pub(super) fn io_error() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

pub(super) fn errno(number: i32) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(number))
}

impl FakeKernel {
    /// The kernel of a host below a directory.
    pub(super) fn at(root: PathBuf) -> Self {
        Self {
            root,
            state: Arc::default(),
        }
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn set_fault(&self, fault: Fault) {
        let mut state = self.lock();
        state.fault = fault;
        state.changes = 0;
    }

    pub fn refuse(&self, driver: &str, bdf: &str) {
        self.lock()
            .refuses
            .push((driver.into(), bdf.parse().unwrap()));
    }

    pub fn accept_all(&self) {
        self.lock().refuses.clear();
    }

    /// Lets a command of the host fail.
    pub fn fail(&self, command: &str) {
        self.lock().failing.push(command.into());
    }

    pub fn loadable(&self, module: &str) {
        self.lock().loadable.push(module.into());
    }

    pub fn owner_of(&self, node: &str) -> Option<(u32, u32)> {
        self.owner(&self.root.join(node)).ok()
    }

    pub(super) fn device(&self, bdf: Bdf) -> PathBuf {
        self.root.join("sys/bus/pci/devices").join(bdf.to_string())
    }

    pub(super) fn driver_dir(&self, driver: &str) -> PathBuf {
        self.root.join("sys/bus/pci/drivers").join(driver)
    }

    pub(super) fn add_driver(&self, driver: &str) {
        fs::create_dir_all(self.driver_dir(driver)).unwrap();
    }

    pub fn remove_driver(&self, driver: &str) {
        fs::remove_dir_all(self.driver_dir(driver)).unwrap();
    }

    pub(super) fn add_device(&self, bdf: Bdf, class: u32, group: Option<u32>) {
        let dir = self.device(bdf);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("class"), format!("0x{class:06x}\n")).unwrap();
        fs::write(dir.join("config"), [0; 64]).unwrap();
        if class >> 8 == 0x0604 {
            fs::write(dir.join("secondary_bus_number"), "2\n").unwrap();
        }
        fs::write(dir.join("driver_override"), "(null)\n").unwrap();
        let modalias = format!("pci:v00001B36d000000{:02X}sv0sd0bc01sc08i02\n", bdf.bus);
        fs::write(dir.join("modalias"), modalias).unwrap();
        let Some(group) = group else {
            return;
        };
        let groups = self.root.join("sys/kernel/iommu_groups");
        let members = groups.join(format!("{group}/devices"));
        fs::create_dir_all(&members).unwrap();
        symlink(groups.join(group.to_string()), dir.join("iommu_group")).unwrap();
        symlink(&dir, members.join(bdf.to_string())).unwrap();
    }

    pub fn forget_functions(&self, physical: &str) {
        self.make_functions(physical.parse().unwrap(), 0).unwrap();
    }

    pub fn remove_device(&self, bdf: Bdf) {
        if let Some(driver) = self.driver(bdf) {
            self.detach(bdf, &driver);
        }
        if let Some(group) = self.group(bdf) {
            let group = self.root.join("sys/kernel/iommu_groups").join(group);
            fs::remove_file(group.join("devices").join(bdf.to_string())).unwrap();
            if fs::read_dir(group.join("devices"))
                .unwrap()
                .next()
                .is_none()
            {
                fs::remove_dir_all(group).unwrap();
            }
        }
        fs::remove_dir_all(self.device(bdf)).unwrap();
    }

    fn link(&self, path: PathBuf) -> Option<String> {
        let target = fs::read_link(path).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    pub(super) fn driver(&self, bdf: Bdf) -> Option<String> {
        self.link(self.device(bdf).join("driver"))
    }

    pub(super) fn group(&self, bdf: Bdf) -> Option<String> {
        self.link(self.device(bdf).join("iommu_group"))
    }

    fn override_of(&self, bdf: Bdf) -> Option<String> {
        let text = fs::read_to_string(self.device(bdf).join("driver_override")).unwrap();
        Some(text.trim().to_owned()).filter(|t| t != "(null)")
    }

    /// A driver's probe of a device. A VFIO driver also makes the nodes.
    pub(super) fn attach(&self, bdf: Bdf, driver: &str) -> io::Result<()> {
        if self.lock().refuses.contains(&(driver.into(), bdf)) {
            return Err(io_error());
        }
        symlink(self.driver_dir(driver), self.device(bdf).join("driver"))?;
        if registers(driver) {
            let name = format!("vfio{:02x}{:x}", bdf.bus, bdf.function);
            fs::create_dir_all(self.device(bdf).join("vfio-dev").join(&name))?;
            fs::create_dir_all(self.root.join("dev/vfio/devices"))?;
            fs::write(self.root.join("dev/vfio/devices").join(name), "")?;
            if let Some(group) = self.group(bdf) {
                fs::write(self.root.join("dev/vfio").join(group), "")?;
            }
        }
        Ok(())
    }

    pub(super) fn detach(&self, bdf: Bdf, driver: &str) {
        fs::remove_file(self.device(bdf).join("driver")).unwrap();
        if !registers(driver) {
            return;
        }
        // vfio-pci removes virtual functions when it is unbound (drivers/vfio/pci/vfio_pci_core.c).
        if fs::read_link(self.device(bdf).join("virtfn0")).is_ok() {
            self.make_functions(bdf, 0).unwrap();
        }
        let gone = |path: PathBuf| {
            fs::remove_file(&path).unwrap();
            self.lock().owners.remove(&path);
        };
        let name = format!("vfio{:02x}{:x}", bdf.bus, bdf.function);
        fs::remove_dir_all(self.device(bdf).join("vfio-dev")).unwrap();
        gone(self.root.join("dev/vfio/devices").join(name));
        let devices = self.root.join("dev/vfio/devices");
        if fs::read_dir(&devices).unwrap().next().is_none() {
            fs::remove_dir(devices).unwrap();
        }
        if let Some(group) = self.group(bdf) {
            let members = self
                .root
                .join(format!("sys/kernel/iommu_groups/{group}/devices"));
            let mut members = fs::read_dir(members).unwrap();
            let vfio = |name: String| {
                let driver = self.driver(name.parse().unwrap());
                driver.is_some_and(|d| registers(&d))
            };
            if !members.any(|m| vfio(m.unwrap().file_name().into_string().unwrap())) {
                gone(self.root.join("dev/vfio").join(group));
            }
        }
    }

    /// The driver that may bind a device: the driver in its override, or the driver that matches
    /// the device.
    pub(super) fn driver_for(&self, bdf: Bdf) -> Option<String> {
        let natural = self.lock().natural.get(&bdf).cloned();
        let driver = self.override_of(bdf).or(natural)?;
        self.driver_dir(&driver).exists().then_some(driver)
    }

    /// Counts a change, and refuses it if the test asks for that.
    pub(super) fn count_change(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.changes += 1;
        let refused = match state.fault {
            Fault::At(n) => state.changes == n,
            Fault::From(n) => state.changes >= n,
            _ => false,
        };
        if refused { Err(io_error()) } else { Ok(()) }
    }

    /// Records a completed change. Kills the program here if the test asks for that.
    pub(super) fn done(&self, command: String) -> io::Result<()> {
        let mut state = self.lock();
        state.log.push(command);
        let killed = state.fault == Fault::Killed(state.changes);
        drop(state);
        assert!(!killed, "killed");
        Ok(())
    }

    /// Returns the changes since the last call, as commands.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().log)
    }

    /// Converts a path of the made-up host to the path on a real host.
    pub(super) fn real(&self, path: &Path) -> String {
        format!("/{}", path.strip_prefix(&self.root).unwrap().display())
    }

    pub fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        self.count_change()?;
        let name = path.file_name().unwrap().to_str().unwrap();
        let parent = path.parent().unwrap();
        let above = parent.file_name().unwrap().to_str().unwrap();
        let named = || text.trim().parse::<Bdf>().unwrap();
        let outcome = match name {
            "driver_override" => {
                assert!(text.ends_with('\n'));
                let text = text.trim();
                fs::write(
                    path,
                    format!("{}\n", if text.is_empty() { "(null)" } else { text }),
                )
            }
            "unbind" if self.driver(named()).as_deref() == Some(above) => {
                self.detach(named(), above);
                Ok(())
            }
            "bind" if self.driver(named()).is_some() => errno(libc::EBUSY),
            "bind" if self.driver_for(named()).as_deref() == Some(above) => {
                self.attach(named(), above)
            }
            "unbind" | "bind" => errno(libc::ENODEV),
            "drivers_probe" => {
                if let Some(driver) = self
                    .driver_for(named())
                    .filter(|_| self.driver(named()).is_none())
                {
                    // The write does not return the probe's error.
                    let _ = self.attach(named(), &driver);
                }
                Ok(())
            }
            "sriov_drivers_autoprobe" => fs::write(path, format!("{text}\n")),
            "sriov_numvfs" => self.make_functions(above.parse().unwrap(), text.parse().unwrap()),
            other => panic!("nothing is written to {other}"),
        };
        outcome?;
        let text = text.trim();
        let blank = if text.is_empty() { "" } else { " " };
        self.done(format!("echo {text}{blank}> {}", self.real(path)))
    }
}

impl Kernel for FakeKernel {
    fn prepare(&self, path: &Path, text: &str) -> io::Result<Box<dyn Call>> {
        calls::prepare(self, path, text)
    }

    fn chown(&self, path: &Path, uid: u32, gid: Option<u32>) -> io::Result<()> {
        self.count_change()?;
        let (_, before) = self.owner(path)?;
        let owner = (uid, gid.unwrap_or(before));
        self.lock().owners.insert(path.to_owned(), owner);
        let gid = gid.map_or(String::new(), |gid| format!(":{gid}"));
        self.done(format!("chown {uid}{gid} {}", self.real(path)))
    }

    fn owner(&self, path: &Path) -> io::Result<(u32, u32)> {
        fs::metadata(path)?;
        Ok(self.lock().owners.get(path).copied().unwrap_or_default())
    }

    fn load(&self, module: &str, _: Duration) -> io::Result<()> {
        if !self.lock().loadable.iter().any(|m| m == module) {
            return Err(io::Error::other("modprobe: not found"));
        }
        self.add_driver(module);
        self.lock().log.push(format!("modprobe {module}"));
        Ok(())
    }

    fn run(&self, command: &[&str], _: Duration) -> io::Result<()> {
        let text = command.join(" ");
        let mut state = self.lock();
        if state.failing.contains(&text) {
            return Err(io::Error::other("no space left"));
        }
        state.log.push(text);
        Ok(())
    }
}
