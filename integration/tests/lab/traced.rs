//! `mini-vmm trace` of guests with a passed-through disk: what the trace names, and that it counts
//! what mini-vmm counts.

mod boot_page;
// Pure parts that other tests have too.
#[path = "../../../tests/common/witness.rs"]
mod calls;
mod checks;
mod cost;
mod demo;
#[allow(dead_code)]
#[path = "../../../tests/common/kernels.rs"]
mod kernels;
mod killed;
mod perfetto;
mod qemu;
#[allow(dead_code)]
#[path = "../../../tests/common/transcript.rs"]
mod transcript;
mod transcripts;
mod witness;

use lab::disk::Disk;
use lab::expect::{ended_well, run, worked};
use lab::kept::{self, Files};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Error, Result, vmm};
use serde_json::Value;

/// The disk that the guest has.
const DISK: Disk = Disk::new("lab-disk", 5);

/// The disk on which L1 leaves files for the lab.
const FILES: Disk = Disk::new("files", 6);

pub fn all() -> Vec<Scenario> {
    vec![
        traced("a_traced_guest_by_a_container", "container"),
        traced("a_traced_guest_by_iommufd", "iommufd").apart(),
        boot_page::scenario(),
        cost::scenario(),
        demo::scenario(),
        killed::scenario(),
        transcripts::ours(),
        transcripts::qemus(),
        witness::scenario(),
    ]
}

/// A guest below the tracer, by one interface to the IOMMU.
fn traced(name: &'static str, interface: &'static str) -> Scenario {
    let script = format!(
        "bind_vfio 0000:00:05.0\n\
         options=\"--memory 256M --stats=/run/stats.json --iommu {interface}\"\n\
         run_as '' mini-vmm trace --json -o /run/trace --perfetto /run/perfetto -- \
         mini-vmm $boot $options --cmdline \"$cmdline\" --vfio 0000:00:05.0\n\
         give_back 0000:00:05.0\n\
         keep /run/trace /run/perfetto /run/stats.json\n"
    );
    Scenario::new(name)
        .built("mini-vmm-trace", vmm::tracer)
        .disks(&[DISK, FILES])
        .script(format!("{}{script}", kept::KEEP), move |outcome| {
            check(outcome, interface)
        })
}

fn check(outcome: &Outcome, interface: &str) -> Result<()> {
    let run = run(outcome, 0)?;
    ended_well(&run)?;
    worked(outcome, &run, &DISK)?;
    let files = Files::of(outcome, &FILES)?;
    let trace = checks::Trace::parse(&files.text("trace")?)?;
    trace.all_is_decoded()?;
    trace.counts_are(&json(&files, "stats.json")?)?;
    trace.files_have_names(interface)?;
    trace.config_accesses_have_names()?;
    trace.messages_are_whole()?;
    trace.one_eventfd()?;
    perfetto::check(&json(&files, "perfetto")?, &trace)
}

fn json(files: &Files, name: &str) -> Result<Value> {
    serde_json::from_str(&files.text(name)?)
        .map_err(|error| Error::failed(format!("{name}: {error}")))
}
