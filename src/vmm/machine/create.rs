//! Opens KVM and makes the VM.

use crate::boot::Images;
use crate::config::VmConfig;
use crate::machine::error::MachineError;
use crate::machine::vm::{HostKvm, Vm};
use crate::phase;
use crate::stats::Stats;

/// Opens KVM and makes a VM with RAM and interrupt controllers.
pub(super) fn create_vm(
    config: &VmConfig,
    images: &Images,
    stats: &Stats,
) -> Result<(HostKvm, Vm), MachineError> {
    let _phase = phase!("create_vm");
    let kvm = HostKvm::open(config.kvm)?;
    kvm.check_cpus(&config.cpus.topology)?;
    let vm = Vm::new(&kvm, config, images)?;
    stats.set_ram(vm.ram.regions());
    stats.watch_kvm(&*vm.fd);
    Ok((kvm, vm))
}
