//! `host bind --persist`: a device gets its VFIO driver at each boot.
//!
//! Each such device has a rule of udev (udev(7)) in /etc/udev/rules.d, which sets `driver_override`
//! before a driver is loaded. A hook of initramfs-tools(7) copies the rules, and the VFIO drivers,
//! into the initramfs, where most hosts load the drivers of their disks. The rule's first line
//! describes the device, so that no other file has to agree with the rule.
//!
//! | file | content |
//! | --- | --- |
//! | `device` | the device that a rule describes, and whether it is there |
//! | `rule` | the text of a rule, and the device back from the text |
//! | `initramfs` | the hook |
//! | `files` | the files, which are made and removed |

mod device;
mod files;
mod initramfs;
mod rule;

pub use device::{Persistent, Presence};
pub use files::{Change, Files, PersistError};
