//! SIGBUS: the host has lost memory, by an uncorrectable error or because a mapped file became
//! shorter (sigaction(2), BUS_MCEERR_AR, BUS_MCEERR_AO and BUS_ADRERR).
//!
//! KVM sends the signal when a guest touches a lost page (arch/x86/kvm/mmu/mmu.c,
//! `kvm_send_hwpoison_signal`). It arrives at the end of KVM_RUN, and the vCPU's thread acts on it.
//! Any other thread has touched the memory by an instruction that cannot be repeated: the handler
//! says so and ends the process. The kernel then closes the devices.
//!
//! The handler calls async-signal-safe functions only (signal-safety(7)).

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::{io, ptr};

use vmm_sys_util::signal::register_signal_handler;

/// Hardware memory error: action required, action optional (asm-generic/siginfo.h).
const BUS_MCEERR_AR: i32 = 4;
const BUS_MCEERR_AO: i32 = 5;

thread_local! {
    /// Whether this thread is in KVM_RUN. A constant without a destructor needs no allocation.
    static IN_GUEST: Cell<bool> = const { Cell::new(false) };
    /// The host address of the page that the guest has lost.
    static LOST: Cell<u64> = const { Cell::new(0) };
}

/// An area of guest memory: its host address, its bytes and its guest-physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// The first host address.
    pub host: u64,
    /// Bytes.
    pub size: u64,
    /// The first guest-physical address.
    pub guest: u64,
}

/// The guest-physical address of a host address, if it is guest memory.
pub fn guest_address(areas: &[Area], host: u64) -> Option<u64> {
    areas.iter().find_map(|area| {
        let offset = host.checked_sub(area.host)?;
        (offset < area.size).then_some(area.guest + offset)
    })
}

/// The guest's memory, for the handler's message. Never freed: the handler may read the list at any
/// time.
static MEMORY: AtomicPtr<Vec<Area>> = AtomicPtr::new(ptr::null_mut());
/// What must be done before the process ends.
static BEFORE_END: OnceLock<fn()> = OnceLock::new();

/// Handles the signal from now on. `before_end` restores what the end of the process does not; it
/// must be async-signal-safe.
///
/// # Errors
/// The errno of sigaction(2).
pub fn catch(before_end: fn()) -> io::Result<()> {
    // A second call changes nothing.
    let _ = BEFORE_END.set(before_end);
    register_signal_handler(libc::SIGBUS, on_bus_error)
        .map_err(|e| io::Error::from_raw_os_error(e.errno()))
}

/// Sets the guest's memory, once for each machine.
pub fn set_memory(areas: Vec<Area>) {
    MEMORY.store(Box::into_raw(Box::new(areas)), Ordering::Release);
}

/// Calls KVM_RUN by `run`. Returns what it returned, and the host address of a page that the guest
/// has touched and the host has lost.
pub fn watch<R>(run: impl FnOnce() -> R) -> (R, Option<u64>) {
    IN_GUEST.set(true);
    let outcome = run();
    IN_GUEST.set(false);
    let lost = LOST.replace(0);
    (outcome, (lost != 0).then_some(lost))
}

extern "C" fn on_bus_error(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes the signal's information, which for SIGBUS has an address.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as u64) };
    let of_guest = guest_address(memory(), address);
    match code {
        BUS_MCEERR_AR if IN_GUEST.get() => LOST.set(address),
        // Nobody has touched the page yet, and perhaps nobody will.
        BUS_MCEERR_AO => write_line(&[
            Part::Text("mini-vmm: the host has lost memory that is not in use"),
            where_in_guest(of_guest),
        ]),
        code => {
            if let Some(before_end) = BEFORE_END.get() {
                before_end();
            }
            match code {
                // SI_USER and the like.
                ..=0 => write_line(&[Part::Text("mini-vmm: ended by a SIGBUS that was sent")]),
                _ => write_line(&[
                    Part::Text("mini-vmm: the host has lost memory at "),
                    Part::Number(address),
                    where_in_guest(of_guest),
                    Part::Text(": "),
                    Part::Text(why(code)),
                ]),
            }
            // SAFETY: ends the process without the exit handlers, which may not run here.
            unsafe { libc::_exit(1) }
        }
    }
}

