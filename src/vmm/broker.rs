//! What the processes that open and bind devices do for a confined VMM.
//!
//! The VMM asks, and may have been taken over by its guest. So the list of the run's devices is in
//! these processes: it is made from the command line before they are forked, and only what the VMM
//! cannot make adds to it: a request of a client, or an open node of a device.
//!
//! | file | what |
//! | --- | --- |
//! | [`named`] | the list |
//! | [`admission`] | what adds to the list while the guest runs |
//! | `files` | which nodes, files of sysfs and descriptors belong to the listed devices |
//! | [`run_user`] | the user of a run by `--run-as`, whose clients are not root's |

pub mod admission;
#[cfg(test)]
mod fake;
mod files;
pub mod named;
pub mod run_user;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::hostinfo::sysfs::Sysfs;
use crate::sys::packets::Packets;

pub use admission::{Admission, Asked, Nobody};
pub use files::{Kind, Node};
pub use named::{Device, Named, Right};
pub use run_user::RunUser;

/// What is done for a run, and for no other.
pub struct Broker {
    sysfs: Sysfs,
    named: Named,
    clients: Arc<dyn Admission>,
    news: Option<Packets>,
    user: Option<RunUser>,
}

impl Broker {
    /// Serves the devices of `named`, and those that `clients` name later. The process at the other
    /// end of `news` learns of these.
    pub fn new(named: Named, clients: Arc<dyn Admission>, news: Option<Packets>) -> Self {
        let sysfs = Sysfs::default();
        Self {
            sysfs,
            named,
            clients,
            news,
            user: None,
        }
    }

    /// Serves a run whose process is this user's: only root's clients have root's rights.
    #[must_use]
    pub fn run_as(self, user: RunUser) -> Self {
        let user = Some(user);
        Self { user, ..self }
    }

    /// Serves a run that is not confined.
    pub fn of_any() -> Self {
        Self::new(Named::any(), Arc::new(Nobody), None)
    }

    /// The socket of the news, which a fork keeps.
    pub fn news(&self) -> Option<&Packets> {
        self.news.as_ref()
    }

    /// Whether the run is not confined, so that its requests are its own user's.
    pub fn is_for_any(&self) -> bool {
        self.named.is_any()
    }

    /// Adds what a file names to the list ([`admission::devices`]). The process at the other end of
    /// the news learns what is new.
    ///
    /// # Errors
    /// The file names no device, or EPERM: the client may not have it.
    pub fn admit(&self, file: &File) -> io::Result<()> {
        let (named, user) = (&self.named, self.user.as_ref());
        for device in admission::devices(&self.sysfs, named, &*self.clients, user, file)? {
            if let (true, Some(news)) = (named.add(device), &self.news) {
                named::tell(news, device)?;
            }
        }
        Ok(())
    }

    /// The node with a path.
    ///
    /// # Errors
    /// EACCES: it is not the run's.
    pub fn node(&self, path: &str) -> io::Result<Node> {
        let own = |node: &Node| self.is_for_any() || self.right(node).is_some();
        Node::parse(path).filter(own).ok_or_else(files::refused)
    }

    /// The node that is opened for a path: one of the run's own, or of a device that a client of
    /// the run's user has named, which that user may open.
    ///
    /// # Errors
    /// EACCES.
    pub fn node_to_open(&self, path: &str) -> io::Result<Node> {
        let node = self.node(path)?;
        let user = self.user.as_ref().filter(|_| self.is_as_user(&node));
        match user.is_none_or(|user| user.may_open(&node)) {
            true => Ok(node),
            false => Err(files::refused()),
        }
    }

    /// Checks that an open file is the node's, and that the run's user may open it, if only that is
    /// the run's right to it: somebody may have changed that meanwhile.
    ///
    /// # Errors
    /// EACCES.
    pub fn check_node(&self, node: &Node, file: &File) -> io::Result<()> {
        let user = self.user.as_ref().filter(|_| self.is_as_user(node));
        let is_the_users = user.is_none_or(|user| user.credentials.may_use(file));
        match self.is_for_any() || node.is_behind(&self.sysfs, file) && is_the_users {
            true => Ok(()),
            false => Err(files::refused()),
        }
    }

    fn right(&self, node: &Node) -> Option<Right> {
        node.right(&self.sysfs, &self.named)
    }

    fn is_as_user(&self, node: &Node) -> bool {
        self.right(node) == Some(Right::AsUser)
    }

    /// The file of sysfs that is read for a path ([`files::fact`]).
    ///
    /// # Errors
    /// EACCES: it is not the run's.
    pub fn fact(&self, path: &str) -> io::Result<PathBuf> {
        match self.is_for_any() {
            true => files::any_fact(path),
            false => files::fact(&self.sysfs, &self.named, path),
        }
    }

    /// Checks the name of a device of a group ([`files::check_name`]).
    ///
    /// # Errors
    /// EACCES: it is not the run's.
    pub fn check_name(&self, text: &str) -> io::Result<()> {
        files::check_name(&self.named, text)
    }

    /// Checks what a descriptor is ([`files::check_kind`]).
    ///
    /// # Errors
    /// EACCES.
    pub fn check_kind(&self, file: &File, kind: Kind) -> io::Result<()> {
        files::check_kind(&self.sysfs, file, kind)
    }
}
