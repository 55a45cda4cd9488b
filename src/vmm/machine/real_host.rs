//! The steps of an add on the running host.

use std::fs;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::info;

use crate::config::VmConfig;
use crate::config::device::DeviceConfig;
use crate::config::memory::MemoryConfig;
use crate::config::ports::PortsConfig;
use crate::given::GivenError;
use crate::hostinfo::bars;
use crate::hostinfo::memory::HostMemory;
use crate::hostinfo::name::{HostName, parse_address};
use crate::hostinfo::sysfs::Sysfs;
use crate::layout::Layout;
use crate::machine::error::{MachineError, refused};
use crate::machine::maps::Maps;
use crate::machine::platform::Platform;

use crate::machine::vm::Vm;
use crate::memory::address_space::AddressSpace;
use crate::memory::dma::Dma;
use crate::memory::dma_mapper::DmaMapper;
use crate::memory::dma_ready::DmaReady;
use crate::memory::memlock;
use crate::memory::prefault::{self, PrefaultError};
use crate::memory::ram::Ram;
use crate::plug::host_side::{Claims, Found, HostSide, OpenForAdd};
use crate::plug::look::{check_memory_types, check_reach};
use crate::plug::{AddError, AddRequest};
use crate::stats::Stats;
use crate::vfio::device::SharedDevice;
use crate::vfio::open::candidate::{self, Candidate};
use crate::vfio::open::{DeviceSet, VfioError};

/// How often the wait for the maps of the first devices looks whether it goes on.
const LOOK: Duration = Duration::from_millis(50);

/// The host of a run.
pub(crate) struct RealHost {
    /// The empty root ports that the guest has at the start.
    ports: PortsConfig,
    set: Arc<DeviceSet>,
    pub maps: Arc<Maps>,
    space: Arc<AddressSpace>,
    ram: Arc<Ram>,
    layout: Layout,
    memory: MemoryConfig,
    /// Whether RAM is mapped for the devices that the guest began with.
    ready: Arc<DmaReady>,
    stats: Arc<Stats>,
    /// Binds devices for this run.
    claims: OnceLock<Arc<dyn Claims>>,
}

impl RealHost {
    /// The host of a VM with this configuration. The devices with which the guest begins are in
    /// `set`, or come into it.
    pub fn new(
        (vm, platform): (&Vm, &Platform),
        config: &VmConfig,
        set: Arc<DeviceSet>,
        stats: &Arc<Stats>,
    ) -> Arc<Self> {
        let maps = Maps::new(Arc::clone(&vm.space));
        let ports = config.ports;
        if ports.count > 0 {
            set.prepare();
        }
        Arc::new(Self {
            ports,
            set,
            maps: Arc::new(maps),
            space: Arc::clone(&vm.space),
            ram: Arc::clone(&vm.ram),
            layout: vm.layout,
            memory: config.memory,
            ready: Arc::clone(&platform.resources.dma_ready),
            stats: Arc::clone(stats),
            claims: OnceLock::new(),
        })
    }

    /// Whether the guest has ports for devices that come later.
    pub fn takes_devices(&self) -> bool {
        self.ports.count > 0
    }

    /// The empty root ports that the guest has at the start.
    pub fn ports(&self) -> &PortsConfig {
        &self.ports
    }

    /// Lets `claims` bind devices. The first stays.
    pub fn set_claims(&self, claims: Arc<dyn Claims>) {
        self.claims.get_or_init(|| claims);
    }

    /// For a test: lets so many devices, which are open, reach guest memory by `dma`.
    ///
    /// # Errors
    /// A map is refused.
    pub fn reach_memory(&self, dma: &Arc<Dma>, devices: usize) -> Result<(), MachineError> {
        self.space.subscribe(dma.clone())?;
        self.maps.join(dma, devices);
        prefault::map_beside_guest(&self.ram, false, dma, &|_| true)?;
        Ok(())
    }

    /// Finds the devices in sysfs, and checks them.
    fn candidates(&self, request: &AddRequest) -> Result<Vec<Candidate>, AddError> {
        candidate::find(&Sysfs::default(), &request.devices).map_err(|e| {
            let hint = e.hint();
            match e {
                VfioError::Sysfs { .. } => AddError::host(e, hint),
                _ => AddError::request(e, hint),
            }
        })
    }

