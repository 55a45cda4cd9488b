//! What the kernel keeps of calls that do not stop: the programs, their tables, and the records.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::thread;

use libc::pid_t;

use crate::guest::access::MOST_DATA;
use crate::guest::ring::HEADER;
use crate::guest::run_page::{ANSWER, HEAD};
use crate::kernel::instance::is_on_host;
use crate::kernel::program::{self, Maps};
use crate::sys::bpf::{Attached, Records, Table};

/// Bytes of the buffer. Threads stop when half of it waits, so that the rest has room for a record
/// of each of a thousand threads.
const BUFFER: usize = 2 << 20;
/// The most traced processes and pages that are known. What is not known stops.
const MOST: u32 = 1 << 14;

/// The recording of calls, until dropped.
#[derive(Debug)]
pub struct Keeper {
    records: Records,
    processes: Table<1, 1>,
    pages: Table<2, 4>,
    /// The keys of each process in the table: with the vCPU's file, and its page's address.
    fds: BTreeMap<pid_t, BTreeMap<[u32; 2], (u32, u64)>>,
    /// Processes whose threads have not all the same descriptors. Their keys are of threads.
    apart: BTreeSet<pid_t>,
    /// Entries of rings, by the thread whose next record they belong to.
    rings: HashMap<pid_t, Vec<u8>>,
    _programs: [Attached; 2],
}

/// A vCPU's page in a process's memory.
#[derive(Clone, Copy, Debug)]
pub struct Mapped {
    /// The id of the vCPU's file.
    pub vcpu: u32,
    /// The address.
    pub at: u64,
    /// The number of the ring's next entry, if the mapping has the ring.
    pub ring: Option<u32>,
    /// The reason of the last exit.
    pub reason: u32,
}

/// What the kernel has kept of one end of a call.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// When, by CLOCK_MONOTONIC.
    pub time: u64,
    /// The thread.
    pub tid: pid_t,
    /// The command, descriptor and argument of ioctl(2).
    pub command: u32,
    /// The descriptor.
    pub fd: i32,
    /// The argument.
    pub argument: u64,
    /// The value, at the end of a call.
    pub result: Option<i64>,
    /// The address of the vCPU's page. 0 if it was not known.
    pub page: u64,
    /// Whether something could not be read.
    pub lacks: bool,
    /// Whether the thread stops after the call.
    pub stops: bool,
    /// Whether there was no room for the start of a call of the process.
    pub lost: bool,
    /// The head of the page.
    pub head: Option<[u8; HEAD]>,
    /// The data of ports.
    pub data: Option<[u8; MOST_DATA]>,
    /// The ring's header.
    pub ring: Option<[u8; HEADER]>,
    /// When the reading of the ring began.
    pub since: u64,
    /// Entries of the ring, and the number of the first.
    pub entries: (u32, Vec<u8>),
    /// What the argument leads to, for other calls than KVM_RUN.
    pub bytes: Option<[u8; program::LINE_BYTES]>,
}

impl Record {
    /// The record of the same call's start, of which nothing was read.
    pub fn call(&self) -> Self {
        Self {
            time: self.time,
            tid: self.tid,
            command: self.command,
            fd: self.fd,
            argument: self.argument,
            ..Self::default()
        }
    }
}

impl Keeper {
    /// Starts the recording, of no process yet.
    ///
    /// # Errors
    /// The kernel has no such programs (Linux 5.8, CONFIG_BPF_EVENTS), or does not let this process
    /// have them.
    pub fn new() -> io::Result<Self> {
        // The records have the threads' numbers on the host.
        if !is_on_host() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Self::with(BUFFER, BUFFER as i32 / 2)
    }

    /// With a buffer of so many bytes. Threads stop when more than `most` of them wait.
    fn with(buffer: usize, most: i32) -> io::Result<Self> {
        let records = Records::new(buffer)?;
        let processes = Table::new(MOST)?;
        let pages = Table::new(MOST)?;
        let maps = Maps {
            records: records.number(),
            most,
            processes: processes.number(),
            pages: pages.number(),
        };
        let at_start = Attached::new(c"sys_enter", &program::at_start(&maps))?;
        let at_end = Attached::new(c"sys_exit", &program::at_end(&maps))?;
        Ok(Self {
            records,
            processes,
            pages,
            fds: BTreeMap::new(),
            apart: BTreeSet::new(),
            rings: HashMap::new(),
            _programs: [at_start, at_end],
        })
    }

