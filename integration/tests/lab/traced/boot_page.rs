//! The HTML page of a whole boot of Linux in QEMU, with a passed-through disk: the guest comes to
//! its /init and reads its disk, and the page stays small. The page is kept, to be looked at.

use lab::disk::Disk;
use lab::expect::{exit, run};
use lab::kept::{self, Files};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Error, Result, vmm};

use super::{FILES, qemu};

const DISK: Disk = Disk::new("lab-disk", 5);

/// The most that a page may have, in bytes.
const MOST: usize = 5 << 20;

/// Where the page is kept on the host.
const PAGE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/whole-boot.html");

pub fn scenario() -> Scenario {
    let vmm = qemu::linux("0000:00:05.0");
    let script = format!(
        "{}bind_vfio 0000:00:05.0\n\
         run_as '' mini-vmm-trace -o /run/trace --html /run/page -- {vmm}\n\
         give_back 0000:00:05.0\n\
         say lines $(wc -l </run/trace)\n\
         keep /run/page\n",
        kept::KEEP
    );
    Scenario::new("the_page_of_a_whole_boot_of_qemu")
        .built("mini-vmm-trace", vmm::tracer)
        .disks(&[DISK, FILES])
        .machine(qemu::add)
        .inner_qemu()
        .limit(300)
        .apart()
        .script(script, check)
}

fn check(outcome: &Outcome) -> Result<()> {
    let run = run(outcome, 0)?;
    exit(&run, 0)?;
    // QEMU's own disk controller has no disk, so `worked` would find fault.
    DISK.check_written(&outcome.image(DISK.serial))?;
    let page = Files::of(outcome, &FILES)?.text("page")?;
    let lines: Vec<_> = outcome.transcript.lab("lines").collect();
    eprintln!(
        "  {} KiB of a trace of {lines:?} lines; it is in {PAGE}",
        page.len() >> 10
    );
    std::fs::write(PAGE, &page).map_err(|error| Error::failed(format!("write {PAGE}: {error}")))?;
    if page.len() >= MOST {
        return Err(Error::failed(format!("the page has {} bytes", page.len())));
    }
    // The page is whole, and has the guest's exits and its device.
    for part in ["</html>", "vcpu 0", "0000:00:05.0", "KVM_RUN"] {
        if !page.contains(part) {
            return Err(Error::failed(format!("the page lacks {part}")));
        }
    }
    Ok(())
}
