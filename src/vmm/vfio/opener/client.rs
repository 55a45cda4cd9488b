//! The VMM's side: asks for calls, and waits for them with a limit.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use tracing::debug;

use crate::hostinfo::looker::{Look, Looker};
use crate::log::stderr::say;
use crate::sandbox::{self, run_as};
use crate::sys::packets::Packets;
use crate::sys::process;
use crate::sys::ready;
use crate::vfio::opener::helper::{self, Answer};
use crate::vfio::opener::request::{Calls, Request};
use crate::vfio::opener::waiting::Waiting;

/// How often a wait without a limit looks whether the run stops.
const LOOK: Duration = Duration::from_millis(100);
/// The time for which a close is waited for after another call was given up: a reset of a function
/// takes a tenth of a second.
const AFTER_A_FAILURE: Duration = Duration::from_millis(500);
/// The time for which a call that opens or resets a device is waited for after the user has ended
/// the run: a reset of a bus takes somewhat more than a second.
const AFTER_THE_END: Duration = Duration::from_secs(3);

/// How long a look at other processes is waited for.
const LOOKING: Duration = Duration::from_secs(3);

/// How long the end of the process that makes the calls is waited for: its threads have ended.
const EXIT_LIMIT: Duration = Duration::from_millis(100);

/// Makes the calls for devices that may sleep in the kernel.
pub struct Opener {
    way: Way,
    /// The process that makes the calls, if it ends with this value.
    child: Option<u32>,
    calls: Arc<dyn Calls>,
    limit: Duration,
    /// Whether the vCPUs stop. A call that a vCPU waits for has no limit before.
    stopping: AtomicBool,
    /// When the user has ended the run.
    ended: OnceLock<Instant>,
    /// Calls that have not ended in time. Some may have ended since.
    given_up: Mutex<Vec<Waiting>>,
}

enum Way {
    /// This process makes the calls, without a limit.
    Here,
    /// The process at the other end of the socket makes the calls.
    Process(Packets),
}

/// How long a call is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    /// Until the limit is over.
    Limited,
    /// As [`Patience::Limited`], but shorter after another call was given up.
    Ending,
    /// Until the limit is over and the vCPUs stop.
    Running,
    /// For a moment: without the answer, a message says less.
    Looking,
}

impl Opener {
    /// This process makes the calls itself: it ends only after them.
    pub fn here(calls: Arc<dyn Calls>) -> Self {
        Self::by(Way::Here, calls, Duration::MAX)
    }

    /// Starts the process that makes the calls. Each call is waited for until `limit` is over. When
    /// this process has ended and the last call has returned, the other process does `at_end`, for
    /// which it keeps the descriptors `keep`. This process must have one thread only, because it
    /// forks.
    ///
    /// # Errors
    /// There are other threads, or no process can be made.
    pub fn start(
        limit: Duration,
        calls: Arc<dyn Calls>,
        keep: &[&OwnedFd],
        at_end: impl FnOnce(),
    ) -> io::Result<Self> {
        let (ours, theirs) = Packets::pair()?;
        let theirs = OwnedFd::from(theirs);
        // Before Linux 5.3, the end of the socket alone tells the end of this process.
        let end = process::own_end().ok();
        let kept = [&theirs].into_iter().chain(&end);
        let kept: Vec<_> = kept.chain(keep.iter().copied()).collect();
        let child = process::detach(c"vmm-guardian", &kept, || {
            // A process that is not confined does nothing for a run that is.
            let confined = sandbox::enter_helper();
            if let (Ok(()), Ok(socket)) = (confined, theirs.try_clone()) {
                let end = end.as_ref().and_then(|end| end.try_clone().ok());
                helper::serve_until(end, &Packets::from(socket), &calls);
            }
            // The end of a run forks again.
            process::settle_to_one_thread();
            at_end();
        })?;
        let mut opener = Self::by(Way::Process(ours), calls, limit);
        opener.child = Some(child);
        Ok(opener)
    }

    /// Says that the other process waits for the end of this one. Otherwise it ends when this value
    /// is dropped, unless a call was given up, and is reaped.
    pub fn outlived(&mut self) {
        self.child = None;
    }

