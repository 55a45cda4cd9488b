//! The names of subjects, work and quantities that are used in more than one file: what measures
//! writes them into the results, and what judges looks for them there. `bench check` compares
//! figures by these names, so a changed name makes older files of results incomparable.

/// The subject that all others are compared with.
pub const SUBJECT: &str = "mini-vmm";
/// The subject that is the kernel alone (src/bin/floor).
pub const FLOOR: &str = "bare calls";
/// The bare calls without CPUID: less than any kernel needs.
pub const LEAST: &str = "bare calls without CPUID";
/// The bare calls where there are two interfaces: the interface's name in src/bin/floor, and the
/// subject's.
pub const FLOORS: [(&str, &str); 2] = [
    ("iommufd", "bare calls, iommufd"),
    ("type1", "bare calls, type 1"),
];
/// mini-vmm whose vCPU halts without leaving its guest (KVM_CAP_X86_DISABLE_EXITS).
pub const NATIVE: &str = "mini-vmm, idle=native";

/// Parts 1 and 5, work: a start on this machine's /dev/kvm.
pub const START: &str = "first instruction";
/// Part 5, work: a start in the lab.
pub const START_IN_LAB: &str = "first instruction with NVMe disks";

/// Part 2, work: a boot with the disk.
pub const BOOT_WITH_DISK: &str = "boot with an NVMe disk";
/// Part 2, quantity: what a boot with the disk takes longer than one without, of the same round.
pub const DISK_ALONE: &str = "the disk's share of it";
/// Part 2, work of the bare calls: the guest's RAM, filled by as many threads as mini-vmm has for
/// that, while nothing else runs.
pub const BOOT_RAM: &str = "512 MiB of RAM, transparent huge pages";
/// Part 2, quantity: how long that takes.
pub const FILLED: &str = "filled";

/// Part 3, work: the small reads that wait for each other.
pub const ONE_AT_A_TIME: &str = "random 4 KiB reads, one at a time";
/// Part 3, work: the small reads side by side.
pub const SIDE_BY_SIDE: &str = "random 4 KiB reads, 32 at a time";
/// Part 3, work: the large reads.
pub const IN_ORDER: &str = "128 KiB reads in order";
/// Part 3, quantity: exits that reach the VMM.
pub const EXITS_TO_VMM: &str = "exits to the VMM for all reads";
/// Part 3, quantity: exits that reach KVM.
pub const EXITS_TO_KVM: &str = "exits to KVM for each read";
/// Part 3, quantity: exits for an interrupt of the host.
pub const HOST_INTERRUPTS: &str = "of them host interrupts";
/// Part 3, quantity: exits at the moment when the guest takes interrupts again.
pub const WINDOWS: &str = "of them to wait for a moment to interrupt the guest";
/// Part 3, quantity: exits that are neither a host interrupt's nor to deliver the guest's.
pub const OTHER_EXITS: &str = "of them for no interrupt";
/// Part 3, quantity: interrupts that the guest had.
pub const INJECTED: &str = "interrupts of the guest for each read";
/// Part 3, in what a run says about itself: how many reads of each small kind a round has.
pub const READS: &str = "reads of each kind in a round";

/// Part 4, quantity; where another number of threads than mini-vmm's filled the RAM, that number
/// follows.
pub const MAPPED: &str = "mapped";

/// In what a run says about itself: size and linkage of mini-vmm's program.
pub const PROGRAM: &str = "mini-vmm's program";

/// What a part of the bench is called.
pub fn part_title(part: u8) -> &'static str {
    match part {
        1 => "1. From process start to the guest's first instruction, on this machine's /dev/kvm",
        2 => "2. From process start to /init, in the lab",
        3 => "3. NVMe reads, in the lab",
        4 => "4. Memory for DMA, in the lab",
        _ => "5. Growth",
    }
}
