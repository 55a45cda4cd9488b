//! Readers of events that read slowly or not at all, and the room that they leave to others.

use super::*;

const FOLLOW: &[u8] = b"GET /events HTTP/1.1\r\n\r\n";

/// Reads what there is, but no more than `most` bytes; returns how many.
fn read(stream: &mut UnixStream, most: usize) -> usize {
    stream.read(&mut vec![0; most]).unwrap()
}

/// The sockets are full, and fewer events wait than are kept: one reader reads nothing, and one a
/// little each second.
#[test]
fn a_reader_that_reads_nothing_is_disconnected() {
    let rig = rig();
    let begun = Instant::now();
    let deaf = rig.send(FOLLOW);
    let mut slow = rig.send(FOLLOW);
    let idle = rig.send(FOLLOW);
    assert!(rig.pings());
    let text = "x".repeat(4000);
    for _ in 0..events::KEPT / 2 {
        rig.log
            .publish("much", &serde_json::json!({ "text": text }));
    }
    // The one that only waits has read everything.
    idle.set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let _ = (&idle).read_to_end(&mut Vec::new()).unwrap_err();
    for _ in 0..14 {
        thread::sleep(Duration::from_secs(1));
        assert!(read(&mut slow, 8 << 10) > 0);
    }
    let took = begun.elapsed();
    let mut all = String::new();
    // Bytes of the deaf reader's socket remain, and no end of the stream.
    (&deaf).read_to_string(&mut all).unwrap();
    let got = numbers(&all).len();
    assert!(
        !all.ends_with("0\r\n\r\n") && got < events::KEPT / 2,
        "{got} after {took:?}"
    );
    rig.log.publish("late", &Nothing {});
    for mut reader in [idle, slow] {
        reader.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        let mut tail = Vec::new();
        while !tail.ends_with(b"}\n\r\n") || !tail.windows(6).any(|w| w == b"\"late\"") {
            let mut buffer = [0; 4096];
            let count = reader.read(&mut buffer).unwrap();
            assert!(count > 0, "the reader was disconnected");
            tail.extend(&buffer[..count]);
        }
    }
}

#[test]
fn readers_leave_room_for_requests() {
    let rig = rig();
    let mut readers = Vec::new();
    for _ in 0..MAX_STREAMS {
        let mut reader = rig.send(FOLLOW);
        // Its head has come, so it is counted.
        assert!(read(&mut reader, 12) > 0);
        readers.push(reader);
    }
    let refused = rig.exchange(b"GET /events HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!(statuses(&refused), ["503"]);
    assert!(
        refused.contains("12 readers") && refused.contains("hint: "),
        "{refused}"
    );
    assert!(rig.pings());
    assert_eq!(rig.ask("GET", "/count").0, 200);
    readers.pop();
    let end = Instant::now() + TIME_LIMIT;
    loop {
        let mut reader = rig.send(FOLLOW);
        let mut head = [0; 12];
        reader.read_exact(&mut head).unwrap();
        if &head == b"HTTP/1.1 200" {
            break;
        }
        assert!(Instant::now() < end);
    }
}
