//! The command line.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::network::service;
use crate::session::cpus;
use crate::session::settings::Settings;
use crate::subjects::list::Change;
use crate::subjects::peer::Choice;
use crate::work::task::Engine;

/// Measure a passed-through device on this machine: the host's own driver beside guests of mini-vmm
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Without --destroy this program writes to no disk: each subject opens it for
reads alone, and exclusively. A device that the host uses (a mounted file
system, swap, a RAID) is refused. When the disk comes back to the host, udev
may assemble a stopped RAID or volume group on it, and write: use a disk
without members of one. For each turn of a guest that has the device, mini-vmm
binds it to vfio-pci and gives it back. If this program is killed, the device
goes back all the same, but for a turn of another VMM that has it and for the
host's own reset of it: type `mini-vmm host unbind ADDR` then.

Examples:
  mini-vmm-bench 0000:01:00.0 --dry-run     what would be done, and for how long
  mini-vmm-bench 0000:01:00.0 --quick       three minutes
  mini-vmm-bench 0000:01:00.0 --vmm ./old --vmm ./new
                                            two versions of mini-vmm
  mini-vmm-bench 0000:01:00.0 --destroy S5H9NX0
                                            writes, too: the disk's data is lost
  mini-vmm-bench 0000:02:00.0 --peer-port 0000:02:00.1
                                            two network ports with a cable between
  mini-vmm-bench 0000:03:00.0               any other device: its guest's start,
                                            a reset of the function, a reboot

Exit status: 0; 1 for an error; 2 for a wrong command line; 130 after Ctrl-C."
)]
pub struct Cli {
    /// Another command than a measurement
    #[command(subcommand)]
    pub command: Option<Command>,

    /// A measurement
    #[command(flatten)]
    pub run: RunArgs,
}

/// Another command than a measurement.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compare two runs on one machine, such as before and after a change
    Compare {
        /// The earlier run's NAME.json
        before: PathBuf,
        /// The later run's NAME.json
        after: PathBuf,
    },
    /// Write the reports of a run anew from its NAME.json: NAME.md, NAME.csv and NAME.html
    Report {
        /// The run's NAME.json
        file: PathBuf,
    },
    /// Be the other end of another machine's network port: answer its messages at an address of
    /// this machine, until Ctrl-C
    Serve {
        /// The address of this machine
        #[arg(value_name = "IP[:PORT]", value_parser = peer_address)]
        address: SocketAddrV4,
    },
    /// Show the results of several machines: a line each, and what they have in common
    #[command(after_help = "\
Samples of two machines are never put together. All machines must have done the
same work with the same mini-vmm, and each device counts once.")]
    Merge {
        /// NAME.json of each machine
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

/// A measurement.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The device: 01:00.0, 0000:01:00.0 or a path in /sys
    #[arg(value_name = "ADDR", required = true)]
    address: Option<String>,

    /// Say what will be done to which device and for how long, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Three minutes in place of twenty, with fewer kinds of work
    #[arg(long)]
    quick: bool,

    /// A mini-vmm to measure; may be repeated [the one beside this program, or in PATH]
    #[arg(long, value_name = "PATH")]
    vmm: Vec<PathBuf>,

    /// Also measure mini-vmm with each of these mechanisms changed, one at a time
    #[arg(long, value_name = "LIST", value_enum, value_delimiter = ',')]
    change: Vec<Change>,

    /// Also measure guests of other VMMs, NAME or NAME=PATH, with commas between them [without
    /// PATH: the program in PATH].
    /// The device itself: qemu-vfio, cloud-hypervisor, crosvm. A disk that the VMM emulates, whose
    /// data is the host's disk: qemu-nvme, qemu-virtio, cloud-hypervisor-virtio, firecracker. A
    /// network card of the VMM over the host's port: qemu-e1000e, qemu-vhost. All but those of QEMU
    /// are untested
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    peer: Vec<Choice>,

    /// Also measure writes. THE DATA OF THE DISK IS LOST. SERIAL is the serial number that the disk
    /// itself reports (--dry-run shows it); no other disk is written to
    #[arg(long, value_name = "SERIAL")]
    destroy: Option<String>,

    /// With --destroy: erase the disk's partition tables, file systems, volumes, RAID members,
    /// encryption and swap, instead of refusing a disk that has any
    #[arg(long, requires = "destroy")]
    wipe: bool,

    /// For a network port: a second port of this machine, to which the port is connected. It is
    /// lent to a network of its own for the run
    #[arg(long, value_name = "ADDR", conflicts_with = "peer_address")]
    peer_port: Option<String>,

    /// For a network port: another machine, where `mini-vmm-bench serve` runs
    #[arg(long, value_name = "IP[:PORT]", value_parser = peer_address, requires = "own_address")]
    peer_address: Option<SocketAddrV4>,

    /// The address that the port gets, which nobody else may have
    #[arg(long, value_name = "IP/BITS", value_parser = own_address, requires = "peer_address")]
    own_address: Option<OwnAddress>,

    /// Where the results go: NAME.json, .md, .csv and .html [mini-vmm-bench-DATE]
    #[arg(long, value_name = "NAME")]
    pub output: Option<PathBuf>,

    /// The guest's kernel [the host's own]
    #[arg(long, value_name = "PATH")]
    guest_kernel: Option<PathBuf>,

    /// Further parameters of the guest's kernel
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        allow_hyphen_values = true
    )]
    guest_cmdline: String,

    /// The guest's memory
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    memory: String,

    /// The host's CPUs for each subject, such as 2-3 [up to four beside the device]
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    cpus: Option<CpuList>,

    /// How several reads are in flight [io_uring where the kernel has it]
    #[arg(long, value_enum)]
    engine: Option<EngineArg>,

    /// Time of the run at most, in minutes [20; 3 with --quick]
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    time: Option<u64>,

    /// This many rounds, however wide the intervals are [at least 12, if there is time]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,

    /// Time of each measurement, in seconds [5; 1.5 with --quick]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    measure: Option<Duration>,

    /// End when no interval is wider than this, in per cent of its ratio
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0, value_parser = percent)]
    width: f64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EngineArg {
    IoUring,
    Threads,
}

