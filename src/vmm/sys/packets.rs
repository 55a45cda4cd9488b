//! Packets between two processes, which carry bytes and descriptors (unix(7): SOCK_SEQPACKET,
//! SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// The most descriptors of a packet; the kernel's limit is 253 (SCM_MAX_FD).
pub const MOST_FILES: usize = 64;
/// The most bytes of a packet.
const MOST_BYTES: usize = 8 << 10;

/// One end of a pair of sockets.
#[derive(Debug)]
pub struct Packets(OwnedFd);

/// What a packet carries.
#[derive(Debug, Default)]
pub struct Packet {
    /// The bytes; there is at least one.
    pub bytes: Vec<u8>,
    /// The descriptors.
    pub files: Vec<OwnedFd>,
}

impl Packets {
    /// Makes the two ends.
    ///
    /// # Errors
    /// The errno.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(one), Self(other)))
    }

    /// Sends a packet. `bytes` has at least one byte: an empty packet would be taken for the end.
    ///
    /// # Errors
    /// The errno; EPIPE if the other end is closed.
    pub fn send(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(SendFlags::NOSIGNAL, bytes, files)
    }

    /// As [`Packets::send`], without waiting for room.
    ///
    /// # Errors
    /// The errno; EAGAIN if there is no room.
    pub fn send_now(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(SendFlags::NOSIGNAL | SendFlags::DONTWAIT, bytes, files)
    }

    fn send_with(
        &self,
        flags: SendFlags,
        bytes: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FILES))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !rights.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        let parts = [IoSlice::new(bytes)];
        loop {
            match sendmsg(&self.0, &parts, &mut rights, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits for a packet; `None` if the other end is closed.
    ///
    /// # Errors
    /// The errno.
    pub fn receive(&self) -> io::Result<Option<Packet>> {
        self.receive_with(RecvFlags::CMSG_CLOEXEC)
    }

    /// As [`Packets::receive`], without waiting.
    ///
    /// # Errors
    /// The errno; EAGAIN if no packet is there.
    pub fn receive_now(&self) -> io::Result<Option<Packet>> {
        self.receive_with(RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)
    }

    fn receive_with(&self, flags: RecvFlags) -> io::Result<Option<Packet>> {
        let mut bytes = vec![0; MOST_BYTES];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FILES))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, &mut parts, &mut rights, flags) {
                Err(Errno::INTR) => {}
                // The other end was closed with a packet in it that nobody has read.
                Err(Errno::CONNRESET) => return Ok(None),
                other => break other?,
            }
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        bytes.truncate(received.bytes);
        let mut files = Vec::new();
        for message in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(sent) = message {
                files.extend(sent);
            }
        }
        Ok(Some(Packet { bytes, files }))
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRef<OwnedFd> for Packets {
    fn as_ref(&self) -> &OwnedFd {
        &self.0
    }
}

impl From<OwnedFd> for Packets {
    fn from(end: OwnedFd) -> Self {
        Self(end)
    }
}

impl From<Packets> for OwnedFd {
    fn from(end: Packets) -> Self {
        end.0
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn bytes_and_files_arrive_together_and_the_end_is_seen() {
        let (here, there) = Packets::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        here.send(&[1, 2], &[writer.as_fd(), writer.as_fd()])
            .unwrap();
        here.send(&[3], &[]).unwrap();
        drop((here, writer));
        let first = there.receive().unwrap().unwrap();
        assert_eq!((first.bytes, first.files.len()), (vec![1, 2], 2));
        for file in first.files {
            File::from(file).write_all(b"x").unwrap();
        }
        let second = there.receive().unwrap().unwrap();
        assert_eq!((second.bytes, second.files.len()), (vec![3], 0));
        assert!(there.receive().unwrap().is_none());
        // No copy of the descriptors is left in the sockets.
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "xx");
        let error = there.send(&[4], &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
    }
}
