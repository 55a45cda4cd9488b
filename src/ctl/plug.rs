//! `add` and `remove`: requests whose end an event tells, with a word about the progress.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use api::client::Client;
use serde_json::Value;
use vmm::config::device::DeviceConfig;
use vmm::given;
use vmm::hostinfo::device_names;
use vmm::hostinfo::name::parse_address;
use vmm::hostinfo::sysfs::Sysfs;
use vmm::log::stderr::say;

use crate::cli::ctl::{AddArgs, RemoveArgs};
use crate::control::device::{AddDevice, RemoveDevice};
use crate::ctl::answer::{CtlError, accepted, target};

/// How long a command says nothing.
const QUIET: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;

/// Adds a device, and prints where it is.
///
/// # Errors
/// A device that there is not, or the answer's.
pub fn add(path: &Path, args: &AddArgs, out: &mut impl Write) -> Result<(), CtlError> {
    let (body, file) = body(&args.devices, Path::new(device_names::FILE))?;
    let seen = last_event(path)?;
    let of_progress = path.to_owned();
    thread::spawn(move || tell_progress(&of_progress, seen));
    let fd = file.as_ref().map(File::as_fd);
    let client = Client::connect(path)?;
    let answer = client.ask_with("PUT", &target("vm.add-device"), Some(&body), fd)?;
    let answer = accepted(answer)?;
    let misunderstood = || CtlError::Answer(path.into());
    let added: Value = serde_json::from_slice(&answer).map_err(|_| misunderstood())?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&added).ok().map(|t| t + "\n"),
        false => added_text(&added),
    };
    out.write_all(text.ok_or_else(misunderstood)?.as_bytes())?;
    if added["listens"] == false && !args.json {
        say(format_args!(
            "the guest does not listen to this slot: it has the device after its next reset"
        ));
    }
    Ok(())
}

/// The body of a request to add these functions, and the file that stands for the first one. The
/// names are this command's, as with `--vfio`: the VMM may see another /etc.
fn body(functions: &[String], names: &Path) -> Result<(Vec<u8>, Option<File>), CtlError> {
    let mut file = None;
    let mut body: Option<AddDevice> = None;
    for text in functions {
        let mut config: DeviceConfig = text.parse()?;
        config.address = device_names::resolve(names, &Sysfs::default(), &config.address)?;
        let digits = given::number(&config.address);
        let function = AddDevice::new(&config, digits.is_some())?;
        if let Some(digits) = digits {
            if body.is_some() {
                return Err(CtlError::SecondDescriptor);
            }
            let (descriptor, _) = given::device(&Sysfs::default(), digits)?;
            file = Some(descriptor.take()?);
        }
        body = Some(match body {
            None => function,
            Some(first) => first.and(function),
        });
    }
    let body = serde_json::to_vec(&body.unwrap_or_default());
    Ok((body.map_err(std::io::Error::from)?, file))
}

fn added_text(added: &Value) -> Option<String> {
    let mut text = String::new();
    for function in added["functions"].as_array()? {
        let field = |name: &str| function[name].as_str();
        text += &format!(
            "{} is {} in the guest, behind the root port {}\n",
            field("id")?,
            field("bdf")?,
            field("port")?
        );
    }
    Some(text)
}

/// The number of the last event so far.
fn last_event(path: &Path) -> Result<u64, CtlError> {
    let answer = Client::connect(path)?.ask("GET", &target("vm.info"), None)?;
    let info: Option<Value> = serde_json::from_slice(&accepted(answer)?).ok();
    let last = info.and_then(|info| info["last_event"].as_u64());
    last.ok_or_else(|| CtlError::Answer(path.into()))
}

/// Prints how much memory is mapped, each second. Without events there is nothing to print.
fn tell_progress(path: &Path, seen: u64) {
    let mut next = Instant::now() + QUIET;
    let Ok(client) = Client::connect(path) else {
        return;
    };
    // An end of the stream is the end of what there is to print.
    let _ = client.follow(&events_since(seen), |line| {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        if event["event"] == "device-adding" && Instant::now() >= next {
            next = Instant::now() + QUIET;
            let mib = |name: &str| event[name].as_u64().unwrap_or(0) / MIB;
            let (mapped, size) = (mib("mapped"), mib("size"));
            say(format_args!(
                "{mapped} of {size} MiB are mapped for the device"
            ));
        }
        true
    });
}

fn events_since(seen: u64) -> String {
    format!("{}?since={seen}", target("vm.events"))
}

/// Asks for a device, and waits until it is removed.
///
/// # Errors
/// The guest does not give the device up, or the request is refused.
pub fn remove(path: &Path, args: &RemoveArgs, out: &mut impl Write) -> Result<(), CtlError> {
    let body = RemoveDevice {
        id: args.id.clone(),
        force: args.force,
        timeout: args.timeout,
    };
    let body = serde_json::to_vec(&body).map_err(std::io::Error::from)?;
    let seen = last_event(path)?;
    let client = Client::connect(path)?;
    accepted(client.ask("PUT", &target("vm.remove-device"), Some(&body))?)?;
    let waits = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&waits);
    thread::spawn(move || {
        thread::sleep(QUIET);
        if still.load(Ordering::Relaxed) {
            say(format_args!(
                "the guest is asked for the device; Linux waits five seconds before it answers"
            ));
        }
    });
    let end = wait_for_removal(path, &args.id, seen);
    waits.store(false, Ordering::Relaxed);
    writeln!(out, "{} is removed", end?)?;
    Ok(())
}

/// Waits for the event that tells of the end, and returns the device's address on the host.
fn wait_for_removal(path: &Path, id: &str, seen: u64) -> Result<String, CtlError> {
    let wanted = address(id);
    let not_removed = |why: &str| CtlError::NotRemoved {
        id: id.into(),
        why: why.into(),
    };
    let mut end = None;
    let answer = Client::connect(path)?.follow(&events_since(seen), |line| {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        let field = |name: &str| event[name].as_str().unwrap_or_default();
        let ours = field("id") == wanted || field("host") == wanted;
        end = match field("event") {
            "device-removed" if ours => Some(Ok(field("host").to_owned())),
            "device-failed" if ours && field("what") == "remove" => {
                Some(Err(not_removed(field("why"))))
            }
            "lost" => Some(Err(not_removed("too many events came at once"))),
            _ => None,
        };
        end.is_none()
    })?;
    if let Some(refusal) = answer {
        accepted(refusal)?;
    }
    end.unwrap_or_else(|| Err(not_removed("the run has ended")))
}

/// The address in the form that events have, or the text as it is.
fn address(text: &str) -> String {
    match parse_address(text) {
        Ok(name) => name.to_string(),
        Err(_) => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    #[test]
    fn names_of_devices() {
        let dir = TempDir::new().unwrap();
        let names = dir.as_path().join("devices.toml");
        std::fs::write(&names, "disk = \"0000:ff:1f.7\"\n").unwrap();
        let added = |text: &str| body(&[text.into()], &names).map(|(body, _)| body);
        let by_name = added("disk,rombar=off").unwrap();
        assert_eq!(by_name, added("0000:ff:1f.7,rombar=off").unwrap());
        let error = added("disc").unwrap_err();
        assert_eq!(error.hint().unwrap(), "did you mean `disk`?");
    }
}