    /// A process is traced from now on. Returns whether its calls are kept.
    pub fn born(&self, pid: pid_t) -> bool {
        self.processes
            .set([pid.cast_unsigned()], [program::ALL])
            .is_ok()
    }

    /// A process has ended.
    pub fn gone(&mut self, pid: pid_t) {
        self.processes.remove([pid.cast_unsigned()]);
        self.forget(pid);
    }

    /// A thread of the process has descriptors of its own.
    pub fn unshared(&mut self, pid: pid_t) {
        self.forget(pid);
        self.apart.insert(pid);
    }

    /// A process has other memory than before, or has ended.
    pub fn forget(&mut self, pid: pid_t) {
        self.apart.remove(&pid);
        self.forget_pages(pid);
    }

    fn forget_pages(&mut self, pid: pid_t) {
        for key in self.fds.remove(&pid).unwrap_or_default().into_keys() {
            self.pages.remove(key);
        }
    }

    fn key(&self, (pid, tid): (pid_t, pid_t), fd: i32) -> [u32; 2] {
        let of = match self.apart.contains(&pid) {
            true => tid.cast_unsigned() | program::OF_THREAD,
            false => pid.cast_unsigned(),
        };
        [of, fd.cast_unsigned()]
    }

    /// A thread has the page of a vCPU by this descriptor.
    pub fn maps(&mut self, thread: (pid_t, pid_t), fd: i32, mapped: &Mapped) {
        let (has, next) = (mapped.ring.is_some(), mapped.ring.unwrap_or(0));
        let value = [mapped.at, has.into(), next.into(), mapped.reason.into()];
        let key = self.key(thread, fd);
        // Without room, the thread stops at each exit.
        if self.pages.set(key, value).is_ok() {
            let fds = self.fds.entry(thread.0).or_default();
            fds.insert(key, (mapped.vcpu, mapped.at));
        }
    }

    /// A process's descriptors in the table: each with the vCPU's file, and its page's address. If
    /// its threads have descriptors of their own, the table has none any more.
    pub fn mapped(&mut self, pid: pid_t) -> Vec<(i32, u32, u64)> {
        if self.apart.contains(&pid) {
            self.forget_pages(pid);
        }
        let fds = self.fds.get(&pid).into_iter().flatten();
        fds.map(|(key, (file, at))| (key[1].cast_signed(), *file, *at))
            .collect()
    }

    /// A thread has closed the descriptor.
    pub fn closed(&mut self, thread: (pid_t, pid_t), fd: i32) {
        let key = self.key(thread, fd);
        let fds = self.fds.get_mut(&thread.0);
        if fds.is_some_and(|fds| fds.remove(&key).is_some()) {
            self.pages.remove(key);
        }
    }

    /// How many bytes of records there have been.
    pub fn begun(&self) -> u64 {
        self.records.begun()
    }

    /// The next record of those until this many bytes. A record that a processor still writes is
    /// waited for, as those behind it may be of a thread that has stopped.
    pub fn next(&mut self, until: u64) -> Option<Record> {
        loop {
            if self.records.taken() >= until {
                return None;
            }
            match self.records.next(parse) {
                None => thread::yield_now(),
                Some(Parsed::Call(mut record)) => {
                    let end = record.result.is_some();
                    if let Some(ring) = end.then(|| self.rings.remove(&record.tid)).flatten() {
                        record.entries = (0, ring);
                    }
                    return Some(*record);
                }
                Some(Parsed::Ring(tid, entries)) => drop(self.rings.insert(tid, entries)),
                Some(Parsed::Nothing) => {}
            }
        }
    }
}

enum Parsed {
    Call(Box<Record>),
    /// A thread's record of this kind belongs to its next one.
    Ring(pid_t, Vec<u8>),
    Nothing,
}

