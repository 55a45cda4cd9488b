//! The process that makes the calls. It outlives the VMM if a call does.
//!
//! The VMM makes a pair of sockets for each call, and sends one of the two with the request. A
//! thread of its own makes the call. The thread tells its number before the call, and the outcome
//! after it. If nobody is left to hear that, the files close with the thread.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::thread::gettid;

use crate::sys::packets::{Packet, Packets};
use crate::sys::process::Process;
use crate::vfio::opener::request::{Calls, Request};

/// A message about a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// This thread makes the call.
    Begun(Process),
    /// The call has returned this errno, or 0.
    Ended(i32),
}

impl Answer {
    fn encode(&self) -> Vec<u8> {
        let (kind, value, started) = match self {
            Self::Begun(thread) => (0, thread.pid.to_le_bytes(), thread.started),
            Self::Ended(errno) => (1, errno.to_le_bytes(), 0),
        };
        [&[kind][..], &value, &started.to_le_bytes()].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, value) = bytes.split_first()?;
        let (value, started) = value.split_first_chunk()?;
        let started = u64::from_le_bytes(started.try_into().ok()?);
        match kind {
            0 => Some(Self::Begun(Process {
                pid: u32::from_le_bytes(*value),
                started,
            })),
            1 => Some(Self::Ended(i32::from_le_bytes(*value))),
            _ => None,
        }
    }
}

/// The most calls at a time. The VMM makes few, and one that its guest has taken over no more.
const MOST_CALLS: usize = 1024;

/// Makes the calls that are asked for. Returns when the VMM has closed its end of the socket and
/// all calls have returned.
pub fn serve(socket: &Packets, calls: &Arc<dyn Calls>) {
    serve_until(None, socket, calls);
}

/// As [`serve`]. `end` is a descriptor that tells the end of the VMM (pidfd_open(2)): after that,
/// nobody who has got a socket from the VMM is waited for.
pub(super) fn serve_until(end: Option<OwnedFd>, socket: &Packets, calls: &Arc<dyn Calls>) {
    let end = end.map(Arc::new);
    let mut threads = Vec::new();
    let mut after_end = 0;
    while after_end < MOST_CALLS {
        let has_ended = wait(socket, end.as_deref());
        after_end += usize::from(has_ended);
        let packet = match has_ended {
            // What the VMM has sent before its end is there already.
            true => socket.receive_now(),
            false => socket.receive(),
        };
        let Ok(Some(packet)) = packet else {
            break;
        };
        threads.retain(|thread: &thread::JoinHandle<()>| !thread.is_finished());
        if threads.len() >= MOST_CALLS {
            continue;
        }
        let (calls, end) = (Arc::clone(calls), end.clone());
        let thread = thread::Builder::new().name("vmm-call".into());
        // Without a thread the request is dropped, and the VMM sees the end of its socket.
        threads.extend(thread.spawn(move || make(packet, &*calls, end.as_deref())));
    }
    for thread in threads {
        // A call that panicked has closed its files too.
        let _ = thread.join();
    }
}

/// Waits for a packet, for the end of a socket, or for the end of the VMM. Returns whether the VMM
/// has ended.
fn wait(socket: &Packets, end: Option<&OwnedFd>) -> bool {
    let Some(end) = end else {
        return false;
    };
    loop {
        let mut both = [
            PollFd::new(socket, PollFlags::IN),
            PollFd::new(end, PollFlags::IN),
        ];
        match poll(&mut both, None) {
            Err(Errno::INTR) => {}
            outcome => return outcome.is_err() || !both[1].revents().is_empty(),
        }
    }
}

/// Makes one call. No answer waits for room: a VMM that is what it should be reads each.
fn make(packet: Packet, calls: &dyn Calls, end: Option<&OwnedFd>) {
    let mut files = packet.files.into_iter();
    let (Some(caller), Some(request)) = (files.next(), Request::decode(&packet.bytes)) else {
        return;
    };
    let caller = Packets::from(caller);
    let files: Vec<File> = files.map(File::from).collect();
    let thread = gettid().as_raw_nonzero().get().cast_unsigned();
    // Told with its start, because the VMM's threads may not open /proc. The call is made whether
    // or not the VMM is still there.
    if let Some(thread) = Process::of(thread) {
        let _ = caller.send_now(&Answer::Begun(thread).encode(), &[]);
    }
    if request == Request::Close {
        // The VMM closes its own descriptor first, so that this one is the last.
        if !wait(&caller, end) {
            let _ = caller.receive();
        }
    }
    let outcome = calls.make(&request, files);
    let (errno, file) = match outcome {
        Ok(file) => (0, file),
        Err(e) => (errno_of(&e), None),
    };
    let file = file.as_ref().map(OwnedFd::as_fd);
    // Without the VMM, the file closes here.
    let _ = caller.send_now(&Answer::Ended(errno).encode(), file.as_slice());
}

/// The errno of an error; EIO for an error without one, such as a short write.
fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
