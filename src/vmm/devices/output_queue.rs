//! A bounded queue between the UART and the program's standard output, and the thread that empties
//! it.
//!
//! The output may block for as long as its reader pleases: a terminal that was stopped by Ctrl-S, a
//! pipe to a program that sleeps. Only the queue's thread waits for the reader. While the queue is
//! full, the UART is busy, and a guest waits as for a slow line. A guest that writes to a busy UART
//! loses characters, as on a real line.
//!
//! Characters that arrive while the thread writes go to the output together, in one system call.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::devices::uart::Transmitter;
use crate::log::limit::{RateLimit, warn_limited};
use crate::sandbox::{self, Kind};

/// The receiver of the guest's characters.
pub type Output = Box<dyn Write + Send>;

/// The most characters that wait.
const CAPACITY: usize = 64 << 10;
/// With so many, the UART becomes busy. The rest is for a driver that has just seen the UART
/// idle: KVM's ring of coalesced writes, and the UART's FIFO.
const BUSY: usize = CAPACITY - 4096;
/// With so many, the UART becomes idle again.
const IDLE: usize = CAPACITY / 2;
/// The most characters of one system call. A slow line, of 9600 baud, takes so many in half a
/// second.
const CHUNK: usize = 512;
/// The most that [`QueueEnd::flush`] waits, as a multiple of its patience: the devices are still
/// the guest's meanwhile.
const MOST_WAITS: u32 = 20;
/// The pause before another attempt to write to an output that another process has made
/// non-blocking.
const RETRY: Duration = Duration::from_millis(1);

struct Queue {
    state: Mutex<State>,
    /// There are characters, or the queue is closed.
    filled: Condvar,
    /// Characters were written.
    written: Condvar,
    busy: AtomicBool,
    limit: RateLimit,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<u8>,
    /// Characters that the thread is writing.
    in_hand: usize,
    /// Characters that were written so far.
    done: u64,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next characters; `None` when the queue is closed and empty.
    fn take(&self) -> Option<Vec<u8>> {
        let none_yet = |state: &mut State| state.waiting.is_empty() && !state.closed;
        let state = self.filled.wait_while(self.lock(), none_yet);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        let count = state.waiting.len().min(CHUNK);
        let chunk: Vec<u8> = state.waiting.drain(..count).collect();
        state.in_hand = count;
        (count > 0).then_some(chunk)
    }

    /// Counts characters that were written. Returns whether the UART is no longer busy.
    fn count(&self, written: usize) -> bool {
        let mut state = self.lock();
        state.in_hand -= written;
        state.done += written as u64;
        self.written.notify_all();
        state.waiting.len() <= IDLE && self.busy.swap(false, Ordering::AcqRel)
    }
}

/// Writes to a queue. When dropped, the queue's thread writes the rest and ends.
pub struct QueueWriter {
    queue: Arc<Queue>,
    /// Starts the thread, with the first character.
    start: Option<Box<dyn FnOnce() -> io::Result<()> + Send>>,
    /// There is no thread: the characters are lost.
    lost: bool,
}

/// A view of a queue that can wait for its end.
#[derive(Clone)]
pub struct QueueEnd(Arc<Queue>);

/// Makes a queue in front of `output`. `idle` is called by the queue's thread when the UART is no
/// longer busy.
pub fn queue(output: Output, idle: impl Fn() + Send + 'static) -> (QueueWriter, QueueEnd) {
    let queue = Arc::new(Queue {
        state: Mutex::default(),
        filled: Condvar::new(),
        written: Condvar::new(),
        busy: AtomicBool::new(false),
        limit: RateLimit::default(),
    });
    let worker = Arc::clone(&queue);
    let start = move || {
        let builder = thread::Builder::new().name("console output".into());
        builder
            .spawn(move || {
                sandbox::enter(Kind::Console);
                serve(&worker, output, idle);
            })
            .map(drop)
    };
    let end = QueueEnd(Arc::clone(&queue));
    let start = Some(Box::new(start) as Box<dyn FnOnce() -> io::Result<()> + Send>);
    let lost = false;
    (QueueWriter { queue, start, lost }, end)
}

/// The body of the queue's thread.
fn serve(queue: &Queue, mut output: Output, idle: impl Fn()) {
    while let Some(chunk) = queue.take() {
        let mut rest = chunk.as_slice();
        while !rest.is_empty() {
            let count = match output.write(rest) {
                Ok(count @ 1..) => count.min(rest.len()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(RETRY);
                    continue;
                }
                // The output is closed: the characters are lost, and the guest goes on.
                Ok(0) | Err(_) => rest.len(),
            };
            rest = rest.get(count..).unwrap_or_default();
            if queue.count(count) {
                idle();
            }
        }
    }
    // An output with a buffer of its own loses what it cannot write.
    let _ = output.flush();
}

