//! Keeps values in the AVX registers while the kernel switches threads and the vCPU exits to the
//! VMM. A kernel that does not save these registers, or a VMM that reports them wrongly, mixes up
//! the threads' values.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi64, _mm256_set1_epi64x, _mm256_storeu_si256, _mm256_xor_si256,
};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use lab::error::Context;
use lab::{Error, Result};

/// Rounds of each thread. After each round the thread gives the CPU away.
const ROUNDS: i64 = 2000;
/// After so many rounds, the thread reads a register of the host bridge: the VMM answers the read.
const ROUNDS_PER_EXIT: i64 = 50;
/// The host bridge's registers. The kernel has the first 64 bytes for every user.
const REGISTERS: &str = "/sys/bus/pci/devices/0000:00:00.0/config";

/// Runs `threads` threads at the same time, each with values of its own.
pub fn keep(threads: &str) -> Result<()> {
    let threads: i64 = threads
        .parse()
        .map_err(|_| Error::failed(format!("\"{threads}\" is no number of threads")))?;
    if !std::is_x86_feature_detected!("avx2") {
        println!("L2: vectors none");
        return Ok(());
    }
    let registers = File::open(REGISTERS).context(format!("open {REGISTERS}"))?;
    let exits = &AtomicU64::new(0);
    let registers = &registers;
    let wrong: usize = thread::scope(|scope| {
        let running: Vec<_> = (1..=threads)
            .map(|seed| {
                scope.spawn(move || {
                    // SAFETY: the processor has AVX2, as checked above.
                    unsafe { sum(seed, registers, exits) != expected(seed) }
                })
            })
            .collect();
        let joined = running
            .into_iter()
            .map(|thread| thread.join().unwrap_or(true));
        joined.filter(|wrong| *wrong).count()
    });
    let exits = exits.load(Ordering::Relaxed);
    println!("L2: vectors threads={threads} wrong={wrong} exits={exits}");
    Ok(())
}

/// The result of [`sum`], without AVX.
fn expected(seed: i64) -> [i64; 4] {
    let sum = (0..ROUNDS).fold(seed, |sum, round| (sum + seed) ^ round);
    [sum; 4]
}

/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn sum(seed: i64, registers: &File, exits: &AtomicU64) -> [i64; 4] {
    let step = _mm256_set1_epi64x(seed);
    let mut sum: __m256i = step;
    for round in 0..ROUNDS {
        sum = _mm256_xor_si256(_mm256_add_epi64(sum, step), _mm256_set1_epi64x(round));
        let (fd, mut vendor) = (registers.as_raw_fd(), [0u8; 4]);
        let call = match round % ROUNDS_PER_EXIT {
            0 => libc::SYS_pread64,
            _ => libc::SYS_sched_yield,
        };
        let outcome: i64;
        // SAFETY: the instruction sequence is `sched_yield`, which takes no arguments, or `pread64`
        // of four bytes from offset zero into `vendor`. Unlike a function call, the assembly lets
        // the compiler keep `sum` in its register.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") call => outcome,
                in("rdi") i64::from(fd),
                in("rsi") vendor.as_mut_ptr(),
                in("rdx") vendor.len(),
                in("r10") 0,
                out("rcx") _,
                out("r11") _,
                options(nostack)
            );
        }
        if outcome == 4 {
            exits.fetch_add(1, Ordering::Relaxed);
        }
    }
    let mut out = [0; 4];
    // SAFETY: `out` has 32 bytes, and the instruction needs no alignment.
    unsafe { _mm256_storeu_si256((&raw mut out).cast(), sum) };
    out
}
