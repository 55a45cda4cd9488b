//! `vm.add-device` and `vm.remove-device`.

use std::iter::repeat;
use std::os::fd::AsFd;

use api::message::{Request, Response, Status};
use api::receive::Attached;
use api::service::Caller;
use serde::Serialize;
use tracing::debug;
use vmm::config::device::DeviceConfig;
use vmm::given::{self, GivenError};
use vmm::hostinfo::name::{HostName, parse_address};
use vmm::hostinfo::sysfs::Sysfs;
use vmm::log::error_chain::with_causes;
use vmm::plug::{AddError, AddRequest, Added, AddedFunction, Refusal, RemoveError, RemoveRequest};
use vmm::sys::descriptor::Descriptor;

use crate::control::device::{AddDevice, BodyError, RemoveDevice};
use crate::control::ids::{IdError, Ids};
use crate::control::vm::Vm;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
enum PlugError {
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("{0} is not a device's address, UUID or path in sysfs")]
    Address(String),
    #[error(transparent)]
    Given(#[from] GivenError),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(transparent)]
    Add(#[from] AddError),
    #[error(transparent)]
    Remove(#[from] RemoveError),
}

impl PlugError {
    fn status(&self) -> Status {
        let of = |refusal| match refusal {
            Refusal::Request => Status::BadRequest,
            Refusal::NotFound => Status::NotFound,
            Refusal::State => Status::MethodNotAllowed,
            Refusal::Host => Status::InternalError,
        };
        match self {
            Self::Id(IdError::Taken(_)) => Status::Conflict,
            Self::Add(AddError::Present(_) | AddError::Leaving(_)) => Status::Conflict,
            Self::Add(e) => of(e.kind()),
            Self::Remove(e) => of(e.kind()),
            _ => Status::BadRequest,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Body(e) => e.hint(),
            Self::Address(_) => Some("`mini-vmm host list` shows the devices".into()),
            Self::Given(e) => Some(e.hint()),
            Self::Id(_) => None,
            Self::Add(e) => e.hint(),
            Self::Remove(e) => e.hint(),
        }
    }

    fn response(&self) -> Response {
        let hint = self.hint().map(|hint| format!("hint: {hint}"));
        let lines = [Some(with_causes(self)), hint].into_iter().flatten();
        Response::error(self.status(), &lines.collect::<Vec<_>>())
    }
}

/// The answer to an add: Cloud Hypervisor's fields are those of the first function.
#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    first: Option<Function>,
    functions: Vec<Function>,
    listens: bool,
}

#[derive(Serialize)]
struct Function {
    id: String,
    bdf: String,
    host: String,
    port: String,
}

/// Answers `vm.add-device`.
pub fn add(vm: &Vm, request: &Request, caller: &Caller) -> Response {
    match try_add(vm, request, caller) {
        Ok(answer) => Response::json(&answer),
        Err(e) => e.response(),
    }
}

fn try_add(vm: &Vm, request: &Request, caller: &Caller) -> Result<Answer, PlugError> {
    let file = match caller.take_attached() {
        Attached::Nothing => None,
        Attached::One(file) => Some(file),
        Attached::Several => return Err(BodyError::Descriptors.into()),
    };
    let body = AddDevice::parse(&request.body)?;
    let given = file.map(|file| given::received(&Sysfs::default(), file));
    let given = given.transpose()?;
    if let (Some(broker), Some((file, _))) = (&vm.broker, given) {
        // An open node is the right to its device.
        let shown = file.look().and_then(|file| broker.admit(file.as_fd()));
        shown.unwrap_or_else(|e| debug!("an open device is not shown: {e}"));
    }
    let added = add_functions(vm, &body, given, caller);
    if let (Err(_), Some((file, _))) = (&added, given) {
        // Nobody has used it.
        file.close();
    }
    Ok(Answer::new(&vm.ids, &added?))
}

/// Adds the functions of a body. Their ids are given first: the events of the add have them.
fn add_functions(
    vm: &Vm,
    body: &AddDevice,
    given: Option<(Descriptor, HostName)>,
    caller: &Caller,
) -> Result<Added, PlugError> {
    let mut devices = Vec::new();
    // A descriptor stands for the first function.
    for (function, given) in body.all().zip([given].into_iter().chain(repeat(None))) {
        let config = function.config(given)?;
        match given {
            Some((_, name)) if config.managed => return Err(GivenError::Managed(name).into()),
            _ => devices.push((function.id(), config)),
        }
    }
    let mut named = Vec::new();
    let added = give_names(&vm.ids, &devices, &mut named).and_then(|()| {
        let devices = devices.into_iter().map(|(_, config)| config).collect();
        let request = AddRequest { devices };
        Ok(vm.control.add(&request, &|| caller.is_gone())?)
    });
    if added.is_err() {
        named.iter().for_each(|host| vm.ids.forget(host));
    }
    added
}

/// Gives the functions the names that the client wants, and notes which have one now.
fn give_names(
    ids: &Ids,
    devices: &[(Option<&str>, DeviceConfig)],
    named: &mut Vec<String>,
) -> Result<(), PlugError> {
    for (id, DeviceConfig { address, .. }) in devices {
        let host = parse_address(address).map_err(|_| PlugError::Address(address.clone()))?;
        if let Some(id) = id {
            let host = host.to_string();
            if ids.give(&host, id)? {
                named.push(host);
            }
        }
    }
    Ok(())
}

impl Answer {
    fn new(ids: &Ids, added: &Added) -> Self {
        let function = |function: &AddedFunction| Function {
            id: ids.of(&function.name),
            bdf: function.bdf.to_string(),
            host: function.name.clone(),
            port: function.port.to_string(),
        };
        Self {
            first: added.functions.first().map(function),
            functions: added.functions.iter().map(function).collect(),
            listens: added.heard,
        }
    }
}

/// Answers `vm.remove-device`.
pub fn remove(vm: &Vm, request: &Request, caller: &Caller) -> Response {
    match try_remove(vm, &request.body, caller) {
        Ok(()) => Response::done(),
        Err(e) => e.response(),
    }
}

fn try_remove(vm: &Vm, body: &[u8], caller: &Caller) -> Result<(), PlugError> {
    let body = RemoveDevice::parse(body)?;
    let host = vm.ids.host(&body.id);
    let id = host.unwrap_or_else(|| match parse_address(&body.id) {
        Ok(name) => name.to_string(),
        Err(_) => body.id.clone(),
    });
    let request = RemoveRequest {
        id,
        force: body.force,
        timeout: body.timeout(),
    };
    vm.control.remove(&request, &|| caller.is_gone())?;
    Ok(())
}
