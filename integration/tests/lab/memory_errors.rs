//! The host loses pages of a guest's RAM, as by an uncorrectable error of a memory module: L1's
//! kernel poisons the pages on request (Documentation/mm/hwpoison.rst).

use lab::command::Vmm;
use lab::disk::Disk;
use lab::expect::{exit, expect, guest};
use lab::scenario::Scenario;
use lab::transcript::Run;
use lab::{Error, Result};

const DISK: Disk = Disk::new("lab-disk", 5);

/// A page of the BIOS's area, which the memory map reserves and which the guest never touches.
const UNUSED: &str = "0xb0000";

pub fn all() -> Vec<Scenario> {
    // Without huge pages, which the kernel cannot split while a device may write to them.
    vec![
        Scenario::new("a_lost_page_of_the_guests_ram")
            .machine(|machine| machine.parameters = " transparent_hugepage=never")
            .disk(DISK)
            .before("mount -t debugfs debugfs /sys/kernel/debug")
            .vmm(run("off", UNUSED).exits(0))
            .vmm(run("on", "$(kept_page)").exits(0))
            .degraded(&[&["no-huge-pages"], &["memory-lost", "no-huge-pages"]])
            .guests_leave_no_text()
            .each_run(|round, run| match round {
                0 => unharmed(run),
                _ => told(run),
            }),
    ]
}

/// A guest that keeps a page, while L1 poisons the page at a guest-physical address.
fn run(sandbox: &str, address: &str) -> Vmm {
    Vmm::new(format!("--memory 256M --no-reboot --sandbox {sandbox}"))
        .cmdline("lab.act=keep")
        .meanwhile(format!(
            "await 'L2: kept' 60\npoison $vmm_pid {address}\n\
             for _ in $(seq 200); do\n\
             ! grep -q 'L2: end' /run/vmm.console || break\n\
             kill -0 $vmm_pid 2>/dev/null || break\nsleep 0.1\ndone"
        ))
}

/// Nobody touches the page, so nobody needs to know.
fn unharmed(run: &Run<'_>) -> Result<()> {
    expect(run.guest("lives").next() == Some("yes"), || {
        "the guest has lost a page that it does not use".into()
    })?;
    let told: Vec<_> = run
        .messages()
        .filter(|line| !line.contains("no-huge-pages"))
        .collect();
    expect(told.is_empty(), || format!("mini-vmm said {told:?}"))
}

/// The guest gets a machine check, which ends the process that reads the page, and mini-vmm names
/// the page by the guest's address. What the guest does afterwards is its own affair: here its
/// kernel does not take the page away on AMD, uses the page for itself, and panics, which is a
/// reboot.
fn told(run: &Run<'_>) -> Result<()> {
    let kept = guest(run, "kept")?;
    let told: Vec<_> = run.messages().filter(|line| line.contains(kept)).collect();
    expect(
        told.len() == 1 && told[0].contains("machine check") && told[0].contains("memory-lost"),
        || format!("mini-vmm did not say in one line that {kept} is lost: {told:?}"),
    )?;
    let killed = run
        .guest("keeper")
        .next()
        .ok_or_else(|| Error::failed("the process with the lost page did not end"))?;
    // 128 and the number of SIGBUS.
    expect(killed == "status=135", || {
        format!("the process with the lost page ended with {killed}")
    })?;
    exit(run, 0)
}
