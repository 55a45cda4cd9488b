//! `--api-socket`: what the socket of a running guest answers (docs/control.md).
//!
//! | file | what |
//! | --- | --- |
//! | [`routes`] | methods and paths, as Cloud Hypervisor has them where it has them |
//! | [`info`] | `vmm.ping` and `vm.info` |
//! | [`counters`] | `vm.counters` |
//! | [`pci`], [`message`] | `vm.pci`, and what a message of MSI means |
//! | [`summary`] | the configuration in `vm.info` |
//! | [`vm`] | what all answers are made of |
//!
//! The crate `api` has the socket, HTTP and the limits; `vmm::control` makes the changes.

pub mod counters;
pub mod info;
pub mod message;
pub mod pci;
pub mod routes;
pub mod summary;
pub mod vm;

use std::io;
use std::sync::Arc;

use api::events::EventLog;
use api::listener::{ListenError, Listener};
use api::server::Server;
use api::service::Service;
use serde::Serialize;
use vmm::control::Control;
use vmm::log::degraded;
use vmm::run_events::RunEvent;

use crate::control::vm::Vm;

/// Why a run has no socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket cannot be made.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The host has no threads or descriptors left.
    #[error("the API cannot be started")]
    Start(#[source] io::Error),
}

impl ControlError {
    /// The remedy.
    pub fn hint(&self) -> String {
        match self {
            Self::Listen(e) => e.hint(),
            Self::Start(_) => "raise the limits with `ulimit -n` and `ulimit -u`".into(),
        }
    }
}

/// Serves the socket until the returned server is dropped. Events of the run are published in
/// `vm.log` from now on.
///
/// # Errors
/// The host has no threads or descriptors left.
pub fn serve(listener: Listener, vm: Vm) -> Result<Server, ControlError> {
    let log = Arc::clone(&vm.log);
    publish(&vm.control, &log);
    let service = Service::new(routes::routes(&Arc::new(vm)));
    Server::start(listener, service, log).map_err(ControlError::Start)
}

/// What an event says beside its name.
#[derive(Default, Serialize)]
struct Said {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bdf: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mapped: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

/// The name of an event, and what it says.
fn described(event: RunEvent) -> (&'static str, Said) {
    let of = |id| Said {
        id: Some(id),
        ..Said::default()
    };
    match event {
        RunEvent::GuestReset => ("guest-reset", Said::default()),
        RunEvent::Paused => ("paused", Said::default()),
        RunEvent::Resumed => ("resumed", Said::default()),
        RunEvent::Shutdown(reason) => {
            let reason = Some(reason.into());
            (
                "shutdown",
                Said {
                    reason,
                    ..Said::default()
                },
            )
        }
        RunEvent::DeviceAdding { id, mapped, size } => {
            let (mapped, size) = (Some(mapped), Some(size));
            (
                "device-adding",
                Said {
                    mapped,
                    size,
                    ..of(id)
                },
            )
        }
        RunEvent::DeviceAdded { id, bdf } => {
            let bdf = Some(bdf.to_string());
            ("device-added", Said { bdf, ..of(id) })
        }
        RunEvent::DeviceRemoved { id, by } => {
            let by = Some(by.name());
            ("device-removed", Said { by, ..of(id) })
        }
        RunEvent::DeviceFailed { id, what, why } => {
            let (what, reason) = (Some(what), Some(why));
            (
                "device-failed",
                Said {
                    what,
                    reason,
                    ..of(id)
                },
            )
        }
    }
}

/// Publishes the events of the run, and each loss of the guest.
fn publish(control: &Control, log: &Arc<EventLog>) {
    let of_run = Arc::clone(log);
    control.events().observe(move |event| {
        let (name, said) = described(event);
        of_run.publish(name, &said);
    });
    let of_losses = Arc::clone(log);
    degraded::observe(move |loss| of_losses.publish("degraded", loss));
}
