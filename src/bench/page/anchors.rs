//! Published figures of starts with a passed-through device, beside which a run's own stand. Each
//! was read in its source.

/// A published figure.
pub(super) struct Anchor {
    /// The guest's memory in GiB.
    pub(super) gib: u32,
    /// The mean time in seconds.
    pub(super) seconds: f64,
}

/// The source of the figures, and the machine.
pub(super) const SOURCE: &str = "Linux commit 4d83de6da265 (\"vfio/type1: Batch page pinning\", \
    Daniel Jordan), column \"test\": QEMU's start until the guest's memory is pinned page by page, \
    on a server with two Broadwell processors and 128 GB at each, bound to one of them";

/// The figures.
pub(super) const STARTS: [Anchor; 4] = [
    start(1, 0.56),
    start(16, 4.27),
    start(64, 16.04),
    start(120, 29.69),
];

const fn start(gib: u32, seconds: f64) -> Anchor {
    Anchor { gib, seconds }
}
