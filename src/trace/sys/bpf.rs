//! Programs that the kernel runs at its tracepoints (bpf(2)). They go with their descriptors, so a
//! tracer that is killed leaves nothing behind.

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use libc::{c_int, c_uint};

/// Commands of linux/bpf.h.
const MAP_CREATE: c_uint = 0;
const MAP_UPDATE: c_uint = 2;
const MAP_DELETE: c_uint = 3;
const PROGRAM_LOAD: c_uint = 5;
const RAW_TRACEPOINT_OPEN: c_uint = 17;

/// BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_RINGBUF and BPF_PROG_TYPE_RAW_TRACEPOINT.
const HASH: u32 = 1;
const RINGBUF: u32 = 27;
const PROGRAM: u32 = 17;

/// The kernel lends some of its functions only to programs that are under the GPL, too. This
/// project's BSD licence lets them be (include/linux/license.h, `license_is_gpl_compatible`).
const LICENSE: &CStr = c"Dual BSD/GPL";

const PAGE: usize = 4096;
/// BPF_RINGBUF_BUSY_BIT and BPF_RINGBUF_HDR_SZ. No program here discards a record.
const BUSY: u32 = 1 << 31;
const HEADER: u64 = 8;

/// An instruction of the kernel's machine (Documentation/bpf/standardization/instruction-set.rst).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The operation.
    pub code: u8,
    /// The register that is written, and that which is read, in the high half.
    pub registers: u8,
    /// An offset of an address or of a jump.
    pub offset: i16,
    /// A number.
    pub immediate: i32,
}

/// The start of `union bpf_attr`, whose fields have eight bytes here, or four in a pair.
#[repr(C)]
#[derive(Default)]
struct Attributes([u64; 9]);

/// Two fields of four bytes.
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn number(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn command(command: c_uint, attributes: &Attributes) -> io::Result<c_int> {
    let size = size_of::<Attributes>();
    // SAFETY: `attributes` is valid for its size, and the addresses in it are of memory that
    // outlives the call and is as long as the command has it.
    let value = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attributes), size) };
    match value {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value as c_int),
    }
}

