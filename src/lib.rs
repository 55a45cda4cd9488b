//! mini-vmm boots a Linux guest under KVM and hands it real PCI devices with VFIO, at full speed.
//!
//! This library is the whole VMM; the program only parses its flags ([`cli`]) and runs a
//! [`machine::Machine`]. It is meant to be read: the map below says which file does what, and four
//! paths through it explain passthrough. All of it is x86-64 Linux.
//!
//! # The map
//!
//! | room | what happens there |
//! | --- | --- |
//! | [`cli`], [`config`] | flags to a validated description of a VM |
//! | [`machine`] | the composition root: reads top to bottom as the boot order |
//! | [`lifecycle`], [`console`] | the main loop: the guest's end, signals, the keyboard |
//! | [`layout`] | every guest-physical address, with the picture |
//! | [`bus`] | port and MMIO accesses to the device that claims them |
//! | [`memory`] | one address space; [KVM's slots](memory::kvm_slots) and the [IOMMU](memory::dma) listen to it |
//! | [`boot`] | kernels, ACPI tables, the first registers |
//! | [`vcpu`] | threads, the [exit loop](vcpu::exit_loop), [reset](vcpu::state), [CPUID](vcpu::cpuid) |
//! | [`pci`] | PCI as the guest sees it: bytes in, bytes and effects out; knows neither KVM nor VFIO |
//! | [`gsi`] | GSIs, the [routing table](gsi::routing), [irqfds](gsi::msi_irqfd) |
//! | [`vfio`] | the host's devices: opening them, and one [function](vfio::function) of the guest for each |
//! | [`host`] | what the host's kernel says about devices and memory: [listed](host::list), [judged](host::check); devices [bound](host::bind) and given back |
//! | [`devices`] | the few devices of our own: serial port, power |
//! | [`observe`] | [counters](observe::stats), [phases](observe::phases), progress, bounded logging |
//! | [`sys`] | the few system calls that no crate wraps |
//!
//! # Four paths
//!
//! ## A guest writes configuration space
//!
//! ```text
//! vcpu::exit_loop ─► bus ─► pci::access ─► pci::access ─► pci::bus
//!                                                                      │
//!       vfio::device ◄─ passed ─ vfio::function ◄──────────────────────┘
//!                                  │ emulated: who answers what is vfio::config_policy
//!                                  ├─► pci::config_space
//!                                  ├─► pci::bar ─► pci::decoder ─► vfio::placement
//!                                  └─► pci::msix ─► vfio::interrupts
//! ```
//!
//! The guest's `out` to 0xcfc, or its store into ECAM, ends KVM_RUN (the `out` to 0xcf8 before it does
//! not: KVM keeps it, [`vcpu::coalesced`]). [`pci::access`] says
//! which function and register it means. [`vfio::function`] splits the access into bytes that the
//! device answers and bytes that are answered here; the table in [`vfio::config_policy`] says which
//! and why. A changed BAR or COMMAND becomes an effect of [`pci::decoder`], a changed MSI-X control
//! word one of [`pci::msix`], and both are carried out before the guest goes on.
//!
//! ## A guest touches a BAR
//!
//! ```text
//! set-up:    pci::decoder ─► vfio::placement ─► vfio::bar_map ─► memory ─┬─► memory::kvm_slots
//!                                                                        └─► memory::dma
//! then:      the guest's load or store ─► the device        (no exit, no code of ours)
//! trapped:   vcpu::exit_loop ─► bus ─► vfio::trap ─► pci::msix, vfio::rom or vfio::device
//! ```
//!
//! A BAR is mapped into this process from the device's file, and its pages become a KVM memory slot:
//! the guest's page tables point at the device. Only the pages with the MSI-X table and its pending
//! bits are left out ([`vfio::bar_map::plan`]), because what the guest sees there is virtual. The
//! expansion ROM counts as a seventh BAR without mapped pieces ([`vfio::rom`]).
//!
//! ## A device interrupts the guest
//!
//! ```text
//! set-up:    pci::msix ─► vfio::interrupts ─┬─► vfio::device       VFIO_DEVICE_SET_IRQS: eventfd
//!                                           └─► gsi::msi_irqfd     route, then KVM_IRQFD: the same eventfd
//! then:      the device's message ─► VFIO's handler ─► eventfd ─► KVM ─► the guest's local APIC
//! ```
//!
//! The guest unmasks a vector in the virtual table. It gets an eventfd and a GSI; the GSI's route is
//! the guest's message; VFIO signals the eventfd and KVM turns the signal into the message. All of it
//! happens in the kernel, and no thread here wakes. Masking takes the irqfd away and keeps the
//! eventfd, so that what comes meanwhile is not lost but pending. A device that the guest drives by
//! MSI or by its pin takes the same way; the pin has a second eventfd back to VFIO, for the end of
//! each interrupt.
//!
//! ## Guest memory becomes reachable for DMA
//!
//! ```text
//! machine ─► memory::ram          reserve, 1 GiB-congruent; huge pages
//!         ─► memory               one address space
//!              ├─► memory::kvm_slots    KVM_SET_USER_MEMORY_REGION
//!              └─► memory::dma          hears of each region
//!         ─► memory::pinning      beside the guest: populate on several CPUs, then map
//!              └─► memory::dma ─► vfio::mapper       VFIO_IOMMU_MAP_DMA: I/O address = guest address
//! vfio::function ◄─ the guest lets the device master the bus: it waits until all is mapped
//! ```
//!
//! The guest programs its device with guest-physical addresses; the IOMMU translates them to the
//! same pages that KVM shows the guest. The pages are pinned for that, which is why a guest with a
//! device has all its memory present before the device may use any of it.
//!
//! # Seams
//!
//! [`vfio::device::Device`] stands above the kernel's device file, so a test can put a device of its
//! own behind a real KVM. [`memory::MemoryListener`] is all that KVM's slots and the IOMMU have in
//! common. What a guest does wrong is answered as hardware would and logged with a bound; what the
//! user does wrong ends the run with a sentence and a hint.

pub mod cli;
pub mod explain;
pub mod report;
pub mod run;
