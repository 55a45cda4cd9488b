//! Makes RAM, maps the RAM for a device's DMA, and unmaps the RAM. Only the calls of one interface
//! are made.

use std::time::{Duration, Instant};

use bench::error::Result;

use crate::iommu::Iommu;
use crate::ram::{MIB, Ram};

/// The IOVA of the RAM, aligned for pages of every size.
const IOVA: u64 = 4 << 30;

/// Takes one measurement, and prints each step's time in milliseconds.
pub fn run(interface: &str, bdf: &str, mib: usize, pages: &str, threads: usize) -> Result<()> {
    let size = mib * MIB;
    let iommu = Iommu::new(interface, bdf)?;

    let started = Instant::now();
    let ram = Ram::new(size, pages)?;
    ram.populate(threads)?;
    let made = started.elapsed();

    let started = Instant::now();
    iommu.map(IOVA, &ram)?;
    let mapped = started.elapsed();

    let started = Instant::now();
    iommu.unmap(IOVA, size)?;
    let unmapped = started.elapsed();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "made={:.3} mapped={:.3} unmapped={:.3}",
        ms(made),
        ms(mapped),
        ms(unmapped)
    );
    Ok(())
}
