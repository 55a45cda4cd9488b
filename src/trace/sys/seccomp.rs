//! A filter for the traced program, by which only the calls that may be shown stop (seccomp(2)).
//! All others run as without a tracer.
//!
//! The kernel lets a thread install a filter if it has the capability SYS_ADMIN, or has set
//! `no_new_privs`. The tracer does not set that, because it changes what the program can execute.

use libc::{c_long, c_ushort, sock_filter, sock_fprog};

/// The architecture of a system call by linux/audit.h: AUDIT_ARCH_X86_64.
pub const X86_64: u32 = 0xc000_003e;
/// The data of a stop by this filter. A stop with other data is by a filter of the program's own.
pub const DATA: u32 = 0x6d76;

/// Offsets in `struct seccomp_data`, of which an argument has 8 bytes.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const TRACE: u32 = libc::SECCOMP_RET_TRACE | DATA;

/// FUTEX_WAIT and FUTEX_WAIT_BITSET of linux/futex.h, and the bits of a command without its flags.
const WAITS: [u32; 2] = [0, 9];
const COMMAND: u32 = 0x7f;

/// The bytes that a read or a write of an eventfd has at least.
const EVENTFD: u32 = 8;

/// A classic BPF program for seccomp(2).
#[derive(Clone, Debug)]
pub struct Filter(Vec<sock_filter>);

impl Filter {
    /// A filter that stops before these calls, and before some of mmap(2), fcntl(2), futex(2),
    /// read(2) and write(2), but not before these commands of ioctl(2).
    pub fn new(calls: &[c_long], passed: &[u32]) -> Self {
        let mut code = vec![load(ARCH), equal(X86_64, 1, 0), answer(ALLOW), load(NUMBER)];
        code.extend(block(libc::SYS_ioctl, &ioctl(passed)));
        code.extend(block(libc::SYS_mmap, &mmap()));
        code.extend(block(libc::SYS_fcntl, &fcntl()));
        code.extend(block(libc::SYS_futex, &futex()));
        code.extend(block(libc::SYS_read, &counted()));
        code.extend(block(libc::SYS_write, &counted()));
        for (at, call) in calls.iter().enumerate() {
            code.push(equal(*call as u32, (calls.len() - at) as u8, 0));
        }
        code.extend([answer(ALLOW), answer(TRACE)]);
        Self(code)
    }

    /// Installs the filter for the calling thread and all that it starts. Returns whether the
    /// kernel has let it. Safe after fork(2).
    pub fn install(&self) -> bool {
        let program = sock_fprog {
            len: self.0.len() as c_ushort,
            filter: self.0.as_ptr().cast_mut(),
        };
        // Without the flag, kernels before 5.16 slow a program with a filter down
        // (SECCOMP_FILTER_FLAG_SPEC_ALLOW).
        let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        let install = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: `program` is valid, and the kernel only reads it.
        let done = unsafe { libc::syscall(libc::SYS_seccomp, install, flags, &raw const program) };
        done == 0
    }
}

/// All commands but these. The kernel takes the low half of the argument.
fn ioctl(passed: &[u32]) -> Vec<sock_filter> {
    let mut part = vec![load(argument(1))];
    for (at, command) in passed.iter().enumerate() {
        part.push(equal(*command, (passed.len() - at) as u8, 0));
    }
    part.extend([answer(TRACE), answer(ALLOW)]);
    part
}

/// Memory that is mapped where the kernel wants it, without a file, replaces nothing.
fn mmap() -> [sock_filter; 5] {
    let (fixed, anonymous) = (libc::MAP_FIXED as u32, libc::MAP_ANONYMOUS as u32);
    [
        load(argument(3)),
        and(fixed | anonymous),
        equal(anonymous, 0, 1),
        answer(ALLOW),
        answer(TRACE),
    ]
}

/// The commands that make a descriptor.
fn fcntl() -> [sock_filter; 5] {
    [
        load(argument(1)),
        equal(libc::F_DUPFD as u32, 2, 0),
        equal(libc::F_DUPFD_CLOEXEC as u32, 1, 0),
        answer(ALLOW),
        answer(TRACE),
    ]
}

/// Waits with a time: a thread that empties the ring of a guest without exits waits so.
fn futex() -> [sock_filter; 11] {
    [
        load(argument(1)),
        and(COMMAND),
        equal(WAITS[0], 2, 0),
        equal(WAITS[1], 1, 0),
        answer(ALLOW),
        load(argument(3)),
        equal(0, 0, 2),
        load(argument(3) + 4),
        equal(0, 1, 0),
        answer(TRACE),
        answer(ALLOW),
    ]
}

/// Reads and writes of the bytes of an eventfd, and more (eventfd(2)). A console's single
/// characters are many. The position in a device's file is chosen by pread(2) and pwrite(2) alone.
fn counted() -> [sock_filter; 6] {
    [
        load(argument(2) + 4),
        equal(0, 0, 3),
        load(argument(2)),
        at_least(EVENTFD, 1, 0),
        answer(ALLOW),
        answer(TRACE),
    ]
}

