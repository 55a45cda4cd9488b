//! An open file that the trace names.

use std::rc::Rc;

use crate::decode::value::Kind;

/// The kind of a file: one that has ioctls to decode, or an eventfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A file of KVM, VFIO or iommufd.
    Calls(Kind),
    /// An eventfd.
    Eventfd,
}

impl FileKind {
    /// The word that `--only` has for it.
    pub fn word(self) -> &'static str {
        use FileKind::{Calls, Eventfd};
        match self {
            Eventfd => "eventfd",
            Calls(Kind::Kvm) => "kvm",
            Calls(Kind::Vcpu) => "vcpu",
            Calls(Kind::KvmDevice) => "kvm-device",
            Calls(Kind::KvmOther) => "kvm-other",
            Calls(Kind::Container) => "container",
            Calls(Kind::Group) => "group",
            Calls(Kind::Device) => "device",
            Calls(Kind::Iommufd) => "iommufd",
            Calls(Kind::IommufdOther) => "iommufd-other",
            Calls(Kind::Migration) => "migration",
            Calls(Kind::Vm | Kind::TdxVm) => "vm",
        }
    }
}

/// An open file. Several descriptors of several processes may lead to it.
#[derive(Debug, PartialEq, Eq)]
pub struct OpenFile {
    /// Unique in a trace.
    pub id: u32,
    /// Its kind.
    pub kind: FileKind,
    /// What it is, such as `vcpu 0`.
    pub name: String,
    /// The file of the VM to which this file belongs.
    pub vm: Option<u32>,
}

/// A shared open file.
pub type FileRef = Rc<OpenFile>;
