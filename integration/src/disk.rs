//! Disks behind controllers of several kinds. Each disk is an image file. The lab writes known
//! content before the start, and afterwards checks the content that the guest must have written.
//! The guest's part is integration/resources/l2-functions.sh.
//!
//! ```text
//!  offset    content before                     what the guest does
//!  0         one line that names the disk       prints the line
//!  1 MiB     1 MiB of noise                     copies the noise to 4 MiB with direct I/O
//!  4 MiB     zeroes                             writes the copy here
//!  8 MiB     zeroes                             writes a line of its own here
//!  12 MiB    zeroes                             counts its boots here
//!  16 MiB    `buffered` MiB of noise           copies the noise through the page cache to the
//!                                              space after the noise
//!            with a plan: the plan's blocks    reads and writes in the order of the plan
//! ```

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Context, Error, Result};
use crate::load::{BLOCK, Plan, check};
use crate::random::Random;

const MIB: u64 = 1 << 20;
const NOISE: u64 = MIB;
const COPY: u64 = 4 * MIB;
const WRITTEN: u64 = 8 * MIB;
const BUFFERED: u64 = 16 * MIB;
/// The size of a plan's blocks in MiB.
const LOADED: u64 = 16;

/// The controller of a disk. The controller is the function that is passed through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// An NVMe controller on bus 0, with one namespace.
    Nvme,
    /// An NVMe controller with one MSI-X vector for all its queues.
    NvmeOneVector,
    /// An NVMe controller on bus 1, behind a root port of 8 GT/s x4.
    NvmeBehindPort,
    /// An NVMe controller on bus 1, behind a bridge to conventional PCI. All functions of that bus
    /// are one IOMMU group.
    NvmeBehindBridge,
    /// An NVMe controller on bus 1, behind a root port, that can have one virtual function. Both
    /// functions have the same namespace.
    NvmeWithVirtual,
    /// A SATA controller with one disk.
    Sata,
    /// A SATA controller on bus 1, behind a root port. Beside another function on that bus, the
    /// kernel can reset the controller only by a reset of the bus.
    SataBehindPort,
    /// A USB controller with one stick.
    Usb,
    /// A USB controller with 16 MSI messages in place of MSI-X.
    UsbByMsi,
    /// A USB controller on bus 2, behind a root port after that of `NvmeBehindPort`.
    UsbBehindPort,
    /// The same with MSI messages in place of MSI-X.
    UsbByMsiBehindPort,
}

/// QEMU's USB controller that has MSI.
const USB_BY_MSI: &str = "nec-usb-xhci,msi=on,msix=off";

/// The root port of a USB controller.
const USB_PORT: &str = "pcie-root-port,id=usb-port,chassis=2,slot=2,addr=1e.0,multifunction=on";

/// One controller with one disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The disk's serial number, which also names the image file.
    pub serial: &'static str,
    /// The controller's device number.
    pub device: u8,
    /// Function number.
    pub function: u8,
    /// The kind of controller.
    pub controller: Controller,
    /// MiB of noise that the guest copies through its page cache.
    pub buffered: u64,
    /// The guest's random reads and writes; the plan's round is the last round. A disk has either a
    /// plan or `buffered`.
    pub load: Option<Plan>,
}

impl Disk {
    /// An NVMe disk alone in its slot.
    pub const fn new(serial: &'static str, device: u8) -> Self {
        Self {
            serial,
            device,
            function: 0,
            controller: Controller::Nvme,
            buffered: 0,
            load: None,
        }
    }

    /// Adds random reads and writes in this number of rounds.
    pub const fn loaded(mut self, workers: u32, operations: u32, rounds: u32) -> Self {
        self.load = Some(Plan {
            at: BUFFERED / MIB,
            size: LOADED,
            workers,
            operations,
            round: rounds - 1,
        });
        self
    }

    /// Puts the controller at another function of its device.
    pub const fn at_function(mut self, function: u8) -> Self {
        self.function = function;
        self
    }

    /// Adds this many MiB of noise, which the guest copies through its page cache.
    pub const fn buffered(mut self, mib: u64) -> Self {
        self.buffered = mib;
        self
    }

    /// A disk behind a controller of another kind.
    pub const fn behind(serial: &'static str, device: u8, controller: Controller) -> Self {
        let mut disk = Self::new(serial, device);
        disk.controller = controller;
        disk
    }

    /// The controller's address in L1.
    pub fn bdf(&self) -> String {
        let bus = match self.controller {
            Controller::NvmeBehindPort
            | Controller::NvmeBehindBridge
            | Controller::NvmeWithVirtual
            | Controller::SataBehindPort => 1,
            Controller::UsbBehindPort | Controller::UsbByMsiBehindPort => 2,
            _ => 0,
        };
        format!("0000:{bus:02x}:{:02x}.{}", self.device, self.function)
    }

