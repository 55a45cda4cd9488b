//! A removal: the attention button, the wait for the guest, the end.
//!
//! The guest turns the slot's power off when its driver has given the device up, some five seconds
//! after the press (PCI Express 6.0, 6.7.1.1.2; drivers/pci/hotplug/pciehp_ctrl.c). Only then, or
//! when nobody waits for the guest, the device leaves. A guest that turns the power off by itself
//! keeps the device.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pci::Bdf;
use tracing::info;

use crate::hostinfo::name::parse_address;
use crate::log::degraded::{self, Code};
use crate::machine::devices::Attached;
use crate::machine::plug_requests::Pending;
use crate::machine::plugged::Plugged;
use crate::machine::ports::GuestPort;
use crate::plug::{GaveUp, PATIENCE, Removal, RemoveError, RemoveRequest, RemovedBy};
use crate::run_events::RunEvent;
use crate::sandbox::{self, Kind};
use crate::vfio::function::VfioFunction;

/// How long the host's own request waits for the guest. The host's command sleeps meanwhile.
const HOST_PATIENCE: Duration = Duration::from_secs(20);

/// How long an indicator blinks at most, before a press is worth a try: Linux lets it blink for
/// five seconds after a press.
const LONGEST_BLINK: Duration = Duration::from_secs(7);

impl Plugged {
    pub(super) fn remove_device(
        &self,
        request: &RemoveRequest,
        gone: &dyn Fn() -> bool,
    ) -> Result<Removal, RemoveError> {
        self.wait_for_first_boot(|| match (self.has_ended(), gone()) {
            (true, _) => Err(RemoveError::Ended),
            (false, true) => Err(RemoveError::Gone),
            (false, false) => Ok(()),
        })?;
        // As the user may write an address.
        let name = parse_address(&request.id);
        let id = name.map_or_else(|_| request.id.clone(), |name| name.to_string());
        let missing = || RemoveError::NotFound(request.id.clone());
        let (port, names) = self.devices.find(&id).ok_or_else(missing)?;
        let gone = |left: bool| left.then_some(Removal::Removed).ok_or_else(missing);
        if request.force {
            return gone(self.take_away(port, &names, RemovedBy::Force));
        }
        if self.run.pause.is_paused() {
            return Err(RemoveError::Paused);
        }
        let Some(port) = port.and_then(|port| self.port_at(port)) else {
            return Err(RemoveError::OnBus0(id));
        };
        // Before the button is pressed: a reset after this ends the request.
        let resets = port.port.resets();
        if !port.port.ask(|registers| registers.has_power()) {
            return gone(self.take_away(Some(port.bdf), &names, RemovedBy::Request));
        }
        let listens = port.port.ask(|registers| registers.hears_button());
        if self.requests.get(port.bdf).is_none() && !listens {
            let port = port.bdf;
            return Err(RemoveError::NotListening { id, port });
        }
        let patience = request.timeout.unwrap_or(PATIENCE);
        self.request(&port, resets, RemovedBy::Request, patience)?;
        Ok(Removal::Requested)
    }

    /// Answers the host, which asks for a device. The event thread goes on: an answer may have to
    /// wait for a reset of the guest, and a close takes as long as a reset. Other devices have
    /// events meanwhile.
    pub(super) fn host_wants(&self, function: &Arc<VfioFunction>) {
        let this = self.this.upgrade();
        let spawned = this.and_then(|this| {
            let function = Arc::clone(function);
            let name = format!("wanted {}", function.name());
            self.spawn(name, move || this.answer_host(&function)).ok()
        });
        // After the end, the end closes all devices. Otherwise the host has no threads left.
        if spawned.is_none() && !self.requests.are_over() {
            self.answer_host(function);
        }
    }

    /// Asks the guest for a device that the host asks for, or takes it away.
    fn answer_host(&self, function: &Arc<VfioFunction>) {
        let changing = self.devices.changing();
        if self
            .devices
            .which(|f| Arc::ptr_eq(&f.function, function))
            .is_empty()
        {
            // It has left by now, or is being added, and is not the guest's yet.
            if !function.is_disconnected() {
                self.wanted().push(function.name().into());
            }
            return;
        }
        let Some((port, names)) = self.devices.find(function.name()) else {
            return;
        };
        drop(changing);
        let by = RemovedBy::Host;
        let above = port.and_then(|port| self.port_at(port));
        let asked = above.is_some_and(|above| {
            let resets = above.port.resets();
            let hears = above.port.ask(|r| r.has_power() && r.hears_button());
            hears && self.request(&above, resets, by, HOST_PATIENCE).is_ok()
        });
        if !asked {
            self.take_away(port, &names, by);
        }
    }