#[derive(Clone, Debug)]
struct CpuList(Vec<usize>);

fn cpu_list(text: &str) -> Result<CpuList, String> {
    let list = cpus::list(text).map(CpuList);
    list.ok_or_else(|| "not a list of CPUs, such as 0,2-3".into())
}

type OwnAddress = (Ipv4Addr, u8);

fn own_address(text: &str) -> Result<OwnAddress, String> {
    let parts = text.split_once('/');
    let parsed = parts.and_then(|(ip, bits)| Some((ip.parse().ok()?, bits.parse().ok()?)));
    let parsed = parsed.filter(|(_, bits)| (1..=31).contains(bits));
    parsed.ok_or_else(|| "not an address with its network, such as 192.0.2.1/24".into())
}

fn peer_address(text: &str) -> Result<SocketAddrV4, String> {
    let alone = text.parse().map(|ip| SocketAddrV4::new(ip, service::PORT));
    let address = alone.or_else(|_| text.parse());
    address.map_err(|_| "not an address, such as 192.0.2.2 or 192.0.2.2:5210".into())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse::<f64>()
        .ok()
        .filter(|s| (0.1..=3600.0).contains(s));
    let seconds = seconds.ok_or("not a number from 0.1 to 3600")?;
    Ok(Duration::from_secs_f64(seconds))
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text
        .parse::<f64>()
        .ok()
        .filter(|p| (0.01..=100.0).contains(p));
    percent.ok_or_else(|| "not a number from 0.01 to 100".into())
}

impl RunArgs {
    /// What the user has chosen.
    pub fn settings(&self) -> Settings {
        Settings {
            address: self.address.clone().unwrap_or_default(),
            vmms: self.vmm.clone(),
            guest_kernel: self.guest_kernel.clone(),
            guest_cmdline: self.guest_cmdline.clone(),
            memory: self.memory.clone(),
            cpus: self.cpus.clone().map(|list| list.0),
            engine: self.engine.map(|engine| match engine {
                EngineArg::IoUring => Engine::IoUring,
                EngineArg::Threads => Engine::Threads,
            }),
            changes: self.change.clone(),
            peers: self.peer.clone(),
            destroy: self.destroy.clone(),
            peer_port: self.peer_port.clone(),
            peer_address: self.peer_address,
            own_address: self.own_address,
            wipe: self.wipe,
            quick: self.quick,
            time: self.time.map(|minutes| Duration::from_secs(minutes * 60)),
            rounds: self.rounds.map(usize::from),
            measure: self.measure,
            width: self.width / 100.0,
        }
    }
}
