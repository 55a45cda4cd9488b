//! `host slurm`: what Slurm needs to give persistently bound devices to jobs.
//!
//! A device, or an IOMMU group, is a generic resource `vfio` with a node as its `File`
//! (gres.conf(5)). Slurm counts the resources and chooses them, but tells their indices to nobody,
//! so the prolog asks for the job's details, and gives the node to the job's user.
//!
//! | file | content |
//! | --- | --- |
//! | `topology` | the cores beside a device, as Slurm numbers them |
//! | the scripts | the prolog, the epilog, the task prolog and a job |

mod topology;

use std::path::Path;
use std::{fs, io};

use pci::Bdf;
use vmm::hostinfo::device_node::device_node;
use vmm::hostinfo::pci_device::PciDevice;
use vmm::hostinfo::sysfs::Sysfs;

use crate::cdi::Interface;
use crate::list::State;
use crate::paths::HostPaths;
use crate::persist::{Files, PersistError, Presence};

/// The reason why there is nothing to write.
#[derive(Debug, thiserror::Error)]
pub enum SlurmError {
    /// sysfs cannot be read.
    #[error("cannot read the devices from sysfs")]
    Sysfs(#[source] io::Error),
    /// The rules of persistent devices cannot be read.
    #[error(transparent)]
    Persist(#[from] PersistError),
    /// No device is bound at each boot, ready, and root's.
    #[error("no device is bound at each boot, ready for a guest, and of no user")]
    NoDevice,
    /// A name that Slurm or a shell reads otherwise.
    #[error("`{0}` is no name of a node of Slurm")]
    BadNode(String),
    /// A path that a shell or Slurm reads otherwise.
    #[error("`{0}` is no path for Slurm's files")]
    BadFolder(String),
}

impl SlurmError {
    /// The remedy to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Sysfs(_) => "mount /sys, and look at `mini-vmm host list`".into(),
            Self::Persist(e) => e.hint(),
            Self::NoDevice => "as root and without --user: mini-vmm host bind 0000:01:00.0 \
                               --persist; slurmd ends if a node is missing when it starts"
                .into(),
            Self::BadNode(_) => "give the NodeName of slurm.conf: --node n1".into(),
            Self::BadFolder(_) => {
                "give an absolute path of letters, digits, -, _, . and /: --output /etc/slurm/vfio"
                    .into()
            }
        }
    }
}

/// A resource: a node, and the devices behind it.
#[derive(Debug, PartialEq, Eq)]
struct Resource {
    node: String,
    devices: Vec<Bdf>,
    /// The cores beside it, in Slurm's numbering; empty if all are alike.
    cores: String,
}

/// A file for Slurm.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Its permissions.
    pub mode: u32,
}

/// The files for this host, which Slurm calls `node`. Slurm reads them in `folder`.
///
/// # Errors
/// No device is bound at each boot, or a name cannot be written into a script.
pub fn files(
    sysfs: &Sysfs,
    paths: &HostPaths,
    interface: Interface,
    node: &str,
    folder: &Path,
) -> Result<Vec<File>, SlurmError> {
    let plain = |text: &str, more: &str| {
        let part = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
        !text.is_empty() && text.chars().all(part)
    };
    if !plain(node, "-_.") {
        return Err(SlurmError::BadNode(node.into()));
    }
    let folder = folder.display().to_string();
    if !plain(&folder, "-_./") || !folder.starts_with('/') {
        return Err(SlurmError::BadFolder(folder));
    }
    let (resources, left_out) = resources(sysfs, paths, interface)?;
    if resources.is_empty() {
        return Err(SlurmError::NoDevice);
    }
    let script = |name: &str, text: &str| File {
        name: name.into(),
        text: text.replace("@FOLDER@", &folder),
        mode: 0o755,
    };
    let text = |name: String, text: String| File {
        name,
        text,
        mode: 0o644,
    };
    Ok(vec![
        text(
            "slurm.conf.vfio".into(),
            slurm_conf(node, &folder, resources.len()),
        ),
        text(
            format!("gres.conf.{node}"),
            gres_conf(node, &resources, &left_out),
        ),
        text(format!("devices.{node}"), map(&resources)),
        script("prolog.sh", include_str!("prolog.sh")),
        script("epilog.sh", include_str!("epilog.sh")),
        script("task_prolog.sh", include_str!("task_prolog.sh")),
        script("job.sh", include_str!("job.sh")),
    ])
}

