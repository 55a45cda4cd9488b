//! `vm.add-device` and `vm.remove-device` where no device can be added: what is refused, how, and
//! that nothing stays behind. Devices come and go in the lab (integration/tests/lab/hot_plug.rs).

use std::fs;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::cmsg_space;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;

use crate::common::schema::{check, openapi};
use crate::control::Guest;
use crate::kvm;
use crate::process::check_refusal;

/// A device that no host has: the last function of the last bus.
const NONE: &str = "0000:ff:1f.7";

fn guest(arguments: &[&str]) -> Guest {
    let guest = Guest::start(
        |g| {
            g.print("ready").hang();
        },
        arguments,
    );
    guest.run.stdout.wait_for("ready");
    guest
}

/// Sends a body, with so many copies of a file; returns the status and the lines of the answer.
fn put(guest: &Guest, verb: &str, body: &str, files: &[fs::File]) -> (u16, Vec<String>) {
    let mut stream = UnixStream::connect(guest.socket.path()).unwrap();
    let head = format!(
        "PUT /api/v1/vm.{verb} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(4))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        assert!(rights.push(SendAncillaryMessage::ScmRights(&files)));
    }
    let parts = [IoSlice::new(head.as_bytes())];
    sendmsg(&stream, &parts, &mut rights, SendFlags::empty()).unwrap();
    stream.write_all(format!("\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let openapi = openapi();
    let described = &openapi["paths"][format!("/vm.{verb}")]["put"]["responses"];
    let described = &described[head.split(' ').nth(1).unwrap()];
    assert!(described.is_object(), "{verb}: {status} is not described");
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let schema = &described["content"]["application/json"]["schema"];
    check(&openapi, schema, &body, verb);
    (status, serde_json::from_value(body).unwrap_or_default())
}

#[track_caller]
fn refuses(answer: &(u16, Vec<String>), status: u16, message: &str, hint: &str) {
    let (found, lines) = answer;
    let said = lines.join("\n");
    let hints = lines
        .iter()
        .any(|line| line.starts_with("hint: ") && line.contains(hint));
    assert!(*found == status && said.contains(message), "{found} {said}");
    assert!(hint.is_empty() || hints, "{said}");
}

#[test]
fn what_is_no_request_is_refused() {
    if !kvm() {
        return;
    }
    let guest = guest(&["--ports", "1"]);
    for (body, message, hint) in [
        (
            "",
            "the body is not as vm.add-device takes it",
            "docs/control.md",
        ),
        ("{\"path\":", "EOF", "docs/control.md"),
        ("{}", "names no device", "/sys/bus/pci/devices/ADDR"),
        (
            "{\"path\":\"1:0.0\",\"mode\":1}",
            "unknown field `mode`",
            "",
        ),
        ("{\"path\":\"1:0.0\",\"iommu\":true}", "no IOMMU", ""),
        (
            "{\"path\":\"1:0.0\",\"slot\":\"99\"}",
            "not a value for `slot`",
            "slot=05.0",
        ),
        ("{\"path\":\"1:0.0\",\"id\":\"a b\"}", "an `id` has", ""),
        (
            "{\"path\":\"nonsense\"}",
            "nonsense is not a device's address",
            "host list",
        ),
    ] {
        refuses(&put(&guest, "add-device", body, &[]), 400, message, hint);
    }
    let body = format!("{{\"path\":\"/sys/bus/pci/devices/{NONE}/\"}}");
    refuses(&put(&guest, "add-device", &body, &[]), 400, NONE, "");
    for (body, status, message) in [
        ("", 400, "the body is not as vm.remove-device takes it"),
        ("{\"id\":7}", 400, "invalid type"),
        ("{\"id\":\"gpu\"}", 404, "no device gpu"),
        (
            "{\"id\":\"1:0.0\",\"force\":true}",
            404,
            "no device 0000:01:00.0",
        ),
    ] {
        refuses(
            &put(&guest, "remove-device", body, &[]),
            status,
            message,
            "",
        );
    }
}

/// The descriptors of the requests are closed, and the run has as many files as before.
#[test]
fn a_file_that_is_no_device_is_refused_and_closed() {
    if !kvm() {
        return;
    }
    let guest = guest(&["--ports", "1"]);
    let files = || {
        let files = fs::read_dir(format!("/proc/{}/fd", guest.run.pid())).unwrap();
        files.count()
    };
    // The first request may open what stays open.
    let null = || {
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
            .unwrap()
    };
    let first = put(&guest, "add-device", "{}", &[null()]);
    refuses(
        &first,
        400,
        "not a device's node in /dev/vfio/devices",
        "vfio-dev",
    );
    let before = files();
    for (body, message) in [
        ("{}", "not a device's node in /dev/vfio/devices"),
        (
            "{\"managed\":true}",
            "not a device's node in /dev/vfio/devices",
        ),
        ("nonsense", "the body is not as"),
    ] {
        refuses(
            &put(&guest, "add-device", body, &[null()]),
            400,
            message,
            "",
        );
    }
    let two = put(&guest, "add-device", "{}", &[null(), null()]);
    refuses(&two, 400, "more than one descriptor", "");
    // A request that takes none.
    refuses(
        &put(&guest, "remove-device", "{\"id\":\"x\"}", &[null()]),
        404,
        "no device",
        "",
    );
    assert_eq!(files(), before);
}

#[test]
fn a_guest_without_ports_or_paused_takes_no_device() {
    if !kvm() {
        return;
    }
    let guest = guest(&["--ports", "1"]);
    guest.ctl(&["pause"]);
    let body = format!("{{\"path\":\"{NONE}\"}}");
    let paused = put(&guest, "add-device", &body, &[]);
    refuses(
        &paused,
        405,
        "the guest is paused",
        "mini-vmm ctl PATH resume",
    );
    check_refusal(
        &guest.try_ctl(&["add", NONE]),
        "the guest is paused",
        "ctl PATH resume",
    );
    guest.ctl(&["resume"]);
    check_refusal(&guest.try_ctl(&["add", NONE]), NONE, "host list");
    check_refusal(
        &guest.try_ctl(&["add", "1:0.0,slot=77"]),
        "`77` is not a value",
        "slot=05.0",
    );
    check_refusal(
        &guest.try_ctl(&["add", "fd=77"]),
        "descriptor 77 is not open",
        "77<>NODE",
    );
    check_refusal(
        &guest.try_ctl(&["add", "1:0.0", "fd=0"]),
        "the first function alone",
        "addresses",
    );
    let missing = guest.try_ctl(&["remove", "1:0.0", "--timeout", "3"]);
    let said = String::from_utf8_lossy(&missing.stderr);
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        said.contains("the guest has no device 0000:01:00.0"),
        "{said}"
    );
}
