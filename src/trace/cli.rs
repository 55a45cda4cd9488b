//! The command line of `mini-vmm trace` and of `mini-vmm-trace`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::filter::{Address, Filter, Kind};

/// What stands below the flags in `--help`.
pub const EXAMPLES: &str = "\
Watch a guest start, in a file, while its console stays yours:
  mini-vmm trace -o boot.trace -- mini-vmm --kernel bzImage --vfio 0000:01:00.0

See what the guest does to PCI configuration space, and nothing else:
  mini-vmm trace --only exit,coalesced --address 0xcf8-0xcff -- mini-vmm …

See one descriptor's calls of QEMU, and the counts of all:
  mini-vmm trace --descriptor container -- qemu-system-x86_64 -enable-kvm …

Make one page to look at in a browser, without a network:
  mini-vmm trace -c -o counts --html boot.html -- mini-vmm --kernel bzImage

Follow an interrupt from VFIO's handler into the guest, as root:
  mini-vmm trace --kernel --only kernel,eventfd -- mini-vmm …

Count only, like strace -c:
  mini-vmm trace --summary-only -- mini-vmm --kernel bzImage

A line has the time in seconds since the first event, the thread, the file, and
the call with its fields as linux/kvm.h, vfio.h and iommufd.h name them: what
the program hands in stands in parentheses, what the kernel writes in braces.
A guest's access stands as `out cfc.4`: port or address, and width in bytes.
`coalesced` marks writes that KVM kept without an exit; `└` marks calls that
follow from the exit above.

You can trace your own programs as an ordinary user; what you start ends with
the tracer. For root, a seccomp filter lets calls that are never shown run
without a stop; for others each call stops, and the command is slower.

Exit status: the command's; 125 if it cannot be traced, 126 if it cannot be
executed, 127 if it cannot be found.";

/// Run a command, and show its KVM, VFIO and iommufd calls, and what its guest does
#[derive(Clone, Debug, Args)]
pub struct TraceArgs {
    /// Write the trace to FILE, not to standard error
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Write one JSON object a line
    #[arg(long)]
    pub json: bool,

    /// Write only the counts at the end: calls by name, exits by reason and by register
    #[arg(short = 'c', long, conflicts_with = "json")]
    pub summary_only: bool,

    /// Show only these kinds: exit, coalesced, process, memory, kernel, or calls of a file: kvm,
    /// vm, vcpu, kvm-device, kvm-other, container, group, device, migration, iommufd,
    /// iommufd-other, eventfd
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub only: Vec<Kind>,

    /// Show only what is done to this file, such as 'vcpu 0', 'device 0000:01:00.0', 'eventfd 7'
    #[arg(long, value_name = "NAME")]
    pub descriptor: Vec<String>,

    /// Show only the guest's accesses to a port or address, a range, or a function of the guest
    #[arg(long, value_name = "ADDRESS")]
    pub address: Vec<Address>,

    /// Also write FILE for Perfetto (ui.perfetto.dev): exits, calls, and the way of interrupts
    #[arg(long, value_name = "FILE")]
    pub perfetto: Option<PathBuf>,

    /// Also write FILE, one page for a browser: a timeline, address maps, and who answers what
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Show the kernel's own part of an interrupt's way too, from tracefs; needs root
    #[arg(long)]
    pub kernel: bool,

    /// Say in half a line what each call is for, and where it is described
    #[arg(long)]
    pub why: bool,

    /// Stop at each system call, as for an ordinary user: slower, but without a seccomp filter,
    /// which the command could see in itself
    #[arg(long)]
    pub no_filter: bool,

    /// The command, and its arguments
    #[arg(
        value_name = "COMMAND",
        required = true,
        num_args = 1..,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<OsString>,
}

impl TraceArgs {
    /// Which events are shown.
    pub fn filter(&self) -> Filter {
        Filter {
            kinds: self.only.clone(),
            descriptors: self.descriptor.clone(),
            addresses: self.address.clone(),
        }
    }
}
