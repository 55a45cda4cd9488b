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

pub mod admission;
mod files;
pub mod named;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::hostinfo::sysfs::Sysfs;
use crate::sys::packets::Packets;

pub use admission::{Admission, Nobody};
pub use files::{Kind, Node};
pub use named::{Device, Named};

/// What is done for a run, and for no other.
pub struct Broker {
    sysfs: Sysfs,
    named: Named,
    clients: Arc<dyn Admission>,
    news: Option<Packets>,
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
        }
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

    /// Adds what a file names to the list ([`admission::admit`]).
    ///
    /// # Errors
    /// The file names no device.
    pub fn admit(&self, file: &File) -> io::Result<()> {
        let news = self.news.as_ref();
        admission::admit(&self.sysfs, &self.named, &*self.clients, news, file)
    }

    /// The node that is opened for a path.
    ///
    /// # Errors
    /// EACCES: it is not the run's.
    pub fn node(&self, path: &str) -> io::Result<Node> {
        let own = |node: &Node| self.is_for_any() || node.is_of(&self.sysfs, &self.named);
        Node::parse(path).filter(own).ok_or_else(files::refused)
    }

    /// Checks that a file is the node's.
    ///
    /// # Errors
    /// EACCES.
    pub fn check_node(&self, node: &Node, file: &File) -> io::Result<()> {
        match self.is_for_any() || node.is_behind(&self.sysfs, file) {
            true => Ok(()),
            false => Err(files::refused()),
        }
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
