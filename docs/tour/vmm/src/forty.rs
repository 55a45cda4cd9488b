//! A machine in forty lines: one page of memory, one processor, and a word about each exit.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit};

/// Where the page is in the machine. Both sides of it are empty.
const PAGE: u64 = 0x1000;

#[repr(align(4096))]
struct Memory([u8; 4096]);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let program = std::env::args().nth(1).ok_or("usage: forty PROGRAM")?;
    let program = std::fs::read(program)?;
    let mut memory = Box::new(Memory([0; 4096]));
    memory.0[..program.len()].copy_from_slice(&program);

    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    let slot = kvm_userspace_memory_region {
        guest_phys_addr: PAGE,
        memory_size: 4096,
        userspace_addr: memory.0.as_ptr() as u64,
        ..Default::default()
    };
    // SAFETY: `memory` is dropped after `vm`, and only the guest uses it meanwhile.
    unsafe { vm.set_user_memory_region(slot)? };

    let mut vcpu = vm.create_vcpu(0)?;
    let mut segments = vcpu.get_sregs()?;
    segments.cs.base = 0;
    segments.cs.selector = 0;
    vcpu.set_sregs(&segments)?;
    let mut registers = vcpu.get_regs()?;
    registers.rip = PAGE;
    vcpu.set_regs(&registers)?;

    loop {
        match vcpu.run()? {
            VcpuExit::IoOut(port, data) => println!("out {port:#x} {data:02x?}"),
            VcpuExit::IoIn(port, data) => println!("in {port:#x}, {} bytes", data.len()),
            VcpuExit::MmioWrite(at, data) => println!("write {at:#x} {data:02x?}"),
            VcpuExit::MmioRead(at, data) => println!("read {at:#x}, {} bytes", data.len()),
            VcpuExit::Hlt => break println!("halt"),
            exit => return Err(format!("the guest cannot continue: {exit:?}").into()),
        }
    }
    Ok(())
}
