//! The processor's cycles of a VMM's threads, in the guest and in the host apart
//! (perf_event_open(2), `exclude_host` and `exclude_guest`; perf's `cycles:G` and `cycles:H`).

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::FromRawFd;
use std::path::Path;

/// PERF_TYPE_HARDWARE and PERF_COUNT_HW_CPU_CYCLES.
const HARDWARE: u32 = 0;
const CYCLES: u64 = 0;

/// The bits `exclude_hv`, `exclude_host` and `exclude_guest` of the structure's flags.
const EXCLUDE_HV: u64 = 1 << 6;
const EXCLUDE_HOST: u64 = 1 << 19;
const EXCLUDE_GUEST: u64 = 1 << 20;

/// PERF_FLAG_FD_CLOEXEC.
const CLOEXEC: libc::c_ulong = 8;

/// `struct perf_event_attr` of the first version (include/uapi/linux/perf_event.h).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    more: u64,
}

/// The counters of all threads of a process.
pub(super) struct Cycles {
    guest: Vec<File>,
    host: Vec<File>,
}

impl Cycles {
    /// Counts from now on; an error if the kernel has no counter of cycles for these threads.
    pub(super) fn start(process: &Path) -> io::Result<Self> {
        let (mut guest, mut host) = (Vec::new(), Vec::new());
        for task in fs::read_dir(process.join("task"))?.flatten() {
            let thread = task.file_name().to_string_lossy().parse();
            let Ok(thread) = thread else { continue };
            let both = open(thread, EXCLUDE_HOST | EXCLUDE_HV).and_then(|of_guest| {
                let of_host = open(thread, EXCLUDE_GUEST | EXCLUDE_HV)?;
                Ok((of_guest, of_host))
            });
            match both {
                Ok((of_guest, of_host)) => {
                    guest.push(of_guest);
                    host.push(of_host);
                }
                // The thread has ended since the list was read.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { guest, host })
    }

    /// Cycles in the guest and in the host until now.
    pub(super) fn read(&self) -> io::Result<(u64, u64)> {
        let sum = |files: &[File]| -> io::Result<u64> {
            let numbers = files.iter().map(|mut file| {
                let mut number = [0; 8];
                file.read_exact(&mut number)?;
                Ok(u64::from_ne_bytes(number))
            });
            numbers.sum()
        };
        Ok((sum(&self.guest)?, sum(&self.host)?))
    }
}

/// Opens a counter of a thread on all CPUs.
fn open(thread: libc::pid_t, flags: u64) -> io::Result<File> {
    let attributes = Attributes {
        kind: HARDWARE,
        size: size_of::<Attributes>() as u32,
        config: CYCLES,
        flags,
        ..Attributes::default()
    };
    let (any_cpu, no_group): (libc::c_int, libc::c_int) = (-1, -1);
    // SAFETY: the kernel reads `size` bytes of the structure, which lives for the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            thread,
            any_cpu,
            no_group,
            CLOEXEC,
        )
    };
    match libc::c_int::try_from(fd) {
        // SAFETY: the kernel has just opened the descriptor, and nothing else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { File::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first version of the structure has 64 bytes (PERF_ATTR_SIZE_VER0).
    #[test]
    fn the_structure_is_the_kernel_s() {
        assert_eq!(size_of::<Attributes>(), 64);
        assert_eq!(std::mem::offset_of!(Attributes, flags), 40);
    }

    /// No thread has a number above the kernel's limit, PID_MAX_LIMIT (include/linux/threads.h).
    #[test]
    fn a_thread_that_has_ended_is_left_out() {
        let dir = std::env::temp_dir().join(format!("bench-cycles-{}", std::process::id()));
        fs::create_dir_all(dir.join("task/2000000000")).unwrap();
        let cycles = Cycles::start(&dir);
        fs::remove_dir_all(&dir).unwrap();
        match cycles {
            Ok(cycles) => assert_eq!(cycles.read().unwrap(), (0, 0)),
            // The kernel looks for permission before it looks for the thread.
            Err(error) => {
                assert_ne!(error.raw_os_error(), Some(libc::ESRCH));
                println!("SKIPPED: no counter of the processor's cycles: {error}");
            }
        }
    }

    /// This process runs no guest. Many machines have no counters, or permit none.
    #[test]
    fn a_process_without_a_guest_has_cycles_of_the_host_alone() {
        let cycles = match Cycles::start(Path::new("/proc/self")) {
            Ok(cycles) => cycles,
            Err(error) => {
                println!("SKIPPED: no counter of the processor's cycles: {error}");
                return;
            }
        };
        let (guest, before) = cycles.read().unwrap();
        let mut work = 1u64;
        for round in 0..1_000_000 {
            work = std::hint::black_box(work.rotate_left(7) ^ round);
        }
        let (later, after) = cycles.read().unwrap();
        assert_eq!((guest, later), (0, 0));
        assert!(after > before);
    }
}
