//! The ioctls of each kind of thread: one table, with why each is there.
//!
//! A request is compared by its 32 bits: direction, size, type and number. VFIO's requests have no
//! direction and no size, and some numbers have two meanings, which the descriptor decides:
//!
//! | number | of a device | of a container |
//! | --- | --- | --- |
//! | 0x3b70 | VFIO_DEVICE_GET_PCI_HOT_RESET_INFO | VFIO_IOMMU_GET_INFO |
//! | 0x3b71 | VFIO_DEVICE_PCI_HOT_RESET | VFIO_IOMMU_MAP_DMA |
//! | 0x3b72 | VFIO_DEVICE_QUERY_GFX_PLANE | VFIO_IOMMU_UNMAP_DMA |
//!
//! A list with one of the two has the other as well.

use super::kind::Kind::{self, *};

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Ioctl {
    /// The request.
    pub request: u32,
    /// Its name in the kernel's headers.
    pub name: &'static str,
    /// The kinds of threads.
    pub kinds: &'static [Kind],
    /// Why the request is there.
    pub why: &'static str,
}

/// The threads that carry out a guest's accesses, or act on devices while the guest runs.
const DEVICES: &[Kind] = &[Vcpu, Coalesced, Events, Removal, Changes];
/// The threads that open devices, or close them.
const OPENING: &[Kind] = &[Main, Changes, Removal, Events];

macro_rules! ioctls {
    ($($name:ident $request:literal, $kinds:expr, $why:literal;)+) => {
        /// The table. The most frequent request is the first.
        pub const IOCTLS: &[Ioctl] = &[$(Ioctl {
            request: $request,
            name: stringify!($name),
            kinds: $kinds,
            why: $why,
        },)+];
    };
}