    /// The controller's driver in L1 and in L2.
    pub fn driver(&self) -> &'static str {
        match self.controller {
            Controller::Nvme
            | Controller::NvmeOneVector
            | Controller::NvmeBehindPort
            | Controller::NvmeBehindBridge
            | Controller::NvmeWithVirtual => "nvme",
            Controller::Sata | Controller::SataBehindPort => "ahci",
            Controller::Usb
            | Controller::UsbByMsi
            | Controller::UsbBehindPort
            | Controller::UsbByMsiBehindPort => "xhci_hcd",
        }
    }

    /// QEMU's `-device` arguments. `others`: whether the slot has further functions.
    pub fn devices(&self, others: bool) -> Vec<String> {
        let serial = self.serial;
        let addr = format!(
            "addr={:x}.{}{}",
            self.device,
            self.function,
            if others { ",multifunction=on" } else { "" }
        );
        let stick = |usb, bus| {
            vec![
                format!("{usb},id={serial}-at,bus={bus},{addr}"),
                format!("usb-storage,drive={serial},serial={serial},bus={serial}-at.0"),
            ]
        };
        let behind = |devices| [vec![USB_PORT.to_owned()], devices].concat();
        match self.controller {
            Controller::Nvme => vec![format!("nvme,drive={serial},serial={serial},{addr}")],
            Controller::NvmeOneVector => vec![format!(
                "nvme,drive={serial},serial={serial},{addr},msix_qsize=1"
            )],
            Controller::NvmeBehindPort => vec![
                format!("pcie-root-port,id={serial}-port,addr=1d,x-speed=8,x-width=4"),
                format!("nvme,drive={serial},serial={serial},bus={serial}-port,{addr}"),
            ],
            Controller::NvmeBehindBridge => {
                vec![format!(
                    "nvme,drive={serial},serial={serial},bus=bridge,{addr}"
                )]
            }
            // The flexible queues and vectors may move to the virtual function. The physical
            // function keeps the other queues and vectors.
            Controller::NvmeWithVirtual => vec![
                format!("pcie-root-port,id={serial}-port,addr=1d"),
                format!("nvme-subsys,id={serial}-subsystem"),
                format!(
                    "nvme,id={serial}-at,serial={serial},bus={serial}-port,{addr},\
                     subsys={serial}-subsystem,max_ioqpairs=8,msix_qsize=9,\
                     sriov_max_vfs=1,sriov_vq_flexible=4,sriov_vi_flexible=4"
                ),
                format!("nvme-ns,drive={serial},bus={serial}-at,nsid=1"),
            ],
            Controller::Sata => vec![
                format!("ich9-ahci,id={serial}-at,{addr}"),
                format!("ide-hd,drive={serial},serial={serial},bus={serial}-at.0"),
            ],
            Controller::SataBehindPort => vec![
                format!("ich9-ahci,id={serial}-at,bus=root,{addr}"),
                format!("ide-hd,drive={serial},serial={serial},bus={serial}-at.0"),
            ],
            Controller::Usb => stick("qemu-xhci", "pcie.0"),
            Controller::UsbByMsi => stick(USB_BY_MSI, "pcie.0"),
            Controller::UsbBehindPort => behind(stick("qemu-xhci", "usb-port")),
            Controller::UsbByMsiBehindPort => behind(stick(USB_BY_MSI, "usb-port")),
        }
    }

    /// The line at the start of the disk.
    pub fn text(&self) -> String {
        format!("this is disk {}, as the lab wrote it", self.serial)
    }

    /// The line that a guest writes.
    pub fn guest_text(&self) -> String {
        format!("written by the guest to {}", self.serial)
    }

    /// Creates the image file.
    pub fn create(&self, path: &Path) -> Result<()> {
        let make = || {
            let mut file = File::create(path)?;
            file.set_len(BUFFERED + 2 * self.buffered * MIB)?;
            writeln!(file, "{}", self.text())?;
            file.seek(SeekFrom::Start(NOISE))?;
            file.write_all(&self.noise(1, MIB))?;
            file.seek(SeekFrom::Start(BUFFERED))?;
            file.write_all(&self.noise(2, self.buffered * MIB))?;
            match &self.load {
                Some(plan) => file.write_all_at(&plan.fresh(), plan.offset(0)),
                None => Ok(()),
            }
        };
        make().context(format!("make the disk image {}", path.display()))
    }

    /// Checks that the image has the content that a guest must write, and that the parts that a
    /// guest only reads are unchanged.
    pub fn check_written(&self, path: &Path) -> Result<()> {
        self.check_untouched(path)?;
        let same = |what: &str, at: u64, expected: &[u8]| {
            let found = read(path, at, expected.len())?;
            match found.iter().zip(expected).position(|(a, b)| a != b) {
                None => Ok(()),
                Some(byte) => Err(Error::failed(format!(
                    "{what} of disk {} differs in the image from byte {byte} on",
                    self.serial
                ))),
            }
        };
        same("the direct copy", COPY, &self.noise(1, MIB))?;
        let mut line = self.guest_text().into_bytes();
        line.push(b'\n');
        same("the guest's line", WRITTEN, &line)?;
        let size = self.buffered * MIB;
        same("the buffered copy", BUFFERED + size, &self.noise(2, size))?;
        match &self.load {
            Some(plan) => self.check_load(path, plan),
            None => Ok(()),
        }
    }

    /// Checks that each block has the data of the last write.
    fn check_load(&self, path: &Path, plan: &Plan) -> Result<()> {
        let bytes = read(path, plan.offset(0), plan.blocks() * BLOCK)?;
        let generations = plan.generations();
        for ((block, bytes), generation) in bytes.chunks(BLOCK).enumerate().zip(generations) {
            check(block, generation, bytes).map_err(|what| {
                Error::failed(format!("in the image of disk {}, {what}", self.serial))
            })?;
        }
        Ok(())
    }

    /// Checks that the parts that a guest only reads are unchanged.
    pub fn check_untouched(&self, path: &Path) -> Result<()> {
        let intact = read(path, 0, self.text().len())? == self.text().as_bytes()
            && read(path, NOISE, MIB as usize)? == self.noise(1, MIB);
        if intact {
            Ok(())
        } else {
            Err(Error::failed(format!(
                "what should only be read on disk {} has changed in the image",
                self.serial
            )))
        }
    }

    /// Pseudorandom bytes. Each disk and each number has other bytes (the seed is FNV-1a of both).
    fn noise(&self, number: u64, size: u64) -> Vec<u8> {
        let mut random = Random::new(self.serial.bytes().fold(number, |seed, b| {
            seed.wrapping_mul(0x100_0000_01b3) ^ u64::from(b)
        }));
        (0..size / 8)
            .flat_map(|_| random.number().to_le_bytes())
            .collect()
    }
}