fn parse(bytes: &[u8]) -> Parsed {
    let number = |at: usize| {
        let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    };
    let flags = number(program::FLAGS);
    // Of both numbers, the thread's is the low half.
    let tid = number(program::THREAD) as pid_t;
    let command = number(program::COMMAND) as u32;
    if flags & program::WHOLE_RING != 0 {
        let entries = bytes.get(program::BODY + HEADER..);
        return entries.map_or(Parsed::Nothing, |e| Parsed::Ring(tid, e.to_vec()));
    }
    if command == 0 {
        return Parsed::Nothing;
    }
    let has = |flag| flags & flag != 0;
    let (is_run, at_end) = (command == program::RUN, has(program::AT_END));
    let mut record = Record {
        time: number(program::TIME),
        tid,
        command,
        fd: number(program::FD) as i32,
        argument: number(program::ARGUMENT),
        result: at_end.then(|| number(program::RESULT).cast_signed()),
        page: number(program::PAGE),
        lacks: has(program::LACKS),
        stops: has(program::STOPS),
        lost: has(program::LOST),
        ..Record::default()
    };
    if has(program::HAS_HEAD) && is_run {
        let mut head = [0; HEAD];
        let len = if at_end { HEAD } else { ANSWER };
        if let Some(bytes) = bytes.get(program::BODY..program::BODY + len) {
            head[..len].copy_from_slice(bytes);
            record.head = Some(head);
        }
    } else if has(program::HAS_HEAD) {
        record.bytes = part(bytes, program::BODY);
    }
    if has(program::HAS_DATA) {
        record.data = part(bytes, program::DATA_AT);
    }
    if has(program::HAS_RING) {
        record.ring = part(bytes, program::RING_AT);
        record.since = number(program::SINCE);
    }
    if has(program::HAS_ENTRIES) {
        let entries = bytes.get(program::ENTRIES_AT..).unwrap_or_default();
        record.entries = (number(program::FIRST) as u32, entries.to_vec());
    }
    Parsed::Call(Box::new(record))
}

