//! A macvtap over a port: a file, of which each read is a packet that the port has received, and of
//! which each write is sent (linux/if_link.h, MACVLAN_MODE_PASSTHRU; drivers/net/tap.c). A VMM
//! gives it to its guest as a network card, while the port stays with the host's driver. The port
//! is lent for that time, and the macvtap ends with the port's namespace, so a kill leaves nothing.

use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Dev, FileType, Mode, OFlags, makedev, mknodat, open, openat};
use rustix::io::{Errno, read};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::error::{Context, Error, Result};
use crate::network::lent::Lent;
use crate::network::netlink::{Netlink, wait_for_carrier};
use crate::say;

/// The macvtap's name in the port's namespace, where nothing else is made.
const NAME: &str = "bench-tap";

/// The file of vhost's part for network cards (drivers/vhost/net.c).
const VHOST: &str = "dev/vhost-net";

/// What to do if the kernel has no macvtap.
const NO_MACVTAP: &str = "modprobe macvtap; if there is no such module, use a kernel with \
    CONFIG_MACVTAP, or leave qemu-e1000e and qemu-vhost out of --peer";

/// The same for vhost.
const NO_VHOST: &str = "modprobe vhost_net; if there is no such module, use a kernel with \
    CONFIG_VHOST_NET, or leave qemu-vhost out of --peer";

/// A macvtap over a lent port. Both go when this is dropped.
#[derive(Debug)]
pub struct Macvtap {
    lent: Lent,
    is_made: bool,
    file: Option<OwnedFd>,
}

impl Macvtap {
    /// Lends a port to a namespace without an address, and makes a macvtap of it there. Waits for
    /// the carrier.
    ///
    /// # Errors
    /// The kernel refuses, or the time is over.
    pub fn new(port: &str, patience: Duration) -> Result<Self> {
        let mut tap = Self {
            lent: Lent::new(port, None)?,
            is_made: false,
            file: None,
        };
        tap.lent.run(|| {
            let mut netlink = Netlink::open()?;
            let below = netlink.index(port)?;
            add(&mut netlink, below)
        })??;
        tap.is_made = true;
        let device = tap.lent.run(|| {
            let mut netlink = Netlink::open()?;
            let index = netlink.index(NAME)?;
            netlink.set_up(index, true)?;
            wait_for_carrier(&mut netlink, index, patience)?;
            device(index).context("cannot find the node of a macvtap in sysfs")
        })??;
        // In the host's namespace: a macvtap's open file holds that of the thread that opens it.
        let file = open_node(device).context("cannot open the node of a macvtap")?;
        tap.file = Some(file);
        Ok(tap)
    }

    /// The file, which child processes inherit.
    ///
    /// # Errors
    /// There is none, because the macvtap has gone.
    pub fn file(&self) -> Result<RawFd> {
        let file = self.file.as_ref().map(AsRawFd::as_raw_fd);
        file.ok_or_else(|| Error::new("the macvtap has gone"))
    }

    /// Removes the macvtap, and gives the port back.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn give_back(mut self) -> Result<()> {
        self.remove()?;
        self.lent.go_back()
    }

    fn remove(&mut self) -> Result<()> {
        self.file = None;
        if !std::mem::take(&mut self.is_made) {
            return Ok(());
        }
        self.lent.run(|| {
            let mut netlink = Netlink::open()?;
            let index = netlink.index(NAME)?;
            netlink.remove(index)
        })?
    }
}

impl Drop for Macvtap {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            say::error(&error);
        }
    }
}

fn add(netlink: &mut Netlink, below: u32) -> Result<()> {
    let made = netlink.add_macvtap(NAME, below);
    let told = made.context("cannot make a macvtap");
    match made {
        Err(Errno::OPNOTSUPP) => told.map_err(|error| error.with_hint(NO_MACVTAP)),
        _ => told,
    }
}

/// Checks that the kernel `release` can make a macvtap. `root` is /.
///
/// # Errors
/// It has none.
pub fn check(root: &Path, release: &str) -> Result<()> {
    let devices = fs::read_to_string(root.join("proc/devices")).unwrap_or_default();
    let is_loaded = devices.lines().any(|line| line.ends_with(" macvtap"));
    let modules = root.join("lib/modules").join(release).join("modules.dep");
    let modules = fs::read_to_string(modules).unwrap_or_default();
    match is_loaded || modules.contains("/macvtap.ko") {
        true => Ok(()),
        false => Err(Error::new("this kernel has no macvtap").with_hint(NO_MACVTAP)),
    }
}

/// Checks that the kernel has vhost's file. `root` is /.
///
/// # Errors
/// It has none.
pub fn check_vhost(root: &Path) -> Result<()> {
    match root.join(VHOST).exists() {
        true => Ok(()),
        false => Err(Error::new(format!("this kernel has no /{VHOST}")).with_hint(NO_VHOST)),
    }
}

/// Opens vhost's file, which child processes inherit.
///
/// # Errors
/// The kernel refuses.
pub fn open_vhost() -> Result<OwnedFd> {
    let opened = open(Path::new("/").join(VHOST), OFlags::RDWR, Mode::empty());
    let opened = opened.context(format!("cannot open /{VHOST}"));
    opened.map_err(|error| error.with_hint(NO_VHOST))
}

