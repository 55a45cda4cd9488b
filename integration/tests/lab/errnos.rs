//! Every refusal of VFIO and iommufd in docs/errnos.md, on the real program and the real kernel: a
//! seccomp filter answers one ioctl with one errno. Nothing stays behind.

use std::path::PathBuf;

use lab::Result;
use lab::disk::{Controller, Disk};
use lab::expect::{back, expect};
use lab::outcome::Outcome;
use lab::scenario::Scenario;

const TABLE: &str = include_str!("../../../docs/errnos.md");

/// KVM's calls that are made for a device, or that a development machine's KVM may lack.
const KVM: [&str; 4] = [
    "KVM_ENABLE_CAP",
    "KVM_CREATE_DEVICE",
    "KVM_DEV_VFIO_FILE_ADD",
    "KVM_SET_GSI_ROUTING",
];

const DISK: Disk = Disk::new("lab-disk", 5);
/// A reset of its bus is possible.
const BEHIND_A_PORT: Disk = Disk::behind("behind", 0, Controller::SataBehindPort);

pub fn all() -> Vec<Scenario> {
    vec![
        refusals("every_refusal_of_a_container_is_explained", "container"),
        refusals("every_refusal_of_iommufd_is_explained", "iommufd"),
    ]
}

fn refusals(name: &'static str, interface: &'static str) -> Scenario {
    let hot = match interface {
        "iommufd" => "0000:01:00.0",
        _ => "",
    };
    let script = format!(
        "bind_vfio 0000:00:05.0\nbind_vfio 0000:01:00.0\n\
         in_use before\n\
         refuse {interface} 0000:00:05.0 bzImage initrd {hot} || :\n\
         in_use after\n\
         say \"records $(find /run/mini-vmm -type f 2>/dev/null | wc -l)\"\n\
         run_vmm --kernel /run/off.elf --memory 128M --iommu {interface} --vfio 0000:00:05.0\n\
         give_back 0000:00:05.0\ngive_back 0000:01:00.0\n"
    );
    let refuse = || vec![PathBuf::from(env!("CARGO_BIN_EXE_refuse"))];
    // A hundred runs take half a minute.
    Scenario::new(name)
        .slow()
        .machine(|l1| l1.programs = refuse())
        .disks(&[DISK, BEHIND_A_PORT])
        .script(script, move |outcome| check(outcome, interface))
}

fn check(outcome: &Outcome, interface: &str) -> Result<()> {
    let seen: Vec<_> = outcome.transcript.lab("refusal").collect();
    let bad: Vec<_> = seen.iter().filter(|line| !line.ends_with(" ok")).collect();
    expect(bad.is_empty(), || format!("{bad:#?}"))?;
    // The container's own calls have the numbers of the reset of a bus.
    let hot = |line: &&str| interface == "iommufd" || !line.contains("HOT_RESET");
    let rows = TABLE.lines().filter(|line| line.starts_with("| "));
    let rows = rows.filter(hot);
    let wanted = rows.filter(|line| {
        let cells: Vec<_> = line.split(" | ").collect();
        match cells[..] {
            [call, _, "kvm", ..] => KVM.contains(&call.trim_start_matches("| ")),
            [_, _, by, ..] => by == interface || by == "both",
            _ => false,
        }
    });
    let wanted = wanted.count();
    expect(seen.len() == wanted && wanted > 40, || {
        format!("{} rows were tried, and the table has {wanted}", seen.len())
    })?;
    let in_use: Vec<_> = outcome.transcript.lab("in-use").collect();
    let numbers = |when: &str| in_use.iter().find_map(|line| line.strip_prefix(when));
    expect(numbers("before ") == numbers("after "), || {
        format!("{in_use:?}")
    })?;
    let records: Vec<_> = outcome.transcript.lab("records").collect();
    expect(records == ["0"], || format!("{records:?} records"))?;
    let runs = outcome.transcript.runs();
    let plain = runs.first().and_then(|run| run.exit());
    expect(plain == Some(0), || {
        format!("a plain run ends with {plain:?}")
    })?;
    back(outcome, &BEHIND_A_PORT)?;
    back(outcome, &DISK)
}
