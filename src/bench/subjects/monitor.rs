//! KVM's counters by QEMU's monitor (QEMU's QMP reference, `query-stats`). QEMU reads them from the
//! same files as mini-vmm does (Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::{Value, json};

use crate::error::{Context, Error, Result};

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Our end of the socket to QEMU's monitor, and QEMU's end, which it inherits.
pub(super) struct Monitor {
    ours: BufReader<UnixStream>,
    theirs: UnixStream,
    ready: bool,
}

impl Monitor {
    /// Adds a monitor to QEMU's command line.
    pub(super) fn add(command: &mut Command) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("cannot make a socket")?;
        fcntl_setfd(&theirs, FdFlags::empty()).context("cannot let QEMU have a socket")?;
        let limit = ours.set_read_timeout(Some(PATIENCE));
        limit.context("cannot set up a socket")?;
        let fd = theirs.as_raw_fd();
        command.args(["-chardev", &format!("socket,id=monitor,fd={fd}")]);
        command.args(["-mon", "chardev=monitor,mode=control"]);
        Ok(Self {
            ours: BufReader::new(ours),
            theirs,
            ready: false,
        })
    }

    /// KVM's counters of all virtual CPUs together, by KVM's names; none by a QEMU before 7.1,
    /// which does not know `query-stats`.
    pub(super) fn counters(&mut self) -> Result<BTreeMap<String, u64>> {
        if !self.ready {
            self.ask(&json!({ "execute": "qmp_capabilities" }))?;
            self.ready = true;
        }
        let arguments = json!({ "target": "vcpu" });
        let answer = self.ask(&json!({ "execute": "query-stats", "arguments": arguments }))?;
        Ok(sum(&answer))
    }

    fn ask(&mut self, command: &Value) -> Result<Value> {
        let asked = Instant::now();
        let line = format!("{command}\n");
        let sent = self.ours.get_mut().write_all(line.as_bytes());
        sent.context("cannot write to QEMU's monitor")?;
        let mut line = String::new();
        while asked.elapsed() < PATIENCE {
            line.clear();
            let read = self.ours.read_line(&mut line);
            if read.context("cannot read from QEMU's monitor")? == 0 {
                break;
            }
            // A greeting and events come between.
            let answer: Value = serde_json::from_str(&line).unwrap_or_default();
            if answer["error"]["class"] == "CommandNotFound" {
                return Ok(Value::Null);
            }
            if let Some(error) = answer.get("error") {
                return Err(Error::new(format!("QEMU's monitor said {error}")));
            }
            if let Some(answer) = answer.get("return") {
                return Ok(answer.clone());
            }
        }
        Err(Error::new("QEMU's monitor does not answer"))
    }

    /// QEMU's end.
    #[cfg(test)]
    fn theirs(&self) -> &UnixStream {
        &self.theirs
    }
}

/// QEMU's end is open until QEMU has it.
impl Drop for Monitor {
    fn drop(&mut self) {
        // A socket that QEMU has closed is shut already.
        let _ = self.theirs.shutdown(std::net::Shutdown::Both);
    }
}

/// The numbers of all virtual CPUs; histograms are left out.
fn sum(answer: &Value) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    let parts = answer.as_array().into_iter().flatten();
    for counter in parts.filter_map(|part| part["stats"].as_array()).flatten() {
        if let (Some(name), Some(value)) = (counter["name"].as_str(), counter["value"].as_u64()) {
            *sums.entry(name.to_owned()).or_default() += value;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn counters_of_all_virtual_cpus_are_added() {
        let mut command = Command::new("/bin/true");
        let mut monitor = Monitor::add(&mut command).unwrap();
        let mut qemu = monitor.theirs().try_clone().unwrap();
        let answers = thread::spawn(move || {
            let mut asked = BufReader::new(qemu.try_clone().unwrap());
            let mut line = String::new();
            qemu.write_all(b"{\"QMP\": {}}\n").unwrap();
            asked.read_line(&mut line).unwrap();
            qemu.write_all(b"{\"return\": {}}\n{\"event\": \"RESUME\"}\n")
                .unwrap();
            asked.read_line(&mut line).unwrap();
            let part = |exits: u64| {
                json!({ "provider": "kvm", "stats": [
                    { "name": "exits", "value": exits },
                    { "name": "halt_wait_hist", "value": [1, 2] },
                ] })
            };
            let text = format!("{}\n", json!({ "return": [part(5), part(7)] }));
            qemu.write_all(text.as_bytes()).unwrap();
            line
        });
        let counters = monitor.counters().unwrap();
        assert_eq!(
            counters.into_iter().collect::<Vec<_>>(),
            [("exits".into(), 12)]
        );
        let asked = answers.join().unwrap();
        assert!(
            asked.contains("qmp_capabilities") && asked.contains("query-stats"),
            "{asked}"
        );
    }

    #[test]
    fn an_error_of_qemu_is_told() {
        let mut monitor = Monitor::add(&mut Command::new("/bin/true")).unwrap();
        let mut qemu = monitor.theirs().try_clone().unwrap();
        qemu.write_all(b"{\"error\": {\"desc\": \"no\"}}\n")
            .unwrap();
        let error = monitor.counters().unwrap_err();
        assert!(error.to_string().contains("\"no\""), "{error}");
        monitor.ready = true;
        let unknown = b"{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no\"}}\n";
        qemu.write_all(unknown).unwrap();
        assert!(monitor.counters().unwrap().is_empty());
    }
}
