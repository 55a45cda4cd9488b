//! Uses of a device's disks: mounts, swap space, block devices stacked on them, open files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use vmm::hostinfo::sysfs::Sysfs;

use crate::in_use::exports;
use crate::in_use::lookup::{Below, names, text};
use crate::in_use::usage::Use;
use crate::nodes::Node;
use crate::open_files::{Files, Open};
use crate::paths::HostPaths;

/// `open`: the open files of all processes. `probe`: whether disks that seem to be free are opened.
pub(super) fn uses(
    sysfs: &Sysfs,
    paths: &HostPaths,
    below: &Below,
    open: &[Open],
    probe: bool,
) -> io::Result<Vec<Use>> {
    let disks = Disks::find(sysfs, below)?;
    let mut uses = mounts(&disks, paths)?;
    uses.extend(swaps(&disks, paths)?);
    let busy: BTreeSet<String> = uses
        .iter()
        .filter_map(|u| match u {
            Use::Mounted { disk, .. } | Use::Swap { disk } => Some(disk.clone()),
            _ => None,
        })
        .collect();
    for (name, by) in &disks.held {
        // If the holder is mounted or used as swap space, it is in the list already.
        if !busy.contains(by) {
            uses.push(Use::Held {
                disk: name.clone(),
                by: Some(by.clone()),
            });
        }
    }
    uses.extend(exported(sysfs, &disks, paths)?);
    let open = opened(&disks, paths, open);
    if probe && uses.is_empty() && open.is_empty() {
        uses.extend(disks.ids.keys().filter_map(|name| taken(paths, name)));
    }
    uses.extend(open);
    Ok(uses)
}

/// The block devices below a device, their partitions, and all block devices stacked on those.
#[derive(Debug, Default)]
struct Disks {
    /// The number `major:minor` of each name.
    ids: BTreeMap<String, String>,
    /// The device mapper's names, such as `vg-root`, and the names that sysfs uses, such as `dm-0`.
    mapped_names: BTreeMap<String, String>,
    /// Pairs of a block device and a block device that is stacked on it.
    held: Vec<(String, String)>,
    /// Pairs of a disk and its btrfs file system. mountinfo shows only the first disk of a file
    /// system.
    pools: Vec<(String, String)>,
}

impl Disks {
    fn find(sysfs: &Sysfs, below: &Below) -> io::Result<Self> {
        let class = sysfs.path("class/block");
        let mut disks = Self::default();
        let mut found = Vec::new();
        for name in names(&class)? {
            let path = class.join(&name);
            if below.has(&path) || shared_namespace(sysfs, below, &path)? {
                found.push(name);
            }
        }
        let loops = loops(&class)?;
        while let Some(name) = found.pop() {
            if disks.ids.contains_key(&name) {
                continue;
            }
            let path = class.join(&name);
            let id = text(&path.join("dev"))?.trim().to_owned();
            disks.ids.insert(name.clone(), id);
            if let Ok(mapped) = fs::read_to_string(path.join("dm/name")) {
                disks
                    .mapped_names
                    .insert(mapped.trim().to_owned(), name.clone());
            }
            let holders = names(&path.join("holders"))?.into_iter();
            let on_it = loops.iter().filter(|(_, on)| *on == node(&name));
            for holder in holders.chain(on_it.map(|(name, _)| name.clone())) {
                disks.held.push((name.clone(), holder.clone()));
                found.push(holder);
            }
        }
        let btrfs = sysfs.path("fs/btrfs");
        for pool in names(&btrfs)? {
            for disk in names(&btrfs.join(&pool).join("devices"))? {
                if disks.ids.contains_key(&disk) {
                    disks.pools.push((disk, pool.clone()));
                }
            }
        }
        disks.held.sort();
        Ok(disks)
    }

    /// Finds a disk's name in sysfs by a path from /proc or by the disk's number.
    fn name(&self, path: &str, id: &str) -> Option<&String> {
        let name = path.strip_prefix("/dev/").unwrap_or(path);
        let mapped = name.strip_prefix("mapper/").unwrap_or(name);
        self.ids
            .iter()
            .find(|(n, i)| n.as_str() == name || (!id.is_empty() && i.as_str() == id))
            .map(|(n, _)| n)
            .or_else(|| self.mapped_names.get(mapped))
    }
}

/// A block device's path below /dev. In sysfs, the path's slashes are replaced by `!`.
fn node(name: &str) -> String {
    name.replace('!', "/")
}

/// Loop devices whose backing file is below /dev. The kernel does not list a loop device as a
/// holder of the disk, because drivers/block/loop.c opens the file as any program does
/// (Documentation/ABI/testing/sysfs-block-loop: `backing_file`).
fn loops(class: &Path) -> io::Result<Vec<(String, String)>> {
    let mut loops = Vec::new();
    for name in names(class)? {
        let file = text(&class.join(&name).join("loop/backing_file")).unwrap_or_default();
        if let Some(on) = file.trim_end_matches('\n').strip_prefix("/dev/") {
            loops.push((name, on.to_owned()));
        }
    }
    Ok(loops)
}

