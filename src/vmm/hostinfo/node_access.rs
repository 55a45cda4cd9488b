//! Why a device node cannot be opened: the facts behind the errno of open(2).
//!
//! | errno | cause |
//! | --- | --- |
//! | ENOENT | the module is not loaded; or the kernel has the device, and a container's /dev not |
//! | EACCES | permissions; a file system that is mounted with `nodev`; a user namespace |
//! | EPERM | the device control group (security/device_cgroup.c); permissions give EACCES |
//! | ENXIO, ENODEV | a node without a driver behind it |
//! | EMFILE, ENFILE | the limit of open files, of the process or of the host |
//! | EBUSY | another process has it open |

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{fmt, fs};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::hostinfo::holders::Holders;
use crate::sys;

/// The cause of a failed open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The kernel has the device under these numbers, and this /dev does not have the node.
    OwnDev(u32, u32),
    /// The kernel does not have the device.
    NoDevice,
    /// The node has no driver behind it.
    NoDriver,
    /// The device control group forbids it.
    ControlGroup,
    /// The node's file system is mounted with `nodev`.
    NoDev,
    /// The node's owner is no user of this process's user namespace.
    UserNamespace,
    /// The permissions of the node forbid it.
    Permissions,
    /// Other processes have it open.
    Busy(Box<Holders>),
    /// This process may open no more files.
    ProcessFiles,
    /// The host can open no more files.
    HostFiles,
    /// Any other errno.
    Other,
}

impl Cause {
    /// Finds out why the node `path` could not be opened. `class` is the directory of the device in
    /// /sys/class, such as `misc/kvm`: its file `dev` has the device's numbers. `busy` are all
    /// nodes of the device.
    pub fn of(path: &str, class: &str, busy: &[&Path], error: &io::Error) -> Self {
        let class = Path::new("/sys/class").join(class);
        Self::find(path, &class, busy, error)
    }

    fn find(path: &str, class: &Path, busy: &[&Path], error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => match numbers(class) {
                Some((major, minor)) => Self::OwnDev(major, minor),
                None => Self::NoDevice,
            },
            Some(libc::EPERM) => Self::ControlGroup,
            Some(libc::EACCES) if sys::is_on_nodev(Path::new(path)) => Self::NoDev,
            Some(libc::EACCES) if is_foreign(path) => Self::UserNamespace,
            Some(libc::EACCES) => Self::Permissions,
            Some(libc::ENXIO | libc::ENODEV) => Self::NoDriver,
            Some(libc::EMFILE) => Self::ProcessFiles,
            Some(libc::ENFILE) => Self::HostFiles,
            Some(libc::EBUSY) => Self::Busy(Box::new(Holders::of(busy))),
            _ => Self::Other,
        }
    }

    /// What confines this process, if it may not use the node `path` although the host has the
    /// device: a control group, a /dev of its own, or a user namespace. The node is not opened.
    pub fn confining(path: &str, class: &Path) -> Option<Self> {
        let wanted = Access::READ_OK | Access::WRITE_OK;
        let error = accessat(CWD, path, wanted, AtFlags::EACCESS).err()?;
        let cause = Self::find(path, class, &[], &error.into());
        let confines = matches!(
            cause,
            Self::OwnDev(..) | Self::ControlGroup | Self::NoDev | Self::UserNamespace
        );
        confines.then_some(cause)
    }

    /// The processes that have the node, if they are the reason.
    pub fn holders(&self) -> Option<&Holders> {
        match self {
            Self::Busy(holders) => Some(holders),
            _ => None,
        }
    }

    /// The remedy, where one is known. `module` is the module behind the node, and `permit` the
    /// command that gives a user the right to open it.
    pub fn hint(&self, path: &str, module: &str, permit: &str) -> Option<String> {
        Some(match self {
            Self::OwnDev(major, minor) => format!(
                "give the node to the container, for example with --device {path} of docker and \
                 podman; or, as root, in this /dev: mknod {path} c {major} {minor}"
            ),
            Self::NoDevice | Self::NoDriver => format!("as root: modprobe {module}"),
            Self::ControlGroup => format!(
                "allow the device: --device {path} of docker and podman, or `DeviceAllow={path} \
                 rw` in the systemd unit"
            ),
            Self::NoDev => format!(
                "give the node to the container from the host's /dev, for example with --device \
                 {path} of docker and podman"
            ),
            Self::UserNamespace => format!(
                "outside of the user namespace, as root: setfacl -m u:$USER:rw {path} (with the \
                 name of the user who made the namespace for $USER)"
            ),
            Self::Permissions => permit.into(),
            Self::Busy(holders) => holders.hint(path),
            Self::ProcessFiles => "raise the limit with `ulimit -n 4096`".into(),
            Self::HostFiles => "as root: sysctl -w fs.file-max=1000000".into(),
            Self::Other => return None,
        })
    }
}

