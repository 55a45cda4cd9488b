//! The sandbox, in a process of its own for each test.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;

use super::process::{Confinement, begin, prepare};
use super::{Choice, Kind, Mode, enter, enter_helper, landlock};
use crate::log::degraded::{self, Code};

mod forbidden;
mod lists;

/// What a child process has said on its standard error, and its exit status; `None` if a signal
/// ended it.
fn child(work: impl FnOnce()) -> (Option<i32>, String) {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two numbers.
    let made = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(made, 0);
    // SAFETY: the descriptors are new, and nobody else has them.
    let [mut reader, writer] = ends.map(|end| unsafe { File::from_raw_fd(end) });
    // SAFETY: the other threads of the test hold no lock that `work` takes: the C library makes its
    // own locks usable in the child (fork(2)).
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: both numbers are open. The child ends without the harness's exit handlers.
        unsafe {
            // No lock of another thread can hold the test up for ever.
            libc::alarm(30);
            libc::dup2(writer.as_raw_fd(), 2);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            if let Err(panic) = &outcome {
                let said = panic
                    .downcast_ref::<String>()
                    .map_or("a panic", String::as_str);
                libc::write(2, said.as_ptr().cast(), said.len());
            }
            libc::_exit(if outcome.is_ok() { 0 } else { 99 })
        }
    }
    drop(writer);
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    let mut status = 0;
    // SAFETY: the status is a local variable.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    (code, said)
}

/// Confines this process by `mode`, its only thread as `kind`.
fn confine(mode: Mode, kind: Kind) {
    begin(Choice::Given(mode), || {}).unwrap();
    prepare(&Confinement::default()).unwrap();
    enter(kind);
}

/// A filter that refuses seccomp(2), as a kernel without filters does.
fn without_filters() {
    use super::filter::{END, IF_EQUAL, LOAD, NUMBER, step};
    let no = libc::SECCOMP_RET_ERRNO | libc::EINVAL as u32;
    let program = [
        step(LOAD, 0, 0, NUMBER),
        step(IF_EQUAL, 0, 1, libc::SYS_seccomp as u32),
        step(END, 0, 0, no),
        step(END, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    super::thread::install(&program).unwrap();
}

/// Without a choice of the user's, the run goes on, and says what it lacks.
#[test]
fn a_kernel_without_filters_ends_only_a_run_that_wants_them() {
    let (status, said) = child(|| {
        without_filters();
        for mode in [Mode::On, Mode::Log] {
            let e = begin(Choice::Given(mode), || {}).unwrap_err();
            assert!(e.to_string().contains("cannot filter system calls"), "{e}");
            assert!(e.hint().contains("--sandbox off"), "{}", e.hint());
        }
        assert_eq!(begin(Choice::Given(Mode::Off), || {}).unwrap(), Mode::Off);
        let told = || {
            let list = degraded::list();
            list.iter().any(|loss| loss.code == Code::NoSandbox)
        };
        assert!(!told());
        assert_eq!(begin(Choice::Default, || {}).unwrap(), Mode::Off);
        assert_eq!(told(), Choice::Default.wanted() != Mode::Off);
        prepare(&Confinement::default()).unwrap();
        enter(Kind::Vcpu);
    });
    assert_eq!(status, Some(0), "{said}");
}

/// One argument more than the kernel takes does no harm.
fn call(number: i64, [a, b, c, d, e]: [i64; 5]) -> i64 {
    // SAFETY: every pointer that is passed is null, or text that ends with a NUL and lives as long
    // as the program.
    unsafe { libc::syscall(number, a, b, c, d, e, 0_i64) }
}

fn text(text: &'static std::ffi::CStr) -> i64 {
    text.as_ptr() as i64
}

/// A map of a page; the kernel chooses the address.
fn map(protection: i32) -> i64 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    call(
        libc::SYS_mmap,
        [0, 4096, protection.into(), flags.into(), -1],
    )
}

/// The threads that read the host's facts do not write, and the one that adds devices makes no
/// file.
#[test]
fn a_thread_that_opens_changes_nothing() {
    let open = |flags: i32| {
        let at = i64::from(libc::AT_FDCWD);
        call(
            libc::SYS_openat,
            [at, text(c"/dev/null"), flags.into(), 0, 0],
        )
    };
    let makes = [libc::O_CREAT, libc::O_TRUNC, libc::O_TMPFILE | libc::O_RDWR];
    let writes = [libc::O_WRONLY, libc::O_RDWR];
    for (kind, flags, refused) in [
        (Kind::Main, &makes[..], true),
        (Kind::Queries, &makes, true),
        (Kind::Changes, &makes, true),
        (Kind::Main, &writes, true),
        (Kind::Queries, &writes, true),
        (Kind::Changes, &writes, false),
        (Kind::Main, &[libc::O_CLOEXEC | libc::O_DIRECTORY], false),
    ] {
        for flags in flags {
            let (status, said) = child(|| {
                confine(Mode::On, kind);
                open(*flags);
            });
            let of = kind.name();
            assert_eq!(status, Some(i32::from(refused)), "{of} {flags:#o}: {said}");
        }
    }
}

/// A filter cannot see the flags of clone3, which lie in memory.
#[test]
fn clone3_is_not_there() {
    for kind in Kind::ALL {
        let (status, said) = child(|| {
            confine(Mode::On, kind);
            let outcome = call(libc::SYS_clone3, [0; 5]);
            let errno = std::io::Error::last_os_error().raw_os_error();
            assert_eq!((outcome, errno), (-1, Some(libc::ENOSYS)));
        });
        assert_eq!((status, said.as_str()), (Some(0), ""), "{}", kind.name());
    }
}

/// Reads the status of the calling thread.
fn field(name: &str) -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim().into()
}

