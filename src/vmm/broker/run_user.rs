//! The user of a run by `--run-as`, who has no right of root's.
//!
//! The run's process is this user's, and so are clients of its socket. Root has named the devices
//! of the command line. What the user's clients name is opened only where the user may do that.

use std::path::PathBuf;

use crate::broker::files::{Node, nodes_of};
use crate::hostinfo::name::HostName;
use crate::hostinfo::permission::Credentials;
use crate::hostinfo::sysfs::Sysfs;

/// The user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunUser {
    /// Who it is.
    pub credentials: Credentials,
    /// Where the nodes are.
    dev: PathBuf,
}

impl RunUser {
    /// The user of the run.
    pub fn new(credentials: Credentials) -> Self {
        let dev = "/dev".into();
        Self { credentials, dev }
    }

    /// As [`RunUser::new`], with the nodes in another folder.
    #[cfg(test)]
    pub fn at(credentials: Credentials, dev: PathBuf) -> Self {
        Self { credentials, dev }
    }

    /// Whether the user may open a node.
    pub fn may_open(&self, node: &Node) -> bool {
        let path = self.dev.join(node.below_dev());
        self.credentials.may_open(&path)
    }

    /// Whether the user may open a node of a device: its own one, or its group's.
    pub fn may_have(&self, sysfs: &Sysfs, name: HostName) -> bool {
        let mut nodes = nodes_of(sysfs, name).into_iter();
        nodes.any(|node| self.may_open(&node))
    }
}
