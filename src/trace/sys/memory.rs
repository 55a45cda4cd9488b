//! Reads the memory of the traced program (process_vm_readv(2)).

use libc::{c_void, iovec, pid_t};

use crate::decode::value::Memory;

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
        usize::try_from(read).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
