//! The calls for devices that may sleep in the kernel, made by the running kernel.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use pci::config_space::CONVENTIONAL_SIZE;
use rustix::fs::{MemfdFlags, memfd_create};
use tracing::debug;

use crate::broker::{Broker, Kind};
use crate::hostinfo::answer::answer;
use crate::hostinfo::looker::{self, Look};
use crate::vfio::opener::{Calls, Opener, Request};
use crate::vfio::uapi;

/// The calls of the running kernel, for one run.
pub struct KernelCalls(Broker);

impl KernelCalls {
    /// The calls for a run.
    pub fn of(broker: Broker) -> Self {
        Self(broker)
    }

    /// The calls for a run that is not confined.
    pub fn of_any() -> Self {
        Self(Broker::of_any())
    }

    /// Opens a node.
    fn open(&self, path: &str) -> io::Result<File> {
        let node = self.0.node_to_open(path)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(node.path())?;
        self.0.check_node(&node, &file)?;
        Ok(file)
    }

    /// Reads a file of sysfs.
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.0.fact(path)?)
    }

    /// Reads the first bytes of a device's `config`, or as many as the kernel shows.
    fn read_start(&self, path: &str) -> io::Result<Vec<u8>> {
        let file = File::open(self.0.fact(path)?)?;
        let mut bytes = vec![0; CONVENTIONAL_SIZE];
        // The kernel gives all that it shows in one read.
        let len = file.read_at(&mut bytes, 0)?;
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Looks at other processes.
    fn look(&self, look: &Look, asker: u32) -> io::Result<String> {
        if self.0.is_for_any() {
            return answer(look, asker);
        }
        if let Look::Holders(nodes) = look {
            for node in nodes {
                self.0.node(node)?;
            }
        }
        // The run is the parent of this process.
        answer(look, std::os::unix::process::parent_id())
    }

    /// Checks what the descriptors of a request are.
    fn check(&self, request: &Request, files: &[File]) -> io::Result<()> {
        let wanted = match request {
            Request::DeviceOfGroup(name) => {
                let name = name.to_str().map_err(io::Error::other)?;
                self.0.check_name(name)?;
                &[Kind::Group][..]
            }
            Request::Bind { .. } => &[Kind::Device, Kind::Iommufd],
            Request::AskToken
            | Request::Attach { .. }
            | Request::Detach
            | Request::Reset
            | Request::Write { .. } => &[Kind::Device],
            Request::HotReset => &[Kind::Device, Kind::Group],
            // Closing a file is everybody's right.
            Request::Close
            | Request::Open(_)
            | Request::Read(_)
            | Request::ReadStart(_)
            | Request::Look { .. }
            | Request::Admit => return Ok(()),
        };
        // All files after the first are of one kind.
        let kinds = wanted.iter().chain(wanted.last().into_iter().cycle());
        let mut pairs = files.iter().zip(kinds);
        pairs.try_for_each(|(file, kind)| self.0.check_kind(file, *kind))
    }
}

