//! ioctl(2) on a file that the trace names.

use std::rc::Rc;

use crate::decode::calls::{self, Call as Ioctl};
use crate::decode::value::{Field, Kind, Memory, Value};
use crate::event::{Body, Call, Names};
use crate::files::open_file::{FileKind, FileRef};
use crate::files::registry::Told;
use crate::kernel::program::RUN;
use crate::sys::memory::{Blocks, Remote};
use crate::sys::vendor;
use crate::watch::run;
use crate::watch::thread::{Started, Thread, What};
use crate::watch::world::{MOST_DEVICES, MOST_OBJECTS, MOST_REGIONS, MOST_SLOTS, Slot, World};

const KVM_CREATE_VM: u32 = 0xae01;
const KVM_CREATE_VCPU: u32 = 0xae41;
const KVM_CREATE_DEVICE: u32 = 0xc00c_aee0;
const KVM_SET_USER_MEMORY_REGION: u32 = 0x4020_ae46;
const KVM_SET_USER_MEMORY_REGION2: u32 = 0x40a0_ae49;
const VFIO_GROUP_GET_DEVICE_FD: u32 = 0x3b6a;
const VFIO_DEVICE_GET_REGION_INFO: u32 = 0x3b6c;

/// An ioctl begins.
pub fn enter(world: &mut World, thread: &mut Thread, args: [u64; 6], now: u64) -> What {
    let Some(file) = world.tables.file(thread.table, thread.tid, args[0] as i32) else {
        return What::Plain;
    };
    let FileKind::Calls(kind) = file.kind else {
        return What::Plain;
    };
    let call = ioctl(kind, args);
    if (kind, call.request) == (Kind::Vcpu, RUN) {
        return What::Run(run::enter(world, thread, file, now));
    }
    What::Ioctl(file, calls::enter(&call, &Blocks::new(thread.tid)))
}

/// The fields that are handed in, as the memory has them.
pub fn fields(kind: Kind, args: [u64; 6], memory: &dyn Memory) -> Vec<Field> {
    calls::enter(&ioctl(kind, args), memory)
}

fn ioctl(kind: Kind, args: [u64; 6]) -> Ioctl {
    Ioctl {
        // On Intel's processors, KVM_MEMORY_ENCRYPT_OP of a VM is that of trust domains.
        kind: match kind {
            Kind::Vm if vendor::is_intel() => Kind::TdxVm,
            kind => kind,
        },
        request: args[1] as u32,
        argument: args[2],
    }
}

/// A thread has stopped after an ioctl other than KVM_RUN.
pub fn leave(
    world: &mut World,
    thread: &mut Thread,
    started: &Started,
    call: (FileRef, Vec<Field>),
    end: (i64, u64),
) {
    let memory = Blocks::new(thread.tid);
    left(world, thread, started, call, end, &memory);
}

/// An ioctl other than KVM_RUN has ended.
pub fn left(
    world: &mut World,
    thread: &mut Thread,
    started: &Started,
    (file, ins): (FileRef, Vec<Field>),
    (result, now): (i64, u64),
    memory: &dyn Memory,
) {
    let FileKind::Calls(kind) = file.kind else {
        return;
    };
    let call = ioctl(kind, started.args);
    let outs = calls::leave(&call, result, memory);
    let made = made(world, thread, &file, &call, result);
    if result >= 0 {
        learn(world, thread, &file, &call);
        learn_objects(world, thread, &file, &ins, &outs);
    }
    let known = calls::name(kind, call.request);
    let body = Body::Call(Call {
        name: known.map_or_else(|| format!("ioctl {:#x}", call.request).into(), Into::into),
        known: known.is_some(),
        names: names(world, thread, &file, [&ins, &outs]),
        ins,
        outs,
        result,
        makes: made.map(|file| file.name.clone()),
        note: None,
        why: calls::why(kind, call.request),
    });
    let took = now.saturating_sub(started.time);
    world.emit(thread, started.time, took, Some(file), body);
}

/// The file that a call has made.
fn made(
    world: &mut World,
    thread: &Thread,
    file: &FileRef,
    call: &Ioctl,
    result: i64,
) -> Option<FileRef> {
    let memory = Remote(thread.tid);
    let fd = i32::try_from(result).ok().filter(|fd| *fd >= 0)?;
    let mut told = Told::default();
    let fd = match (call.kind, call.request) {
        (Kind::Kvm, KVM_CREATE_VM) => fd,
        (_, KVM_CREATE_VCPU) => {
            told.vm = file.vm;
            told.detail = Some((call.argument as u32).to_string());
            fd
        }
        (_, KVM_CREATE_DEVICE) => {
            told.vm = file.vm;
            let mut bytes = [0; 4];
            if memory.read(call.argument.wrapping_add(4), &mut bytes) != 4 {
                return None;
            }
            i32::from_le_bytes(bytes)
        }
        (Kind::Group, VFIO_GROUP_GET_DEVICE_FD) => {
            let mut bytes = [0; 64];
            let read = memory.read(call.argument, &mut bytes);
            let name = bytes[..read].split(|byte| *byte == 0).next()?;
            told.detail = Some(name.escape_ascii().to_string());
            fd
        }
        _ => return None,
    };
    let made = world.tables.made(thread.table, thread.tid, fd, told)?;
    if made.kind == FileKind::Calls(Kind::Vm) {
        world.vm(made.id, thread.space).file = Rc::downgrade(&made);
    }
    Some(made)
}

