//! The opening of a device, which may be tried again after another process had the device.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::Span;

use crate::hostinfo::name::HostName;
use crate::phase;
use crate::vfio::open::error::VfioError;

/// The attempts to open a device. Once the device is open, it stays open for the later attempts,
/// which other devices need: each opening resets a device. `N` is what the opening needs.
pub(super) struct Attempts<N, D>(Mutex<Attempt<N, D>>);

struct Attempt<N, D> {
    needs: N,
    /// The phase of the report: from the first attempt until the device is open.
    phase: Option<Span>,
    open: Option<Arc<D>>,
}

impl<N, D> Attempts<N, D> {
    /// Nothing is tried yet.
    pub fn new(needs: N) -> Self {
        Self(Mutex::new(Attempt {
            needs,
            phase: None,
            open: None,
        }))
    }

    /// Opens the device by `open`, unless it is open.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn open(
        &self,
        name: HostName,
        open: impl FnOnce(&mut N) -> Result<D, VfioError>,
    ) -> Result<Arc<D>, VfioError> {
        let mut attempt = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = &attempt.open {
            return Ok(Arc::clone(device));
        }
        attempt
            .phase
            .get_or_insert_with(|| phase!("open_device", name));
        let device = Arc::new(open(&mut attempt.needs)?);
        attempt.phase = None;
        attempt.open = Some(Arc::clone(&device));
        Ok(device)
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::prelude::*;

    use super::*;
    use crate::hostinfo::name::parse_address;
    use crate::log::phases::{Clock, FIRST_RUN, Phases};

    /// The guest begins to run between two attempts.
    #[test]
    fn the_phase_lasts_from_the_first_attempt_to_the_last() {
        let phases = Phases::new(Clock::start());
        let subscriber = tracing_subscriber::registry().with(phases.clone());
        let name = parse_address("0000:00:05.0").unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let attempts = Attempts::new(());
            let refused = attempts.open(name, |()| Err(VfioError::Thread));
            assert!(refused.is_err());
            drop(phase!(FIRST_RUN));
            let device = attempts.open(name, |()| Ok(7)).unwrap();
            let again = attempts.open(name, |()| panic!("it is open")).unwrap();
            assert!(Arc::ptr_eq(&device, &again));
        });
        let list = phases.list();
        let [opening, first_run] = &list[..] else {
            panic!("{list:?}");
        };
        assert_eq!((opening.name, first_run.name), ("open_device", FIRST_RUN));
        assert!(opening.start_us <= first_run.start_us && first_run.end_us <= opening.end_us);
    }
}