impl Calls for KernelCalls {
    fn make(&self, request: &Request, files: Vec<File>) -> io::Result<Option<OwnedFd>> {
        if !self.0.is_for_any() {
            self.check(request, &files)?;
        }
        let file = |index: usize| {
            let missing = || io::Error::from_raw_os_error(libc::EBADF);
            files.get(index).ok_or_else(missing)
        };
        match request {
            Request::Open(path) => return Ok(Some(self.open(path)?.into())),
            Request::Read(path) => return file_with(&self.read(path)?).map(Some),
            Request::ReadStart(path) => {
                return file_with(&self.read_start(path)?).map(Some);
            }
            Request::Look { asker, look } => {
                return file_with(self.look(look, *asker)?.as_bytes()).map(Some);
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
            Request::Admit => self.0.admit(file(0)?)?,
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

/// Lets the opener's process look at other processes for this one, which is confined.
pub fn look_by(opener: &Arc<Opener>) {
    let looker: Arc<dyn looker::Looker> = Arc::<Opener>::clone(opener);
    looker::set(Arc::downgrade(&looker));
}

/// An opener that makes the calls in this process, which ends only after them.
pub fn opener_here() -> Arc<Opener> {
    Arc::new(Opener::here(Arc::new(KernelCalls::of_any())))
}

/// An opener with a process of its own ([`Opener::start`]), which does what `broker` allows and
/// waits for the end of this one.
///
/// # Errors
/// There are other threads, or no process can be made.
pub fn opener(
    limit: Duration,
    broker: Broker,
    keep: &[&OwnedFd],
    at_end: impl FnOnce(),
) -> io::Result<Arc<Opener>> {
    let calls = Arc::new(KernelCalls::of(broker));
    let news = calls.0.news().map(AsRef::as_ref);
    let keep: Vec<_> = keep.iter().copied().chain(news).collect();
    let mut opener = Opener::start(limit, Arc::<KernelCalls>::clone(&calls), &keep, at_end)?;
    // Only the other process has the right to tell news.
    opener.set_own_calls(Arc::new(KernelCalls::of_any()));
    drop(calls);
    opener.outlived();
    Ok(Arc::new(opener))
}

/// An opener with a process of its own, or without where this process may not fork. The run is not
/// confined.
pub fn opener_or_here(limit: Duration) -> Arc<Opener> {
    let opener = Opener::start(limit, Arc::new(KernelCalls::of_any()), &[], || {});
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
    use crate::broker::{Device, Named, Nobody, Right};

    #[test]
    fn a_process_may_not_fork_beside_threads() {
        assert!(opener(Duration::ZERO, Broker::of_any(), &[], || {}).is_err());
        opener_or_here(Duration::ZERO);
    }

    fn errno(calls: &KernelCalls, request: &Request, files: Vec<File>) -> Option<i32> {
        let outcome = calls.make(request, files);
        outcome.err().and_then(|e| e.raw_os_error())
    }

    fn null() -> File {
        File::open("/dev/null").unwrap()
    }

    #[test]
    fn a_request_without_its_file_is_refused() {
        let calls = KernelCalls::of_any();
        for request in [Request::Reset, Request::Bind { token: None }] {
            assert_eq!(errno(&calls, &request, Vec::new()), Some(libc::EBADF));
        }
        let reset = errno(&calls, &Request::Reset, vec![null()]);
        assert_eq!(reset, Some(libc::ENOTTY));
        assert_eq!(errno(&calls, &Request::Close, vec![null()]), None);
    }

    /// A process that works for a run opens no other files, confined or not.
    #[test]
    fn other_files_are_not_opened() {
        for calls in [KernelCalls::of_any(), of_a_run()] {
            for request in [
                Request::Open("/dev/null".into()),
                Request::Open("/dev/vfio/../null".into()),
                Request::Open("/dev/vfio-x".into()),
                Request::Open("/dev/iommux".into()),
                Request::Read("/etc/passwd".into()),
                Request::Read("/sys/../etc/passwd".into()),
                Request::ReadStart("/etc/passwd".into()),
                Request::Look {
                    asker: 1,
                    look: Look::Holders(vec!["/dev/null".into()]),
                },
            ] {
                let refused = errno(&calls, &request, Vec::new());
                assert_eq!(refused, Some(libc::EACCES), "{request:?}");
            }
        }
        let request = Request::Read("/sys/kernel/profiling".into());
        let unconfined = errno(&KernelCalls::of_any(), &request, Vec::new());
        assert_ne!(unconfined, Some(libc::EACCES));
    }

    #[test]
    fn a_start_is_the_first_256_bytes() {
        // Any file of sysfs serves. The first one is long, and not on each machine.
        let paths = ["/sys/kernel/btf/vmlinux", "/sys/kernel/notes"];
        let path = paths
            .into_iter()
            .find(|path| std::fs::exists(path).unwrap());
        let path = path.unwrap();
        let read = |request: Request| {
            let answer = KernelCalls::of_any().make(&request, Vec::new()).unwrap();
            let mut bytes = vec![0; 1 << 20];
            let len = File::from(answer.unwrap()).read_at(&mut bytes, 0).unwrap();
            bytes.truncate(len);
            bytes
        };
        let all = read(Request::Read(path.into()));
        let start = read(Request::ReadStart(path.into()));
        assert!(!all.is_empty());
        assert_eq!(start, all[..all.len().min(CONVENTIONAL_SIZE)]);
    }

    /// A device that no host has, because its segment is beyond those of any firmware.
    fn of_a_run() -> KernelCalls {
        let name = "ffff:01:00.0".parse().unwrap();
        let own = Device {
            name,
            right: Right::Bind,
        };
        let nobody = Arc::new(Nobody);
        KernelCalls::of(Broker::new(Named::only([own]), nobody, None))
    }

    /// Each request with the name of a device that is not the run's, or with a file that is none of
    /// VFIO. All but Close, which drops what the VMM has sent.
    #[test]
    fn each_request_for_what_is_not_the_runs_is_refused() {
        let calls = of_a_run();
        let name = |text: &str| Request::DeviceOfGroup(std::ffi::CString::new(text).unwrap());
        let look = |node: &str| Request::Look {
            asker: 1,
            look: Look::Holders(vec!["/dev/iommu".into(), node.into()]),
        };
        let read = |path: &str| Request::Read(path.into());
        let other = "/sys/bus/pci/devices/0000:01:00.0";
        for request in [
            Request::Open("/dev/vfio/7".into()),
            Request::Open("/dev/vfio/devices/vfio0".into()),
            read(&format!("{other}/config")),
            read(&format!("{other}/current_link_speed")),
            read("/sys/bus/pci/devices/ffff:01:00.0/vpd"),
            Request::ReadStart(format!("{other}/config")),
            name("0000:01:00.0"),
            name("0000:01:00.0 vf_token=ffff:01:00.0"),
            name("ffff:01:00.0"),
            Request::Bind { token: None },
            Request::AskToken,
            Request::Attach { ioas: 1 },
            Request::Detach,
            Request::Reset,
            Request::HotReset,
            Request::Write {
                at: 0,
                data: vec![0],
            },
            Request::Admit,
            look("/dev/vfio/7"),
            look("/dev/vfio/devices/vfio0"),
        ] {
            let files = vec![null(), null()];
            let refused = errno(&calls, &request, files);
            assert_eq!(refused, Some(libc::EACCES), "{request:?}");
        }
        assert_eq!(errno(&calls, &Request::Close, vec![null()]), None);
        // What names no device, and what the run has, where the host has no such device.
        for request in [
            Request::Open("/dev/iommu".into()),
            Request::Open("/dev/vfio/vfio".into()),
            look("/dev/vfio/vfio"),
            read("/sys/anything/ffff:01:00.0/config"),
        ] {
            let refused = errno(&calls, &request, Vec::new());
            assert_ne!(refused, Some(libc::EACCES), "{request:?}");
        }
    }
}
