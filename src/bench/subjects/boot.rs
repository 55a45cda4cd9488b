//! What a VMM is started for.

/// What a VMM is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boot {
    /// The guest does the work, and powers off.
    Work,
    /// A guest of a few bytes says that it runs.
    First,
    /// The guest resets its function and reboots; it is ended in its second /init.
    Life,
}
