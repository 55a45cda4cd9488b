//! A machine with several memory slots, some of which are the same page of this process.
//!
//! | guest-physical | what |
//! | --- | --- |
//! | 0x1000 | the program |
//! | 0x8000 | the first data page once more, read-only |
//! | 0x10000 to 0x17fff | eight data pages; page B is page A |
//!
//! Everything else is empty. With a fourth argument, `overlap`, one slot too many is added.

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VmFd};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const PAGE: usize = 4096;
const DATA_PAGES: usize = 8;

/// The program's page, and the data pages.
#[repr(align(4096))]
struct Memory([[u8; PAGE]; 1 + DATA_PAGES]);

fn main() -> Outcome<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [program, a, b, more @ ..] = &arguments[..] else {
        return Err("usage: slots PROGRAM A B [overlap]".into());
    };
    let program = std::fs::read(program)?;
    let (a, b): (usize, usize) = (a.parse()?, b.parse()?);
    let mut memory = Box::new(Memory([[0; PAGE]; 1 + DATA_PAGES]));
    memory.0[0][..program.len()].copy_from_slice(&program);

    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    let page_of = |number: usize| memory.0[if number == b { 1 + a } else { 1 + number }].as_ptr();
    add(&vm, 0, 0x1000, memory.0[0].as_ptr(), 0)?;
    add(&vm, 1, 0x8000, page_of(0), KVM_MEM_READONLY)?;
    for number in 0..DATA_PAGES {
        add(&vm, 2 + number, 0x10000 + number * PAGE, page_of(number), 0)?;
    }
    if more.first().is_some_and(|word| word == "overlap") {
        add(&vm, 2 + DATA_PAGES, 0x10000, page_of(1), 0)?;
    }
    run(&vm)
}

/// Gives the guest one page of this process.
fn add(vm: &VmFd, slot: usize, at: usize, page: *const u8, flags: u32) -> Outcome<()> {
    let region = kvm_userspace_memory_region {
        slot: u32::try_from(slot)?,
        flags,
        guest_phys_addr: at as u64,
        memory_size: PAGE as u64,
        userspace_addr: page as u64,
    };
    // SAFETY: `main` drops the pages after the VM, and only the guest uses them meanwhile.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(|e| format!("slot {slot} at {at:#x}: {e}").into())
}

/// Runs the program, as the machine in forty lines does.
fn run(vm: &VmFd) -> Outcome<()> {
    let mut vcpu = vm.create_vcpu(0)?;
    let mut segments = vcpu.get_sregs()?;
    segments.cs.base = 0;
    segments.cs.selector = 0;
    vcpu.set_sregs(&segments)?;
    let mut registers = vcpu.get_regs()?;
    registers.rip = 0x1000;
    vcpu.set_regs(&registers)?;
    loop {
        match vcpu.run()? {
            VcpuExit::IoOut(port, data) => println!("out {port:#x} {data:02x?}"),
            VcpuExit::MmioWrite(at, data) => println!("write {at:#x} {data:02x?}"),
            VcpuExit::MmioRead(at, data) => {
                println!("read {at:#x}, {} bytes", data.len());
                data.fill(0xff);
            }
            VcpuExit::Hlt => break println!("halt"),
            exit => return Err(format!("the guest cannot continue: {exit:?}").into()),
        }
    }
    Ok(())
}
