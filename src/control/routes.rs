//! Methods and paths of the socket (docs/control.md). resources/openapi.json describes them, and
//! tests/cli/openapi.rs compares.

use std::sync::Arc;

use api::message::{Response, Status};
use api::service::{Kind, Route};
use vmm::control::ControlRequest;
use vmm::log::error_chain::with_causes;

use crate::control::counters::counters;
use crate::control::info::{Info, Ping};
use crate::control::pci::Tree;
use crate::control::plug;
use crate::control::vm::Vm;

/// The path of the request that adds a device.
pub const ADD_DEVICE: &str = "/api/v1/vm.add-device";

/// All routes of the VM.
pub fn routes(vm: &Arc<Vm>) -> Vec<Route> {
    let with = |vm: &Arc<Vm>| Arc::clone(vm);
    let (info, counts, tree, end) = (with(vm), with(vm), with(vm), with(vm));
    let (adds, removes) = (with(vm), with(vm));
    vec![
        Route::new("GET", "/api/v1/vmm.ping", Kind::Now, |_, _| {
            Response::json(&Ping::new())
        }),
        Route::new("GET", "/api/v1/vm.info", Kind::Query, move |_, _| {
            Response::json(&Info::new(&info))
        }),
        Route::new("GET", "/api/v1/vm.counters", Kind::Query, move |_, _| {
            Response::json(&counters(&counts))
        }),
        Route::new("GET", "/api/v1/vm.pci", Kind::Query, move |_, _| {
            Response::json(&Tree::new(&tree.control))
        }),
        Route::new("GET", "/api/v1/vm.events", Kind::Events, |_, _| {
            Response::done()
        }),
        change(vm, "/api/v1/vm.pause", ControlRequest::Pause),
        change(vm, "/api/v1/vm.resume", ControlRequest::Resume),
        change(vm, "/api/v1/vm.reboot", ControlRequest::Reboot),
        change(vm, "/api/v1/vm.power-button", ControlRequest::PowerButton),
        Route::new("PUT", ADD_DEVICE, Kind::Change, move |request, caller| {
            plug::add(&adds, request, caller)
        }),
        Route::new(
            "PUT",
            "/api/v1/vm.remove-device",
            Kind::Change,
            move |request, caller| plug::remove(&removes, request, caller),
        ),
        // Not a change: an end must be possible during a change that takes long.
        Route::new(
            "PUT",
            "/api/v1/vm.shutdown",
            Kind::Now,
            move |request, _| {
                if let Some(refusal) = refuse_body(&request.body) {
                    return refusal;
                }
                end.control.shut_down();
                Response::done()
            },
        ),
    ]
}

/// A route that makes a change of the VM.
fn change(vm: &Arc<Vm>, path: &'static str, wanted: ControlRequest) -> Route {
    let vm = Arc::clone(vm);
    Route::new("PUT", path, Kind::Change, move |request, _| {
        if let Some(refusal) = refuse_body(&request.body) {
            return refusal;
        }
        match vm.control.change(wanted) {
            Ok(()) => Response::done(),
            Err(e) => {
                let status = match e.is_state() {
                    true => Status::MethodNotAllowed,
                    false => Status::InternalError,
                };
                let hint = e.hint().map(|hint| format!("hint: {hint}"));
                let lines = [Some(with_causes(&e)), hint];
                let lines: Vec<String> = lines.into_iter().flatten().collect();
                Response::error(status, &lines)
            }
        }
    })
}

/// Refuses a body that nobody would read.
fn refuse_body(body: &[u8]) -> Option<Response> {
    let why = "This request has no body";
    (!body.is_empty()).then(|| Response::error(Status::BadRequest, &[why]))
}
