use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};

use serde::Serialize;

use super::*;
use crate::client::Client;
use crate::limits::{MAX_BODY, MAX_HEAD};
use crate::parser::{Parsed, parse};
use crate::receive::peek;
use crate::service::{Route, Witness};

/// More than anything here needs, even on a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(60);

#[derive(Serialize)]
struct Nothing {}

/// A change that lasts until the test ends it.
#[derive(Default)]
struct Long {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
    /// Whether the client had gone when the change ended.
    abandoned: AtomicU32,
}

impl Long {
    fn work(&self, caller: &Caller) {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        self.changed.notify_all();
        while !state.1 && !caller.is_gone() {
            let wait = self.changed.wait_timeout(state, Duration::from_millis(1));
            state = wait.unwrap().0;
        }
        *state = (false, false);
        let gone = u32::from(caller.is_gone());
        self.abandoned.fetch_add(gone, Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn wait_for(&self, running: bool) {
        let state = self.state.lock().unwrap();
        let wait = self
            .changed
            .wait_timeout_while(state, TIME_LIMIT, |state| state.0 != running);
        assert!(!wait.unwrap().1.timed_out());
    }

    fn end(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

/// A server with routes of each kind.
struct Rig {
    server: Server,
    path: PathBuf,
    log: Arc<EventLog>,
    long: Arc<Long>,
    count: Arc<AtomicU64>,
}

fn rig() -> Rig {
    rig_with(None)
}

/// With a witness, which counts the requests that it sees as bytes of a connection.
fn witnessed() -> (Rig, Arc<AtomicU64>) {
    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    let witness: Witness = Arc::new(move |request, connection| {
        let waiting = peek(connection, 1 << 20).unwrap();
        let Parsed::Whole(same, _) = parse(&waiting.bytes) else {
            panic!("{waiting:?}");
        };
        assert_eq!(&*same, request);
        count.fetch_add(1, Ordering::Relaxed);
        (request.path == "/refused").then(|| Response::error(Status::Forbidden, &["no"]))
    });
    (rig_with(Some(witness)), seen)
}

fn rig_with(witness: Option<Witness>) -> Rig {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("mini-vmm-server-{}-{number}.sock", std::process::id());
    let path = std::env::temp_dir().join(name);
    let log = Arc::new(EventLog::new().unwrap());
    let long = Arc::new(Long::default());
    let count = Arc::new(AtomicU64::new(0));
    let (of_long, of_count) = (Arc::clone(&long), Arc::clone(&count));
    let service = Service::new(vec![
        Route::new("GET", "/ping", Kind::Now, |_, _| Response::json(&"pong")),
        Route::new("GET", "/count", Kind::Query, move |_, _| {
            Response::json(&of_count.fetch_add(1, Ordering::Relaxed))
        }),
        Route::new("PUT", "/echo", Kind::Now, |request, _| {
            Response::json(&String::from_utf8_lossy(&request.body))
        }),
        Route::new("PUT", "/long", Kind::Change, move |_, caller| {
            of_long.work(caller);
            Response::done()
        }),
        Route::new("GET", "/large", Kind::Now, |_, _| {
            Response::json(&"x".repeat(8 << 20))
        }),
        Route::new("GET", "/events", Kind::Events, |_, _| Response::done()),
        Route::new("PUT", "/file", Kind::Change, |_, caller| {
            attached::tell(caller)
        }),
        Route::new("PUT", "/now", Kind::Now, |_, caller| attached::tell(caller)),
    ]);
    let service = match witness {
        None => service,
        Some(witness) => service.witnessed_by(witness),
    };
    let listener = Listener::bind(&path).unwrap();
    Rig {
        server: Server::start(listener, service, Arc::clone(&log)).unwrap(),
        path,
        log,
        long,
        count,
    }
}

impl Rig {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        stream
    }

    fn send(&self, request: &[u8]) -> UnixStream {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        stream
    }

    /// Sends a request, and returns all that is answered until the server closes.
    fn exchange(&self, request: &[u8]) -> String {
        to_end(self.send(request))
    }

    fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let client = Client::connect(&self.path).unwrap();
        let answer = client.ask(method, path, None).unwrap();
        (answer.status, String::from_utf8(answer.body).unwrap())
    }

    fn pings(&self) -> bool {
        self.ask("GET", "/ping").0 == 200
    }
}

fn to_end(mut stream: UnixStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn statuses(answers: &str) -> Vec<&str> {
    let heads = answers.split("HTTP/1.1 ").skip(1);
    heads.map(|head| &head[..3]).collect()
}

#[test]
fn routes_and_methods() {
    let rig = rig();
    assert_eq!(rig.ask("GET", "/ping"), (200, "\"pong\"".into()));
    assert_eq!(rig.ask("GET", "/count"), (200, "0".into()));
    assert_eq!(rig.ask("GET", "/none").0, 404);
    let (status, body) = rig.ask("PUT", "/ping");
    assert_eq!((status, &*body), (405, "[\"This path has only GET\"]"));
    let head = rig.exchange(b"HEAD /ping HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(head.contains("\r\nAllow: GET\r\n") && head.ends_with("\r\n\r\n"));
    // The body is still sent while the refusal is on its way.
    let many = [
        &b"PUT /echo HTTP/1.1\r\nContent-Length: 100000\r\n\r\n"[..],
        &[b'x'; 100_000],
    ];
    assert_eq!(statuses(&rig.exchange(&many.concat())), ["413"]);
}

#[test]
fn requests_one_after_the_other() {
    one_after_the_other(&rig());
    let (rig, seen) = witnessed();
    one_after_the_other(&rig);
    assert_eq!(seen.load(Ordering::Relaxed), 6 + 6 + 2 + 1);
}

/// While a witness takes its time, another request becomes whole, and its time in the socket ends.
#[test]
fn a_request_that_was_held_is_answered() {
    let witness: Witness = Arc::new(|request, _| {
        if request.path == "/ping" {
            thread::sleep(Duration::from_millis(700));
        }
        None
    });
    let rig = rig_with(Some(witness));
    let mut held = rig.send(b"GET /count HTTP/1.1\r\n");
    thread::sleep(Duration::from_millis(700));
    let slow = rig.send(b"GET /ping HTTP/1.1\r\n\r\n");
    thread::sleep(Duration::from_millis(100));
    held.write_all(b"Connection: close\r\n\r\n").unwrap();
    let started = Instant::now();
    assert_eq!(statuses(&to_end(held)), ["200"]);
    assert!(started.elapsed() < TIME_LIMIT / 2);
    drop(slow);
}

fn one_after_the_other(rig: &Rig) {
    // Pipelined: the answers come in the order of the requests, whatever makes them.
    let requests = "GET /count HTTP/1.1\r\n\r\nGET /ping HTTP/1.1\r\n\r\n\
                    PUT /echo HTTP/1.1\r\nContent-Length: 2\r\n\r\nhiGET /count HTTP/1.1\r\n\r\n\
                    PUT /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
                    3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n\
                    GET /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n";
    let all = rig.exchange(requests.as_bytes());
    assert_eq!(statuses(&all), ["200", "200", "200", "200", "200", "404"]);
    let bodies: Vec<_> = all.split("\r\n\r\n").skip(1).collect();
    let starts = ["0", "\"pong\"", "\"hi\"", "1", "\"abcde\"", "[\"There"];
    for (body, start) in bodies.iter().zip(starts) {
        assert!(body.starts_with(start), "{body} {start}");
    }
    // One byte at a time.
    let mut slow = rig.connect();
    for byte in requests.as_bytes() {
        slow.write_all(&[*byte]).unwrap();
    }
    assert_eq!(statuses(&to_end(slow)).len(), 6);
    // A client that says it is done still gets its answers.
    let half = rig.send(b"GET /count HTTP/1.1\r\n\r\nGET /ping HTTP/1.1\r\n\r\n");
    half.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(statuses(&to_end(half)), ["200", "200"]);
    // A request that ends too early has no answer.
    let cut = rig.send(b"GET /pi");
    cut.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(to_end(cut), "");
    let waits = b"PUT /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\
                  Connection: close\r\n\r\n";
    let mut waits = rig.send(waits);
    let mut interim = [0; 25];
    waits.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    waits.write_all(b"x").unwrap();
    assert!(to_end(waits).ends_with("\"x\""));
}

#[test]
fn sizes() {
    of_sizes(&rig());
    of_sizes(&witnessed().0);
}

fn of_sizes(rig: &Rig) {
    let head = |size: usize| {
        let empty = "GET /ping HTTP/1.1\r\nConnection: close\r\nX: \r\n\r\n".len();
        let filler = "y".repeat(size - empty);
        format!("GET /ping HTTP/1.1\r\nConnection: close\r\nX: {filler}\r\n\r\n")
    };
    assert_eq!(statuses(&rig.exchange(head(MAX_HEAD).as_bytes())), ["200"]);
    assert_eq!(
        statuses(&rig.exchange(head(MAX_HEAD + 1).as_bytes())),
        ["431"]
    );
    let body = |size: usize| {
        let head = format!("PUT /echo HTTP/1.1\r\nConnection: close\r\nContent-Length: {size}\r\n");
        [head.as_bytes(), b"\r\n", &vec![b'x'; size]].concat()
    };
    assert_eq!(statuses(&rig.exchange(&body(MAX_BODY))), ["200"]);
    assert_eq!(statuses(&rig.exchange(&body(MAX_BODY + 1))), ["413"]);
    assert_eq!(statuses(&rig.exchange(b"nonsense\r\n\r\n")), ["400"]);
    assert!(rig.pings());
}

#[test]
fn a_short_answer_comes_during_a_long_change() {
    let rig = rig();
    let long = rig.send(b"PUT /long HTTP/1.1\r\nConnection: close\r\n\r\n");
    rig.long.wait_for(true);
    for _ in 0..20 {
        let begun = Instant::now();
        assert!(rig.pings());
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(100), "{took:?}");
    }
    assert_eq!(rig.ask("GET", "/count").0, 200);
    // One change at a time.
    let (status, body) = rig.ask("PUT", "/long");
    assert_eq!(status, 409, "{body}");
    rig.long.end();
    assert_eq!(statuses(&to_end(long)), ["204"]);
    let next = rig.send(b"PUT /long HTTP/1.1\r\nConnection: close\r\n\r\n");
    rig.long.wait_for(true);
    rig.long.end();
    assert_eq!(statuses(&to_end(next)), ["204"]);
    assert_eq!(rig.long.abandoned.load(Ordering::Relaxed), 0);
}

#[test]
fn a_change_learns_that_its_client_has_gone() {
    let rig = rig();
    let client = rig.send(b"PUT /long HTTP/1.1\r\n\r\n");
    rig.long.wait_for(true);
    drop(client);
    rig.long.wait_for(false);
    assert_eq!(rig.long.abandoned.load(Ordering::Relaxed), 1);
    // A client that has only said that it sends no more is there.
    let client = loop {
        let client = rig.send(b"PUT /long HTTP/1.1\r\n\r\n");
        client.shutdown(std::net::Shutdown::Write).unwrap();
        // The server may still be about to learn that the first change has ended.
        thread::sleep(Duration::from_millis(50));
        if rig.long.state.lock().unwrap().0 {
            break client;
        }
        assert_eq!(statuses(&to_end(client)), ["409"]);
    };
    rig.long.wait_for(true);
    thread::sleep(Duration::from_millis(50));
    rig.long.end();
    assert_eq!(statuses(&to_end(client)), ["204"]);
    assert_eq!(rig.long.abandoned.load(Ordering::Relaxed), 1);
    // A request counts even if its client leaves at once.
    drop(rig.send(b"GET /count HTTP/1.1\r\n\r\n"));
    let end = Instant::now() + TIME_LIMIT;
    while rig.count.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < end);
        thread::yield_now();
    }
}

#[test]
fn sixteen_connections() {
    let rig = rig();
    let all: Vec<_> = (0..MAX_CONNECTIONS).map(|_| rig.connect()).collect();
    // The last was taken once it is answered.
    let mut last = &all[MAX_CONNECTIONS - 1];
    last.write_all(b"GET /ping HTTP/1.1\r\n\r\n").unwrap();
    last.read_exact(&mut [0; 12]).unwrap();
    for _ in 0..3 {
        assert_eq!(
            statuses(&rig.exchange(b"GET /ping HTTP/1.1\r\n\r\n")),
            ["503"]
        );
    }
    drop(all);
    let end = Instant::now() + TIME_LIMIT;
    while !rig.pings() {
        assert!(Instant::now() < end);
    }
}

/// A connection that sends nothing, half a request, one byte a second, or reads nothing.
#[test]
fn ten_seconds() {
    in_ten_seconds(rig());
}

#[test]
fn ten_seconds_with_a_witness() {
    in_ten_seconds(witnessed().0);
}

fn in_ten_seconds(rig: Rig) {
    let begun = Instant::now();
    let silent = rig.connect();
    let half = rig.send(b"PUT /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nab");
    let mut drip = rig.send(b"GET /ping HTTP/1.1\r\nX: ");
    let deaf = rig.send(b"GET /large HTTP/1.1\r\n\r\n");
    let kept = rig.send(b"GET /ping HTTP/1.1\r\n\r\n");
    let follows = rig.send(b"GET /events HTTP/1.1\r\n\r\n");
    for _ in 0..9 {
        thread::sleep(Duration::from_secs(1));
        drip.write_all(b"y").unwrap();
    }
    assert_eq!(to_end(silent), "");
    let took = begun.elapsed();
    assert!((9..30).contains(&took.as_secs()), "{took:?}");
    assert_eq!(statuses(&to_end(half)), ["408"]);
    assert_eq!(statuses(&to_end(drip)), ["408"]);
    assert_eq!(statuses(&to_end(kept)), ["200"]);
    // What the client did not read in time does not come any more.
    thread::sleep(Duration::from_millis(500));
    let part = to_end(deaf);
    assert!(part.starts_with("HTTP/1.1 200") && part.len() < 8 << 20);
    // A reader of events may wait for as long as it likes.
    rig.log.publish("late", &Nothing {});
    drop(rig);
    assert!(to_end(follows).contains("\"event\":\"late\""));
}

/// Parts that fill the socket before the request is whole, as far as the socket has room: they are
/// read after a second, and the witness does not see them.
#[test]
fn many_small_parts_before_a_witness() {
    let (rig, seen) = witnessed();
    let mut stream = rig.send(b"PUT /echo HTTP/1.1\r\nConnection: close\r\n");
    stream.write_all(b"Content-Length: 2000\r\n\r\n").unwrap();
    let begun = Instant::now();
    for _ in 0..2000 {
        stream.write_all(b"x").unwrap();
    }
    let answer = to_end(stream);
    assert!(answer.contains(&"x".repeat(2000)), "{answer}");
    assert!(begun.elapsed() > Duration::from_millis(900));
    assert_eq!(seen.load(Ordering::Relaxed), 0);
    // A part in the socket does not keep the thread busy, and the rest is seen with it.
    let mut stream = rig.send(b"GET /ping HTTP/1.1\r\n");
    thread::sleep(Duration::from_millis(300));
    stream.write_all(b"Connection: close\r\n\r\n").unwrap();
    assert_eq!(statuses(&to_end(stream)), ["200"]);
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}

fn lines(answer: &str) -> Vec<serde_json::Value> {
    let lines = answer.lines().filter(|line| line.starts_with('{'));
    lines.map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn numbers(answer: &str) -> Vec<u64> {
    let lines = lines(answer);
    lines.iter().map(|l| l["seq"].as_u64().unwrap()).collect()
}

#[test]
fn an_end_waits_for_an_answer_but_not_for_ever() {
    let mut rig = rig();
    let begun = Instant::now();
    rig.server.stop();
    assert!(begun.elapsed() < Duration::from_millis(900));
    assert!(!rig.path.exists());
    let mut rig = self::rig();
    let client = rig.send(b"PUT /long HTTP/1.1\r\n\r\n");
    rig.long.wait_for(true);
    let long = Arc::clone(&rig.long);
    let ends = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        long.end();
    });
    rig.server.stop();
    ends.join().unwrap();
    assert_eq!(statuses(&to_end(client)), ["204"]);
    let mut rig = self::rig();
    let client = rig.send(b"PUT /long HTTP/1.1\r\n\r\n");
    rig.long.wait_for(true);
    let begun = Instant::now();
    rig.server.stop();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(to_end(client), "");
    rig.long.end();
}

mod attached;
mod extremes;
mod following;
mod readers;
