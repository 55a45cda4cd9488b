//! Chapter 11: a script that ends a guest and gives its device back, in the emulated machine.

use crate::commands::Output;

/// Starts a guest with the NVMe controller, runs the answer with its process as `$vmm`, and prints
/// what is left. Then everything is put back.
pub fn command(answer: &str) -> String {
    format!(
        "device=/sys/bus/pci/devices/0000:00:05.0
driver() {{ basename \"$(readlink $device/driver || echo none)\"; }}
mini-vmm host bind 00:05.0 >/dev/null 2>&1
rm -f /run/said
mini-vmm --kernel stay.elf --memory 64M --vfio 00:05.0 >/run/said 2>&1 &
vmm=$!
(sleep 15; kill -9 $vmm) >/dev/null 2>&1 &
guard=$!
until grep -qs here /run/said || ! kill -0 $vmm; do sleep 0.1; done
echo \"before driver=$(driver)\"
cat >/run/answer <<'ANSWER-ENDS'
{answer}
ANSWER-ENDS
. /run/answer
runs=no
[ -z \"$(readlink /proc/$vmm/exe)\" ] || runs=yes
loan=no
grep -qs 0000:00:05.0 -r /run/mini-vmm && loan=yes
echo \"after runs=$runs driver=$(driver) loan=$loan\"
{{ kill $guard; kill -9 $vmm; wait $vmm; }} 2>/dev/null
mini-vmm host unbind 00:05.0 >/dev/null 2>&1
[ $(driver) = nvme ] || echo 0000:00:05.0 >/sys/bus/pci/drivers_probe"
    )
}

/// Judges by what is left.
///
/// # Errors
/// What to look at next.
pub fn verdict(output: &Output) -> Result<(), String> {
    let text = output.text.as_str();
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    let (Some("driver=vfio-pci"), Some(after)) = (line("before "), line("after ")) else {
        return Err(format!(
            "The guest did not start, or the file ended the check: {text}"
        ));
    };
    let is = |fact: &str| after.split(' ').any(|word| word == fact);
    let driver = after
        .split(' ')
        .find_map(|word| word.strip_prefix("driver="));
    match driver.unwrap_or_default() {
        "vfio-pci" if is("runs=yes") => Err(
            "The guest still runs, and so its device is in use: end the process `$vmm` first, and \
             wait for it, because the device is closed by its end."
                .into(),
        ),
        driver if is("runs=yes") => Err(format!(
            "The guest still runs, and its device has gone to `{driver}`: a request of the host \
             takes a device from a guest, and does not end it."
        )),
        "vfio-pci" => Err(
            "vfio-pci has the controller: a process that ends closes its device, and the driver \
             stays; which one was there before is in mini-vmm's record, and `mini-vmm host unbind` \
             reads that."
                .into(),
        ),
        "none" => Err(
            "No driver has the controller: a driver that is taken away is not replaced by itself, \
             and `mini-vmm host unbind` knows which one is to come."
                .into(),
        ),
        "nvme" if is("loan=yes") => Err(
            "nvme has the controller, and mini-vmm still has a record of the loan: what `host \
             bind` has begun, `host unbind` ends."
                .into(),
        ),
        "nvme" => Ok(()),
        driver => Err(format!(
            "{driver} has the controller, and nvme had it before."
        )),
    }
}
