//! The files of persistent devices below /etc.

use std::path::{Path, PathBuf};
use std::{fs, io};

use pci::Bdf;
use tracing::warn;

use crate::paths::HostPaths;
use crate::persist::device::{Persistent, Presence};
use crate::persist::{initramfs, rule};
use crate::whole_file;

/// The name of a rule's file is this, the address, and `.rules`. The number is before that of every
/// rule that loads a driver.
const BEFORE: &str = "05-mini-vmm-";
const AFTER: &str = ".rules";

/// The reason why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// A file cannot be read, written or removed.
    #[error("cannot {verb} {}", path.display())]
    File {
        /// The call.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// A file has another text than this program writes.
    #[error("{} is not a rule that this mini-vmm has written", .0.display())]
    BadRule(PathBuf),
    /// The kernel's names have characters that cannot be quoted.
    #[error("PCI device {0} has no identity that a rule of udev can name")]
    Odd(Bdf),
    /// No program runs before the host's driver has the device.
    #[error(
        "PCI device {bdf} cannot be bound at each boot: its driver {driver} is a part of the \
         kernel, and takes the device before udev runs"
    )]
    BuiltIn {
        /// The device.
        bdf: Bdf,
        /// Its driver.
        driver: String,
    },
    /// Another device was made persistent at the address.
    #[error("the device at {bdf} is not the one that `host bind --persist` named: {difference}")]
    Other {
        /// The address.
        bdf: Bdf,
        /// How the devices differ.
        difference: String,
    },
    /// The initramfs could not be made anew.
    #[error("the initramfs was not renewed: {command} failed")]
    Initramfs {
        /// The command.
        command: String,
        /// The last line that the command printed.
        source: io::Error,
    },
}

impl PersistError {
    /// The remedy to type.
    pub fn hint(&self) -> String {
        match self {
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "only root may do this: put sudo before the command".into()
            }
            Self::File { path, .. } => {
                let folder = path.parent().unwrap_or(path);
                format!("{} must be a folder that can be written", folder.display())
            }
            Self::BadRule(path) => format!("as root: rm {}", path.display()),
            Self::Odd(bdf) => format!("see `cat /sys/bus/pci/devices/{bdf}/modalias`"),
            Self::BuiltIn { bdf, .. } => format!(
                "bind it after each boot, as root: mini-vmm host bind {bdf}; a unit of systemd can \
                 do that, and a run with `--vfio {bdf},managed=on` too"
            ),
            Self::Other { bdf, .. } => format!(
                "forget the earlier one, as root: mini-vmm host unbind {bdf} --persist; then bind \
                 again"
            ),
            Self::Initramfs { command, .. } => format!("as root: {command}"),
        }
    }
}

/// A change of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The file gets this text.
    Write {
        /// The file.
        path: PathBuf,
        /// Its text.
        text: String,
        /// Its permissions.
        mode: u32,
    },
    /// The file is removed.
    Remove(PathBuf),
    /// The initramfs of all kernels is made anew.
    Update,
}

impl Change {
    /// The equivalent shell commands, a line each.
    pub fn commands(&self) -> Vec<String> {
        match self {
            Self::Write { path, text, mode } => {
                let path = path.display();
                let first = format!("cat > {path} <<'EOF'");
                let last = ["EOF".into(), format!("chmod {mode:o} {path}")];
                let lines = text.lines().map(String::from);
                [first].into_iter().chain(lines).chain(last).collect()
            }
            Self::Remove(path) => vec![format!("rm {}", path.display())],
            Self::Update => vec![initramfs::UPDATE.join(" ")],
        }
    }

    /// Makes the change of a file. `Update` is the caller's.
    ///
    /// # Errors
    /// The errno.
    pub fn make(&self) -> Result<(), PersistError> {
        match self {
            Self::Write { path, text, mode } => {
                whole_file::write(path, text, *mode).map_err(trouble("write", path))
            }
            Self::Remove(path) => match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(trouble("remove", path)(e)),
                _ => Ok(()),
            },
            Self::Update => Ok(()),
        }
    }
}

/// The files of this host, or of a made-up one.
#[derive(Clone, Debug)]
pub struct Files {
    etc: PathBuf,
}

impl Files {
    /// The files below the host's /etc.
    pub fn of(paths: &HostPaths) -> Self {
        Self {
            etc: paths.etc.clone(),
        }
    }

