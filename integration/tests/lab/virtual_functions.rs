//! Virtual functions of an NVMe controller. In one case the host keeps the physical function. In
//! the other case another guest has the physical function, and both guests share a token.

use std::path::PathBuf;

use lab::Result;
use lab::disk::{Controller, Disk};
use lab::expect::{back, back_with_guest_text, ended_well, exit, expect, run, used, worked};
use lab::kernel::Choice;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::Run;

use crate::endpoints::same_link;

const PHYSICAL: &str = "0000:01:00.0";
const VIRTUAL: &str = "0000:01:00.1";
/// Where each guest has its function: behind a root port.
const IN_GUEST: &str = "0000:01:00.0";
const TOKEN: &str = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3";
const OTHER: &str = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f4";

const NAMESPACE: Disk = Disk::behind("shared-namespace", 0, Controller::NvmeWithVirtual);
const BY_TOKEN: Disk = Disk::behind("shared-by-token", 0, Controller::NvmeWithVirtual);

pub fn all() -> Vec<Scenario> {
    let admin = || vec![PathBuf::from(env!("CARGO_BIN_EXE_nvme-admin"))];
    vec![
        Scenario::new("a_virtual_function_beside_the_hosts_driver")
            .machine(|l1| l1.programs = admin())
            .disk(NAMESPACE)
            .script(beside_the_host(), check_beside_the_host),
        Scenario::new("a_virtual_function_with_a_token")
            .machine(|l1| l1.programs = admin())
            .disk(BY_TOKEN)
            .script(
                beside_a_guest(&[
                    // iommufd asks for a token only since Linux 6.17.
                    " --iommu container".into(),
                    format!(",vf-token={OTHER}"),
                    format!(",vf-token={TOKEN} -vv --iommu iommufd"),
                    format!(",vf-token={TOKEN} -vv"),
                ]),
                |outcome| {
                    check_beside_a_guest(outcome, &[NO_TOKEN, OTHER_TOKEN, CONTAINER_ONLY])?;
                    let loads = |index| -> Result<bool> {
                        let run = run(outcome, index)?;
                        let loads = run.messages().any(|line| line.contains("loaded entry="));
                        Ok(loads)
                    };
                    let loaded = [loads(3)?, loads(4)?];
                    expect(loaded == [false, true], || {
                        format!("guests were loaded before the refusal and otherwise: {loaded:?}")
                    })
                },
            ),
        Scenario::new("a_virtual_function_with_a_token_by_iommufd")
            .kernel(Choice::LabNewest)
            .machine(|l1| l1.programs = admin())
            .disk(BY_TOKEN)
            .script(
                beside_a_guest(&[
                    " --iommu iommufd".into(),
                    format!(",vf-token={OTHER} --iommu iommufd"),
                    format!(",vf-token={TOKEN} -v --iommu iommufd"),
                ]),
                |outcome| {
                    check_beside_a_guest(outcome, &[NO_TOKEN, OTHER_TOKEN])?;
                    used(&run(outcome, 3)?, "iommufd")
                },
            ),
    ]
}

fn vmm(function: &str, more: &str) -> String {
    format!("$boot --memory 256M --cmdline \"$cmdline\" --vfio {function}{more}")
}

/// The IDs in the virtual function's own registers are all ones; the guest must see those of the
/// physical function (PCI Express 6.0, 9.3.4.1).
fn identity(run: &Run<'_>) -> Result<()> {
    let wanted = format!("{IN_GUEST} id=0x1b36:0x0010 class=0x010802 driver=nvme");
    expect(run.guest("pci").any(|fact| fact == wanted), || {
        let facts: Vec<_> = run.guest("pci").collect();
        format!("the guest does not see \"{wanted}\" but {facts:?}")
    })
}

