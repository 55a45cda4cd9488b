use proptest::prelude::*;

use super::*;

fn whole(bytes: &[u8]) -> (Request, usize) {
    match parse(bytes) {
        Parsed::Whole(request, used) => (*request, used),
        other => panic!("{other:?}"),
    }
}

fn refused(bytes: &[u8]) -> Status {
    match parse(bytes) {
        Parsed::Bad(response) => response.status,
        other => panic!("{other:?}"),
    }
}

/// What Cloud Hypervisor's ch-remote sends (api_client/src/lib.rs): three writes, of which the
/// second comes only with a body.
#[test]
fn requests_of_ch_remote() {
    for (method, command) in [
        ("GET", "vmm.ping"),
        ("GET", "vm.info"),
        ("GET", "vm.counters"),
        ("PUT", "vm.pause"),
        ("PUT", "vm.resume"),
        ("PUT", "vm.power-button"),
        ("PUT", "vm.reboot"),
        ("PUT", "vm.shutdown"),
    ] {
        let head =
            format!("{method} /api/v1/{command} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n");
        assert_eq!(
            parse(head.as_bytes()),
            Parsed::Partial { expects: false },
            "the first write"
        );
        let (request, used) = whole(format!("{head}\r\n").as_bytes());
        assert_eq!(used, head.len() + 2);
        assert_eq!((&*request.method, &*request.body), (method, &b""[..]));
        assert_eq!(request.path, format!("/api/v1/{command}"));
        assert!(request.keep_alive && request.chunks);
    }
    let body = r#"{"id":"0000:01:00.0"}"#;
    let (request, _) = whole(
        format!(
            "PUT /api/v1/vm.remove-device HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    );
    assert_eq!(request.body, body.as_bytes());
}

#[test]
fn a_target_is_a_path_or_a_uri() {
    for (target, path, query) in [
        ("/a?since=3", "/a", "since=3"),
        ("http://localhost/a?b=c?d", "/a", "b=c?d"),
        ("HTTP://localhost", "/", ""),
        ("*", "*", ""),
    ] {
        let (request, _) = whole(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes());
        assert_eq!((&*request.path, &*request.query), (path, query));
    }
}

#[test]
fn bodies() {
    let (request, used) = whole(b"PUT /a HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcGET");
    assert_eq!((&request.body[..], used), (&b"abc"[..], 41));
    let chunked = b"PUT /a HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET";
    let (request, used) = whole(chunked);
    assert_eq!((&request.body[..], used), (&b"abc"[..], chunked.len() - 3));
    let waits = b"PUT /a HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(parse(waits), Parsed::Partial { expects: true });
    let sent = [&waits[..], b"a"].concat();
    assert_eq!(parse(&sent), Parsed::Partial { expects: false });
}

#[test]
fn a_body_of_two_lengths_is_refused() {
    for fields in [
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 3, 3\r\n",
        "Content-Length: \r\n",
        "Content-Length : 3\r\n",
    ] {
        let bytes = format!("PUT /a HTTP/1.1\r\n{fields}\r\nabc");
        assert_eq!(refused(bytes.as_bytes()), Status::BadRequest, "{fields}");
    }
    let twice = b"PUT /a HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(whole(twice).0.body, b"abc");
    let gzip = b"PUT /a HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n";
    assert_eq!(refused(gzip), Status::NotImplemented);
    let old = b"PUT /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(refused(old), Status::BadRequest);
}

#[test]
fn the_connection_stays_open_or_not() {
    for (version, fields, keep) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: x, Close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
    ] {
        let (request, _) = whole(format!("GET / HTTP/{version}\r\n{fields}\r\n").as_bytes());
        assert_eq!(request.keep_alive, keep, "{version} {fields}");
        assert_eq!(request.chunks, version == "1.1");
    }
}

/// A head of exactly `size` bytes.
fn head_of(size: usize) -> Vec<u8> {
    let empty = b"GET /a HTTP/1.1\r\nX: \r\n\r\n".len();
    format!("GET /a HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(size - empty)).into_bytes()
}

#[test]
fn limits() {
    assert_eq!(whole(&head_of(MAX_HEAD)).1, MAX_HEAD);
    assert_eq!(refused(&head_of(MAX_HEAD + 1)), Status::HeadTooLarge);
    assert_eq!(refused(&vec![b'a'; MAX_HEAD]), Status::HeadTooLarge);
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65));
    assert_eq!(refused(many.as_bytes()), Status::HeadTooLarge);
    let with = |length: &str| format!("PUT / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
    let full = [with("65536").into_bytes(), vec![b'x'; MAX_BODY]].concat();
    assert_eq!(whole(&full).0.body.len(), MAX_BODY);
    for length in ["65537", "99999999999999999999999999"] {
        assert_eq!(refused(with(length).as_bytes()), Status::ContentTooLarge);
    }
    let chunked = b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n10001\r\n";
    assert_eq!(refused(chunked), Status::ContentTooLarge);
}

#[test]
fn no_request() {
    for bytes in [
        &b"\0\0\0\0"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\n folded: x\r\n\r\n",
    ] {
        assert_eq!(refused(bytes), Status::BadRequest, "{bytes:?}");
    }
}

proptest! {
    /// Any bytes get an outcome that has no more bytes than were there.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Parsed::Whole(_, used) = parse(&bytes) {
            prop_assert!(used <= bytes.len());
        }
    }

    /// A request is the same however its bytes arrive, and whatever follows.
    #[test]
    fn a_request_does_not_depend_on_its_parts(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..5),
        in_chunks: bool,
        after in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let body = chunks.concat();
        let mut bytes = b"PUT /x?y=z HTTP/1.1\r\nHost: h\r\n".to_vec();
        if in_chunks {
            bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            for chunk in &chunks {
                bytes.extend(format!("{:X}\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
        } else {
            bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
            bytes.extend(&body);
        }
        let size = bytes.len();
        for cut in 0..size {
            prop_assert_eq!(parse(&bytes[..cut]), Parsed::Partial { expects: false });
        }
        bytes.extend(after);
        let (request, used) = whole(&bytes);
        prop_assert_eq!((request.body, used), (body, size));
    }
}
