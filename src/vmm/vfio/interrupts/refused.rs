//! Tells the user that the host refuses a device's interrupts.

use std::error::Error;

use crate::log::degraded::{self, Code};
use crate::log::error_chain::with_causes;

/// Tells that `what` is so because of `error`.
pub(super) fn tell_refused(device: &str, what: &str, error: &dyn Error) {
    let loss = Code::InterruptsRefused.loss(what, with_causes(error));
    degraded::tell(loss.of(device).hint(
        "free interrupt vectors or descriptors of the host: fewer devices, more CPUs online, a \
         higher `ulimit -n`",
    ));
}
