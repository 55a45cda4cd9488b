//! Records of a tracepoint on one CPU (perf_event_open(2)). They go with the descriptor, so a
//! tracer that is killed leaves nothing behind. An event of a thread would cost time at each change
//! of threads.

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use libc::c_int;

/// Of linux/perf_event.h: PERF_TYPE_TRACEPOINT, PERF_SAMPLE_TIME and PERF_SAMPLE_RAW,
/// PERF_FLAG_FD_CLOEXEC, PERF_RECORD_SAMPLE, and the bits `watermark` and `use_clockid` of
/// `struct perf_event_attr`.
const TRACEPOINT: u32 = 2;
const TIME_AND_RAW: u64 = 1 << 2 | 1 << 10;
const CLOEXEC: libc::c_ulong = 1 << 3;
const SAMPLE: u32 = 9;
const WATERMARK: u64 = 1 << 14;
const USE_CLOCKID: u64 = 1 << 25;

/// PERF_EVENT_IOC_SET_FILTER: `_IOW('$', 6, char *)`.
const SET_FILTER: libc::Ioctl = 0x4008_2406;

const PAGE: usize = 4096;
/// Bytes of the buffer, which has room for 200 records: the kernel's control page stands before it.
const BUFFER: usize = 2 * PAGE;
/// Offsets of `data_head` and `data_tail` in the control page (`struct perf_event_mmap_page`).
const HEAD: usize = 1024;
const TAIL: usize = 1032;
/// Bytes of a record's header (`struct perf_event_header`), and of a record that are looked at.
const HEADER: usize = 8;
const RECORD: usize = 128;

/// `struct perf_event_attr` up to `clockid` (PERF_ATTR_SIZE_VER3).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    more_config: [u64; 2],
    branches: u64,
    user_registers: u64,
    user_stack: u32,
    clockid: c_int,
    interrupt_registers: u64,
}

/// A buffer that the kernel fills.
#[derive(Debug)]
pub struct Records {
    page: NonNull<u8>,
    /// Ends the recording when dropped.
    _fd: OwnedFd,
}

impl Records {
    /// Records the tracepoint of this number on a CPU, if the filter lets it, with times of
    /// CLOCK_MONOTONIC.
    ///
    /// # Errors
    /// The errno of perf_event_open(2), ioctl(2) or mmap(2): EACCES without the capability PERFMON,
    /// EMFILE.
    pub fn of(cpu: c_int, tracepoint: u64, filter: &CStr) -> io::Result<Self> {
        let attributes = Attributes {
            kind: TRACEPOINT,
            size: size_of::<Attributes>() as u32,
            config: tracepoint,
            sample_period: 1,
            sample_type: TIME_AND_RAW,
            flags: WATERMARK | USE_CLOCKID,
            // Nobody waits for a record, and a wake-up is an interrupt.
            wakeup: BUFFER as u32,
            clockid: libc::CLOCK_MONOTONIC,
            ..Attributes::default()
        };
        let (any_thread, no_group) = (-1, -1);
        // SAFETY: `attributes` is valid for its size; the other arguments are numbers.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                any_thread,
                cpu,
                no_group,
                CLOEXEC,
            )
        };
        let fd = c_int::try_from(fd).ok().filter(|fd| *fd >= 0);
        let fd = fd.ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the descriptor is new and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the filter is a string that ends with a NUL byte.
        if unsafe { libc::ioctl(fd.as_raw_fd(), SET_FILTER, filter.as_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE + BUFFER,
                prot,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = NonNull::new(page.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { page, _fd: fd })
    }

    /// Hands over each record that is new: its time, and the tracepoint's own bytes.
    pub fn take(&mut self, mut each: impl FnMut(u64, &[u8])) {
        let head = self.counter(HEAD).load(Ordering::Acquire);
        let mut tail = self.counter(TAIL).load(Ordering::Relaxed);
        if head == tail {
            return;
        }
        while (HEADER..=BUFFER).contains(&(head.wrapping_sub(tail) as usize)) {
            let mut record = [0; RECORD];
            self.copy(tail, &mut record[..HEADER]);
            let size = usize::from(u16::from_le_bytes([record[6], record[7]]));
            if size < HEADER {
                break;
            }
            let record = &mut record[..size.min(RECORD)];
            self.copy(tail, record);
            if let Some((time, raw)) = sample(record) {
                each(time, raw);
            }
            tail = tail.wrapping_add(size as u64);
        }
        self.counter(TAIL).store(head, Ordering::Release);
    }

    /// Copies bytes of the buffer, at most [`BUFFER`], from a position that the counters count.
    fn copy(&self, from: u64, to: &mut [u8]) {
        let start = from as usize % BUFFER;
        let (first, second) = to.split_at_mut(to.len().min(BUFFER - start));
        // SAFETY: the buffer lies behind the control page. `first` ends there where the buffer
        // ends, and `second` goes on at its start and is shorter than the buffer. The kernel writes
        // no byte that is not taken.
        unsafe {
            let buffer = self.page.as_ptr().add(PAGE);
            ptr::copy_nonoverlapping(buffer.add(start), first.as_mut_ptr(), first.len());
            ptr::copy_nonoverlapping(buffer, second.as_mut_ptr(), second.len());
        }
    }

    fn counter(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: the control page is mapped as long as `self`, and `offset` is that of an aligned
        // number which the kernel reads and writes whole.
        unsafe { AtomicU64::from_ptr(self.page.as_ptr().add(offset).cast()) }
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        // SAFETY: the mapping is this object's own, and no reference to it is left.
        unsafe { libc::munmap(self.page.as_ptr().cast(), PAGE + BUFFER) };
    }
}

