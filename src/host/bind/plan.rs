//! Plans: lists of steps, made from facts. A plan changes nothing. It is printed as shell commands
//! (`--dry-run`), or executed by [`super::apply`].
//!
//! Plans use driver_override and never new_id. driver_override concerns a single device. After
//! new_id, the driver would also bind the next device with the same IDs
//! (Documentation/ABI/testing/sysfs-bus-pci).

use std::fmt;
use std::path::PathBuf;

use pci::Bdf;

use crate::bind::driver::Driver;
use crate::bind::facts::Facts;
use crate::bind::record::Record;
use crate::bind::user::User;

const DEVICES: &str = "/sys/bus/pci/devices";

/// A node under /dev/vfio.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The node of a group, for containers.
    Group(u32),
    /// The node of a device, for iommufd. The kernel chooses its name when the device is bound.
    Device(Bdf),
    /// A node whose owner an earlier bind changed.
    Path(PathBuf),
}

/// One change of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Load a driver.
    Load(Driver),
    /// Set the only driver that may bind a device, or allow any driver.
    Override {
        /// The device.
        bdf: Bdf,
        /// The driver; `None` allows any driver.
        to: Option<String>,
    },
    /// Unbind a device from its driver.
    Unbind {
        /// The device.
        bdf: Bdf,
        /// The driver that has the device.
        driver: String,
    },
    /// Let the kernel look for a driver for a device.
    Probe {
        /// The device.
        bdf: Bdf,
        /// The driver that must bind the device.
        wanted: Option<String>,
    },
    /// Bind a device to one driver.
    Bind {
        /// The device.
        bdf: Bdf,
        /// The driver.
        driver: String,
    },
    /// Set whether host drivers bind new virtual functions.
    Autoprobe {
        /// The physical function.
        bdf: Bdf,
        /// Whether host drivers bind them.
        on: bool,
    },
    /// Make virtual functions, or remove all of them.
    Functions {
        /// The physical function.
        bdf: Bdf,
        /// How many there will be.
        count: u32,
    },
    /// Bind the new virtual functions.
    TakeFunctions {
        /// The physical function.
        bdf: Bdf,
        /// The expected driver of the functions. The functions do not exist yet.
        driver: String,
        /// The user that gets their nodes.
        uid: Option<u32>,
    },
    /// Change the owner of a node.
    Own {
        /// The device that the node belongs to.
        bdf: Bdf,
        /// The node.
        target: Target,
        /// The new owner.
        uid: u32,
        /// The new group; `None` keeps the node's group.
        gid: Option<u32>,
    },
}

/// Binds a device to a VFIO driver, and gives its nodes to a user.
pub fn take(facts: &Facts, driver: &Driver, user: Option<&User>) -> Vec<Step> {
    let bdf = facts.bdf();
    let mut steps = Vec::new();
    if facts.driver_override.as_ref() != Some(&driver.name) {
        let to = Some(driver.name.clone());
        steps.push(Step::Override { bdf, to });
    }
    if let Some(driver) = facts.device.driver.clone() {
        steps.push(Step::Unbind { bdf, driver });
    }
    steps.push(Step::Probe {
        bdf,
        wanted: Some(driver.name.clone()),
    });
    steps.extend(user.into_iter().flat_map(|user| own(facts, user)));
    steps
}

/// Makes virtual functions, and keeps host drivers from binding them.
pub fn make_functions(
    facts: &Facts,
    count: u32,
    driver: &Driver,
    user: Option<&User>,
) -> Vec<Step> {
    let bdf = facts.bdf();
    let autoprobe = facts.functions.is_some_and(|f| f.autoprobe);
    let mut steps = Vec::new();
    if autoprobe {
        steps.push(Step::Autoprobe { bdf, on: false });
    }
    steps.push(Step::Functions { bdf, count });
    steps.push(Step::TakeFunctions {
        bdf,
        driver: driver.name.clone(),
        uid: user.map(|user| user.uid),
    });
    if autoprobe {
        steps.push(Step::Autoprobe { bdf, on: true });
    }
    steps
}

/// Gives a device's nodes to a user: the group's node, which all devices of the group share, and
/// the device's own node.
pub fn own(facts: &Facts, user: &User) -> Vec<Step> {
    let (bdf, group) = (facts.bdf(), facts.device.group);
    let targets = group
        .map(Target::Group)
        .into_iter()
        .chain([Target::Device(bdf)]);
    targets
        .map(|target| Step::Own {
            bdf,
            target,
            uid: user.uid,
            gid: None,
        })
        .collect()
}

