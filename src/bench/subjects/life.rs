//! A guest's start, its function's reset, and its reboot, in starts of their own: no work delays
//! them, and they delay no work.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::kernel::tiny;
use crate::say;
use crate::stop::STOP;
use crate::subjects::affinity;
use crate::subjects::boot::Boot;
use crate::subjects::bound::{Bound, first};
use crate::subjects::child::{PATIENCE, Vmm};
use crate::subjects::program::Program;
use crate::subjects::trial::Trial;
use crate::subjects::watch::Watch;
use crate::work::moment::Moments;
use crate::work::reset;
use crate::work::task::Message;

/// Hears a guest of [`Boot::First`] or [`Boot::Life`] to its last word. It began at `began`; when
/// it is ready, its virtual CPUs are put on `pin`.
pub(super) fn hear(
    vmm: &Vmm,
    boot: Boot,
    (began, pin): (Instant, &[usize]),
    mut watch: Option<&mut dyn Watch>,
) -> Result<Trial> {
    let mut trial = Trial::default();
    let us = |since: Instant| Some(since.elapsed().as_secs_f64() * 1e6);
    let mut reboots: Option<Instant> = None;
    let mut until = Instant::now() + PATIENCE;
    while let Some(line) = vmm.line(until)? {
        if boot == Boot::First {
            if line.ends_with(tiny::SAYS) {
                trial.moments.first_us = us(began);
                return Ok(trial);
            }
            continue;
        }
        let Some(message) = Message::in_line(&line)? else {
            continue;
        };
        until = Instant::now() + PATIENCE;
        let moments = &mut trial.moments;
        match (&message, reboots) {
            (Message::Init, Some(called)) => {
                moments.reboot_us = us(called);
                return Ok(trial);
            }
            (Message::Init, None) if moments.init_us.is_none() => moments.init_us = us(began),
            (Message::Init, None) => {
                return Err(Error::new("the guest has restarted by itself"));
            }
            (Message::Ready { .. }, _) => {
                moments.ready_us = us(began);
                affinity::pin(vmm.pid(), pin)?;
            }
            (Message::Reset { us, why }, _) => {
                (moments.reset_us, moments.no_reset) = (*us, why.clone());
            }
            (Message::Reboot, _) => reboots = Some(Instant::now()),
            _ => {}
        }
        if let Some(watch) = &mut watch {
            watch.hear(vmm, &message)?;
        }
        trial.hear(message)?;
    }
    Err(Error::new(match reboots {
        Some(_) => "the guest's reboot has ended the VMM",
        None => "the guest ended before it was told to",
    }))
}

/// The host's reset of the function, while vfio-pci has it and nobody uses it.
///
/// # Errors
/// The device cannot be bound or does not go back, the reset does not end, or the user has ended
/// the measurement.
pub fn of_host(binder: &Program, address: &str, device: &Path) -> Result<Moments> {
    let bound = Bound::take(binder, address)?;
    let time = reset::time(device, &STOP);
    let time = first(time, bound.give_back(), say::error)?;
    Ok(Moments {
        reset_us: time.as_ref().ok().map(in_us),
        no_reset: time.err(),
        ..Moments::default()
    })
}

fn in_us(time: &Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::work::task::MARK;

    fn says(boot: Boot, lines: &[&str]) -> Result<Trial> {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "printf %s \"$0\"", &text]);
        let vmm = Vmm::start(command, Stdio::null()).unwrap();
        hear(&vmm, boot, (Instant::now(), &[]), None)
    }

    fn line(message: &Message) -> String {
        format!("{MARK}{}", serde_json::to_string(message).unwrap())
    }

    #[test]
    fn a_guest_is_heard_to_its_second_init() {
        let init = line(&Message::Init);
        let ready = line(&Message::Ready {
            kernel: "6".into(),
            uptime_ms: 7,
        });
        let reset = line(&Message::Reset {
            us: Some(1500.0),
            why: None,
        });
        let reboot = line(&Message::Reboot);
        let all = [&*init, &*ready, &*reset, "firmware", &*reboot, &*init];
        let trial = says(Boot::Life, &all).unwrap();
        let moments = &trial.moments;
        assert_eq!((moments.reset_us, moments.first_us), (Some(1500.0), None));
        assert!(moments.init_us <= moments.ready_us && moments.reboot_us.is_some());
        assert_eq!(trial.kernel, "6");
        for (lines, why) in [
            (&all[..5], "reboot has ended the VMM"),
            (&all[..2], "before it was told"),
            (&[init.as_str(), &ready, &init], "by itself"),
        ] {
            let error = says(Boot::Life, lines).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let failed = line(&Message::Failed { why: "no".into() });
        let error = says(Boot::Life, &[&init, &failed]).unwrap_err();
        assert_eq!(error.to_string(), "no");
    }

    #[test]
    fn the_first_line_of_a_tiny_guest_is_its_first_instruction() {
        let trial = says(Boot::First, &["firmware", "\u{1b}[2J!"]).unwrap();
        assert!(trial.moments.first_us.is_some() && trial.moments.init_us.is_none());
        assert!(says(Boot::First, &["firmware"]).is_err());
    }
}
