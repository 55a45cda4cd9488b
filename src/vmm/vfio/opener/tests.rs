//! Calls that sleep, made by a fake kernel. Each part runs in a process with one thread.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, wait};

use super::*;
use crate::broker::{Broker, Device, Named, Nobody, Right};
use crate::hostinfo::holders::Holders;
use crate::hostinfo::locked::LockedByOthers;
use crate::hostinfo::looker::{self, Look, Looker};
use crate::sandbox::{self, Choice, Confinement, Kind, Mode, landlock};
use crate::sys::packets::Packets;
use crate::sys::process::{self, in_one_thread};
use crate::sys::ready;
use crate::vfio::kernel_calls;

const DEVICE: &str = "0000:01:00.0";
const LIMIT: Duration = Duration::from_millis(300);
/// Far less than a call that is not given up takes: for ever, or [`LONG`].
const SOON: Duration = Duration::from_secs(15);
const LONG: Duration = Duration::from_secs(60);

/// Pipes stand for devices: a read from a pipe whose other end is open sleeps.
struct Pipes;

impl Calls for Pipes {
    fn make(&self, request: &Request, files: Vec<File>) -> io::Result<Option<OwnedFd>> {
        match request {
            Request::Open(path) => Ok(Some(File::open(path)?.into())),
            Request::Read(_) => Ok(Some(File::open("/proc/self/comm")?.into())),
            Request::Attach { .. } => Err(io::Error::from_raw_os_error(libc::EBUSY)),
            Request::Close => {
                let text = format!("closed by {}\n", std::process::id());
                (&files[0]).write_all(text.as_bytes())?;
                Ok(None)
            }
            _ => {
                let mut byte = [0];
                (&files[0]).read_exact(&mut byte)?;
                Ok(None)
            }
        }
    }
}

fn start(at_end: impl FnOnce()) -> Arc<Opener> {
    Arc::new(Opener::start(LIMIT, Arc::new(Pipes), &[], at_end).unwrap())
}

fn pipe() -> (File, File) {
    let (reader, writer) = io::pipe().unwrap();
    (
        File::from(OwnedFd::from(reader)),
        File::from(OwnedFd::from(writer)),
    )
}

fn sleeping(outcome: io::Result<()>) -> Waiting {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    Waiting::behind(&error).unwrap().clone()
}

/// Whether this process has a child that has not been reaped.
fn has_child() -> bool {
    !matches!(wait(WaitOptions::NOHANG), Err(Errno::CHILD))
}

/// Looks at any node, as no run may.
struct Looks;

impl Calls for Looks {
    fn make(&self, request: &Request, _: Vec<File>) -> io::Result<Option<OwnedFd>> {
        let Request::Look { asker, look } = request else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        let without = [*asker, std::process::id()];
        let lines = match look {
            Look::Holders(nodes) => {
                let nodes: Vec<_> = nodes.iter().map(Path::new).collect();
                Holders::look(&nodes, &without).to_lines()
            }
            Look::Locked => "7 4096 mini-vmm\n".into(),
        };
        let (reader, mut writer) = pipe();
        writer.write_all(lines.as_bytes())?;
        Ok(Some(reader.into()))
    }
}

/// Landlock hides other processes' files. A look that is refused does not find that nobody has the
/// node, and the process that is not confined looks.
#[test]
fn a_confined_process_lets_another_one_look() {
    if landlock::abi().is_none() {
        eprintln!("SKIPPED: the kernel has no Landlock");
        return;
    }
    assert!(in_one_thread(|| {
        let node = Path::new("/dev/full");
        let file = File::open(node).unwrap();
        let mut child = Command::new("sleep");
        let mut child = child.arg("60").stdin(file).spawn().unwrap();
        let holder = (child.id(), String::from("sleep"));
        let limit = Duration::from_secs(60);
        let opener = Arc::new(Opener::start(limit, Arc::new(Looks), &[], || {}).unwrap());
        while !Holders::of(&[node]).processes.contains(&holder) {
            thread::sleep(Duration::from_millis(1));
        }
        sandbox::begin(Choice::Given(Mode::On), || {}).unwrap();
        sandbox::prepare(&Confinement::default()).unwrap();
        let found = Holders::of(&[node]);
        assert!(
            found.hidden && !found.processes.contains(&holder),
            "{found:?}"
        );
        let looker: Arc<dyn Looker> = Arc::<Opener>::clone(&opener);
        looker::set(Arc::downgrade(&looker));
        drop(looker);
        let found = Holders::of(&[node]);
        assert!(found.processes.contains(&holder), "{found:?}");
        assert_eq!(LockedByOthers::read().bytes(), 4096);
        // Without an answer, nobody says that there is no holder.
        drop(opener);
        let found = Holders::of(&[node]);
        assert!(found.hidden && found.processes.is_empty(), "{found:?}");
        child.kill().unwrap();
        child.wait().unwrap();
    }));
}

