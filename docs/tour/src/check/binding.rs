//! Chapter 1: a script that gives one device to vfio-pci, in the emulated machine.

use crate::commands::Output;

/// The device that is to be given.
const DEVICE: &str = "0000:00:05.0";

/// Runs the answer, and prints the driver and the override of each device before and after it. Then
/// everything is put back.
pub fn command(answer: &str) -> String {
    format!(
        "list() {{
	for d in /sys/bus/pci/devices/*; do
		driver=$(basename \"$(readlink $d/driver || echo none)\")
		echo \"$1 $(basename $d) $driver $(cat $d/driver_override)\"
	done
}}
list before
cat >/run/answer <<'ANSWER-ENDS'
{answer}
ANSWER-ENDS
timeout 15 sh /run/answer
echo \"status $?\"
list after
echo '1b36 0010' >/sys/bus/pci/drivers/vfio-pci/remove_id 2>/dev/null && echo new-id
for d in /sys/bus/pci/devices/*; do
	override=$(cat $d/driver_override)
	[ \"$override\" = '(null)' ] || echo >$d/driver_override
	case $(readlink $d/driver) in *vfio-pci) basename $d >$d/driver/unbind ;; esac
	[ -e $d/driver ] || basename $d >/sys/bus/pci/drivers_probe
done"
    )
}

/// A device as a line has it: address, driver, override.
type Device<'a> = (&'a str, &'a str, &'a str);

/// The lines of a list.
fn list<'a>(text: &'a str, when: &str) -> Vec<Device<'a>> {
    let device = |line: &'a str| {
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let found = words.next()? == when;
        let device = (words.next()?, words.next()?, words.next()?);
        found.then_some(device)
    };
    text.lines().filter_map(device).collect()
}

/// Judges by what the answer has changed.
///
/// # Errors
/// What to look at next.
pub fn verdict(output: &Output) -> Result<(), String> {
    let text = output.text.as_str();
    let (before, after) = (list(text, "before"), list(text, "after"));
    let of = |list: &[Device<'_>]| list.iter().any(|(address, ..)| *address == DEVICE);
    if !of(&before) || !of(&after) {
        return Err(format!("The machine has no {DEVICE}; it says: {text}"));
    }
    let changed = before
        .iter()
        .zip(&after)
        .find(|(old, new)| old.0 != DEVICE && (old.1, old.2) != (new.1, new.2));
    if let Some(((address, old, _), (_, new, _))) = changed {
        return Err(format!(
            "{address} changed too: its driver was {old} and is {new}. A loop over a driver's \
             devices takes them all, so name the one device that you want."
        ));
    }
    let Some((_, driver, override_to)) = after.iter().find(|(address, ..)| *address == DEVICE)
    else {
        return Ok(());
    };
    let asked = *override_to == "vfio-pci";
    match *driver {
        "vfio-pci" if text.lines().any(|line| line == "new-id") => Err(
            "vfio-pci has the device, and would take every other controller with the same IDs \
             too: `new_id` names a kind of device, and `driver_override` names one device."
                .into(),
        ),
        "vfio-pci" => Ok(()),
        "none" if asked => Err(
            "No driver has the device: `driver_override` says which driver may have it, and Linux \
             looks for one when the address is written to `drivers_probe`."
                .into(),
        ),
        "none" => Err(
            "No driver has the device: `driver/unbind` takes the old one away, and two more lines \
             say which one is to come and that Linux should look."
                .into(),
        ),
        driver if asked => Err(format!(
            "{driver} still has the device: Linux looks for drivers of devices that have none, so \
             write the address to `driver/unbind` before you write it to `drivers_probe`."
        )),
        driver => Err(format!(
            "{driver} has the device: Linux takes the first driver that knows the IDs, unless \
             `driver_override` names the one that may."
        )),
    }
}