impl fmt::Display for Cause {
    /// The sentence, with a colon before it; empty where the errno's own text says all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::OwnDev(..) => "the kernel has the device, but this /dev does not have the node",
            Self::NoDriver => "no driver is behind the node",
            Self::ControlGroup => "the device control group of this process forbids it",
            Self::NoDev => "the node is on a file system that is mounted with nodev",
            Self::UserNamespace => "its owner is outside of this process's user namespace",
            Self::Busy(holders) => return write!(f, ": {holders}"),
            Self::NoDevice
            | Self::Permissions
            | Self::ProcessFiles
            | Self::HostFiles
            | Self::Other => return Ok(()),
        };
        write!(f, ": {text}")
    }
}

/// The major and the minor number of a device.
fn numbers(class: &Path) -> Option<(u32, u32)> {
    let text = fs::read_to_string(class.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Whether a node belongs to a user that this process's user namespace does not have. The kernel
/// shows such a user as the overflow user (user_namespaces(7)).
fn is_foreign(path: &str) -> bool {
    const OVERFLOW: u32 = 65534;
    let owner = fs::metadata(path).map(|data| data.uid());
    sys::is_in_user_namespace(Path::new("/proc")) && owner.is_ok_and(|owner| owner == OVERFLOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_errno_has_its_cause() {
        let cause = |path: &str, errno| {
            let error = io::Error::from_raw_os_error(errno);
            Cause::of(path, "no/class", &[], &error)
        };
        for (errno, expected, says, hint) in [
            (libc::ENOENT, Cause::NoDevice, "", "as root: modprobe M"),
            (
                libc::ENXIO,
                Cause::NoDriver,
                ": no driver is behind the node",
                "as root: modprobe M",
            ),
            (
                libc::EPERM,
                Cause::ControlGroup,
                ": the device control group of this process forbids it",
                "allow the device: --device /dev/N of docker and podman, or \
                 `DeviceAllow=/dev/N rw` in the systemd unit",
            ),
            (libc::EACCES, Cause::Permissions, "", "P"),
            (
                libc::EMFILE,
                Cause::ProcessFiles,
                "",
                "raise the limit with `ulimit -n 4096`",
            ),
            (
                libc::ENFILE,
                Cause::HostFiles,
                "",
                "as root: sysctl -w fs.file-max=1000000",
            ),
        ] {
            let found = cause("/dev/N", errno);
            assert_eq!(found, expected);
            assert_eq!(found.to_string(), says);
            assert_eq!(found.hint("/dev/N", "M", "P").as_deref(), Some(hint));
        }
        assert_eq!(cause("/dev/N", libc::EIO).hint("/dev/N", "M", "P"), None);
    }

    #[test]
    fn only_a_confined_process_is_told_so() {
        let null = Path::new("/sys/class/mem/null");
        assert_eq!(Cause::confining("/dev/null", null), None);
        let away = Cause::confining("/dev/away/null", null);
        assert_eq!(away, Some(Cause::OwnDev(1, 3)));
        // A device that the host does not have is no matter of confinement.
        assert_eq!(
            Cause::confining("/dev/away/null", Path::new("/sys/nowhere")),
            None
        );
    }

    /// /dev/null is 1:3 in every kernel, and its class directory is `mem/null`.
    #[test]
    fn a_device_without_its_node_is_known_by_sysfs() {
        let error = io::Error::from_raw_os_error(libc::ENOENT);
        let found = Cause::of("/dev/away/null", "mem/null", &[], &error);
        assert_eq!(found, Cause::OwnDev(1, 3));
        let hint = found.hint("/dev/away/null", "M", "P").unwrap();
        assert!(hint.ends_with("mknod /dev/away/null c 1 3"), "{hint}");
    }
}
