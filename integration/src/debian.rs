//! Disk images with Debian's root file system, made by mmdebstrap from the mirrors of the machine's
//! own package lists. An image is kept in a cache outside of the source tree; with it, the lab
//! needs neither mmdebstrap nor a network. The lab installs nothing.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Context, Error, Result};
use crate::host;
use crate::kernel::{self, lock};
use crate::progress::Step;

/// A root file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Root {
    /// The packages beside the essential ones, with commas between. [`NEWEST`] stands for a kernel.
    pub packages: &'static str,
    /// The image's size in MiB. Blocks without data take no room.
    pub size: u32,
}

/// A system without a kernel. systemd-logind, which hears the power button, is a part of systemd;
/// it finds the button by udev, and is asked by D-Bus.
pub const GUEST: Root = Root {
    packages: "systemd-sysv,udev,dbus",
    size: 448,
};

/// A system with an initramfs and the release's kernel for all machines: in the one for clouds, the
/// NVMe driver is built in.
pub const HOST: Root = Root {
    packages: "systemd-sysv,udev,dbus,kmod,zstd,initramfs-tools,linux-image-amd64",
    size: 1280,
};

/// Slurm's daemons and commands, and what authenticates them.
pub const SLURM: Root = Root {
    packages: "slurmctld,slurmd,slurm-client,munge",
    size: 768,
};

/// A system with the newest kernel for all machines, whose drivers are packed modules. Debian 12's
/// own kernel has modules that are not packed; the updates of Debian 12 have a newer kernel beside
/// that one.
pub const NEWEST_KERNEL: Root = Root {
    packages: "kmod,initramfs-tools,linux-image-*-amd64",
    size: 1024,
};

/// The tool that makes RAIDs.
pub const RAID: Root = Root {
    packages: "mdadm",
    size: 448,
};

/// A container engine that reads CDI specifications, and the runtime that it starts.
pub const CONTAINERS: Root = Root {
    packages: "podman,runc",
    size: 1024,
};

/// Stands for the newest kernel for all machines that the machine's package lists name.
const NEWEST: &str = "linux-image-*-amd64";

/// Runs in mmdebstrap's root directory `$1`, as root there. The journal is kept on the disk. With a
/// machine ID, the boot is no first boot, which takes longer. The file system is made from a second
/// mount, which does not show the mounts that mmdebstrap has made inside.
const FILL: &str = "\
set -e
mkdir -p \"$1/var/log/journal\"
echo 6d696e692d766d6d6c61622d64656269 >\"$1/etc/machine-id\"
echo debian-guest >\"$1/etc/hostname\"
mount --bind \"$1\" \"$1/mnt\"
mke2fs -q -t ext4 -L root -d \"$1/mnt\" \"$LAB_IMAGE\" \"$LAB_SIZE\"
umount \"$1/mnt\"";

/// Parts of the packages that no guest of the lab reads.
const LEFT_OUT: [&str; 4] = ["doc", "info", "locale", "man"];

/// Returns the image, from the cache if possible.
///
/// # Errors
/// mmdebstrap or the mirror is missing, which is a reason to skip.
pub fn image(root: Root) -> Result<PathBuf> {
    let cache = host::cache()?.join("debian");
    fs::create_dir_all(&cache).context(format!("make {}", cache.display()))?;
    let image = cache.join(format!("root-{:016x}.ext4", recipe(root)));
    // Two labs must not make the same image at the same time.
    let _lock = lock::take(&cache.join("root.lock"))?;
    if image.is_file() {
        return Ok(image);
    }
    let part = cache.join("root.part");
    let _ = fs::remove_file(&part);
    let made = make(root, &part);
    if made.is_err() {
        let _ = fs::remove_file(&part);
    }
    made?;
    fs::rename(&part, &image).context(format!("rename {}", part.display()))?;
    Ok(image)
}

/// A hash of what makes the image. An image of another recipe is not used.
fn recipe(root: Root) -> u64 {
    let mut hasher = DefaultHasher::new();
    (root, FILL, LEFT_OUT).hash(&mut hasher);
    hasher.finish()
}