fn descriptor(number: c_uint, attributes: &Attributes) -> io::Result<OwnedFd> {
    let fd = command(number, attributes)?;
    // SAFETY: the descriptor is new and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A table that programs look things up in: numbers of `K` words of four bytes lead to `V` numbers.
#[derive(Debug)]
pub struct Table<const K: usize, const V: usize>(OwnedFd);

impl<const K: usize, const V: usize> Table<K, V> {
    /// A table with room for so many entries.
    ///
    /// # Errors
    /// The errno of bpf(2): EPERM without the capability BPF.
    pub fn new(entries: u32) -> io::Result<Self> {
        let (key, value) = (4 * K as u32, 8 * V as u32);
        let mut attributes = Attributes::default();
        attributes.0[..2].copy_from_slice(&[pair(HASH, key), pair(value, entries)]);
        descriptor(MAP_CREATE, &attributes).map(Self)
    }

    /// Sets an entry.
    ///
    /// # Errors
    /// The errno of bpf(2): E2BIG without room.
    pub fn set(&self, key: [u32; K], value: [u64; V]) -> io::Result<()> {
        let attributes = self.entry(&key, value.as_ptr() as u64);
        command(MAP_UPDATE, &attributes).map(drop)
    }

    /// Removes an entry, if there is one.
    pub fn remove(&self, key: [u32; K]) {
        let _ = command(MAP_DELETE, &self.entry(&key, 0));
    }

    fn entry(&self, key: &[u32; K], value: u64) -> Attributes {
        let mut attributes = Attributes::default();
        let parts = [pair(number(&self.0), 0), key.as_ptr() as u64, value];
        attributes.0[..3].copy_from_slice(&parts);
        attributes
    }

    /// The number by which a program names the table.
    pub fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// A program at a tracepoint, until dropped.
#[derive(Debug)]
pub struct Attached {
    _program: OwnedFd,
    _link: OwnedFd,
}

impl Attached {
    /// Runs a program at the tracepoint of this name.
    ///
    /// # Errors
    /// The errno of bpf(2): EINVAL if the kernel has no such programs or helpers, EACCES if it does
    /// not see that the program is safe.
    pub fn new(tracepoint: &CStr, code: &[Instruction]) -> io::Result<Self> {
        let mut attributes = Attributes::default();
        attributes.0[..3].copy_from_slice(&[
            pair(PROGRAM, code.len() as u32),
            code.as_ptr() as u64,
            LICENSE.as_ptr() as u64,
        ]);
        let program = descriptor(PROGRAM_LOAD, &attributes)?;
        let mut attributes = Attributes::default();
        let parts = [tracepoint.as_ptr() as u64, number(&program).into()];
        attributes.0[..2].copy_from_slice(&parts);
        Ok(Self {
            _link: descriptor(RAW_TRACEPOINT_OPEN, &attributes)?,
            _program: program,
        })
    }
}

/// The records of programs, in the order in which they were begun (Documentation/bpf/ringbuf.rst).
#[derive(Debug)]
pub struct Records {
    fd: OwnedFd,
    size: usize,
    /// The page with the position up to which records were taken.
    taken: NonNull<u8>,
    /// The page with the position up to which records were begun, and the records twice.
    begun: NonNull<u8>,
}

impl Records {
    /// A buffer of so many bytes: a power of two of at least a page.
    ///
    /// # Errors
    /// The errno of bpf(2) or mmap(2): EINVAL if the kernel has no such buffers (Linux 5.8).
    pub fn new(size: usize) -> io::Result<Self> {
        let mut attributes = Attributes::default();
        attributes.0[..2].copy_from_slice(&[pair(RINGBUF, 0), pair(0, size as u32)]);
        let fd = descriptor(MAP_CREATE, &attributes)?;
        let taken = map(&fd, PAGE, libc::PROT_READ | libc::PROT_WRITE, 0)?;
        let begun = match map(&fd, PAGE + 2 * size, libc::PROT_READ, PAGE) {
            Ok(begun) => begun,
            Err(e) => {
                // SAFETY: the mapping was made above, and nothing refers to it.
                unsafe { libc::munmap(taken.as_ptr().cast(), PAGE) };
                return Err(e);
            }
        };
        Ok(Self {
            fd,
            size,
            taken,
            begun,
        })
    }

    /// The number by which a program names the buffer.
    pub fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// The bytes of records that were taken.
    pub fn taken(&self) -> u64 {
        self.position(self.taken).load(Ordering::Relaxed)
    }

    /// The bytes of records that were begun.
    pub fn begun(&self) -> u64 {
        self.position(self.begun).load(Ordering::Acquire)
    }

    fn position(&self, page: NonNull<u8>) -> &AtomicU64 {
        // SAFETY: each page is mapped as long as `self`, and begins with an aligned number that is
        // read and written whole.
        unsafe { AtomicU64::from_ptr(page.as_ptr().cast()) }
    }

    /// Takes the next record, if it is whole, and hands over its bytes.
    pub fn next<T>(&mut self, each: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let at = self.taken();
        let left = self.begun().wrapping_sub(at);
        if left < HEADER || left > self.size as u64 {
            return None;
        }
        let start = at as usize & (self.size - 1);
        // SAFETY: the records lie behind the page. `start` is below their size and a multiple of
        // eight, so the record's length is an aligned number, which the kernel writes whole.
        let (record, len) = unsafe {
            let record = self.begun.as_ptr().add(PAGE + start);
            (record, AtomicU32::from_ptr(record.cast()))
        };
        let len = len.load(Ordering::Acquire);
        if len & BUSY != 0 {
            return None;
        }
        let whole = HEADER + u64::from(len).next_multiple_of(8);
        if whole > left {
            return None;
        }
        // SAFETY: the record ends within `left` bytes, which are at most the size, and the records
        // are mapped twice. The kernel writes no byte of a whole record before it is taken.
        let content =
            unsafe { std::slice::from_raw_parts(record.add(HEADER as usize), len as usize) };
        let value = each(content);
        let taken = self.position(self.taken);
        taken.store(at.wrapping_add(whole), Ordering::Release);
        Some(value)
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        // SAFETY: the mappings are this object's own, and no reference to them is left.
        unsafe {
            libc::munmap(self.taken.as_ptr().cast(), PAGE);
            libc::munmap(self.begun.as_ptr().cast(), PAGE + 2 * self.size);
        }
    }
}

fn map(fd: &OwnedFd, len: usize, prot: c_int, offset: usize) -> io::Result<NonNull<u8>> {
    let (none, offset) = (ptr::null_mut(), offset as libc::off_t);
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let at = unsafe { libc::mmap(none, len, prot, libc::MAP_SHARED, fd.as_raw_fd(), offset) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(at.cast()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
