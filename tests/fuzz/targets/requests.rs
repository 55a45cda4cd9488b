//! The socket of the process that opens, resets and closes devices: any packets from its VMM. Each
//! is decoded as one request or none, with the files that came, and no descriptor is left.

#![no_main]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vmm::sys::packets::Packets;
use vmm::vfio::opener::{Calls, Request, serve};

#[derive(Debug, Arbitrary)]
struct Sent {
    bytes: Vec<u8>,
    /// How many files come with it, besides the socket for the answer.
    files: u8,
    /// The caller waits for no answer.
    gone: bool,
    /// No socket for the answer.
    mute: bool,
    errno: Option<u8>,
}

/// Notes the calls, and answers as the input says.
struct Made {
    calls: Mutex<Vec<(Request, usize)>>,
    errno: Option<u8>,
}

impl Calls for Made {
    fn make(&self, request: &Request, files: Vec<File>) -> io::Result<Option<OwnedFd>> {
        self.calls
            .lock()
            .unwrap()
            .push((request.clone(), files.len()));
        match self.errno {
            Some(errno) => Err(io::Error::from_raw_os_error(i32::from(errno).max(1))),
            None => Ok(files.into_iter().next().map(OwnedFd::from)),
        }
    }
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// What the bytes must mean, by the table of docs in src/vmm/vfio/opener/request.rs.
fn is_request(bytes: &[u8]) -> bool {
    let Some((kind, rest)) = bytes.split_first() else {
        return false;
    };
    match kind {
        0 | 9 | 14 => std::str::from_utf8(rest).is_ok(),
        1 => !rest.contains(&0),
        2 => matches!(rest.len(), 0 | 16),
        3 => rest.len() == 4,
        4..=6 | 8 | 10 | 13 => true,
        7 => rest.len() >= 8,
        11 => rest
            .get(4..)
            .is_some_and(|nodes| std::str::from_utf8(nodes).is_ok()),
        12 => rest.len() == 4,
        _ => false,
    }
}

fn one(sent: &Sent) {
    let (ours, theirs) = Packets::pair().expect("a pair of sockets");
    let (answer, caller) = Packets::pair().expect("a pair of sockets");
    let caller = OwnedFd::from(caller);
    let file = File::open("/dev/null").expect("a file");
    let count = usize::from(sent.files % 70);
    let mut files = Vec::new();
    if !sent.mute {
        files.push(caller.as_fd());
    }
    files.extend(std::iter::repeat_n(file.as_fd(), count));
    let delivered = ours.send(&sent.bytes, &files).is_ok();
    let total = files.len();
    drop(files);
    drop((ours, caller));
    let closes = sent.bytes.first() == Some(&8);
    if closes && !sent.mute {
        // The VMM says that it has closed its own descriptor.
        let _ = answer.send(&[1], &[]);
    }
    let answer = (!sent.gone).then_some(answer);
    let made = Arc::new(Made {
        calls: Mutex::default(),
        errno: sent.errno,
    });
    let calls: Arc<dyn Calls> = Arc::clone(&made) as Arc<dyn Calls>;
    serve(&theirs, &calls);
    let made = std::mem::take(&mut *made.calls.lock().unwrap());
    // An empty packet is the end.
    let valid = delivered && total > 0 && is_request(&sent.bytes);
    assert_eq!(made.len(), usize::from(valid), "{:?}", sent.bytes);
    for (request, files) in &made {
        assert_eq!(*files, total - 1, "all files and no other");
        let again = Request::decode(&request.encode());
        assert_eq!(again.as_ref(), Some(request), "a request arrives as it was");
    }
    if let (Some(answer), true, false) = (answer, valid, sent.mute) {
        let begun = answer.receive().expect("a packet").expect("it has begun");
        assert_eq!(begun.bytes.first(), Some(&0));
        let ended = answer.receive().expect("a packet").expect("it has ended");
        assert_eq!(ended.bytes.first(), Some(&1));
        assert!(answer.receive().expect("the end").is_none());
    }
}

fuzz_target!(|all: Vec<Sent>| {
    let before = open_descriptors();
    all.iter().take(8).for_each(one);
    assert_eq!(open_descriptors(), before, "a descriptor is left");
});
