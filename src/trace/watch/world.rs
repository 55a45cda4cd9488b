//! All that the trace knows.

use std::collections::{BTreeMap, HashMap};
use std::rc::Weak;

use libc::pid_t;
use pci::regs;

use crate::decode::value::Memory;
use crate::event::{Body, Event};
use crate::files::open_file::{FileRef, OpenFile};
use crate::files::table::Tables;
use crate::files::under_way::UnderWay;
use crate::guest::acpi::GuestMemory;
use crate::guest::ring::Cursor;
use crate::guest::shadow::Shadow;
use crate::guest::vm::GuestVm;
use crate::kernel::kept::Keeper;
use crate::output::emitter::Emitter;
use crate::shared::{Id, Shared};
use crate::sys::memory::Remote;
use crate::watch::maps::Mappings;
use crate::watch::page::Page;
use crate::watch::thread::Thread;

/// The most regions of a device, slots of a VM, and objects of an iommufd that are remembered.
pub const MOST_REGIONS: usize = 256;
/// The same for VMs; the oldest is forgotten that is closed. QEMU makes a few to ask KVM.
pub const MOST_VMS: usize = 64;
/// The most VMs that are remembered if none is closed.
pub const MOST_OPEN_VMS: usize = 1 << 14;
/// The same for VFIO devices.
pub const MOST_DEVICES: usize = 1024;
/// The same for slots.
pub const MOST_SLOTS: usize = 1 << 15;
/// The same for objects.
pub const MOST_OBJECTS: usize = 1 << 16;

/// A part of the guest's memory.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// The guest-physical address.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// The address in the VMM.
    pub host: u64,
}

/// A VM.
#[derive(Debug)]
pub struct Vm {
    /// What its guest did.
    pub guest: GuestVm,
    /// Its memory, by slot.
    pub slots: BTreeMap<u32, Slot>,
    /// The memory of the process that has made it.
    pub space: Id,
    /// Its file, as long as it is open.
    pub file: Weak<OpenFile>,
    /// The entries of its ring that were seen.
    pub cursor: Cursor,
    /// When its ring was looked at last.
    pub looked: u64,
    /// A vCPU's mapping, which has the ring.
    pub ring: Option<u64>,
}

impl Vm {
    /// Whether no descriptor of it is known any more.
    fn is_closed(&self) -> bool {
        self.file.strong_count() == 0
    }
}

/// A VFIO device.
#[derive(Debug)]
pub struct HostDevice {
    /// Offset in the file and size of each region.
    pub regions: BTreeMap<u32, (u64, u64)>,
    /// What was read from its configuration space.
    pub config: Shadow,
}

impl Default for HostDevice {
    fn default() -> Self {
        let mut config = Shadow::default();
        // VFIO has no bridges (vfio_pci_core_register_device of drivers/vfio/pci/vfio_pci_core.c).
        config.read(regs::HEADER_TYPE, &[0]);
        Self {
            regions: BTreeMap::new(),
            config,
        }
    }
}

/// The world of the traced programs.
#[derive(Default)]
pub struct World {
    /// Descriptors.
    pub tables: Tables,
    /// Memory.
    pub spaces: Shared<Mappings>,
    /// VMs by the ids of their files.
    pub vms: HashMap<u32, Vm>,
    /// VFIO devices by the ids of their files.
    pub devices: HashMap<u32, HostDevice>,
    /// Objects of each iommufd, by the id of its file: the word for the kind.
    pub objects: HashMap<u32, BTreeMap<u32, String>>,
    /// Files that messages take to other processes.
    pub under_way: UnderWay,
    /// When the rings of guests that make no exit are looked at again.
    pub ring_look: u64,
    /// What the rings said at the last stop of a thread at which they are looked at.
    pub rings: Vec<(u32, Page)>,
    /// What keeps calls in the kernel, if threads are not to stop at each.
    pub keeper: Option<Keeper>,
    /// Where events go.
    pub out: Emitter,
}

impl World {
    /// Makes a world that knows nothing.
    pub fn new(out: Emitter) -> Self {
        Self {
            out,
            ..Self::default()
        }
    }

    /// The VM of a file that was made in this memory.
    pub fn vm(&mut self, id: u32, space: Id) -> &mut Vm {
        if self.vms.len() >= MOST_VMS && !self.vms.contains_key(&id) {
            let closed = self.vms.iter().filter(|(_, vm)| vm.is_closed());
            let closed = closed.map(|(id, _)| *id).min();
            let full = self.vms.len() >= MOST_OPEN_VMS;
            let oldest = full.then(|| self.vms.keys().min().copied()).flatten();
            closed.or(oldest).map(|oldest| self.vms.remove(&oldest));
        }
        self.vms.entry(id).or_insert_with(|| Vm {
            guest: GuestVm::default(),
            slots: BTreeMap::new(),
            space,
            file: Weak::new(),
            cursor: Cursor::default(),
            looked: 0,
            ring: None,
        })
    }

    /// A device, if there is room for it.
    pub fn device(&mut self, id: u32) -> Option<&mut HostDevice> {
        if self.devices.len() >= MOST_DEVICES && !self.devices.contains_key(&id) {
            return None;
        }
        Some(self.devices.entry(id).or_default())
    }

    /// Shows an event of a thread.
    pub fn emit(
        &mut self,
        thread: &Thread,
        time: u64,
        took: u64,
        file: Option<FileRef>,
        body: Body,
    ) {
        self.out.emit(event(thread, time, took, file, body));
    }
}

/// An event of a thread.
pub fn event(thread: &Thread, time: u64, took: u64, file: Option<FileRef>, body: Body) -> Event {
    Event {
        time,
        took,
        pid: thread.pid,
        tid: thread.tid,
        below: thread.left.is_some(),
        file,
        body,
    }
}

/// The guest's memory by its slots.
pub struct SlotMemory<'a> {
    /// The slots.
    pub slots: &'a BTreeMap<u32, Slot>,
    /// A thread of the VMM.
    pub tid: pid_t,
}

impl GuestMemory for SlotMemory<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let slot = self.slots.values().find(|slot| {
            let offset = address.checked_sub(slot.guest);
            offset.is_some_and(|o| o < slot.size && slot.size - o >= into.len() as u64)
        });
        slot.is_some_and(|slot| {
            let host = slot.host.wrapping_add(address - slot.guest);
            Remote(self.tid).read(host, into) == into.len()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::decode::value::Kind;
    use crate::files::open_file::FileKind;

    #[test]
    fn a_vm_that_is_open_is_not_forgotten_for_another() {
        let mut world = World::default();
        let space = world.spaces.add(Mappings::default());
        let ids = 1..=MOST_VMS as u32 * 3;
        let file = |id| {
            Rc::new(OpenFile {
                id,
                kind: FileKind::Calls(Kind::Vm),
                name: format!("vm {id}"),
                vm: Some(id),
            })
        };
        let open: Vec<_> = ids.map(file).collect();
        for file in &open {
            world.vm(file.id, space).file = Rc::downgrade(file);
        }
        assert_eq!(world.vms.len(), open.len());
        // Those that are closed are.
        for id in 1000..1000 + 3 * MOST_VMS as u32 {
            let closed = file(id);
            world.vm(id, space).file = Rc::downgrade(&closed);
        }
        assert_eq!(world.vms.len(), open.len() + 1);
        assert!(open.iter().all(|file| world.vms.contains_key(&file.id)));
    }
}
