//! The report of a run, as data. `docs/stats.md` describes its JSON, and `text` prints its table.

pub mod reporter;
mod text;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use pci::Bdf;
use serde::Serialize;
use vmm::counters::dma::Maps;
use vmm::counters::exits::{Exits, Reason, VcpuExits};
use vmm::counters::registers::{Access, Space};
use vmm::counters::wakeups::Wakeups;
use vmm::log::degraded::{self, Degraded};
use vmm::log::error_chain::with_causes;
use vmm::log::phases::{Clock, Phase, Phases};
use vmm::stats::Stats;
use vmm::stats::devices::{Calls, DeviceMeter};
use vmm::stats::interrupts::Vector;
use vmm::stats::kvm::Counters;
use vmm::stats::memory::OwnMemory;
use vmm::stats::named_ranges::NamedRange;

/// Counts by [`Reason::name`]. A reason that did not occur has the count 0.
pub type ByReason = BTreeMap<&'static str, u64>;

/// The version of the JSON. The version rises when a field is removed or gets another meaning.
pub const VERSION: u32 = 1;

/// The report of a run. Times are microseconds since the first line of `main`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// CLOCK_MONOTONIC at the first line of `main`, in nanoseconds.
    pub started_monotonic_ns: u64,
    /// CPU time of the process before the first line of `main`.
    pub cpu_before_main_us: u64,
    /// The time at which this report was made.
    pub uptime_us: u64,
    /// The phases of the start, in the order in which they began. Phases may overlap.
    pub phases: Vec<Phase>,
    /// The time of the guest's first exit to this process.
    pub first_exit_us: Option<u64>,
    /// Exits to this process.
    pub exits: ExitReport,
    /// Accesses to configuration space, by ports and ECAM.
    pub config_space: ConfigReport,
    /// KVM's own counters.
    pub kvm: KvmReport,
    /// Interrupts of the devices, as the host counted them.
    pub interrupts: Vec<Vector>,
    /// The devices.
    pub devices: Vec<DeviceReport>,
    /// Memory of this process without the guest's RAM; null if /proc cannot be read.
    pub memory: Option<OwnMemory>,
    /// DMA maps of guest memory.
    pub dma: DmaReport,
    /// What the guest gets less of than its user expects, in the order in which it was told.
    pub degraded: Vec<Degraded>,
}

/// Exits to this process, since its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExitReport {
    /// All exits.
    pub total: u64,
    /// Exits of all vCPUs.
    pub by_reason: ByReason,
    /// Exits of each vCPU.
    pub vcpus: Vec<ByReason>,
    /// Port and MMIO exits by register, the most frequent first.
    pub registers: Vec<Register>,
    /// Port and MMIO exits at registers for which the table had no room.
    pub other_registers: u64,
    /// Coalesced writes, which cause no exit.
    pub coalesced_writes: u64,
}

/// Accesses of one kind to one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Register {
    /// `port` or `memory`.
    pub space: &'static str,
    /// The port or the guest-physical address, in hexadecimal.
    pub address: String,
    /// Whether the guest wrote.
    pub write: bool,
    /// Number of accesses.
    pub count: u64,
    /// The device or BAR at this address now; null if there is no device and no BAR.
    #[serde(rename = "place")]
    pub range: Option<String>,
    /// The offset in that device or BAR, in hexadecimal.
    pub offset: Option<String>,
}

/// Accesses to configuration space.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConfigReport {
    /// The registers, the most frequent first.
    pub registers: Vec<ConfigRegister>,
    /// Accesses at registers for which the table had no room.
    pub others: u64,
}

/// Accesses of one kind to one register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigRegister {
    /// The function's address in the guest.
    pub function: Bdf,
    /// The offset in the function's configuration space, in hexadecimal.
    pub register: String,
    /// Whether the guest wrote.
    pub write: bool,
    /// Number of accesses.
    pub count: u64,
}

/// KVM's own counters, by KVM's names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KvmReport {
    /// The reason why the counters could not be read.
    pub problem: Option<String>,
    /// The VM's counters.
    pub vm: Counters,
    /// Each vCPU's counters.
    pub vcpus: Vec<Counters>,
}

/// The slow ioctls of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceReport {
    /// The device's name on the host.
    pub device: String,
    /// Resets, without the reset when the device is opened.
    pub resets: Calls,
    /// VFIO_DEVICE_SET_IRQS calls.
    pub set_irqs: Calls,
    /// Wake-ups of threads of this process for the device's interrupts.
    pub wakeups: Wakeups,
    /// The time at which the first MSI or MSI-X vector was set up.
    pub first_vector_us: Option<u64>,
    /// The time for which vCPUs have waited because the device was not open yet.
    pub waited_us: u64,
}

/// DMA maps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DmaReport {
    /// Maps of the guest's RAM.
    pub ram: Maps,
    /// Maps of BARs, for peer-to-peer DMA.
    pub bars: Maps,
}

