//! Boots a kernel with one PCI device, through the library. The smallest whole use of it.
//!
//! ```text
//! cargo run --example minimal -- bzImage initrd.img 0000:01:00.0
//! ```
//!
//! The device must be bound to vfio-pci (`mini-vmm host bind`). The guest's serial port is written
//! to standard output; nothing is typed at it, and SIGINT ends the process at once.

use std::env;
use std::error::Error;
use std::sync::Arc;

use vmm::config::cpus::CpuConfig;
use vmm::config::memory::MemoryConfig;
use vmm::config::ports::PortsConfig;
use vmm::config::{Iommu, Statistics, VmConfig};
use vmm::lifecycle::Lifecycle;
use vmm::machine::Machine;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (Some(kernel), Some(initrd), Some(device)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: minimal KERNEL INITRD DEVICE".into());
    };

    // What the flags of the program say, as a value.
    let config = VmConfig {
        kernel: kernel.into(),
        initrd: Some(initrd.into()),
        cmdline: "console=ttyS0".into(),
        cpus: CpuConfig::new(1)?,
        memory: MemoryConfig::new(512 << 20),
        vfio: vec![device.parse()?],
        ports: PortsConfig::default(),
        iommu: Iommu::Auto,
        kvm: None,
        no_reboot: true,
        statistics: Statistics::Off,
    };

    // The boot order: KVM, memory, the device, the platform. Nothing runs yet.
    let mut machine = Machine::new(config, Box::new(std::io::stdout()))?;

    // The main loop waits for the guest's end; without a terminal it hears no keys and no signals.
    let mut lifecycle = Lifecycle::new(Arc::clone(&machine.notifier()), None)?;
    let exit = machine.run(&mut lifecycle)?;
    println!("the guest's end: {exit:?}");
    Ok(())
}
