//! The same on the container and on iommufd: two runs of mini-vmm, one after the other in one machine.

use lab::expect::{ended_well, expect, run};
use lab::scenario::Outcome;
use lab::transcript::Run;
use lab::{Error, Result};

/// In the order of the runs.
pub const INTERFACES: [&str; 2] = ["container", "iommufd"];

/// Binds a device and gives it to a guest by each interface. `cmdline` makes the guest's command
/// line from the run's number.
pub fn script(bdf: &str, arguments: &str, cmdline: impl Fn(u32) -> String) -> String {
    let mut script = format!("bind_vfio {bdf}\n");
    for (round, iommu) in (0..).zip(INTERFACES) {
        let cmdline = cmdline(round);
        script.push_str(&format!(
            "run_vmm -v --kernel bzImage --initrd initrd --iommu {iommu} {arguments} \
             --cmdline 'quiet panic=-1 {cmdline}' --vfio {bdf}\n"
        ));
    }
    script
}

/// Both guests ended well, by the interface that was meant, and `check` holds for each.
pub fn check(outcome: &Outcome, check: impl Fn(u32, &Run<'_>) -> Result<()>) -> Result<()> {
    for (round, iommu) in (0..).zip(INTERFACES) {
        let run = run(outcome, round as usize)?;
        let one = || {
            let boots = run.guest("init").count();
            expect(boots == 1, || {
                format!("the guest booted {boots} times, not once")
            })?;
            ended_well(&run)?;
            let by_iommufd = run.messages().any(|line| line.contains("by iommufd"));
            expect(by_iommufd == (iommu == "iommufd"), || {
                "mini-vmm took the other interface".into()
            })?;
            check(round, &run)
        };
        one().map_err(|error| Error::failed(format!("by {iommu}: {error}")))?;
    }
    Ok(())
}
