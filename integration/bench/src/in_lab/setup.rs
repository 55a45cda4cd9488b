//! The input of all parts in the lab.

use std::path::Path;

use crate::plan::Plan;
use crate::subjects::Subjects;

/// The plan, the subjects and the helper program of a measurement in the lab.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// The amount of work.
    pub plan: &'a Plan,
    /// The subjects to measure.
    pub subjects: &'a Subjects,
    /// The helper program that runs in L1 and in its guests (src/bin/probe).
    pub probe: &'a Path,
}
