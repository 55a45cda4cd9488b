//! `host bind` and `host unbind`: devices go from the host's drivers to VFIO's, and back.
//!
//! ```text
//! addresses ─► facts ─► checks ─► plan ─► record ─► writes to sysfs
//!                                   │        └────────► give back: unbind, a failure, the end of
//!                                   └─► --dry-run                  a run, a crash
//! ```
//!
//! Whoever changes anything holds the records' lock, and first mends what a killed command or run has
//! left.

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
