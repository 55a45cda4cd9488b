//! What another VMM has in its turn: the device, the disk or a macvtap of the port; and how it goes
//! back. If this program is killed, `host unbind` gives a device back that is bound, and the rest
//! goes back by itself.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::network::macvtap::{self, Macvtap};
use crate::subjects::bound::Bound;
use crate::subjects::host;
use crate::subjects::line::Given;
use crate::subjects::peer::{Peer, Way};
use crate::subjects::program::Program;
use crate::work::task::Task;

/// What a VMM has. It goes back when this is dropped.
pub(super) enum Held<'a> {
    /// The device, bound to vfio-pci.
    Device(Bound<'a>),
    /// The disk, by its node. While it is open, nobody else gets it (open(2), O_EXCL), and no other
    /// disk gets its name.
    Disk(File, PathBuf),
    /// A macvtap of the port, and vhost's file.
    Port(Macvtap, Option<OwnedFd>),
}

impl<'a> Held<'a> {
    /// Takes what a VMM's guest shall have: of the device at `address` with the directory `device`
    /// in sysfs, which `binder`, a mini-vmm, binds if need be.
    ///
    /// # Errors
    /// The kernel refuses, or the device is not with the host's driver.
    pub(super) fn take(
        peer: Peer,
        (binder, address): (&'a Program, &'a str),
        device: &Path,
        task: &Task,
    ) -> Result<Self> {
        Ok(match peer.way() {
            Way::Device => Self::Device(Bound::take(binder, address)?),
            Way::Disk => {
                let disk = host::wait_for_disk(device, task)?;
                Self::Disk(disk.open(None)?, disk.node())
            }
            Way::Port => {
                let vhost = match peer {
                    Peer::QemuVhost => Some(macvtap::open_vhost()?),
                    _ => None,
                };
                Self::Port(host::lend_as_macvtap(device)?, vhost)
            }
        })
    }

    /// The same for a command line.
    ///
    /// # Errors
    /// The macvtap has gone.
    pub(super) fn given(&self) -> Result<Given<'_>> {
        Ok(match self {
            Self::Device(_) => Given::Device,
            Self::Disk(_, node) => Given::Disk(node),
            Self::Port(tap, vhost) => Given::Port {
                tap: tap.file()?,
                vhost: vhost.as_ref().map(AsRawFd::as_raw_fd),
            },
        })
    }

    /// Gives it back.
    ///
    /// # Errors
    /// It does not go back.
    pub(super) fn give_back(self) -> Result<()> {
        match self {
            Self::Device(bound) => bound.give_back(),
            Self::Disk(file, _) => {
                drop(file);
                Ok(())
            }
            Self::Port(tap, vhost) => {
                drop(vhost);
                tap.give_back()
            }
        }
    }
}
