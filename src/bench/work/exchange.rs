//! Messages to the other end of a link, some at a time: the next request is sent when an answer has
//! come. So the other end is never flooded, and a link that stalls gets fewer messages.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};
use crate::network::message::{Messages, OTHER_CONTENT, greeting};
use crate::stats::latency::Latencies;
use crate::work::task::Work;
use crate::work::traffic::Traffic;
use crate::work::window::Window;

/// How long the other end may take to answer a message, or to take a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// A packet that has not come back after this time is lost.
const LOST: Duration = Duration::from_millis(100);

/// The same where packets came back later, so that a slow link is not taken for one that loses all:
/// twice the time that the slowest took, and at most this.
const LOST_AT_MOST: Duration = Duration::from_secs(1);

/// What messages gave: their times, and how many packets were lost.
pub(super) type Outcome = (Latencies, u64);

/// Exchanges messages of one kind with the other end.
pub(super) fn run(
    peer: SocketAddrV4,
    work: &Work,
    traffic: Traffic,
    window: Window<'_>,
) -> Result<Outcome> {
    let lengths = traffic.lengths(work.block);
    match traffic {
        Traffic::Packets => packets(peer, lengths.0, work.depth, window),
        _ => Ok((connection(peer, lengths, work.depth, window)?, 0)),
    }
}

/// Connects to the other end, which may need a moment to have its link.
fn connect(peer: SocketAddrV4, window: Window<'_>) -> Result<TcpStream> {
    let started = Instant::now();
    loop {
        window.goes_on()?;
        match TcpStream::connect_timeout(&peer.into(), Duration::from_secs(1)) {
            Ok(stream) => return Ok(stream),
            Err(e) if started.elapsed() > PATIENCE => {
                return Err(e).context(format!("cannot reach the other end at {peer}"));
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn connection(
    peer: SocketAddrV4,
    (request, answer): (usize, usize),
    depth: u32,
    window: Window<'_>,
) -> Result<Latencies> {
    let mut stream = connect(peer, window)?;
    let set = stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(PATIENCE)))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    set.context("cannot set up a socket")?;
    let lost = || format!("the other end at {peer} does not answer");
    let greeted = stream.write_all(&greeting(request, answer));
    greeted.context(lost())?;
    let (mut requests, mut answers) = (Messages::new(request), Messages::new(answer));
    // The connection's start is no part of the work.
    let window = window.again();
    let mut times = Latencies::default();
    let mut sent = VecDeque::new();
    let (mut next, mut heard) = (0, 0);
    loop {
        // The number in flight grows with the answers, so that a slow link is not filled for
        // seconds before the first answer is read.
        let most = u64::from(depth).min(heard + 1) as usize;
        while sent.len() < most && window.is_open(Instant::now()) {
            let message = requests.make(next);
            sent.push_back(Instant::now());
            stream.write_all(message).context(lost())?;
            next += 1;
        }
        let Some(from) = sent.pop_front() else {
            return Ok(times);
        };
        stream.read_exact(answers.buffer()).context(lost())?;
        window.count(&mut times, from, Instant::now());
        match answers.number() {
            Some(number) if number == heard => heard += 1,
            Some(OTHER_CONTENT) => {
                return Err(Error::new(format!(
                    "the other end at {peer} has received other content than was sent"
                )));
            }
            _ => {
                return Err(Error::new(format!(
                    "the answer of {peer} has other content than was sent"
                )));
            }
        }
    }
}

/// A packet under way: its number, and when it was sent.
type Slot = Option<(u64, Instant)>;

fn packets(peer: SocketAddrV4, len: usize, depth: u32, window: Window<'_>) -> Result<Outcome> {
    // The other end's hardware address is found out by a connection.
    drop(connect(peer, window)?);
    let socket = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect(peer)?;
        socket.set_read_timeout(Some(LOST / 4))?;
        Ok(socket)
    });
    let socket = socket.context("cannot make a socket")?;
    let window = window.again();
    let (mut made, mut heard) = (Messages::new(len), Messages::new(len));
    let (mut times, mut lost, mut next) = (Latencies::default(), 0, 0);
    let mut slots: Vec<Slot> = vec![None; depth as usize];
    let (mut last, mut limit) = (Instant::now(), LOST);
    let mut given_up = VecDeque::new();
    loop {
        let now = Instant::now();
        let is_open = window.is_open(now);
        for slot in slots.iter_mut() {
            if let Some(late) = slot.take_if(|(_, from)| now - *from > limit) {
                given_up.push_back(late);
                lost += u64::from(window.counts(now));
            }
            if is_open && slot.is_none() {
                *slot = Some((next, Instant::now()));
                // A full queue loses the packet, as a link does.
                let _ = socket.send(made.make(next));
                next += 1;
            }
        }
        if slots.iter().all(Option::is_none) {
            return Ok((times, lost));
        }
        match socket.recv(heard.buffer()) {
            Ok(read) if read == len => {}
            Ok(_) => continue,
            Err(e) if is_passing(e.kind()) && last.elapsed() < PATIENCE => continue,
            Err(e) => {
                return Err(e).context(format!("no packet comes back from {peer}"));
            }
        }
        last = Instant::now();
        let Some(number) = heard.number() else {
            return Err(Error::new(format!(
                "a packet from {peer} has other content than was sent"
            )));
        };
        let of = |slot: &&mut Slot| slot.is_some_and(|(sent, _)| sent == number);
        if let Some((_, from)) = slots.iter_mut().find(of).and_then(Option::take) {
            window.count(&mut times, from, last);
        }
        // A packet that was given up too early tells how slow the link is. Nothing else does: a
        // network may send a packet twice.
        given_up.retain(|(_, from)| last - *from < LOST_AT_MOST);
        let of = |late: &(u64, Instant)| late.0 == number;
        if let Some((_, from)) = given_up.iter().copied().find(of) {
            limit = limit.max((last - from) * 2).min(LOST_AT_MOST);
        }
    }
}

