//! The host's side of an add, for tests: it has devices of its own, and each step may fail.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use pci::bar::{Bar, BarKind, Bars};
use vmm::config::device::DeviceConfig;
use vmm::memory::dma::Dma;
use vmm::plug::host_side::{Found, HostSide, OpenForAdd};
use vmm::plug::{AddError, AddRequest};
use vmm::vfio::device::SharedDevice;

use crate::device::FakeDevice;

/// The steps of an add, as this host has made and undone them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Look,
    Limits,
    Claim,
    Open,
    Map,
    Unmap,
    GiveBack,
}

type Hook = Box<dyn Fn(Step) + Send + Sync>;

/// A host with devices.
#[derive(Default)]
pub struct PlugHost {
    devices: Vec<Arc<FakeDevice>>,
    log: Mutex<Vec<Step>>,
    /// The step that fails.
    fails: Option<Step>,
    hook: Option<Hook>,
    /// The BARs in sysfs are larger than any window.
    pub large: AtomicBool,
}

impl PlugHost {
    pub fn new(devices: &[&Arc<FakeDevice>]) -> Self {
        Self {
            devices: devices.iter().map(|device| Arc::clone(device)).collect(),
            ..Self::default()
        }
    }

    pub fn failing(mut self, step: Step) -> Self {
        self.fails = Some(step);
        self
    }

    /// Called at the beginning of each step.
    pub fn at(mut self, hook: impl Fn(Step) + Send + Sync + 'static) -> Self {
        self.hook = Some(Box::new(hook));
        self
    }

    pub fn steps(&self) -> Vec<Step> {
        self.log.lock().unwrap().clone()
    }

    fn step(&self, step: Step) -> Result<(), AddError> {
        self.log.lock().unwrap().push(step);
        if let Some(hook) = &self.hook {
            hook(step);
        }
        match self.fails == Some(step) {
            true => Err(AddError::host(
                std::io::Error::other(format!("{step:?} fails")),
                Some("a remedy".into()),
            )),
            false => Ok(()),
        }
    }

    fn device(&self, config: &DeviceConfig) -> Option<&Arc<FakeDevice>> {
        let name = |device: &&Arc<FakeDevice>| device.name.ends_with(&config.address);
        self.devices.iter().find(name)
    }
}

impl HostSide for PlugHost {
    fn look(&self, request: &AddRequest, _: &[String]) -> Result<Vec<Found>, AddError> {
        self.step(Step::Look)?;
        let size = match self.large.load(Ordering::Relaxed) {
            true => 1 << 30,
            false => 0x4000,
        };
        let kind = BarKind::Memory32 {
            prefetchable: false,
        };
        let bars = [Some(Bar { kind, size }), None, None, None, None, None];
        let found = request.devices.iter().filter_map(|config| {
            let device = self.device(config)?;
            let (_, function) = device.name.rsplit_once('.')?;
            Some(Found {
                name: device.name.into(),
                number: function.parse().ok()?,
                bars: Bars::new(bars).ok(),
            })
        });
        Ok(found.collect())
    }

    fn check_limits(&self, _: &AddRequest) -> Result<(), AddError> {
        self.step(Step::Limits)
    }

    fn claim(&self, _: &AddRequest) -> Result<(), AddError> {
        self.step(Step::Claim)
    }

    fn give_back(&self, _: &[String]) {
        self.step(Step::GiveBack).unwrap();
    }

    fn open(&self, request: &AddRequest) -> Result<OpenForAdd, AddError> {
        self.step(Step::Open)?;
        let devices = request.devices.iter().filter_map(|d| self.device(d));
        Ok(OpenForAdd {
            devices: devices.map(|d| Arc::clone(d) as SharedDevice).collect(),
            dma: None,
        })
    }

    fn map(&self, _: &OpenForAdd, go_on: &dyn Fn(u64, u64) -> bool) -> Result<(), AddError> {
        self.step(Step::Map)?;
        match [(1, 3), (2, 3), (3, 3)]
            .iter()
            .all(|(done, all)| go_on(*done, *all))
        {
            true => Ok(()),
            false => Err(AddError::Gone),
        }
    }

    fn unmap(&self, _: Option<&Arc<Dma>>, _: usize, close: &mut dyn FnMut()) {
        self.step(Step::Unmap).unwrap();
        close();
    }
}

/// A request for devices by their addresses.
pub fn request(addresses: &[&str]) -> AddRequest {
    let devices = addresses.iter().map(|text| text.parse().expect("a device"));
    AddRequest {
        devices: devices.collect(),
    }
}
