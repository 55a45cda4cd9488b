//! Your own VMM: runs a guest with one passed-through device, which the guest has as 00:01.0.
//!
//! ```text
//! own GUEST.img 0000:00:0b.0
//! ```

use std::ffi::{CString, c_ulong};
use std::fs::{self, File};
use std::io::{Error, Write, stdout};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::{env, mem, ptr, slice};

use kvm_bindings::*;
use kvm_ioctls::{DeviceFd, Kvm, VcpuExit, VcpuFd, VmFd};
use vfio_bindings::bindings::vfio::*;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_val};
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(VFIO_SET_IOMMU, VFIO_TYPE.into(), VFIO_BASE + 2);
ioctl_io_nr!(VFIO_GROUP_SET_CONTAINER, VFIO_TYPE.into(), VFIO_BASE + 4);
ioctl_io_nr!(VFIO_GROUP_GET_DEVICE_FD, VFIO_TYPE.into(), VFIO_BASE + 6);
ioctl_io_nr!(VFIO_DEVICE_GET_REGION_INFO, VFIO_TYPE.into(), VFIO_BASE + 8);
ioctl_io_nr!(VFIO_DEVICE_SET_IRQS, VFIO_TYPE.into(), VFIO_BASE + 10);
ioctl_io_nr!(VFIO_IOMMU_MAP_DMA, VFIO_TYPE.into(), VFIO_BASE + 13);

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const RAM: usize = 64 << 20;
/// Where the program is in it, and starts.
const START: usize = 1 << 20;
/// Where edu has its MSI capability in configuration space.
const MSI: usize = 0x40;
/// The first GSI that is no pin.
const GSI: u32 = 24;
/// What ports 0xcf8 and 0xcfc call the device: enabled, bus 0, device 1, function 0.
const FUNCTION: usize = 0x8000_0800;

fn main() -> Outcome<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [program, address] = &arguments[..] else {
        return Err("usage: own GUEST.img DEVICE".into());
    };
    let vm = Kvm::new()?.create_vm()?;
    vm.create_irq_chip()?;
    let ram = map(&open("/dev/zero")?, RAM, 0)?;
    set_slot(&vm, 0, 0, RAM, ram)?;
    let mut device = Device::open(vm, address, ram)?;
    // SAFETY: `map` has made it so long, no guest runs yet, and nobody else uses it.
    let mut memory = unsafe { slice::from_raw_parts_mut(ram.add(START), RAM - START) };
    memory.write_all(&fs::read(program)?)?;
    let mut vcpu = start(&device.vm)?;
    let mut selected = 0;
    loop {
        match vcpu.run()? {
            VcpuExit::IoOut(0x3f8, data) => stdout().write_all(data)?,
            VcpuExit::IoOut(0xcf8, data) => selected = number(data, 0)?,
            VcpuExit::IoOut(port @ 0xcfc..=0xcff, data) if selected & !0xff == FUNCTION => {
                device.write((selected & 0xfc) + usize::from(port & 3), data)?;
            }
            VcpuExit::IoIn(port @ 0xcfc..=0xcff, data) if selected & !0xff == FUNCTION => {
                device.read((selected & 0xfc) + usize::from(port & 3), data)?;
            }
            VcpuExit::IoIn(_, data) => data.fill(0xff),
            VcpuExit::IoOut(0x600, _) => return Ok(()),
            VcpuExit::IoOut(..) => {}
            exit => return Err(format!("the guest cannot continue: {exit:?}").into()),
        }
    }
}

/// The device, and what it needs of the machine.
struct Device {
    vm: VmFd,
    file: File,
    config: u64,
    bar: (*mut u8, usize),
    bar_is_mapped: bool,
}