fn part<const LEN: usize>(bytes: &[u8], at: usize) -> Option<[u8; LEN]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::guest::ring::{ENTRIES, ENTRY};
    use crate::guest::run_page::{DATA, IO, RING};

    /// No descriptor, so that each call fails at once.
    const FD: i32 = -1;
    const VCPU: u32 = 7;

    /// A mapping as a vCPU has it, in this process.
    struct Vcpu(Box<[AtomicU32; 3 * 1024]>);

    impl Vcpu {
        fn new() -> Self {
            Self(Box::new([const { AtomicU32::new(0) }; 3 * 1024]))
        }

        fn set(&self, at: u64, value: u32) {
            self.0[at as usize / 4].store(value, Ordering::Relaxed);
        }

        fn mapped(&self) -> Mapped {
            let at = self.0.as_ptr() as u64;
            let (vcpu, ring, reason) = (VCPU, Some(0), 0);
            Mapped {
                vcpu,
                at,
                ring,
                reason,
            }
        }
    }

    fn call(command: u32, argument: u64) {
        // SAFETY: there is no such descriptor, so the kernel reads nothing else.
        let value = unsafe { libc::syscall(libc::SYS_ioctl, FD, u64::from(command), argument) };
        assert_eq!(value, -1);
    }

    /// The records of this thread's last call: its start and its end.
    fn kept(keeper: &mut Keeper) -> [Record; 2] {
        let until = keeper.begun();
        // SAFETY: gettid(2) takes nothing.
        let own = unsafe { libc::gettid() };
        let mut all = Vec::new();
        while let Some(record) = keeper.next(until) {
            all.extend((record.tid == own).then_some(record));
        }
        let [start, end] = all.try_into().unwrap();
        assert!(start.result.is_none() && start.time <= end.time);
        assert_eq!(end.result, Some(-i64::from(libc::EBADF)));
        for record in [&start, &end] {
            assert!(record.fd == FD && !record.lacks && !record.stops);
        }
        [start, end]
    }

    fn numbers(entries: &(u32, Vec<u8>), from: u32, to: u32) -> Vec<u8> {
        let (first, bytes) = entries;
        let entry = |index: u32| bytes[(index - first) as usize * ENTRY + 16];
        (from..to).map(entry).collect()
    }

    #[test]
    fn what_has_no_room_is_told() {
        let Ok(mut keeper) = Keeper::with(4096, i32::MAX) else {
            println!("SKIPPED: the kernel has no programs for this user");
            return;
        };
        let (pid, vcpu) = (std::process::id() as pid_t, Vcpu::new());
        assert!(keeper.born(pid));
        keeper.maps((pid, pid), FD, &vcpu.mapped());
        (0..20).for_each(|_| call(program::RUN, 0));
        let until = keeper.begun();
        let mut kept = 0;
        while let Some(record) = keeper.next(until) {
            assert!(!record.lost);
            kept += 1;
        }
        assert!((4..12).contains(&kept), "{kept}");
        // Once only.
        for lost in [true, false] {
            call(program::RUN, 0);
            let [start, end] = self::kept(&mut keeper);
            assert_eq!((start.lost, end.lost), (false, lost));
        }
    }

    /// The kernel itself runs the programs, on calls of this process.
    #[test]
    fn the_kernel_keeps_calls_and_what_their_pages_say() {
        let Ok(mut keeper) = Keeper::new() else {
            println!("SKIPPED: the kernel has no programs for this user");
            return;
        };
        let pid = std::process::id() as pid_t;
        let vcpu = Vcpu::new();
        call(program::RUN, 1);
        assert!(
            keeper.next(keeper.begun()).is_none(),
            "the process is not traced"
        );
        assert!(keeper.born(pid));
        keeper.maps((pid, pid), FD, &vcpu.mapped());
        assert_eq!(keeper.mapped(pid), [(FD, VCPU, vcpu.mapped().at)]);

        // A read of a port, with its answer at the start of the next call.
        vcpu.set(0, 1 << 8);
        vcpu.set(8, IO);
        vcpu.set(DATA, 0x61);
        call(program::RUN, 5);
        let [start, end] = kept(&mut keeper);
        assert_eq!((start.command, start.argument), (program::RUN, 5));
        assert_eq!((start.page, end.page), (vcpu.mapped().at, vcpu.mapped().at));
        assert_eq!(start.head.unwrap()[1], 1);
        assert!(start.data.is_none() && end.entries.1.is_empty());
        assert_eq!(end.head.unwrap()[8], IO as u8);
        assert_eq!(end.data.unwrap()[0], 0x61);
        vcpu.set(DATA, 0x62);
        vcpu.set(8, 5);
        call(program::RUN, 0);
        let [start, end] = kept(&mut keeper);
        assert_eq!(start.data.unwrap()[0], 0x62);
        assert!(end.data.is_none());

        // Entries of the ring: some, more than a record has room for, the last ones, and around
        // the end.
        for index in 0..ENTRIES {
            vcpu.set(RING + crate::guest::ring::offset(index) + 16, index);
        }
        let mut before = 0;
        for last in [3, 3, 160, 168, ENTRIES - 1, 2] {
            vcpu.set(RING + 4, last);
            call(program::RUN, 0);
            let [start, end] = kept(&mut keeper);
            assert_eq!(end.ring.unwrap()[4], last as u8);
            assert!(start.time <= end.since && end.since <= end.time);
            let until = if last < before { ENTRIES } else { last };
            let expected: Vec<_> = (before..until).map(|index| index as u8).collect();
            assert_eq!(numbers(&end.entries, before, until), expected);
            if last < before {
                assert_eq!(numbers(&end.entries, 0, last), [0, 1]);
            }
            before = last;
        }

        // KVM_IRQ_LINE_STATUS, and commands that are not kept.
        let line = [4u32, 1];
        call(program::KEPT[2], line.as_ptr() as u64);
        for record in kept(&mut keeper) {
            assert_eq!(record.bytes, Some([4, 0, 0, 0, 1, 0, 0, 0]));
        }
        call(0xae81, 0);
        keeper.gone(pid);
        call(program::RUN, 0);
        assert!(keeper.next(keeper.begun()).is_none());
        assert!(keeper.mapped(pid).is_empty());
    }
}
