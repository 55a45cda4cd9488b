//! The lines of `vm.events` (docs/control.md).

use std::sync::Arc;

use api::events::EventLog;
use serde::Serialize;
use vmm::control::Control;
use vmm::log::degraded;
use vmm::run_events::RunEvent;

use crate::control::ids::Ids;

/// What an event says beside its name.
#[derive(Default, Serialize)]
struct Fields {
    /// The client's name of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bdf: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mapped: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// Publishes the events of the run, and each loss of the guest.
pub fn publish(control: &Control, log: &Arc<EventLog>, ids: &Arc<Ids>) {
    let (of_run, ids) = (Arc::clone(log), Arc::clone(ids));
    control.events().observe(move |event| {
        let gone = match &event {
            RunEvent::DeviceRemoved { id, .. } => Some(id.clone()),
            _ => None,
        };
        let (name, fields) = line(event, &ids);
        of_run.publish(name, &fields);
        if let Some(host) = gone {
            ids.forget(&host);
        }
    });
    let of_losses = Arc::clone(log);
    degraded::observe(move |loss| of_losses.publish("degraded", loss));
}

/// The name and the fields of an event.
fn line(event: RunEvent, ids: &Ids) -> (&'static str, Fields) {
    let of = |host: String| Fields {
        id: Some(ids.of(&host)),
        host: Some(host),
        ..Fields::default()
    };
    match event {
        RunEvent::GuestReset => ("guest-reset", Fields::default()),
        RunEvent::Paused => ("paused", Fields::default()),
        RunEvent::Resumed => ("resumed", Fields::default()),
        RunEvent::Shutdown(reason) => {
            let reason = Some(reason);
            (
                "shutdown",
                Fields {
                    reason,
                    ..Fields::default()
                },
            )
        }
        RunEvent::DeviceAdding { id, mapped, size } => {
            let (mapped, size) = (Some(mapped), Some(size));
            (
                "device-adding",
                Fields {
                    mapped,
                    size,
                    ..of(id)
                },
            )
        }
        RunEvent::DeviceAdded { id, bdf } => {
            let bdf = Some(bdf.to_string());
            ("device-added", Fields { bdf, ..of(id) })
        }
        RunEvent::DeviceRemoved { id, by } => {
            let by = Some(by.name());
            ("device-removed", Fields { by, ..of(id) })
        }
        RunEvent::DeviceFailed { id, what, why } => {
            let (what, why) = (Some(what), Some(why));
            (
                "device-failed",
                Fields {
                    what,
                    why,
                    ..of(id)
                },
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm::plug::RemovedBy;

    use super::*;

    fn json(event: RunEvent, ids: &Ids) -> String {
        let (name, fields) = line(event, ids);
        format!("{name} {}", serde_json::to_string(&fields).unwrap())
    }

    #[test]
    fn events_have_the_clients_name_and_the_hosts() {
        let ids = Ids::default();
        let host = "0000:06:00.0";
        ids.give(host, "disk").unwrap();
        let names = r#"{"id":"disk","host":"0000:06:00.0""#;
        let id = || host.to_owned();
        let bdf = "0000:01:00.0".parse().unwrap();
        let why = "late".to_owned();
        for (event, says) in [
            (
                RunEvent::DeviceAdding {
                    id: id(),
                    mapped: 1,
                    size: 2,
                },
                format!(r#"device-adding {names},"mapped":1,"size":2}}"#),
            ),
            (
                RunEvent::DeviceAdded { id: id(), bdf },
                format!(r#"device-added {names},"bdf":"0000:01:00.0"}}"#),
            ),
            (
                RunEvent::DeviceRemoved {
                    id: id(),
                    by: RemovedBy::Host,
                },
                format!(r#"device-removed {names},"by":"host"}}"#),
            ),
            (
                RunEvent::DeviceFailed {
                    id: id(),
                    what: "remove",
                    why,
                },
                format!(r#"device-failed {names},"what":"remove","why":"late"}}"#),
            ),
            (RunEvent::Paused, "paused {}".into()),
            (
                RunEvent::Shutdown("asked"),
                r#"shutdown {"reason":"asked"}"#.into(),
            ),
        ] {
            assert_eq!(json(event, &ids), says);
        }
    }
}