/// Time and bytes of a record that is a sample. Records of other kinds are of what was lost.
fn sample(record: &[u8]) -> Option<(u64, &[u8])> {
    let (header, body) = record.split_at_checked(HEADER)?;
    let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let (time, raw) = body.split_first_chunk::<8>()?;
    let (len, raw) = raw.split_first_chunk::<4>()?;
    let raw = raw.get(..u32::from_le_bytes(*len) as usize)?;
    (kind == SAMPLE).then_some((u64::from_le_bytes(*time), raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, time: u64, len: u32, raw: &[u8]) -> Vec<u8> {
        let mut record = kind.to_le_bytes().to_vec();
        record.extend([0; 4]);
        record.extend(time.to_le_bytes());
        record.extend(len.to_le_bytes());
        record.extend(raw);
        record
    }

    #[test]
    fn samples_are_told_from_other_records() {
        let record = record(SAMPLE, 5, 4, b"guest");
        assert_eq!(sample(&record), Some((5, &b"gues"[..])));
        // What is cut off, and what is of another kind.
        assert_eq!(sample(&record[..record.len() - 2]), None);
        assert_eq!(sample(&self::record(2, 5, 4, b"guest")), None);
        assert_eq!(sample(&self::record(SAMPLE, 5, u32::MAX, b"guest")), None);
        for byte in [0, SAMPLE as u8, 0xff] {
            for len in 0..64 {
                assert_eq!(sample(&vec![byte; len]), None);
            }
        }
    }

    /// A buffer that no kernel fills.
    #[test]
    fn records_are_taken_around_the_end_of_the_buffer() {
        let memory = vec![0u64; (PAGE + BUFFER) / 8].leak();
        let page = NonNull::new(memory.as_mut_ptr().cast()).unwrap();
        let fd = std::fs::File::open("/dev/null").unwrap().into();
        let mut records = std::mem::ManuallyDrop::new(Records { page, _fd: fd });
        let mut written = 0;
        for time in 0..1000u64 {
            let mut bytes = record(SAMPLE, time, 20, &time.to_le_bytes().repeat(3)[..20]);
            bytes[6] = bytes.len() as u8;
            for byte in &bytes {
                // SAFETY: the byte is in the leaked memory.
                unsafe { page.as_ptr().add(PAGE + written % BUFFER).write(*byte) };
                written += 1;
            }
            records
                .counter(HEAD)
                .store(written as u64, Ordering::Release);
            let mut all = Vec::new();
            records.take(|time, raw| all.push((time, raw.to_vec())));
            assert_eq!(all, [(time, bytes[20..].to_vec())]);
        }
        records.take(|_, _| panic!("taken twice"));
        // Counters that lie.
        for head in [1, 7, u64::MAX, written as u64 + 9000] {
            records.counter(HEAD).store(head, Ordering::Release);
            records.take(|_, _| {});
        }
    }
}
