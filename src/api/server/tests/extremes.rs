//! Ends and requests that are rare.

use std::fs;
use std::os::unix::net::UnixListener;

use rustix::fs::fstat;

use super::*;

/// A reader with more to read than a socket holds gets the last event all the same.
#[test]
fn the_last_event_comes_after_all_others() {
    let mut rig = rig();
    let text = "x".repeat(4000);
    for _ in 0..events::KEPT - 1 {
        rig.log
            .publish("much", &serde_json::json!({ "text": text }));
    }
    let reader = rig.send(b"GET /events?since=0 HTTP/1.1\r\n\r\n");
    assert!(rig.pings());
    rig.log.publish("last", &Nothing {});
    let reads = thread::spawn(move || to_end(reader));
    rig.server.stop();
    let read = reads.join().unwrap();
    assert_eq!(numbers(&read).last(), Some(&(events::KEPT as u64)));
    assert!(read.ends_with("\r\n0\r\n\r\n"));
}

/// A service manager may shut down the socket, of which this process has a copy. The kernel reports
/// that for as long as the socket is watched.
#[test]
fn a_socket_that_was_shut_down_is_closed() {
    let path = rig().path.with_extension("inherited");
    let socket = UnixListener::bind(&path).unwrap();
    fs::remove_file(path).unwrap();
    let copy = socket.try_clone().unwrap();
    let inode = fstat(&copy).unwrap().st_ino;
    let copies = || {
        let all = fs::read_dir("/proc/self/fd").unwrap();
        let names = all.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        let name = format!("socket:[{inode}]");
        names.filter(|link| link.as_os_str() == &*name).count()
    };
    let listener = Listener::inherit(socket.into()).unwrap();
    let log = Arc::new(EventLog::new().unwrap());
    let mut server = Server::start(listener, Service::new(Vec::new()), log).unwrap();
    assert_eq!(copies(), 2);
    rustix::net::shutdown(&copy, rustix::net::Shutdown::Both).unwrap();
    let end = Instant::now() + TIME_LIMIT / 6;
    while copies() == 2 {
        assert!(Instant::now() < end, "the socket is still watched");
        thread::sleep(Duration::from_millis(1));
    }
    server.stop();
}

/// The largest head, and chunks with as much framing as they may have, and more after it.
#[test]
fn a_request_that_fills_the_buffer_is_refused() {
    let rig = rig();
    let start = "PUT /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX: \r\n\r\n";
    let filler = "y".repeat(MAX_HEAD - start.len());
    let head = start.replace("X: ", &format!("X: {filler}"));
    let extended = |size: &str, bytes: usize| format!("{size};{}\r\n", "z".repeat(bytes));
    let body = "b".repeat(MAX_BODY);
    for rest in [8000, 8100, 8189, 16_000] {
        let request = [
            head.clone(),
            extended("10000", 8100),
            body.clone(),
            "\r\n".into(),
            extended("0", rest),
            "T: ".into(),
            "t".repeat(8000),
        ];
        let begun = Instant::now();
        let answer = rig.exchange(request.concat().as_bytes());
        assert_eq!(statuses(&answer), ["413"], "{rest}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    assert!(rig.pings());
}
