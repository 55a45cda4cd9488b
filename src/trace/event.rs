//! What the trace shows, for any output.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::decode::calls::Why;
use crate::decode::value::Field;
use crate::files::open_file::FileRef;
use crate::guest::access::Access;
use crate::guest::run_page::Exit;
use crate::guest::vm::Meaning;

/// Something that a thread or its guest has done.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it began, in nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    /// How long it took. For an exit, the time in KVM_RUN before it.
    pub took: u64,
    /// The process.
    pub pid: i32,
    /// The thread.
    pub tid: i32,
    /// Whether the thread has left KVM_RUN and not entered it again: what it does follows from the
    /// exit.
    pub below: bool,
    /// The file that the event is of.
    pub file: Option<FileRef>,
    /// The rest.
    pub body: Body,
}

/// What has happened.
#[derive(Clone, Debug)]
pub enum Body {
    /// A system call.
    Call(Call),
    /// KVM_RUN has returned.
    Exit(Left),
    /// A write that KVM has kept in its ring, without an exit.
    Coalesced(Access, Meaning),
    /// The thread enters KVM_RUN again: the exit is handled.
    Entered,
    /// Something that the kernel has done by itself (`--kernel`).
    Kernel(Happened),
    /// Something that is no call: a program that was executed, the end of a process.
    Process(String),
}

/// A system call.
#[derive(Clone, Debug)]
pub struct Call {
    /// The name of the ioctl, or of the call.
    pub name: Cow<'static, str>,
    /// Whether the numbers of the call are known. Else its name is a number.
    pub known: bool,
    /// What the program has handed in.
    pub ins: Vec<Field>,
    /// What the kernel has written.
    pub outs: Vec<Field>,
    /// The value, or a negated errno.
    pub result: i64,
    /// The file that the call has made.
    pub makes: Option<String>,
    /// What the fields mean, such as the register of a device.
    pub note: Option<String>,
    /// Names of descriptors and objects in the fields.
    pub names: Names,
    /// What the call is for.
    pub why: Option<Why>,
}

/// An event of the kernel's own.
#[derive(Clone, Debug)]
pub struct Happened {
    /// The event's name in tracefs.
    pub name: &'static str,
    /// The CPU.
    pub cpu: u32,
    /// Its fields.
    pub fields: Vec<Field>,
}

/// Names of what stands as a number in the fields.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Descriptors of the traced program.
    pub descriptors: BTreeMap<i32, String>,
    /// Objects of an iommufd.
    pub objects: BTreeMap<u32, String>,
}

/// A return of KVM_RUN.
#[derive(Clone, Debug)]
pub struct Left {
    /// The value of the call, or a negated errno. `None` if the kernel has not recorded the return.
    pub result: Option<i64>,
    /// Whether the call was made with `immediate_exit`, so that the guest did not run.
    pub immediate: bool,
    /// The exit, unless the call has failed or the page could not be read.
    pub exit: Option<Exit>,
    /// What the access means.
    pub meaning: Meaning,
}

impl Left {
    /// The word for the reason, as `exits.by_reason` of `--stats` has it.
    pub fn word(&self) -> &'static str {
        let errno = self.result.and_then(|result| i32::try_from(-result).ok());
        match (&self.exit, errno) {
            (Some(exit), _) => exit.word(),
            (None, Some(libc::EINTR | libc::EAGAIN)) => "interrupted",
            (None, Some(libc::EFAULT)) => "memory_fault",
            (None, _) => "other",
        }
    }

    /// The access, if the exit is one.
    pub fn access(&self) -> Option<&Access> {
        match &self.exit {
            Some(Exit::Access(access, _)) => Some(access),
            _ => None,
        }
    }
}
