//! Both figures and their ratio.

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// What another program says of the same work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrossCheck {
    /// The program, with its version if it was found.
    pub tool: String,
    /// The name of the work.
    pub work: String,
    /// The quantity with its unit.
    pub quantity: String,
    /// Both figures; null if the program did not measure.
    pub figures: Option<Figures>,
    /// Why the program did not measure.
    pub why: Option<String>,
}

/// The figures of both programs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// This program's.
    pub ours: f64,
    /// The other program's.
    pub theirs: f64,
    /// The other's by this program's.
    pub ratio: f64,
}

/// Measures twice by each program, in the order ours, theirs, theirs, ours: what drifts evenly is
/// the same for both.
///
/// # Errors
/// One of them has failed.
pub fn figures(
    ours: &mut dyn FnMut() -> Result<f64>,
    theirs: &mut dyn FnMut() -> Result<f64>,
) -> Result<Figures> {
    let first = ours()?;
    let other = (theirs()? + theirs()?) / 2.0;
    let own = (first + ours()?) / 2.0;
    Ok(Figures {
        ours: own,
        theirs: other,
        ratio: other / own,
    })
}

impl CrossCheck {
    /// The check in a sentence.
    pub fn in_words(&self) -> String {
        match (&self.figures, &self.why) {
            (Some(figures), _) => format!(
                "{} measured {:.2} for {} ({}) by the host's driver, and this program {:.2} \
                 beside it: the ratio is {:.3}.",
                self.tool, figures.theirs, self.work, self.quantity, figures.ours, figures.ratio
            ),
            (None, why) => format!(
                "{} did not check these figures: {}.",
                self.tool,
                why.as_deref().unwrap_or("nobody knows why")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn what_drifts_evenly_is_the_same_for_both() {
        let (time, order) = (
            std::cell::Cell::new(0.0),
            std::cell::RefCell::new(String::new()),
        );
        let measure = |name: char, factor: f64| {
            time.set(time.get() + 1.0);
            order.borrow_mut().push(name);
            Ok((10.0 + time.get()) * factor)
        };
        let both = figures(&mut || measure('o', 1.0), &mut || measure('t', 2.0)).unwrap();
        assert_eq!(order.into_inner(), "otto");
        assert_eq!((both.ours, both.theirs, both.ratio), (12.5, 25.0, 2.0));
        let failed = figures(&mut || Ok(1.0), &mut || Err(Error::new("no")));
        assert!(failed.is_err());
    }
}
