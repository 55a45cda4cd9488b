//! An add: one transaction, whose steps are undone in the reverse order if one fails, if the run
//! ends, and if nobody waits for the device any more.
//!
//! The steps: look, limits, claim, open, map, make the functions, publish. The guest sees nothing
//! before the last.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use pci::Bdf;
use pci::bar::Bars;
use pci::host_path::HostPath;
use pci::port_assignment::assign_in_port;
use pci::position::Position;
use tracing::info;

use crate::config::slots::renumbered;
use crate::hostinfo::name::parse_address;
use crate::log::degraded;
use crate::machine::devices::Attached;
use crate::machine::error::refused;
use crate::machine::plug_choice::{self, Choice};
use crate::machine::plugged::Plugged;
use crate::machine::ports::GuestPort;
use crate::phase;
use crate::plug::host_side::{Found, HostSide, OpenForAdd};
use crate::plug::{AddError, AddRequest, Added, AddedFunction};
use crate::run_events::RunEvent;
use crate::vfio::device::SharedDevice;
use crate::vfio::function::rom::RomSource;
use crate::vfio::function::{FunctionOptions, VfioFunction, reset};
use crate::vfio::host_path;

/// How long a guest may take to finish with the device that was in the slot before: Linux ignores
/// what comes within a second after it has turned the power off.
const IDLE_PATIENCE: Duration = Duration::from_secs(5);

/// What an add has taken by now. Dropping it gives everything back, unless the add was completed.
struct Taken<'a> {
    plugged: &'a Plugged,
    host: Arc<dyn HostSide>,
    names: Vec<String>,
    open: Option<OpenForAdd>,
    functions: Vec<Attached>,
    complete: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.complete {
            return;
        }
        for attached in &self.functions {
            self.plugged.devices.unwatch(&attached.events);
            attached.function.disconnect_and_wait();
        }
        if let Some(OpenForAdd { devices, dma }) = self.open.take() {
            let (count, functions) = (devices.len(), &self.functions);
            let mut devices = Some(devices);
            let mut close = || {
                functions.iter().for_each(|f| f.function.release());
                devices = None;
            };
            self.host.unmap(dma.as_ref(), count, &mut close);
            self.host.tell_peers(dma.as_ref());
        }
        self.functions.clear();
        for name in &self.names {
            self.plugged.stats.forget(name);
            degraded::forget(name);
        }
        self.host.give_back(&self.names);
    }
}

impl Plugged {
    pub(super) fn add_device(
        &self,
        request: &AddRequest,
        gone: &dyn Fn() -> bool,
    ) -> Result<Added, AddError> {
        let _one = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        self.wait_for_first_boot(|| self.check(gone))?;
        if self.run.pause.is_paused() {
            return Err(AddError::Paused);
        }
        let slot = plug_choice::check_request(&request.devices)?;
        let roms = request.devices.iter().map(|d| RomSource::load(&d.rom));
        let roms = roms.collect::<Result<Vec<_>, _>>().map_err(|e| {
            let hint = e.hint();
            AddError::request(e, Some(hint))
        })?;
        let host = self.host();
        let functions = self.devices.functions();
        let present: Vec<_> = functions.iter().map(|f| f.name().to_owned()).collect();
        drop(functions);
        // After the look at those that are present: a removal lists its device here first.
        self.check_leaving(request)?;
        let found = host.look(request, &present)?;
        if let Some(found) = found.iter().find(|f| present.contains(&f.name)) {
            return Err(AddError::Present(found.name.clone()));
        }
        let choice = plug_choice::choose(&found, slot, &self.choices(), self.real_host.ports())?;
        host.check_limits(request)?;
        self.check(gone)?;
        host.claim(request)?;
        self.wanted().clear();
        let mut taken = Taken {
            plugged: self,
            names: found.iter().map(|f| f.name.clone()).collect(),
            open: None,
            functions: Vec::new(),
            complete: false,
            host,
        };
        self.check(gone)?;
        taken.open = Some(taken.host.open(request)?);
        self.check(gone)?;
        self.map(&taken, gone)?;
        self.check(gone)?;
        let port = self.port(&choice)?;
        let path = self.make(&mut taken, (request, &found), roms, &port)?;
        self.check(gone)?;
        self.publish(&mut taken, &port, path, gone)
    }