/// The main thread may read /proc, and starts each of the others.
#[test]
fn a_confined_thread_has_no_rights_and_starts_confined_threads() {
    let (status, said) = child(|| {
        confine(Mode::On, Kind::Main);
        let facts = || [field("Seccomp:"), field("NoNewPrivs:"), field("CapEff:")];
        let wanted = ["2", "1", "0000000000000000"];
        assert_eq!(facts(), wanted);
        assert_eq!(std::thread::spawn(facts).join().unwrap(), wanted);
        for kind in [Kind::Vcpu, Kind::Coalesced, Kind::Events, Kind::Memory] {
            let thread = std::thread::Builder::new().name(kind.name().into());
            let thread = thread.spawn(move || {
                enter(kind);
                kind
            });
            assert_eq!(thread.unwrap().join().unwrap(), kind);
        }
    });
    assert_eq!((status, said.as_str()), (Some(0), ""));
}

/// The processes that open and bind devices. A refused call fails, and the process goes on.
#[test]
fn helpers_are_refused_what_they_do_not_need() {
    let calls: [fn() -> i64; 7] = [
        || {
            let attach = libc::PTRACE_ATTACH.into();
            call(libc::SYS_ptrace, [attach, i64::from(i32::MAX), 0, 0, 0])
        },
        || call(libc::SYS_keyctl, [99, 0, 0, 0, 0]),
        || call(libc::SYS_setns, [-1, 0, 0, 0, 0]),
        || call(libc::SYS_unshare, [0; 5]),
        || {
            let (family, kind) = (libc::AF_INET, libc::SOCK_STREAM);
            call(libc::SYS_socket, [family.into(), kind.into(), 0, 0, 0])
        },
        || call(libc::SYS_process_vm_writev, [1, 0, 0, -1, 0]),
        || call(libc::SYS_ioctl, [-1, 0x5412, 0, 0, 0]),
    ];
    for (index, make) in calls.into_iter().enumerate() {
        for mode in [Mode::Off, Mode::Log, Mode::On] {
            let (status, said) = child(|| {
                begin(Choice::Given(mode), || {}).unwrap();
                enter_helper().unwrap();
                let outcome = make();
                let errno = std::io::Error::last_os_error().raw_os_error();
                let refused = outcome == -1 && errno == Some(libc::EPERM);
                assert_eq!(refused, mode == Mode::On, "{index} {mode:?}: {errno:?}");
            });
            assert_eq!((status, said.as_str()), (Some(0), ""), "{index}");
        }
    }
    let (status, said) = child(|| {
        let before = field("CapEff:");
        begin(Choice::Given(Mode::On), || {}).unwrap();
        enter_helper().unwrap();
        assert_eq!([field("Seccomp:"), field("NoNewPrivs:")], ["2", "1"]);
        let kept = super::helper::KEPT.iter();
        let kept = kept.fold(0, |set, (number, _)| set | 1_u64 << number);
        let set = |text: &str| u64::from_str_radix(text, 16).unwrap();
        assert_eq!(set(&field("CapEff:")), set(&before) & kept);
        assert_eq!(set(&field("CapPrm:")) & !kept, 0);
        // The search for a device's uses asks for the addresses of interfaces.
        let mut addresses = std::ptr::null_mut();
        // SAFETY: getifaddrs(3) writes a pointer to memory of its own, which nobody frees here.
        assert_eq!(unsafe { libc::getifaddrs(&mut addresses) }, 0);
        // A program that it runs, as modprobe, and a thread.
        let grep = std::process::Command::new("grep")
            .args(["-c", "CapEff:.*[1-9a-f]", "/proc/self/status"])
            .output()
            .unwrap();
        let some = set(&before) & kept != 0;
        assert_eq!(grep.status.code(), Some(i32::from(!some)));
        assert!(std::thread::spawn(|| field("Seccomp:")).join().unwrap() == "2");
    });
    assert_eq!((status, said.as_str()), (Some(0), ""));
}

