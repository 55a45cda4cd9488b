//! Devices behind root ports of the guest.

use lab::command::Vmm;
use lab::disk::Disk;
use lab::scenario::Scenario;

const DISK: Disk = Disk::new("lab-disk", 5);

/// The disk behind a root port of its own.
const BEHIND: &str = "--vfio 0000:00:05.0,port=on";

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("nvme_behind_a_root_port")
            .disk(DISK)
            .by_each_interface(|_| Vmm::new("--memory 512M").devices(BEHIND)),
    ]
}
