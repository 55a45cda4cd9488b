//! The kernel's records of the returns of KVM_RUN (virt/kvm/kvm_main.c, `kvm_userspace_exit`). With
//! them, a thread need not stop when KVM_RUN returns: what the guest did still stands in the page
//! when the thread stops next, and the record has the value and the time.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

use libc::pid_t;

use crate::kernel::format::Format;
use crate::kernel::instance::{ROOTS, is_on_host};
use crate::sys::perf::Records;
use crate::sys::tracefs;

/// The tracepoint's description there.
const FORMAT: &str = "events/kvm/kvm_userspace_exit/format";

/// The CPUs that there are now. A thread that runs on a later one has no record there.
const ONLINE: &str = "/sys/devices/system/cpu/online";
/// The most CPUs, each of which has a descriptor and a buffer that is looked at.
const MOST_CPUS: i32 = 256;
/// The most threads that are recorded: the kernel takes 4 KiB of a filter, and a buffer has room
/// for one record of each.
const MOST: usize = 128;

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
pub enum Returns {
    /// They are not wanted, or the kernel has no such records for this tracer.
    #[default]
    Off,
    /// They are wanted. The tracepoint comes with the module kvm, so it is looked up late.
    Wanted,
    /// The recording.
    Recorded(Recording),
}

impl Returns {
    /// Records the returns of a thread from now on. Returns whether it does: if not, the thread has
    /// to stop at each.
    pub fn record(&mut self, tid: pid_t) -> bool {
        if matches!(self, Self::Wanted) {
            *self = Recording::new().map_or(Self::Off, Self::Recorded);
        }
        match self {
            Self::Recorded(recording) => recording.add(tid),
            _ => false,
        }
    }

    /// The last return of a thread, if it was since this time.
    pub fn take(&mut self, tid: pid_t, since: u64) -> Option<Return> {
        match self {
            Self::Recorded(recording) => recording.take(tid, since),
            _ => None,
        }
    }

    /// A thread has ended, or has another number.
    pub fn forget(&mut self, tid: pid_t) {
        if let Self::Recorded(recording) = self {
            recording.threads.remove(&tid);
        }
    }
}

/// The records of all CPUs, and of each thread that is recorded the last return that was read.
#[derive(Debug)]
pub struct Recording {
    format: Format,
    online: Vec<i32>,
    cpus: Vec<Records>,
    threads: BTreeMap<pid_t, Option<Return>>,
}

impl Recording {
    fn new() -> Option<Self> {
        // The records have the threads' numbers on the host.
        if !is_on_host() {
            return None;
        }
        let online = fs::read_to_string(ONLINE).ok()?;
        Some(Self {
            format: find()?,
            online: numbers(online.trim())?,
            cpus: Vec::new(),
            threads: BTreeMap::new(),
        })
    }

    /// The kernel changes no filter, so each thread makes new events.
    fn add(&mut self, tid: pid_t) -> bool {
        if self.threads.len() == MOST {
            return false;
        }
        self.threads.insert(tid, None);
        let filter = filter(self.threads.keys());
        let online = self.online.iter();
        let cpus = online.map(|cpu| Records::of(*cpu, self.format.id.into(), &filter).ok());
        let cpus: Option<Vec<_>> = cpus.collect();
        if let Some(cpus) = cpus {
            // The former ones may have records that no other has.
            self.read();
            self.cpus = cpus;
            return true;
        }
        self.threads.remove(&tid);
        false
    }

    fn read(&mut self) {
        let Self {
            format,
            cpus,
            threads,
            ..
        } = self;
        for records in cpus {
            records.take(|time, record| {
                let of = format.number(record, "common_pid");
                let of = of.and_then(|of| pid_t::try_from(of).ok());
                let last = of.and_then(|of| threads.get_mut(&of));
                // A thread that has moved has records on two CPUs.
                if let Some(last) = last.filter(|l| l.is_none_or(|last| last.time <= time)) {
                    *last = decode(format, time, record).or(*last);
                }
            });
        }
    }

    fn take(&mut self, tid: pid_t, since: u64) -> Option<Return> {
        self.read();
        let last = self.threads.get_mut(&tid)?;
        last.take().filter(|last| last.time >= since)
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
    let has = |name: &&str| format.has(name);
    ["common_pid", "reason", "errno"]
        .iter()
        .all(has)
        .then_some(format)
}

/// The filter that lets the records of these threads through.
fn filter<'a>(threads: impl Iterator<Item = &'a pid_t>) -> CString {
    let threads: Vec<_> = threads.map(|tid| format!("common_pid=={tid}")).collect();
    CString::new(threads.join("||")).unwrap_or_default()
}

/// The numbers of a list as `0-3,8`.
fn numbers(list: &str) -> Option<Vec<i32>> {
    let mut all = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (i32, i32) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MOST_CPUS {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
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
        let mut returns = Returns::default();
        assert!(!returns.record(std::process::id() as pid_t));
        assert!(matches!(returns, Returns::Off));
    }

    #[test]
    fn lists_and_filters() {
        assert_eq!(numbers("0"), Some(vec![0]));
        assert_eq!(numbers("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(numbers("2-0"), Some(vec![]));
        for list in ["", "a", "0-", "0-300"] {
            assert_eq!(numbers(list), None, "{list:?}");
        }
        let text = |all: &[pid_t]| filter(all.iter()).into_string().unwrap();
        assert_eq!(text(&[7, 12]), "common_pid==7||common_pid==12");
        let most = text(&[1 << 22; MOST]);
        assert!(most.len() < 4096, "{}", most.len());
    }
}
