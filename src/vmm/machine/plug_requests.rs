//! The removals that are pending: one at most for each root port. A request that comes meanwhile
//! joins it, because a second press of the button would take the first back.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pci::Bdf;

use crate::plug::RemovedBy;

/// A removal that is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    /// Who asks. The host's request is the stronger one: it is not given up.
    pub by: RemovedBy,
    /// When the wait for the guest is over.
    pub end: Instant,
    /// How long the wait is.
    pub patience: Duration,
}

/// All of them, by the addresses of their ports.
#[derive(Default)]
pub(super) struct Requests(Mutex<State>);

#[derive(Default)]
struct State {
    pending: BTreeMap<Bdf, Pending>,
    /// The run is over: nothing is pending any more.
    over: bool,
}

impl Requests {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a removal; `false` if one is pending, or the run is over. The host's request takes a
    /// pending one over.
    pub fn begin(&self, port: Bdf, new: Pending) -> bool {
        let mut state = self.lock();
        if state.over {
            return false;
        }
        match state.pending.get_mut(&port) {
            Some(old) if new.by == RemovedBy::Host => {
                old.by = RemovedBy::Host;
                old.end = old.end.min(new.end);
                false
            }
            Some(_) => false,
            None => {
                state.pending.insert(port, new);
                true
            }
        }
    }

    /// The pending removal at a port.
    pub fn get(&self, port: Bdf) -> Option<Pending> {
        self.lock().pending.get(&port).copied()
    }

    /// Ends a removal. Returns `None` if somebody else has ended it.
    pub fn take(&self, port: Bdf) -> Option<Pending> {
        self.lock().pending.remove(&port)
    }

    /// The run is over.
    pub fn end_all(&self) {
        let mut state = self.lock();
        state.over = true;
        state.pending.clear();
    }

    /// Whether the run is over.
    pub fn are_over(&self) -> bool {
        self.lock().over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(device: u8) -> Bdf {
        Bdf {
            segment: 0,
            bus: 0,
            device,
            function: 0,
        }
    }

    fn pending(by: RemovedBy, seconds: u64) -> Pending {
        let patience = Duration::from_secs(seconds);
        Pending {
            by,
            end: Instant::now() + patience,
            patience,
        }
    }

    #[test]
    fn a_second_request_joins_the_first() {
        let requests = Requests::default();
        let first = pending(RemovedBy::Request, 60);
        assert!(requests.begin(port(1), first));
        assert!(!requests.begin(port(1), pending(RemovedBy::Request, 10)));
        assert_eq!(requests.get(port(1)), Some(first));
        // Another port is another matter.
        assert!(requests.begin(port(2), pending(RemovedBy::Request, 60)));
        assert_eq!(requests.take(port(1)), Some(first));
        assert_eq!(requests.take(port(1)), None);
    }

    #[test]
    fn the_hosts_request_takes_a_pending_one_over() {
        let requests = Requests::default();
        assert!(requests.begin(port(1), pending(RemovedBy::Request, 60)));
        let host = pending(RemovedBy::Host, 20);
        assert!(!requests.begin(port(1), host), "the button is pressed");
        let now = requests.get(port(1)).unwrap();
        assert_eq!((now.by, now.end), (RemovedBy::Host, host.end));
        // A user does not make it longer.
        assert!(!requests.begin(port(1), pending(RemovedBy::Request, 600)));
        assert_eq!(requests.get(port(1)), Some(now));
    }

    #[test]
    fn nothing_begins_after_the_end() {
        let requests = Requests::default();
        assert!(requests.begin(port(1), pending(RemovedBy::Request, 60)));
        requests.end_all();
        assert!(requests.are_over() && requests.get(port(1)).is_none());
        assert!(!requests.begin(port(1), pending(RemovedBy::Host, 20)));
    }
}