fn why(code: i32) -> &'static str {
    match code {
        BUS_MCEERR_AR => "an uncorrectable error",
        _ => "a mapped file has become shorter, or the host has no page left",
    }
}

fn memory() -> &'static [Area] {
    let areas = MEMORY.load(Ordering::Acquire);
    // SAFETY: the pointer is null, or that of a list that is never freed or changed.
    unsafe { areas.as_ref() }.map_or(&[], Vec::as_slice)
}

/// A part of the handler's message.
enum Part {
    Text(&'static str),
    Number(u64),
    Guest(u64),
}

fn where_in_guest(address: Option<u64>) -> Part {
    address.map_or(Part::Text(""), Part::Guest)
}

/// Writes a line to standard error without the allocator.
fn write_line(parts: &[Part]) {
    let mut line = Line::default();
    for part in parts {
        match part {
            Part::Text(text) => line.add(text.as_bytes()),
            Part::Number(number) => line.add_hex(*number),
            Part::Guest(address) => {
                line.add(b", guest address ");
                line.add_hex(*address);
            }
        }
    }
    line.add(b"\n");
    // SAFETY: the buffer lives for the call; a failed write changes nothing.
    unsafe { libc::write(2, line.bytes.as_ptr().cast(), line.len) };
}

/// A line under construction; what does not fit is cut.
struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 256],
            len: 0,
        }
    }
}

impl Line {
    fn add(&mut self, text: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(self.len).zip(text) {
            *to = *from;
        }
        self.len = (self.len + text.len()).min(self.bytes.len());
    }

    fn add_hex(&mut self, number: u64) {
        self.add(b"0x");
        let digits = (64 - number.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            let value = (number >> (4 * digit) & 0xf) as u8;
            self.add(&[if value < 10 {
                b'0' + value
            } else {
                b'a' + value - 10
            }]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AREAS: [Area; 2] = [
        Area {
            host: 0x7f00_0000_0000,
            size: 0x1000,
            guest: 0,
        },
        Area {
            host: 0x7f00_4000_0000,
            size: 0x2000,
            guest: 0x1_0000_0000,
        },
    ];

    #[test]
    fn addresses_of_the_guest() {
        let guest = |host| guest_address(&AREAS, host);
        assert_eq!(guest(0x7f00_0000_0fff), Some(0xfff));
        assert_eq!(guest(0x7f00_0000_1000), None);
        assert_eq!(guest(0x7f00_4000_1234), Some(0x1_0000_1234));
        assert_eq!((guest(0), guest(u64::MAX)), (None, None));
    }

    #[test]
    fn lines_are_made_without_the_allocator() {
        let mut line = Line::default();
        line.add(b"at ");
        line.add_hex(0x1_0000_0a9f);
        line.add(b" ");
        line.add_hex(0);
        assert_eq!(&line.bytes[..line.len], b"at 0x100000a9f 0x0");
        line.add(&[b'x'; 300]);
        assert_eq!(line.len, 256);
    }

    /// The signal of a page that the guest has lost is the vCPU's to handle, once.
    #[test]
    fn a_signal_in_kvm_run_is_kept_for_the_vcpu() {
        let ((), lost) = watch(|| ());
        assert_eq!(lost, None);
        // SAFETY: all zeros are a value of the structure.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        info.si_code = BUS_MCEERR_AR;
        // SAFETY: si_addr is the first field after the three integers and their padding.
        unsafe { (&raw mut info).cast::<u64>().add(2).write(0x7f00_4000_1000) };
        let signal = || on_bus_error(libc::SIGBUS, &raw mut info, ptr::null_mut());
        assert_eq!(watch(signal), ((), Some(0x7f00_4000_1000)));
        assert_eq!(watch(|| ()), ((), None));
    }
}
