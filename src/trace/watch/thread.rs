//! A traced thread.

use crate::decode::value::Field;
use crate::files::open_file::FileRef;
use crate::guest::access::Access;
use crate::shared::Id;
use crate::watch::page::Page;

/// A traced thread.
#[derive(Debug)]
pub struct Thread {
    /// Its process.
    pub pid: i32,
    /// Its number.
    pub tid: i32,
    /// Its descriptors.
    pub table: Id,
    /// Its memory.
    pub space: Id,
    /// The call that it is in.
    pub call: Option<Started>,
    /// The KVM_RUN that it is in or has left since its last stop, if the return makes no stop.
    pub unseen: Option<Unseen>,
    /// Whether the kernel records its returns of KVM_RUN.
    pub returns: Recorded,
    /// What was read of a vCPU's mapping at this stop.
    pub page: Option<Page>,
    /// The vCPU whose KVM_RUN it has left last, until it enters KVM_RUN again.
    pub left: Option<Leaving>,
}

/// Whether a thread's returns of KVM_RUN are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recorded {
    /// It has not entered KVM_RUN.
    #[default]
    Unknown,
    /// They are not: the thread stops at each.
    No,
    /// They are.
    Yes,
}

/// A KVM_RUN whose return makes no stop.
#[derive(Debug)]
pub struct Unseen {
    /// What was seen at its start.
    pub running: Running,
    /// When it began.
    pub began: u64,
}

/// A call that a thread is in.
#[derive(Debug)]
pub struct Started {
    /// The number of the call.
    pub number: u64,
    /// Its arguments.
    pub args: [u64; 6],
    /// When it began.
    pub time: u64,
    /// What was seen at its start.
    pub what: What,
}

/// What was seen at the start of a call.
#[derive(Debug)]
pub enum What {
    /// Nothing that is needed at its end.
    Plain,
    /// An ioctl, with the fields that were handed in.
    Ioctl(FileRef, Vec<Field>),
    /// KVM_RUN.
    Run(Running),
    /// A call on a file that the trace names.
    File(FileRef),
    /// A change of memory that the trace names.
    Memory(Span),
    /// A message with descriptors, by its number.
    Message(u64),
    /// A new thread or process is made, with these flags of clone(2).
    Clone(u64),
}

/// What a range of memory is.
#[derive(Debug)]
pub struct Span {
    /// The file that is mapped, unless the range is guest memory.
    pub file: Option<FileRef>,
    /// The part.
    pub note: Option<String>,
}

/// A thread in KVM_RUN.
#[derive(Debug)]
pub struct Running {
    /// The vCPU.
    pub vcpu: FileRef,
    /// Where its page is in the thread's memory, and the bytes of the mapping.
    pub page: Option<(u64, u64)>,
    /// Whether KVM_RUN returns at once.
    pub immediate: bool,
}

/// A thread that has left KVM_RUN.
#[derive(Debug)]
pub struct Leaving {
    /// The vCPU.
    pub vcpu: FileRef,
    /// The read that has no answer yet, and where in the mapping a port's answer will be.
    pub read: Option<(Access, Option<u64>)>,
}