    /// Makes the calls by `calls` where the other process has ended.
    pub fn set_own_calls(&mut self, calls: Arc<dyn Calls>) {
        self.calls = calls;
    }

    fn by(way: Way, calls: Arc<dyn Calls>, limit: Duration) -> Self {
        Self {
            way,
            child: None,
            calls,
            limit,
            stopping: AtomicBool::new(false),
            ended: OnceLock::new(),
            given_up: Mutex::default(),
        }
    }

    /// How long a call is waited for.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether another process makes the calls, so that this one may end during a call.
    pub fn is_apart(&self) -> bool {
        matches!(self.way, Way::Process(_))
    }

    /// Says that the user has ended the run, perhaps while devices are still being opened: no call
    /// that opens or resets one is waited for much longer.
    pub fn give_up_soon(&self) {
        self.ended.get_or_init(Instant::now);
    }

    /// Whether the user has ended the run.
    pub fn gives_up(&self) -> bool {
        self.ended.get().is_some()
    }

    /// How long a call is waited for because the user has ended the run.
    fn left(&self) -> Option<Duration> {
        let since = self.ended.get()?;
        Some(AFTER_THE_END.saturating_sub(since.elapsed()))
    }

    /// Opens a node that is needed for a device.
    ///
    /// # Errors
    /// The errno, or a [`Waiting`].
    pub fn open(&self, device: &str, path: &str) -> io::Result<File> {
        let request = Request::Open(path.into());
        opened(self.call(device, &request, &[], Patience::Limited))
    }

    /// Reads a file of sysfs, for which the kernel wakes a device or waits for its reset.
    ///
    /// # Errors
    /// The errno, or a [`Waiting`].
    pub fn read(&self, device: &str, path: &Path) -> io::Result<Vec<u8>> {
        self.read_by(device, &Request::Read(path.to_string_lossy().into()))
    }

    /// Reads the first 256 bytes of a device's `config` in sysfs.
    ///
    /// # Errors
    /// The errno, or a [`Waiting`].
    pub fn read_start(&self, device: &str, path: &Path) -> io::Result<Vec<u8>> {
        self.read_by(device, &Request::ReadStart(path.to_string_lossy().into()))
    }

