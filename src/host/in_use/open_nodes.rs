//! Processes that have nodes of a device open. The drivers of sound cards, displays and others wait
//! for such a process when they are unbound.

use pci::Bdf;
use vmm::hostinfo::sysfs::Sysfs;

use crate::in_use::usage::Use;
use crate::nodes::{self, Kind, Node};
use crate::open_files::{Files, Open};
use crate::paths::HostPaths;

/// Finds processes that have a character device open. Disks are found by their names.
pub(super) fn uses(sysfs: &Sysfs, paths: &HostPaths, bdf: Bdf, open: &[Open]) -> Vec<Use> {
    let mut nodes = nodes::of(sysfs, paths, bdf);
    nodes.retain(|node| !matches!(node, Node::Number(Kind::Block, ..)));
    let files = Files::of(nodes);
    let uses = files.among(open).map(|open| Use::Node {
        path: open.path.display().to_string(),
        process: open.process,
        name: open.name.clone(),
    });
    uses.collect()
}