/// The number of the macvtap's node. The sysfs that is mounted at /sys shows the host's namespace
/// only, so another one is made for the calling thread's, which is mounted nowhere.
fn device(index: u32) -> std::result::Result<Dev, Errno> {
    let sys = file_system(c"sysfs")?;
    let path = format!("class/net/{NAME}/tap{index}/dev");
    let file = openat(&sys, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = [0; 32];
    let len = read(&file, &mut text)?;
    let text = std::str::from_utf8(&text[..len]).map_err(|_| Errno::BADMSG)?;
    numbers(text).ok_or(Errno::BADMSG)
}

/// A device's number in the form of sysfs, such as `240:1`.
fn numbers(text: &str) -> Option<Dev> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// Opens a character device by a node of its own: the name /dev/tapN may be another namespace's,
/// because N counts in each.
fn open_node(device: Dev) -> std::result::Result<OwnedFd, Errno> {
    let files = file_system(c"tmpfs")?;
    let (kind, mode) = (FileType::CharacterDevice, Mode::RUSR | Mode::WUSR);
    mknodat(&files, "tap", kind, mode, device)?;
    openat(&files, "tap", OFlags::RDWR, Mode::empty())
}

/// A new file system, which is mounted nowhere and ends with the file (mount_setattr(2) has the
/// calls).
fn file_system(kind: &CStr) -> std::result::Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(context.as_fd(), flags, attributes)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;
    use crate::network::namespace::Namespace;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A port whose macvtap is made, used and removed.
    fn lend() {
        let (ours, theirs) = (Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2));
        Netlink::open().unwrap().add_pair().unwrap();
        let other = Lent::new("veth1", Some((theirs, 30))).unwrap();
        let tap = Macvtap::new("veth0", PATIENCE).unwrap();
        // Nobody knows the hardware address of `ours`, so it is asked for by a broadcast (RFC 826).
        let sent = other.run(|| {
            let socket = UdpSocket::bind((theirs, 0))?;
            socket.send_to(b"hello", (ours, 9))
        });
        assert_eq!(sent.unwrap().unwrap(), 5);
        assert!(hears_question(&tap, ours));
        tap.give_back().unwrap();
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.index("veth0").unwrap();
        assert!(!netlink.is_running(index).unwrap());
        // Nothing is over the port any more, so it can be lent again.
        drop(Macvtap::new("veth0", PATIENCE).unwrap());
        assert!(netlink.index("veth0").is_ok() && netlink.index(NAME).is_err());
        assert!(Macvtap::new("veth7", PATIENCE).is_err());
    }

    /// Whether a question for an address comes; others come before it.
    fn hears_question(tap: &Macvtap, address: Ipv4Addr) -> bool {
        let file = tap.file.as_ref().unwrap();
        let limit = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        while poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&limit)).unwrap() == 1 {
            // Ten bytes of virtio-net's header come first, then two addresses and the type.
            let mut packet = [0; 2048];
            let len = read(file, &mut packet).unwrap();
            let is_question = packet[10 + 12..10 + 14] == [8, 6];
            if is_question && packet[10 + 14..len].ends_with(&address.octets()) {
                return true;
            }
        }
        false
    }

    #[test]
    fn a_macvtap_has_its_port_s_packets_and_goes() {
        let host = match Namespace::new() {
            Ok(host) if check(Path::new("/"), "").is_ok() => host,
            other => {
                println!("SKIPPED: {other:?}, or no macvtap");
                return;
            }
        };
        host.run(lend).unwrap();
    }

    #[test]
    fn a_kernel_without_macvtap_or_vhost_is_told() {
        let root = std::env::temp_dir().join(format!("bench-macvtap-{}", std::process::id()));
        let modules = root.join("lib/modules/6.1.0");
        fs::create_dir_all(&modules).unwrap();
        fs::create_dir_all(root.join("proc")).unwrap();
        fs::create_dir_all(root.join("dev")).unwrap();
        let is_there = || check(&root, "6.1.0").is_ok();
        fs::write(root.join("proc/devices"), "Character devices:\n 10 misc\n").unwrap();
        fs::write(modules.join("modules.dep"), "kernel/drivers/net/tap.ko:\n").unwrap();
        assert!(!is_there());
        let hint = check(&root, "6.1.0").unwrap_err();
        assert!(hint.hint().unwrap().contains("modprobe macvtap"));
        fs::write(
            modules.join("modules.dep"),
            "kernel/drivers/net/macvtap.ko.xz:\n",
        )
        .unwrap();
        assert!(is_there());
        fs::remove_file(modules.join("modules.dep")).unwrap();
        fs::write(root.join("proc/devices"), "246 macvtap\n").unwrap();
        assert!(is_there());
        let missing = check_vhost(&root).unwrap_err();
        assert!(missing.hint().unwrap().contains("modprobe vhost_net"));
        fs::write(root.join(VHOST), "").unwrap();
        assert!(check_vhost(&root).is_ok());
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_number_has_the_form_of_sysfs() {
        assert_eq!(numbers("246:1\n"), Some(makedev(246, 1)));
        assert_eq!(numbers("246"), None);
        assert_eq!(numbers(":"), None);
    }
}
