//! A made-up device that behaves as VFIO's devices do. Its BARs are the pages of a file.
//!
//! | BAR | what | size | in the file at |
//! | --- | --- | --- | --- |
//! | 0 | 32-bit memory; MSI-X table at 0x2000, pending bits at 0x3000 | 16 KiB | 0 |
//! | 1 | 32-bit memory: the registers `DOORBELL`, `ACKNOWLEDGE` and `ASK` | 256 | 1 MiB |
//! | 2 | I/O ports | 32 | 2 MiB |
//! | 4 | 64-bit prefetchable memory | 64 KiB | 4 MiB |
//! | 6 | expansion ROM | 8 KiB | 6 MiB |

mod vfio;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex};

use pci::atomic_ops::AtomicOps;
use pci::link::Link;
use vmm::vfio::device::{Device, DeviceError, Irq};

use crate::backing;
use crate::common::config_space::config_space;
pub use crate::common::config_space::{EXPRESS, ID, MSIX, PM, SERIAL_NUMBER, VECTORS};
use crate::irqs::{Irqs, Pin, SharedIrqs, Vectors, lock};
use crate::reset_kinds::Resets;

/// The MSI capability of a device made with `with_msi`.
pub const MSI: u16 = 0xa0;
/// Where the BARs are after power-on: the first fit, largest first.
pub const BAR0: u32 = 0xc000_0000;
pub const BAR1: u32 = 0xc000_4000;
pub const BAR2: u16 = 0x1000;
pub const ROM: u32 = 0xc000_6000;
pub const TABLE: u32 = BAR0 + 0x2000;
pub const PBA: u32 = BAR0 + 0x3000;
/// The register in BAR 1 that raises a vector.
pub const DOORBELL: u32 = BAR1;
/// The register in BAR 1 that acknowledges the device's pin.
pub const ACKNOWLEDGE: u32 = BAR1 + 4;
/// The register in BAR 1 that makes the device assert its pin until so many acknowledgements. Reads
/// return how many are left.
pub const ASK: u32 = BAR1 + 8;

const COMMAND: usize = 4;
const MEMORY: u8 = 2;
const SIZES: [u64; 7] = [0x4000, 0x100, 0x20, 0, 0x1_0000, 0, 0x2000];
const SPACING: u64 = 1 << 20;
const FILE: u64 = 7 * SPACING;

/// What was done to the device, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Config(u64, Vec<u8>),
    Read(u32, u64, usize),
    Write(u32, u64, Vec<u8>),
    /// Kind, first vector, and which got an eventfd.
    Events(Irq, u32, Vec<bool>),
    Disable(Irq),
    /// Masked or unmasked.
    Mask(Irq, bool),
    Reset,
    HotReset,
    /// BAR, offset and size.
    Export(u32, u64, u64),
}

/// What the kernel does for a write to configuration space, before the device has it.
type ConfigWrites = Box<dyn Fn(u64, &[u8]) -> io::Result<()> + Send + Sync>;

type Hook = Box<dyn Fn(&FakeDevice, &Call) + Send + Sync>;

pub struct FakeDevice {
    pub name: &'static str,
    file: File,
    config: Mutex<Vec<u8>>,
    power_on: Vec<u8>,
    irqs: SharedIrqs,
    calls: Mutex<Vec<Call>>,
    hook: Option<Hook>,
    config_writes: Option<ConfigWrites>,
    pub resets: Resets,
    rom: bool,
    /// COMMAND cannot be written.
    fixed_command: bool,
    /// BARs can be exported as dma-bufs.
    exports: bool,
    /// The next calls of SET_IRQS that fail.
    pub failing_events: AtomicU32,
    /// The AtomicOps that VFIO reports.
    pub atomic_ops: AtomicOps,
    /// The link that the host tells of, if not that of the registers.
    pub link: Option<Link>,
    /// VFIO maps no BAR.
    pub unmapped: bool,
    /// It has the interrupts that VFIO reports errors and requests by.
    pub has_events: bool,
    /// Region reads fail.
    pub deaf: AtomicBool,
}

impl FakeDevice {
    pub fn new() -> Self {
        let config = config_space();
        Self {
            name: "0000:01:00.0",
            file: backing::file(FILE).expect("a temporary file"),
            power_on: config.clone(),
            config: Mutex::new(config),
            irqs: Arc::new(Mutex::new(Irqs::new(VECTORS))),
            calls: Mutex::default(),
            hook: None,
            config_writes: None,
            resets: Resets::default(),
            rom: true,
            fixed_command: false,
            exports: false,
            failing_events: AtomicU32::new(0),
            atomic_ops: AtomicOps::NONE,
            link: None,
            unmapped: false,
            has_events: true,
            deaf: AtomicBool::new(false),
        }
    }