    /// Whether the add goes on.
    fn check(&self, gone: &dyn Fn() -> bool) -> Result<(), AddError> {
        match (self.has_ended(), gone()) {
            (true, _) => Err(AddError::Ended),
            (false, true) => Err(AddError::Gone),
            (false, false) => Ok(()),
        }
    }

    /// Refuses a device that the host does not have back yet.
    fn check_leaving(&self, request: &AddRequest) -> Result<(), AddError> {
        let leaving = self.leaving();
        let names = request.devices.iter().map(|d| parse_address(&d.address));
        let mut names = names.filter_map(|name| Some(name.ok()?.to_string()));
        match names.find(|name| leaving.contains(name)) {
            Some(name) => Err(AddError::Leaving(name)),
            None => Ok(()),
        }
    }

    /// The root ports of the guest.
    fn choices(&self) -> Vec<Choice> {
        let choice = |port: GuestPort| {
            let mut names = self.devices.names_behind(port.bdf).into_iter();
            let leaving = port.port.ask(|r| r.is_occupied());
            Choice {
                bdf: port.bdf,
                setup: port.setup,
                device: names
                    .next()
                    .or_else(|| leaving.then(|| "a device that leaves".into())),
            }
        };
        self.devices.ports().into_iter().map(choice).collect()
    }

    fn port(&self, choice: &Choice) -> Result<GuestPort, AddError> {
        let mut ports = self.devices.ports().into_iter();
        let port = ports.find(|port| port.bdf == choice.bdf);
        port.ok_or(AddError::NoPort)
    }

    fn map(&self, taken: &Taken<'_>, gone: &dyn Fn() -> bool) -> Result<(), AddError> {
        let Some(open) = &taken.open else {
            return Ok(());
        };
        let go_on = |mapped, size| {
            if let Some(id) = taken.names.first().cloned() {
                let event = RunEvent::DeviceAdding { id, mapped, size };
                self.run.events.tell(event);
            }
            self.check(gone).is_ok()
        };
        let mapped = taken.host.map(open, &go_on);
        // Why `go_on` has said no.
        self.check(gone)?;
        mapped
    }

    /// Makes the functions, and gives their BARs the addresses that they have after the next reset.
    fn make(
        &self,
        taken: &mut Taken<'_>,
        (request, found): (&AddRequest, &[Found]),
        roms: Vec<RomSource>,
        port: &GuestPort,
    ) -> Result<HostPath, AddError> {
        let Some(OpenForAdd { devices, dma }) = &taken.open else {
            return Err(AddError::Nothing);
        };
        let (devices, dma) = (devices.clone(), dma.clone());
        let paths = devices.iter().map(|device| host_path::of(&**device));
        let paths = paths.collect::<Result<Vec<_>, _>>().map_err(refused)?;
        let path = HostPath::shared(&paths);
        let numbers = plug_choice::numbers(found);
        let all = devices.into_iter().zip(&request.devices).zip(roms);
        for (((device, config), rom), number) in all.zip(numbers) {
            let host = device.name().parse();
            if let Some(why) = host.ok().and_then(|host| renumbered(host, number)) {
                info!("{why}");
            }
            let options = FunctionOptions {
                rom,
                clique: config.clique,
                position: Position::BehindPort(Arc::clone(port.port.upstream())),
                path,
                mechanisms: config.mechanisms,
            };
            let attached = self.make_one(device, options, (port, number), dma.clone());
            taken.functions.push(attached?);
        }
        let functions: Vec<_> = taken.functions.iter().map(|f| f.function.clone()).collect();
        let mut bars: Vec<Bars> = functions.iter().map(|f| f.bars()).collect();
        let device = taken.names.first().cloned().unwrap_or_default();
        assign_in_port(&mut bars, &port.setup)
            .map_err(|lacks| plug_choice::no_room(device, &lacks, self.real_host.ports()))?;
        // Opening has reset the devices that can be reset alone.
        reset::before_first_boot(&functions).map_err(refused)?;
        // After that reset: the guest finds BARs without addresses, whichever way the device was
        // reset.
        for (function, bars) in functions.iter().zip(bars) {
            function.set_bars_after_reset(bars);
        }
        Ok(path)
    }

