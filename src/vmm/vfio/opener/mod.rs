//! Opens, resets and closes devices.
//!
//! Each of these calls resets the device, and some wait for another call's reset. A reset may take
//! a minute (PCI Express 6.0, 6.6.2), and a device that has failed may never end it. The sleep
//! cannot be interrupted: a process with a thread in such a call cannot end, and keeps its
//! terminal. So a process of its own makes these calls. The VMM waits for the answer with a limit,
//! and can end at any time. The process stays until its last call has returned.
//!
//! | file | what |
//! | --- | --- |
//! | `client` | the VMM's side: [`Opener`], with a method for each call |
//! | `request` | the calls as messages, and the interface to what makes them |
//! | `helper` | the process that makes the calls |
//! | `waiting` | a call that has not ended within its limit |
//! | `device_file` | the file of an open device, which is closed by the opener |
//!
//! The process has a descriptor of a device only during a call for the device. If the VMM is
//! killed, the kernel therefore closes the devices with the VMM, as without that process. To close
//! a device, the VMM sends its descriptor and closes its own one, and then the process closes the
//! last one.

mod client;
mod device_file;
mod helper;
mod request;
mod waiting;

pub use client::Opener;
pub use device_file::DeviceFile;
pub use helper::serve;
pub use request::{Calls, Request};
pub use waiting::Waiting;

#[cfg(test)]
mod tests;
