//! Records of a tracepoint on one CPU (perf_event_open(2)). They go with the descriptor, so a tracer
//! that is killed leaves nothing behind. An event of a thread would cost time at each change of
//! threads, more than a stop for the tracer saves.

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
/// Bytes of a record's header (`struct perf_event_header`).
const HEADER: usize = 8;

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
    pub fn take(&mut self, each: impl FnMut(u64, &[u8])) {
        let head = self.counter(HEAD).load(Ordering::Acquire);
        let tail = self.counter(TAIL).load(Ordering::Relaxed);
        let len = head.wrapping_sub(tail) as usize;
        if len == 0 {
            return;
        }
        let mut bytes = [0; BUFFER];
        if len <= BUFFER {
            let start = tail as usize % BUFFER;
            let first = len.min(BUFFER - start);
            let from = self.page.as_ptr();
            // SAFETY: both parts are in the buffer, which lies behind the control page, and
            // `first <= len <= BUFFER`. The kernel writes no byte between tail and head.
            unsafe {
                ptr::copy_nonoverlapping(from.add(PAGE + start), bytes.as_mut_ptr(), first);
                ptr::copy_nonoverlapping(
                    from.add(PAGE),
                    bytes.as_mut_ptr().add(first),
                    len - first,
                );
            }
            samples(&bytes[..len], each);
        }
        self.counter(TAIL).store(head, Ordering::Release);
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

/// Hands over the samples in these records. Records of other kinds are of what was lost.
fn samples(mut bytes: &[u8], mut each: impl FnMut(u64, &[u8])) {
    while let Some((header, rest)) = bytes.split_at_checked(HEADER) {
        let size = usize::from(u16::from_le_bytes([header[6], header[7]]));
        let Some(body) = size.checked_sub(HEADER).and_then(|len| rest.get(..len)) else {
            return;
        };
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        if let (SAMPLE, Some((time, raw))) = (kind, body.split_first_chunk::<8>())
            && let Some((len, raw)) = raw.split_first_chunk::<4>()
            && let Some(raw) = raw.get(..u32::from_le_bytes(*len) as usize)
        {
            each(u64::from_le_bytes(*time), raw);
        }
        bytes = &rest[body.len()..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, body: &[u8]) -> Vec<u8> {
        let size = (HEADER + body.len()) as u16;
        let mut record = kind.to_le_bytes().to_vec();
        record.extend([0, 0]);
        record.extend(size.to_le_bytes());
        record.extend(body);
        record
    }

    fn sample(time: u64, raw: &[u8]) -> Vec<u8> {
        let mut body = time.to_le_bytes().to_vec();
        body.extend((raw.len() as u32).to_le_bytes());
        body.extend(raw);
        record(SAMPLE, &body)
    }

    fn parsed(bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut all = Vec::new();
        samples(bytes, |time, raw| all.push((time, raw.to_vec())));
        all
    }

    #[test]
    fn samples_are_told_from_other_records() {
        let (lost, short) = (record(2, &[0; 16]), record(SAMPLE, &[0; 7]));
        let all = [sample(5, b"guest"), lost, short, sample(7, &[])].concat();
        let expected = [(5, b"guest".to_vec()), (7, Vec::new())];
        assert_eq!(parsed(&all), expected);
        // What ends in the middle of a record.
        assert_eq!(parsed(&all[..all.len() - 1]), expected[..1]);
        for byte in [0, 1, 0xff] {
            assert_eq!(parsed(&[byte; 64]), []);
        }
    }
}
