//! mini-vmm boots a Linux guest under KVM and passes real PCI devices to it with VFIO.
//!
//! This crate is the program's own part: the command line, `explain`, and the report of a run. The
//! virtual machine monitor is the crate [`vmm`]. All of it is x86-64 Linux.
//!
//! # The map
//!
//! ```text
//!   mini-vmm   src/        command line ─ explain ─ report ─ run
//!                 │            │
//!                 │            ▼
//!                 │       host   src/host/     check, list, bind, unbind
//!                 │            │           api   src/api/   HTTP on a Unix socket
//!                 ▼            │           trace src/trace/ KVM and VFIO calls of any program
//!   vmm        src/vmm/ ◄──────┘   machine ─ vcpu ─ memory ─ vfio ─ gsi ─ boot ─ …
//!                 │
//!                 ▼
//!   pci        src/pci/        registers, capabilities, BARs, MSI-X; knows neither KVM nor VFIO
//! ```
//!
//! An arrow is a dependency that Cargo knows, so the compiler keeps these walls. Inside of each
//! crate no file and no folder imports itself by way of others; a test prints any circle.
//!
//! | crate | what is in it |
//! | --- | --- |
//! | [`pci`] | PCI as the guest sees it: bytes in, bytes and effects out |
//! | [`vmm`] | KVM, guest memory, boot, devices; [`vmm::machine::Machine`] puts them together |
//! | [`api`] | HTTP with JSON on a Unix socket, for `--api-socket`; knows no guest |
//! | [`host`] | the host's side: devices are checked, listed, bound, and given back |
//! | [`trace`] | calls and exits of any program, for `mini-vmm trace`; knows no VMM |
//! | `mini_vmm` | [`cli`], [`explain`], [`report`], [`control`], [`ctl`], [`tracer`], and [`run`] |
//!
//! | module of `vmm` | what is in it |
//! | --- | --- |
//! | [`machine`](vmm::machine) | the boot order, step by step |
//! | [`lifecycle`](vmm::lifecycle) | the main loop: the guest's end, signals |
//! | [`control`](vmm::control) | pause, resume, reboot, for another thread |
//! | [`console`](vmm::console) | the user's terminal as the guest's serial console |
//! | [`layout`](vmm::layout) | every guest-physical address, with a picture |
//! | [`bus`](vmm::bus) | port and MMIO accesses to the device that claims them |
//! | [`coalesced`](vmm::coalesced) | writes that KVM keeps until the next exit |
//! | [`memory`](vmm::memory) | the guest's address space; KVM's slots and the IOMMU listen to it |
//! | [`boot`](vmm::boot) | kernels, ACPI tables, the first registers |
//! | [`vcpu`](vmm::vcpu) | threads, the exit loop, reset, CPUID |
//! | [`gsi`](vmm::gsi) | GSIs, the routing table, irqfds |
//! | [`vfio`](vmm::vfio) | opening devices, and one function of the guest for each |
//! | [`devices`](vmm::devices) | the emulated devices: serial port, power |
//! | [`config`](vmm::config) | a validated description of a VM, and the parser of flags' values |
//! | [`hostinfo`](vmm::hostinfo), [`sys`](vmm::sys) | facts from /sys and /proc, and system calls |
//! | [`log`](vmm::log) | messages, progress, and the phases of a start |
//! | [`counters`](vmm::counters), [`stats`](vmm::stats) | counters of exits, maps and interrupts |
//!
//! The reading tour is docs/reading.md: twenty whole files in order, at most 4,000 lines.
//!
//! # Four paths
//!
//! The table of the files that each path visits comes after the pictures.
//!
//! ### A guest writes configuration space
//!
//! ```text
//! vcpu::exit_loop ─► bus ─► pci::access ─► pci::bus ─► vfio::function
//!                                                        │
//!        device ◄─ connection ◄─ passed ─────────────────┤
//!                                                        │ emulated
//!        pci::config_space ◄─────────────────────────────┤
//!        decode: pci::{bar, decoder} ─► memory ◄─────────┤ a BAR, or COMMAND
//!        interrupts: pci::{msi, msix} ─► gsi, device ◄───┘ a capability of interrupts
//! ```
//!
//! The guest's `out` to 0xcfc, or its store into ECAM, ends KVM_RUN. The `out` to 0xcf8 before it
//! does not: KVM keeps that write ([`vmm::coalesced`]). [`pci::access`] decodes which function and
//! register are meant. [`vmm::vfio::function`] splits the access into parts that the device answers
//! and parts that are answered here. The table of [`vmm::vfio::function::policy`] has decided that
//! for each byte when the function was made, with the reason. A changed BAR or COMMAND then changes
//! the guest's address map, and a changed capability of interrupts changes VFIO's and KVM's side,
//! before the guest goes on.
//!
//! ### A guest touches a BAR
//!
//! ```text
//! set-up:   vfio::function::decode ─► memory::address_space ─┬─► memory::kvm_slots
//!           (areas: vfio::function::mmap_areas)              └─► memory::dma
//! then:     the guest's load or store ─► the device           (no exit, no code of mini-vmm)
//! trapped:  vcpu::exit_loop ─► bus ─► vfio::function ─► pci::msix, rom, or the device
//! ```
//!
//! A BAR is mapped into this process from the device's file, and its pages become a memory slot of
//! KVM: the guest's page tables lead to the device. Only the pages with the MSI-X table and its
//! pending bits are left out, because the guest sees virtual ones. The expansion ROM is a seventh
//! BAR that is trapped whole.
//!
//! ### A device interrupts the guest
//!
//! ```text
//! set-up:   pci::msix ─► vfio::interrupts ─┬─► device   VFIO_DEVICE_SET_IRQS with an eventfd
//!                                          └─► gsi      a route, then KVM_IRQFD: the same eventfd
//! then:     the device's message ─► VFIO's handler ─► eventfd ─► KVM ─► the guest's local APIC
//! ```
//!
//! The guest unmasks a vector in the virtual table. The vector gets an eventfd and a GSI whose
//! route is the guest's message. VFIO signals the eventfd, and KVM turns the signal into the
//! message; no thread of mini-vmm wakes. Masking takes the irqfd away and keeps the eventfd, so
//! that an interrupt of the meantime is pending and not lost. MSI and the interrupt pin go the same
//! way; the pin has a second eventfd back to VFIO, for the end of each interrupt.
//!
//! ### Guest memory becomes reachable for DMA
//!
//! ```text
//! machine ─► memory::ram                reserve, huge pages
//!         ─► memory::address_space ─┬─► memory::kvm_slots   KVM_SET_USER_MEMORY_REGION
//!                                   └─► memory::dma         remembers each region
//!         ─► memory::prefault           beside the guest: populate on several CPUs, then map
//!              └─► memory::dma ─► vfio::dma                 I/O address = guest-physical address
//! vfio::function ◄─ a write that sets Bus Master Enable waits in memory::dma_ready
//! ```
//!
//! The guest programs its device with guest-physical addresses, and the IOMMU translates them to
//! the pages that KVM shows the guest. The maps pin these pages, so a guest with a device has all
//! its memory present before the device may use any of it.
//!
//! # Seams
//!
//! [`vmm::vfio::device::Device`] stands above the kernel's device file, so that a test can put a
//! device of its own behind a real KVM. `MemoryListener` is all that KVM's slots and the IOMMU have
//! in common. A mistake of a guest is answered as hardware would answer, and logged with a bound. A
//! mistake of the user ends the run with a sentence and a hint.
//!
#![doc = include_str!("../docs/paths.md")]
//!
#![doc = include_str!("../docs/walks.md")]

pub mod api_socket;
pub mod cli;
pub mod control;
pub mod ctl;
pub mod explain;
pub mod handover;
pub mod report;
pub mod run;
pub mod tracer;
