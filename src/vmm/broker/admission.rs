//! What adds to the list of a run's devices while the guest runs.

use std::fs::File;
use std::io;

use crate::broker::files;
use crate::broker::named::{Device, Named, Right};
use crate::broker::run_user::RunUser;
use crate::hostinfo::node_of::{NodeOf, node_of};
use crate::hostinfo::sysfs::Sysfs;
use crate::sys::descriptor::{char_device, is_writable};

/// Tells which devices the client of a connection names.
pub trait Admission: Send + Sync {
    /// What the next request of a connection names. The bytes stay in the socket, from which the
    /// VMM reads them afterwards.
    ///
    /// # Errors
    /// The file is no connection of a client who may control the run.
    fn asked(&self, connection: &File) -> io::Result<Asked>;
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The client's user.
    pub uid: u32,
    /// The devices.
    pub devices: Vec<Device>,
}

/// A run without clients.
#[derive(Debug)]
pub struct Nobody;

impl Admission for Nobody {
    fn asked(&self, _: &File) -> io::Result<Asked> {
        Err(files::refused())
    }
}

/// What a file adds to the list: the open node of a device is a right to the device, and a client's
/// connection has the client's request. With `user`, a run's process is this user's, and only
/// root's clients have root's rights.
///
/// # Errors
/// The file is neither, or EPERM: the client may not have such a device.
pub fn devices(
    sysfs: &Sysfs,
    named: &Named,
    clients: &dyn Admission,
    user: Option<&RunUser>,
    file: &File,
) -> io::Result<Vec<Device>> {
    let Some(number) = char_device(file) else {
        let asked = clients.asked(file)?;
        return match user.filter(|_| asked.uid != 0) {
            None => Ok(asked.devices),
            Some(user) => as_user(sysfs, named, user, asked.devices),
        };
    };
    // A path may be opened with O_PATH without any right to the file (open(2)).
    let node = is_writable(file).then(|| node_of(sysfs, number));
    let NodeOf::Device(name) = node.ok_or_else(files::refused)?? else {
        return Err(files::refused());
    };
    // The right to this node is none to the node of the group.
    let right = match user {
        Some(_) => Right::AsUser,
        None => Right::Open,
    };
    Ok(vec![Device { name, right }])
}

/// What a client gets that is not root: what the run has already, and devices of which the user may
/// open a node. All of a request, or nothing.
fn as_user(
    sysfs: &Sysfs,
    named: &Named,
    user: &RunUser,
    devices: Vec<Device>,
) -> io::Result<Vec<Device>> {
    let allowed = |device: Device| {
        if named.allows(device.name, device.right) {
            return Ok(device);
        }
        match device.right != Right::Bind && user.may_have(sysfs, device.name) {
            true => Ok(Device {
                right: Right::AsUser,
                ..device
            }),
            false => Err(io::Error::from_raw_os_error(libc::EPERM)),
        }
    };
    devices.into_iter().map(allowed).collect()
}

#[cfg(test)]
mod tests;
