//! What is to be done, as a list of steps made from facts. Nothing is touched here: a plan can be
//! printed as the shell commands that it stands for, or carried out by [`super::apply`].
//!
//! Only driver_override is used, never new_id: it concerns one device alone, and leaves no driver
//! that would take the next device of the kind (Documentation/ABI/testing/sysfs-bus-pci).

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
    /// A group's, for containers.
    Group(u32),
    /// A device's own, for iommufd. Its name is known when the device is bound.
    Device(Bdf),
    /// One that changed hands before.
    Path(PathBuf),
}

/// One change of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Have a driver loaded.
    Load(Driver),
    /// Say which driver alone may have a device, or that any may.
    Override {
        /// The device.
        bdf: Bdf,
        /// The driver.
        to: Option<String>,
    },
    /// Take a device from its driver.
    Unbind {
        /// The device.
        bdf: Bdf,
        /// The driver that has it.
        driver: String,
    },
    /// Let the drivers look at a device.
    Probe {
        /// The device.
        bdf: Bdf,
        /// The one that must take it.
        wanted: Option<String>,
    },
    /// Give a device to one driver.
    Bind {
        /// The device.
        bdf: Bdf,
        /// The driver.
        driver: String,
    },
    /// Whether the host's drivers take virtual functions as they appear.
    Autoprobe {
        /// The physical function.
        bdf: Bdf,
        /// Whether they do.
        on: bool,
    },
    /// Make virtual functions, or remove them all.
    Functions {
        /// The physical function.
        bdf: Bdf,
        /// How many there shall be.
        count: u32,
    },
    /// Bind the virtual functions that have appeared.
    TakeFunctions {
        /// The physical function.
        bdf: Bdf,
        /// The driver that they get, as far as can be told before they are there.
        driver: String,
        /// Who gets their nodes.
        uid: Option<u32>,
    },
    /// Make a node a user's.
    Own {
        /// The device on whose account.
        bdf: Bdf,
        /// The node.
        target: Target,
        /// The new owner.
        uid: u32,
        /// The new group; the node's own stays without.
        gid: Option<u32>,
    },
}

/// Gives a device to a VFIO driver, and its nodes to a user.
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

/// Makes virtual functions, without the host's drivers seeing them.
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

/// Makes a device's nodes a user's. A group's node is there for each of its devices.
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

/// Makes a device what its record says it was, wherever between the two it is now. What somebody
/// else has done to it since is left alone.
///
/// `loaded`: whether the driver that it had is there.
pub fn give_back(record: &Record, now: &Facts, loaded: bool) -> Vec<Step> {
    let bdf = record.bdf;
    let mut steps: Vec<_> = record
        .nodes
        .iter()
        .enumerate()
        // One that changed hands twice is its first owner's again.
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
    // None is what it has in the middle of this, below.
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
    // The kernel gives a device to no driver but the one of its override, which may have been
    // another's while this one had the device.
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

/// Gives a device to whatever driver wants it: what it had before is not known.
pub fn let_go(now: &Facts) -> Vec<Step> {
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

/// As what one would type.
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
                    // Above.
                    Target::Device(_) => Ok(()),
                }
            }
        }
    }
}

/// Not every kernel has a node for each device.
fn own_device(uid: u32, device: &str) -> String {
    let dir = format!("{DEVICES}/{device}/vfio-dev");
    format!("[ ! -d {dir} ] || chown {uid} /dev/vfio/devices/$(ls {dir})")
}
