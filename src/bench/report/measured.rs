//! What the subjects are compared by: kinds of work, and moments of a guest's life.

use crate::report::results::Results;
use crate::work::moment::Moment;
use crate::work::quantity;
use crate::work::task::Work;

/// A kind of work, or a moment.
#[derive(Clone, Copy, Debug)]
pub enum Measured<'a> {
    /// A kind of work.
    Work(&'a Work),
    /// A moment.
    Moment(Moment),
}

/// All kinds of work of a run, and the moments that were measured.
pub fn all(results: &Results) -> impl Iterator<Item = Measured<'_>> {
    let works = results.works.iter().map(Measured::Work);
    works.chain(moments(results).map(Measured::Moment))
}

/// The moments of a run that were measured.
pub fn moments(results: &Results) -> impl Iterator<Item = Moment> {
    let is_there = |moment: &Moment| {
        let mut trials = results.rounds.iter().flatten();
        trials.any(|trial| trial.moments.of(*moment).is_some())
    };
    Moment::ALL.into_iter().filter(is_there)
}

impl Measured<'_> {
    /// Its name for programs.
    pub fn name(&self) -> &str {
        match self {
            Self::Work(work) => &work.name,
            Self::Moment(moment) => moment.name(),
        }
    }

    /// It in words.
    pub fn in_words(&self) -> String {
        match self {
            Self::Work(work) => work.in_words(),
            Self::Moment(moment) => moment.in_words().to_owned(),
        }
    }

    /// The quantity by which subjects are compared.
    pub fn quantity(&self) -> &'static str {
        match self {
            Self::Work(work) => quantity::name(work),
            Self::Moment(_) => "time",
        }
    }

    /// A value with its unit.
    pub fn value(&self, value: f64) -> String {
        match self {
            Self::Work(work) => quantity::in_words(work, value),
            Self::Moment(_) => milliseconds(value),
        }
    }
}

/// A time of so many microseconds.
pub fn milliseconds(microseconds: f64) -> String {
    format!("{} ms", quantity::digits(microseconds / 1000.0))
}
