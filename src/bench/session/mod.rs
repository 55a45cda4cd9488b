//! A run: what is measured and how, the rounds, and their progress.
//!
//! | file | content |
//! | --- | --- |
//! | `settings` | what the user chooses |
//! | `device` | the device and its disk, and whether it may be measured |
//! | `destroy` | whether the disk may be written to |
//! | `cpus` | the CPUs that all subjects have |
//! | `plan` | what will be done, to which device, and for how long |
//! | `rounds` | the rounds |

pub mod cpus;
pub mod destroy;
pub mod device;
pub mod plan;
pub mod rounds;
pub mod settings;
