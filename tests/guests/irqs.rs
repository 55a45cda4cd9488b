//! The interrupts of the made-up device: its pin, MSI and MSI-X, with the rules of the kernel's
//! `vfio_pci_set_msi_trigger` and `vfio_pci_set_intx_trigger`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::Duration;

use rustix::event::PollFlags;
use vmm::sys;
use vmm::vfio::device::{DeviceError, Irq, IrqInfo};

/// All interrupts of a device. One kind is on at a time.
pub struct Irqs {
    pub msix: Vectors,
    /// `None` for a device without MSI.
    pub msi: Option<Vectors>,
    /// `None` for a device without a pin.
    pub pin: Option<Pin>,
    /// The eventfds for an error and for a request to release the device.
    device_events: [Option<File>; 2],
    /// Whether MSI-X vectors can be added while others are on (VFIO_IRQ_INFO_NORESIZE unset, Linux
    /// 6.5).
    pub resizable: bool,
}

/// Shared with the thread that unmasks the pin.
pub type SharedIrqs = Arc<Mutex<Irqs>>;

impl Irqs {
    pub fn new(msix: u32) -> Self {
        Self {
            msix: Vectors::new(msix),
            msi: None,
            pin: None,
            device_events: [None, None],
            resizable: true,
        }
    }

    pub fn info(&self, irq: Irq) -> Option<IrqInfo> {
        let (count, resizable) = match irq {
            Irq::Msix => (self.msix.count, self.resizable),
            Irq::Msi => (self.msi.as_ref()?.count, false),
            Irq::Intx => (self.pin.as_ref().map(|_| 1)?, false),
            Irq::Error | Irq::Request => (1, false),
        };
        Some(IrqInfo { count, resizable })
    }

    pub fn set(&mut self, irq: Irq, start: u32, events: Vec<Option<File>>) -> Result<(), Refusal> {
        let on = [Irq::Intx, Irq::Msi, Irq::Msix].map(|kind| kind != irq && self.is_on(kind));
        match irq {
            Irq::Intx | Irq::Msi | Irq::Msix if on.contains(&true) => Err(Refusal::Invalid),
            Irq::Msix => self.msix.set(start, events, self.resizable),
            Irq::Msi => {
                let msi = self.msi.as_mut().ok_or(Refusal::Invalid)?;
                msi.set(start, events, false)
            }
            Irq::Intx => {
                let event = events.into_iter().next().flatten();
                self.pin.as_mut().ok_or(Refusal::Invalid)?.set(event);
                Ok(())
            }
            Irq::Error | Irq::Request => {
                let slot = usize::from(irq == Irq::Request);
                self.device_events[slot] = events.into_iter().next().flatten();
                Ok(())
            }
        }
    }

    /// Returns whether the interrupt was on.
    pub fn disable(&mut self, irq: Irq) -> bool {
        let was_on = self.is_on(irq);
        match irq {
            Irq::Msix => self.msix.disable(),
            Irq::Msi => self.msi.iter_mut().for_each(Vectors::disable),
            Irq::Intx => self.pin.iter_mut().for_each(|pin| pin.set(None)),
            Irq::Error | Irq::Request => return true,
        }
        was_on
    }

    pub fn is_on(&self, irq: Irq) -> bool {
        match irq {
            Irq::Msix => self.msix.is_on(),
            Irq::Msi => self.msi.as_ref().is_some_and(Vectors::is_on),
            Irq::Intx => self.pin.as_ref().is_some_and(Pin::is_on),
            Irq::Error | Irq::Request => false,
        }
    }

    /// Sends a message. MSI may have fewer messages than the device has events; then several events
    /// share one. Returns whether the message's vector has an eventfd.
    pub fn raise(&mut self, vector: u32) -> bool {
        match &mut self.msi {
            Some(msi) if msi.is_on() => msi.raise(vector % msi.enabled.unwrap_or(1)),
            _ => self.msix.raise(vector),
        }
    }

    /// Signals an error (0) or a request to release the device (1).
    pub fn device_event(&self, which: usize) {
        signal(self.device_events[which].as_ref().expect("an eventfd"));
    }
}

pub fn lock(irqs: &SharedIrqs) -> MutexGuard<'_, Irqs> {
    irqs.lock().unwrap()
}

