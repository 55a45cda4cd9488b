//! Who else hears a guest's messages while it runs.

use crate::error::Result;
use crate::subjects::child::Vmm;
use crate::work::task::Message;

/// Hears each message, before the turn does.
pub(super) trait Watch {
    /// Hears a message.
    ///
    /// # Errors
    /// What is to be read cannot be read.
    fn hear(&mut self, vmm: &Vmm, message: &Message) -> Result<()>;
}
