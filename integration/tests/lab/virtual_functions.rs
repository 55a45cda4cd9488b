//! Virtual functions of an NVMe controller: given to a guest while the host keeps the physical one,
//! and beside a guest that has the physical one, with the token that the two must share.

use std::path::PathBuf;
use std::time::Duration;

use lab::Result;
use lab::disk::{Disk, Wiring};
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Scenario};
use lab::transcript::Run;

use lab::expect::{back, back_with_guest_text, ended_well, exit, expect, run, worked};

const LIMIT: Duration = Duration::from_secs(150);
const PHYSICAL: &str = "0000:01:00.0";
const VIRTUAL: &str = "0000:01:00.1";
const TOKEN: &str = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3";
const OTHER: &str = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f4";

pub fn all() -> Vec<Scenario> {
    vec![beside_the_host(), beside_a_guest()]
}

fn machine(disk: &Disk) -> Machine {
    Machine {
        programs: vec![PathBuf::from(env!("CARGO_BIN_EXE_nvme-admin"))],
        ..Machine::with_disks(std::slice::from_ref(disk))
    }
}

fn vmm(function: &str, more: &str) -> String {
    format!(
        "mini-vmm --kernel bzImage --initrd initrd --memory 256M \
         --cmdline 'quiet panic=-1' --vfio {function}{more}\n"
    )
}

/// The guest has the controller under the physical function's IDs: its own are all ones.
fn identity(run: &Run<'_>) -> Result<()> {
    let wanted = "0000:00:01.0 id=0x1b36:0x0010 class=0x010802 driver=nvme";
    expect(run.guest("pci").any(|fact| fact == wanted), || {
        let facts: Vec<_> = run.guest("pci").collect();
        format!("the guest does not see \"{wanted}\" but {facts:?}")
    })
}

/// The host reads by the physical function while the guest reads and writes by the virtual one.
fn beside_the_host() -> Scenario {
    let disk = Disk::wired("shared-namespace", 0, Wiring::NvmeWithVirtual);
    let one_run = |iommu: &str| {
        format!(
            "start_vmm {}\
             await 'L2: pci 0000:00:01.0' 60\n\
             say \"meanwhile driver=$(driver_of {PHYSICAL}) text=$(text_at /dev/nvme0n1 0)\"\n\
             kill -0 $vmm_pid && say 'still running'\n\
             wait_vmm\n",
            vmm(VIRTUAL, &format!(" --iommu {iommu}")).trim_start_matches("mini-vmm ")
        )
    };
    Scenario {
        name: "a_virtual_function_beside_the_hosts_driver",
        machine: machine(&disk),
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: format!(
            "disk_of {PHYSICAL}\nmake_virtual {PHYSICAL}\nbind_vfio {VIRTUAL}\n{}{}\
             echo 0 >$sys/{PHYSICAL}/sriov_numvfs\ngive_back {PHYSICAL}\n",
            one_run("container"),
            one_run("iommufd"),
        ),
        limit: LIMIT,
        check: Box::new(move |outcome| {
            let made = format!("{VIRTUAL} of={PHYSICAL} raw-id=ffffffff");
            expect(
                outcome.transcript.lab("virtual").any(|fact| fact == made),
                || "L1 has no virtual function with IDs of all ones".into(),
            )?;
            let meanwhile = format!("driver=nvme text={}", disk.text());
            for index in [0, 1] {
                let run = run(outcome, index)?;
                ended_well(&run)?;
                identity(&run)?;
                worked(outcome, &run, &disk)?;
                expect(
                    run.lab("meanwhile").any(|fact| fact == meanwhile)
                        && run.lab("still").next().is_some(),
                    || "the host did not read the disk while the guest ran".into(),
                )?;
            }
            back_with_guest_text(outcome, &disk)
        }),
    }
}

/// One guest has the physical function and another the virtual one.
fn beside_a_guest() -> Scenario {
    let disk = Disk::wired("shared-by-token", 0, Wiring::NvmeWithVirtual);
    let quiet = |function: &str, more: &str| format!("run_as '' {}", vmm(function, more));
    Scenario {
        name: "a_virtual_function_with_a_token",
        machine: machine(&disk),
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: format!(
            "disk_of {PHYSICAL}\n\
             echo 1 >/sys/module/vfio_pci/parameters/enable_sriov\n\
             bind_vfio {PHYSICAL}\n\
             start_vmm --kernel bzImage --initrd initrd --memory 256M \
             --cmdline 'quiet panic=-1 lab.act=primary' --vfio {PHYSICAL},vf-token={TOKEN}\n\
             primary=$vmm_pid\n\
             await 'L2: primary-ready' 60\n\
             echo 1 >$sys/{PHYSICAL}/sriov_numvfs\n\
             say \"made {VIRTUAL} driver=$(driver_of {VIRTUAL})\"\n\
             await 'L2: virtual-online' 60\n\
             say \"links $(find /tmp -name '*vf_token*' | wc -l)\"\n\
             {}{}{}{}\
             echo 0 >$sys/{PHYSICAL}/sriov_numvfs\n\
             kill $primary\nwait $primary || :\n\
             give_back {PHYSICAL}\n",
            // Before Linux 6.18 iommufd asks for no token.
            quiet(VIRTUAL, " --iommu container"),
            quiet(VIRTUAL, &format!(",vf-token={OTHER}")),
            quiet(VIRTUAL, &format!(",vf-token={TOKEN} --iommu iommufd")),
            quiet(VIRTUAL, &format!(",vf-token={TOKEN}")),
        ),
        limit: LIMIT,
        check: Box::new(move |outcome| {
            let made = format!("{VIRTUAL} driver=vfio-pci");
            expect(
                outcome.transcript.lab("made").any(|fact| fact == made),
                || "L1 has no virtual function that vfio-pci holds".into(),
            )?;
            // A run that is killed now would leave none.
            expect(outcome.transcript.lab("links").eq(["0"]), || {
                "a link with the token in its name is there while the device is open".into()
            })?;
            let hint = format!("hint: give the token that {PHYSICAL} was opened with");
            for (index, says, hint) in [
                (1, "is opened only with a VF token", hint.as_str()),
                (2, "is opened only with another VF token", hint.as_str()),
                (
                    3,
                    "by group and container only",
                    "hint: use --iommu container",
                ),
            ] {
                let run = run(outcome, index)?;
                exit(&run, 1)?;
                let messages: Vec<_> = run.messages().collect();
                for wanted in [says, hint] {
                    expect(messages.iter().any(|line| line.contains(wanted)), || {
                        format!("mini-vmm did not say \"{wanted}\" but {messages:?}")
                    })?;
                }
            }
            let run = run(outcome, 4)?;
            ended_well(&run)?;
            identity(&run)?;
            worked(outcome, &run, &disk)?;
            back(outcome, &disk)
        }),
    }
}
