//! Clients that follow the events of a run, and one that reads them too slowly.

use super::*;

#[test]
fn events_are_followed() {
    let mut rig = rig();
    rig.log.publish("one", &Nothing {});
    rig.log.publish("two", &Nothing {});
    let new = rig.send(b"GET /events HTTP/1.1\r\n\r\n");
    let all = rig.send(b"GET /events?since=0 HTTP/1.1\r\n\r\n");
    let rest = rig.send(b"GET /events?since=1 HTTP/1.0\r\n\r\n");
    for wrong in ["since=3", "since=x", "since="] {
        let request = format!("GET /events?{wrong} HTTP/1.1\r\nConnection: close\r\n\r\n");
        assert_eq!(
            statuses(&rig.exchange(request.as_bytes())),
            ["400"],
            "{wrong}"
        );
    }
    rig.log.publish("three", &Nothing {});
    // A client sees each event when it happens, and the last one at the end.
    let (sender, receiver) = std::sync::mpsc::channel();
    let path = rig.path.clone();
    let client = thread::spawn(move || {
        let client = Client::connect(&path).unwrap();
        let each = |line: &str| sender.send(line.to_owned()).is_ok();
        client.follow("/events?since=2", each).unwrap()
    });
    let first = receiver.recv_timeout(TIME_LIMIT).unwrap();
    assert!(first.contains("\"three\""), "{first}");
    rig.log.publish("last", &Nothing {});
    rig.server.stop();
    assert!(
        receiver
            .recv_timeout(TIME_LIMIT)
            .unwrap()
            .contains("\"last\"")
    );
    assert_eq!(client.join().unwrap(), None);
    let (new, all, rest) = (to_end(new), to_end(all), to_end(rest));
    assert_eq!(numbers(&new), [3, 4]);
    assert_eq!(numbers(&all), [1, 2, 3, 4]);
    assert_eq!(numbers(&rest), [2, 3, 4]);
    assert!(all.contains("Transfer-Encoding: chunked") && all.ends_with("\r\n0\r\n\r\n"));
    assert!(!rest.contains("chunked"));
    assert!(!rig.path.exists());
}

/// A reader that does not read gets `lost`, and nobody waits for it.
#[test]
fn a_slow_reader_of_events() {
    let rig = rig();
    let slow = rig.send(b"GET /events HTTP/1.1\r\n\r\n");
    assert!(rig.pings());
    let text = "x".repeat(1000);
    let begun = Instant::now();
    for number in 0..20_000 {
        rig.log
            .publish("much", &serde_json::json!({ "text": text }));
        // Until the socket is full, the server keeps up.
        if number < 1000 && number % 100 == 0 {
            assert!(rig.pings());
        }
    }
    assert!(begun.elapsed() < TIME_LIMIT);
    assert!(rig.pings());
    let lines = lines(&to_end(slow));
    let (last, seen) = lines.split_last().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|line| line["event"] == "much"));
    let read = seen.last().unwrap()["seq"].as_u64().unwrap();
    assert_eq!(read, seen.len() as u64);
    assert_eq!(last["event"], "lost");
    let (count, seq) = (
        last["count"].as_u64().unwrap(),
        last["seq"].as_u64().unwrap(),
    );
    assert_eq!(read + count, seq);
    // The events after it are there.
    let mut next = None;
    let client = Client::connect(&rig.path).unwrap();
    let first = |line: &str| {
        next = Some(line.to_owned());
        false
    };
    client
        .follow(&format!("/events?since={seq}"), first)
        .unwrap();
    assert_eq!(numbers(&next.unwrap()), [seq + 1]);
}
