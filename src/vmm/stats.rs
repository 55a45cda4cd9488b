//! The statistics of a run (`--stats`).
//!
//! Without `--stats` only exits by reason and DMA maps are counted. With `--stats`, exits are also
//! counted by register, KVM's counters are opened, and calls to devices are [`metered`]. The
//! program's report contains [`Stats`] and the [phases](crate::log::phases) of the start.

pub mod devices;
pub mod interrupts;
pub mod kvm;
mod kvm_fd;
pub mod memory;
pub mod metered;
pub mod named_ranges;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use devices::DeviceMeter;
use interrupts::{Ledger, Vector};
use kvm::Counters;
use memory::OwnMemory;
use metered::Metered;
use named_ranges::NamedRange;
use pci::addr::Range;
use pci::bus::Target;
use tracing::warn;

use crate::counters::dma::DmaMeter;
use crate::counters::exits::Exits;
use crate::counters::registers::{Access, RegisterTable, Space};
use crate::counters::wakeups::WakeupMeter;
use crate::log::degraded::{self, Code};
use crate::memory::region::Region;
use crate::vfio::device::SharedDevice;

type Counter = Box<dyn Fn() -> u64 + Send + Sync>;
type NamedRanges = Box<dyn Fn() -> Vec<NamedRange> + Send + Sync>;

/// The counters of a run, and the sources of figures that are read on request.
#[derive(Default)]
pub struct Stats {
    detailed: bool,
    /// Exits to this process.
    pub exits: Arc<Exits>,
    /// DMA maps.
    pub dma: Arc<DmaMeter>,
    /// Accesses to configuration space, by ECAM address; accesses through ports count as well.
    config: Mutex<Option<RegisterTable>>,
    ledger: Arc<Ledger>,
    late: Mutex<Late>,
    /// How long vCPUs have waited for each device to be open, by the host's names. Of its own, so
    /// that no vCPU waits for a report.
    waited: Mutex<Vec<(String, Duration)>>,
}

/// The sources that exist only once the VM has been made.
#[derive(Default)]
struct Late {
    /// The files of KVM's counters, or the error of opening: the VM's, then each vCPU's.
    kvm: Vec<io::Result<File>>,
    /// Host addresses of the guest's RAM.
    ram: Vec<Range>,
    devices: Vec<(String, Arc<DeviceMeter>)>,
    named_ranges: Option<NamedRanges>,
    coalesced: Option<Counter>,
}

impl Stats {
    /// Makes empty counters for a guest with `vcpus` vCPUs. `detailed` is `--stats`.
    pub fn new(vcpus: u32, detailed: bool) -> Self {
        Self {
            detailed,
            exits: Arc::new(Exits::new(vcpus, detailed)),
            config: Mutex::new(detailed.then(RegisterTable::default)),
            ledger: Arc::new(if detailed {
                Ledger::open()
            } else {
                Ledger::default()
            }),
            ..Self::default()
        }
    }

    /// Whether the run has `--stats`.
    pub fn is_detailed(&self) -> bool {
        self.detailed
    }

    fn late(&self) -> MutexGuard<'_, Late> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an access to configuration space. Any thread may call this.
    pub fn count_config(&self, target: Target, write: bool) {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let [bus, device, function] = [target.bus, target.device, target.function].map(u64::from);
        if let Some(table) = &*config {
            table.count(Access {
                space: Space::Memory,
                address: bus << 20 | device << 15 | function << 12 | u64::from(target.offset),
                write,
            });
        }
    }

    /// Opens KVM's counters of a VM or vCPU. Must be called for the VM first, then for each vCPU in
    /// the order of their numbers.
    pub fn watch_kvm(&self, of: &impl AsRawFd) {
        if self.detailed {
            let file = kvm_fd::open(of);
            if let Err(e) = &file {
                let loss = Code::NoKvmCounters.loss(
                    "the statistics lack KVM's own counters",
                    format!("KVM_GET_STATS_FD: {e}"),
                );
                degraded::tell(loss.hint("run Linux 5.14 or newer on the host"));
            }
            self.late().kvm.push(file);
        }
    }

    /// Sets the addresses of the guest's RAM in this process.
    pub fn set_ram(&self, regions: &[Region]) {
        let ranges = regions.iter().map(|region| Range {
            start: region.host_address(),
            size: region.size,
        });
        self.late().ram = ranges.collect();
    }

