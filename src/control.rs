//! `--api-socket`: what the socket of a running guest answers (docs/control.md).
//!
//! | file | what |
//! | --- | --- |
//! | [`routes`] | methods and paths, as Cloud Hypervisor has them where it has them |
//! | [`info`] | `vmm.ping` and `vm.info` |
//! | [`counters`] | `vm.counters` |
//! | [`clients`] | which devices clients name, for the process that opens devices |
//! | [`plug`], [`device`] | `vm.add-device` and `vm.remove-device`, and their bodies |
//! | [`ids`] | the names that clients give to devices |
//! | [`events`] | the lines of `vm.events` |
//! | [`pci`], [`message`] | `vm.pci`, and what a message of MSI means |
//! | [`summary`] | the configuration in `vm.info` |
//! | [`vm`] | what all answers are made of |
//!
//! The crate `api` has the socket, HTTP and the limits; `vmm::control` makes the changes.

pub mod clients;
pub mod counters;
pub mod device;
pub mod events;
pub mod ids;
pub mod info;
pub mod message;
pub mod pci;
pub mod plug;
pub mod routes;
pub mod summary;
pub mod vm;

use std::io;
use std::sync::Arc;

use api::listener::{ListenError, Listener};
use api::message::{Response, Status};
use api::server::Server;
use api::service::{ServerThread, Service};
use tracing::debug;
use vmm::sandbox::{self, Kind, run_as};

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

/// The answer to a client that may not have what it asks for, as it is not root's.
fn not_roots(user: &str) -> Response {
    let why = format!(
        "A client of {user} adds only devices of which {user} may open the node, and none with \
         `managed`: those are root's"
    );
    let hint = format!(
        "hint: as root: mini-vmm host bind ADDR --user {user}; then send the request without \
         `managed`; or send it as root"
    );
    Response::error(Status::Forbidden, &[&why, &hint])
}

/// Serves the socket until the returned server is dropped. Events of the run are published in
/// `vm.log` from now on.
///
/// # Errors
/// The host has no threads or descriptors left.
pub fn serve(listener: Listener, vm: Vm) -> Result<Server, ControlError> {
    let log = Arc::clone(&vm.log);
    events::publish(&vm.control, &log, &vm.ids);
    let broker = vm.broker.clone();
    let service = Service::new(routes::routes(&Arc::new(vm)));
    let service = match broker {
        None => service,
        // The process that opens devices sees the request before this one reads it.
        Some(opener) => service.witnessed_by(Arc::new(move |request, connection| {
            if request.path != routes::ADD_DEVICE {
                return None;
            }
            let e = opener.admit(connection).err()?;
            debug!("the request is not seen by the process that opens devices: {e}");
            let user = run_as::user().filter(|_| e.raw_os_error() == Some(libc::EPERM))?;
            Some(not_roots(user))
        })),
    };
    let service = service.begin_threads_with(|thread| {
        sandbox::enter(match thread {
            ServerThread::Connections => Kind::Api,
            ServerThread::Queries => Kind::Queries,
            ServerThread::Changes => Kind::Changes,
        });
    });
    Server::start(listener, service, log).map_err(ControlError::Start)
}