/// A child that nobody reaps stays a zombie where the init process does not reap either.
#[test]
fn the_other_process_is_reaped() {
    assert!(in_one_thread(|| {
        let opener = start(|| {});
        opener.open(DEVICE, "/dev/null").unwrap();
        assert!(has_child());
        drop(opener);
        assert!(!has_child());
        // A process that goes on does not hold this one up.
        let opener = start(|| thread::sleep(LONG));
        let begun = Instant::now();
        drop(opener);
        assert!(has_child() && begun.elapsed() < SOON);
    }));
}

#[test]
fn answers_come_with_their_file_or_errno() {
    assert!(in_one_thread(|| {
        let opener = start(|| {});
        let file = opener.open(DEVICE, "/proc/self/comm").unwrap();
        let name = io::read_to_string(file).unwrap();
        assert_eq!(name, "vmm-guardian\n", "another process opens");
        let name = opener.read(DEVICE, "/sys/x".as_ref()).unwrap();
        assert_eq!(name, b"vmm-guardian\n");
        let error = opener.open(DEVICE, "/nowhere").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        let error = opener.attach(DEVICE, &pipe().0, 1).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
        assert!(!opener.is_stuck());
    }));
}

/// As opening a device whose reset does not end. Other devices are opened meanwhile.
#[test]
fn a_call_that_sleeps_is_given_up_and_its_process_stays() {
    assert!(in_one_thread(|| {
        let opener = start(|| {});
        let (reader, mut writer) = pipe();
        let begun = Instant::now();
        let (first, second) = thread::scope(|scope| {
            let first = scope.spawn(|| opener.reset(DEVICE, &reader));
            let second = scope.spawn(|| opener.open("0000:02:00.0", "/dev/null"));
            (first.join().unwrap(), second.join().unwrap())
        });
        assert!(second.is_ok());
        assert!((LIMIT..SOON).contains(&begun.elapsed()));
        let waiting = sleeping(first);
        let text = waiting.to_string();
        for part in [
            "0000:01:00.0: the kernel has not ended VFIO_DEVICE_RESET within 0 seconds: the call \
             resets the device",
            "of mini-vmm stays until the call has ended",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(waiting.hint().contains("--host-timeout 60"));
        assert!(opener.is_stuck());
        assert_eq!(opener.given_up(), std::slice::from_ref(&waiting));
        let caller = waiting.caller.unwrap();
        drop((opener, reader));
        thread::sleep(Duration::from_millis(100));
        assert!(caller.lives(), "the call goes on without the VMM");
        writer.write_all(&[0]).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while caller.lives() && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(!caller.lives());
    }));
}

/// A call that was too slow once does not end the guest at its next reset.
#[test]
fn a_call_that_ends_late_is_listed_no_more() {
    assert!(in_one_thread(|| {
        let opener = start(|| {});
        let ((reader, mut writer), (other, _held)) = (pipe(), pipe());
        sleeping(opener.reset(DEVICE, &reader));
        let other = sleeping(opener.reset("0000:02:00.0", &other));
        assert_eq!(opener.given_up().len(), 2);
        writer.write_all(&[0]).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while opener.given_up().len() > 1 && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        // The other call sleeps still.
        assert_eq!(opener.given_up(), [other]);
        assert!(opener.is_stuck());
    }));
}

/// A guest's own reset has no limit of its own, and no end of the run waits for it.
#[test]
fn a_guest_waits_for_its_reset_until_the_run_stops() {
    assert!(in_one_thread(|| {
        let opener = start(|| {});
        let (reader, mut writer) = pipe();
        thread::scope(|scope| {
            let write = scope.spawn(|| opener.write(DEVICE, &reader, 0x59, &[0x80]));
            thread::sleep(LIMIT * 2);
            assert!(!write.is_finished() && !opener.is_stuck());
            writer.write_all(&[0]).unwrap();
            write.join().unwrap().unwrap();
            let begun = Instant::now();
            opener.set_stopping(true);
            let write = scope.spawn(|| opener.write(DEVICE, &reader, 0x59, &[0x80]));
            let waiting = sleeping(write.join().unwrap());
            assert_eq!(waiting.call, "a region write");
            assert!((LIMIT..SOON).contains(&begun.elapsed()));
        });
    }));
}

#[test]
fn the_last_descriptor_is_closed_by_the_other_process() {
    assert!(in_one_thread(|| {
        let opener = start(|| {});
        let (mut reader, writer) = pipe();
        drop(DeviceFile::new(DEVICE.into(), writer, &opener));
        // By now both processes have closed their end.
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("closed by "), "{text}");
        assert_ne!(text.trim(), format!("closed by {}", std::process::id()));
        assert!(!opener.is_stuck());
    }));
}

