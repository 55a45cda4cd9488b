//! MSI-X and the pin of the made-up device, with the rules of the kernel's
//! `vfio_pci_set_msi_trigger` and `vfio_pci_set_intx_trigger`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use mini_vmm::vfio::device::DeviceError;

use crate::device::signal;

/// The vectors that are set up, and their eventfds.
pub struct Vectors {
    /// How many the device has.
    count: u32,
    /// How many the host can give.
    pub available: u32,
    /// How many are set up; none while MSI-X is off.
    enabled: Option<u32>,
    events: BTreeMap<u32, File>,
}

/// Why SET_IRQS failed.
pub enum Refusal {
    Invalid,
    Fewer { asked: u32, available: u32 },
}

impl Refusal {
    pub fn into_device_error(self, device: &str) -> DeviceError {
        let device = device.into();
        match self {
            Self::Invalid => DeviceError::Call {
                device,
                call: "VFIO_DEVICE_SET_IRQS",
                source: io::Error::from_raw_os_error(libc::EINVAL),
            },
            Self::Fewer { asked, available } => DeviceError::FewerVectors {
                device,
                asked,
                available,
            },
        }
    }
}

impl Vectors {
    pub fn new(count: u32) -> Self {
        Self {
            count,
            available: count,
            enabled: None,
            events: BTreeMap::new(),
        }
    }

    pub fn set(
        &mut self,
        start: u32,
        events: Vec<Option<File>>,
        resizable: bool,
    ) -> Result<(), Refusal> {
        let end = start + events.len() as u32;
        if end > self.count || events.is_empty() {
            return Err(Refusal::Invalid);
        }
        match self.enabled {
            // Vectors that the host did not set up cannot be had any more.
            Some(enabled) if end > enabled && !resizable => return Err(Refusal::Invalid),
            _ if end > self.available => {
                return Err(Refusal::Fewer {
                    asked: end,
                    available: self.available,
                });
            }
            Some(enabled) => self.enabled = Some(enabled.max(end)),
            None => self.enabled = Some(end),
        }
        for (vector, event) in (start..).zip(events) {
            match event {
                Some(event) => self.events.insert(vector, event),
                None => self.events.remove(&vector),
            };
        }
        Ok(())
    }

    /// Tells whether it was on.
    pub fn disable(&mut self) -> bool {
        self.events.clear();
        self.enabled.take().is_some()
    }

    pub fn raise(&self, vector: u32) -> bool {
        let event = self.events.get(&vector);
        event.inspect(|e| signal(e)).is_some()
    }

    pub fn is_on(&self) -> bool {
        self.enabled.is_some()
    }

    pub fn wired(&self) -> Vec<u32> {
        self.events.keys().copied().collect()
    }
}

/// The interrupt pin: a level, which VFIO masks when it fires.
#[derive(Default)]
pub struct Pin {
    event: Option<File>,
    masked: bool,
    /// How often the device must be served until it asks no more.
    asks: u32,
}

impl Pin {
    pub fn set(&mut self, event: Option<File>) {
        self.event = event;
        self.masked = false;
        self.fire();
    }

    pub fn is_on(&self) -> bool {
        self.event.is_some()
    }

    pub fn mask(&mut self, masked: bool) {
        self.masked = masked;
        self.fire();
    }

    pub fn ask(&mut self, times: u32) {
        self.asks = times;
        self.fire();
    }

    pub fn asks(&self) -> u32 {
        self.asks
    }

    pub fn serve(&mut self) {
        self.asks = self.asks.saturating_sub(1);
    }

    fn fire(&mut self) {
        if let Some(event) = self
            .event
            .as_ref()
            .filter(|_| self.asks > 0 && !self.masked)
        {
            self.masked = true;
            signal(event);
        }
    }
}
