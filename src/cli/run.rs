//! The flags of a run: `mini-vmm --kernel PATH ...`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use vmm::config::device::DeviceConfig;
use vmm::config::memory::DEFAULT_MEMORY;
use vmm::config::{BASE_CMDLINE, ConfigError, Iommu, Statistics, VmConfig, cpus, memory, ports};
use vmm::given;
use vmm::given::GivenError;
use vmm::hostinfo::device_names;
use vmm::hostinfo::sysfs::Sysfs;
use vmm::sandbox::{Choice, Mode};
use vmm::sys::descriptor::Descriptor;

/// What to boot and with what.
#[derive(Debug)]
pub struct RunArgs {
    /// The kernel.
    pub kernel: PathBuf,
    /// All other flags.
    pub guest: GuestArgs,
}

/// The flags of a run, without the kernel.
#[derive(Debug, Args)]
pub struct GuestArgs {
    /// Flags from this TOML file, which has a key for each: `memory = "4G"`. The flags of the
    /// command line override it; see docs/config.md
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Initial RAM file system
    #[arg(long, value_name = "PATH", visible_alias = "initramfs")]
    initrd: Option<PathBuf>,

    /// Kernel parameters, added after `console=ttyS0`
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,

    /// Virtual CPUs, 1 to 255. Options: pin=LIST: the host CPU of each vCPU, in order, in taskset's
    /// form (0,2,4-7). idle=native: HLT, MWAIT and PAUSE cause no exit; a vCPU wakes sooner, but
    /// keeps a host CPU busy all the time. sockets=N, cores=N (per socket) and threads=N (per
    /// core): the topology; the product is the number of vCPUs, and a missing value is computed.
    /// nested=on: the guest can be a host of guests itself (VMX, SVM). pmu=off: no performance
    /// counters
    #[arg(
        long,
        value_name = "N[,OPTION]...",
        default_value = "1",
        value_parser = cpus::check_count
    )]
    cpus: String,

    /// Memory, with K, M, G or T; a bare number means MiB. Options: hugepages=2M or 1G: pages from
    /// the host's reserve; thp: transparent huge pages (the default); off: 4 KiB pages.
    /// prefault=on: all memory is present before the guest starts (with --vfio the default is:
    /// while the guest starts). shared=on: other processes can map the memory. check=off: start
    /// even if the host seems to have too little
    #[arg(
        long,
        value_name = "SIZE[,OPTION]...",
        default_value = DEFAULT_MEMORY,
        allow_hyphen_values = true
    )]
    memory: String,

    /// PCI device to pass through: 01:00.0, 0000:01:00.0, its path in /sys, the UUID of a mediated
    /// device, or a name in /etc/mini-vmm/devices.toml; may be repeated. fd=N: by descriptor N,
    /// which is its open node in /dev/vfio/devices. Options: slot=DD[.F]: the device number (and
    /// function) on the guest's bus 0, of the device or of its root port. port=on: behind a root
    /// port, as a card in a slot; off: on bus 0; auto, the default: a PCI Express endpoint behind a
    /// port, any other device on bus 0. managed=on: bind it for this run only. rombar=off: no
    /// expansion ROM. romfile=PATH: this file as its expansion ROM. vf-token=UUID: the token that a
    /// virtual function shares with its physical function. clique=N: the GPUDirect clique of an
    /// NVIDIA GPU. mmap=off: each access to a BAR is an exit, which --stats counts; irqfd=off: a
    /// thread wakes for each interrupt; both are for learning and for finding faults
    #[arg(long, value_name = "ADDR[,OPTION]...", allow_hyphen_values = true)]
    vfio: Vec<String>,

    /// Empty PCI Express root ports, 1 to 248, for devices that are added while the guest runs.
    /// Options: mem32=SIZE: each port's memory below 4 GiB (default 4M), for BARs that are not
    /// prefetchable; the ports and all devices share 512M. mem64=SIZE: its prefetchable memory
    /// (default 1G). io=on: a window of I/O ports, for 15 ports at most. A guest keeps these
    /// windows: a device whose BARs are larger cannot be added later
    #[arg(
        long,
        value_name = "N[,OPTION]...",
        value_parser = ports::check_count,
        allow_hyphen_values = true
    )]
    ports: Option<String>,

    /// Interface to the IOMMU; auto means iommufd if the kernel has it, otherwise container.
    /// fd=N: iommufd, by descriptor N, which is an open /dev/iommu
    #[arg(long, value_name = "KIND", default_value = "auto", value_parser = IommuParser)]
    iommu: IommuChoice,

    /// KVM by descriptor N, which is an open /dev/kvm. With --iommu fd=N and --vfio fd=N, which is
    /// an open node of /dev/vfio/devices, this process opens no device node itself; see README.md
    #[arg(long, value_name = "fd=N")]
    kvm: Option<String>,

    /// With --vfio: how long a call of the host's kernel that opens, resets, closes or binds a
    /// device may take; after that the call is left alone, and the run ends
    #[arg(long, value_name = "SECONDS", default_value = "10",
          value_parser = clap::value_parser!(u32).range(1..))]
    host_timeout: u32,

    /// End the run when the guest reboots
    #[arg(long)]
    no_reboot: bool,

    /// Listen on this Unix socket for requests to look at the guest and to change it: see
    /// `mini-vmm ctl --help` and docs/control.md
    #[arg(long, value_name = "PATH")]
    api_socket: Option<PathBuf>,

    /// Confine the VMM's threads: each may make the system calls of its list and no other, has no
    /// capabilities, and opens no file but those that the flags name. on, the default: another call
    /// ends the run; log: it is said, made, and nothing else is confined; off: nothing is confined.
    /// The processes that open and bind devices have a list of what they may not do, and the thread
    /// that adds devices opens files itself. See docs/security.md
    #[arg(long, value_name = "MODE", value_parser = sandbox_modes())]
    sandbox: Option<Mode>,

    /// As root: let the VMM's process be this user's, by name or number, without a capability, from
    /// before the guest's first instruction. The user must be able to read the files of the other
    /// flags. --stats' file and the empty folder of --api-socket become the user's. The processes
    /// that open and bind devices stay root's. See docs/security.md
    #[arg(long, value_name = "USER")]
    run_as: Option<String>,

    /// At the end and on SIGUSR1, report the time of each start phase, exits by reason and
    /// register, KVM's own counters, interrupts and memory: as a table, or in FILE as JSON
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    stats: Option<Option<PathBuf>>,
}

