//! A device for the tests of a function's parts: a plain writable configuration space, and regions,
//! but no interrupts.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use pci::atomic_ops::AtomicOps;
use pci::express;
use pci::link::Link;
use vmm_sys_util::tempfile::TempFile;

use crate::vfio::device::{CONFIG_REGION, Device, DeviceError, Irq, IrqInfo, RegionInfo};

/// Bytes of the file behind the regions. Every region begins at offset 0 of the file.
const FILE_SIZE: u64 = 1 << 20;

pub(crate) struct TestDevice {
    name: &'static str,
    /// Registers of BARs: index, offset, value. Other registers read as 0xa5 in each byte.
    registers: Vec<(u32, u64, u32)>,
    config: Mutex<[u8; 256]>,
    regions: [RegionInfo; 8],
    file: File,
    /// Whether reads fail.
    deaf: AtomicBool,
    /// The value of COMMAND's low byte, if that byte cannot be written.
    fixed_command: Option<u8>,
    exports: bool,
    atomic_ops: AtomicOps,
    region_reads: AtomicU32,
}

impl TestDevice {
    pub(crate) fn new() -> Self {
        let file = TempFile::new().unwrap().into_file();
        file.set_len(FILE_SIZE).unwrap();
        Self {
            name: "test",
            registers: Vec::new(),
            config: Mutex::new([0; 256]),
            regions: Default::default(),
            file,
            deaf: AtomicBool::new(false),
            fixed_command: None,
            exports: false,
            atomic_ops: AtomicOps::NONE,
            region_reads: AtomicU32::new(0),
        }
    }

    /// Adds a region of `size` bytes. `mappable` lists the areas that can be mapped, as `(offset,
    /// size)`.
    pub(crate) fn with_region(mut self, index: u32, size: u64, mappable: &[(u64, u64)]) -> Self {
        self.regions[index as usize] = RegionInfo {
            size,
            read: true,
            write: true,
            mappable: mappable.to_vec(),
            file_offset: 0,
        };
        self
    }

    pub(crate) fn with_name(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// Adds a register of 32 bits, which can be read with that width while memory is decoded.
    pub(crate) fn with_register(mut self, bar: u32, offset: u64, value: u32) -> Self {
        self.registers.push((bar, offset, value));
        self
    }

    /// Sets bytes of configuration space.
    pub(crate) fn with_config(self, at: usize, bytes: &[u8]) -> Self {
        self.config.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn with_atomic_ops(mut self, atomic_ops: AtomicOps) -> Self {
        self.atomic_ops = atomic_ops;
        self
    }

    pub(crate) fn with_fixed_command(mut self, low: u8) -> Self {
        self.fixed_command = Some(low);
        self
    }

    /// Lets BARs be exported: as a file of its own each time.
    pub(crate) fn with_exports(mut self) -> Self {
        self.exports = true;
        self
    }

    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::Relaxed);
    }

    /// Returns a byte of configuration space.
    pub(crate) fn config(&self, offset: u16) -> u8 {
        self.config.lock().unwrap()[usize::from(offset)]
    }

    /// Returns how often a region other than configuration space was read.
    pub(crate) fn region_reads(&self) -> u32 {
        self.region_reads.load(Ordering::Relaxed)
    }

    fn error(&self) -> DeviceError {
        DeviceError::Call {
            device: self.name().into(),
            call: "a test's call",
            source: io::Error::from_raw_os_error(libc::EIO),
        }
    }

    fn answer(&self) -> Result<(), DeviceError> {
        match self.deaf.load(Ordering::Relaxed) {
            true => Err(self.error()),
            false => Ok(()),
        }
    }
}

impl Device for TestDevice {
    fn name(&self) -> &str {
        self.name
    }

    fn region(&self, index: u32) -> RegionInfo {
        let region = self.regions.get(index as usize);
        region.cloned().unwrap_or_default()
    }

    fn irq(&self, _: Irq) -> Option<IrqInfo> {
        None
    }

    fn can_reset(&self) -> bool {
        false
    }

    fn resets_by_power(&self) -> bool {
        false
    }

    fn atomic_ops(&self) -> AtomicOps {
        self.atomic_ops
    }

    fn link(&self, config: &[u8]) -> Option<Link> {
        express::link(config)
    }

    fn map_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn can_export(&self) -> bool {
        self.exports
    }

    fn export(&self, _: u32, _: u64, _: u64) -> io::Result<OwnedFd> {
        Ok(TempFile::new().unwrap().into_file().into())
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        if region != CONFIG_REGION {
            self.region_reads.fetch_add(1, Ordering::Relaxed);
        }
        self.answer()?;
        data.fill(0xa5);
        let register = self
            .registers
            .iter()
            .find(|r| (r.0, r.1) == (region, offset));
        if let Some((_, _, value)) = register {
            if self.config(4) & 2 == 0 {
                return Err(self.error());
            }
            data.copy_from_slice(&value.to_le_bytes());
        }
        if region == CONFIG_REGION {
            let config = self.config.lock().unwrap();
            data.copy_from_slice(&config[offset as usize..offset as usize + data.len()]);
            if let (Some(low), 4) = (self.fixed_command, offset) {
                data[0] = low;
            }
        }
        Ok(())
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.answer()?;
        if region == CONFIG_REGION {
            let mut config = self.config.lock().unwrap();
            config[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        }
        Ok(())
    }

    fn set_events(&self, _: Irq, _: u32, _: &[Option<BorrowedFd<'_>>]) -> Result<(), DeviceError> {
        Err(self.error())
    }

    fn mask(&self, _: Irq) -> Result<(), DeviceError> {
        Err(self.error())
    }

    fn unmask(&self, _: Irq) -> Result<(), DeviceError> {
        Err(self.error())
    }

    fn set_unmask_event(&self, _: BorrowedFd<'_>) -> Result<(), DeviceError> {
        Err(self.error())
    }

    fn disable(&self, _: Irq) -> Result<(), DeviceError> {
        Err(self.error())
    }

    fn reset(&self) -> Result<(), DeviceError> {
        Err(self.error())
    }

    fn hot_reset_scope(&self) -> Result<Vec<String>, DeviceError> {
        Err(self.error())
    }

    fn hot_reset(&self) -> Result<(), DeviceError> {
        Err(self.error())
    }
}