/// Unmasks the pin whenever `event` is signalled, until the pin is off, as the kernel does.
pub fn unmask_on(irqs: &SharedIrqs, event: File) -> Result<(), Refusal> {
    let listening = Arc::new(AtomicBool::new(true));
    match &mut lock(irqs).pin {
        Some(pin) if pin.resamples && pin.is_on() => pin.listening = Some(listening.clone()),
        _ => return Err(Refusal::Invalid),
    }
    let irqs = Arc::downgrade(irqs);
    thread::spawn(move || listen(&irqs, event, &listening));
    Ok(())
}

fn listen(irqs: &Weak<Mutex<Irqs>>, mut event: File, listening: &AtomicBool) {
    let mut count = [0; 8];
    loop {
        let signalled = sys::ready(
            event.as_fd(),
            PollFlags::IN,
            Some(Duration::from_millis(20)),
        );
        let Some(irqs) = irqs.upgrade() else { return };
        let mut irqs = lock(&irqs);
        if !listening.load(Ordering::Relaxed) {
            return;
        }
        if let Some(pin) = irqs.pin.as_mut().filter(|_| signalled) {
            // Resets the eventfd. The read fails if another thread was faster.
            let _ = event.read(&mut count);
            pin.mask(false);
            pin.resampled += 1;
        }
    }
}

/// Vectors that are set up, with their eventfds.
pub struct Vectors {
    /// How many the device has.
    count: u32,
    /// How many the host can give.
    pub available: u32,
    /// How many are set up; `None` while the kind is off.
    enabled: Option<u32>,
    events: BTreeMap<u32, File>,
    /// Vectors raised while the host had them masked: a vector is masked until it has an eventfd.
    pending: BTreeSet<u32>,
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
            pending: BTreeSet::new(),
        }
    }

    fn set(
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
            // Vectors that were not set up at first cannot be added.
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
                Some(event) => {
                    if self.pending.remove(&vector) {
                        signal(&event);
                    }
                    self.events.insert(vector, event)
                }
                None => self.events.remove(&vector),
            };
        }
        Ok(())
    }

    fn disable(&mut self) {
        self.events.clear();
        self.pending.clear();
        self.enabled = None;
    }

    fn raise(&mut self, vector: u32) -> bool {
        let event = self.events.get(&vector);
        if event.is_none() && self.is_on() && vector < self.count {
            self.pending.insert(vector);
        }
        event.inspect(|e| signal(e)).is_some()
    }

    /// A byte of the pending bits.
    pub fn pending_byte(&self, at: u64) -> u8 {
        let first = at as u32 * 8;
        let bits = (0..8).filter(|bit| self.pending.contains(&(first + bit)));
        bits.fold(0, |byte, bit| byte | 1 << bit)
    }

    fn is_on(&self) -> bool {
        self.enabled.is_some()
    }

    pub fn with_eventfd(&self) -> Vec<u32> {
        self.events.keys().copied().collect()
    }
}

/// The interrupt pin: a level, which VFIO masks when it signals the trigger eventfd.
#[derive(Default)]
pub struct Pin {
    event: Option<File>,
    masked: bool,
    /// Acknowledgements that the device still waits for. It asserts the pin until there are 0.
    asks: u32,
    /// Whether VFIO takes an eventfd that unmasks the pin.
    pub resamples: bool,
    /// Set while such an eventfd is in use: true until the pin is off.
    listening: Option<Arc<AtomicBool>>,
    /// How often that eventfd has unmasked the pin.
    pub resampled: u32,
}

impl Pin {
    fn set(&mut self, event: Option<File>) {
        if let Some(listening) = self.listening.take() {
            listening.store(false, Ordering::Relaxed);
        }
        self.event = event;
        self.masked = false;
        self.trigger();
    }

    fn is_on(&self) -> bool {
        self.event.is_some()
    }

    /// Whether a signal waits in the trigger eventfd. KVM takes it out at once, if it has that.
    pub fn signal_waits(&self) -> bool {
        let waits = |event: &File| sys::ready(event.as_fd(), PollFlags::IN, Some(Duration::ZERO));
        self.event.as_ref().is_some_and(waits)
    }

    pub fn mask(&mut self, masked: bool) {
        self.masked = masked;
        self.trigger();
    }

    pub fn ask(&mut self, times: u32) {
        self.asks = times;
        self.trigger();
    }

    pub fn asks(&self) -> u32 {
        self.asks
    }

    pub fn acknowledge(&mut self) {
        self.asks = self.asks.saturating_sub(1);
    }

    fn trigger(&mut self) {
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

/// Signals an eventfd.
pub fn signal(event: &File) {
    let mut event: &File = event;
    event.write_all(&1u64.to_ne_bytes()).expect("an eventfd");
}