/// Whether an error of a socket says nothing about the link: a time is over, a signal has come, or
/// the other end's queue was full.
fn is_passing(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::network::service::Service;

    fn window(stop: &AtomicBool, measure: u64) -> Window<'_> {
        let ms = Duration::from_millis;
        Window::of(ms(20), ms(measure), stop)
    }

    /// Times of a measurement, each tried if the one before it was too short for a busy machine.
    const WINDOWS: [u64; 3] = [200, 2000, 20_000];

    fn works() -> Vec<Work> {
        crate::work::task::port_works()
    }

    #[test]
    fn each_kind_of_message_is_answered() {
        let service = Service::start(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        let never = AtomicBool::new(false);
        for work in works() {
            let traffic = work.traffic.unwrap();
            let heard = WINDOWS.iter().any(|measure| {
                let window = window(&never, *measure);
                let (times, _) = run(service.address, &work, traffic, window).unwrap();
                times.len() > 10
            });
            assert!(heard, "{}", work.name);
        }
        let stopped = AtomicBool::new(true);
        let work = &works()[0];
        let refused = run(
            service.address,
            work,
            Traffic::Request,
            window(&stopped, 200),
        );
        assert!(refused.unwrap_err().is_interrupted());
    }

    /// Another service answers with other content, or not at all.
    #[test]
    fn an_answer_with_other_content_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else {
            unreachable!()
        };
        let server = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut bytes = [0; 16 + 64];
            client.read_exact(&mut bytes).unwrap();
            bytes[16 + 63] ^= 1;
            client.write_all(&bytes[16..]).unwrap();
        });
        let never = AtomicBool::new(false);
        let work = &works()[0];
        let error = run(address, work, Traffic::Request, window(&never, 200)).unwrap_err();
        assert!(error.to_string().contains("other content"), "{error}");
        server.join().unwrap();
    }

    /// Sockets for packets and for connections at a number that is free for both.
    fn both_of_a_number() -> (UdpSocket, TcpListener, SocketAddrV4) {
        loop {
            let packets = UdpSocket::bind("127.0.0.1:0").unwrap();
            let SocketAddr::V4(address) = packets.local_addr().unwrap() else {
                unreachable!()
            };
            if let Ok(listener) = TcpListener::bind(address) {
                return (packets, listener, address);
            }
        }
    }

    /// Packets that all come back later than a link's usually do are not lost.
    #[test]
    fn a_slow_link_is_not_taken_for_one_that_loses_packets() {
        let (echo, listener, address) = both_of_a_number();
        let (over, never) = (AtomicBool::new(false), AtomicBool::new(false));
        let limit = Some(Duration::from_millis(20));
        echo.set_read_timeout(limit).unwrap();
        let times = thread::scope(|scope| {
            scope.spawn(|| {
                let mut packet = [0; 2048];
                let mut held = VecDeque::new();
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    if let Ok((len, from)) = echo.recv_from(&mut packet) {
                        held.push_back((Instant::now(), packet[..len].to_vec(), from));
                    }
                    while let Some((came, ..)) = held.front()
                        && came.elapsed() > LOST * 2
                        && let Some((_, packet, from)) = held.pop_front()
                    {
                        echo.send_to(&packet, from).unwrap();
                    }
                }
            });
            let heard = WINDOWS.iter().filter_map(|measure| {
                let window = Window::of(Duration::ZERO, Duration::from_millis(*measure), &never);
                packets(address, 18, 4, window).ok()
            });
            let times = heard
                .map(|(times, _)| times)
                .find(|times| !times.is_empty());
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            times
        });
        let times = times.unwrap();
        assert!(Duration::from_nanos(times.median().unwrap()) > LOST * 2);
        drop(listener);
    }

    /// Packets to an address that answers none are lost, and are told as such.
    #[test]
    fn packets_that_do_not_come_back_are_lost() {
        let service = Service::start(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        // A connection is taken at the same number, and no packet comes back.
        let (_sink, listener, address) = both_of_a_number();
        let never = AtomicBool::new(false);
        let ms = Duration::from_millis;
        let window = Window::of(ms(0), ms(300), &never);
        let (times, lost) = packets(address, 18, 4, window).unwrap();
        assert!(times.is_empty() && lost >= 4, "{lost}");
        drop((listener, service));
    }
}