    /// Keeps `ranges` for [`Stats::named_ranges`].
    pub fn set_named_ranges(&self, ranges: impl Fn() -> Vec<NamedRange> + Send + Sync + 'static) {
        self.late().named_ranges = Some(Box::new(ranges));
    }

    /// Keeps `count` for [`Stats::coalesced_writes`].
    pub fn set_coalesced(&self, count: impl Fn() -> u64 + Send + Sync + 'static) {
        self.late().coalesced = Some(Box::new(count));
    }

    /// Accesses to configuration space with their counts, and the number of accesses that the full
    /// table could not count; `None` without `--stats`.
    pub fn config_accesses(&self) -> Option<(Vec<(Access, u64)>, u64)> {
        let table = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        table.as_ref().map(|t| (t.list(), t.others()))
    }

    /// KVM's own counters: the VM's, then each vCPU's.
    pub fn kvm_counters(&self) -> Vec<io::Result<Counters>> {
        let read = |file: &io::Result<File>| match file {
            Ok(file) => kvm::read(file),
            Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
        };
        self.late().kvm.iter().map(read).collect()
    }

    /// Memory of this process without the guest's RAM; `None` if /proc cannot be read.
    pub fn own_memory(&self) -> Option<OwnMemory> {
        OwnMemory::read(&self.late().ram)
            .inspect_err(|e| warn!("memory is not counted: /proc/self/smaps: {e}"))
            .ok()
    }

    /// The passed-through devices by the host's names, with the meters of their slow calls.
    pub fn devices(&self) -> Vec<(String, Arc<DeviceMeter>)> {
        self.late().devices.clone()
    }

    /// The interrupts that the host has seen from the devices with these names.
    pub fn vectors(&self, names: &[String]) -> Vec<Vector> {
        self.ledger.vectors(names)
    }

    /// The current ranges of the guest's devices. If ranges overlap, the first one names an
    /// address.
    pub fn named_ranges(&self) -> Vec<NamedRange> {
        let late = self.late();
        late.named_ranges
            .as_ref()
            .map_or_else(Vec::new, |ranges| ranges())
    }

    /// The number of writes that needed no exit.
    pub fn coalesced_writes(&self) -> u64 {
        self.late().coalesced.as_ref().map_or(0, |count| count())
    }

    /// Keeps `meter` for the report of the device of this name, the last one that was added.
    pub fn set_wakeups(&self, device: &str, meter: Arc<WakeupMeter>) {
        let late = self.late();
        let mut devices = late.devices.iter().rev();
        if let Some((_, known)) = devices.find(|(name, _)| name == device) {
            known.wakeups.get_or_init(|| meter);
        }
    }

    /// Counts a vCPU's wait for a device that was not open yet.
    pub fn count_wait(&self, device: &str, time: Duration) {
        let mut all = self.waited.lock().unwrap_or_else(PoisonError::into_inner);
        match all.iter_mut().find(|(name, _)| name == device) {
            Some((_, sum)) => *sum += time,
            None => all.push((device.into(), time)),
        }
    }

    /// How long vCPUs have waited for the device to be open.
    pub fn waited(&self, device: &str) -> Duration {
        let all = self.waited.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().find(|(name, _)| name == device);
        found.map_or(Duration::ZERO, |(_, sum)| *sum)
    }

    /// A device has left the guest: the report shows those that are there.
    pub fn forget(&self, device: &str) {
        self.late().devices.retain(|(name, _)| name != device);
    }

    /// With `--stats`, wraps `device` so that its calls and interrupts are counted.
    pub fn meter(&self, device: SharedDevice) -> SharedDevice {
        if !self.detailed {
            return device;
        }
        let meter = Arc::new(DeviceMeter::default());
        let known = (device.name().to_string(), Arc::clone(&meter));
        self.late().devices.push(known);
        Arc::new(Metered::new(device, Arc::clone(&self.ledger), meter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_the_counters_is_told() {
        let told = || {
            let losses = degraded::list().into_iter();
            let of_kvm = losses.filter(|loss| loss.code == Code::NoKvmCounters);
            of_kvm.count()
        };
        let file = File::open("/dev/null").unwrap();
        Stats::new(1, false).watch_kvm(&file);
        assert_eq!(told(), 0);
        let stats = Stats::new(1, true);
        stats.watch_kvm(&file);
        stats.watch_kvm(&file);
        assert_eq!(told(), 1);
        assert!(stats.kvm_counters().iter().all(Result::is_err));
    }
}