impl Device {
    /// Takes the device, and lets it reach RAM.
    fn open(vm: VmFd, address: &str, ram: *mut u8) -> Outcome<Self> {
        let kvm = kvm_vfio(&vm)?;
        let container = open("/dev/vfio/vfio")?;
        let link = fs::read_link(format!("/sys/bus/pci/devices/{address}/iommu_group"))?;
        let group = link.file_name().unwrap_or_default().to_string_lossy();
        let group = open(&format!("/dev/vfio/{group}"))?;
        let mut number = container.as_raw_fd();
        call(&group, VFIO_GROUP_SET_CONTAINER(), &mut number)?;
        // SAFETY: the argument is a number.
        done(unsafe { ioctl_with_val(&container, VFIO_SET_IOMMU(), VFIO_TYPE1v2_IOMMU.into()) })?;
        tell_kvm(&kvm, &group)?;
        let name = CString::new(address)?;
        // SAFETY: the kernel reads a text that ends with a zero.
        let fd = unsafe { ioctl_with_ptr(&group, VFIO_GROUP_GET_DEVICE_FD(), name.as_ptr()) };
        // SAFETY: the kernel has just opened the descriptor for us.
        let file = unsafe { File::from_raw_fd(done(fd)?) };

        // An address of the device is an address of the guest.
        let mut dma = vfio_iommu_type1_dma_map::default();
        dma.argsz = size_of_val(&dma) as u32;
        dma.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
        (dma.iova, dma.vaddr, dma.size) = (0, ram as u64, RAM as u64);
        call(&container, VFIO_IOMMU_MAP_DMA(), &mut dma)?;

        // The guest finds the device switched off.
        let (_, config) = region(&file, VFIO_PCI_CONFIG_REGION_INDEX)?;
        file.write_all_at(&[0, 0], config + 4)?;
        let (bar_size, at) = region(&file, VFIO_PCI_BAR0_REGION_INDEX)?;
        let bar = map(&file, bar_size, at)?;
        // All stay open until this process ends.
        mem::forget((kvm, container, group));
        Ok(Self {
            vm,
            file,
            config,
            bar: (bar, bar_size),
            bar_is_mapped: false,
        })
    }

    /// The guest reads configuration space.
    fn read(&self, register: usize, data: &mut [u8]) -> Outcome<()> {
        let at = self.config + register as u64;
        Ok(self.file.read_exact_at(data, at)?)
    }

    /// The guest writes configuration space. Two of its writes are for us too.
    fn write(&mut self, register: usize, data: &[u8]) -> Outcome<()> {
        let at = self.config + register as u64;
        self.file.write_all_at(data, at)?;
        let mut now = [0; 256];
        self.read(0, &mut now)?;
        let answers = now[4] & 2 != 0;
        if answers != self.bar_is_mapped {
            let size = if answers { self.bar.1 } else { 0 };
            set_slot(&self.vm, 1, number(&now, 0x10)? & !0xf, size, self.bar.0)?;
            self.bar_is_mapped = answers;
        }
        let flags = (MSI + 2).checked_sub(register);
        let flags = flags.and_then(|at| data.get(at));
        if flags.is_some_and(|flags| flags & 1 != 0) {
            self.connect(number(&now, MSI + 4)?, number(&now, MSI + 12)?)?;
        }
        Ok(())
    }

    /// From the device to the guest without us: the device signals the eventfd, for which KVM sends
    /// the message.
    fn connect(&self, address: usize, data: usize) -> Outcome<()> {
        let mut entry = kvm_irq_routing_entry::default();
        (entry.gsi, entry.type_) = (GSI, KVM_IRQ_ROUTING_MSI);
        (entry.u.msi.address_lo, entry.u.msi.data) = (address as u32, data as u32);
        let table = KvmIrqRouting::from_entries(&[entry])?;
        self.vm.set_gsi_routing(&table)?;
        let interrupt = EventFd::new(0)?;
        self.vm.register_irqfd(&interrupt, GSI)?;
        // A `vfio_irq_set`, whose data are one descriptor: size, flags, index, start, count, data.
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
        let number = interrupt.as_raw_fd() as u32;
        let mut set = [24, flags, VFIO_PCI_MSI_IRQ_INDEX, 0, 1, number];
        call(&self.file, VFIO_DEVICE_SET_IRQS(), &mut set)?;
        mem::forget(interrupt);
        Ok(())
    }
}