    /// It has so many MSI-X vectors, at most as many as its table's page holds.
    pub fn with_vectors(mut self, count: u16) -> Self {
        lock(&self.irqs).msix = Vectors::new(count.into());
        let at = usize::from(MSIX) + 2;
        self.power_on[at..at + 2].copy_from_slice(&(count - 1).to_le_bytes());
        self.config = Mutex::new(self.power_on.clone());
        self
    }

    /// It has the IDs and the class of a real device.
    pub fn with_id(mut self, id: u32, class: u8) -> Self {
        self.power_on[..4].copy_from_slice(&id.to_le_bytes());
        self.power_on[0x0b] = class;
        self.config = Mutex::new(self.power_on.clone());
        self
    }

    /// It has these bytes at `at` of configuration space.
    pub fn with_config(mut self, at: usize, bytes: &[u8]) -> Self {
        self.power_on[at..at + bytes.len()].copy_from_slice(bytes);
        self.config = Mutex::new(self.power_on.clone());
        self
    }

    /// Vectors cannot be added, as before Linux 6.5.
    pub fn no_resize(self) -> Self {
        lock(&self.irqs).resizable = false;
        self
    }

    /// It has an interrupt pin.
    pub fn with_pin(mut self) -> Self {
        lock(&self.irqs).pin = Some(Pin::default());
        self.power_on[0x3d] = 1;
        self.config = Mutex::new(self.power_on.clone());
        self
    }

    /// The device has a pin, and VFIO takes an eventfd that unmasks the pin.
    pub fn with_resampled_pin(self) -> Self {
        let device = self.with_pin();
        device.with_its_pin(|pin| pin.resamples = true);
        device
    }

    fn with_its_pin<T: Default>(&self, f: impl FnOnce(&mut Pin) -> T) -> T {
        lock(&self.irqs).pin.as_mut().map(f).unwrap_or_default()
    }

    /// Whether the pin has signalled, and KVM has not been told.
    pub fn pin_waits(&self) -> bool {
        self.with_its_pin(|pin| pin.signal_waits())
    }

    /// How often the eventfd has unmasked the pin.
    pub fn resampled(&self) -> u32 {
        self.with_its_pin(|pin| pin.resampled)
    }

    /// It has MSI as its Message Control says: shape and number of messages.
    pub fn with_msi(mut self, control: u16) -> Self {
        lock(&self.irqs).msi = Some(Vectors::new(1 << (control >> 1 & 7)));
        let at = usize::from(MSI);
        self.power_on[usize::from(MSIX) + 1] = MSI as u8;
        self.power_on[at] = 0x05;
        self.power_on[at + 2..at + 4].copy_from_slice(&control.to_le_bytes());
        self.config = Mutex::new(self.power_on.clone());
        self
    }

    /// The host has only so many MSI vectors to give from now on.
    pub fn set_available_msi(&self, vectors: u32) {
        if let Some(msi) = &mut lock(&self.irqs).msi {
            msi.available = vectors;
        }
    }

    /// It has no expansion ROM.
    pub fn no_rom(mut self) -> Self {
        self.rom = false;
        self
    }

    /// Configuration space as of mtty, the kernel's sample of a mediated device: one byte short,
    /// and COMMAND always reads as decoding ports.
    pub fn like_mtty(mut self) -> Self {
        self.power_on.truncate(0xff);
        self.power_on[COMMAND] = 1;
        self.power_on[0xfc..].fill(0x77);
        self.fixed_command = true;
        self.config = Mutex::new(self.power_on.clone());
        self
    }

    /// Its BARs can be exported, as files of their own.
    pub fn with_exports(mut self) -> Self {
        self.exports = true;
        self
    }

    /// The IDs of a GPU of NVIDIA's.
    pub fn like_a_gpu(mut self) -> Self {
        self.power_on[..2].copy_from_slice(&0x10de_u16.to_le_bytes());
        self.power_on[0xb] = 0x03;
        self.config = Mutex::new(self.power_on.clone());
        self
    }

    /// The host has only so many vectors to give.
    pub fn available(self, vectors: u32) -> Self {
        lock(&self.irqs).msix.available = vectors;
        self
    }

    /// The kernel does this for each write to configuration space.
    pub fn config_writes(
        mut self,
        by: impl Fn(u64, &[u8]) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.config_writes = Some(Box::new(by));
        self
    }

    /// Called after each call, without any lock held.
    pub fn on_call(mut self, hook: impl Fn(&Self, &Call) + Send + Sync + 'static) -> Self {
        self.hook = Some(Box::new(hook));
        self
    }

    pub fn into_arc(self) -> Arc<Self> {
        Arc::new(self)
    }

    /// The device raises a vector. Returns whether the vector has an eventfd.
    pub fn raise(&self, vector: u32) -> bool {
        lock(&self.irqs).raise(vector)
    }

    /// Signals an error (0) or a request to release the device (1).
    pub fn device_event(&self, which: usize) {
        lock(&self.irqs).device_event(which);
    }