/// A full pipe stands for a device whose reset at the close does not end.
#[test]
fn a_close_that_sleeps_is_given_up() {
    assert!(in_one_thread(|| {
        let opener = start(|| {});
        let (reader, mut writer) = pipe();
        while ready(writer.as_fd(), PollFlags::OUT, Some(Duration::ZERO)) {
            writer.write_all(&[0; 4096]).unwrap();
        }
        let begun = Instant::now();
        drop(DeviceFile::new(DEVICE.into(), writer, &opener));
        assert!((LIMIT..SOON).contains(&begun.elapsed()));
        let given_up = opener.given_up();
        assert_eq!(given_up.len(), 1);
        assert_eq!(given_up[0].call, "close");
        let caller = given_up[0].caller.unwrap();
        assert!(caller.lives());
        drop(reader);
    }));
}

/// What is to be done after the run is done after the last call, and not before the run's end.
#[test]
fn the_end_comes_after_the_last_call() {
    assert!(in_one_thread(|| {
        let (mut said, end) = pipe();
        let end = OwnedFd::from(end);
        let at_end = || {
            rustix::io::write(&end, b"end").unwrap();
        };
        let opener = Opener::start(LIMIT, Arc::new(Pipes), &[&end], at_end).unwrap();
        drop(end);
        let (reader, mut writer) = pipe();
        sleeping(opener.reset(DEVICE, &reader));
        drop((opener, reader));
        let quiet = |said: &File| {
            let patience = Some(Duration::from_millis(100));
            !ready(said.as_fd(), PollFlags::IN, patience)
        };
        assert!(quiet(&said));
        writer.write_all(&[0]).unwrap();
        let mut text = String::new();
        said.read_to_string(&mut text).unwrap();
        assert_eq!(text, "end");
    }));
}

/// A process that a guest has taken over sends the other end of an answer's socket along, or leaves
/// its sockets with somebody else. When it has ended, nobody is waited for all the same.
#[test]
fn nobody_but_the_run_is_waited_for() {
    for others_keep in [false, true] {
        assert!(in_one_thread(|| {
            let (ours, theirs) = Packets::pair().unwrap();
            let (answer, caller) = Packets::pair().unwrap();
            let ends = [ours, answer, caller].map(OwnedFd::from);
            let run = process::detach(c"run", &ends.each_ref(), || {
                let [ours, answer, caller] = &ends;
                let socket = Packets::from(ours.try_clone().unwrap());
                let files = [caller.as_fd(), answer.as_fd()];
                socket.send(&Request::Close.encode(), &files).unwrap();
                let answer = Packets::from(answer.try_clone().unwrap());
                answer.receive().unwrap();
            });
            let run = Pid::from_raw(run.unwrap().cast_signed()).unwrap();
            let end = pidfd_open(run, PidfdFlags::empty()).unwrap();
            let kept = others_keep.then_some(ends);
            let calls: Arc<dyn Calls> = Arc::new(Pipes);
            let ends = thread::spawn(move || helper::serve_until(Some(end), &theirs, &calls));
            let limit = Instant::now() + Duration::from_secs(10);
            while !ends.is_finished() {
                assert!(Instant::now() < limit, "somebody is waited for");
                thread::sleep(Duration::from_millis(10));
            }
            drop(kept);
        }));
    }
}

