//! `--vfio ADDR,mmap=off` and `irqfd=off`: mechanisms of the kernel that a device does without, so
//! that one sees what each of them is worth.

/// The mechanisms that keep a device's registers and interrupts out of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mechanisms {
    /// The guest reaches the pages of BARs directly. Without this, each access to a BAR is an exit.
    pub mmap: bool,
    /// KVM listens to the eventfds of interrupts. Without this, a thread of this process does.
    pub irqfd: bool,
}

impl Mechanisms {
    /// All of them.
    pub const ALL: Self = Self {
        mmap: true,
        irqfd: true,
    };
}

impl Default for Mechanisms {
    fn default() -> Self {
        Self::ALL
    }
}