/// Finds processes that have a disk open without O_EXCL. The kernel has no list of such processes,
/// and an exclusive open succeeds in spite of them.
fn opened(disks: &Disks, paths: &HostPaths, open: &[Open]) -> Vec<Use> {
    let own = disks
        .ids
        .keys()
        .map(|name| (paths.dev.join(node(name)), name));
    let mapped = disks
        .mapped_names
        .iter()
        .map(|(mapped, name)| (paths.dev.join("mapper").join(mapped), name));
    let nodes: BTreeMap<PathBuf, &String> = own.chain(mapped).collect();
    let numbers = disks.ids.values().filter_map(|id| Node::block(id));
    let files = nodes.keys().cloned().map(Node::Path).chain(numbers);
    let files = Files::of(files.collect());
    let uses = files.among(open).map(|open| {
        // A container may have the node at another path.
        let node = open.path.strip_prefix("/dev").unwrap_or(&open.path);
        let disk = nodes.get(&open.path).map(|name| (*name).clone());
        Use::Open {
            disk: disk.unwrap_or_else(|| node.display().to_string()),
            process: open.process,
            name: open.name.clone(),
        }
    });
    let mut uses: Vec<_> = uses.collect();
    uses.dedup();
    uses
}

/// Whether a block device is an NVMe namespace that several controllers share, one of which is
/// below the device. The directory of a shared namespace is below the NVMe subsystem, not below a
/// controller (drivers/nvme/host/multipath.c).
fn shared_namespace(sysfs: &Sysfs, below: &Below, block: &Path) -> io::Result<bool> {
    let Ok(real) = fs::canonicalize(block) else {
        return Ok(false);
    };
    let subsystem = real
        .components()
        .filter_map(|c| c.as_os_str().to_str())
        .find(|c| c.starts_with("nvme-subsys") && *c != "nvme-subsystem");
    let Some(subsystem) = subsystem else {
        return Ok(false);
    };
    let dir = sysfs.path("class/nvme-subsystem").join(subsystem);
    let mut controllers = names(&dir)?.into_iter().map(|name| dir.join(name));
    Ok(controllers.any(|path| below.has(&path)))
}

/// Finds mounted file systems (proc_pid_mountinfo(5)): the mounts of this process, and the mounts
/// of process 1 if the file can be read.
fn mounts(disks: &Disks, paths: &HostPaths) -> io::Result<Vec<Use>> {
    let mut uses = Vec::new();
    let mut mounted_pools = BTreeSet::new();
    let own = text(&paths.proc.join("self/mountinfo"))?;
    let first = text(&paths.proc.join("1/mountinfo")).unwrap_or_default();
    for line in own.lines().chain(first.lines()) {
        // ID, parent, major:minor, root, mount point, options, optional fields, "-", type, source
        let mut fields = line.split(' ');
        let (Some(id), Some(at)) = (fields.nth(2), fields.nth(1)) else {
            continue;
        };
        let source = fields
            .by_ref()
            .skip_while(|f| *f != "-")
            .nth(2)
            .unwrap_or_default();
        if let Some(disk) = disks.name(source, id) {
            let mounted = Use::Mounted {
                disk: disk.clone(),
                at: unescape(at),
            };
            mounted_pools.extend(disks.pools.iter().filter(|p| p.0 == *disk).map(|p| &p.1));
            if !uses.contains(&mounted) {
                uses.push(mounted);
            }
        }
    }
    for (disk, pool) in &disks.pools {
        if !mounted_pools.contains(pool) {
            uses.push(Use::Held {
                disk: disk.clone(),
                by: None,
            });
        }
    }
    Ok(uses)
}

/// Swap space (proc_swaps(5)).
fn swaps(disks: &Disks, paths: &HostPaths) -> io::Result<Vec<Use>> {
    let text = text(&paths.proc.join("swaps"))?;
    let paths = text.lines().skip(1).filter_map(|l| l.split(' ').next());
    let disks = paths.filter_map(|path| disks.name(&unescape(path), ""));
    Ok(disks.map(|disk| Use::Swap { disk: disk.clone() }).collect())
}

/// Disks that are exported to other machines, by whatever link below /dev.
fn exported(sysfs: &Sysfs, disks: &Disks, paths: &HostPaths) -> io::Result<Vec<Use>> {
    let dev = fs::canonicalize(&paths.dev).unwrap_or_else(|_| paths.dev.clone());
    let mut uses = Vec::new();
    for export in exports::all(sysfs)? {
        let at = match export.path.strip_prefix("/dev/") {
            Some(name) => dev.join(name),
            None => PathBuf::from(&export.path),
        };
        let at = fs::canonicalize(&at).unwrap_or(at);
        let number = fs::metadata(&at)
            .ok()
            .filter(|node| node.file_type().is_block_device())
            .map(|node| format!("{}:{}", libc::major(node.rdev()), libc::minor(node.rdev())));
        let name = at.strip_prefix(&dev).ok().and_then(|name| name.to_str());
        let disk = disks.name(name.unwrap_or_default(), &number.unwrap_or_default());
        uses.extend(disk.map(|disk| Use::Exported {
            disk: disk.clone(),
            by: export.by.display().to_string(),
        }));
    }
    Ok(uses)
}

/// Whether a disk is in exclusive use: it is mounted in another namespace, or is part of a pool
/// that sysfs does not show (ZFS). An exclusive open fails then (open(2), O_EXCL).
fn taken(paths: &HostPaths, name: &str) -> Option<Use> {
    let node = paths.dev.join(node(name));
    let open = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(node);
    let busy = open.is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY));
    busy.then(|| Use::Held {
        disk: name.into(),
        by: None,
    })
}

/// Decodes the three octal digits that /proc writes for a space, a tab, a newline and a backslash.
fn unescape(text: &str) -> String {
    let mut plain = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = match (byte, after.get(..3)) {
            (b'\\', Some(digits)) => std::str::from_utf8(digits)
                .ok()
                .and_then(|d| u8::from_str_radix(d, 8).ok()),
            _ => None,
        };
        plain.push(code.unwrap_or(byte));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    String::from_utf8_lossy(&plain).into_owned()
}
