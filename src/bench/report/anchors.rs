//! Published figures of starts, of pages that are touched at a start, and of maps for DMA, beside
//! which a run's own stand. Each was read in its source. They are of other machines, and show what
//! a time grows with, not who is faster.

/// A published time of QEMU's start until the guest's memory is pinned page by page.
pub struct Start {
    /// The guest's memory in GiB.
    pub gib: u32,
    /// The mean time in seconds.
    pub seconds: f64,
}

/// The source of [`STARTS`], and the machine.
pub const SOURCE: &str = "Linux commit 4d83de6da265 (\"vfio/type1: Batch page pinning\", \
    Daniel Jordan), column \"test\": QEMU's start until the guest's memory is pinned page by page, \
    on a server with two Broadwell processors and 128 GB at each, bound to one of them";

/// The figures.
pub const STARTS: [Start; 4] = [
    start(1, 0.56),
    start(16, 4.27),
    start(64, 16.04),
    start(120, 29.69),
];

const fn start(gib: u32, seconds: f64) -> Start {
    Start { gib, seconds }
}

/// A published figure.
pub struct Anchor {
    /// What was measured.
    pub what: &'static str,
    /// The figures.
    pub figure: &'static str,
    /// The machine, as far as the source names it.
    pub machine: &'static str,
    /// The source.
    pub source: &'static str,
}

/// What stands in the table besides [`STARTS`].
pub const OTHERS: [Anchor; 2] = [
    Anchor {
        what: "QEMU's start with -mem-prealloc, without a device: all pages of 2 MiB of a guest \
            with 1 TB are touched",
        figure: "8 min 57 s with 1 thread, 70.4 s with 8, 39.9 s with 16",
        machine: "a guest with 64 CPUs; the host is not named",
        source: "QEMU commit 1e356fc14bea, \
            https://gitlab.com/qemu-project/qemu/-/commit/1e356fc14bea",
    },
    Anchor {
        what: "the map of a BAR of 32 GB for DMA of other devices",
        figure: "about 1 s, and below 1 ms with large aligned maps of the BAR",
        machine: "not named",
        source: "Linux commit 0fd06844de5d, https://git.kernel.org/torvalds/c/0fd06844de5d",
    },
];

/// The address of [`SOURCE`].
pub const STARTS_AT: &str =
    "Linux commit 4d83de6da265, https://git.kernel.org/torvalds/c/4d83de6da265";
