//! A traced thread.

use crate::decode::value::Field;
use crate::files::open_file::FileRef;
use crate::guest::access::Access;
use crate::kernel::program::LINE_BYTES;
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
    /// The call that it is in, if the kernel keeps the call.
    pub kept: Option<Started>,
    /// A call that the kernel has kept, and that is shown when the thread goes on.
    pub ended: Option<Ended>,
    /// Whether it gets a signal that is the tracer's own.
    pub stops: bool,
    /// The vCPU whose KVM_RUN it has left last, until it enters KVM_RUN again.
    pub left: Option<Leaving>,
}

/// The end of a call that the kernel has kept.
#[derive(Debug)]
pub struct Ended {
    /// The call.
    pub started: Started,
    /// Its value.
    pub result: i64,
    /// When it ended.
    pub time: u64,
    /// What was kept of the vCPU's mapping.
    pub page: Option<Page>,
    /// What was kept of what the argument leads to.
    pub bytes: Option<[u8; LINE_BYTES]>,
    /// Whether something has to be read at the thread's stop.
    pub lacks: bool,
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