/// KVM's file for what it must know of devices.
fn kvm_vfio(vm: &VmFd) -> Outcome<DeviceFd> {
    let mut device = kvm_create_device::default();
    (device.type_, device.flags) = (kvm_device_type_KVM_DEV_TYPE_VFIO, 0);
    Ok(vm.create_device(&mut device)?)
}

/// KVM hears of the group before the device is opened.
fn tell_kvm(device: &DeviceFd, group: &File) -> Outcome<()> {
    let (number, mut add) = (group.as_raw_fd(), kvm_device_attr::default());
    (add.group, add.attr) = (KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD.into());
    add.addr = &raw const number as u64;
    Ok(device.set_device_attr(&add)?)
}

/// One of the device's regions: its size, and its offset in the file.
fn region(device: &File, index: u32) -> Outcome<(usize, u64)> {
    let mut info = vfio_region_info::default();
    (info.argsz, info.index) = (size_of_val(&info) as u32, index);
    call(device, VFIO_DEVICE_GET_REGION_INFO(), &mut info)?;
    Ok((info.size as usize, info.offset))
}

/// A part of a file becomes memory of this process.
fn map(file: &File, size: usize, at: u64) -> Outcome<*mut u8> {
    let (null, fd, access) = (
        ptr::null_mut(),
        file.as_raw_fd(),
        libc::PROT_READ | libc::PROT_WRITE,
    );
    // SAFETY: the kernel chooses an address where nothing is.
    let memory = unsafe { libc::mmap(null, size, access, libc::MAP_SHARED, fd, at as i64) };
    match memory {
        libc::MAP_FAILED => Err(Error::last_os_error().into()),
        memory => Ok(memory.cast()),
    }
}

/// The guest has memory of this process at an address; with no size, it has it no longer.
fn set_slot(vm: &VmFd, slot: u32, at: usize, size: usize, memory: *mut u8) -> Outcome<()> {
    let mut region = kvm_userspace_memory_region::default();
    (region.slot, region.guest_phys_addr) = (slot, at as u64);
    (region.memory_size, region.userspace_addr) = (size as u64, memory as u64);
    // SAFETY: what `map` has made is mapped until this process ends.
    Ok(unsafe { vm.set_user_memory_region(region) }?)
}

/// A processor in 32-bit mode, with all of memory in each segment.
fn start(vm: &VmFd) -> Outcome<VcpuFd> {
    let vcpu = vm.create_vcpu(0)?;
    let mut s = vcpu.get_sregs()?;
    s.cr0 |= 1;
    for segment in [&mut s.cs, &mut s.ds, &mut s.es, &mut s.ss] {
        (segment.base, segment.limit) = (0, 0xffff_ffff);
        (segment.db, segment.g) = (1, 1);
    }
    vcpu.set_sregs(&s)?;
    let mut registers = vcpu.get_regs()?;
    registers.rip = START as u64;
    vcpu.set_regs(&registers)?;
    Ok(vcpu)
}

/// Four bytes of configuration space.
fn number(bytes: &[u8], at: usize) -> Outcome<usize> {
    let bytes = bytes.get(at..at + 4).ok_or("not four bytes")?;
    Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
}

fn open(path: &str) -> Result<File, Error> {
    File::options().read(true).write(true).open(path)
}

/// A call with a structure, which the kernel reads and may write.
fn call<T>(file: &File, request: c_ulong, argument: &mut T) -> Result<i32, Error> {
    // SAFETY: each caller has the structure of its call, with its size in it.
    done(unsafe { ioctl_with_mut_ref(file, request, argument) })
}

fn done(result: i32) -> Result<i32, Error> {
    match result {
        0.. => Ok(result),
        _ => Err(Error::last_os_error()),
    }
}
