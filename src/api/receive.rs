//! Reads a Unix stream, and a descriptor that comes with the bytes (unix(7), SCM_RIGHTS).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::cmsg_space;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

/// The descriptors that came with the bytes of one read.
#[derive(Debug, Default)]
pub enum Attached {
    /// None.
    #[default]
    Nothing,
    /// One. Programs that this process executes do not inherit it.
    One(OwnedFd),
    /// More than one. All of them are closed.
    Several,
}

/// Reads once, as read(2) does; returns how many bytes came, 0 at the end of the stream, and what
/// came with them. The kernel ends a read after the bytes of a message with descriptors, so one
/// read has those of one message.
///
/// # Errors
/// The errno; EAGAIN if the stream must not block and has nothing.
pub fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Attached)> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = loop {
        match recvmsg(stream, &mut parts, &mut rights, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    // The space is aligned and may hold two. Descriptors without space are not opened at all, which
    // the flag tells (recvmsg(2)).
    let mut files = rights.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => files.collect(),
        _ => Vec::new(),
    });
    let (first, second) = (files.next(), files.next());
    let cut = message.flags.contains(ReturnFlags::CTRUNC);
    let attached = match (first, second) {
        (None, _) if !cut => Attached::Nothing,
        (Some(file), None) if !cut => Attached::One(file),
        _ => Attached::Several,
    };
    Ok((message.bytes, attached))
}

/// What waits in a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// The bytes, which stay in the stream.
    pub bytes: Vec<u8>,
    /// Whether descriptors came with the last bytes. What comes after these is not seen.
    pub attached: bool,
}

/// Looks at what waits in a stream, and leaves it there (recv(2), MSG_PEEK).
///
/// # Errors
/// The errno; EAGAIN if nothing waits, and the stream is not at its end.
pub fn peek(stream: BorrowedFd<'_>, most: usize) -> io::Result<Waiting> {
    let mut bytes = vec![0; most];
    // Without space for descriptors, the kernel opens none, and says so.
    let mut rights = RecvAncillaryBuffer::default();
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(stream, &mut parts, &mut rights, flags) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let (count, flags) = (message.bytes, message.flags);
    bytes.truncate(count);
    Ok(Waiting {
        bytes,
        attached: flags.contains(ReturnFlags::CTRUNC),
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{IoSlice, Read, Write, pipe};
    use std::os::fd::AsFd;

    use rustix::io::{FdFlags, fcntl_getfd};
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;

    /// Sends bytes with so many copies of a descriptor.
    fn send(stream: &UnixStream, bytes: &[u8], file: &impl AsFd, copies: usize) {
        let files = vec![file.as_fd(); copies];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(16))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        assert!(rights.push(SendAncillaryMessage::ScmRights(&files)));
        let parts = [IoSlice::new(bytes)];
        let sent = sendmsg(stream, &parts, &mut rights, SendFlags::empty());
        assert_eq!(sent, Ok(bytes.len()));
    }

    #[test]
    fn one_descriptor_comes_with_its_bytes() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = pipe().unwrap();
        theirs.write_all(b"before").unwrap();
        send(&theirs, b"with", &writer, 1);
        drop(writer);
        theirs.write_all(b"after").unwrap();
        let mut buffer = [0; 64];
        let (mut text, mut file) = (Vec::new(), None);
        while text.len() < b"beforewithafter".len() {
            let (count, attached) = receive(&ours, &mut buffer).unwrap();
            text.extend_from_slice(&buffer[..count]);
            if let Attached::One(this) = attached {
                assert!(text.starts_with(b"beforewith"), "{text:?}");
                assert!(file.replace(this).is_none());
            }
        }
        assert_eq!(text, b"beforewithafter");
        let file = file.expect("a descriptor");
        assert!(fcntl_getfd(&file).unwrap().contains(FdFlags::CLOEXEC));
        File::from(file).write_all(b"x").unwrap();
        // The only writing end is closed.
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(read, b"x");
    }

    #[test]
    fn a_look_leaves_all_there_is() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = pipe().unwrap();
        let look = |most| peek(ours.as_fd(), most);
        assert_eq!(look(9).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        theirs.write_all(b"one").unwrap();
        theirs.write_all(b"two").unwrap();
        assert_eq!(look(4).unwrap().bytes, b"onet");
        send(&theirs, b"with", &writer, 1);
        drop(writer);
        theirs.write_all(b"after").unwrap();
        let waiting = look(99).unwrap();
        assert_eq!(waiting.bytes, b"onetwowith");
        assert!(waiting.attached);
        let mut buffer = [0; 10];
        let (count, attached) = receive(&ours, &mut buffer).unwrap();
        assert_eq!(count, 10);
        assert!(matches!(attached, Attached::One(_)));
        let waiting = look(99).unwrap();
        assert_eq!((&*waiting.bytes, waiting.attached), (&b"after"[..], false));
        // No look has kept a copy.
        drop(attached);
        assert_eq!(reader.read(&mut buffer).unwrap(), 0);
        drop(theirs);
        receive(&ours, &mut buffer).unwrap();
        assert_eq!(look(9).unwrap(), Waiting::default());
    }

    /// The end of the pipe shows that no copy stays open.
    #[test]
    fn several_descriptors_are_closed() {
        for copies in [2, 3, 16] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (mut reader, writer) = pipe().unwrap();
            send(&theirs, b"many", &writer, copies);
            drop(writer);
            let mut buffer = [0; 64];
            let (count, attached) = receive(&ours, &mut buffer).unwrap();
            assert_eq!(count, 4);
            assert!(matches!(attached, Attached::Several), "{attached:?}");
            assert_eq!(reader.read(&mut buffer).unwrap(), 0, "{copies} copies");
        }
    }

    #[test]
    fn a_stream_without_descriptors_is_read_as_ever() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut buffer = [0; 2];
        let nothing = receive(&ours, &mut buffer).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        theirs.write_all(b"abc").unwrap();
        for expected in [&b"ab"[..], b"c"] {
            let (count, attached) = receive(&ours, &mut buffer).unwrap();
            assert!(matches!(attached, Attached::Nothing), "{attached:?}");
            assert_eq!(&buffer[..count], expected);
        }
        drop(theirs);
        let (count, _) = receive(&ours, &mut buffer).unwrap();
        assert_eq!(count, 0);
    }
}