/// Parses `--sandbox`.
fn sandbox_modes() -> impl TypedValueParser<Value = Mode> {
    let names = [Mode::On, Mode::Off, Mode::Log].map(Mode::name);
    PossibleValuesParser::new(names).map(|name| Mode::named(&name).unwrap_or_default())
}

/// The value of `--iommu`.
#[derive(Clone, Debug)]
enum IommuChoice {
    /// A kind of interface.
    Kind(Iommu),
    /// The number of `fd=N`, as the user wrote it.
    Descriptor(String),
}

/// The kinds of interfaces by their names.
const KINDS: [(&str, Iommu); 3] = [
    ("auto", Iommu::Auto),
    ("container", Iommu::Container),
    ("iommufd", Iommu::Iommufd),
];

/// Parses [`IommuChoice`], and lists the values for the help and for completions.
#[derive(Clone)]
struct IommuParser;

impl TypedValueParser for IommuParser {
    type Value = IommuChoice;

    fn parse_ref(
        &self,
        command: &clap::Command,
        flag: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<IommuChoice, clap::Error> {
        if let Some(digits) = value.to_str().and_then(given::number) {
            return Ok(IommuChoice::Descriptor(digits.into()));
        }
        let names = PossibleValuesParser::new(self.possible_values().into_iter().flatten());
        let name = names.parse_ref(command, flag, value)?;
        let kind = KINDS.iter().find(|(known, _)| *known == name);
        // The text `fd=N` itself is a possible value, and has no number.
        Ok(
            kind.map_or(IommuChoice::Descriptor("N".into()), |(_, kind)| {
                IommuChoice::Kind(*kind)
            }),
        )
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let names = KINDS.iter().map(|(name, _)| *name).chain(["fd=N"]);
        Some(Box::new(names.map(PossibleValue::new)))
    }
}

impl RunArgs {
    /// How long a call of the host's kernel may take for a device with `managed=on`.
    pub fn host_limit(&self) -> Duration {
        Duration::from_secs(self.guest.host_timeout.into())
    }

    /// The path of the socket for requests.
    pub fn api_socket(&self) -> Option<PathBuf> {
        self.guest.api_socket.clone()
    }

    /// What confines the threads.
    pub fn sandbox(&self) -> Choice {
        self.guest.sandbox()
    }

    /// The user of the run, if that is to change.
    pub fn run_as(&self) -> Option<&str> {
        self.guest.run_as()
    }

    /// Makes the configuration of the VM that the flags describe.
    ///
    /// # Errors
    /// A memory size or an option is invalid.
    pub fn into_config(self) -> Result<VmConfig, ConfigError> {
        self.guest.into_config(self.kernel)
    }
}

impl GuestArgs {
    /// The user of the run, if that is to change.
    pub fn run_as(&self) -> Option<&str> {
        self.run_as.as_deref()
    }

    /// What confines the threads of a run.
    pub fn sandbox(&self) -> Choice {
        self.sandbox.map_or(Choice::Default, Choice::Given)
    }

    /// Whether `--stats` is given.
    pub fn has_stats(&self) -> bool {
        self.stats.is_some()
    }