    /// Checks that a file that came with the request is of use: containers open devices anew.
    fn check_given(&self, candidates: &[Candidate]) -> Result<(), AddError> {
        match candidates.iter().find(|candidate| candidate.is_given()) {
            Some(candidate) if !self.set.is_by_iommufd(candidates) => {
                Err(given(GivenError::Container(candidate.name())))
            }
            _ => Ok(()),
        }
    }

    /// Looks at one function. One with `managed=on` is bound later.
    fn look_at(
        &self,
        sysfs: &Sysfs,
        config: &DeviceConfig,
        present: &[String],
    ) -> Result<Found, AddError> {
        let wrong = |e: VfioError| {
            let hint = e.hint();
            AddError::request(e, hint)
        };
        let name = parse_address(&config.address)
            .map_err(|_| wrong(VfioError::BadAddress(config.address.clone())))?;
        let HostName::Pci(bdf) = name else {
            return Ok(Found {
                name: name.to_string(),
                number: 0,
                bars: None,
            });
        };
        let device = sysfs.device(bdf).map_err(|e| AddError::host(e, None))?;
        let device = device.ok_or_else(|| wrong(VfioError::NoDevice(bdf)))?;
        if device.is_bridge() {
            return Err(wrong(VfioError::Bridge(bdf)));
        }
        check_reach(sysfs, &device, self.layout.ram())?;
        check_memory_types(sysfs, &device, present)?;
        Ok(Found {
            name: name.to_string(),
            number: bdf.function,
            bars: bars::read(&device.path),
        })
    }

    /// Checks that the host has the pages that the guest has not touched yet.
    fn check_memory(&self) -> Result<(), AddError> {
        if !self.memory.is_checked() {
            return Ok(());
        }
        let asked = self.ram.size().saturating_sub(resident());
        let Some(short) = HostMemory::read().and_then(|host| host.shortage(asked, true)) else {
            return Ok(());
        };
        Err(refused(MachineError::Present {
            asked,
            left: short.left(),
            group: short.is_of_group(),
            device: true,
        }))
    }

    /// Checks that this process may lock the guest's memory once more, if other devices have maps
    /// and this one cannot use them. Only an open device tells that, so the check comes after its
    /// opening.
    fn check_lock_again(&self, request: &AddRequest, dma: &Dma) -> Result<(), AddError> {
        let count = self.maps.count();
        if count < 2 || dma.has_ram() || request.devices.iter().all(is_mediated) {
            return Ok(());
        }
        let by_iommufd = self.set.is_by_iommufd(&[]);
        self.check_lock(self.ram.size().saturating_mul(count), by_iommufd)
    }

    /// Checks that this process may lock so much.
    fn check_lock(&self, size: u64, by_iommufd: bool) -> Result<(), AddError> {
        match memlock::too_little(size, by_iommufd) {
            Some(too_little) => Err(refused(PrefaultError::Dma(too_little.error(None)))),
            None => Ok(()),
        }
    }

