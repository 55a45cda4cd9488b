//! The answers to the questions of a confined VMM.

use std::io;
use std::path::{Component, Path};

use crate::hostinfo::holders::Holders;
use crate::hostinfo::locked::{self, LockedByOthers};
use crate::hostinfo::looker::Look;

/// Answers a question of the process `asker`, by looking at /proc. Neither `asker` nor this process
/// is among the others.
///
/// # Errors
/// EACCES: the question is about other files than the nodes of VFIO and iommufd. The VMM that asks
/// may have been taken over by its guest.
pub fn answer(look: &Look, asker: u32) -> io::Result<String> {
    let without = [asker, std::process::id()];
    match look {
        Look::Holders(nodes) => {
            let nodes: Vec<_> = nodes.iter().map(Path::new).collect();
            match nodes.iter().all(|node| is_device(node)) {
                true => Ok(Holders::look(&nodes, &without).to_lines()),
                false => Err(io::Error::from_raw_os_error(libc::EACCES)),
            }
        }
        Look::Locked => Ok(LockedByOthers::look(&without).to_lines()),
    }
}

/// Whether a path is a node of VFIO or of iommufd.
fn is_device(path: &Path) -> bool {
    let plain = path.components().all(|part| part != Component::ParentDir);
    plain && (path.starts_with("/dev/vfio") || path == Path::new(locked::NODE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_of_devices_are_looked_for() {
        let ask = |node: &str| answer(&Look::Holders(vec!["/dev/iommu".into(), node.into()]), 1);
        for node in ["/dev/vfio/7", "/dev/vfio/devices/vfio0", "/dev/vfio/vfio"] {
            assert!(ask(node).is_ok(), "{node}");
        }
        for node in [
            "/dev/null",
            "/dev/vfio/../null",
            "/dev/vfiox",
            "/etc/shadow",
            "dev/vfio/7",
        ] {
            let errno = ask(node).unwrap_err().raw_os_error();
            assert_eq!(errno, Some(libc::EACCES), "{node}");
        }
        let lines = answer(&Look::Locked, 1).unwrap();
        assert!(LockedByOthers::from_lines(&lines).is_some(), "{lines}");
    }
}
