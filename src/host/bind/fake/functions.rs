//! Virtual functions of the made-up host (drivers/pci/iov.c).

use std::os::unix::fs::symlink;
use std::{fs, io};

use pci::Bdf;

use super::FakeKernel;
use super::kernel::errno;

impl FakeKernel {
    /// Makes virtual functions, or removes all of them. A file `makes` says how many a device makes
    /// at most, or with which errno it fails.
    pub(super) fn make_functions(&self, physical: Bdf, count: u32) -> io::Result<()> {
        let dir = self.device(physical);
        let made: u32 = fs::read_to_string(dir.join("sriov_numvfs"))?
            .trim()
            .parse()
            .unwrap();
        if made > 0 && count > 0 {
            return errno(libc::EBUSY);
        }
        let function = |n: u32| Bdf {
            function: n as u8 + 1,
            ..physical
        };
        for n in 0..made {
            fs::remove_file(dir.join(format!("virtfn{n}")))?;
            self.remove_device(function(n));
        }
        let probe = fs::read_to_string(dir.join("sriov_drivers_autoprobe"))?.trim() == "1";
        let natural = self.lock().natural.get(&physical).cloned();
        let limit = dir.join("makes");
        let made = match fs::read_to_string(limit).map(|text| text.parse::<i32>().unwrap()) {
            Ok(error @ ..0) if count > 0 => return errno(-error),
            Ok(most) => count.min(most.unsigned_abs()),
            Err(_) => count,
        };
        for n in 0..made {
            let bdf = function(n);
            let alone = !self.device(physical).join("no_acs").exists();
            let shared = self.group(physical).and_then(|group| group.parse().ok());
            let group = Some(100 + n).filter(|_| alone).or(shared);
            self.add_device(bdf, 0x01_0802, group);
            symlink(self.device(bdf), dir.join(format!("virtfn{n}")))?;
            symlink(&dir, self.device(bdf).join("physfn"))?;
            if let Some(driver) = natural.as_ref().filter(|_| probe) {
                self.attach(bdf, driver)?;
            }
        }
        fs::write(dir.join("sriov_numvfs"), format!("{made}\n"))
    }
}
