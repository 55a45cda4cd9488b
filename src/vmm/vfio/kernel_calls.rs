//! The calls for devices that may sleep in the kernel, made by the running kernel.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use tracing::debug;

use crate::hostinfo::answer::answer;
use crate::hostinfo::looker;
use crate::vfio::opener::{Calls, Opener, Request};
use crate::vfio::uapi;

/// The calls of the running kernel.
#[derive(Debug)]
pub struct KernelCalls;

impl Calls for KernelCalls {
    fn make(&self, request: &Request, files: Vec<File>) -> io::Result<Option<OwnedFd>> {
        let file = |index: usize| {
            let missing = || io::Error::from_raw_os_error(libc::EBADF);
            files.get(index).ok_or_else(missing)
        };
        match request {
            Request::Open(path) => {
                if path != IOMMUFD {
                    check(path, NODES)?;
                }
                let file = OpenOptions::new().read(true).write(true).open(path)?;
                return Ok(Some(file.into()));
            }
            Request::Read(path) => {
                check(path, FACTS)?;
                return file_with(&std::fs::read(path)?).map(Some);
            }
            Request::Look { asker, look } => {
                return file_with(answer(look, *asker)?.as_bytes()).map(Some);
            }
            Request::DeviceOfGroup(name) => {
                return uapi::device_of_group(file(0)?, name).map(|file| Some(file.into()));
            }
            Request::Bind { token } => uapi::bind(file(0)?, file(1)?, token.as_ref())?,
            Request::AskToken if uapi::bind_takes_token(file(0)?)? => {}
            Request::AskToken => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
            Request::Attach { ioas } => uapi::attach(file(0)?, *ioas)?,
            Request::Detach => uapi::detach(file(0)?)?,
            Request::Reset => uapi::reset(file(0)?)?,
            Request::HotReset => {
                let groups = files.get(1..).unwrap_or_default();
                let mut words = vec![0, 0, groups.len() as u32];
                words.extend(groups.iter().map(|group| group.as_raw_fd() as u32));
                uapi::hot_reset(file(0)?, &mut words)?;
            }
            Request::Write { at, data } => file(0)?.write_all_at(data, *at)?,
            Request::Close => drop(files),
        }
        Ok(None)
    }
}

/// A file in memory with the bytes of an answer.
fn file_with(bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create("answer", MemfdFlags::CLOEXEC)?;
    File::from(file.try_clone()?).write_all_at(bytes, 0)?;
    Ok(file)
}

/// The node of iommufd.
const IOMMUFD: &str = "/dev/iommu";
/// Where the nodes of groups and devices are.
const NODES: &str = "/dev/vfio/";
/// Where the facts of devices are.
const FACTS: &str = "/sys/";

/// Checks that a path is in a folder: the VMM that asks may have been taken over by its guest.
fn check(path: &str, folder: &str) -> io::Result<()> {
    match path.starts_with(folder) && !path.split('/').any(|part| part == "..") {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::EACCES)),
    }
}

/// Lets the opener's process look at other processes for this one, which is confined.
pub fn look_by(opener: &Arc<Opener>) {
    let looker: Arc<dyn looker::Looker> = Arc::<Opener>::clone(opener);
    looker::set(Arc::downgrade(&looker));
}

/// An opener that makes the calls in this process, which ends only after them.
pub fn opener_here() -> Arc<Opener> {
    Arc::new(Opener::here(Arc::new(KernelCalls)))
}

/// An opener with a process of its own ([`Opener::start`]), which waits for the end of this one.
///
/// # Errors
/// There are other threads, or no process can be made.
pub fn opener(
    limit: Duration,
    keep: &[&OwnedFd],
    at_end: impl FnOnce(),
) -> io::Result<Arc<Opener>> {
    let mut opener = Opener::start(limit, Arc::new(KernelCalls), keep, at_end)?;
    opener.outlived();
    Ok(Arc::new(opener))
}

/// An opener with a process of its own, or without where this process may not fork.
pub fn opener_or_here(limit: Duration) -> Arc<Opener> {
    let opener = Opener::start(limit, Arc::new(KernelCalls), &[], || {});
    opener.map_or_else(
        |e| {
            debug!("calls for devices are made without another process: {e}");
            opener_here()
        },
        Arc::new,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_not_fork_beside_threads() {
        assert!(opener(Duration::ZERO, &[], || {}).is_err());
        opener_or_here(Duration::ZERO);
    }

    #[test]
    fn a_request_without_its_file_is_refused() {
        for request in [Request::Reset, Request::Bind { token: None }] {
            let error = KernelCalls.make(&request, Vec::new()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        }
        let null = || vec![File::open("/dev/null").unwrap()];
        let error = KernelCalls.make(&Request::Reset, null()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
        assert!(KernelCalls.make(&Request::Close, null()).unwrap().is_none());
    }

    /// The VMM that asks may have been taken over by its guest.
    #[test]
    fn other_files_are_not_opened() {
        for request in [
            Request::Open("/dev/null".into()),
            Request::Open("/dev/vfio/../null".into()),
            Request::Open("/dev/vfio-x".into()),
            Request::Open("/dev/iommux".into()),
            Request::Read("/etc/passwd".into()),
            Request::Read("/sys/../etc/passwd".into()),
        ] {
            let error = KernelCalls.make(&request, Vec::new()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{request:?}");
        }
        let request = Request::Read("/sys/kernel/profiling".into());
        let outcome = KernelCalls.make(&request, Vec::new());
        let errno = outcome.map_err(|e| e.raw_os_error());
        assert!(!matches!(errno, Err(Some(libc::EACCES))), "{errno:?}");
    }
}
