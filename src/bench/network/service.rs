//! The other end of a link: it answers each request with an answer of the length that the greeting
//! has asked for (TCP), and each packet with the same packet (UDP). No answer is longer than what
//! the client's connection has asked for, and an answer to a packet is as long as the packet.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::error::{Context, Result};
use crate::network::message::{HEAD, MARK, Messages, OTHER_CONTENT, lengths};

/// The port of TCP and UDP, if the user does not name another.
pub const PORT: u16 = 5210;

/// How often a thread looks whether it must end.
const TICK: Duration = Duration::from_millis(100);

/// The most connections at a time.
const MOST: usize = 16;

/// A client that says nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// The other end. It ends when this is dropped.
pub struct Service {
    /// Where it answers.
    pub address: SocketAddrV4,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    /// Answers at an address in the calling thread's network namespace.
    ///
    /// # Errors
    /// The address is another's, or of no interface.
    pub fn start(address: SocketAddrV4) -> Result<Self> {
        let listener = TcpListener::bind(address).context(format!("cannot listen at {address}"))?;
        listener
            .set_nonblocking(true)
            .context("cannot set up a socket")?;
        // A port of 0 is one that the kernel chooses, and both have the same.
        let bound = listener.local_addr().context("cannot set up a socket")?;
        let address = SocketAddrV4::new(*address.ip(), bound.port());
        let packets = UdpSocket::bind(address).context(format!("cannot listen at {address}"))?;
        packets
            .set_read_timeout(Some(TICK))
            .context("cannot set up a socket")?;
        let stop = Arc::new(AtomicBool::new(false));
        let (first, second) = (Arc::clone(&stop), Arc::clone(&stop));
        Ok(Self {
            address,
            threads: vec![
                thread::spawn(move || connections(&listener, &first)),
                thread::spawn(move || echo(&packets, &second)),
            ],
            stop,
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that has failed has ended, too.
            let _ = thread.join();
        }
    }
}

/// Accepts connections, each of which has a thread.
fn connections(listener: &TcpListener, stop: &Arc<AtomicBool>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        threads.retain(|thread| !thread.is_finished());
        let Ok((client, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        if threads.len() >= MOST {
            continue;
        }
        let stop = Arc::clone(stop);
        threads.push(thread::spawn(move || {
            // A client that goes away, or says what is no greeting, needs no answer.
            let _ = answer(client, &stop);
        }));
    }
    for thread in threads {
        // As above.
        let _ = thread.join();
    }
}

/// Answers a client until it goes.
fn answer(mut client: TcpStream, stop: &AtomicBool) -> std::io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(TICK))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut greeting = [0; HEAD];
    read(&mut client, &mut greeting, stop)?;
    let Some((request, answer)) = lengths(&greeting) else {
        return Ok(());
    };
    let (mut requests, mut answers) = (Messages::new(request), Messages::new(answer));
    loop {
        read(&mut client, requests.buffer(), stop)?;
        let number = requests.number().unwrap_or(OTHER_CONTENT);
        client.write_all(answers.make(number))?;
    }
}

/// Fills a buffer, unless the service ends or the client says nothing for too long.
fn read(client: &mut TcpStream, buffer: &mut [u8], stop: &AtomicBool) -> std::io::Result<()> {
    let (mut done, mut silent) = (0, Duration::ZERO);
    while done < buffer.len() {
        match client.read(&mut buffer[done..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => (done, silent) = (done + read, Duration::ZERO),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                silent += TICK;
                if stop.load(Ordering::Relaxed) || silent > PATIENCE {
                    return Err(e);
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Sends each packet back that has the form of ours.
fn echo(packets: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = vec![0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok((len, from)) = packets.recv_from(&mut buffer) else {
            continue;
        };
        if len >= HEAD && buffer.starts_with(MARK) {
            // A packet that is lost is found by its sender.
            let _ = packets.send_to(&buffer[..len], from);
        }
    }
}