/// Returns a device to the state in its record, even if a bind or unbind stopped between any two
/// steps. If another program has changed the device since, that change is kept.
///
/// `loaded`: whether the device's earlier driver is loaded.
pub fn give_back(record: &Record, now: &Facts, loaded: bool) -> Vec<Step> {
    let bdf = record.bdf;
    let mut steps: Vec<_> = record
        .nodes
        .iter()
        .enumerate()
        // If a node changed its owner twice, the node goes to its first owner.
        .filter(|(at, node)| !record.nodes.iter().take(*at).any(|n| n.path == node.path))
        .map(|(_, node)| Step::Own {
            bdf,
            target: Target::Path(node.path.clone()),
            uid: node.uid,
            gid: Some(node.gid),
        })
        .collect();
    if record.functions.is_some() {
        if now.functions.is_some_and(|f| f.made > 0) {
            steps.push(Step::Functions { bdf, count: 0 });
        }
        if record.autoprobe && now.functions.is_some_and(|f| !f.autoprobe) {
            steps.push(Step::Autoprobe { bdf, on: true });
        }
    }
    let Some(bound) = &record.bound else {
        return steps;
    };
    let has = now.device.driver.as_ref();
    let by_us = has == Some(bound);
    let theirs = has.is_some() && !by_us && has != record.driver.as_ref();
    let at = now.driver_override.as_ref();
    // The override belongs to this program if it names the VFIO driver. The override may also be
    // empty: an earlier give-back was then interrupted between its two overrides (below).
    let ours = at == Some(bound) || (at.is_none() && !theirs);
    let then = if ours {
        record.driver_override.as_ref()
    } else {
        at
    };
    let change = |from: Option<&String>, to: Option<&String>| {
        let to = to.cloned();
        (from != to.as_ref()).then_some(Step::Override { bdf, to })
    };
    if has == record.driver.as_ref() || theirs {
        steps.extend(change(at, then));
        return steps;
    }
    // An override lets only the driver that it names bind the device. If the earlier override names
    // another driver than the device's earlier driver, it is set after the bind.
    let during = then.filter(|then| record.driver.as_ref().is_none_or(|driver| driver == *then));
    steps.extend(change(at, during));
    if by_us {
        steps.push(Step::Unbind {
            bdf,
            driver: bound.clone(),
        });
    }
    if let Some(driver) = &record.driver {
        if let Some(module) = record.module.as_ref().filter(|_| !loaded) {
            steps.push(Step::Load(Driver {
                name: driver.clone(),
                module: module.clone(),
            }));
        }
        steps.push(Step::Bind {
            bdf,
            driver: driver.clone(),
        });
    }
    steps.extend(change(during, then));
    steps
}

/// Gives a device to any driver that matches it. The device's earlier driver is not known.
pub fn release(now: &Facts) -> Vec<Step> {
    let bdf = now.bdf();
    let mut steps = Vec::new();
    if now.driver_override.is_some() {
        steps.push(Step::Override { bdf, to: None });
    }
    if let Some(driver) = now.device.driver.clone() {
        steps.push(Step::Unbind { bdf, driver });
    }
    steps.push(Step::Probe { bdf, wanted: None });
    steps
}

/// Prints a step as a shell command.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DRIVERS: &str = "/sys/bus/pci/drivers";
        match self {
            Self::Load(driver) => write!(f, "modprobe {}", driver.module),
            Self::Override { bdf, to } => {
                let to = to.as_ref().map_or(String::new(), |to| format!("{to} "));
                write!(f, "echo {to}> {DEVICES}/{bdf}/driver_override")
            }
            Self::Unbind { bdf, driver } => write!(f, "echo {bdf} > {DRIVERS}/{driver}/unbind"),
            Self::Probe { bdf, .. } => write!(f, "echo {bdf} > /sys/bus/pci/drivers_probe"),
            Self::Bind { bdf, driver } => write!(f, "echo {bdf} > {DRIVERS}/{driver}/bind"),
            Self::Autoprobe { bdf, on } => write!(
                f,
                "echo {} > {DEVICES}/{bdf}/sriov_drivers_autoprobe",
                u8::from(*on)
            ),
            Self::Functions { bdf, count } => {
                write!(f, "echo {count} > {DEVICES}/{bdf}/sriov_numvfs")
            }
            Self::TakeFunctions { bdf, driver, uid } => {
                write!(
                    f,
                    "for vf in {DEVICES}/{bdf}/virtfn*; do vf=$(basename $(readlink $vf)); \
                     echo {driver} > {DEVICES}/$vf/driver_override; \
                     echo $vf > /sys/bus/pci/drivers_probe; "
                )?;
                if let Some(uid) = uid {
                    let group = format!("$(basename $(readlink {DEVICES}/$vf/iommu_group))");
                    write!(f, "chown {uid} /dev/vfio/{group}; ")?;
                    write!(f, "{}; ", own_device(*uid, "$vf"))?;
                }
                write!(f, "done")
            }
            Self::Own {
                target: Target::Device(bdf),
                uid,
                ..
            } => write!(f, "{}", own_device(*uid, &bdf.to_string())),
            Self::Own {
                target, uid, gid, ..
            } => {
                let gid = gid.map_or(String::new(), |gid| format!(":{gid}"));
                write!(f, "chown {uid}{gid} ")?;
                match target {
                    Target::Group(group) => write!(f, "/dev/vfio/{group}"),
                    Target::Path(path) => write!(f, "{}", path.display()),
                    // The arm above prints this target.
                    Target::Device(_) => Ok(()),
                }
            }
        }
    }
}

/// The command for a device's own node, which kernels without VFIO's device nodes lack.
fn own_device(uid: u32, device: &str) -> String {
    let dir = format!("{DEVICES}/{device}/vfio-dev");
    format!("[ ! -d {dir} ] || chown {uid} /dev/vfio/devices/$(ls {dir})")
}