    /// Makes the configuration of the VM that the flags and this kernel describe.
    ///
    /// # Errors
    /// A memory size or an option is invalid.
    pub fn into_config(self, kernel: PathBuf) -> Result<VmConfig, ConfigError> {
        let memory = memory::parse(&self.memory)?;
        let cpus = cpus::parse(&self.cpus)?;
        let vfio = self.vfio.iter().map(|text| text.parse());
        let mut vfio = vfio
            .collect::<Result<Vec<DeviceConfig>, _>>()
            .map_err(ConfigError::Device)?;
        for device in &mut vfio {
            let names = Path::new(device_names::FILE);
            device.address = device_names::resolve(names, &Sysfs::default(), &device.address)?;
        }
        let ports = self.ports.as_deref().map(ports::parse).transpose()?;
        let (kvm, iommu, vfio) = files(self.kvm.as_deref(), self.iommu, vfio)?;
        let cmdline = match self.cmdline.as_deref().map(str::trim) {
            None | Some("") => BASE_CMDLINE.to_string(),
            Some(more) => format!("{BASE_CMDLINE} {more}"),
        };
        Ok(VmConfig {
            kernel,
            initrd: self.initrd,
            cmdline,
            cpus,
            memory,
            vfio,
            ports: ports.unwrap_or_default(),
            iommu,
            kvm,
            no_reboot: self.no_reboot,
            statistics: match self.stats {
                None => Statistics::Off,
                Some(None) => Statistics::Table,
                Some(Some(path)) => Statistics::Json(path),
            },
        })
    }
}

/// The files of KVM and of the IOMMU, and the devices with theirs.
type Files = (Option<Descriptor>, Iommu, Vec<DeviceConfig>);

/// Takes over the files that another process has opened. A device gets the address that its file
/// leads to.
///
/// # Errors
/// A file is not what its flag says, or does not go together with another option.
fn files(
    kvm: Option<&str>,
    iommu: IommuChoice,
    mut vfio: Vec<DeviceConfig>,
) -> Result<Files, GivenError> {
    let kvm = kvm.map(given::kvm_file).transpose()?;
    let iommu = match iommu {
        IommuChoice::Kind(kind) => kind,
        IommuChoice::Descriptor(digits) => Iommu::Given(given::iommufd(&digits)?),
    };
    for device in &mut vfio {
        let Some(digits) = given::number(&device.address) else {
            continue;
        };
        let (file, name) = given::device(&Sysfs::default(), digits)?;
        if device.managed {
            return Err(GivenError::Managed(name));
        }
        if iommu == Iommu::Container {
            return Err(GivenError::Container(name));
        }
        device.given = Some(file);
        device.address = name.to_string();
    }
    Ok((kvm, iommu, vfio))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::{Action, Cli};

    fn parse(args: &[&str]) -> Result<VmConfig, ConfigError> {
        let cli = Cli::try_parse_from([&["mini-vmm", "--kernel", "k"], args].concat()).unwrap();
        match cli.into_action() {
            Ok(Action::Run(args)) => args.into_config(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_become_a_config() {
        let c = parse(&[
            "--initramfs",
            "i",
            "--cmdline",
            "quiet",
            "--cpus",
            "4",
            "--memory",
            "1G",
        ]);
        let c = c.unwrap();
        assert_eq!(c.initrd, Some("i".into()));
        assert_eq!(c.cmdline, "console=ttyS0 quiet");
        assert_eq!((c.cpus.count(), c.memory.size), (4, 1 << 30));
        let c = parse(&["--vfio", "01:00.0", "--vfio", "02:00.0", "--no-reboot"]).unwrap();
        let addresses: Vec<_> = c.vfio.iter().map(|d| d.address.as_str()).collect();
        assert_eq!(addresses, ["01:00.0", "02:00.0"]);
        assert!(c.no_reboot);
        assert_eq!(c.cmdline, "console=ttyS0");
        assert_eq!(c.statistics, Statistics::Off);
        let c = parse(&["--stats", "--no-reboot"]).unwrap();
        assert_eq!(c.statistics, Statistics::Table);
        let c = parse(&["--stats=s.json"]).unwrap();
        assert_eq!(c.statistics, Statistics::Json("s.json".into()));
        assert!(parse(&["--memory", "lots"]).is_err());
        assert!(parse(&["--memory", "-5"]).is_err());
        assert!(parse(&["--vfio", "01:00.0,frob=1"]).is_err());
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for args in [
            &["--cpus", "0"][..],
            &["--cpus", "256"],
            &["--frob"],
            &["extra"],
        ] {
            let all = [&["mini-vmm", "--kernel", "k"], args].concat();
            assert_eq!(Cli::try_parse_from(all).unwrap_err().exit_code(), 2);
        }
        assert_eq!(
            Cli::try_parse_from(["mini-vmm"]).unwrap_err().exit_code(),
            2
        );
    }
}
