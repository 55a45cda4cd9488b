//! Processes that make calls which never end, for the tests of [`crate::endless`].

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vmm::vfio::opener::{Calls, Opener, Request};

/// How long a call is waited for.
pub const LIMIT: Duration = Duration::from_secs(1);
/// How many there are.
const MOST: usize = 3;

/// The other process, whose writes wait until a pipe has no writer.
pub struct Endless {
    pub opener: Arc<Opener>,
    pub waits: File,
    pub ends: File,
}

/// One for each test. They are made while this process has one thread, because they fork.
static PREPARED: Mutex<Vec<Endless>> = Mutex::new(Vec::new());

struct Pipes;

impl Calls for Pipes {
    fn make(&self, request: &Request, files: Vec<File>) -> io::Result<Option<OwnedFd>> {
        let Request::Write { .. } = request else {
            return Err(io::Error::from_raw_os_error(libc::ENOTTY));
        };
        (&files[0]).read_to_end(&mut Vec::new())?;
        Ok(None)
    }
}

/// Makes the processes.
pub fn prepare() {
    let endless = || {
        // Before the pipe: the process must not hold the end that is written to.
        let opener = Opener::start(LIMIT, Arc::new(Pipes), &[], || {});
        let (reader, writer) = io::pipe()?;
        Ok::<_, io::Error>(Endless {
            opener: Arc::new(opener?),
            waits: OwnedFd::from(reader).into(),
            ends: OwnedFd::from(writer).into(),
        })
    };
    let prepared = (0..MOST).map(|_| endless());
    let prepared = prepared
        .collect::<io::Result<Vec<_>>>()
        .expect("processes and pipes");
    *PREPARED.lock().unwrap() = prepared;
}

/// Takes one of the processes.
pub fn take() -> Endless {
    PREPARED.lock().unwrap().pop().expect("one for each test")
}
