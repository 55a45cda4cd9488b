//! Who is at the other end of a Unix socket (unix(7), SO_PEERCRED).
//!
//! rustix has this call too, but its process number cannot be 0, and the kernel answers 0 for a
//! process of a PID namespace that this process does not see (pid_namespaces(7)).

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The other process, as it was when it connected or began to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number; `None` if this process does not see it.
    pub pid: Option<i32>,
    /// Its effective user.
    pub uid: u32,
}

impl Peer {
    /// Asks the kernel.
    ///
    /// # Errors
    /// The errno: the descriptor is no Unix socket.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let mut credentials = libc::ucred {
            pid: 0,
            uid: u32::MAX,
            gid: u32::MAX,
        };
        let mut size = mem::size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `size` bytes to a local variable, whose fields may have
        // any bits.
        let outcome = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut credentials).cast(),
                &raw mut size,
            )
        };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            pid: (credentials.pid > 0).then_some(credentials.pid),
            uid: credentials.uid,
        })
    }

    /// Whether this process takes orders from the peer: it is root, or of the same user.
    pub fn may_control(self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_pair_of_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(one.as_fd()).unwrap();
        assert_eq!(peer.pid, Some(std::process::id().cast_signed()));
        assert!(peer.may_control());
        let stranger = Peer {
            uid: peer.uid.wrapping_add(4321),
            ..peer
        };
        assert!(!stranger.may_control());
        assert!(Peer { uid: 0, ..peer }.may_control());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Peer::of(file.as_fd()).is_err());
    }
}