    /// Starts a thread that the end of the run waits for. There is none after the end.
    fn spawn(&self, name: String, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut threads = self.threads();
        // With the lock, because `stop` takes the list of threads once.
        if self.requests.are_over() {
            return Err(io::Error::other("the run ends"));
        }
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread::Builder::new().name(name).spawn(move || {
            sandbox::enter(Kind::Removal);
            work();
        })?);
        Ok(())
    }

    fn port_at(&self, bdf: Bdf) -> Option<GuestPort> {
        let ports = self.devices.ports();
        ports.into_iter().find(|port| port.bdf == bdf)
    }

    /// Lets a thread press the button and wait for the guest, unless a request is pending.
    fn request(
        &self,
        port: &GuestPort,
        resets: u64,
        by: RemovedBy,
        patience: Duration,
    ) -> Result<(), RemoveError> {
        let end = Instant::now() + patience;
        let new = Pending { by, end, patience };
        if !self.requests.begin(port.bdf, new) {
            // The time may be shorter now.
            port.port.wake();
            return Ok(());
        }
        let Some(this) = self.this.upgrade() else {
            return Err(RemoveError::Ended);
        };
        let above = port.clone();
        let wait = move || this.wait_for_guest(&above, resets);
        self.spawn(format!("remove {}", port.bdf), wait)
            .map_err(|e| {
                self.requests.take(port.bdf);
                RemoveError::Thread(e)
            })
    }

    /// Presses the button. A guest lets its indicator blink while it turns the power on, and after
    /// a press, which a second press takes back. So this waits until the indicator is steady.
    fn press(&self, port: &GuestPort, resets: u64) {
        let Some(pending) = self.requests.get(port.bdf) else {
            return;
        };
        let steady = |r: &pci::root_port::RootPort| !r.indicator_blinks() || !r.has_power();
        let over = || self.requests.get(port.bdf).is_none();
        let longest = Instant::now() + LONGEST_BLINK;
        let steady = port
            .port
            .wait_until(steady, resets, over, longest.min(pending.end));
        // The device does not leave meanwhile, and the guest is not reset.
        let _changing = self.devices.changing();
        let pending = self.requests.get(port.bdf).is_some() && port.port.resets() == resets;
        let may = steady || Instant::now() >= longest;
        if pending && may && port.port.ask(|registers| registers.has_power()) {
            port.port.press_button();
        }
    }

    /// Presses the button, waits until the guest has turned the slot's power off, and takes the
    /// device away then.
    fn wait_for_guest(&self, port: &GuestPort, resets: u64) {
        self.press(port, resets);
        while let Some(pending) = self.requests.get(port.bdf) {
            let changed = || self.requests.get(port.bdf) != Some(pending);
            let off = |registers: &pci::root_port::RootPort| !registers.has_power();
            let off = port.port.wait_until(off, resets, changed, pending.end);
            let reset = port.port.resets() != resets;
            if !off && !reset && Instant::now() < pending.end {
                continue;
            }
            let Some(pending) = self.requests.take(port.bdf) else {
                return;
            };
            let names = self.devices.names_behind(port.bdf);
            // The host does not take no for an answer.
            if pending.by == RemovedBy::Host || (off && !reset) {
                self.take_away(Some(port.bdf), &names, pending.by);
                return;
            }
            let why = match reset {
                true => GaveUp::Reset,
                false => GaveUp::Timeout(pending.patience),
            };
            for id in names {
                info!("{id} is not removed: {why}");
                self.run.events.tell(RunEvent::DeviceFailed {
                    id,
                    what: "remove",
                    why: why.to_string(),
                });
            }
            return;
        }
    }

    /// Takes a device away from the guest, which reads ones from now on, and gives it back to the
    /// host. Returns whether it was there.
    pub(super) fn take_away(&self, port: Option<Bdf>, names: &[String], by: RemovedBy) -> bool {
        let changing = self.devices.changing();
        let ours =
            |f: &Attached| f.port == port && names.iter().any(|name| name == f.function.name());
        let leaving = self.devices.which(ours);
        if leaving.is_empty() {
            return false;
        }
        let ids = leaving.iter().map(|(_, f)| f.name().to_owned());
        self.leaving().extend(ids);
        // The list of devices comes last: a vCPU whose access fails meanwhile looks there for the
        // device that explains the failure.
        if port.is_none() {
            for (bdf, function) in &leaving {
                // The guest may be in the middle of an access.
                function.disconnect();
                self.root.remove(bdf.device, bdf.function);
            }
        }
        if let Some(above) = port.and_then(|port| self.port_at(port)) {
            self.requests.take(above.bdf);
            // The link goes first: the guest finds nothing half removed.
            above.port.take_out();
            above.port.wake();
            for (bdf, function) in &leaving {
                function.disconnect();
                self.root.remove_behind(above.bdf, bdf.function);
            }
        }
        drop(leaving);
        let taken = self.devices.take(ours);
        for attached in &taken {
            self.devices.unwatch(&attached.events);
        }
        drop(changing);
        self.give_back(taken, by);
        true
    }

    /// Closes devices that the guest does not have any more.
    fn give_back(&self, taken: Vec<Attached>, by: RemovedBy) {
        let host = self.host();
        let names: Vec<_> = taken.iter().map(|f| f.function.name().to_owned()).collect();
        for Attached { function, dma, .. } in taken {
            // Waits for a reset that a vCPU has begun.
            function.disconnect_and_wait();
            host.unmap(dma.as_ref(), 1, &mut || function.release());
            host.tell_peers(dma.as_ref());
        }
        host.give_back(&names);
        for id in &names {
            info!("{id} has left the guest");
            self.stats.forget(id);
            degraded::forget(id);
            if by == RemovedBy::Host {
                tell_returned(id);
            }
        }
        // Before the event: who hears it may add the device.
        self.leaving().retain(|name| !names.contains(name));
        for id in names {
            self.run.events.tell(RunEvent::DeviceRemoved { id, by });
        }
    }
}

fn tell_returned(name: &str) {
    let loss = Code::DeviceReturned.loss(
        "removed from the guest, which goes on",
        "the host asks for the device",
    );
    degraded::tell(
        loss.of(name)
            .hint("nothing, if you have unbound or removed the device; a new run takes it again"),
    );
}
