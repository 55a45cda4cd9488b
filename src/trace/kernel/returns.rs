//! The kernel's records of the returns of KVM_RUN (virt/kvm/kvm_main.c, `kvm_userspace_exit`). With
//! them, a thread need not stop when KVM_RUN returns: what the guest did still stands in the page
//! when the thread stops next, and the record has the value and the time.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::rc::Rc;

use libc::pid_t;

use crate::kernel::format::Format;
use crate::kernel::instance::ROOTS;
use crate::sys::perf::Records;
use crate::sys::tracefs;

/// The tracepoint's description there.
const FORMAT: &str = "events/kvm/kvm_userspace_exit/format";

/// A return of KVM_RUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Return {
    /// When, by CLOCK_MONOTONIC.
    pub time: u64,
    /// `exit_reason` of the page.
    pub reason: u32,
    /// The value of the call, or a negated errno.
    pub result: i64,
}

/// Whether the returns are recorded.
#[derive(Debug, Default)]
pub enum Tracepoint {
    /// They are not wanted, or the kernel has no such records for this tracer.
    #[default]
    Off,
    /// They are wanted. The tracepoint comes with the module kvm, so it is looked up late.
    Wanted,
    /// The tracepoint.
    Found(Rc<Format>),
}

impl Tracepoint {
    /// Records the returns of a thread from now on. `None`: the thread has to stop at each.
    pub fn of(&mut self, tid: pid_t) -> Option<Returns> {
        if matches!(self, Self::Wanted) {
            *self = find().map_or(Self::Off, |format| Self::Found(Rc::new(format)));
        }
        let Self::Found(format) = self else {
            return None;
        };
        let records = Records::of(tid, format.id.into()).ok()?;
        let format = Rc::clone(format);
        Some(Returns { records, format })
    }
}

fn find() -> Option<Format> {
    let formats = ROOTS.iter().map(|root| Path::new(root).join(FORMAT));
    let text = formats.map(fs::read_to_string).find_map(Result::ok);
    let text = text.or_else(|| {
        let mount = tracefs::mount().ok()?;
        fs::read_to_string(format!("/proc/self/fd/{}/{FORMAT}", mount.as_raw_fd())).ok()
    });
    let format = Format::parse(&text?)?;
    (format.has("reason") && format.has("errno")).then_some(format)
}

/// The returns of one thread.
#[derive(Debug)]
pub struct Returns {
    records: Records,
    format: Rc<Format>,
}

impl Returns {
    /// The last return since a time. All records until now are taken.
    pub fn take(&mut self, since: u64) -> Option<Return> {
        let Self { records, format } = self;
        let mut last = None;
        records.take(|time, record| {
            if time >= since {
                last = decode(format, time, record).or(last);
            }
        });
        last
    }
}

fn decode(format: &Format, time: u64, record: &[u8]) -> Option<Return> {
    Some(Return {
        time,
        reason: format.number(record, "reason")? as u32,
        result: i64::from(format.number(record, "errno")? as i32),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name: kvm_userspace_exit\nID: 42\nformat:\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:__u32 reason;\toffset:8;\tsize:4;\tsigned:0;\n\
        \tfield:int errno;\toffset:12;\tsize:4;\tsigned:1;\n";

    #[test]
    fn a_record_has_reason_and_value() {
        let format = Format::parse(TEXT).unwrap();
        let mut record = [0; 16];
        record[8] = 2;
        let expected = |reason, result| {
            let time = 7;
            Some(Return {
                time,
                reason,
                result,
            })
        };
        assert_eq!(decode(&format, 7, &record), expected(2, 0));
        record[8] = 10;
        record[12..].copy_from_slice(&(-libc::EINTR).to_le_bytes());
        let interrupted = expected(10, -i64::from(libc::EINTR));
        assert_eq!(decode(&format, 7, &record), interrupted);
        assert_eq!(decode(&format, 7, &record[..14]), None);
    }

    #[test]
    fn what_is_not_wanted_is_not_looked_for() {
        let mut tracepoint = Tracepoint::default();
        assert!(tracepoint.of(std::process::id() as pid_t).is_none());
        assert!(matches!(tracepoint, Tracepoint::Off));
    }
}