/// Learns from a call that has succeeded: the guest's memory, and a device's regions.
fn learn(world: &mut World, thread: &Thread, file: &FileRef, call: &Ioctl) {
    let memory = Remote(thread.tid);
    let mut bytes = [0; 32];
    let number = |bytes: &[u8; 32], at: usize| {
        let mut value = [0; 8];
        value.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(value)
    };
    match (call.kind, call.request) {
        (_, KVM_SET_USER_MEMORY_REGION | KVM_SET_USER_MEMORY_REGION2) => {
            let (Some(id), 32) = (file.vm, memory.read(call.argument, &mut bytes)) else {
                return;
            };
            let slots = &mut world.vm(id, thread.space).slots;
            let slot = Slot {
                guest: number(&bytes, 8),
                size: number(&bytes, 16),
                host: number(&bytes, 24),
            };
            let key = number(&bytes, 0) as u32;
            if slot.size == 0 {
                slots.remove(&key);
            } else if slots.len() < MOST_SLOTS {
                slots.insert(key, slot);
            }
        }
        (Kind::Device, VFIO_DEVICE_GET_REGION_INFO) => {
            if memory.read(call.argument, &mut bytes) != 32 {
                return;
            }
            let Some(device) = world.device(file.id) else {
                return;
            };
            let regions = &mut device.regions;
            let index = number(&bytes, 8) as u32;
            if regions.len() < MOST_REGIONS {
                regions.insert(index, (number(&bytes, 24), number(&bytes, 16)));
            }
        }
        _ => {}
    }
}

/// The id of the iommufd whose objects a call's fields name: the call's own file, or the one that a
/// device is bound to.
fn objects_of(world: &mut World, thread: &Thread, file: &FileRef, ins: &[Field]) -> Option<u32> {
    if file.kind == FileKind::Calls(Kind::Iommufd) {
        return Some(file.id);
    }
    let bound = ins.iter().find_map(|field| match field.value {
        Value::Descriptor(fd) => world.tables.file(thread.table, thread.tid, fd),
        _ => None,
    });
    let bound = bound.filter(|file| file.kind == FileKind::Calls(Kind::Iommufd));
    match bound {
        Some(iommufd) => Some(iommufd.id),
        // A device that is bound names the objects of the only iommufd.
        None => {
            let mut all = world.objects.keys().copied();
            all.next().filter(|_| all.next().is_none())
        }
    }
}

/// Learns the kinds of objects that an iommufd has made, by the fields' names: `out_ioas_id`.
fn learn_objects(
    world: &mut World,
    thread: &Thread,
    file: &FileRef,
    ins: &[Field],
    outs: &[Field],
) {
    let made = outs.iter().filter_map(|field| match field.value {
        Value::Object(id) => Some((id, word(field.name.strip_prefix("out_")?))),
        _ => None,
    });
    let made: Vec<_> = made.collect();
    if made.is_empty() {
        return;
    }
    let Some(iommufd) = objects_of(world, thread, file, ins) else {
        return;
    };
    if world.objects.len() == MOST_DEVICES && !world.objects.contains_key(&iommufd) {
        return;
    }
    let objects = world.objects.entry(iommufd).or_default();
    for (id, word) in made {
        if objects.len() < MOST_OBJECTS {
            objects.insert(id, word);
        }
    }
}

/// `ioas` of `ioas_id`, `dev` of `devid`.
fn word(name: &str) -> String {
    let name = name.strip_suffix("id").unwrap_or(name);
    name.trim_end_matches('_').replace('_', " ")
}

/// Names of the descriptors and objects in the fields.
fn names(world: &mut World, thread: &Thread, file: &FileRef, fields: [&[Field]; 2]) -> Names {
    let mut names = Names::default();
    let mut ids = Vec::new();
    let mut todo: Vec<&Value> = fields
        .iter()
        .flat_map(|f| f.iter().map(|f| &f.value))
        .collect();
    while let Some(value) = todo.pop() {
        match value {
            Value::Descriptor(fd) => {
                if let Some(file) = world.tables.file(thread.table, thread.tid, *fd) {
                    names.descriptors.insert(*fd, file.name.clone());
                }
            }
            Value::Object(id) => ids.push(*id),
            Value::Record(fields) => todo.extend(fields.iter().map(|field| &field.value)),
            Value::List(values, _) => todo.extend(values),
            _ => {}
        }
    }
    let iommufd = match ids.is_empty() {
        true => None,
        false => objects_of(world, thread, file, fields[0]),
    };
    if let Some(objects) = iommufd.and_then(|id| world.objects.get(&id)) {
        let known = |id: u32| Some((id, format!("{} {id}", objects.get(&id)?)));
        names.objects = ids.into_iter().filter_map(known).collect();
    }
    names
}
