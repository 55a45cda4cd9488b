//! `make lab-shell`: a shell in L1, the emulated machine with an IOMMU. L1 has mini-vmm, a guest's
//! kernel, and devices to pass through. With `--run`, a script runs there in place of the shell;
//! docs/tour uses that.

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
use lab::{Error, Result, runner, tour, vmm};

const USAGE: &str = "usage: shell                a shell in L1, on this terminal
       shell --run SCRIPT   run a script in L1, and print what it prints";

/// Seconds for a script, on a host that is busy with other things.
const LIMIT: u64 = 600;

/// What the interactive shell reads first.
const PROFILE: &str = r#"
. /lab/functions.sh
PS1='L1:\w# '
boot='--kernel /boot/bzImage --initrd /boot/initrd'
cat <<TEXT

This is L1: a machine with an IOMMU, emulated by QEMU. Nothing here reaches your own devices.

Devices, by mini-vmm host list:
$(mini-vmm host list)

Programs: mini-vmm, mini-vmm-trace, and busybox. A guest's Linux is in /boot; \$boot is
  $boot

Try, for example:
  mini-vmm host bind 00:05.0
  mini-vmm explain --vfio 00:05.0
  mini-vmm \$boot --vfio 00:05.0 --stats
  mini-vmm trace --only device -- mini-vmm \$boot --vfio 00:05.0
  mini-vmm host unbind 00:05.0

To end: Ctrl-A x ends a guest. The command exit, or Ctrl-] x at any time, ends L1.
TEXT
"#;

/// Gives ttyS0 to a shell. The first terminal that the leader of a session opens becomes the
/// session's, and so Ctrl-C and job control work.
const INTERACTIVE: &str = "\
stty -F /dev/ttyS0 sane
export HOME=/root
cd /root
setsid sh -c 'exec sh -l </dev/ttyS0 >/dev/ttyS0 2>&1' || :
";

/// The script that runs another. Its lines are marked, and its status is reported.
const RUN: &str = "\
boot='--kernel /boot/bzImage --initrd /boot/initrd'
export HOME=/root boot
cd /root
{ sh /root/script 2>&1 && : >/run/ended; } | sed 's/^/OUT| /'
say ended $([ -e /run/ended ] && echo 0 || echo 1)
";

/// Scripts that chapters of docs/tour use.
const CALLS: &str = include_str!("../../../docs/tour/calls.sh");
const LOCKED: &str = include_str!("../../../docs/tour/locked.sh");

/// An NVMe controller without a disk, which can be sliced in two.
const SLICED: [&str; 6] = [
    "-device",
    "pcie-root-port,id=sliced-port,chassis=4,slot=4,addr=1f.5,multifunction=on",
    "-device",
    "nvme-subsys,id=sliced-subsystem",
    "-device",
    "nvme,serial=sliced,bus=sliced-port,subsys=sliced-subsystem,max_ioqpairs=8,msix_qsize=9,\
     sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=4",
];

/// The mark of the script's lines.
const MARK: &str = "OUT| ";

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let ended = match arguments[..] {
        [] => shell(),
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
fn machine(name: &'static str) -> Result<Scenario> {
    let mut devices: Vec<&str> = NETWORK_CARD.to_vec();
    devices.extend(["-device", "edu,addr=b"]);
    devices.extend(["-device", "edu,bus=bridge,addr=2"]);
    devices.extend(SLICED);
    let scenario = Scenario::new(name)
        .limit(LIMIT)
        .refusals()
        .disk(Disk::new("nvme-disk", 5))
        .disk(Disk::behind("usb-stick", 8, Controller::Usb))
        .disk(Disk::behind(
            "bridged-disk",
            1,
            Controller::NvmeBehindBridge,
        ))
        .qemu(&devices)
        .built("mini-vmm-trace", vmm::tracer)
        .built("take", tour::take)
        .built("own", tour::own)
        .file("root/calls.sh", CALLS)
        .file("root/locked.sh", LOCKED);
    let guests = tour::guests()?.into_iter();
    Ok(guests.fold(scenario, |scenario, (name, bytes)| {
        scenario.file(format!("root/{name}"), bytes)
    }))
}

/// Runs an interactive shell in L1, and returns QEMU's exit status.
fn shell() -> Result<u8> {
    let lab = Lab::prepare(&[Choice::Lab], &[]);
    let scenario = machine("shell")?
        .file("root/.profile", PROFILE)
        .script(INTERACTIVE, |_| Ok(()));
    runner::interactive(&scenario, &lab)
}

/// Runs a script in L1, prints its lines as they arrive, and returns its status: 0 or 1.
fn run(script: &str) -> Result<u8> {
    let lab = Lab::prepare(&[Choice::Lab], &[]);
    let status = Arc::new(Mutex::new(1));
    let ended = Arc::clone(&status);
    let scenario = machine("shell-run")?.script(RUN, move |outcome| {
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
