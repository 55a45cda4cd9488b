//! What adds to the list of a run's devices while the guest runs.

use std::fs::File;
use std::io;

use crate::broker::files;
use crate::broker::named::{self, Device, Named};
use crate::hostinfo::node_of::{NodeOf, node_of};
use crate::hostinfo::sysfs::Sysfs;
use crate::sys::descriptor::char_device;
use crate::sys::packets::Packets;

/// Tells which devices the client of a connection names.
pub trait Admission: Send + Sync {
    /// The devices that the next request of a connection names. The bytes stay in the socket, from
    /// which the VMM reads them afterwards.
    ///
    /// # Errors
    /// The file is no connection of a client who may control the run.
    fn devices(&self, connection: &File) -> io::Result<Vec<Device>>;
}

/// A run without clients.
#[derive(Debug)]
pub struct Nobody;

impl Admission for Nobody {
    fn devices(&self, _: &File) -> io::Result<Vec<Device>> {
        Err(files::refused())
    }
}

/// Adds what a file names to the list: the open node of a device is the right to the device, and a
/// client's connection has the client's request. The process at the other end of `news` learns what
/// is new.
///
/// # Errors
/// The file is neither.
pub fn admit(
    sysfs: &Sysfs,
    named: &Named,
    clients: &dyn Admission,
    news: Option<&Packets>,
    file: &File,
) -> io::Result<()> {
    let devices = match char_device(file) {
        Some(number) => match node_of(sysfs, number)? {
            NodeOf::Device(name) => vec![Device {
                name,
                managed: false,
            }],
            NodeOf::Group(_) | NodeOf::Other => return Err(files::refused()),
        },
        None => clients.devices(file)?,
    };
    for device in devices {
        if let (true, Some(news)) = (named.add(device), news) {
            named::tell(news, device)?;
        }
    }
    Ok(())
}
