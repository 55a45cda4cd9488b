//! A run: what is measured and how, the rounds, and their progress.
//!
//! | file | content |
//! | --- | --- |
//! | `settings` | what the user chooses |
//! | `device` | the device and its disk or port, and whether it may be measured |
//! | `ways` | whether other VMMs can give their guests what is measured |
//! | `link`, `other_end` | the link of a network port, and its other end |
//! | `destroy` | whether the disk may be written to |
//! | `cpus` | the CPUs that all subjects have |
//! | `cross` | checks by other programs |
//! | `plan` | what will be done, to which device, and for how long |
//! | `shown` | the plan for people |
//! | `traced` | the traced passes after the rounds |
//! | `rounds` | the rounds |

pub mod cpus;
pub mod cross;
pub mod destroy;
pub mod device;
pub mod link;
pub mod other_end;
pub mod plan;
pub mod rounds;
pub mod settings;
mod shown;
mod traced;
pub mod ways;