impl Write for QueueWriter {
    /// Takes all of `data` and never waits.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if let Some(start) = self.start.take()
            && let Err(e) = start()
        {
            warn!("the guest's console is lost: its thread cannot be started: {e}");
            self.lost = true;
        }
        if self.lost {
            return Ok(data.len());
        }
        let mut state = self.queue.lock();
        let free = CAPACITY.saturating_sub(state.waiting.len());
        let taken = data.get(..free).unwrap_or(data);
        state.waiting.extend(taken);
        if state.waiting.len() >= BUSY {
            self.queue.busy.store(true, Ordering::Release);
        }
        drop(state);
        self.queue.filled.notify_one();
        if taken.len() < data.len() {
            warn_limited!(
                self.queue.limit,
                "the guest writes to its busy serial port: characters are lost"
            );
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transmitter for QueueWriter {
    fn is_busy(&self) -> bool {
        self.queue.busy.load(Ordering::Acquire)
    }
}

impl Drop for QueueWriter {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.filled.notify_one();
    }
}

impl QueueEnd {
    /// Waits until all characters are written. Gives up when the output has taken no character for
    /// as long as `patience`, or after [`MOST_WAITS`] times as long.
    pub fn flush(&self, patience: Duration) {
        let queue = &*self.0;
        let mut state = queue.lock();
        let (mut done, mut since) = (state.done, Instant::now());
        let end = since + patience * MOST_WAITS;
        loop {
            let left = state.waiting.len() + state.in_hand;
            if left == 0 {
                return;
            }
            if state.done != done {
                (done, since) = (state.done, Instant::now());
            }
            let rest = end.checked_duration_since(Instant::now());
            let (Some(wait), Some(rest)) = (patience.checked_sub(since.elapsed()), rest) else {
                return warn!("nobody reads the guest's console: {left} characters are lost");
            };
            let wait = wait.min(rest);
            let waited = queue.written.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// An output whose every call the test lets through; it keeps what it has got.
    struct Slow {
        allowed: mpsc::Receiver<()>,
        got: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl Write for Slow {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let _ = self.allowed.recv();
            self.got.lock().unwrap().push(data.to_vec());
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Got = Arc<Mutex<Vec<Vec<u8>>>>;

    fn slow() -> (Slow, mpsc::Sender<()>, Got) {
        let (allow, allowed) = mpsc::channel();
        let got = Got::default();
        let slow = Slow {
            allowed,
            got: Arc::clone(&got),
        };
        (slow, allow, got)
    }

    #[test]
    fn a_blocked_output_makes_the_uart_busy_and_nothing_is_lost() {
        let (output, allow, got) = slow();
        let (idle, is_idle) = mpsc::channel();
        let (mut writer, end) = queue(Box::new(output), move || idle.send(()).unwrap());
        let mut written = Vec::new();
        while !writer.is_busy() {
            let byte = [written.len() as u8];
            writer.write_all(&byte).unwrap();
            written.extend(byte);
            assert!(written.len() < CAPACITY + CHUNK);
        }
        // A driver that has just seen the UART idle.
        for byte in 0..200 {
            writer.write_all(&[byte]).unwrap();
            written.push(byte);
        }
        assert!(is_idle.try_recv().is_err());
        // As a reader that has started to read again.
        drop(allow);
        is_idle.recv_timeout(Duration::from_secs(10)).unwrap();
        end.flush(Duration::from_secs(10));
        assert!(!writer.is_busy());
        let got = got.lock().unwrap();
        assert_eq!(got.concat(), written);
        // The characters that waited went together.
        assert!(got.len() < 300, "{} calls", got.len());
    }

    #[test]
    fn a_guest_that_does_not_look_loses_characters_and_never_waits() {
        let (output, allow, got) = slow();
        let (mut writer, end) = queue(Box::new(output), || ());
        let begun = Instant::now();
        writer.write_all(&vec![7; 2 * CAPACITY]).unwrap();
        // An output without a reader ends the wait.
        end.flush(Duration::from_millis(20));
        assert!(begun.elapsed() < Duration::from_secs(10));
        drop(allow);
        end.flush(Duration::from_secs(10));
        assert_eq!(got.lock().unwrap().concat(), vec![7; CAPACITY]);
    }

    #[test]
    fn a_dropped_writer_leaves_nothing_behind() {
        let (output, allow, got) = slow();
        let (mut writer, end) = queue(Box::new(output), || ());
        writer.write_all(b"the last words").unwrap();
        drop(writer);
        drop(allow);
        end.flush(Duration::from_secs(10));
        assert_eq!(got.lock().unwrap().concat(), b"the last words");
    }

    #[test]
    fn errors_of_an_output() {
        struct Failing(Vec<io::ErrorKind>, Got);
        impl Write for Failing {
            fn write(&mut self, data: &[u8]) -> io::Result<usize> {
                if let Some(kind) = self.0.pop() {
                    return Err(kind.into());
                }
                self.1.lock().unwrap().push(data.to_vec());
                Ok(data.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        use io::ErrorKind::{BrokenPipe, Interrupted, WouldBlock};
        for (errors, expected) in [
            (vec![Interrupted, WouldBlock, Interrupted], &b"ab"[..]),
            (vec![BrokenPipe], b"b"),
        ] {
            let got = Got::default();
            let output = Failing(errors, Arc::clone(&got));
            let (mut writer, end) = queue(Box::new(output), || ());
            for byte in [b"a", b"b"] {
                writer.write_all(byte).unwrap();
                end.flush(Duration::from_secs(10));
            }
            assert_eq!(got.lock().unwrap().concat(), expected);
        }
    }
}