/// A call that is not in the list is said once, and its outcome is the kernel's.
#[test]
fn log_says_a_call_and_makes_it() {
    let (status, said) = child(|| {
        confine(Mode::Log, Kind::Vcpu);
        for _ in 0..2 {
            assert_eq!(
                call(libc::SYS_getppid, [0; 5]),
                std::os::unix::process::parent_id().into()
            );
        }
        let page = map(libc::PROT_READ | libc::PROT_EXEC);
        assert!(page > 0);
        assert_eq!(call(libc::SYS_ioctl, [-1, 0x5412, 0, 0, 0]), -1);
        let errno = std::io::Error::last_os_error().raw_os_error();
        assert_eq!(errno, Some(libc::EBADF));
        // All six arguments.
        let file = File::open("/proc/self/exe").unwrap();
        // SAFETY: a new map, which nobody uses.
        let page = unsafe {
            let flags = libc::MAP_PRIVATE;
            libc::mmap(
                ptr::null_mut(),
                4096,
                libc::PROT_EXEC,
                flags,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(page, libc::MAP_FAILED);
    });
    let lines: Vec<_> = said.lines().collect();
    let wanted = ["getppid", "mmap", "ioctl 0x5412", "openat"];
    let wanted = wanted.map(|c| format!("mini-vmm: sandbox: {c} is not in the list of vcpu"));
    assert_eq!(
        (status, lines),
        (Some(0), wanted.each_ref().map(String::as_str).to_vec())
    );
}

/// Landlock: a confined process opens what it was given.
#[test]
fn files_that_were_not_named_cannot_be_opened() {
    if super::landlock::abi().is_none() {
        return eprintln!("SKIPPED: this kernel has no Landlock");
    }
    let named = vmm_sys_util::tempfile::TempFile::new().unwrap();
    let other = vmm_sys_util::tempfile::TempFile::new().unwrap();
    // A file of no mounted file system, as a program that starts mini-vmm may hand over.
    let flags = rustix::fs::MemfdFlags::empty();
    let nowhere = rustix::fs::memfd_create("image", flags).unwrap();
    let nowhere = std::path::PathBuf::from(format!("/proc/self/fd/{}", nowhere.as_raw_fd()));
    let (status, said) = child(|| {
        let run = Confinement {
            read: vec![named.as_path().into(), nowhere.clone()],
            ..Confinement::default()
        };
        begin(Choice::Given(Mode::On), || {}).unwrap();
        prepare(&run).unwrap();
        let open = |path| File::open(path).map_err(|e| e.raw_os_error()).map(drop);
        assert_eq!(open(named.as_path()), Ok(()));
        assert_eq!(open(&nowhere), Ok(()));
        assert_eq!(open("/proc/self/status".as_ref()), Ok(()));
        assert_eq!(open(other.as_path()), Err(Some(libc::EACCES)));
        assert_eq!(open("/etc/passwd".as_ref()), Err(Some(libc::EACCES)));
        let write = File::options().write(true).open(named.as_path());
        assert_eq!(write.unwrap_err().raw_os_error(), Some(libc::EACCES));
        assert!(std::fs::write(std::env::temp_dir().join("mini-vmm-no"), "").is_err());
        // The thread that adds devices may call open, and has the same limit.
        enter(Kind::Changes);
        assert_eq!(open(other.as_path()), Err(Some(libc::EACCES)));
        assert_eq!(open(named.as_path()), Ok(()));
    });
    assert_eq!((status, said.as_str()), (Some(0), ""));
}

/// The process has no core and cannot be read by others of its user.
#[test]
fn memory_is_hidden_unless_another_process_needs_it() {
    // SAFETY: the call takes a number.
    let dumpable = || unsafe { libc::prctl(libc::PR_GET_DUMPABLE) };
    for (shared, wanted) in [(false, 0), (true, 1)] {
        let (status, said) = child(|| {
            let run = Confinement {
                shared,
                ..Confinement::default()
            };
            begin(Choice::Given(Mode::On), || {}).unwrap();
            prepare(&run).unwrap();
            assert_eq!(dumpable(), wanted);
            let core = rustix::process::getrlimit(rustix::process::Resource::Core);
            assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
        });
        assert_eq!((status, said.as_str()), (Some(0), ""), "{shared}");
    }
}

/// A user who may lock any amount of memory may still: by the limit, or by the capability where the
/// limit cannot be raised.
#[test]
fn memory_can_be_locked_as_before() {
    let before = crate::sys::may_lock_any("/proc".as_ref());
    let (status, said) = child(|| {
        // SAFETY: the limit lives for the call.
        let low = unsafe {
            let limit = libc::rlimit {
                rlim_cur: 1 << 16,
                rlim_max: 1 << 16,
            };
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit)
        };
        assert_eq!(low, 0);
        let run = Confinement {
            locks: true,
            ..Confinement::default()
        };
        begin(Choice::Given(Mode::On), || {}).unwrap();
        prepare(&run).unwrap();
        enter(Kind::Main);
        let now = crate::sys::memlock_limit() == u64::MAX;
        let kept = field("CapEff:") == "0000000000004000";
        assert!(kept || field("CapEff:") == "0000000000000000");
        assert_eq!(now || kept, before);
    });
    assert_eq!((status, said.as_str()), (Some(0), ""));
}

/// Why the processes that open and bind devices have no Landlock: whatever a domain allows, a
/// process in it does not see which files a process outside of it has open (landlock.rst, "Ptrace
/// restrictions"), though both are root's. Those processes name who has a device.
#[test]
fn a_domain_of_landlock_hides_the_files_of_other_processes() {
    let Some(abi) = landlock::abi() else {
        eprintln!("SKIPPED: the kernel has no Landlock");
        return;
    };
    let mut other = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let files = format!("/proc/{}/fd", other.id());
    let (status, said) = child(|| {
        let look = || {
            let files = std::fs::read_dir(&files)?;
            let all = files.map(|file| std::fs::read_link(file?.path()));
            all.collect::<Result<Vec<_>, _>>()
        };
        assert!(!look().unwrap().is_empty());
        let all = ["/".into(), "/proc".into()].map(|path| (path, landlock::Use::Device));
        landlock::confine(abi, &all).unwrap();
        let refused = look().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
        // The rule itself allows the file.
        assert!(!std::fs::read("/proc/self/status").unwrap().is_empty());
    });
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(status, Some(0), "{said}");
}
