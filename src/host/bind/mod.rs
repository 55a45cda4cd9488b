//! `host bind` and `host unbind` move devices from the host's drivers to VFIO's, and back.
//!
//! ```text
//! addresses ─► facts ─► checks ─► plan ─► record ─► writes to sysfs
//!                                   │        └────────► give back: unbind, a failure, the end of
//!                                   └─► --dry-run                  a run, a crash
//! ```
//!
//! Every command that changes the host first takes the lock of the records. It then recovers from
//! killed commands and killed runs.
//!
//! | file | content |
//! | --- | --- |
//! | `devices`, `functions`, `unbind` | the commands |
//! | `select`, `check_unused` | the devices of a command, and checks that they are not in use |
//! | `plan`, `apply` | steps as data, and their execution |
//! | `transaction`, `journal`, `recover` | binding all devices or no device, also after a kill |
//! | `call`, `under_way`, `run_call` | calls of the kernel that may sleep for ever |
//! | `record`, `records`, `form`, `old_form` | the earlier state of each device, in /run/mini-vmm |
//! | `facts`, `driver`, `user`, `host`, `kernel` | facts about the host, and writes to it |
//! | `lasting` | the files of `--persist` |
//! | `messages`, `error` | texts for the user |

mod apply;
mod call;
mod check_unused;
mod devices;
mod driver;
mod error;
mod facts;
#[cfg(test)]
pub(crate) mod fake;
mod form;
mod functions;
mod functions_error;
mod host;
mod journal;
mod kernel;
mod lasting;
mod messages;
mod old_form;
mod plan;
mod record;
mod records;
mod recover;
mod request;
mod run_call;
mod select;
#[cfg(test)]
mod tests;
mod transaction;
mod unbind;
mod under_way;
mod user;

pub use devices::bind;
pub use error::BindError;
pub use host::{DEFAULT_LIMIT, Host};
pub use journal::Entry;
pub use kernel::{Call, CallEnd, Kernel, Running};
pub use record::{Node, Record};
pub use records::{Lock, Records};
pub use recover::recover_all;
pub use request::BindRequest;
pub use run_call::{check_calls, note_call_or_say};
pub use unbind::{Outcome, UnbindRequest, release_of_run, release_run, unbind};
pub use under_way::UnderWay;
pub use user::User;
