//! A root port of the guest: registers without hardware, and the passed-through functions behind
//! it, which follow the port's windows, its COMMAND and the resets of its bus.
//!
//! [`pci::root_port`] has the registers and says what a write asks for; this file carries it out.
//! The order of locks: the port's registers are unlocked before a function's lock is taken, and a
//! function never takes the port's. What is between the two is in
//! [`Upstream`](pci::upstream::Upstream).

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Instant;

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
    state: Mutex<State>,
    /// The registers have changed, or somebody calls [`Port::wake`].
    changed: Condvar,
    interrupts: PortInterrupts,
    /// The port's number, by which the level of its pin is known.
    number: u8,
    upstream: Arc<Upstream>,
    /// The functions behind the port. The port does not keep them open, because a device can be
    /// closed while its port stays.
    behind: RwLock<Vec<Weak<VfioFunction>>>,
}

struct State {
    registers: RootPort,
    /// How often the port was reset to its state at power-on.
    resets: u64,
    /// Threads that wait for a change. A change that nobody waits for makes no call to the kernel.
    waiting: usize,
}

impl Port {
    /// A port after power-on, with nothing behind it.
    pub fn new(shape: PortShape, interrupts: PortInterrupts) -> Self {
        let registers = RootPort::new(shape);
        let upstream = Arc::new(Upstream::new());
        upstream.set(registers.forwarding());
        let state = State {
            registers,
            resets: 0,
            waiting: 0,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
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

    /// Puts functions into the slot while the guest runs. The guest hears of it by presence and by
    /// the link; the functions answer when the guest has turned the slot's power on.
    pub fn insert(&self, functions: &[Arc<VfioFunction>], path: HostPath) {
        let mut behind = self.behind.write().unwrap_or_else(PoisonError::into_inner);
        behind.extend(functions.iter().map(Arc::downgrade));
        drop(behind);
        self.act(|registers| {
            registers.set_path(path);
            registers.insert()
        });
    }

    /// Takes all functions out of the slot: they do not answer any more, and the guest hears of it.
    pub fn take_out(&self) {
        self.act(RootPort::remove);
        let mut behind = self.behind.write().unwrap_or_else(PoisonError::into_inner);
        behind.clear();
    }

    /// Presses the attention button.
    pub fn press_button(&self) {
        self.act(RootPort::press_button);
    }

    /// Asks the registers.
    pub fn ask<R>(&self, question: impl FnOnce(&RootPort) -> R) -> R {
        question(&self.lock().registers)
    }

    /// How often the port was reset to its state at power-on.
    pub fn resets(&self) -> u64 {
        self.lock().resets
    }

    /// Waits until the registers satisfy `condition`, the port is reset after number `resets`,
    /// `over` says that nobody waits any more, or the time has come. Returns whether the condition
    /// holds.
    pub fn wait_until(
        &self,
        condition: impl Fn(&RootPort) -> bool,
        resets: u64,
        over: impl Fn() -> bool,
        end: Instant,
    ) -> bool {
        let mut state = self.lock();
        state.waiting += 1;
        let holds = loop {
            let holds = condition(&state.registers);
            let left = end.saturating_duration_since(Instant::now());
            if holds || state.resets != resets || over() || left.is_zero() {
                break holds;
            }
            let wait = self.changed.wait_timeout(state, left);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        };
        state.waiting -= 1;
        holds
    }

    /// Lets [`Port::wait_until`] look whether the wait is over.
    pub fn wake(&self) {
        // The lock keeps a thread from missing this between its look and its wait.
        drop(self.lock());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn functions(&self) -> Vec<Arc<VfioFunction>> {
        let behind = self.behind.read().unwrap_or_else(PoisonError::into_inner);
        behind.iter().filter_map(Weak::upgrade).collect()
    }

    /// Changes the registers without a guest's write.
    fn change(&self, change: impl FnOnce(&mut RootPort)) {
        let mut state = self.lock();
        change(&mut state.registers);
        self.upstream.set(state.registers.forwarding());
        self.set_pin(state.registers.pin());
        self.notify(&state);
        drop(state);
        self.tell_functions();
    }

    fn notify(&self, state: &State) {
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// Changes the registers, and carries out what follows.
    fn act(&self, change: impl FnOnce(&mut RootPort) -> Vec<PortEffect>) {
        let mut state = self.lock();
        let effects = change(&mut state.registers);
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
        self.notify(&state);
        drop(state);
        for effect in effects {
            match effect {
                PortEffect::Forward(_) => self.tell_functions(),
                PortEffect::Reset => reset::behind_port(&self.functions()),
                PortEffect::Message(_) | PortEffect::Pin(_) => {}
            }
        }
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
        let mut state = self.lock();
        if let Some(link) = link {
            state.registers.set_link(link);
        }
        state.registers.read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.act(|registers| registers.write(offset, data));
    }

    fn reset(&self) {
        self.lock().resets += 1;
        self.change(RootPort::reset);
    }
}
