//! `host bind` and `host unbind` move devices from the host's drivers to VFIO's, and back.
//!
//! ```text
//! addresses ─► facts ─► checks ─► plan ─► record ─► writes to sysfs
//!                                   │        └────────► give back: unbind, a failure, the end of
//!                                   └─► --dry-run                  a run, a crash
//! ```
//!
//! Every command that changes the host takes the lock of the records, and first recovers what
//! killed commands and runs have left.
//!
//! | file | content |
//! | --- | --- |
//! | `devices`, `functions`, `unbind` | the commands |
//! | `select`, `check_unused` | the devices of a command, and whether they may be taken |
//! | `plan`, `apply` | steps as data, and their execution |
//! | `transaction`, `journal`, `recover` | all devices or none, also after a kill |
//! | `record`, `records`, `form`, `old_form` | what a device was before, kept under /run/mini-vmm |
//! | `facts`, `driver`, `user`, `host`, `kernel` | what is read, and who writes |
//! | `messages`, `error` | what the user reads |

mod apply;
mod check_unused;
mod devices;
mod driver;
mod error;
mod facts;
#[cfg(test)]
mod fake;
mod form;
mod functions;
mod host;
mod journal;
mod kernel;
mod messages;
mod old_form;
mod plan;
mod record;
mod records;
mod recover;
mod request;
mod select;
#[cfg(test)]
mod tests;
mod transaction;
mod unbind;
mod user;

pub use devices::bind;
pub use error::BindError;
pub use host::Host;
pub use kernel::{Kernel, Running};
pub use record::{Node, Record};
pub use records::{Lock, Records};
pub use request::BindRequest;
pub use unbind::{Outcome, UnbindRequest, release_run, unbind};