    /// Waits until RAM is mapped for the devices that the guest began with.
    fn wait_ready(&self, go_on: &dyn Fn(u64, u64) -> bool) -> Result<(), AddError> {
        let size = self.ram.size();
        while let Some(left) = self.ready.left() {
            if !go_on(size.saturating_sub(left), size) {
                return Err(AddError::Gone);
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl HostSide for RealHost {
    fn look(&self, request: &AddRequest, present: &[String]) -> Result<Vec<Found>, AddError> {
        let sysfs = Sysfs::default();
        let found = request.devices.iter();
        let found = found.map(|d| self.look_at(&sysfs, d, present));
        let found = found.collect::<Result<Vec<_>, _>>()?;
        if let Some(claims) = self.claims.get() {
            claims.check(&request.devices)?;
        }
        let both = |device: &&DeviceConfig| device.managed && device.given.is_some();
        if let Some(device) = request.devices.iter().find(both)
            && let Ok(name) = parse_address(&device.address)
        {
            return Err(given(GivenError::Managed(name)));
        }
        match request.devices.iter().any(|device| device.managed) {
            true if self.claims.get().is_none() => Err(AddError::NotManaged),
            // The devices are not VFIO's yet.
            true => Ok(found),
            false => {
                let candidates = self.candidates(request)?;
                self.check_given(&candidates)?;
                Ok(found)
            }
        }
    }

    fn check_limits(&self, request: &AddRequest) -> Result<(), AddError> {
        // Memory is pinned once for all devices that can be used together, and never for a mediated
        // one.
        if !self.maps.is_empty() || request.devices.iter().all(is_mediated) {
            return Ok(());
        }
        self.check_memory()?;
        let candidates = self.candidates(request).unwrap_or_default();
        let by_iommufd = self.set.is_by_iommufd(&candidates);
        self.check_lock(self.ram.size(), by_iommufd)
    }

    fn claim(&self, request: &AddRequest) -> Result<(), AddError> {
        let managed = request.devices.iter().filter(|device| device.managed);
        let addresses: Vec<_> = managed.map(|d| d.address.clone()).collect();
        match self.claims.get() {
            _ if addresses.is_empty() => Ok(()),
            Some(claims) => claims.bind(&addresses),
            None => Err(AddError::NotManaged),
        }
    }

    fn give_back(&self, names: &[String]) {
        if let Some(claims) = self.claims.get() {
            claims.give_back(names);
        }
    }

    fn open(&self, request: &AddRequest) -> Result<OpenForAdd, AddError> {
        let candidates = self.candidates(request)?;
        let opened = self.set.open(&candidates).map_err(refused)?;
        let mapper = Arc::clone(&opened.mapper) as Arc<dyn DmaMapper>;
        let dma = self.maps.join_or_make(&mapper, opened.devices.len(), || {
            let (mapper, meter) = (Arc::clone(&mapper), Arc::clone(&self.stats.dma));
            Arc::new(Dma::new(mapper, self.ram.size(), false, meter))
        });
        let devices = opened.devices.into_iter();
        let mut devices: Vec<_> = devices.map(|device| device as SharedDevice).collect();
        if let Err(e) = self.check_lock_again(request, &dma) {
            self.maps.leave(&dma, devices.len(), || devices.clear());
            return Err(e);
        }
        Ok(OpenForAdd {
            devices,
            dma: Some(dma),
        })
    }

    fn map(&self, open: &OpenForAdd, go_on: &dyn Fn(u64, u64) -> bool) -> Result<(), AddError> {
        let Some(dma) = &open.dma else {
            return Ok(());
        };
        if dma.has_ram() {
            self.wait_ready(go_on)?;
        } else {
            self.space.subscribe(dma.clone()).map_err(refused)?;
            let populate = self.memory.prefault.unwrap_or(true);
            let size = self.ram.size();
            let go_on = |mapped| go_on(mapped, size);
            if !prefault::map_beside_guest(&self.ram, populate, dma, &go_on).map_err(refused)? {
                return Err(AddError::Gone);
            }
        }
        self.tell_peers(Some(dma));
        Ok(())
    }

    fn unmap(&self, dma: Option<&Arc<Dma>>, devices: usize, close: &mut dyn FnMut()) {
        match dma {
            Some(dma) => {
                if self.maps.leave(dma, devices, close) {
                    info!("the guest's memory was unmapped for DMA: the last device has left");
                }
            }
            None => close(),
        }
    }

    fn end(&self) {
        if let Some(claims) = self.claims.get() {
            claims.end();
        }
    }

    fn tell_peers(&self, dma: Option<&Arc<Dma>>) {
        if let Some(dma) = dma {
            dma.set_peers(self.maps.devices(dma) > 1);
        }
    }
}

fn is_mediated(device: &DeviceConfig) -> bool {
    matches!(parse_address(&device.address), Ok(HostName::Mediated(_)))
}

/// A file that came with the request is of no use.
fn given(error: GivenError) -> AddError {
    let hint = error.hint();
    AddError::request(error, Some(hint))
}

/// Bytes of this process that are present.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(4096)
}