/// What is done for one call: a part that ends with an answer.
fn block(call: c_long, part: &[sock_filter]) -> Vec<sock_filter> {
    let mut block = vec![equal(call as u32, 0, part.len() as u8)];
    block.extend(part);
    block
}

/// The offset of an argument's low half.
fn argument(number: u32) -> u32 {
    ARGUMENTS + 8 * number
}

fn statement(code: u32, k: u32) -> sock_filter {
    let code = code as u16;
    let (jt, jf) = (0, 0);
    sock_filter { code, jt, jf, k }
}

fn load(at: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at)
}

fn and(bits: u32) -> sock_filter {
    statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, bits)
}

fn answer(value: u32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, value)
}

/// Skips `yes` statements if the loaded value is `k`, else `no`.
fn equal(k: u32, yes: u8, no: u8) -> sock_filter {
    jump(libc::BPF_JEQ, k, yes, no)
}

/// The same if the value is `k` or more.
fn at_least(k: u32, yes: u8, no: u8) -> sock_filter {
    jump(libc::BPF_JGE, k, yes, no)
}

fn jump(test: u32, k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter {
        code: (libc::BPF_JMP | test | libc::BPF_K) as u16,
        jt: yes,
        jf: no,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel does.
    fn stops(filter: &Filter, arch: u32, number: c_long, args: [u64; 6]) -> bool {
        let mut data = [number as u32, arch, 0, 0].to_vec();
        let halves = args.map(|argument| [argument as u32, (argument >> 32) as u32]);
        data.extend(halves.as_flattened());
        let (mut at, mut value) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = filter.0[at];
            at += 1;
            match u32::from(code) & 0x7 {
                libc::BPF_LD => value = data[k as usize / 4],
                libc::BPF_ALU => value &= k,
                libc::BPF_JMP => {
                    let test = u32::from(code) & 0xf0;
                    let yes = match test {
                        libc::BPF_JEQ => value == k,
                        _ => test == libc::BPF_JGE && value >= k,
                    };
                    at += usize::from(if yes { jt } else { jf });
                }
                _ => {
                    assert!(k == TRACE || k == ALLOW);
                    return k == TRACE;
                }
            }
        }
    }

    #[test]
    fn only_what_is_asked_for_stops() {
        let calls = [libc::SYS_ioctl, libc::SYS_pread64, libc::SYS_close_range];
        let filter = Filter::new(&calls, &[]);
        for number in 0..600 {
            let stopped = stops(&filter, X86_64, number, [0; 6]);
            // fcntl(2) with F_DUPFD, and mmap(2) of a file.
            let by_arguments = [libc::SYS_fcntl, libc::SYS_mmap];
            let asked = calls.contains(&number) || by_arguments.contains(&number);
            assert_eq!(stopped, asked, "{number}");
        }
        // The calls of 32-bit programs and of the x32 ABI have other numbers.
        assert!(!stops(&filter, 0x4000_0003, libc::SYS_ioctl, [0; 6]));
        assert!(!stops(
            &filter,
            X86_64,
            libc::SYS_ioctl | 0x4000_0000,
            [0; 6]
        ));
    }

    #[test]
    fn arguments_choose() {
        let filter = Filter::new(&[], &[0xae80, 0xc008_ae67]);
        let stops = |number, args| stops(&filter, X86_64, number, args);
        for (flags, stopped) in [(0x22, false), (0x32, true), (0x2, true), (0x4022, false)] {
            let args = [0, 4096, 3, flags, u64::MAX, 0];
            assert_eq!(stops(libc::SYS_mmap, args), stopped, "{flags:#x}");
        }
        for (command, stopped) in [(0, true), (1030, true), (1, false), (3, false)] {
            let args = [3, command, 0, 0, 0, 0];
            assert_eq!(stops(libc::SYS_fcntl, args), stopped, "{command}");
        }
        for (command, stopped) in [
            (0xae80, false),
            (0xc008_ae67, false),
            (0xffff_ffff_c008_ae67, false),
            (0xae81, true),
            (0, true),
        ] {
            let args = [3, command, 0, 0, 0, 0];
            assert_eq!(stops(libc::SYS_ioctl, args), stopped, "{command:#x}");
        }
        let wait = |command, time| stops(libc::SYS_futex, [4096, command, 0, time, 0, 0]);
        // FUTEX_WAIT_PRIVATE, FUTEX_WAIT_BITSET_PRIVATE with FUTEX_CLOCK_REALTIME, FUTEX_WAKE.
        for command in [0x80, 0x189] {
            assert!(!wait(command, 0));
            assert!(wait(command, 8) && wait(command, 1 << 32));
        }
        assert!(!wait(0x81, 8));
        for (count, stopped) in [
            (0, false),
            (7, false),
            (8, true),
            (9, true),
            (1 << 32, true),
        ] {
            for number in [libc::SYS_read, libc::SYS_write] {
                let args = [5, 4096, count, 0, 0, 0];
                assert_eq!(stops(number, args), stopped, "{count}");
            }
        }
    }
}
