//! `mini-vmm explain` against a golden text, and against the run that it explains.

use std::time::Duration;

use lab::Result;
use lab::disk::Disk;
use lab::error::Error;
use lab::expect::{ended_well, exit, expect, run, worked};
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Scenario};
use lab::transcript::{Run, Speaker};

const NVME: &str = include_str!("golden/explain-nvme.txt");
const CARD: &str = include_str!("golden/explain-e1000e.txt");
const FUNCTIONS: &str = include_str!("golden/explain-two-functions.txt");

pub fn all() -> Vec<Scenario> {
    let disk = Disk::new("explained", 4);
    let bdf = disk.bdf();
    let mut second = Disk::new("second-function", 6);
    second.function = 1;
    let functions = [Disk::new("first-function", 6), second];
    let [first, second] = [0, 1].map(|n: usize| functions[n].bdf());
    let mut machine = Machine::with_device(&[
        "-netdev",
        "user,id=net,restrict=on",
        "-device",
        "e1000e,netdev=net,addr=9,romfile=",
    ]);
    machine.disks = std::iter::once(disk.clone()).chain(functions).collect();
    vec![Scenario {
        name: "a_run_is_as_explained",
        machine,
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: format!(
            "run_vmm explain --vfio {bdf},slot=7\n\
             bind_vfio {bdf}\n\
             run_vmm explain --vfio {bdf},slot=7 --memory 512M --kernel bzImage --initrd initrd\n\
             run_vmm explain --vfio {bdf},slot=7 --iommu container --json\n\
             run_vmm --kernel bzImage --initrd initrd --memory 512M --cmdline 'quiet panic=-1' \
             --vfio {bdf},slot=7\n\
             bind_vfio 0000:00:09.0\nrun_vmm explain --vfio 0000:00:09.0 --memory 512M\n\
             bind_vfio {first}\nbind_vfio {second}\n\
             run_vmm explain --vfio {first},slot=1e.0 --vfio {second},slot=1e.1 --memory 512M\n"
        ),
        limit: Duration::from_secs(150),
        check: Box::new(move |outcome| {
            let unbound = run(outcome, 0)?;
            exit(&unbound, 0)?;
            let text = said(&unbound);
            expect(
                text.contains("A run would fail: PCI device")
                    && text.contains("hint: ")
                    && text.contains("MSI-X"),
                || "explain does not say that another driver has the device".into(),
            )?;

            let bound = run(outcome, 1)?;
            exit(&bound, 0)?;
            golden("explain-nvme.txt", NVME, &said(&bound), &outcome.dir)?;
            for (index, name, text) in [
                (4, "explain-e1000e.txt", CARD),
                (5, "explain-two-functions.txt", FUNCTIONS),
            ] {
                let run = run(outcome, index)?;
                exit(&run, 0)?;
                golden(name, text, &said(&run), &outcome.dir)?;
            }

            let json = run(outcome, 2)?;
            exit(&json, 0)?;
            let json: serde_json::Value = serde_json::from_str(&said(&json))
                .map_err(|e| Error::failed(format!("explain --json is no JSON: {e}")))?;
            expect(json["dma"]["interface"] == "container", || {
                format!("not by the container: {}", json["dma"])
            })?;
            let explained = json["devices"][0]["bars"][0]["guest"].as_str();
            let start = explained.and_then(|a| u64::from_str_radix(a.get(2..)?, 16).ok());

            // The guest finds its BAR where explain said.
            let guest = run(outcome, 3)?;
            ended_well(&guest)?;
            worked(outcome, &guest, &disk)?;
            let found = guest.guest("bar").find_map(|fact| {
                let rest = fact.strip_prefix("0000:00:07.0 0 0x")?;
                u64::from_str_radix(rest.split('-').next()?, 16).ok()
            });
            expect(found.is_some() && found == start, || {
                format!("explain puts BAR 0 at {start:x?}, the guest finds it at {found:x?}")
            })
        }),
    }]
}

/// mini-vmm's standard output, a line each.
fn said(run: &Run<'_>) -> String {
    let lines = run.lines.iter().filter(|line| line.from == Speaker::Guest);
    lines.map(|line| format!("{}\n", line.text)).collect()
}

/// Fails at the first line that differs; what was said instead is kept beside the transcript.
fn golden(name: &str, golden: &str, found: &str, dir: &std::path::Path) -> Result<()> {
    let kept = dir.join(name);
    let _ = std::fs::write(&kept, found);
    let mut lines = golden.lines().zip(found.lines());
    let differs = lines.find(|(golden, found)| golden != found);
    expect(differs.is_none() && golden.len() == found.len(), || {
        let (golden, found) = differs.unwrap_or(("the end", "more or less"));
        format!(
            "explain said \"{found}\" instead of \"{golden}\"; all of it is in {}",
            kept.display()
        )
    })
}
