//! resources/openapi.json describes what the control socket answers: each path, method, status code
//! and body.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::schema::{check, openapi};
use crate::control::Guest;
use crate::kvm;
use crate::process::PROGRAM;

const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "PATCH"];

/// The methods of a path, in capitals.
fn methods(path: &Value) -> BTreeSet<String> {
    let methods = path.as_object().unwrap().keys();
    methods.map(|m| m.to_uppercase()).collect()
}

#[test]
fn all_paths_of_the_code_are_described() {
    let code = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/control/routes.rs");
    let code = fs::read_to_string(code).unwrap();
    let quoted = code.split('"').skip(1).step_by(2);
    let routes: BTreeSet<_> = quoted.filter_map(|s| s.strip_prefix("/api/v1")).collect();
    let openapi = openapi();
    let described = openapi["paths"].as_object().unwrap().keys();
    assert_eq!(routes, described.map(String::as_str).collect());
    assert!(routes.len() >= 10);
}

/// Sends a request; returns the status, the field `Allow`, and the body.
fn ask(guest: &Guest, method: &str, path: &str, more: &str) -> (String, Option<String>, Value) {
    let request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{more}\r\n");
    let answer = guest.raw(&request);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().to_owned();
    let allow = head.lines().find_map(|line| line.strip_prefix("Allow: "));
    let body = serde_json::from_str(body).unwrap_or_default();
    (status, allow.map(String::from), body)
}

/// The status code and the body of an answer must be described for its path.
fn described(openapi: &Value, path: &str, method: &str, status: &str, body: &Value) {
    let answer = &openapi["paths"][path][method.to_lowercase()]["responses"][status];
    assert!(
        answer.is_object(),
        "{method} {path}: {status} is not described"
    );
    let schema = &answer["content"]["application/json"]["schema"];
    assert_eq!(
        schema.is_null(),
        body.is_null(),
        "{method} {path}: {status}"
    );
    if !body.is_null() {
        check(openapi, schema, body, &format!("{method} {path}"));
    }
}

/// Each path refuses other methods and malformed requests, and answers questions, as described.
fn paths_answer(openapi: &Value, guest: &Guest) {
    for (path, of_path) in openapi["paths"].as_object().unwrap() {
        let url = format!("/api/v1{path}");
        let allowed = methods(of_path);
        for method in METHODS.into_iter().filter(|m| !allowed.contains(*m)) {
            let (status, allow, _) = ask(guest, method, &url, "");
            let allow: BTreeSet<_> = allow.unwrap().split(", ").map(String::from).collect();
            assert_eq!((&*status, &allow), ("405", &allowed), "{method} {path}");
        }
        for method in &allowed {
            let long = format!("X: {}\r\n", "y".repeat(9000));
            for (more, expected) in [
                ("Content-Length: x\r\n", "400"),
                ("Content-Length: 99999\r\n", "413"),
                (&*long, "431"),
            ] {
                let (status, _, body) = ask(guest, method, &url, more);
                assert_eq!(status, expected, "{method} {path}");
                described(openapi, path, method, &status, &body);
            }
        }
        if allowed.contains("GET") && path != "/vm.events" {
            let (status, _, body) = ask(guest, "GET", &url, "");
            assert_eq!(status, "200", "{path}");
            described(openapi, path, "GET", &status, &body);
        }
    }
}

#[test]
fn answers_are_as_described() {
    if !kvm() {
        return;
    }
    let openapi = openapi();
    let mut guest = Guest::start(
        |g| {
            g.print("ready").hang();
        },
        &["--cpus", "2", "--stats"],
    );
    paths_answer(&openapi, &guest);
    for (verb, expected) in [
        ("resume", "405"),
        ("pause", "204"),
        ("pause", "405"),
        ("resume", "204"),
        ("reboot", "204"),
        ("power-button", "204"),
    ] {
        let path = format!("/vm.{verb}");
        let (status, _, body) = ask(&guest, "PUT", &format!("/api/v1{path}"), "");
        assert_eq!(status, expected, "{verb}");
        described(&openapi, &path, "PUT", &status, &body);
        let with_body = "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n";
        assert_eq!(
            ask(&guest, "PUT", &format!("/api/v1{path}"), with_body).0,
            "400"
        );
    }
    let mut follow = Command::new(PROGRAM);
    follow.arg("ctl").arg(guest.socket.path());
    let mut follow = follow
        .args(["events", "--since", "0", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut events = BufReader::new(follow.stdout.take().unwrap()).lines();
    let first = events.next().unwrap().unwrap();
    let (status, _, body) = ask(&guest, "PUT", "/api/v1/vm.shutdown", "");
    assert_eq!(status, "204");
    described(&openapi, "/vm.shutdown", "PUT", &status, &body);
    guest.run.status();
    let events: Vec<String> = events.map(Result::unwrap).collect();
    assert!(follow.wait().unwrap().success() && events.len() >= 3);
    let schema = &openapi["components"]["schemas"]["VmEvent"];
    for line in [first].iter().chain(&events) {
        let event = serde_json::from_str(line).unwrap();
        check(&openapi, schema, &event, "an event");
    }
}