impl Report {
    /// Makes the report from the counters of `stats` and the phases of the start.
    pub fn new(stats: &Stats, phases: &Phases) -> Self {
        let clock = phases.clock();
        let devices = stats.devices();
        let first = stats.exits.vcpus().iter().filter_map(VcpuExits::first);
        let names: Vec<String> = devices.iter().map(|(name, _)| name.clone()).collect();
        Self {
            version: VERSION,
            started_monotonic_ns: clock.monotonic_ns,
            cpu_before_main_us: clock.cpu_before_us,
            uptime_us: clock.at(Instant::now()),
            phases: phases.list(),
            first_exit_us: first.min().map(|moment| clock.at(moment)),
            exits: exits(
                &stats.exits,
                &stats.named_ranges(),
                stats.coalesced_writes(),
            ),
            config_space: config_space(stats),
            kvm: kvm_counters(stats),
            interrupts: if names.is_empty() {
                Vec::new()
            } else {
                stats.vectors(&names)
            },
            devices: device_reports(stats, clock),
            memory: stats.own_memory(),
            dma: DmaReport {
                ram: stats.dma.ram.maps(),
                bars: stats.dma.bars.maps(),
            },
            degraded: degraded::list(),
        }
    }

    /// The report as JSON, with a newline at the end.
    ///
    /// # Errors
    /// serde_json's signature requires an error, but these types cause no error.
    pub fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

fn exits(exits: &Exits, ranges: &[NamedRange], coalesced: u64) -> ExitReport {
    let by_reason = |of: &dyn Fn(Reason) -> u64| -> ByReason {
        Reason::ALL.into_iter().map(|r| (r.name(), of(r))).collect()
    };
    let vcpus = exits.vcpus();
    let all = by_reason(&|reason| exits.of(reason));
    let mut counts: BTreeMap<Access, u64> = BTreeMap::new();
    for table in vcpus.iter().filter_map(VcpuExits::registers) {
        for (access, count) in table.list() {
            *counts.entry(access).or_default() += count;
        }
    }
    let counts = by_frequency(counts);
    let others = vcpus.iter().filter_map(VcpuExits::registers);
    ExitReport {
        total: all.values().sum(),
        by_reason: all,
        vcpus: vcpus
            .iter()
            .map(|vcpu| by_reason(&|r| vcpu.of(r)))
            .collect(),
        registers: counts
            .into_iter()
            .map(|(access, count)| register(access, count, ranges))
            .collect(),
        other_registers: others.map(|table| table.others()).sum(),
        coalesced_writes: coalesced,
    }
}

/// Sorts by count, the largest first, and then by address, the smallest first.
fn by_frequency(counts: BTreeMap<Access, u64>) -> Vec<(Access, u64)> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| Reverse(*count));
    counts
}

fn config_space(stats: &Stats) -> ConfigReport {
    let Some((accesses, others)) = stats.config_accesses() else {
        return ConfigReport::default();
    };
    let register = |(access, count): (Access, u64)| ConfigRegister {
        function: Bdf {
            segment: 0,
            bus: (access.address >> 20) as u8,
            device: (access.address >> 15 & 31) as u8,
            function: (access.address >> 12 & 7) as u8,
        },
        register: format!("{:#x}", access.address & 0xfff),
        write: access.write,
        count,
    };
    let counts = by_frequency(accesses.into_iter().collect());
    ConfigReport {
        registers: counts.into_iter().map(register).collect(),
        others,
    }
}

fn register(access: Access, count: u64, ranges: &[NamedRange]) -> Register {
    let range = ranges
        .iter()
        .find(|r| r.space == access.space && r.range.contains(access.address, 1));
    Register {
        space: match access.space {
            Space::Port => "port",
            Space::Memory => "memory",
        },
        address: format!("{:#x}", access.address),
        write: access.write,
        count,
        range: range.map(|r| r.name.clone()),
        offset: range.map(|r| format!("{:#x}", access.address - r.range.start)),
    }
}

fn kvm_counters(stats: &Stats) -> KvmReport {
    let mut report = KvmReport::default();
    for (index, counters) in stats.kvm_counters().into_iter().enumerate() {
        match counters {
            Ok(counters) if index == 0 => report.vm = counters,
            Ok(counters) => report.vcpus.push(counters),
            Err(e) => {
                let why = format!("KVM_GET_STATS_FD (Linux 5.14 has it): {}", with_causes(&e));
                report.problem.get_or_insert(why);
            }
        }
    }
    report
}

fn device_reports(stats: &Stats, clock: Clock) -> Vec<DeviceReport> {
    let report = |(name, meter): &(String, Arc<DeviceMeter>)| DeviceReport {
        device: name.clone(),
        resets: meter.resets.calls(),
        set_irqs: meter.irqs.calls(),
        wakeups: meter.wakeups.get().map(|m| m.wakeups()).unwrap_or_default(),
        first_vector_us: meter.first_vector.get().map(|moment| clock.at(*moment)),
        waited_us: stats.waited(name).as_micros() as u64,
    };
    stats.devices().iter().map(report).collect()
}
