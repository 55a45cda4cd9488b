//! Names of subjects, work and quantities that several files use: one file writes a figure into the
//! results, and another looks the figure up by its name. `bench check` also compares figures by
//! name. A changed name therefore makes older results files incomparable.

/// The subject that all other subjects are compared with.
pub const SUBJECT: &str = "mini-vmm";
/// The subject "bare calls": the kernel alone, without a VMM (src/bin/floor).
pub const FLOOR: &str = "bare calls";
/// The subject "bare calls without CPUID": the bare calls, except those that give the vCPUs their
/// CPUID. A real kernel does not run without CPUID.
pub const LEAST: &str = "bare calls without CPUID";
/// The bare calls by each interface to the IOMMU: the interface's name in src/bin/floor, and the
/// subject's name.
pub const FLOORS: [(&str, &str); 2] = [
    ("iommufd", "bare calls, iommufd"),
    ("type1", "bare calls, type 1"),
];
/// The subject mini-vmm with `idle=native`: its vCPU halts without an exit
/// (KVM_CAP_X86_DISABLE_EXITS).
pub const NATIVE: &str = "mini-vmm, idle=native";

/// The subject mini-vmm with `--sandbox off`.
pub const UNCONFINED: &str = "mini-vmm, sandbox off";

/// The work "start a VM on this machine's /dev/kvm", in parts 1 and 5.
pub const START: &str = "first instruction";
/// The work "start a VM in the lab", in part 5.
pub const START_IN_LAB: &str = "first instruction with NVMe disks";

/// The work "boot with the disk", in part 2.
pub const BOOT_WITH_DISK: &str = "boot with an NVMe disk";
/// Work in part 2: the same with the disk behind a root port of its own.
pub const BOOT_BEHIND_PORT: &str = "boot with an NVMe disk behind a root port";
/// Work in part 2: the same with one more root port, which is empty.
pub const BOOT_WITH_EMPTY_PORT: &str = "boot with an NVMe disk behind a root port, one empty port";
/// Quantity in part 2: the time of a boot with the disk minus the time of a boot without it, both
/// of the same round.
pub const DISK_ALONE: &str = "the disk's share of it";
/// Work of the bare calls in part 2: they fill the guest's RAM and do nothing else meanwhile. The
/// number of threads is mini-vmm's.
pub const BOOT_RAM: &str = "512 MiB of RAM, transparent huge pages";
/// Quantity in part 2: the time to fill the RAM of [`BOOT_RAM`].
pub const FILLED: &str = "filled";

/// Work in part 3: small reads, each of which starts after the previous read ends.
pub const ONE_AT_A_TIME: &str = "random 4 KiB reads, one at a time";
/// Work in part 3: 32 small reads at the same time.
pub const SIDE_BY_SIDE: &str = "random 4 KiB reads, 32 at a time";
/// Work in part 3: large reads in order.
pub const IN_ORDER: &str = "128 KiB reads in order";
/// Quantity in part 3: exits to the VMM.
pub const EXITS_TO_VMM: &str = "exits to the VMM for all reads";
/// Quantity in part 3: exits to KVM.
pub const EXITS_TO_KVM: &str = "exits to KVM for each read";
/// Quantity in part 3: exits that an interrupt of the host causes.
pub const HOST_INTERRUPTS: &str = "of them host interrupts";
/// Quantity in part 3: exits at the moment when the guest can take interrupts again.
pub const WINDOWS: &str = "of them to wait for a moment to interrupt the guest";
/// Quantity in part 3: exits that neither a host interrupt nor the delivery of a guest interrupt
/// causes.
pub const OTHER_EXITS: &str = "of them for no interrupt";
/// Quantity in part 3: interrupts that KVM delivered to the guest.
pub const INJECTED: &str = "interrupts of the guest for each read";
/// A fact about the run, for part 3: the number of small reads of each kind in a round.
pub const READS: &str = "reads of each kind in a round";

/// Quantity in part 4: the time to map the RAM. If the RAM was filled by another number of threads
/// than mini-vmm's, that number follows the name.
pub const MAPPED: &str = "mapped";

/// A fact about the run: size and linkage of mini-vmm's program.
pub const PROGRAM: &str = "mini-vmm's program";

/// The title of a part of the bench.
pub fn part_title(part: u8) -> &'static str {
    match part {
        1 => "1. From process start to the guest's first instruction, on this machine's /dev/kvm",
        2 => "2. From process start to /init, in the lab",
        3 => "3. NVMe reads, in the lab",
        4 => "4. Memory for DMA, in the lab",
        _ => "5. Growth",
    }
}
