//! What all parts in the lab are given.

use std::path::Path;

use crate::plan::Plan;
use crate::subjects::Subjects;

/// What to measure in the lab, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// How much is measured.
    pub plan: &'a Plan,
    /// Who is measured.
    pub subjects: &'a Subjects,
    /// The program that works in L1 and in its guests (src/bin/probe).
    pub probe: &'a Path,
}
