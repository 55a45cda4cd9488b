//! Runs a script in L1, the emulated machine with an IOMMU, and prints what the script prints.
//! L1 has mini-vmm, a guest's kernel, and devices to pass through. docs/tour uses it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::{env, fs};

use lab::disk::{Controller, Disk};
use lab::error::Context;
use lab::kernel::Choice;
use lab::machine::NETWORK_CARD;
use lab::scenario::Scenario;
use lab::setup::Lab;
use lab::transcript::Speaker;
use lab::{Error, Result, runner, vmm};

const USAGE: &str = "usage: shell --run SCRIPT   run a script in L1, and print what it prints";

/// Seconds for a script, on a host that is busy with other things.
const LIMIT: u64 = 600;

/// The script that runs another. Its lines are marked, and its status is reported.
const RUN: &str = "\
boot='--kernel /boot/bzImage --initrd /boot/initrd'
export HOME=/root boot
cd /root
{ sh /root/script 2>&1 && : >/run/ended; } | sed 's/^/OUT| /'
say ended $([ -e /run/ended ] && echo 0 || echo 1)
";

/// A script that chapters of docs/tour use.
const CALLS: &str = include_str!("../../../docs/tour/calls.sh");

/// The mark of the script's lines.
const MARK: &str = "OUT| ";

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let ended = match arguments[..] {
        ["--run", script] => run(script),
        _ => Err(Error::failed(USAGE)),
    };
    match ended {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// L1 with a device of each kind that the tour passes through. The two devices behind a bridge to
/// conventional PCI are in one group.
fn machine(name: &'static str) -> Scenario {
    let mut devices: Vec<&str> = NETWORK_CARD.to_vec();
    devices.extend(["-device", "edu,addr=b"]);
    devices.extend(["-device", "edu,bus=bridge,addr=2"]);
    Scenario::new(name)
        .limit(LIMIT)
        .disk(Disk::new("nvme-disk", 5))
        .disk(Disk::behind("usb-stick", 8, Controller::Usb))
        .disk(Disk::behind(
            "bridged-disk",
            1,
            Controller::NvmeBehindBridge,
        ))
        .qemu(&devices)
        .built("mini-vmm-trace", vmm::tracer)
        .built("take", take)
        .file("root/calls.sh", CALLS)
}

/// The program of chapter 6.
fn take() -> Result<PathBuf> {
    vmm::program("tour-vmm", "take")
}

/// Runs a script in L1, prints its lines as they arrive, and returns its status: 0 or 1.
fn run(script: &str) -> Result<u8> {
    let lab = Lab::prepare(&[Choice::Lab], false);
    let status = Arc::new(Mutex::new(1));
    let ended = Arc::clone(&status);
    let scenario = machine("shell-run").script(RUN, move |outcome| {
        let said = outcome.transcript.lab("ended").next();
        let said = said.and_then(|said| said.parse().ok());
        *ended.lock().unwrap_or_else(PoisonError::into_inner) =
            said.ok_or_else(|| Error::failed("the script's status is missing"))?;
        Ok(())
    });
    let text = fs::read(script).context(format!("read {script}"))?;
    let scenario = scenario.file("root/script", text);
    runner::run(&scenario, &lab, &mut |line| {
        if line.from == Speaker::L1
            && let Some(text) = line.text.strip_prefix(MARK.trim_end())
        {
            println!("{}", text.strip_prefix(' ').unwrap_or(text));
        }
    })?;
    let status = *status.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(status)
}