fn read(path: &Path, at: u64, size: usize) -> Result<Vec<u8>> {
    let read = || {
        let mut file = fs::File::open(path)?;
        file.seek(SeekFrom::Start(at))?;
        let mut data = vec![0; size];
        file.read_exact(&mut data)?;
        Ok::<_, std::io::Error>(data)
    };
    read().context(format!("read the disk image {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Worker, fill};

    #[test]
    fn a_disk_that_nobody_wrote_is_told_from_one_that_a_guest_wrote() {
        let mut disk = Disk::new("unit", 5);
        disk.buffered = 1;
        let path = std::env::temp_dir().join(format!("lab-disk-{}", std::process::id()));
        disk.create(&path).unwrap();
        disk.check_untouched(&path).unwrap();
        assert!(disk.check_written(&path).is_err());

        let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let mut put = |at: u64, data: &[u8]| {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(data).unwrap();
        };
        put(COPY, &disk.noise(1, MIB));
        put(WRITTEN, b"written by the guest to unit\n");
        assert!(disk.check_written(&path).is_err());
        put(17 * MIB, &disk.noise(2, MIB));
        disk.check_written(&path).unwrap();

        put(NOISE + 77, b"x");
        assert!(disk.check_untouched(&path).is_err());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_block_that_is_one_write_behind_is_seen() {
        let disk = Disk::new("unit-load", 5).loaded(2, 50, 2);
        let path = std::env::temp_dir().join(format!("lab-load-{}", std::process::id()));
        disk.create(&path).unwrap();
        let plan = disk.load.unwrap();
        assert!(disk.check_load(&path, &plan).is_err());
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let mut last = None;
        for round in 0..2 {
            for number in 0..2 {
                let mut worker = Worker::new(&plan.in_round(round), number);
                while let Some(operation) = worker.next() {
                    for block in operation.block..operation.block + operation.count {
                        if operation.write {
                            let mut bytes = vec![0; BLOCK];
                            fill(block, worker.generation(block), &mut bytes);
                            file.write_all_at(&bytes, plan.offset(block)).unwrap();
                            last = Some((block, worker.generation(block)));
                        }
                    }
                }
            }
        }
        disk.check_untouched(&path).unwrap();
        disk.check_load(&path, &plan).unwrap();
        let (block, generation) = last.unwrap();
        let mut bytes = vec![0; BLOCK];
        fill(block, generation - 1, &mut bytes);
        file.write_all_at(&bytes, plan.offset(block)).unwrap();
        assert!(disk.check_load(&path, &plan).is_err());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn two_disks_differ() {
        assert_ne!(
            Disk::new("a", 5).noise(1, 64),
            Disk::new("b", 6).noise(1, 64)
        );
    }
}
