//! `mini-vmm explain` against a golden text, and against the run that it explains.

use std::path::Path;

use lab::Result;
use lab::disk::Disk;
use lab::error::Error;
use lab::expect::{ended_well, exit, expect, run, worked};
use lab::machine::NETWORK_CARD;
use lab::outcome::Outcome;
use lab::scenario::Scenario;

const NVME: &str = include_str!("golden/explain-nvme.txt");
const CARD: &str = include_str!("golden/explain-e1000e.txt");
const FUNCTIONS: &str = include_str!("golden/explain-two-functions.txt");

const DISK: Disk = Disk::new("explained", 4);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a_run_is_as_explained")
            .disk(DISK)
            .disk(Disk::new("first-function", 6))
            .disk(Disk::new("second-function", 6).at_function(1))
            .qemu(&NETWORK_CARD)
            .script(SCRIPT, |outcome| {
                explained(outcome)?;
                as_explained(outcome)
            }),
    ]
}

const SCRIPT: &str = "\
disk=0000:00:04.0
run_vmm explain --vfio $disk,slot=7
bind_vfio $disk
run_vmm explain --vfio $disk,slot=7 --memory 512M $boot
run_vmm explain --vfio $disk,slot=7 --iommu container --json
run_vmm $boot --memory 512M --cmdline \"$cmdline\" --vfio $disk,slot=7
bind_vfio 0000:00:09.0
run_vmm explain --vfio 0000:00:09.0 --memory 512M
first=0000:00:06.0
second=0000:00:06.1
bind_vfio $first
bind_vfio $second
run_vmm explain --vfio $first,slot=1e.0 --vfio $second,slot=1e.1 --memory 512M
";

fn explained(outcome: &Outcome) -> Result<()> {
    let unbound = run(outcome, 0)?;
    exit(&unbound, 0)?;
    let text = unbound.output();
    expect(
        text.contains("A run would fail: PCI device")
            && text.contains("hint: ")
            && text.contains("MSI-X"),
        || "explain does not say that another driver has the device".into(),
    )?;
    for (index, name, text) in [
        (1, "explain-nvme.txt", NVME),
        (4, "explain-e1000e.txt", CARD),
        (5, "explain-two-functions.txt", FUNCTIONS),
    ] {
        let run = run(outcome, index)?;
        exit(&run, 0)?;
        golden(name, text, &run.output(), &outcome.dir)?;
    }
    Ok(())
}

/// The guest finds its BAR at the address that explain named.
fn as_explained(outcome: &Outcome) -> Result<()> {
    let json = run(outcome, 2)?;
    exit(&json, 0)?;
    let json: serde_json::Value = serde_json::from_str(&json.output())
        .map_err(|e| Error::failed(format!("explain --json is no JSON: {e}")))?;
    expect(json["dma"]["interface"] == "container", || {
        format!("not by the container: {}", json["dma"])
    })?;
    let explained = json["devices"][0]["bars"][0]["guest"].as_str();
    let start = explained.and_then(|a| u64::from_str_radix(a.get(2..)?, 16).ok());

    let guest = run(outcome, 3)?;
    ended_well(&guest)?;
    worked(outcome, &guest, &DISK)?;
    let found = guest.guest("bar").find_map(|fact| {
        let rest = fact.strip_prefix("0000:00:07.0 0 0x")?;
        u64::from_str_radix(rest.split('-').next()?, 16).ok()
    });
    expect(found.is_some() && found == start, || {
        format!("explain puts BAR 0 at {start:x?}, the guest finds it at {found:x?}")
    })
}

/// Fails at the first line that differs. The text is kept in the machine's directory.
fn golden(name: &str, golden: &str, found: &str, dir: &Path) -> Result<()> {
    let kept = dir.join(name);
    let _ = std::fs::write(&kept, found);
    let mut lines = golden.lines().zip(found.lines());
    let differs = lines.find(|(golden, found)| golden != found);
    expect(differs.is_none() && golden.len() == found.len(), || {
        let (golden, found) = differs.unwrap_or(("the end", "more or less"));
        format!(
            "explain said \"{found}\" instead of \"{golden}\"; {} has the whole text",
            kept.display()
        )
    })
}
