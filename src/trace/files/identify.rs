//! What /proc tells of a descriptor: the link in /proc/PID/fd, and /proc/PID/fdinfo.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use libc::pid_t;

use crate::decode::value::Kind;
use crate::files::open_file::FileKind;

/// The most bytes of a file in /proc or /sys that are read: an epoll file's fdinfo can be long.
const MOST: u64 = 4096;

/// What a descriptor leads to, as far as /proc tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The kind of the file.
    pub kind: FileKind,
    /// The part of its name after the kind: a vCPU's number, a device's address, an eventfd's id.
    pub detail: Option<String>,
}

/// The link of a descriptor. `None` if there is no such descriptor.
pub fn link(tid: pid_t, fd: i32) -> Option<String> {
    let link = fs::read_link(format!("/proc/{tid}/fd/{fd}")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

fn short(path: impl AsRef<Path>) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(MOST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The value of a line of fdinfo, such as `eventfd-id: 7`.
fn field(fdinfo: &str, name: &str) -> Option<String> {
    let mut lines = fdinfo.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(value.trim().to_string())
}

/// Whether /proc shows processes by the numbers that they have here. In a chroot without /proc, and
/// in a namespace of process numbers with the /proc of another, no descriptor can be looked up.
pub fn is_possible() -> bool {
    let own = std::process::id().to_string();
    fs::read_link("/proc/self").is_ok_and(|shown| shown.as_os_str() == own.as_str())
}

/// The process of a thread.
pub fn process(tid: pid_t) -> Option<pid_t> {
    let status = short(format!("/proc/{tid}/status"))?;
    field(&status, "Tgid")?.parse().ok()
}

/// The process that a pidfd is of.
pub fn of_pidfd(tid: pid_t, pidfd: i32) -> Option<pid_t> {
    field(&short(format!("/proc/{tid}/fdinfo/{pidfd}"))?, "Pid")?
        .parse()
        .ok()
}

/// The id of an eventfd, which no other eventfd of the host has at the same time.
pub fn eventfd_id(tid: pid_t, fd: i32) -> Option<String> {
    field(&short(format!("/proc/{tid}/fdinfo/{fd}"))?, "eventfd-id")
}

/// What a descriptor leads to. `None` if it is no file that the trace names.
pub fn look(tid: pid_t, fd: i32) -> Option<Seen> {
    let link = link(tid, fd)?;
    let (kind, detail) = parse(&link)?;
    // Only nodes have a path.
    if link.starts_with('/') && is_path(&short(format!("/proc/{tid}/fdinfo/{fd}"))?) {
        return None;
    }
    let detail = match kind {
        FileKind::Eventfd => eventfd_id(tid, fd),
        FileKind::Calls(Kind::Device) => match detail {
            Some(node) => Some(by_node(&node).unwrap_or(node)),
            // Linux 6.16 and newer tell the path of the device in sysfs.
            None => {
                let info = short(format!("/proc/{tid}/fdinfo/{fd}"))?;
                let path = field(&info, "vfio-device-syspath");
                path.and_then(|path| Some(path.rsplit_once('/')?.1.to_string()))
            }
        },
        FileKind::Calls(_) => detail,
    };
    Some(Seen { kind, detail })
}

/// Whether a descriptor is of a path alone (O_PATH): no call can be made on it. `flags` of fdinfo
/// is octal (proc_pid_fdinfo(5)).
fn is_path(fdinfo: &str) -> bool {
    let flags = field(fdinfo, "flags");
    let flags = flags.and_then(|flags| i32::from_str_radix(&flags, 8).ok());
    flags.is_some_and(|flags| flags & libc::O_PATH != 0)
}

/// The kind that a link tells, and the part of the name in it.
fn parse(link: &str) -> Option<(FileKind, Option<String>)> {
    let known = |kind, detail: Option<&str>| Some((kind, detail.map(String::from)));
    if let Some(name) = link.strip_prefix("anon_inode:") {
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let calls = FileKind::Calls;
        return match name {
            "eventfd" => known(FileKind::Eventfd, None),
            "kvm-vm" => known(calls(Kind::Vm), None),
            "vfio-device" => known(calls(Kind::Device), None),
            // Each driver has a name of its own for the file of a device's state.
            "pds_vfio_lm" => known(calls(Kind::Migration), None),
            name if name.ends_with("_mig") => known(calls(Kind::Migration), None),
            _ => match name.strip_prefix("kvm-vcpu:") {
                Some(number) => known(calls(Kind::Vcpu), Some(number)),
                None if name.contains("stats") && name.starts_with("kvm-") => {
                    known(calls(Kind::KvmOther), Some(name))
                }
                None if name.starts_with("kvm-gmem") => known(calls(Kind::KvmOther), Some(name)),
                None if name.starts_with("kvm-") => known(calls(Kind::KvmDevice), Some(name)),
                None if name.starts_with("iommufd-") => {
                    known(calls(Kind::IommufdOther), Some(name))
                }
                None => None,
            },
        };
    }
    let calls = FileKind::Calls;
    // Guest memory has a file system of its own since Linux 6.18.
    if link == "/[kvm-gmem] (deleted)" {
        return known(calls(Kind::KvmOther), Some("kvm-gmem"));
    }
    match link.strip_prefix("/dev/")? {
        "kvm" => known(calls(Kind::Kvm), None),
        "iommu" => known(calls(Kind::Iommufd), None),
        "vfio/vfio" => known(calls(Kind::Container), None),
        path => match path.strip_prefix("vfio/devices/") {
            Some(node) => known(calls(Kind::Device), Some(node)),
            None => known(calls(Kind::Group), Some(path.strip_prefix("vfio/")?)),
        },
    }
}

/// The address of the device whose node is /dev/vfio/devices/`node`.
fn by_node(node: &str) -> Option<String> {
    if node.contains('/') {
        return None;
    }
    let device = fs::canonicalize(format!("/sys/class/vfio-dev/{node}/device")).ok()?;
    Some(device.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_as_the_kernel_writes_them() {
        let calls =
            |kind, detail: Option<&str>| Some((FileKind::Calls(kind), detail.map(String::from)));
        for (link, expected) in [
            ("/dev/kvm", calls(Kind::Kvm, None)),
            ("anon_inode:kvm-vm", calls(Kind::Vm, None)),
            ("anon_inode:kvm-vcpu:11", calls(Kind::Vcpu, Some("11"))),
            (
                "anon_inode:kvm-vfio",
                calls(Kind::KvmDevice, Some("kvm-vfio")),
            ),
            (
                "anon_inode:kvm-vm-stats",
                calls(Kind::KvmOther, Some("kvm-vm-stats")),
            ),
            (
                "anon_inode:[kvm-gmem]",
                calls(Kind::KvmOther, Some("kvm-gmem")),
            ),
            (
                "/[kvm-gmem] (deleted)",
                calls(Kind::KvmOther, Some("kvm-gmem")),
            ),
            ("anon_inode:mtty_mig", calls(Kind::Migration, None)),
            ("anon_inode:pds_vfio_lm", calls(Kind::Migration, None)),
            ("/dev/vfio/vfio", calls(Kind::Container, None)),
            ("/dev/vfio/12", calls(Kind::Group, Some("12"))),
            ("/dev/vfio/noiommu-3", calls(Kind::Group, Some("noiommu-3"))),
            (
                "/dev/vfio/devices/vfio4",
                calls(Kind::Device, Some("vfio4")),
            ),
            ("anon_inode:[vfio-device]", calls(Kind::Device, None)),
            ("/dev/iommu", calls(Kind::Iommufd, None)),
            ("anon_inode:[eventfd]", Some((FileKind::Eventfd, None))),
            ("anon_inode:[eventpoll]", None),
            ("/dev/null", None),
            ("/home/kvm", None),
            ("socket:[1234]", None),
        ] {
            assert_eq!(parse(link), expected, "{link}");
        }
    }

    #[test]
    fn a_thread_has_its_process() {
        let own = std::process::id() as pid_t;
        assert_eq!(process(own), Some(own));
        assert_eq!(process(-1), None);
        assert!(is_possible());
    }

    #[test]
    fn lines_of_fdinfo() {
        let info = "pos:\t0\nflags:\t02\nmnt_id:\t15\neventfd-count:  3\neventfd-id: 7\n";
        assert_eq!(field(info, "eventfd-id").as_deref(), Some("7"));
        assert_eq!(field(info, "eventfd"), None);
        assert!(!is_path(info));
        assert!(is_path("pos:\t0\nflags:\t012000000\nmnt_id:\t15\n"));
    }

    #[test]
    fn a_descriptor_of_a_path_is_no_file() {
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::OpenOptionsExt;

        let own = std::process::id() as pid_t;
        let node = "/dev/kvm";
        if !Path::new(node).exists() {
            return println!("SKIPPED: there is no {node}");
        }
        let mut options = fs::OpenOptions::new();
        let path = options.read(true).custom_flags(libc::O_PATH);
        let path = path.open(node).unwrap();
        assert_eq!(look(own, path.as_raw_fd()), None);
    }
}
