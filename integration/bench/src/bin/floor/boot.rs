//! The shortest path from a process to a guest's first instruction.

use std::io::Write;
use std::ptr;
use std::thread;

use bench::error::{Context, Error, Result};
use bench::tiny::{self, Then};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use crate::iommu::Iommu;
use crate::ram::{MIB, Ram};

/// End of the RAM below 4 GiB. The rest of the RAM begins at 4 GiB, because the local APICs are
/// between the two.
const LOW: usize = 3 << 30;
const HIGH: u64 = 4 << 30;
/// Guest-physical address of the TSS that KVM needs on Intel: an unused range below the APICs.
const TSS: usize = 0xfffb_d000;

/// Starts a guest, which writes its mark to the serial port and then loops. Copies the mark to
/// standard output. The guest runs until this process is killed.
pub fn run(mib: usize, cpus: u64, devices: &[&str], with_cpuid: bool) -> Result<()> {
    let kvm = Kvm::new().context("open /dev/kvm")?;
    let vm = kvm.create_vm().context("create a VM")?;
    vm.set_tss_address(TSS)
        .context("set the address of the TSS")?;
    let low = (mib * MIB).min(LOW);
    let mut slots = vec![(0, make(low, devices)?)];
    if mib * MIB > low {
        slots.push((HIGH, make(mib * MIB - low, devices)?));
    }
    for (slot, (at, ram)) in (0..).zip(&slots) {
        add(&vm, slot, *at, ram)?;
    }
    vm.create_irq_chip()
        .context("create the interrupt controllers")?;
    // This guest would run without CPUID. A real kernel would not: CPUID tells the kernel, and KVM,
    // that the CPU has long mode.
    let cpuid = with_cpuid.then(|| kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES));
    let cpuid = cpuid.transpose().context("ask what CPUID there can be")?;
    let vcpus = (0..cpus)
        .map(|id| {
            let vcpu = vm.create_vcpu(id)?;
            if let Some(cpuid) = &cpuid {
                vcpu.set_cpuid2(cpuid)?;
            }
            Ok(vcpu)
        })
        .collect::<Result<Vec<_>, kvm_ioctls::Error>>()
        .context("create vCPUs")?;
    let Some(mut vcpu) = vcpus.into_iter().next() else {
        return Err(Error::new("a guest has at least one CPU"));
    };
    // The devices stay open as long as the guest runs.
    let _iommu = with_devices(&slots, devices)?;
    let code = tiny::code(Then::Spin);
    let at = slots[0].1.start.wrapping_add(tiny::BASE as usize);
    // SAFETY: the mapping has at least 128 MiB, and nothing else uses it yet.
    unsafe { ptr::copy_nonoverlapping(code.as_ptr(), at, code.len()) };
    enter_flat(&vcpu)?;
    loop {
        match vcpu.run().context("run the guest")? {
            VcpuExit::IoOut(_, bytes) => std::io::stdout()
                .write_all(bytes)
                .and_then(|()| std::io::stdout().flush())
                .context("write what the guest said")?,
            VcpuExit::IoIn(_, bytes) => bytes.fill(0),
            VcpuExit::Intr => {}
            other => return Err(Error::new(format!("an exit of no use: {other:?}"))),
        }
    }
}

/// Makes RAM from anonymous memory. For devices the RAM has huge pages, which take the least time
/// to fill.
fn make(size: usize, devices: &[&str]) -> Result<Ram> {
    if !devices.is_empty() {
        return Ram::new(size, "thp");
    }
    // SAFETY: a new mapping, at an address of the kernel's choice.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error()).context("map RAM");
    }
    Ok(Ram {
        start: start.cast(),
        size,
    })
}

/// Opens the devices, and at the same time fills the RAM with one thread for each CPU. Then maps
/// the RAM for the devices.
fn with_devices(slots: &[(u64, Ram)], devices: &[&str]) -> Result<Option<Iommu>> {
    if devices.is_empty() {
        return Ok(None);
    }
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let iommu = thread::scope(|scope| {
        let opening = scope.spawn(|| Iommu::iommufd(devices));
        for (_, ram) in slots {
            ram.populate(threads)?;
        }
        opening
            .join()
            .unwrap_or_else(|_| Err(Error::new("a thread died")))
    })?;
    for (at, ram) in slots {
        iommu.map(*at, ram)?;
    }
    Ok(Some(iommu))
}

fn add(vm: &VmFd, slot: u32, at: u64, ram: &Ram) -> Result<()> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: at,
        memory_size: ram.size as u64,
        userspace_addr: ram.start as u64,
    };
    // SAFETY: the mapping is never unmapped.
    unsafe { vm.set_user_memory_region(region) }.context("add a memory slot")
}

/// Flat 32-bit protected mode at the guest's code, as PVH has it (Xen, docs/misc/pvh.pandoc).
fn enter_flat(vcpu: &VcpuFd) -> Result<()> {
    let mut sregs = vcpu.get_sregs().context("read registers")?;
    for segment in [
        &mut sregs.cs,
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        segment.base = 0;
        segment.limit = u32::MAX;
        segment.type_ = 3; // data, writable, accessed
        segment.present = 1;
        segment.s = 1;
        segment.db = 1;
        segment.g = 1;
        segment.selector = 16;
    }
    sregs.cs.type_ = 11; // code, readable, accessed
    sregs.cs.selector = 8;
    sregs.cr0 |= 1;
    vcpu.set_sregs(&sregs).context("set segments")?;
    let mut regs = vcpu.get_regs().context("read registers")?;
    regs.rip = tiny::BASE.into();
    regs.rflags = 2;
    vcpu.set_regs(&regs).context("set registers")
}
