//! Reads the memory of the traced program: by process_vm_readv(2), or by /proc/PID/mem where the
//! kernel was built without that call (CONFIG_CROSS_MEMORY_ATTACH).

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{c_void, iovec, pid_t};

use crate::decode::value::Memory;

/// Whether the kernel has no process_vm_readv.
static MISSING: AtomicBool = AtomicBool::new(false);

/// How many memory files stay open.
const OPEN: usize = 16;

thread_local! {
    /// The memory files of threads that were read last.
    static FILES: RefCell<Vec<(pid_t, File)>> = const { RefCell::new(Vec::new()) };
}

/// The memory of a traced thread.
#[derive(Clone, Copy, Debug)]
pub struct Remote(pub pid_t);

impl Memory for Remote {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        self.read_parts(&mut [(address, into)])
    }
}

impl Remote {
    /// Reads up to eight parts in one call. Returns the bytes that were read, from the first part
    /// on.
    pub fn read_parts(&self, parts: &mut [(u64, &mut [u8])]) -> usize {
        if MISSING.load(Ordering::Relaxed) {
            return self.read_files(parts);
        }
        const NONE: iovec = iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        let (mut local, mut remote) = ([NONE; 8], [NONE; 8]);
        let count = parts.len().min(local.len());
        for ((part, local), remote) in parts.iter_mut().zip(&mut local).zip(&mut remote) {
            local.iov_base = part.1.as_mut_ptr().cast();
            local.iov_len = part.1.len();
            remote.iov_base = part.0 as *mut c_void;
            remote.iov_len = part.1.len();
        }
        let count = count as libc::c_ulong;
        // SAFETY: the local parts are exclusive borrows that outlive the call. The remote addresses
        // are of another process, where the kernel checks them.
        let read = unsafe {
            libc::process_vm_readv(self.0, local.as_ptr(), count, remote.as_ptr(), count, 0)
        };
        if read < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
            MISSING.store(true, Ordering::Relaxed);
            return self.read_files(parts);
        }
        usize::try_from(read).unwrap_or(0)
    }

    /// The same by /proc/PID/mem.
    fn read_files(&self, parts: &mut [(u64, &mut [u8])]) -> usize {
        let mut whole = 0;
        for (address, into) in parts {
            let read = self.read_file(*address, into);
            whole += read;
            if read < into.len() {
                break;
            }
        }
        whole
    }

    fn read_file(&self, address: u64, into: &mut [u8]) -> usize {
        FILES.with_borrow_mut(|files| {
            let at = files.iter().position(|(tid, _)| *tid == self.0);
            if let Some(at) = at {
                match files[at].1.read_at(into, address) {
                    // The memory is gone: the thread executes another program, or another thread
                    // has its number.
                    Ok(0) => drop(files.remove(at)),
                    read => return read.unwrap_or(0),
                }
            }
            let Ok(file) = File::open(format!("/proc/{}/mem", self.0)) else {
                return 0;
            };
            let read = file.read_at(into, address).unwrap_or(0);
            if files.len() == OPEN {
                files.remove(0);
            }
            files.push((self.0, file));
            read
        })
    }
}

/// Bytes of a block, at an address that is a multiple of them.
const BLOCK: usize = 512;

/// The memory of a thread that has stopped, for many small reads: a block is read once. A block is
/// in one page, so it can be read if any part of it can.
#[derive(Debug)]
pub struct Blocks {
    remote: Remote,
    /// The address of the last block, and its bytes.
    last: RefCell<Option<(u64, [u8; BLOCK])>>,
}

impl Blocks {
    /// The memory of a thread, none of which is read yet.
    pub fn new(tid: pid_t) -> Self {
        Self {
            remote: Remote(tid),
            last: RefCell::new(None),
        }
    }
}

impl Memory for Blocks {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let start = address & !(BLOCK as u64 - 1);
        let offset = (address - start) as usize;
        let mut last = self.last.borrow_mut();
        if offset + into.len() > BLOCK {
            return self.remote.read(address, into);
        }
        if last.as_ref().is_none_or(|(at, _)| *at != start) {
            let mut bytes = [0; BLOCK];
            let read = self.remote.read(start, &mut bytes);
            *last = (read == BLOCK).then_some((start, bytes));
        }
        let Some((_, bytes)) = last.as_ref() else {
            return self.remote.read(address, into);
        };
        into.copy_from_slice(&bytes[offset..offset + into.len()]);
        into.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_read_the_same() {
        let bytes: Vec<u8> = (0..=255).cycle().take(8 * BLOCK).collect();
        let own = Blocks::new(std::process::id() as pid_t);
        for (at, len) in [
            (0, 1),
            (1, 7),
            (500, 40),
            (1000, 0),
            (1024, 2048),
            (3, BLOCK),
        ] {
            let mut into = vec![0; len];
            assert_eq!(own.read(bytes[at..].as_ptr() as u64, &mut into), len);
            assert_eq!(into, bytes[at..at + len]);
        }
        assert_eq!(own.read(8, &mut [0; 5]), 0);
        assert_eq!(own.read(u64::MAX - 2, &mut [0; 2]), 0);
        assert_eq!(own.read(u64::MAX - 2, &mut [0; 5]), 0);
    }

    #[test]
    fn reads_stop_at_what_is_not_mapped() {
        let own = Remote(std::process::id() as pid_t);
        let (text, mut into) = (*b"guest", [0; 5]);
        assert_eq!(own.read(text.as_ptr() as u64, &mut into), 5);
        assert_eq!(into, text);
        assert_eq!(own.read(8, &mut into), 0);
        assert_eq!(own.read(u64::MAX - 2, &mut into), 0);
        let (mut first, mut second) = ([0; 2], [0; 2]);
        let parts = &mut [(text.as_ptr() as u64, &mut first[..]), (8, &mut second[..])];
        assert_eq!(own.read_parts(parts), 2);
        assert_eq!(&first, b"gu");
    }

    /// As on a kernel without process_vm_readv.
    #[test]
    fn memory_files_read_the_same() {
        let own = Remote(std::process::id() as pid_t);
        let (text, mut into) = (*b"guest", [0; 5]);
        for _ in 0..2 {
            assert_eq!(own.read_file(text.as_ptr() as u64, &mut into), 5);
            assert_eq!(into, text);
        }
        assert_eq!(own.read_file(8, &mut into), 0);
        assert_eq!(own.read_file(u64::MAX - 2, &mut into), 0);
        let (mut first, mut second) = ([0; 2], [0; 2]);
        let parts = &mut [(text.as_ptr() as u64, &mut first[..]), (8, &mut second[..])];
        assert_eq!(own.read_files(parts), 2);
        assert_eq!(&first, b"gu");
        // A process that has ended has no memory.
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert_eq!(Remote(child.id() as pid_t).read_file(8, &mut into), 0);
    }
}
