//! Descriptors that clients send with their requests.

use std::fs::File;
use std::io::{IoSlice, pipe};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::cmsg_space;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::*;
use crate::receive::Attached;

/// Answers what came with the request. A descriptor gets a byte written.
pub fn tell(caller: &Caller) -> Response {
    Response::json(&match caller.take_attached() {
        Attached::Nothing => "nothing",
        Attached::One(file) => {
            File::from(file).write_all(b"x").unwrap();
            "one"
        }
        Attached::Several => "several",
    })
}

/// Sends bytes with so many copies of a descriptor.
fn send(stream: &UnixStream, bytes: &[u8], file: &impl AsFd, copies: usize) {
    let files = vec![file.as_fd(); copies];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(4))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if copies > 0 {
        assert!(rights.push(SendAncillaryMessage::ScmRights(&files)));
    }
    let parts = [IoSlice::new(bytes)];
    let sent = sendmsg(stream, &parts, &mut rights, SendFlags::empty());
    assert_eq!(sent, Ok(bytes.len()));
}

/// The answers to requests, of which each part is sent with so many descriptors; and how many
/// descriptors were used. The pipe's end shows that none stays open. A witness changes nothing.
fn answers(parts: &[(&str, usize)]) -> (Vec<String>, usize) {
    let all = answers_of(&rig(), parts);
    let (rig, seen) = witnessed();
    assert_eq!(answers_of(&rig, parts), all);
    let seen = seen.load(Ordering::Relaxed) as usize;
    assert!(seen <= all.0.len());
    all
}

fn answers_of(rig: &Rig, parts: &[(&str, usize)]) -> (Vec<String>, usize) {
    let stream = rig.connect();
    let (mut reader, writer) = pipe().unwrap();
    for (bytes, copies) in parts {
        send(&stream, bytes.as_bytes(), &writer, *copies);
    }
    drop(writer);
    let answer = to_end(stream);
    let bodies = answer.split("\r\n\r\n").skip(1);
    let bodies = bodies.filter_map(|body| body.split('"').nth(1).map(String::from));
    let mut used = Vec::new();
    reader.read_to_end(&mut used).unwrap();
    (bodies.collect(), used.len())
}

#[test]
fn a_request_has_the_descriptor_of_its_bytes() {
    const CLOSE: &str = "Connection: close\r\n\r\n";
    let file = format!("PUT /file HTTP/1.1\r\n{CLOSE}");
    let now = format!("PUT /now HTTP/1.1\r\n{CLOSE}");
    let kept = "PUT /file HTTP/1.1\r\n\r\n";
    for (parts, bodies, used) in [
        (&[(&*file, 1)][..], &["one"][..], 1),
        (&[(&now, 1)], &["one"], 1),
        (&[(&file, 0)], &["nothing"], 0),
        (&[(&file, 2)], &["several"], 0),
        // As ch-remote sends it: with the first of several parts.
        (
            &[
                ("PUT /file HTTP/1.1\r\nConnection: close\r\n", 1),
                ("Content-Length: 2\r\n", 0),
                ("\r\n", 0),
                ("{}", 0),
            ],
            &["one"],
            1,
        ),
        (
            &[("PUT /file HTTP/1.1\r\n", 1), (CLOSE, 1)],
            &["several"],
            0,
        ),
        // One request after the other.
        (&[(kept, 1), (&file, 0)], &["one", "nothing"], 1),
        (&[(kept, 0), (&file, 1)], &["nothing", "one"], 1),
        (&[(kept, 1), (&file, 1)], &["one", "one"], 2),
        // Nobody takes it.
        (
            &[("GET /ping HTTP/1.1\r\n\r\n", 1), (&file, 0)],
            &["pong", "nothing"],
            0,
        ),
        (
            &[("nonsense\r\n\r\n", 1)],
            &["This is no request: invalid token"],
            0,
        ),
    ] {
        assert_eq!(
            answers(parts),
            (bodies.iter().map(|b| b.to_string()).collect(), used),
            "{parts:?}"
        );
    }
}

/// The request counts in which the message ends that had the descriptor.
#[test]
fn a_message_may_have_two_requests() {
    let kept = "PUT /file HTTP/1.1\r\n\r\n";
    let start = format!("{kept}PUT /fi");
    let rest = "le HTTP/1.1\r\nConnection: close\r\n\r\n";
    for (parts, bodies) in [
        ([(&*start, 1), (rest, 0)], ["nothing", "one"]),
        ([(&start, 0), (rest, 1)], ["nothing", "one"]),
    ] {
        assert_eq!(answers(&parts).0, bodies, "{parts:?}");
    }
}

/// A witness sees each request, whatever comes with those beside it. A request that it answers
/// reaches no route, and nobody keeps what came with it.
#[test]
fn a_witness_sees_the_requests_beside_descriptors() {
    let kept = "PUT /file HTTP/1.1\r\n\r\n";
    let last = "PUT /now HTTP/1.1\r\nConnection: close\r\n\r\n";
    let refused = "PUT /refused HTTP/1.1\r\n\r\n";
    for (parts, bodies, used) in [
        (
            [(kept, 1), (kept, 0), (last, 1)],
            ["one", "nothing", "one"],
            2,
        ),
        (
            [(kept, 0), (kept, 0), (last, 1)],
            ["nothing", "nothing", "one"],
            1,
        ),
        ([(kept, 1), (kept, 1), (last, 1)], ["one", "one", "one"], 3),
        (
            [(refused, 1), (refused, 0), (last, 1)],
            ["no", "no", "one"],
            1,
        ),
    ] {
        let (rig, seen) = witnessed();
        let (found, count) = answers_of(&rig, &parts);
        assert_eq!((&found[..], count), (&bodies.map(String::from)[..], used));
        assert_eq!(seen.load(Ordering::Relaxed), 3, "{parts:?}");
    }
}

#[test]
fn our_own_client_sends_a_file() {
    let rig = rig();
    let (mut reader, writer) = pipe().unwrap();
    let client = || Client::connect(&rig.path).unwrap();
    let answer = client().ask_with("PUT", "/file", Some(b"{}"), Some(writer.as_fd()));
    assert_eq!(answer.unwrap().body, b"\"one\"");
    let answer = client().ask("PUT", "/file", Some(b"{}"));
    assert_eq!(answer.unwrap().body, b"\"nothing\"");
    drop(writer);
    let mut used = Vec::new();
    reader.read_to_end(&mut used).unwrap();
    assert_eq!(used, b"x");
}
