//! Chapter 13: a script that makes virtual functions and gives one of them to vfio-pci, in the
//! emulated machine.

use crate::commands::Output;

/// Runs the answer, and prints who drives the physical function and the virtual ones. Then
/// everything is put back.
pub fn command(answer: &str) -> String {
    format!(
        "all=/sys/bus/pci/devices
echo 0 >$all/0000:02:00.0/sriov_drivers_autoprobe
cat >/run/answer <<'ANSWER-ENDS'
{answer}
ANSWER-ENDS
timeout 15 sh /run/answer
for number in 0 1 2; do
	function=0000:02:00.$number
	[ -e $all/$function ] || continue
	echo \"after $number $(basename \"$(readlink $all/$function/driver || echo none)\")\"
done
for number in 1 2 0; do mini-vmm host unbind 02:00.$number; done >/dev/null 2>&1
echo 0 >$all/0000:02:00.0/sriov_numvfs
echo 1 >$all/0000:02:00.0/sriov_drivers_autoprobe"
    )
}

/// Judges by the functions that there are, and their drivers.
///
/// # Errors
/// What to look at next.
pub fn verdict(output: &Output) -> Result<(), String> {
    let lines = output.text.lines();
    let functions: Vec<_> = lines
        .filter_map(|line| line.strip_prefix("after ")?.split_once(' '))
        .collect();
    let driver = |number: &str| functions.iter().find(|f| f.0 == number).map(|f| f.1);
    match (driver("0"), driver("1"), driver("2")) {
        (Some("nvme"), Some("none"), Some("vfio-pci")) => Ok(()),
        (None, ..) => Err(format!(
            "The machine has no 0000:02:00.0; it says: {}",
            output.text
        )),
        (Some(physical), ..) if physical != "nvme" => Err(format!(
            "0000:02:00.0 itself has the driver `{physical}` now: the physical function stays with \
             the host's driver, and only a slice of it goes away."
        )),
        (_, None, _) => Err(
            "There is no virtual function: write their number to `sriov_numvfs` of the physical \
             function first."
                .into(),
        ),
        (_, _, None) => Err(
            "There is one virtual function, and two are wanted: `sriov_numvfs` is changed from \
             zero, in one write."
                .into(),
        ),
        (_, Some("vfio-pci"), Some("vfio-pci")) => Err(
            "Both virtual functions have vfio-pci: each is in a group of its own, so one can go \
             without the other."
                .into(),
        ),
        (_, Some("vfio-pci"), _) => Err(
            "The first virtual function has vfio-pci, and the second was meant: function 0 is the \
             physical one, so the second virtual one is 0000:02:00.2."
                .into(),
        ),
        (_, _, Some("none")) => Err(
            "The second virtual function has no driver: nothing looks for one, so give it to \
             vfio-pci, as any function."
                .into(),
        ),
        (_, first, second) => Err(format!(
            "The first virtual function has the driver `{}`, and the second `{}`: wanted are none, \
             and vfio-pci.",
            first.unwrap_or_default(),
            second.unwrap_or_default()
        )),
    }
}