    fn make_one(
        &self,
        device: SharedDevice,
        options: FunctionOptions,
        (port, number): (&GuestPort, u8),
        dma: Option<Arc<crate::memory::dma::Dma>>,
    ) -> Result<Attached, AddError> {
        let _phase = phase!("add_device", device.name());
        let device = self.stats.meter(device);
        let resources = self.resources.clone();
        let function = VfioFunction::new(device.clone(), resources, options).map_err(refused)?;
        let bdf = Bdf {
            bus: port.setup.secondary,
            device: 0,
            function: number,
            ..port.bdf
        };
        let at = (bdf, Some(port.bdf));
        let to = self.attach_to(dma.clone());
        let events = self.devices.connect(&device, &function, at, &to);
        Ok(Attached {
            bdf,
            port: Some(port.bdf),
            events: events.map_err(refused)?,
            function,
            dma,
        })
    }

    /// Puts the functions behind the port, and tells the guest.
    fn publish(
        &self,
        taken: &mut Taken<'_>,
        port: &GuestPort,
        path: HostPath,
        gone: &dyn Fn() -> bool,
    ) -> Result<Added, AddError> {
        self.wait_for_idle(port, gone);
        let changing = self.devices.changing();
        self.check(gone)?;
        // Another device may be on its way back.
        let wanted = self.wanted();
        if let Some(name) = wanted.iter().find(|name| taken.names.contains(name)) {
            return Err(AddError::Wanted(name.clone()));
        }
        drop(wanted);
        let functions: Vec<_> = taken.functions.iter().map(|f| f.function.clone()).collect();
        if let Some(failed) = functions.iter().find(|f| f.is_disconnected()) {
            return Err(AddError::Failed(failed.name().into()));
        }
        for (done, attached) in taken.functions.iter().enumerate() {
            let function = attached.function.clone();
            let added = self
                .root
                .add_behind(port.bdf, attached.bdf.function, function);
            if let Err(e) = added {
                for attached in taken.functions.iter().take(done) {
                    self.root.remove_behind(port.bdf, attached.bdf.function);
                }
                return Err(refused(e));
            }
        }
        taken.complete = true;
        taken.open = None;
        let attached = std::mem::take(&mut taken.functions);
        let secondary = port.port.upstream().now().secondary;
        let added: Vec<_> = attached.iter().map(|f| added(f, port, secondary)).collect();
        self.devices.add(attached);
        let heard = port.port.ask(|registers| registers.hears_changes());
        port.port.insert(&functions, path);
        drop(changing);
        for AddedFunction { name, bdf, .. } in &added {
            info!(
                "{name} is behind the root port at {} in the guest",
                port.bdf
            );
            let (id, bdf) = (name.clone(), *bdf);
            self.run.events.tell(RunEvent::DeviceAdded { id, bdf });
        }
        Ok(Added {
            functions: added,
            heard,
        })
    }

    /// Waits until the guest has finished with the device that was in the slot before, if it
    /// listens to the slot.
    fn wait_for_idle(&self, port: &GuestPort, gone: &dyn Fn() -> bool) {
        let idle = |r: &pci::root_port::RootPort| r.is_idle() || !r.hears_changes();
        let end = Instant::now() + IDLE_PATIENCE;
        let resets = port.port.resets();
        let over = || self.has_ended() || gone();
        port.port.wait_until(idle, resets, over, end);
    }
}

fn added(attached: &Attached, port: &GuestPort, secondary: u8) -> AddedFunction {
    AddedFunction {
        name: attached.function.name().into(),
        bdf: Bdf {
            bus: secondary,
            ..attached.bdf
        },
        port: port.bdf,
    }
}
