//! All files that a trace has seen. A file that /proc does not name whole, such as a VFIO device
//! that a group gave, is told from others by kcmp(2).

use std::collections::HashMap;
use std::rc::{Rc, Weak};

use libc::pid_t;

use crate::decode::value::Kind;
use crate::files::identify::{self, Seen};
use crate::files::open_file::{FileKind, FileRef, OpenFile};
use crate::files::same::same;

/// Descriptors that are compared with a new one, at most.
const COMPARED: usize = 64;

#[derive(Debug)]
struct Known {
    file: Weak<OpenFile>,
    /// A descriptor that led to the file.
    holder: (pid_t, i32),
}

/// The files of a trace.
#[derive(Debug, Default)]
pub struct Registry {
    next: u32,
    known: Vec<Known>,
    /// Files of each kind that bear a number of this trace's own.
    numbers: HashMap<&'static str, u32>,
}

/// What a call has told of the file that it has made.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The VM to which the new file belongs.
    pub vm: Option<u32>,
    /// The address of a device.
    pub detail: Option<String>,
}

impl Registry {
    /// The file of a descriptor that has not been seen before. `None` if the trace does not name
    /// such files. `told` is what the call that made the file has told; `None` if no call did.
    pub fn find(&mut self, tid: pid_t, fd: i32, told: Option<Told>) -> Option<FileRef> {
        let seen = identify::look(tid, fd)?;
        let known = match (&told, seen.kind) {
            (Some(_), _) => None,
            // The id tells more than a comparison.
            (None, FileKind::Eventfd) => None,
            (None, _) => self.same(tid, fd, &seen),
        };
        Some(known.unwrap_or_else(|| self.add(tid, fd, seen, told.unwrap_or_default())))
    }

    /// Another descriptor leads to the file, perhaps longer than the first one.
    pub fn moved(&mut self, file: &FileRef, holder: (pid_t, i32)) {
        let known = self.known.iter_mut();
        for known in known.filter(|known| known.file.as_ptr() == Rc::as_ptr(file)) {
            known.holder = holder;
        }
    }

    /// A known file that is the descriptor's.
    fn same(&mut self, tid: pid_t, fd: i32, seen: &Seen) -> Option<FileRef> {
        let of_kind = self.known.iter().rev().filter_map(|known| {
            let file = known.file.upgrade()?;
            (file.kind == seen.kind).then_some((file, known.holder))
        });
        let mut candidates: Vec<_> = of_kind.take(COMPARED).collect();
        let mut unknown = false;
        for (file, holder) in &candidates {
            match same((tid, fd), *holder) {
                Some(true) => return Some(Rc::clone(file)),
                Some(false) => {}
                None => unknown = true,
            }
        }
        // Without the comparison, a file that is alone of its kind and name is taken for the same.
        candidates.retain(|(file, _)| match &seen.detail {
            Some(detail) => file.name.ends_with(&format!(" {detail}")) || file.name == *detail,
            None => true,
        });
        match candidates.as_slice() {
            [(file, _)] if unknown => Some(Rc::clone(file)),
            _ => None,
        }
    }

    fn add(&mut self, tid: pid_t, fd: i32, seen: Seen, told: Told) -> FileRef {
        let detail = told.detail.or(seen.detail);
        let vm = told.vm.or_else(|| self.only_vm());
        let name = self.name(seen.kind, detail, vm);
        self.next += 1;
        let file = Rc::new(OpenFile {
            id: self.next,
            kind: seen.kind,
            name,
            vm: match seen.kind {
                FileKind::Calls(Kind::Vcpu | Kind::KvmDevice) => vm,
                FileKind::Calls(Kind::Vm) => Some(self.next),
                _ => None,
            },
        });
        if seen.kind != FileKind::Eventfd {
            self.known.retain(|known| known.file.strong_count() > 0);
            self.known.push(Known {
                file: Rc::downgrade(&file),
                holder: (tid, fd),
            });
        }
        file
    }

    /// The VM, if only one is open.
    fn only_vm(&self) -> Option<u32> {
        let mut vms = self.known.iter().filter_map(|known| {
            let file = known.file.upgrade()?;
            (file.kind == FileKind::Calls(Kind::Vm)).then_some(file.id)
        });
        vms.next().filter(|_| vms.next().is_none())
    }

    fn vm_name(&self, vm: Option<u32>) -> Option<String> {
        let files = self.known.iter().filter_map(|known| known.file.upgrade());
        let mut vms = files.filter(|file| Some(file.id) == vm);
        vms.next().map(|file| file.name.clone())
    }

    fn name(&mut self, kind: FileKind, detail: Option<String>, vm: Option<u32>) -> String {
        use FileKind::{Calls, Eventfd};
        let detail = detail.unwrap_or_else(|| "?".into());
        match kind {
            Eventfd => format!("eventfd {detail}"),
            Calls(Kind::Kvm) => "kvm".into(),
            Calls(Kind::Vcpu) => match self.vm_name(vm) {
                Some(vm) if vm != "vm" => format!("{vm} vcpu {detail}"),
                _ => format!("vcpu {detail}"),
            },
            Calls(Kind::Group) => format!("group {detail}"),
            Calls(Kind::Device) => format!("device {detail}"),
            Calls(Kind::KvmDevice | Kind::KvmOther | Kind::IommufdOther) => detail,
            Calls(Kind::Container) => self.numbered("container"),
            Calls(Kind::Iommufd) => self.numbered("iommufd"),
            Calls(Kind::Migration) => self.numbered("migration"),
            Calls(Kind::Vm | Kind::TdxVm) => self.numbered("vm"),
        }
    }

    /// The word, with a number from the second file on.
    fn numbered(&mut self, word: &'static str) -> String {
        let number = self.numbers.entry(word).or_default();
        *number += 1;
        match number {
            1 => word.into(),
            number => format!("{word} {number}"),
        }
    }
}
