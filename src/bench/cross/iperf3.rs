//! iperf3(1): a stream to the other end by one connection.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::work::task::Task;

/// The program's name in PATH.
pub const NAME: &str = "iperf3";

/// The TCP port of its server.
const PORT: &str = "5211";

/// The server at the other end, which ends after one test.
pub fn server(program: &Path, peer: Ipv4Addr) -> Command {
    let mut command = Command::new(program);
    command.args(["--server", "--one-off", "--port", PORT]);
    command.args(["--bind", &peer.to_string()]);
    command
}

/// The client, which sends for as many seconds as a kind of work takes.
pub fn client(program: &Path, peer: Ipv4Addr, task: &Task) -> Command {
    let seconds = |ms: u64| ms.div_ceil(1000).to_string();
    let mut command = Command::new(program);
    command.args(["--client", &peer.to_string(), "--port", PORT, "--json"]);
    command.args(["--time", &seconds(task.measure_ms), "--len", "128K"]);
    command.args(["--omit", &seconds(task.warm_up_ms)]);
    command
}

/// The bits that the other end received each second, by the client's JSON, in units of 10⁹.
///
/// # Errors
/// iperf3 says something else, or that it has failed: its exit status may be 0 all the same.
pub fn gigabits(output: &str) -> Result<f64> {
    let said: Value = serde_json::from_str(output)
        .map_err(|e| Error::new(format!("iperf3's output is no JSON: {e}")))?;
    if let Some(error) = said["error"].as_str() {
        return Err(Error::new(format!("iperf3 said: {error}")));
    }
    let bits = said["end"]["sum_received"]["bits_per_second"].as_f64();
    let bits = bits.filter(|bits| *bits > 0.0);
    let bits = bits.ok_or_else(|| Error::new("iperf3's output has no received bits"))?;
    Ok(bits / 1e9)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::cross::tool;
    use crate::network::lent::Lent;
    use crate::network::namespace::Namespace;
    use crate::network::netlink::Netlink;
    use crate::subjects::program::Program;
    use crate::work::task::{Engine, FunctionId, PortId, Target};

    /// The form of iperf3 3.12's output, cut to what is read.
    const OUTPUT: &str = r#"{ "start": { "version": "iperf 3.12" },
  "end": { "sum_sent": { "bytes": 1180000000, "bits_per_second": 9440000000.0 },
    "sum_received": { "bytes": 1176000000, "bits_per_second": 9408000000.0 } } }"#;

    #[test]
    fn what_was_received_is_read() {
        assert_eq!(gigabits(OUTPUT).unwrap(), 9.408);
        let failed = r#"{ "start": {}, "end": {}, "error": "unable to connect to server" }"#;
        let said = gigabits(failed).unwrap_err().to_string();
        assert!(said.contains("unable to connect"), "{said}");
        assert!(gigabits(&OUTPUT.replace("sum_received", "x")).is_err());
        assert!(gigabits("iperf3: error").is_err());
    }

    fn task(address: Ipv4Addr, peer: Ipv4Addr) -> Task {
        Task {
            works: Vec::new(),
            warm_up_ms: 1250,
            measure_ms: 5000,
            engine: Engine::Threads,
            target: Target::Port(PortId {
                mac: String::new(),
                address,
                prefix: 30,
                peer: std::net::SocketAddrV4::new(peer, 1),
            }),
            function: FunctionId::default(),
            destroy: None,
        }
    }

    #[test]
    fn both_ends_agree_on_the_address() {
        let peer = Ipv4Addr::new(198, 18, 0, 2);
        let task = task(Ipv4Addr::new(198, 18, 0, 1), peer);
        let line = |command: Command| {
            let words: Vec<_> = command
                .get_args()
                .map(|word| word.to_string_lossy())
                .collect();
            words.join(" ")
        };
        let server = line(server(Path::new("iperf3"), peer));
        let client = line(client(Path::new("iperf3"), peer, &task));
        assert!(
            server.contains("--one-off --port 5211 --bind 198.18.0.2"),
            "{server}"
        );
        assert!(
            client.starts_with("--client 198.18.0.2 --port 5211 --json --time 5"),
            "{client}"
        );
        assert!(client.ends_with("--omit 2"), "{client}");
    }

    /// The real iperf3, if it is installed, between two ports in networks of their own.
    #[test]
    fn the_real_iperf3_sends_between_two_ports() {
        let (program, host) = match (Program::in_path(NAME, "--version"), Namespace::new()) {
            (Ok(program), Ok(host)) => (program, host),
            (Err(error), _) | (_, Err(error)) => {
                println!("SKIPPED: {error}");
                return;
            }
        };
        let (first, second) = (Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2));
        let mut task = task(first, second);
        (task.warm_up_ms, task.measure_ms) = (0, 1000);
        let said = host.run(|| {
            Netlink::open().unwrap().add_pair().unwrap();
            let client = Lent::new("veth0", Some((first, 30))).unwrap();
            let other = Lent::new("veth1", Some((second, 30))).unwrap();
            client.wait_for_carrier(Duration::from_secs(10)).unwrap();
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let limit = Duration::from_secs(60);
                    other.run(|| tool::run(server(&program.path, second), limit, &over))
                });
                let mut said = Err(Error::new("nothing was asked"));
                for _ in 0..50 {
                    let command = super::client(&program.path, second, &task);
                    let limit = Duration::from_secs(60);
                    let ended = client.run(|| tool::run(command, limit, &over)).unwrap();
                    said = ended.and_then(|said| gigabits(&said));
                    if said.is_ok() {
                        break;
                    }
                    thread::sleep(Duration::from_millis(100));
                }
                over.store(true, Ordering::Relaxed);
                said
            })
        });
        let speed = said.unwrap().unwrap();
        assert!(speed > 0.001, "{speed}");
    }
}
