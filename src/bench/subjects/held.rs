//! What another VMM has in its turn: the device, the disk or a macvtap of the port; and how it goes
//! back. If this program is killed, `host unbind` gives a device back that is bound, and the rest
//! goes back by itself.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Context, Error, Result};
use crate::network::macvtap::{self, Macvtap};
use crate::say;
use crate::subjects::host;
use crate::subjects::line::Given;
use crate::subjects::peer::{Peer, Way};
use crate::subjects::program::Program;
use crate::work::task::Task;

/// What `mini-vmm host unbind` says of a device that is with the host's driver.
const NOT_BOUND: &str = "is not bound";

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

/// The device, bound to vfio-pci. It goes back when this is dropped.
pub(super) struct Bound<'a> {
    binder: &'a Program,
    address: &'a str,
    is_bound: bool,
}

impl<'a> Bound<'a> {
    fn take(binder: &'a Program, address: &'a str) -> Result<Self> {
        let mut bound = Self {
            binder,
            address,
            is_bound: false,
        };
        match bound.host("bind") {
            Ok(()) => {
                bound.is_bound = true;
                Ok(bound)
            }
            // A bind that was killed, or that has failed half-way, may have left something. The
            // error of `host unbind` for a device that is not bound says so.
            Err(error) => Err(match bound.host("unbind") {
                Err(e) if !e.details().iter().any(|line| line.contains(NOT_BOUND)) => {
                    error.with_hint(bound.hint())
                }
                _ => error,
            }),
        }
    }

    fn give_back(mut self) -> Result<()> {
        self.is_bound = false;
        self.host("unbind").map_err(|e| e.with_hint(self.hint()))
    }

    /// What to type if the device does not go back.
    fn hint(&self) -> String {
        format!("mini-vmm host unbind {}", self.address)
    }

    /// Runs `mini-vmm host bind` or `unbind`. Ctrl-C on the terminal does not reach it.
    fn host(&self, what: &str) -> Result<()> {
        use std::os::unix::process::CommandExt;
        let output = Command::new(&self.binder.path)
            .args(["host", what, self.address])
            .stdin(Stdio::null())
            .process_group(0)
            .output()
            .context(format!("cannot run {}", self.binder.path.display()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let words = format!("`mini-vmm host {what} {}` has failed", self.address);
        Err(Error::new(words).with_details(said.lines().map(str::to_owned)))
    }
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        if self.is_bound
            && let Err(error) = self.host("unbind")
        {
            say::error(&error.with_hint(self.hint()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ADDRESS: &str = "0000:01:00.0";

    /// A program that writes down how it is called. What is named in `fails` fails, and says
    /// `says`.
    fn binder(name: &str, fails: &str, says: &str) -> (Program, PathBuf) {
        let dir = std::env::temp_dir().join(format!("bench-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("mini-vmm");
        let calls = dir.join("calls");
        let text = format!(
            "#!/bin/sh\necho $* >>{}\n\
             case \" {fails} \" in *\" $2 \"*) echo \"{says}\" >&2; exit 1;; esac\n",
            calls.display()
        );
        // A shell writes it: a file that this process writes is open in children of other tests,
        // too, and cannot be run meanwhile.
        let wrote = Command::new("/bin/sh")
            .args(["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\""])
            .args([path.as_os_str(), text.as_ref()])
            .status();
        assert!(wrote.unwrap().success());
        let program = Program {
            path,
            version: String::new(),
            sha256: String::new(),
        };
        (program, calls)
    }

    fn calls(at: &Path) -> Vec<String> {
        let text = fs::read_to_string(at).unwrap();
        fs::remove_dir_all(at.parent().unwrap()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_bind_that_has_failed_is_undone() {
        let left = Some("mini-vmm host unbind 0000:01:00.0");
        let not_bound = ::host::bind::BindError::NotBound(ADDRESS.parse().unwrap()).to_string();
        for (name, fails, says, hint) in [
            ("half", "bind", "", None),
            ("none", "bind unbind", not_bound.as_str(), None),
            ("stuck", "bind unbind", "the driver is busy", left),
        ] {
            let (program, at) = binder(name, fails, says);
            let error = Bound::take(&program, ADDRESS).err().unwrap();
            assert!(error.to_string().contains("host bind"), "{error}");
            assert_eq!(error.hint(), hint);
            let wanted = ["host bind 0000:01:00.0", "host unbind 0000:01:00.0"];
            assert_eq!(calls(&at), wanted);
        }
    }

    #[test]
    fn a_device_that_does_not_go_back_is_told_with_the_remedy() {
        let (program, at) = binder("back", "unbind", "");
        let bound = Bound::take(&program, ADDRESS).unwrap();
        let error = bound.give_back().unwrap_err();
        assert_eq!(error.hint(), Some("mini-vmm host unbind 0000:01:00.0"));
        assert_eq!(calls(&at).len(), 2);
    }
}
