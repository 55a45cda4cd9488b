//! A start of mini-vmm in L1: its command line, and the expected end of the run.

/// The values of `--iommu` that select an interface of the kernel. `Scenario::by_each_interface`
/// runs mini-vmm once with each interface, in this order.
pub const INTERFACES: [&str; 2] = ["container", "iommufd"];

/// The expected end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest booted this number of times, worked its disks and powered off. mini-vmm exited
    /// with status 0.
    PoweredOff {
        /// The number of boots in this run.
        boots: usize,
    },
    /// mini-vmm exited with this status. The scenario has its own checks for the rest.
    Exited(i32),
}

/// One start of mini-vmm. The scenario adds the kernel, the initramfs and the devices.
#[derive(Clone, Debug)]
pub struct Vmm {
    options: String,
    words: String,
    devices: Option<String>,
    interface: Option<&'static str>,
    meanwhile: Option<String>,
    end: End,
}

impl Vmm {
    /// Starts mini-vmm with these further options. The guest must work its disks and power off.
    pub fn new(options: impl Into<String>) -> Self {
        Self {
            options: options.into(),
            words: String::new(),
            devices: None,
            interface: None,
            meanwhile: None,
            end: End::PoweredOff { boots: 1 },
        }
    }

    /// Adds words to the guest's kernel command line, such as `lab.act=loop`.
    pub fn cmdline(mut self, words: impl Into<String>) -> Self {
        self.words = words.into();
        self
    }

    /// Gives the guest these devices in place of the scenario's devices: `--vfio` options, or
    /// nothing.
    pub fn devices(mut self, options: impl Into<String>) -> Self {
        self.devices = Some(format!(" {}", options.into()).trim_end().to_owned());
        self
    }

    /// Selects one of [`INTERFACES`]. mini-vmm must report that it uses this interface.
    pub fn by(mut self, interface: &'static str) -> Self {
        self.interface = Some(interface);
        self
    }

    /// Runs shell commands in L1 while mini-vmm runs, and then waits for mini-vmm.
    pub fn meanwhile(mut self, shell: impl Into<String>) -> Self {
        self.meanwhile = Some(shell.into());
        self
    }

    /// Expects this number of boots in the run.
    pub fn boots(mut self, boots: usize) -> Self {
        self.end = End::PoweredOff { boots };
        self
    }

    /// Expects this exit status of mini-vmm, and checks nothing of the guest.
    pub fn exits(mut self, status: i32) -> Self {
        self.end = End::Exited(status);
        self
    }

    /// The expected end of the run.
    pub fn end(&self) -> End {
        self.end
    }

    /// The interface that mini-vmm must use, if the run selects an interface.
    pub fn interface(&self) -> Option<&'static str> {
        self.interface
    }

    /// The `--vfio` options of this run. `all` contains the options of the scenario's devices.
    pub fn given<'a>(&'a self, all: &'a str) -> &'a str {
        self.devices.as_deref().unwrap_or(all)
    }

    /// The run as shell text for L1. The start of the L1 script sets `$boot` and `$cmdline`.
    pub fn shell(&self, all: &str) -> String {
        let iommu = self
            .interface
            .map_or_else(String::new, |interface| format!(" -v --iommu {interface}"));
        let words = [" ", &self.words].concat();
        let arguments = format!(
            "$boot{iommu} {} --cmdline \"$cmdline{}\"{}",
            self.options,
            words.trim_end(),
            self.given(all)
        );
        match &self.meanwhile {
            None => format!("run_vmm {arguments}\n"),
            Some(shell) => format!("start_vmm {arguments}\n{}\nwait_vmm\n", shell.trim_end()),
        }
    }
}

impl From<&str> for Vmm {
    fn from(options: &str) -> Self {
        Self::new(options)
    }
}

impl From<String> for Vmm {
    fn from(options: String) -> Self {
        Self::new(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: &str = " --vfio 0000:00:05.0";

    #[test]
    fn the_command_line_has_what_a_run_needs() {
        assert_eq!(
            Vmm::from("--memory 512M").shell(DISK),
            "run_vmm $boot --memory 512M --cmdline \"$cmdline\" --vfio 0000:00:05.0\n"
        );
        let vmm = Vmm::new("--cpus 2")
            .by("iommufd")
            .cmdline("lab.act=loop")
            .devices("")
            .meanwhile("await 'L2: looping' 90\nkill $vmm_pid\n");
        assert_eq!(
            vmm.shell(DISK),
            "start_vmm $boot -v --iommu iommufd --cpus 2 --cmdline \"$cmdline lab.act=loop\"\n\
             await 'L2: looping' 90\nkill $vmm_pid\nwait_vmm\n"
        );
    }
}
