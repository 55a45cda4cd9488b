//! Keeps values in the AVX registers while the kernel switches threads. A kernel that does not save
//! these registers, or a VMM that reports them wrongly, mixes up the threads' values.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi64, _mm256_set1_epi64x, _mm256_storeu_si256, _mm256_xor_si256,
};
use std::thread;

use lab::{Error, Result};

/// Rounds of each thread. After each round the thread gives the CPU away.
const ROUNDS: i64 = 2000;

/// Runs `threads` threads at the same time, each with values of its own.
pub fn keep(threads: &str) -> Result<()> {
    let threads: i64 = threads
        .parse()
        .map_err(|_| Error::failed(format!("\"{threads}\" is no number of threads")))?;
    if !std::is_x86_feature_detected!("avx2") {
        println!("L2: vectors none");
        return Ok(());
    }
    let wrong: usize = thread::scope(|scope| {
        let running: Vec<_> = (1..=threads)
            // SAFETY: the processor has AVX2, as checked above.
            .map(|seed| scope.spawn(move || unsafe { sum(seed) } != expected(seed)))
            .collect();
        let joined = running
            .into_iter()
            .map(|thread| thread.join().unwrap_or(true));
        joined.filter(|wrong| *wrong).count()
    });
    println!("L2: vectors threads={threads} wrong={wrong}");
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
unsafe fn sum(seed: i64) -> [i64; 4] {
    let step = _mm256_set1_epi64x(seed);
    let mut sum: __m256i = step;
    for round in 0..ROUNDS {
        sum = _mm256_xor_si256(_mm256_add_epi64(sum, step), _mm256_set1_epi64x(round));
        // SAFETY: the instruction sequence is `sched_yield`, which takes no arguments. Unlike a
        // function call, the assembly lets the compiler keep `sum` in its register.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") libc::SYS_sched_yield => _,
                out("rcx") _,
                out("r11") _,
                options(nostack)
            );
        }
    }
    let mut out = [0; 4];
    // SAFETY: `out` has 32 bytes, and the instruction needs no alignment.
    unsafe { _mm256_storeu_si256((&raw mut out).cast(), sum) };
    out
}
