//! The requests of Cloud Hypervisor's `ch-remote`, byte by byte as it sends them, and its way to
//! read an answer (api_client/src/lib.rs of Cloud Hypervisor 54).

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use crate::common::schema::openapi;
use crate::control::Guest;
use crate::kvm;

/// A verb of ch-remote: its method, its path below /api/v1, and its body.
struct Request {
    method: &'static str,
    path: &'static str,
    body: Option<&'static str>,
}

const fn get(path: &'static str) -> Request {
    let (method, body) = ("GET", None);
    Request { method, path, body }
}

const fn put(path: &'static str) -> Request {
    let (method, body) = ("PUT", None);
    Request { method, path, body }
}

const fn with(path: &'static str, body: &'static str) -> Request {
    let (method, body) = ("PUT", Some(body));
    Request { method, path, body }
}

/// What mini-vmm has too, with the status of the answer.
const COMMON: &[(Request, u16)] = &[
    (get("vmm.ping"), 200),
    (get("vm.info"), 200),
    (get("vm.counters"), 200),
    (put("vm.pause"), 204),
    (put("vm.resume"), 204),
    (put("vm.power-button"), 204),
    (put("vm.reboot"), 204),
    // The host has no such device, and the guest has none.
    (with("vm.add-device", ADD), 400),
    (with("vm.remove-device", "{\"id\":\"_vfio3\"}"), 404),
    (put("vm.shutdown"), 204),
];

/// What ch-remote makes of `add-device path=/sys/bus/pci/devices/0000:ff:1f.7/`.
const ADD: &str = "{\"pci_segment\":0,\"path\":\"/sys/bus/pci/devices/0000:ff:1f.7/\",\
                   \"x_exclude_mmap_bars\":[]}";

/// What is not for a guest of mini-vmm, whose VM is made, started and ended with its process.
const OTHERS: &[Request] = &[
    put("vmm.shutdown"),
    with("vm.create", "{\"payload\":{}}"),
    put("vm.boot"),
    put("vm.delete"),
    put("vm.nmi"),
    with("vm.resize", "{\"desired_vcpus\":2}"),
    with("vm.resize-disk", "{\"id\":\"_disk0\",\"desired_size\":1}"),
    with("vm.resize-zone", "{\"id\":\"mem0\",\"desired_ram\":1}"),
    with("vm.add-disk", "{\"path\":\"/disk\"}"),
    with("vm.add-fs", "{\"tag\":\"t\"}"),
    with("vm.add-generic-vhost-user", "{}"),
    with("vm.add-pmem", "{\"file\":\"/pmem\"}"),
    with("vm.add-net", "{\"tap\":\"tap0\"}"),
    with("vm.add-user-device", "{\"socket\":\"/socket\"}"),
    with("vm.add-vdpa", "{\"path\":\"/dev/vhost-vdpa\"}"),
    with("vm.add-vsock", "{\"cid\":3}"),
    with("vm.snapshot", "{\"destination_url\":\"file:///s\"}"),
    with("vm.restore", "{\"source_url\":\"file:///s\"}"),
    with("vm.coredump", "{\"destination_url\":\"file:///s\"}"),
    with("vm.send-migration", "{\"destination_url\":\"unix:/s\"}"),
    with("vm.receive-migration", "{\"receiver_url\":\"unix:/s\"}"),
];

/// A client as ch-remote is one: up to four writes, on a connection that stays open.
fn ask(guest: &Guest, request: &Request) -> (u16, Option<Value>) {
    let mut stream = UnixStream::connect(guest.socket.path()).unwrap();
    let limit = Some(Duration::from_secs(60));
    stream.set_read_timeout(limit).unwrap();
    let Request { method, path, body } = request;
    let head = format!("{method} /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n");
    let length = body.map(|body| format!("Content-Length: {}\r\n", body.len()));
    let parts = [Some(&*head), length.as_deref(), Some("\r\n"), *body];
    for part in parts.into_iter().flatten() {
        stream.write_all(part.as_bytes()).unwrap();
    }
    stream.flush().unwrap();
    // The head alone says whether there is a body: without Content-Length there is none.
    let (mut text, mut buffer) = (String::new(), [0; 256]);
    loop {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "{path}: {text}");
        text += str::from_utf8(&buffer[..count]).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let status = head.strip_prefix("HTTP/1.1 ").unwrap()[..3]
            .parse()
            .unwrap();
        let length = head.split_once("Content-Length: ").map(|(_, rest)| rest);
        match length.map(|rest| rest.lines().next().unwrap().parse::<usize>().unwrap()) {
            None => return (status, None),
            Some(length) if body.len() >= length => {
                return (status, Some(serde_json::from_str(body).unwrap()));
            }
            Some(_) => {}
        }
    }
}

/// Each path that Cloud Hypervisor has as well is among the requests, with its method.
#[test]
fn all_common_paths_are_asked() {
    let openapi = openapi();
    let ours = openapi["paths"].as_object().unwrap();
    let ours: BTreeSet<_> = ours.keys().map(|path| &path[1..]).collect();
    let asked: BTreeSet<_> = COMMON.iter().map(|(request, _)| request.path).collect();
    let own = BTreeSet::from(["vm.events", "vm.pci"]);
    assert_eq!(asked.union(&own).copied().collect::<BTreeSet<_>>(), ours);
    for (Request { method, path, .. }, _) in COMMON {
        let of_path = openapi["paths"][format!("/{path}")].as_object().unwrap();
        assert!(of_path.contains_key(&method.to_lowercase()), "{path}");
    }
}

#[test]
fn ch_remote_is_answered() {
    if !kvm() {
        return;
    }
    let mut guest = Guest::start(
        |g| {
            g.print("ready").hang();
        },
        &[],
    );
    guest.run.stdout.wait_for("ready");
    for request in OTHERS {
        let (status, body) = ask(&guest, request);
        let says = format!("There is no /api/v1/{}", request.path);
        assert_eq!(
            (status, body),
            (404, Some(vec![says].into())),
            "{}",
            request.path
        );
    }
    for (request, expected) in COMMON {
        let (status, body) = ask(&guest, request);
        assert_eq!(status, *expected, "{}: {body:?}", request.path);
        assert_eq!(body.is_some(), status != 204, "{}", request.path);
    }
    guest.run.ends_well();
}
