//! The guest's kernel and initramfs: the host's own kernel, its modules, and this program.
//!
//! | file | content |
//! | --- | --- |
//! | `image` | where the kernel is, and its release |
//! | `modules` | which modules a device needs, in order |
//! | `firmware` | the firmware files that the modules ask for |
//! | `unpack` | compressed modules and firmware |
//! | `initramfs` | the archive that the guest boots from |
//! | `tiny` | a guest of a few bytes |

pub mod firmware;
pub mod image;
pub mod initramfs;
pub mod modules;
pub mod tiny;
pub mod unpack;
