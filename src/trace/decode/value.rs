//! Decoded values, for any output.

use std::borrow::Cow;

/// The kind of file that an ioctl is made on. Numbers that several files share are told apart by
/// it.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `/dev/kvm`.
    Kvm,
    /// A VM.
    Vm,
    /// A VM on Intel's processors, whose KVM_MEMORY_ENCRYPT_OP has other structures (TDX).
    TdxVm,
    /// A vCPU.
    Vcpu,
    /// A device that KVM_CREATE_DEVICE has made.
    KvmDevice,
    /// A file of KVM_GET_STATS_FD, of KVM_CREATE_GUEST_MEMFD, or another that KVM has made.
    KvmOther,
    /// `/dev/vfio/vfio`.
    Container,
    /// `/dev/vfio/N`.
    Group,
    /// A VFIO device, by a group or by its own node.
    Device,
    /// A file of VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, with a device's state.
    Migration,
    /// `/dev/iommu`.
    Iommufd,
    /// An object with a file of its own that iommufd has made, such as a fault queue.
    IommufdOther,
}

/// A value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number that reads best in decimal: a count, an id, an index.
    Decimal(u64),
    /// A signed number.
    Signed(i64),
    /// A number that reads best in hexadecimal: an address, a size, unknown bits. The second is the
    /// field's width in bytes.
    Hex(u64, u8),
    /// A number with its name from the kernel's headers.
    Name(u64, &'static str),
    /// Bits with their names from the kernel's headers, and the bits that have none.
    Flags {
        /// The field as it is.
        raw: u64,
        /// The names of the known bits.
        names: Vec<&'static str>,
        /// The bits without a name.
        rest: u64,
    },
    /// A descriptor of the traced program. The caller names its file.
    Descriptor(i32),
    /// An id of an object in the iommufd that the call is made on.
    Object(u32),
    /// A pointer into the traced program's memory that is not followed.
    Pointer(u64),
    /// Text, with anything but printable characters escaped.
    Text(String),
    /// Bytes that have no further meaning.
    Bytes(Vec<u8>),
    /// A structure.
    Record(Vec<Field>),
    /// An array, and the number of elements that are left out.
    List(Vec<Value>, u64),
    /// The memory could not be read.
    Unreadable(u64),
}

/// A field by the kernel headers' name.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// The name; `arg` for an argument that is no pointer.
    pub name: Cow<'static, str>,
    /// The value.
    pub value: Value,
}

/// Beginnings of the names of fields that have no meaning.
const PADDING: [&str; 6] = ["pad", "reserve", "__reserve", "__pad", "__resv", "dummy"];

/// Whether a field with this name has no meaning.
pub fn is_padding(name: &str) -> bool {
    PADDING.iter().any(|start| name.starts_with(start))
}

impl Field {
    /// Whether the field is padding that is all zero. Text leaves such a field out.
    pub fn is_quiet(&self) -> bool {
        is_padding(&self.name) && self.value.is_zero()
    }
}

impl Value {
    fn is_zero(&self) -> bool {
        match self {
            Self::Decimal(number) | Self::Hex(number, _) => *number == 0,
            Self::Signed(number) => *number == 0,
            Self::Bytes(bytes) => bytes.iter().all(|byte| *byte == 0),
            Self::List(values, left_out) => *left_out == 0 && values.iter().all(Self::is_zero),
            _ => false,
        }
    }
}

/// The memory of the traced program.
pub trait Memory {
    /// Reads up to `into.len()` bytes at `address`, and returns how many bytes could be read from
    /// the start.
    fn read(&self, address: u64, into: &mut [u8]) -> usize;
}
