//! A root port of the guest: registers without hardware, and the passed-through functions behind
//! it, which follow the port's windows, its COMMAND and the resets of its bus.
//!
//! [`pci::root_port`] has the registers and says what a write asks for; this file carries it out.
//! The order of locks: the port's registers are unlocked before a function's lock is taken, and a
//! function never takes the port's. What is between the two is in
//! [`Upstream`](pci::upstream::Upstream).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use pci::PciFunction;
use pci::host_path::HostPath;
use pci::port_setup::PortSetup;
use pci::root_port::{PortEffect, PortShape, RootPort};
use pci::upstream::Upstream;

use crate::gsi::emulated::EmulatedInterrupts;
use crate::vfio::function::{VfioFunction, reset};

/// How a port interrupts the guest: by a message, or by its pin.
pub struct PortInterrupts {
    /// KVM.
    pub kvm: Arc<EmulatedInterrupts>,
    /// The GSI of the port's pin.
    pub gsi: u32,
}

/// A root port.
pub struct Port {
    registers: Mutex<RootPort>,
    interrupts: PortInterrupts,
    /// The port's number, by which the level of its pin is known.
    number: u8,
    upstream: Arc<Upstream>,
    /// The functions behind the port. The port does not keep them open, because a device can be
    /// closed while its port stays.
    behind: RwLock<Vec<Weak<VfioFunction>>>,
}

impl Port {
    /// A port after power-on, with nothing behind it.
    pub fn new(shape: PortShape, interrupts: PortInterrupts) -> Self {
        let registers = RootPort::new(shape);
        let upstream = Arc::new(Upstream::new());
        upstream.set(registers.forwarding());
        Self {
            registers: Mutex::new(registers),
            interrupts,
            number: shape.number,
            upstream,
            behind: RwLock::default(),
        }
    }

    /// What the port lets through.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Called when another function comes behind the port. The port shows what all its functions
    /// have in common of their ways to the host's root complex.
    pub fn share_path(&self, path: HostPath) {
        self.change(|registers| {
            let all = [registers.shape().path, path];
            registers.set_path(HostPath::shared(&all));
        });
    }

    /// Adds a function that is behind the port, and trains the link.
    pub fn add_behind(&self, function: &Arc<VfioFunction>) {
        let mut behind = self.behind.write().unwrap_or_else(PoisonError::into_inner);
        behind.push(Arc::downgrade(function));
        drop(behind);
        self.change(|registers| registers.set_occupied(true));
    }

    /// Sets the bus numbers and windows that the port has after power-on and after every reset. A
    /// port without a window of I/O ports never has one.
    pub fn set_power_on(&self, setup: &PortSetup) {
        self.change(|registers| registers.set_power_on(setup));
    }

    fn lock(&self) -> MutexGuard<'_, RootPort> {
        self.registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn functions(&self) -> Vec<Arc<VfioFunction>> {
        let behind = self.behind.read().unwrap_or_else(PoisonError::into_inner);
        behind.iter().filter_map(Weak::upgrade).collect()
    }

    /// Changes the registers without a guest's write.
    fn change(&self, change: impl FnOnce(&mut RootPort)) {
        let mut registers = self.lock();
        change(&mut registers);
        self.upstream.set(registers.forwarding());
        self.set_pin(registers.pin());
        drop(registers);
        self.tell_functions();
    }

    fn set_pin(&self, level: bool) {
        let interrupts = &self.interrupts;
        interrupts.kvm.set_level(interrupts.gsi, self.number, level);
    }

    fn tell_functions(&self) {
        for function in self.functions() {
            function.follow_upstream();
        }
    }
}

impl PciFunction for Port {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        // The host may have changed the speed since. A function's lock is taken before the port's.
        let link = match RootPort::shows_link(offset, data.len()) {
            true => self.functions().iter().find_map(|function| function.link()),
            false => None,
        };
        let mut registers = self.lock();
        if let Some(link) = link {
            registers.set_link(link);
        }
        registers.read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let mut registers = self.lock();
        let effects = registers.write(offset, data);
        // What is short is done with the lock, so that two vCPUs' writes have their effects in the
        // order of the registers.
        for effect in &effects {
            match effect {
                PortEffect::Forward(now) => self.upstream.set(*now),
                PortEffect::Message(message) => self.interrupts.kvm.send(*message),
                PortEffect::Pin(level) => self.set_pin(*level),
                PortEffect::Reset => {}
            }
        }
        drop(registers);
        for effect in effects {
            match effect {
                PortEffect::Forward(_) => self.tell_functions(),
                PortEffect::Reset => reset::behind_port(&self.functions()),
                PortEffect::Message(_) | PortEffect::Pin(_) => {}
            }
        }
    }

    fn reset(&self) {
        self.change(RootPort::reset);
    }
}
