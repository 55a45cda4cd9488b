//! Reads the lines of L1's serial port while the machine runs, with a time limit.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::error::{Context, Result};
use crate::transcript::{Line, Transcript};

/// The interval at which the lab checks a machine that prints nothing.
const LOOK: Duration = Duration::from_secs(1);

/// The state of a machine that prints nothing.
pub enum Quiet {
    /// The machine goes on.
    Runs,
    /// The machine goes on; the transcript gets a note.
    Noted(&'static str),
    /// The emulator has ended.
    Ended,
}

/// The end of a machine.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Every line of L1's serial port.
    pub transcript: Transcript,
    /// Whether the lab stopped the machine at its time limit.
    pub timed_out: bool,
    /// Whether the lab woke an emulator that seemed to hang.
    pub woken: bool,
    /// How long the machine ran.
    pub took: Duration,
}

/// What a listener does with lines, and while there are none.
pub struct Ear<'a> {
    /// Gets each line when it arrives.
    pub heard: &'a mut dyn FnMut(&Line),
    /// Is asked each second in which no line arrives, and told for how long none has.
    pub quiet: &'a mut dyn FnMut(Duration) -> Quiet,
    /// Whether a line is the machine's last one. The machine is not heard after that.
    pub is_last: &'a dyn Fn(&Line) -> bool,
}

/// Reads `serial` until its end, until the last line, or until the time is up. The lines are also
/// written to transcript.log in `dir`.
///
/// # Errors
/// The log cannot be written.
pub fn listen(
    serial: impl Read + Send + 'static,
    dir: &Path,
    started: Instant,
    limit: Duration,
    ear: Ear<'_>,
) -> Result<Ended> {
    let mut log = File::create(dir.join("transcript.log")).context("make the transcript's file")?;
    let lines = read_lines(serial, started);
    let mut transcript = Transcript::default();
    let mut last = Instant::now();
    let mut woken = false;
    let timed_out = loop {
        let left = limit.saturating_sub(started.elapsed());
        match lines.recv_timeout(left.min(LOOK)) {
            Ok((line, raw)) => {
                last = Instant::now();
                write!(log, "[{:8.3}] ", line.at.as_secs_f64())
                    .and_then(|()| log.write_all(raw.trim_ascii_end()))
                    .and_then(|()| log.write_all(b"\n"))
                    .context("write the transcript")?;
                (ear.heard)(&line);
                let is_last = (ear.is_last)(&line);
                transcript.lines.push(line);
                if is_last {
                    break false;
                }
            }
            Err(RecvTimeoutError::Timeout) if started.elapsed() < limit => {
                match (ear.quiet)(last.elapsed()) {
                    Quiet::Runs => (),
                    Quiet::Noted(note) => {
                        woken = true;
                        let at = started.elapsed().as_secs_f64();
                        writeln!(log, "[{at:8.3}] {note}").context("write the transcript")?;
                    }
                    Quiet::Ended => break false,
                }
            }
            Err(RecvTimeoutError::Timeout) => break true,
            Err(RecvTimeoutError::Disconnected) => break false,
        }
    };
    Ok(Ended {
        transcript,
        timed_out,
        woken,
        took: started.elapsed(),
    })
}

/// Reads lines in a thread of its own, which ends with `serial` or with the receiver.
fn read_lines(serial: impl Read + Send + 'static, started: Instant) -> Receiver<(Line, Vec<u8>)> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut serial = BufReader::new(serial);
        let mut raw = Vec::new();
        while serial.read_until(b'\n', &mut raw).is_ok_and(|n| n > 0) {
            let line = Line::new(started.elapsed(), &String::from_utf8_lossy(&raw));
            if send.send((line, raw.clone())).is_err() {
                break;
            }
            raw.clear();
        }
    });
    receive
}