ioctls! {
    KVM_RUN 0x0000_ae80, &[Vcpu], "runs the guest";
    // A vCPU.
    KVM_KVMCLOCK_CTRL 0x0000_aead, &[Vcpu], "the guest is told of a pause";
    KVM_GET_REGS 0x8090_ae81, &[Vcpu, Main], "the message of a run that cannot go on; a reset";
    KVM_GET_SREGS 0x8138_ae83, &[Vcpu, Main], "as KVM_GET_REGS";
    KVM_SET_REGS 0x4090_ae82, &[Main], "a reset of the guest";
    KVM_SET_SREGS 0x4138_ae84, &[Main], "a reset of the guest";
    KVM_SET_FPU 0x41a0_ae8d, &[Main], "a reset of the guest";
    KVM_SET_XSAVE 0x5000_aea5, &[Main], "a reset of the guest";
    KVM_SET_XCRS 0x4188_aea7, &[Main], "a reset of the guest";
    KVM_GET_MSRS 0xc008_ae88, &[Vcpu, Main], "the guest is told of lost memory; a reset";
    KVM_SET_MSRS 0x4008_ae89, &[Main], "a reset of the guest";
    KVM_SET_LAPIC 0x4400_ae8f, &[Main], "a reset of the guest";
    KVM_SET_MP_STATE 0x4004_ae99, &[Main], "a reset of the guest";
    KVM_SET_VCPU_EVENTS 0x4040_aea0, &[Main], "a reset of the guest";
    KVM_SET_DEBUGREGS 0x4080_aea2, &[Main], "a reset of the guest";
    KVM_SET_CPUID2 0x4008_ae90, &[Main], "a reset of the guest";
    KVM_X86_SET_MCE 0x4040_ae9e, &[Vcpu], "the guest is told of lost memory";
    // The VM.
    KVM_SET_USER_MEMORY_REGION 0x4020_ae46, DEVICES, "BARs in the guest's memory";
    KVM_IRQFD 0x4020_ae76, DEVICES, "interrupts";
    KVM_SET_GSI_ROUTING 0x4008_ae6a, DEVICES, "messages of interrupts";
    KVM_SIGNAL_MSI 0x4020_aea5, DEVICES, "a message of an interrupt";
    KVM_IRQ_LINE 0x4008_ae61, DEVICES, "interrupts of pins and of the serial port";
    KVM_IRQ_LINE 0x4008_ae61, &[Main, Console], "interrupts of the serial port";
    KVM_REGISTER_COALESCED_MMIO 0x4010_ae67, DEVICES, "writes to unused vectors";
    KVM_UNREGISTER_COALESCED_MMIO 0x4010_ae68, DEVICES, "writes to unused vectors";
    KVM_GET_IRQCHIP 0xc208_ae62, &[Main], "a reset of the guest";
    KVM_SET_IRQCHIP 0x8208_ae63, &[Main], "a reset of the guest";
    KVM_GET_DEVICE_ATTR 0x4018_aee2, &[Main], "the TSC at a reset of the guest";
    KVM_SET_DEVICE_ATTR 0x4018_aee1, OPENING, "KVM learns of a device";
    KVM_GET_STATS_FD 0x0000_aece, &[Main, Queries], "--stats, vm.counters";
    // Devices.
    VFIO_DEVICE_GET_INFO 0x3b6b, &[Main, Changes], "what an added device has";
    VFIO_DEVICE_GET_REGION_INFO 0x3b6c, &[Vcpu, Main, Changes], "regions of a device";
    VFIO_DEVICE_GET_IRQ_INFO 0x3b6d, &[Vcpu, Main, Changes], "interrupts of a device";
    VFIO_DEVICE_SET_IRQS 0x3b6e, DEVICES, "interrupts of a device";
    VFIO_DEVICE_SET_IRQS 0x3b6e, &[Main], "interrupts of a device at a reset";
    VFIO_DEVICE_RESET 0x3b6f, &[Vcpu, Main, Changes], "where no other process resets it";
    VFIO_DEVICE_GET_PCI_HOT_RESET_INFO 0x3b70, DEVICES, "which devices a reset of a bus reaches";
    VFIO_DEVICE_GET_PCI_HOT_RESET_INFO 0x3b70, &[Main], "which devices a reset reaches";
    VFIO_DEVICE_FEATURE 0x3b75, DEVICES, "low power, DMA-BUF";
    VFIO_DEVICE_FEATURE 0x3b75, &[Memory, Main], "DMA-BUF";
    // Maps of memory for DMA.
    VFIO_IOMMU_MAP_DMA 0x3b71, DEVICES, "BARs for other devices";
    VFIO_IOMMU_MAP_DMA 0x3b71, &[Memory, Main], "guest RAM; a hot reset";
    VFIO_IOMMU_UNMAP_DMA 0x3b72, DEVICES, "BARs, and RAM of the last device";
    VFIO_IOMMU_UNMAP_DMA 0x3b72, &[Memory, Main], "a part that could not be mapped whole";
    IOMMU_IOAS_MAP 0x3b85, DEVICES, "BARs for other devices";
    IOMMU_IOAS_MAP 0x3b85, &[Memory, Main], "guest RAM";
    IOMMU_IOAS_UNMAP 0x3b86, DEVICES, "BARs, and RAM of the last device";
    IOMMU_IOAS_UNMAP 0x3b86, &[Memory, Main], "a part that could not be mapped whole";
    IOMMU_IOAS_MAP_FILE 0x3b8f, DEVICES, "BARs by DMA-BUF";
    IOMMU_IOAS_MAP_FILE 0x3b8f, &[Memory, Main], "BARs that have waited for RAM";
    // Opening a device for the running guest, and closing one.
    VFIO_GET_API_VERSION 0x3b64, &[Changes], "a container";
    VFIO_CHECK_EXTENSION 0x3b65, &[Changes], "a container";
    VFIO_SET_IOMMU 0x3b66, &[Changes], "a container";
    VFIO_GROUP_GET_STATUS 0x3b67, &[Changes], "a group";
    VFIO_GROUP_SET_CONTAINER 0x3b68, &[Changes], "a group";
    VFIO_GROUP_UNSET_CONTAINER 0x3b69, OPENING, "a group is left";
    VFIO_GROUP_GET_DEVICE_FD 0x3b6a, &[Changes], "where no other process opens devices";
    VFIO_DEVICE_BIND_IOMMUFD 0x3b76, &[Changes], "where no other process opens devices";
    VFIO_DEVICE_ATTACH_IOMMUFD_PT 0x3b77, &[Changes], "where no other process opens devices";
    VFIO_DEVICE_DETACH_IOMMUFD_PT 0x3b78, OPENING, "where no other process closes devices";
    IOMMU_DESTROY 0x3b80, OPENING, "the end of an I/O address space";
    IOMMU_IOAS_ALLOC 0x3b81, &[Changes], "an I/O address space";
    IOMMU_IOAS_IOVA_RANGES 0x3b84, &[Changes], "what an IOMMU can map";
    // The terminal.
    TCSETS2 0x402c_542b, &Kind::ALL, "each way to the end restores the terminal's mode";
    TCSETS 0x5402, &Kind::ALL, "as TCSETS2, for older kernels";
    TCGETS2 0x802c_542a, &[Main], "the terminal's mode";
    TCGETS 0x5401, &[Main, Api, Queries], "whether a stream is a terminal";
    TIOCGPGRP 0x540f, &[Main], "whether the terminal is this job's";
    TIOCGWINSZ 0x5413, &[Main], "the width of a progress bar";
    FIONBIO 0x5421, &[Main, Api], "a connection does not block";
}

/// The requests of a kind's list.
#[cfg(test)]
pub fn list(kind: Kind) -> impl Iterator<Item = &'static Ioctl> {
    IOCTLS.iter().filter(move |row| kind.has(row.kinds))
}