/// The host reads through the physical function while the guest reads and writes through the
/// virtual function.
fn beside_the_host() -> String {
    let one_run = |iommu: &str| {
        format!(
            "start_vmm {}\n\
             await 'L2: pci {IN_GUEST}' 60\n\
             say \"meanwhile driver=$(driver_of {PHYSICAL}) text=$(text_at /dev/nvme0n1 0)\"\n\
             kill -0 $vmm_pid && say 'still running'\n\
             wait_vmm\n",
            vmm(VIRTUAL, &format!(" --iommu {iommu}"))
        )
    };
    format!(
        "disk_of {PHYSICAL}\nsay_link {PHYSICAL}\nmake_virtual {PHYSICAL}\nbind_vfio {VIRTUAL}\n\
         {}{}\
         echo 0 >$sys/{PHYSICAL}/sriov_numvfs\ngive_back {PHYSICAL}\n",
        one_run("container"),
        one_run("iommufd"),
    )
}

fn check_beside_the_host(outcome: &Outcome) -> Result<()> {
    let made = format!("{VIRTUAL} of={PHYSICAL} raw-id=ffffffff");
    expect(
        outcome.transcript.lab("virtual").any(|fact| fact == made),
        || "L1 has no virtual function with IDs of all ones".into(),
    )?;
    let meanwhile = format!("driver=nvme text={}", NAMESPACE.text());
    for index in [0, 1] {
        let run = run(outcome, index)?;
        ended_well(&run)?;
        identity(&run)?;
        same_link(outcome, &run, PHYSICAL, IN_GUEST)?;
        worked(outcome, &run, &NAMESPACE)?;
        expect(
            run.lab("meanwhile").any(|fact| fact == meanwhile) && run.lab("still").next().is_some(),
            || "the host did not read the disk while the guest ran".into(),
        )?;
    }
    back_with_guest_text(outcome, &NAMESPACE)
}

/// One guest has the physical function and another the virtual one.
fn beside_a_guest(options: &[String]) -> String {
    let second = |more: &String| format!("run_as '' mini-vmm {}\n", vmm(VIRTUAL, more));
    let runs: String = options.iter().map(second).collect();
    format!(
        "disk_of {PHYSICAL}\n\
         echo 1 >/sys/module/vfio_pci/parameters/enable_sriov\n\
         bind_vfio {PHYSICAL}\n\
         start_vmm $boot --memory 256M --cmdline \"$cmdline lab.act=primary\" \
         --vfio {PHYSICAL},vf-token={TOKEN}\n\
         primary=$vmm_pid\n\
         await 'L2: primary-ready' 60\n\
         echo 1 >$sys/{PHYSICAL}/sriov_numvfs\n\
         say \"made {VIRTUAL} driver=$(driver_of {VIRTUAL})\"\n\
         await 'L2: virtual-online' 60\n\
         say \"links $(find /tmp -name '*vf_token*' | wc -l)\"\n\
         {runs}\
         echo 0 >$sys/{PHYSICAL}/sriov_numvfs\n\
         kill $primary\nwait $primary || :\n\
         give_back {PHYSICAL}\n",
    )
}

const NO_TOKEN: &str = "is opened only with a VF token";
const OTHER_TOKEN: &str = "is opened only with another VF token";
const CONTAINER_ONLY: &str = "by group and container only";

/// `refused` has what the runs before the last say. The last run works.
fn check_beside_a_guest(outcome: &Outcome, refused: &[&str]) -> Result<()> {
    let made = format!("{VIRTUAL} driver=vfio-pci");
    expect(
        outcome.transcript.lab("made").any(|fact| fact == made),
        || "L1 has no virtual function on vfio-pci".into(),
    )?;
    // A mini-vmm that is killed now must leave no link behind.
    expect(outcome.transcript.lab("links").eq(["0"]), || {
        "a link with the token in its name is there while the device is open".into()
    })?;
    let token = format!("hint: give the token that {PHYSICAL} was opened with");
    for (says, index) in refused.iter().zip(1..) {
        let hint = match *says {
            CONTAINER_ONLY => "hint: use --iommu container",
            _ => &token,
        };
        let run = run(outcome, index)?;
        exit(&run, 1)?;
        let messages: Vec<_> = run.messages().collect();
        for wanted in [says, hint] {
            expect(messages.iter().any(|line| line.contains(wanted)), || {
                format!("mini-vmm did not say \"{wanted}\" but {messages:?}")
            })?;
        }
    }
    let run = run(outcome, refused.len() + 1)?;
    ended_well(&run)?;
    identity(&run)?;
    worked(outcome, &run, &BY_TOKEN)?;
    back(outcome, &BY_TOKEN)
}