fn make(root: Root, image: &Path) -> Result<()> {
    for (program, package) in [("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs")] {
        if host::program(program).is_none() {
            return Err(Error::cannot_run(
                format!("this machine lacks {program}, which makes Debian's root file system"),
                format!("make deps, or as root: apt-get install {package}"),
            ));
        }
    }
    let (codename, mirrors) = source(root)?;
    let packages = match root.packages.contains(NEWEST) {
        true => root.packages.replace(NEWEST, &kernel::newest_image()?),
        false => root.packages.to_owned(),
    };
    let step = Step::start("making Debian's root file system, once");
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=essential", "--format=null"]);
    command.arg(format!("--include={packages}"));
    command.arg("--aptopt=Apt::Install-Recommends \"false\"");
    for name in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{name}/*"));
    }
    command.arg(format!("--customize-hook={FILL}"));
    command.args([&codename, "-"]).args(mirrors);
    command.env("LAB_IMAGE", image);
    command.env("LAB_SIZE", format!("{}M", root.size));
    host::output(&mut command).map_err(|error| {
        Error::cannot_run(
            format!("Debian's root file system could not be made: {error}"),
            "check the network and the machine's package lists, then: apt-get update",
        )
    })?;
    step.done();
    Ok(())
}

/// The release of the machine's own package lists, and the mirrors of a root file system: those of
/// the release, and with the newest kernel those of its updates, too.
fn source(root: Root) -> Result<(String, Vec<String>)> {
    let missing = |why: String| {
        Error::cannot_run(
            format!("no mirror of Debian is known: {why}"),
            "run the lab on Debian 12 or newer, after apt-get update",
        )
    };
    let targets = host::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(CODENAME)",
        "Created-By: Packages",
        "Origin: Debian",
        "Component: main",
    ]))
    .map_err(|error| missing(error.to_string()))?;
    let (mirror, codename) = first_release(&targets)
        .ok_or_else(|| missing("the machine's package lists are not Debian's".into()))?;
    let mirrors = match root.packages.contains(NEWEST) {
        true => all_of(&codename, &targets),
        false => vec![mirror],
    };
    Ok((codename, mirrors))
}

/// The first line that names a whole release, not its updates.
fn first_release(targets: &str) -> Option<(String, String)> {
    let mut pairs = targets.lines().filter_map(|line| line.split_once(' '));
    let (mirror, codename) = pairs.find(|(_, codename)| !codename.contains('-'))?;
    Some((mirror.to_owned(), codename.trim().to_owned()))
}

/// A release and its updates, as lines of sources.list(5).
fn all_of(codename: &str, targets: &str) -> Vec<String> {
    let pairs = targets
        .lines()
        .filter_map(|line| line.trim().split_once(' '));
    let of_release = pairs.filter(|(_, suite)| {
        let rest = suite.strip_prefix(codename);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    });
    of_release
        .map(|(mirror, suite)| format!("deb {mirror} {suite} main"))
        .collect()
}

/// Copies a file out of an image.
///
/// # Errors
/// There is no such file.
pub fn copy_out(image: &Path, from: &str, to: &Path) -> Result<()> {
    let mut debugfs = Command::new("debugfs");
    let request = format!("dump {from} {}", to.display());
    host::output(debugfs.args(["-R", &request]).arg(image))?;
    // debugfs reports no failure by its status.
    let size = fs::metadata(to).map_or(0, |meta| meta.len());
    if size == 0 {
        let image = image.display();
        return Err(Error::failed(format!("{image} has no file {from}")));
    }
    Ok(())
}

/// Checks that the file system in an image needs no repair: a guest that was switched off leaves
/// its journal, and fsck finds nothing.
///
/// # Errors
/// The state that it has instead.
pub fn check_clean(image: &Path) -> Result<()> {
    let facts = host::output(Command::new("dumpe2fs").arg("-h").arg(image))?;
    let field = |name: &str| {
        let mut lines = facts.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default().trim().to_owned()
    };
    let (state, features) = (field("Filesystem state"), field("Filesystem features"));
    if state != "clean" || features.contains("needs_recovery") {
        return Err(Error::failed(format!(
            "the root file system is {state}, with the features {features}"
        )));
    }
    host::output(Command::new("e2fsck").arg("-fn").arg(image)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_the_machines() {
        let targets = "http://mirror.example/debian/ bookworm-updates\n\
                       http://mirror.example/debian/ bookworm\n\
                       http://mirror.example/debian/ trixie\n";
        let found = first_release(targets).unwrap();
        assert_eq!(found.0, "http://mirror.example/debian/");
        assert_eq!(found.1, "bookworm");
        assert_eq!(first_release("\n"), None);
        assert_eq!(
            all_of("bookworm", targets),
            [
                "deb http://mirror.example/debian/ bookworm-updates main",
                "deb http://mirror.example/debian/ bookworm main",
            ]
        );
    }

    /// An image that was not unmounted is told from one that was.
    #[test]
    fn a_file_system_in_use_is_not_clean() {
        if host::program("mke2fs").is_none() || host::program("debugfs").is_none() {
            let why = "mke2fs is not installed (package e2fsprogs)";
            assert!(!host::required(), "{why}");
            eprintln!("SKIPPED: {why}");
            return;
        }
        let path = std::env::temp_dir().join(format!("lab-ext4-{}", std::process::id()));
        let mut make = Command::new("mke2fs");
        host::output(make.args(["-q", "-t", "ext4"]).arg(&path).arg("8M")).unwrap();
        check_clean(&path).unwrap();
        let mut change = Command::new("debugfs");
        change.args(["-w", "-R", "feature needs_recovery"]);
        host::output(change.arg(&path)).unwrap();
        let error = check_clean(&path).unwrap_err().to_string();
        assert!(error.contains("needs_recovery"), "{error}");
        fs::remove_file(&path).unwrap();
    }
}
