//! What a call says about address spaces, and about who answers an address.

use std::collections::{BTreeMap, HashMap};

use crate::decode::value::{Field, Kind, Value};
use crate::event::{Body, Call, Event};
use crate::files::open_file::{FileKind, FileRef};
use crate::guest::access::Space;
use crate::output::html::answers::Answers;
use crate::output::html::areas::{Area, Areas, Side, SpaceId};
use crate::output::html::number;

/// The most address spaces and slots that are remembered.
const MOST: usize = 1 << 16;
/// Slot numbers have the address space above these bits (api.rst 4.35): 1 is that of SMM.
const SLOT_BITS: u32 = 16;
/// KVM_MEM_READONLY.
const READ_ONLY: u64 = 2;
/// VFIO_DMA_UNMAP_FLAG_ALL.
const UNMAP_ALL: u64 = 2;
/// VFIO_DMA_MAP_FLAG_VADDR and VFIO_DMA_UNMAP_FLAG_VADDR.
const VADDR: u64 = 4;
/// KVM_IOEVENTFD_FLAG_PIO and KVM_IOEVENTFD_FLAG_DEASSIGN.
const PIO: u64 = 2;
const DEASSIGN: u64 = 4;
/// KVM_PIT_SPEAKER_DUMMY.
const SPEAKER: u64 = 1;
/// Devices that KVM_CREATE_IRQCHIP makes (arch/x86/kvm/i8259.c and ioapic.h).
const PICS: [(u64, u64); 3] = [(0x20, 2), (0xa0, 2), (0x4d0, 2)];
const IO_APIC: (u64, u64) = (0xfec0_0000, 0x100);
/// The local APIC's page, unless a guest moves it (arch/x86/include/asm/apicdef.h).
const LOCAL_APIC: (u64, u64) = (0xfee0_0000, 0x1000);

/// What is said of a coalesced zone.
pub const COALESCED: &str = "keeps writes in the coalesced ring";

/// A VM.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The number of its file.
    pub file: u32,
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: i32,
}

/// What is known of address spaces.
#[derive(Debug, Default)]
pub struct Known {
    /// What is mapped.
    pub areas: Areas,
    /// Who answers.
    pub answers: Answers,
    /// Names of address spaces.
    pub names: BTreeMap<SpaceId, String>,
    /// VMs by the numbers of their files.
    pub machines: BTreeMap<u32, Machine>,
    /// Where each slot is.
    slots: HashMap<(SpaceId, u64), (u64, u64)>,
    /// When a guest has run last.
    pub last_run: Option<u64>,
}

impl Known {
    /// Learns from an event.
    pub fn learn(&mut self, event: &Event) {
        let vm = event.file.as_ref().and_then(|file| file.vm);
        match &event.body {
            Body::Call(call) if call.result >= 0 || is_address(call.result) => {
                self.call(event, call);
            }
            Body::Exit(left) => {
                if !left.immediate {
                    self.last_run = self.last_run.max(Some(event.time));
                }
                if let Some(vm) = vm {
                    self.answers.exit(vm, event.tid, left);
                }
            }
            Body::Coalesced(access, meaning) => {
                if let Some(vm) = vm {
                    self.answers.coalesced(vm, access, meaning);
                }
            }
            Body::Entered => self.answers.entered(event.tid),
            _ => {}
        }
    }

    fn call(&mut self, event: &Event, call: &Call) {
        let Some(file) = &event.file else {
            if matches!(call.name.as_ref(), "munmap" | "mremap") {
                self.unmap_host(event, call);
            }
            return;
        };
        match file.kind {
            FileKind::Calls(Kind::Vm | Kind::TdxVm) => self.vm(event, call, file),
            FileKind::Calls(Kind::Container) => self.dma(event, call, file, None),
            FileKind::Calls(Kind::Iommufd) => self.iommufd(event, call, file),
            _ => {}
        }
        match call.name.as_ref() {
            "mmap" => self.map_host(event, call, file),
            "munmap" | "mremap" => self.unmap_host(event, call),
            _ => {}
        }
        if event.below && file.kind == FileKind::Calls(Kind::Device) {
            self.answers.passed(event.tid, &file.name);
        }
    }

    fn name(&mut self, side: Side, number: u64, name: impl FnOnce() -> String) -> SpaceId {
        let id = SpaceId { side, number };
        if self.names.len() < MOST {
            self.names.entry(id).or_insert_with(name);
        }
        id
    }

    fn host(&mut self, pid: i32) -> SpaceId {
        self.name(Side::Host, pid as u64, || format!("process {pid}"))
    }