    fn rules(&self) -> PathBuf {
        self.etc.join("udev/rules.d")
    }

    /// The rule of the device at an address, whether there is one or not.
    pub fn rule(&self, bdf: Bdf) -> PathBuf {
        self.rules().join(format!("{BEFORE}{bdf}{AFTER}"))
    }

    fn hook(&self) -> PathBuf {
        self.etc.join(initramfs::HOOK)
    }

    /// The addresses that have a rule, in order.
    fn addresses(&self) -> Result<Vec<Bdf>, PersistError> {
        let folder = self.rules();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(trouble("read", &folder)(e)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(trouble("read", &folder))?.file_name();
            let address = name
                .to_str()
                .and_then(|n| n.strip_prefix(BEFORE)?.strip_suffix(AFTER));
            found.extend(address.and_then(|address| address.parse::<Bdf>().ok()));
        }
        found.sort();
        Ok(found)
    }

    /// All persistent devices. A rule that cannot be read is left out, with a warning.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn all(&self) -> Result<Vec<Persistent>, PersistError> {
        let mut found = Vec::new();
        for bdf in self.addresses()? {
            match self.find(bdf) {
                Ok(device) => found.extend(device),
                Err(e) => warn!("{e}; hint: {}", e.hint()),
            }
        }
        Ok(found)
    }

    /// The persistent device of an address.
    ///
    /// # Errors
    /// The rule cannot be read, or is none of this program's.
    pub fn find(&self, bdf: Bdf) -> Result<Option<Persistent>, PersistError> {
        let path = self.rule(bdf);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(trouble("read", &path)(e)),
        };
        let device = rule::parse(&text).filter(|device| device.device == bdf);
        device.map(Some).ok_or(PersistError::BadRule(path))
    }

    /// Refuses to make a device persistent in another one's stead.
    ///
    /// # Errors
    /// See above, or the rule cannot be read.
    pub fn check(&self, device: &Persistent) -> Result<(), PersistError> {
        if !rule::is_plain(device) {
            return Err(PersistError::Odd(device.device));
        }
        let Some(before) = self.find(device.device)? else {
            return Ok(());
        };
        match before.difference(device) {
            Presence::Other(difference) => Err(PersistError::Other {
                bdf: device.device,
                difference,
            }),
            _ => Ok(()),
        }
    }

    /// The changes that make devices persistent.
    pub fn changes(&self, devices: &[Persistent]) -> Vec<Change> {
        let rules = devices.iter().filter_map(|device| {
            Some(Change::Write {
                path: self.rule(device.device),
                // Only a text that is no Unicode cannot be written as JSON.
                text: rule::text(device).ok()?,
                mode: 0o644,
            })
        });
        let mut changes: Vec<_> = rules.collect();
        if self.has_initramfs_tools() && !changes.is_empty() {
            changes.push(Change::Write {
                path: self.hook(),
                text: initramfs::TEXT.into(),
                mode: 0o755,
            });
            changes.push(Change::Update);
        }
        changes
    }

    /// The changes that make devices no longer persistent. The hook goes with the last rule.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn changes_back(&self, bdfs: &[Bdf]) -> Result<Vec<Change>, PersistError> {
        let (gone, left): (Vec<_>, Vec<_>) = self
            .addresses()?
            .into_iter()
            .partition(|bdf| bdfs.contains(bdf));
        let mut changes: Vec<_> = gone
            .iter()
            .map(|bdf| Change::Remove(self.rule(*bdf)))
            .collect();
        if changes.is_empty() {
            return Ok(changes);
        }
        if left.is_empty() && self.hook().exists() {
            changes.push(Change::Remove(self.hook()));
        }
        if self.has_initramfs_tools() {
            changes.push(Change::Update);
        }
        Ok(changes)
    }

    /// The command that makes the initramfs anew, on a host that has it.
    pub fn update(&self) -> Option<&'static [&'static str]> {
        self.has_initramfs_tools().then_some(&initramfs::UPDATE[..])
    }

    fn has_initramfs_tools(&self) -> bool {
        self.etc.join("initramfs-tools").is_dir()
    }
}

fn trouble(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PersistError {
    let path = path.to_owned();
    move |source| PersistError::File { verb, path, source }
}
