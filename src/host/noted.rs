//! Which calls a run may have noted for later commands.
//!
//! A note keeps a device from later commands until the call has ended. The run asks for the note,
//! and may have been taken over by its guest: a note of a device that is not the run's, or of a
//! process that never ends, would keep devices from everybody.

use std::fs;
use std::path::Path;

use vmm::sys::process::Process;
use vmm::vfio::opener::Request;

use crate::bind::Host;

/// Whether the run may have a call noted: a device that a VFIO driver has, a call that the run's
/// other process makes, and a thread of such a process, which lives.
pub fn is_allowed(host: &Host, run: Process, device: &str, call: &str, caller: Process) -> bool {
    let driver = host.sysfs.path("bus/pci/devices").join(device);
    let driver = fs::read_link(driver.join("driver")).unwrap_or_default();
    let driver = driver.file_name().unwrap_or_default().to_string_lossy();
    driver.contains("vfio")
        && Request::NAMES.contains(&call)
        && Process::of(caller.pid) == Some(caller)
        && is_of_child(Path::new("/proc"), run, caller.pid)
}

/// Whether a thread belongs to a child of the run (proc_pid_status(5), Tgid and PPid).
fn is_of_child(proc: &Path, run: Process, thread: u32) -> bool {
    let field = |process: u32, name: &str| {
        let status = fs::read_to_string(proc.join(format!("{process}/status"))).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u32>().ok()
    };
    let parent = field(thread, "Tgid:").and_then(|process| field(process, "PPid:"));
    parent == Some(run.pid)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::bind::fake::FakeHost;

    const DISK: &str = "0000:01:00.0";
    const NET: &str = "0000:02:00.0";

    #[test]
    fn a_call_of_a_child_for_a_device_of_vfio() {
        let fake = FakeHost::new(&["vfio-pci", "e1000e"])
            .device(DISK, 0x01_0802, Some("vfio-pci"), Some(1))
            .device(NET, 0x02_0000, Some("e1000e"), Some(2));
        let host = fake.host();
        let run = Process::this().unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let caller = Process::of(child.id()).unwrap();
        let allowed = |device, call, caller| is_allowed(&host, run, device, call, caller);
        for call in Request::NAMES {
            assert!(allowed(DISK, call, caller), "{call}");
        }
        assert!(!allowed(DISK, "anything\nelse", caller));
        // Not the run's, or no device's.
        for device in [NET, "0000:03:00.0", "", "../../..", "/"] {
            assert!(!allowed(device, "open", caller), "{device}");
        }
        // The run itself, a process of somebody else, another process with the number.
        for other in [
            run,
            Process::of(1).unwrap(),
            Process {
                started: caller.started + 1,
                ..caller
            },
        ] {
            assert!(!allowed(DISK, "open", other), "{other:?}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!allowed(DISK, "open", caller));
    }
}