    fn vm(&mut self, event: &Event, call: &Call, file: &FileRef) {
        if self.machines.len() < MOST {
            self.machines.entry(file.id).or_insert_with(|| Machine {
                file: file.id,
                name: file.name.clone(),
                pid: event.pid,
            });
        }
        let field = |name: &str| number::of(call.ins.iter(), name).unwrap_or(0);
        let answers = &mut self.answers;
        match call.name.as_ref() {
            "KVM_SET_USER_MEMORY_REGION" | "KVM_SET_USER_MEMORY_REGION2" => {
                self.slot(event, call, file);
            }
            "KVM_CREATE_IRQCHIP" => {
                for (port, size) in PICS {
                    answers.in_kernel(
                        file.id,
                        Space::Port,
                        port,
                        size,
                        "interrupt controller 8259",
                    );
                }
                let (at, size) = IO_APIC;
                answers.in_kernel(file.id, Space::Memory, at, size, "IO-APIC");
                let (at, size) = LOCAL_APIC;
                answers.in_kernel(file.id, Space::Memory, at, size, "local APIC");
            }
            "KVM_ENABLE_CAP" if is_named(&call.ins, "cap", "KVM_CAP_SPLIT_IRQCHIP") => {
                let (at, size) = LOCAL_APIC;
                answers.in_kernel(file.id, Space::Memory, at, size, "local APIC");
            }
            "KVM_CREATE_PIT2" => {
                answers.in_kernel(file.id, Space::Port, 0x40, 4, "timer 8254");
                if field("flags") & SPEAKER != 0 {
                    answers.in_kernel(file.id, Space::Port, 0x61, 1, "timer 8254 (speaker)");
                }
            }
            "KVM_IOEVENTFD" => {
                let space = match field("flags") & PIO {
                    0 => Space::Memory,
                    _ => Space::Port,
                };
                let eventfd = call.names.descriptors.values().next();
                let what = format!("signals {}", eventfd.map_or("an eventfd", |name| name));
                let (at, size) = (field("addr"), field("len"));
                match field("flags") & DEASSIGN {
                    0 => answers.in_kernel(file.id, space, at, size, &what),
                    _ => answers.not_in_kernel(file.id, |there| {
                        there.what == what && there.is_whole(space, at, size)
                    }),
                }
            }
            "KVM_REGISTER_COALESCED_MMIO" | "KVM_UNREGISTER_COALESCED_MMIO" => {
                let space = match field("pio") {
                    0 => Space::Memory,
                    _ => Space::Port,
                };
                let (at, size) = (field("addr"), field("size"));
                match call.name.starts_with("KVM_REG") {
                    true => answers.in_kernel(file.id, space, at, size, COALESCED),
                    // KVM gives each zone up that has the range (virt/kvm/coalesced_mmio.c).
                    false => answers.not_in_kernel(file.id, |there| {
                        there.what == COALESCED && there.has(space, at, size)
                    }),
                }
            }
            _ => {}
        }
    }

    fn slot(&mut self, event: &Event, call: &Call, file: &FileRef) {
        let field = |name: &str| number::of(call.ins.iter(), name);
        let (Some(slot), Some(start), Some(size), Some(host)) = (
            field("slot"),
            field("guest_phys_addr"),
            field("memory_size"),
            field("userspace_addr"),
        ) else {
            return;
        };
        let smm = slot >> SLOT_BITS;
        let number = u64::from(file.id) << 32 | smm;
        let space = self.name(Side::Guest, number, || match smm {
            0 => format!("guest memory of {}", file.name),
            smm => format!("guest memory of {}, address space {smm}", file.name),
        });
        if let Some((at, size)) = self.slots.remove(&(space, slot)) {
            self.areas.unmap(space, at, size, event.time);
        }
        if size == 0 || self.slots.len() >= MOST {
            return;
        }
        self.slots.insert((space, slot), (start, size));
        let host_space = self.host(event.pid);
        let backing = self.areas.at(host_space, host);
        let mut what = backing.map_or_else(|| "RAM".into(), |area| area.what.clone());
        if field("flags").unwrap_or(0) & READ_ONLY != 0 {
            what += ", read-only";
        }
        self.areas.map(Area {
            space,
            pid: event.pid,
            start,
            size,
            host: Some(host),
            what: format!("slot {}: {what}", slot & ((1 << SLOT_BITS) - 1)),
            since: event.time,
            until: None,
            times: 1,
        });
    }

    /// Maps of a container, or of the IOAS of an iommufd that stands for one.
    fn dma(&mut self, event: &Event, call: &Call, file: &FileRef, ioas: Option<u64>) {
        let field = |name: &str| number::of(call.ins.iter().chain(&call.outs), name);
        let space = self.io_space(file, ioas);
        match (call.name.as_ref(), field("iova"), field("size")) {
            // The address in the VMM alone changes hands: the map stays (linux/vfio.h,
            // VFIO_DMA_UNMAP_FLAG_VADDR).
            _ if field("flags").unwrap_or(0) & VADDR != 0 => {}
            ("VFIO_IOMMU_MAP_DMA", Some(iova), Some(size)) => {
                self.map_io(event, space, (iova, size), field("vaddr"));
            }
            ("VFIO_IOMMU_UNMAP_DMA", ..) if field("flags").unwrap_or(0) & UNMAP_ALL != 0 => {
                self.areas.unmap(space, 0, u64::MAX, event.time);
            }
            ("VFIO_IOMMU_UNMAP_DMA", Some(iova), Some(size)) => {
                self.areas.unmap(space, iova, size, event.time);
            }
            _ => {}
        }
    }