    /// The dword at `offset` of a BAR, as the device sees it.
    pub fn peek(&self, bar: u64, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        let at = bar * SPACING + offset;
        self.file.read_exact_at(&mut bytes, at).unwrap();
        u32::from_le_bytes(bytes)
    }

    pub fn poke(&self, bar: u64, offset: u64, value: u32) {
        let at = bar * SPACING + offset;
        self.file.write_all_at(&value.to_le_bytes(), at).unwrap();
    }

    /// Removes the pages behind the BARs: an access gets SIGBUS, and KVM gets EFAULT.
    pub fn remove_pages(&self) {
        self.file.set_len(0).unwrap();
    }

    fn power_up(&self) {
        *self.config.lock().unwrap() = self.power_on.clone();
        self.with_its_pin(|pin| pin.ask(0));
    }

    /// The device loses its power: it reads as all ones, but VFIO keeps the IDs, Interrupt Disable
    /// and Capabilities List.
    pub fn die(&self) {
        let mut config = self.config.lock().unwrap();
        for (at, kept) in config.iter_mut().zip([0xff, 0xff, 0xff, 0xff, 0, 4, 0x10]) {
            *at |= !kept;
        }
        config[7..].fill(0xff);
    }

    /// COMMAND as the device has it.
    pub fn command(&self) -> u16 {
        let config = self.config.lock().unwrap();
        u16::from_le_bytes([config[COMMAND], config[COMMAND + 1]])
    }

    /// The device changes its registers.
    pub fn set_config(&self, at: usize, bytes: &[u8]) {
        self.config.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The device has lost its COMMAND.
    pub fn forget_command(&self) {
        self.config.lock().unwrap()[COMMAND..COMMAND + 2].fill(0);
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// MSI-X vectors that have an eventfd now.
    pub fn with_eventfd(&self) -> Vec<u32> {
        lock(&self.irqs).msix.with_eventfd()
    }

    /// MSI vectors that have an eventfd now.
    pub fn msi_with_eventfd(&self) -> Vec<u32> {
        let irqs = lock(&self.irqs);
        irqs.msi
            .as_ref()
            .map(Vectors::with_eventfd)
            .unwrap_or_default()
    }

    /// The kind of interrupt that is on.
    pub fn kind(&self) -> Option<Irq> {
        let irqs = lock(&self.irqs);
        [Irq::Intx, Irq::Msi, Irq::Msix]
            .into_iter()
            .find(|kind| irqs.is_on(*kind))
    }

    /// MSI-X vectors that the host has to give.
    pub fn host_vectors(&self) -> u32 {
        lock(&self.irqs).msix.available
    }

    /// How many times a call was made.
    pub fn count(&self, call: &Call) -> usize {
        self.calls
            .lock()
            .unwrap()
            .iter()
            .filter(|c| *c == call)
            .count()
    }

    fn note(&self, call: Call) {
        self.calls.lock().unwrap().push(call.clone());
        if let Some(hook) = &self.hook {
            hook(self, &call);
        }
    }

    fn error(&self, call: &'static str, errno: i32) -> DeviceError {
        DeviceError::Call {
            device: self.name().into(),
            call,
            source: io::Error::from_raw_os_error(errno),
        }
    }

    /// Checks an access as the kernel does: EINVAL beyond a region, EIO for a memory BAR without
    /// decode.
    fn check(&self, region: u32, offset: u64, len: usize) -> Result<u64, i32> {
        let size = SIZES.get(region as usize).copied().unwrap_or(0);
        let end = offset.checked_add(len as u64).ok_or(libc::EINVAL)?;
        if end > size {
            return Err(libc::EINVAL);
        }
        let decodes = self.config.lock().unwrap()[COMMAND] & MEMORY != 0;
        if region != 2 && !decodes {
            return Err(libc::EIO);
        }
        Ok(u64::from(region) * SPACING + offset)
    }

    fn config_write(&self, offset: u64, data: &[u8]) -> Result<(), i32> {
        let mut config = self.config.lock().unwrap();
        for (at, byte) in (offset as usize..).zip(data) {
            let mask = match at {
                4 | 5 if self.fixed_command => 0,
                4 => 0x47,
                5 => 0x05,
                // The kernel keeps the interrupt line and the power state.
                0x3c => 0xff,
                at if at == usize::from(PM) + 4 => 0x03,
                // Device Control 2: VFIO passes all but ARI Forwarding Enable.
                at if at == usize::from(EXPRESS) + 0x28 => 0xdf,
                _ => 0,
            };
            if at == usize::from(EXPRESS) + 9 && byte & 0x80 != 0 {
                // A function-level reset, for which the kernel wakes the device.
                config[usize::from(PM) + 4] &= !0x03;
            }
            let old = config.get_mut(at).ok_or(libc::EINVAL)?;
            *old = (*old & !mask) | (byte & mask);
        }
        Ok(())
    }
}