    fn read_by(&self, device: &str, request: &Request) -> io::Result<Vec<u8>> {
        let mut answer = opened(self.call(device, request, &[], Patience::Limited))?;
        let mut bytes = Vec::new();
        answer.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Opens a device of a group.
    ///
    /// # Errors
    /// The errno, or a [`Waiting`].
    pub fn device_of_group(&self, device: &str, group: &File, name: CString) -> io::Result<File> {
        let request = Request::DeviceOfGroup(name);
        opened(self.call(device, &request, &[group.as_fd()], Patience::Limited))
    }

    /// Binds a device to an iommufd, which opens the device.
    ///
    /// # Errors
    /// The errno, or a [`Waiting`].
    pub fn bind(
        &self,
        device: &str,
        file: &File,
        iommufd: BorrowedFd<'_>,
        token: Option<[u8; 16]>,
    ) -> io::Result<()> {
        let files = [file.as_fd(), iommufd];
        let request = Request::Bind { token };
        self.call(device, &request, &files, Patience::Limited)
            .map(drop)
    }

    /// Whether [`Opener::bind`] takes a VF token.
    ///
    /// # Errors
    /// The errno, or a [`Waiting`].
    pub fn takes_token(&self, device: &str, file: &File) -> io::Result<bool> {
        let asked = self.call(
            device,
            &Request::AskToken,
            &[file.as_fd()],
            Patience::Limited,
        );
        match asked {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            outcome => outcome.map(|_| true),
        }
    }

    /// Attaches a device to an I/O address space.
    ///
    /// # Errors
    /// The errno, or a [`Waiting`].
    pub fn attach(&self, device: &str, file: &File, ioas: u32) -> io::Result<()> {
        let request = Request::Attach { ioas };
        self.call(device, &request, &[file.as_fd()], Patience::Limited)
            .map(drop)
    }

    /// Detaches a device from its I/O address space.
    ///
    /// # Errors
    /// The errno, or a [`Waiting`].
    pub fn detach(&self, device: &str, file: &File) -> io::Result<()> {
        self.call(device, &Request::Detach, &[file.as_fd()], Patience::Ending)
            .map(drop)
    }

    /// Resets a device.
    ///
    /// # Errors
    /// The errno, or a [`Waiting`].
    pub fn reset(&self, device: &str, file: &File) -> io::Result<()> {
        self.call(device, &Request::Reset, &[file.as_fd()], Patience::Limited)
            .map(drop)
    }

    /// Resets a device and all others of its slot or bus. `groups` are the files of their groups.
    ///
    /// # Errors
    /// The errno, or a [`Waiting`].
    pub fn hot_reset(&self, device: &str, file: &File, groups: &[Arc<File>]) -> io::Result<()> {
        let mut files = vec![file.as_fd()];
        files.extend(groups.iter().map(|group| group.as_fd()));
        self.call(device, &Request::HotReset, &files, Patience::Limited)
            .map(drop)
    }

    /// Makes a guest's write that resets the device or changes its power state. The guest waits
    /// for it as long as it takes, but no longer than the limit once the vCPUs stop.
    ///
    /// # Errors
    /// The errno, or a [`Waiting`].
    pub fn write(&self, device: &str, file: &File, at: u64, data: &[u8]) -> io::Result<()> {
        let data = data.to_vec();
        let request = Request::Write { at, data };
        self.call(device, &request, &[file.as_fd()], Patience::Running)
            .map(drop)
    }

    /// Lets the process that makes the calls add devices to those of the run: a client's next
    /// request names them, or `file` is the open node of the device.
    ///
    /// # Errors
    /// The file names no device. It is not used for the run then.
    pub fn admit(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.call("a request", &Request::Admit, &[file], Patience::Looking)
            .map(drop)
    }

    /// Closes a device's file. This must be the last one in this process, and none of its pages may
    /// be mapped.
    pub fn close(&self, device: &str, file: File) {
        let Way::Process(socket) = &self.way else {
            return drop(file);
        };
        let asked = ask(socket, &Request::Close, &[file.as_fd()]);
        drop(file);
        let Ok(answers) = asked else {
            // Without that process, the drop has closed the device.
            return;
        };
        // If this fails, the other process sees the end of the socket, which counts as well.
        let _ = answers.send(&[0], &[]);
        if let Err(e) = self.wait(device, &Request::Close, &answers, Patience::Ending) {
            // The end of a run says it itself.
            match self.stopping.load(Ordering::Acquire) {
                true => debug!("{e}"),
                false => say(format_args!("mini-vmm: {e}")),
            }
        }
    }

    /// Says whether the vCPUs stop. Then no call is waited for beyond its limit.
    pub fn set_stopping(&self, stopping: bool) {
        self.stopping.store(stopping, Ordering::Release);
    }

    /// Whether a call was given up, and still sleeps. Its device, its group and the devices that
    /// are reset with it may be locked in the kernel, so nothing more may be asked of them.
    pub fn is_stuck(&self) -> bool {
        !self.list().is_empty()
    }

    /// The calls that were given up, and still sleep.
    pub fn given_up(&self) -> Vec<Waiting> {
        self.list().clone()
    }

    /// Each call has a thread of its own, which ends after the call. Of a call without a known
    /// thread nobody can tell the end.
    fn list(&self) -> MutexGuard<'_, Vec<Waiting>> {
        let list = self.given_up.lock();
        let mut list = list.unwrap_or_else(PoisonError::into_inner);
        // Without /proc, a call counts as one that still sleeps.
        if sandbox::may_read_files() {
            let sees = !run_as::has_changed() || sees_others();
            let ended = |waiting: &Waiting| waiting.caller.is_some_and(|caller| caller.has_ended());
            list.retain(|waiting| !(sees && ended(waiting)));
        }
        list
    }

