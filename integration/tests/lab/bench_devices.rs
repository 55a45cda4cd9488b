//! mini-vmm-bench measures any device by its guest's start, reset and reboot: a device that no
//! driver knows, a USB controller and a disk. The device is the host's again afterwards.

use lab::expect::expect;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Error, Result, vmm};
use serde_json::Value;

/// QEMU's teaching device, which has no driver and no reset.
const EDU: &str = "0000:00:0b.0";
/// A USB controller, which has a driver and no reset.
const XHCI: &str = "0000:00:08.0";
/// A disk, which has a reset of its own.
const DISK: &str = "0000:00:05.0";

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("any_device_is_measured_by_start_reset_and_reboot")
            .built("mini-vmm-bench", vmm::bench)
            .apart()
            .limit(600)
            .disk(lab::disk::Disk::new("lab-disk", 5))
            .qemu(&[
                "-device",
                "edu,addr=b",
                "-device",
                "qemu-xhci,id=usb,addr=8",
            ])
            .script(script(), check),
    ]
}

/// A run for each device: two of functions, and one of a disk with all kinds of work.
fn script() -> String {
    let run = |name: &str, bdf: &str, words: &str| {
        format!(
            "status=0\nmini-vmm-bench {bdf} --guest-kernel /boot/bzImage --memory 256M \
             --guest-cmdline \"$cmdline\" --rounds 1 {words} --output {name} \
             >/run/{name}.out 2>&1 || status=$?\n\
             say ended {name} $status\nstate {name}\n\
             [ $status = 0 ] || cat /run/{name}.out\n\
             say table {name} $(grep -c 'start to the first instruction' {name}.md)\n\
             say report $(cat {name}.json)\n"
        )
    };
    format!(
        "drivers >/run/drivers\ncd /run\n\
         [ -d /sys/kernel/tracing/instances ] || mount -t tracefs tracefs /sys/kernel/tracing\n\
         {}{}{}\
         say instances $(ls /sys/kernel/tracing/instances | wc -l)\n",
        run("edu", EDU, "--quick"),
        run("xhci", XHCI, "--quick"),
        run("disk", DISK, "--measure 0.2")
    )
}

fn said<'a>(outcome: &'a Outcome, key: &'a str) -> Vec<&'a str> {
    outcome.transcript.lab(key).collect()
}

fn check(outcome: &Outcome) -> Result<()> {
    let said = |key| said(outcome, key);
    for (key, wanted) in [
        ("ended", ["edu 0", "xhci 0", "disk 0"]),
        (
            "state",
            [
                "edu same records=0",
                "xhci same records=0",
                "disk same records=0",
            ],
        ),
    ] {
        expect(said(key) == wanted, || format!("{key}: {:?}", said(key)))?;
    }
    for (name, text) in ["edu", "xhci", "disk"].into_iter().zip(said("report")) {
        let report: Value = serde_json::from_str(text)
            .map_err(|e| Error::failed(format!("the report of {name}: {e}")))?;
        moments(name, &report)?;
        interrupts(name, &report)?;
        let works = report["works"].as_array().map_or(0, Vec::len);
        expect((works > 0) == (name == "disk"), || {
            format!("{name}: {works} kinds of work")
        })?;
    }
    expect(said("instances") == ["0"], || {
        format!("tracefs: {:?}", said("instances"))
    })?;
    let tables = said("table");
    let all_have_one = tables.len() == 3 && tables.iter().all(|line| !line.ends_with(" 0"));
    expect(all_have_one, || format!("tables: {tables:?}"))
}

/// Each guest has all times but that of a reset, in their order; the disk alone has a reset.
fn moments(name: &str, report: &Value) -> Result<()> {
    let turns = report["rounds"][0].as_array().cloned().unwrap_or_default();
    expect(turns.len() == 3, || {
        format!("{name}: {} turns", turns.len())
    })?;
    for trial in &turns {
        let moments = &trial["moments"];
        let time = |key: &str| moments[key].as_f64();
        let is_guest = trial["subject"] != 0;
        let (first, init) = (time("first_us"), time("init_us"));
        let (ready, reboot) = (time("ready_us"), time("reboot_us"));
        let in_order = match is_guest {
            true => first > Some(0.0) && init > first && ready > init && reboot > Some(0.0),
            false => [first, init, ready, reboot].iter().all(Option::is_none),
        };
        expect(in_order, || format!("{name}: {moments}"))?;
        let why = moments["no_reset"].as_str().unwrap_or_default();
        let has_reset = match name {
            "disk" => time("reset_us") > Some(0.0) && why.is_empty(),
            _ => moments["reset_us"].is_null() && why.contains("no reset"),
        };
        expect(has_reset, || format!("{name}: {moments}"))?;
    }
    Ok(())
}

/// Interrupts of the teaching device, on command, and of the disk, one at a time, are followed to
/// their injection. How many are depends on how fast this machine is: one is not followed if the
/// next comes before its injection. The controller has nothing plugged in, because QEMU's goes on
/// with what its last driver has told it until the next one resets it, and the IOMMU refuses that.
/// So it may have no interrupt, and the report says why.
fn interrupts(name: &str, report: &Value) -> Result<()> {
    let all = report["interrupts"].as_array().cloned().unwrap_or_default();
    expect(all.len() == 1, || format!("{name}: {all:?}"))?;
    let of = &all[0];
    let handled = of["handled"].as_u64().unwrap_or(0);
    let histogram = of["histogram"].as_array().into_iter().flatten();
    let followed: u64 = histogram.filter_map(|pair| pair[1].as_u64()).sum();
    let (message, injected) = (of["message_us"].as_f64(), of["injected_us"].as_f64());
    if name == "xhci" && of["why"].is_string() {
        return Ok(());
    }
    let fits = handled >= followed && followed > if name == "xhci" { 0 } else { 10 };
    let in_order = message > Some(0.0) && injected > message;
    expect(fits && in_order, || format!("{name}: {followed} in {of}"))
}
