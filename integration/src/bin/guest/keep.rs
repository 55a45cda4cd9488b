//! A page of a process, whose physical address the process tells, and which it reads for ever.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use lab::Result;
use lab::error::{Context, Error};

const PAGE: usize = 4096;
const VALUE: u32 = 0x600d_600d;

#[repr(align(4096))]
struct Page([AtomicU32; PAGE / 4]);

/// Prints the guest-physical address of a page, and reads the page until that fails.
pub fn keep() -> Result<()> {
    let page = Box::new(Page([const { AtomicU32::new(VALUE) }; PAGE / 4]));
    let address = page.0.as_ptr() as usize;
    // Bits 0 to 54 of an entry are the frame's number (Documentation/admin-guide/mm/pagemap.rst).
    let mut entry = [0; 8];
    File::open("/proc/self/pagemap")
        .and_then(|map| map.read_exact_at(&mut entry, (address / PAGE * 8) as u64))
        .context("read the page's address")?;
    let frame = u64::from_le_bytes(entry) & ((1 << 55) - 1);
    println!("L2: kept {:#x}", frame * PAGE as u64);
    while page
        .0
        .iter()
        .all(|word| word.load(Ordering::SeqCst) == VALUE)
    {
        thread::sleep(Duration::from_millis(20));
    }
    Err(Error::failed("the page has another value"))
}