    fn iommufd(&mut self, event: &Event, call: &Call, file: &FileRef) {
        let field = |name: &str| number::of(call.ins.iter().chain(&call.outs), name);
        let ranged = (field("ioas_id"), field("iova"), field("length"));
        match (call.name.as_ref(), ranged) {
            ("IOMMU_IOAS_MAP", (Some(ioas), Some(iova), Some(size))) => {
                let space = self.io_space(file, Some(ioas));
                self.map_io(event, space, (iova, size), field("user_va"));
            }
            ("IOMMU_IOAS_MAP_FILE", (Some(ioas), Some(iova), Some(size))) => {
                let space = self.io_space(file, Some(ioas));
                self.map_io(event, space, (iova, size), None);
            }
            ("IOMMU_IOAS_UNMAP", (Some(ioas), Some(iova), _)) => {
                let space = self.io_space(file, Some(ioas));
                let size = number::of(call.ins.iter(), "length").unwrap_or(0);
                self.areas.unmap(space, iova, size, event.time);
            }
            ("IOMMU_IOAS_COPY", _) => {
                let all = [field("dst_ioas_id"), field("dst_iova"), field("length")];
                if let [Some(ioas), Some(iova), Some(size)] = all {
                    let from = self.io_space(file, field("src_ioas_id"));
                    let at = field("src_iova").unwrap_or(0);
                    let source = self.areas.at(from, at);
                    let host = source.and_then(|a| Some(a.host?.wrapping_add(at - a.start)));
                    let space = self.io_space(file, Some(ioas));
                    self.map_io(event, space, (iova, size), host);
                }
            }
            // An iommufd stands for a container (Documentation/driver-api/vfio.rst).
            _ => self.dma(event, call, file, None),
        }
    }

    fn io_space(&mut self, file: &FileRef, ioas: Option<u64>) -> SpaceId {
        let number = u64::from(file.id) << 32 | ioas.map_or(0, |ioas| ioas & 0xffff_ffff);
        let id = SpaceId {
            side: Side::Io,
            number,
        };
        if self.names.len() < MOST {
            self.names.entry(id).or_insert_with(|| match ioas {
                Some(ioas) => format!("I/O addresses of {}, ioas {ioas}", file.name),
                None => format!("I/O addresses of {}", file.name),
            });
        }
        id
    }

    fn map_io(
        &mut self,
        event: &Event,
        space: SpaceId,
        (start, size): (u64, u64),
        host: Option<u64>,
    ) {
        let host_space = self.host(event.pid);
        let backing = host.and_then(|host| self.areas.at(host_space, host));
        let what = match (backing, host) {
            (Some(area), _) => area.what.clone(),
            (None, Some(_)) => "RAM".into(),
            (None, None) => "a file's memory".into(),
        };
        self.areas.map(Area {
            space,
            pid: event.pid,
            start,
            size,
            host,
            what,
            since: event.time,
            until: None,
            times: 1,
        });
    }

    fn map_host(&mut self, event: &Event, call: &Call, file: &FileRef) {
        let space = self.host(event.pid);
        let size = number::of(call.ins.iter(), "length").unwrap_or(0);
        let what = match (&call.note, file.kind) {
            (Some(note), _) => format!("{} {note}", file.name),
            (None, FileKind::Calls(Kind::Vcpu)) => format!("{}: KVM's run page", file.name),
            (None, _) => file.name.clone(),
        };
        self.areas.map(Area {
            space,
            pid: event.pid,
            start: call.result as u64,
            size,
            host: None,
            what,
            since: event.time,
            until: None,
            times: 1,
        });
    }

    fn unmap_host(&mut self, event: &Event, call: &Call) {
        let space = self.host(event.pid);
        let field = |name: &str| number::of(call.ins.iter(), name).unwrap_or(0);
        let (at, size) = (field("addr"), field("length"));
        self.areas.unmap(space, at, size, event.time);
    }
}

/// Whether the result of mmap(2) is an address that is negative as a number.
fn is_address(result: i64) -> bool {
    result < -4095
}

fn is_named(fields: &[Field], field: &str, name: &str) -> bool {
    let field = fields.iter().find(|f| f.name == field);
    matches!(field.map(|f| &f.value), Some(Value::Name(_, of)) if *of == name)
}
