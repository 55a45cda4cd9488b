//! The traced passes, after the rounds: how long an interrupt takes in the host's kernel.

use crate::error::Result;
use crate::session::plan::Plan;
use crate::subjects::chains::Interrupts;
use crate::subjects::list::{Kind, Subject};
use crate::subjects::mini_vmm::Guest;
use crate::subjects::other::OtherVmm;

/// The subjects whose guest has the device itself, each with its index.
pub fn subjects(plan: &Plan) -> impl Iterator<Item = (usize, &Subject)> {
    let all = plan.subjects.iter().enumerate();
    all.filter(|(_, subject)| subject.is_followed())
}

/// The interrupts of a subject.
///
/// # Errors
/// The guest or its VMM has failed, or the user has ended the measurement.
pub fn interrupts<'a>(
    (plan, guest): (&Plan, &Guest),
    (index, subject): (usize, &Subject),
    vmm: impl Fn() -> Result<OtherVmm<'a>>,
) -> Result<Interrupts> {
    let interrupts = match &subject.kind {
        Kind::MiniVmm { program, change } => guest.trace(program, *change, &plan.task)?,
        _ => vmm()?.trace(guest, &plan.task)?,
    };
    Ok(Interrupts {
        subject: index,
        ..interrupts
    })
}