    fn call(
        &self,
        device: &str,
        request: &Request,
        files: &[BorrowedFd<'_>],
        patience: Patience,
    ) -> io::Result<Option<OwnedFd>> {
        if patience == Patience::Limited
            && self.is_apart()
            && self.left().is_some_and(|left| left.is_zero())
        {
            // It would be given up at once, and would count as one that sleeps.
            return Err(io::Error::from_raw_os_error(libc::ECANCELED));
        }
        debug!(device, "{} by another process", request.name());
        // Without that process, which somebody may have ended, this one makes the call.
        if let Way::Process(socket) = &self.way
            && let Ok(answers) = ask(socket, request, files)
        {
            match self.wait(device, request, &answers, patience) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
                outcome => return outcome,
            }
        }
        let own = |file: &BorrowedFd<'_>| file.try_clone_to_owned().map(File::from);
        let files = files.iter().map(own).collect::<io::Result<_>>()?;
        self.calls.make(request, files)
    }

    /// Waits for the outcome of a call. The error is an unexpected end if the other process has
    /// ended.
    fn wait(
        &self,
        device: &str,
        request: &Request,
        answers: &Packets,
        patience: Patience,
    ) -> io::Result<Option<OwnedFd>> {
        let begun = Instant::now();
        let limit = match patience {
            Patience::Ending if self.is_stuck() => self.limit.min(AFTER_A_FAILURE),
            Patience::Looking => self.limit.min(LOOKING),
            _ => self.limit,
        };
        let (mut caller, mut told) = (None, false);
        loop {
            let mut left = limit.saturating_sub(begun.elapsed());
            if patience == Patience::Limited {
                left = left.min(self.left().unwrap_or(left));
            }
            if left.is_zero() && patience == Patience::Looking {
                // No device waits for it.
                return Err(io::ErrorKind::TimedOut.into());
            }
            if left.is_zero() {
                let waiting = || Waiting {
                    device: device.into(),
                    call: request.name(),
                    does: request.does(),
                    caller,
                    waited: limit.min(begun.elapsed()),
                };
                if patience != Patience::Running || self.stopping.load(Ordering::Acquire) {
                    let waiting = waiting();
                    self.list().push(waiting.clone());
                    return Err(waiting.into());
                }
                if !told {
                    say(format_args!("mini-vmm: {}", waiting()));
                    told = true;
                }
            }
            let slice = match patience {
                Patience::Running => LOOK,
                Patience::Limited => left.min(LOOK),
                Patience::Ending | Patience::Looking => left,
            };
            if !ready(answers.as_fd(), PollFlags::IN, Some(slice)) {
                continue;
            }
            let Some(packet) = answers.receive()? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            match Answer::decode(&packet.bytes) {
                Some(Answer::Begun(thread)) => caller = Some(thread),
                Some(Answer::Ended(0)) => return Ok(packet.files.into_iter().next()),
                Some(Answer::Ended(errno)) => return Err(io::Error::from_raw_os_error(errno)),
                None => return Err(io::Error::from_raw_os_error(libc::EPROTO)),
            }
        }
    }
}

impl Looker for Opener {
    fn look(&self, look: Look) -> io::Result<String> {
        // The other process knows a confined run, whatever it says.
        let asker = std::process::id();
        let request = Request::Look { asker, look };
        let mut answer = opened(self.call("/proc", &request, &[], Patience::Looking))?;
        let mut lines = String::new();
        answer.read_to_string(&mut lines)?;
        Ok(lines)
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        // The other process ends when its socket does.
        self.way = Way::Here;
        if let Some(child) = self.child.take()
            && !self.is_stuck()
        {
            process::reap_within(child, EXIT_LIMIT);
        }
    }
}

/// Whether /proc shows the processes of other users: with `hidepid=`, each looks as if it had ended
/// (proc(5)).
fn sees_others() -> bool {
    Path::new("/proc/1/stat").exists()
}

/// Sends a request. Returns the socket on which the answers come.
fn ask(socket: &Packets, request: &Request, files: &[BorrowedFd<'_>]) -> io::Result<Packets> {
    let (answers, theirs) = Packets::pair()?;
    let all = [theirs.as_fd()].into_iter().chain(files.iter().copied());
    let all: Vec<_> = all.collect();
    socket.send(&request.encode(), &all)?;
    Ok(answers)
}

/// The file that a call has opened. It is lost if this process has no number left for it.
fn opened(outcome: io::Result<Option<OwnedFd>>) -> io::Result<File> {
    let file = outcome?.ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE))?;
    Ok(File::from(file))
}

#[cfg(test)]
mod tests;