/// Somebody has ended the other process: this one makes the calls.
#[test]
fn without_its_process_the_calls_are_made_here() {
    assert!(in_one_thread(|| {
        let opener = start(|| {});
        let (reader, writer) = pipe();
        let waiting = sleeping(opener.reset(DEVICE, &reader));
        let task = waiting.caller.unwrap();
        task.end_sleep();
        while task.lives() {
            thread::sleep(Duration::from_millis(1));
        }
        let file = opener.open(DEVICE, "/proc/self/stat").unwrap();
        let stat = io::read_to_string(file).unwrap();
        assert!(stat.starts_with(&std::process::id().to_string()), "{stat}");
        drop(DeviceFile::new(DEVICE.into(), writer, &opener));
    }));
}

/// A VMM that its guest has taken over, in its sandbox: the process that opens devices refuses what
/// is not the run's, and so does the kernel when the VMM opens it itself.
#[test]
fn a_confined_process_gets_only_its_own() {
    assert!(in_one_thread(|| {
        sandbox::begin(Choice::Given(Mode::On), || {}).unwrap();
        let own = Device {
            name: "ffff:01:00.0".parse().unwrap(),
            right: Right::Open,
        };
        let broker = Broker::new(Named::only([own]), Arc::new(Nobody), None);
        let limit = Duration::from_secs(60);
        let opener = kernel_calls::opener(limit, broker, &[], || {}).unwrap();
        let null = File::open("/dev/null").unwrap();
        let has_landlock = landlock::abi().is_some();
        sandbox::prepare(&Confinement::default()).unwrap();
        sandbox::enter(Kind::Changes);
        let errno = |outcome: io::Result<()>| outcome.map_err(|e| e.raw_os_error());
        let refused = Err(Some(libc::EACCES));
        for node in ["/dev/vfio/7", "/dev/vfio/devices/vfio0", "/dev/null"] {
            let opened = opener.open(DEVICE, node);
            assert_eq!(errno(opened.map(drop)), refused, "{node}");
        }
        let config = format!("/sys/bus/pci/devices/{DEVICE}/config");
        let read = opener.read(DEVICE, config.as_ref());
        assert_eq!(errno(read.map(drop)), refused);
        assert_eq!(errno(opener.reset(DEVICE, &null)), refused);
        assert_eq!(errno(opener.write(DEVICE, &null, 0, &[0])), refused);
        assert_eq!(errno(opener.admit(null.as_fd())), refused);
        // A pair of its own is no client.
        let (pair, mut end) = std::os::unix::net::UnixStream::pair().unwrap();
        end.write_all(b"PUT /api/v1/vm.add-device HTTP/1.1\r\n\r\n")
            .unwrap();
        assert_eq!(errno(opener.admit(pair.as_fd())), refused);
        // Its own device, which this host has not.
        let own = opener.read("ffff:01:00.0", "/sys/x/ffff:01:00.0/config".as_ref());
        assert_eq!(errno(own.map(drop)), Err(Some(libc::ENOENT)));
        if has_landlock {
            let opened = File::options().read(true).write(true).open("/dev/null");
            assert_eq!(errno(opened.map(drop)), refused);
        }
    }));
}

/// A run that the user ends while a device is opened waits for the opening for a moment only.
#[test]
fn a_run_that_is_over_gives_an_opening_up() {
    assert!(in_one_thread(|| {
        let limit = Duration::from_secs(60);
        let opener = Opener::start(limit, Arc::new(Pipes), &[], || {}).unwrap();
        let opener = Arc::new(opener);
        let (device, _other) = pipe();
        let ends = Arc::clone(&opener);
        let begun = Instant::now();
        let end = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            ends.give_up_soon();
        });
        let waiting = sleeping(opener.reset(DEVICE, &device));
        let most = Duration::from_secs(20);
        assert!(begun.elapsed() < most && waiting.waited < most);
        assert_eq!(waiting.device, DEVICE);
        end.join().unwrap();
    }));
}
