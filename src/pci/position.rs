//! Where a function is in the guest's tree of buses.

use std::sync::Arc;

use crate::upstream::Upstream;

/// Where a function is: on the root bus, or behind a root port.
#[derive(Clone, Debug, Default)]
pub enum Position {
    /// On bus 0, as a part of the root complex.
    #[default]
    RootBus,
    /// On the bus behind a root port, which lets this through.
    BehindPort(Arc<Upstream>),
}

impl Position {
    /// Whether the function is behind a root port.
    pub fn is_behind_port(&self) -> bool {
        matches!(self, Self::BehindPort(_))
    }

    /// What the port above the function lets through; `None` on the root bus.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        match self {
            Self::RootBus => None,
            Self::BehindPort(upstream) => Some(upstream),
        }
    }
}

/// Two functions are in the same position on the root bus, or behind the same port.
impl PartialEq for Position {
    fn eq(&self, other: &Self) -> bool {
        match (self.upstream(), other.upstream()) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for Position {}
