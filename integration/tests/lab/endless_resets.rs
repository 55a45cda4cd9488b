//! Resets that do not end: a device whose bus is taken away answers no more, and the kernel waits a
//! minute for each reset of it (drivers/pci/pci.c, `pci_dev_wait`). The wait cannot be interrupted.
//! With its bus the device answers again, and the reset ends.

use lab::Result;
use lab::disk::Disk;
use lab::expect::{exit, expect, run};
use lab::outcome::Outcome;
use lab::scenario::Scenario;

const DISK: Disk = Disk::new("lab-disk", 5);
/// A controller without a disk, below a root port.
pub const SLOW: &str = "0000:01:00.0";
/// The devices of a machine with that controller.
pub const DEVICES: [&str; 4] = [
    "-device",
    "pcie-root-port,id=deaf,chassis=1,slot=1,addr=1c",
    "-device",
    "nvme,serial=slow,bus=deaf,addr=0",
];

pub fn all() -> Vec<Scenario> {
    let scenario = |name, interface| {
        Scenario::new(name)
            .limit(240)
            .waits()
            .disk(DISK)
            .qemu(&DEVICES)
            .script(script(interface), check)
    };
    vec![
        scenario("a_reset_without_end_in_a_container", "container"),
        scenario("a_reset_without_end_by_iommufd", "iommufd"),
    ]
}

/// The port's register of its secondary bus is at 0x19. `deaf` takes the bus away, and `hear` gives
/// it back. `let_end` waits until the call has ended, and lets the kernel find the device again,
/// whose addresses are lost.
fn script(interface: &str) -> String {
    let bdf = DISK.bdf();
    format!(
        "port=$sys/0000:00:1c.0\n\
         secondary() {{ printf $1 | dd of=$port/config bs=1 seek=25 conv=notrunc 2>/dev/null; }}\n\
         deaf() {{ secondary '\\376'; }}\nhear() {{ secondary '\\001'; }}\n\
         timed() {{ name=$1; shift; from=$(milliseconds); \"$@\"; \
             say took $name $(($(milliseconds) - from)); }}\n\
         helpers() {{ grep -lx vmm-guardian /proc/[0-9]*/comm 2>/dev/null | wc -l; }}\n\
         let_end() {{ hear; for _ in $(seq 900); do [ $(helpers) = 0 ] && break; sleep 0.1; done; \
             say helpers $1 $(helpers); host list; echo 1 >$sys/{SLOW}/remove; \
             echo 1 >/sys/bus/pci/rescan; await_driver {SLOW} nvme; \
             host unbind {SLOW}; state $1; }}\n\
         beside() {{ say helpers $1 $(helpers); timed $1-list host list; \
             timed $1-again run_vmm $boot --memory 256M --vfio {SLOW}; \
             timed $1-unbind host unbind {SLOW}; \
             timed $1-disk host bind {bdf}; host unbind {bdf}; }}\n\
         say interface {interface}\n\
         options=\"$boot --memory 256M --iommu {interface} --host-timeout 3\"\n\
         await_driver {SLOW} nvme\ndrivers >/run/drivers\nhost bind {SLOW}\n\
         deaf\ntimed opening run_vmm $options --vfio {SLOW}\nbeside opening\nlet_end opening\n\
         host bind {SLOW}\n\
         start_vmm $options --cmdline \"$cmdline\" --vfio {SLOW}\nawait 'L2: init' 90\n\
         deaf\nkill -TERM $vmm_pid\ntimed closing wait_vmm\nbeside closing\nlet_end closing\n\
         start_vmm $options --cmdline \"$cmdline\" --vfio {SLOW},managed=on\nawait 'L2: init' 90\n\
         deaf\nkill -TERM $vmm_pid\ntimed managed wait_vmm\nlet_end managed\n"
    )
}

/// The values of `took NAME MILLISECONDS`.
fn took(outcome: &Outcome, name: &str) -> Result<u64> {
    let mut lines = outcome.transcript.lab("took");
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.ok_or_else(|| lab::Error::failed(format!("L1 did not say how long {name} took")))
}

fn facts(outcome: &Outcome, key: &str, wanted: &[&str]) -> Result<()> {
    let seen: Vec<_> = outcome.transcript.lab(key).collect();
    expect(seen == wanted, || {
        format!("L1 saw {key} {seen:?} instead of {wanted:?}")
    })
}

/// Whether one message of a run, with its wrapped lines, has these words.
fn says(outcome: &Outcome, index: usize, words: &[&str]) -> Result<()> {
    let run = run(outcome, index)?;
    exit(&run, 1)?;
    let all: Vec<_> = run.messages().collect();
    let all = all.join(" ");
    words.iter().try_for_each(|word| {
        expect(all.contains(word), || {
            format!("run {index} does not say \"{word}\": {all}")
        })
    })
}

fn check(outcome: &Outcome) -> Result<()> {
    let device = format!("{SLOW}: the kernel has not ended");
    let call = match outcome.transcript.lab("interface").next() {
        Some("iommufd") => "VFIO_DEVICE_BIND_IOMMUFD",
        _ => "VFIO_GROUP_GET_DEVICE_FD",
    };
    let opening = format!("cannot open {device} {call} within 3 seconds");
    says(outcome, 0, &[&opening, "--host-timeout", "resets it"])?;
    let closing = format!("{device} close within 3 seconds");
    says(outcome, 2, &[&closing, "resets the device"])?;
    let later = "are given back after the end of process";
    says(outcome, 4, &[&closing, later, "and of the call"])?;
    for again in [1, 3] {
        let under_way = format!("PCI device {SLOW} is under way: the kernel has not ended");
        says(outcome, again, &[&under_way, "for a run that has ended"])?;
    }
    // The limit is three seconds. The guest needs some time to stop, and L1 is slow.
    for name in ["opening", "closing", "managed"] {
        let time = took(outcome, name)?;
        expect((2_900..5_500).contains(&time), || {
            format!("the end by {name} took {time} ms")
        })?;
        if name != "managed" {
            for beside in ["list", "again", "unbind", "disk"] {
                let time = took(outcome, &format!("{name}-{beside}"))?;
                expect(time < 2_500, || {
                    format!("{beside} beside the call took {time} ms")
                })?;
            }
        }
    }
    let helpers = [
        "opening 1",
        "opening 0",
        "closing 1",
        "closing 0",
        "managed 0",
    ];
    facts(outcome, "helpers", &helpers)?;
    let states = ["opening", "closing", "managed"];
    let states = states.map(|state| format!("{state} same records=0"));
    facts(outcome, "state", &states.each_ref().map(String::as_str))?;
    // bind, list, unbind, bind and unbind of the disk, list, unbind. The last run leaves its device
    // to the process of the call, which gives it back: list, unbind.
    let each = ["0", "0", "1", "0", "0", "0", "0"];
    let exits: Vec<_> = each.iter().chain(&each).chain(&["0"]).copied().collect();
    let seen: Vec<_> = outcome
        .transcript
        .lab("host-exit")
        .take(exits.len())
        .collect();
    expect(seen == exits, || {
        format!("exits of host commands: {seen:?}")
    })?;
    let lists: Vec<_> = outcome.transcript.lab("host-out").collect();
    let under_way = lists.iter().filter(|line| line.contains("under way"));
    expect(under_way.count() == 2, || {
        format!("`host list` shows the wrong calls: {lists:?}")
    })
}
