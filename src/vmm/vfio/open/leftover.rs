//! A run that was killed while it opened a device: its guardian makes the call to its end, and has
//! the device's file for that fraction of a second. The next run waits for that.

use std::thread;
use std::time::{Duration, Instant};

use crate::hostinfo::guardian;
use crate::log::stderr::say;
use crate::vfio::open::error::VfioError;

/// How long is waited at most, also where a run's calls have more time.
const LIMIT: Duration = Duration::from_secs(10);
/// How often the device is tried meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

/// Does `open`, again while nobody but guardians of ended runs has the device, no longer than
/// `limit`, and not once the user has ended the run (`ended`).
///
/// # Errors
/// Those of `open`.
pub(super) fn wait_out<T>(
    limit: Duration,
    ended: impl Fn() -> bool,
    open: impl Fn() -> Result<T, VfioError>,
) -> Result<T, VfioError> {
    let limit = limit.min(LIMIT);
    let begun = Instant::now();
    let mut told = false;
    loop {
        let error = match open() {
            Err(error) if begun.elapsed() < limit && !ended() => error,
            outcome => return outcome,
        };
        let leftovers = error.holders().filter(|all| all.are_leftovers());
        let Some([pid, ..]) = leftovers.map(|all| &all.leftovers[..]) else {
            return Err(error);
        };
        if !told {
            say(format_args!(
                "mini-vmm: waits up to {} seconds for process {pid} ({}), which ends a call \
                 of a run that was killed",
                limit.as_secs_f32().ceil(),
                guardian::NAME
            ));
            told = true;
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::{self, Read, Write};
    use std::os::fd::OwnedFd;
    use std::path::Path;

    use rustix::process::getppid;

    use super::*;
    use crate::hostinfo::holders::Holders;
    use crate::hostinfo::name::parse_address;
    use crate::sys::process::{detach, in_one_thread};

    /// Stands for a device. Others have it open too.
    const NODE: &str = "/dev/full";

    /// Starts a run, which lives until the first returned pipe is closed, and its guardian, which
    /// has the file open for so long after that. The number is the guardian's.
    fn run_with_guardian(time: Duration) -> (File, u32) {
        let (mut begun, begins) = io::pipe().unwrap();
        let (ends, end) = io::pipe().unwrap();
        let (begins, ends) = (OwnedFd::from(begins), OwnedFd::from(ends));
        // The run is a child of a child, because nobody here waits for it.
        assert!(in_one_thread(|| {
            detach(c"a-run", &[&begins, &ends], || {
                detach(c"vmm-guardian", &[&begins], || {
                    let _node = OpenOptions::new().read(true).open(NODE);
                    let run = getppid();
                    let _ = File::from(begins.try_clone().unwrap())
                        .write(&std::process::id().to_le_bytes());
                    while getppid() == run {
                        thread::sleep(Duration::from_millis(1));
                    }
                    thread::sleep(time);
                })
                .unwrap();
                let _ = File::from(ends.try_clone().unwrap()).read(&mut [0]);
            })
            .unwrap();
        }));
        drop((begins, ends));
        let mut guardian = [0; 4];
        begun.read_exact(&mut guardian).unwrap();
        let run = File::from(OwnedFd::from(end));
        (run, u32::from_le_bytes(guardian))
    }

    /// Ends a run. Its process takes a moment.
    fn end(run: File, guardian: u32) {
        drop(run);
        let lives = || !holders(guardian).are_leftovers();
        let begun = Instant::now();
        while lives() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the run lives");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn holders(guardian: u32) -> Holders {
        let mut holders = Holders::of(&[Path::new(NODE)]);
        holders.processes.retain(|(pid, _)| *pid == guardian);
        holders.leftovers.retain(|pid| *pid == guardian);
        holders
    }

    /// Opens the device if nobody else has it.
    fn open(guardian: u32) -> Result<(), VfioError> {
        let holders = holders(guardian);
        if holders.processes.is_empty() {
            return Ok(());
        }
        Err(VfioError::Held {
            name: parse_address("01:00.0").unwrap(),
            holders: Box::new(holders),
            node: NODE.into(),
            call: "open",
            source: io::Error::from_raw_os_error(libc::EBUSY),
        })
    }

    #[test]
    fn only_the_guardian_of_an_ended_run_is_waited_for() {
        const LONG: Duration = Duration::from_secs(60);
        // The run lives: the device is refused at once.
        let (run, guardian) = run_with_guardian(Duration::from_millis(200));
        let begun = Instant::now();
        assert!(wait_out(LONG, || false, || open(guardian)).is_err());
        assert!(begun.elapsed() < LONG / 10);
        // The run ends, and its guardian a little later.
        end(run, guardian);
        assert!(wait_out(LONG, || true, || open(guardian)).is_err());
        assert!(wait_out(LONG, || false, || open(guardian)).is_ok());
        assert!(begun.elapsed() < LONG / 5);
        // A call that takes longer than the limit is an error.
        let (run, guardian) = run_with_guardian(LONG / 6);
        end(run, guardian);
        let begun = Instant::now();
        assert!(wait_out(Duration::from_millis(300), || false, || open(guardian)).is_err());
        assert!(begun.elapsed() >= Duration::from_millis(300));
        // Another error is none of this.
        let other = || Err::<(), _>(VfioError::Thread);
        let begun = Instant::now();
        assert!(wait_out(LONG, || false, other).is_err());
        assert!(begun.elapsed() < LONG / 10);
    }
}
