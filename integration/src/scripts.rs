//! The shell scripts of both machines and the options of the lab's kernel, from
//! integration/resources.

/// /init of L1.
pub const L1_INIT: &str = include_str!("../resources/l1-init.sh");

/// Functions for a scenario's L1 script.
pub const L1_FUNCTIONS: &str = include_str!("../resources/l1-functions.sh");

/// /init of L2.
pub const L2_INIT: &str = include_str!("../resources/l2-init.sh");

/// Functions of L2's /init.
pub const L2_FUNCTIONS: &str = include_str!("../resources/l2-functions.sh");

/// Acts for L2's /init. A scenario selects an act with `lab.act=NAME`; each act is a function.
pub const L2_ACTS: &str = include_str!("../resources/l2-acts.sh");

/// More acts, for devices that come and go.
pub const L2_PLUGS: &str = include_str!("../resources/l2-plugs.sh");

/// The L1 script of `make soak`.
pub const L1_SOAK: &str = include_str!("../resources/l1-soak.sh");

/// Options of both of the lab's kernels. A hash of a kernel's options is a part of its name in the
/// cache.
pub const KERNEL_CONFIG: &str = include_str!("../resources/lab-kernel.config");

/// Further options of the kernel of the release's source.
pub const KERNEL_CONFIG_RELEASE: &str = include_str!("../resources/lab-kernel-release.config");

/// Further options of the lab's newest kernel.
pub const KERNEL_CONFIG_NEWEST: &str = include_str!("../resources/lab-kernel-newest.config");