/// The resources, in order of their first devices, and the devices that a rule gives to a user. The
/// prolog would find the node of such a device to be of an earlier job. Slurm's indices follow the
/// order of gres.conf.
fn resources(
    sysfs: &Sysfs,
    paths: &HostPaths,
    interface: Interface,
) -> Result<(Vec<Resource>, Vec<Bdf>), SlurmError> {
    let rules = Files::of(paths).all()?;
    let kept = rules
        .iter()
        .filter(|rule| rule.presence(sysfs) == Presence::Same);
    let (of_users, kept): (Vec<_>, Vec<_>) = kept.partition(|rule| rule.user.is_some());
    let of_users: Vec<_> = of_users.iter().map(|rule| rule.device).collect();
    let kept: Vec<_> = kept.iter().map(|rule| rule.device).collect();
    let all = sysfs.devices().map_err(SlurmError::Sysfs)?;
    let members = |group: Option<u32>| {
        let members = all.iter().filter(|d| d.group == group);
        members.cloned().collect::<Vec<PciDevice>>()
    };
    let ready: Vec<_> = all
        .iter()
        .filter(|d| State::of(d, &members(d.group)) == State::Ready)
        .collect();
    // Who has a group's node has all its devices, so the epilog resets them all.
    let same_group = |device: &PciDevice, others: &[Bdf]| {
        let mut same = ready.iter().filter(|d| d.group == device.group);
        same.any(|d| others.contains(&d.bdf))
    };
    let mut found: Vec<Resource> = Vec::new();
    for &device in &ready {
        let (given, of_a_user) = match interface {
            Interface::Container => (same_group(device, &kept), same_group(device, &of_users)),
            Interface::Iommufd => (kept.contains(&device.bdf), false),
        };
        if !given || of_a_user {
            continue;
        }
        let node = match (interface, device.group) {
            (Interface::Container, Some(group)) => format!("/dev/vfio/{group}"),
            (Interface::Container, None) => continue,
            (Interface::Iommufd, _) => match device_node(&device.path) {
                Some(name) => format!("/dev/vfio/devices/{name}"),
                None => continue,
            },
        };
        match found.iter_mut().find(|resource| resource.node == node) {
            Some(resource) => resource.devices.push(device.bdf),
            None => found.push(Resource {
                node,
                devices: vec![device.bdf],
                cores: cores(sysfs, &device.path),
            }),
        }
    }
    Ok((found, of_users))
}

fn cores(sysfs: &Sysfs, device: &Path) -> String {
    let local = fs::read_to_string(device.join("local_cpulist")).unwrap_or_default();
    topology::cores(&topology::read(sysfs), local.trim())
}

fn slurm_conf(node: &str, folder: &str, count: usize) -> String {
    format!(
        "\
# Lines for slurm.conf. The other values of the NodeName line, such as CPUs=, are in your file.
GresTypes=vfio
SelectType=select/cons_tres
NodeName={node} Gres=vfio:{count}
Prolog={folder}/prolog.sh
Epilog={folder}/epilog.sh
TaskProlog={folder}/task_prolog.sh
# The prolog runs before the job's first process on each node, not before its first step.
PrologFlags=Alloc
# A guest's memory is locked. The limit is slurmd's (LimitMEMLOCK=), not the submitter's.
PropagateResourceLimitsExcept=MEMLOCK
"
    )
}

fn gres_conf(node: &str, resources: &[Resource], left_out: &[Bdf]) -> String {
    let mut text = String::from("# Lines for gres.conf. Their order is that of the indices.\n");
    for device in left_out {
        text +=
            &format!("# {device} and its group are left out: they are a user's at each boot.\n");
    }
    for resource in resources {
        let cores = match resource.cores.as_str() {
            "" => String::new(),
            cores => format!(" Cores={cores}"),
        };
        text += &format!("NodeName={node} Name=vfio File={}{cores}\n", resource.node);
    }
    text
}

/// Index, node and addresses, for the prolog.
fn map(resources: &[Resource]) -> String {
    let line = |(index, resource): (usize, &Resource)| {
        let devices: Vec<_> = resource.devices.iter().map(Bdf::to_string).collect();
        format!("{index} {} {}\n", resource.node, devices.join(" "))
    };
    resources.iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests;
