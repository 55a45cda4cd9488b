//! Takes a device from Linux, one word for each call, and reads the first register of its BAR 0:
//!
//! ```text
//! take 0000:00:0b.0 container group join iommu device read
//! take 0000:00:0b.0 iommufd space node bind attach read
//! ```
//!
//! It makes the calls in the order of the words, and stops at the first that fails.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use iommufd_bindings::iommufd::{IOMMUFD_CMD_IOAS_ALLOC, IOMMUFD_TYPE, iommu_ioas_alloc};
use vfio_bindings::bindings::vfio::*;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(VFIO_SET_IOMMU, VFIO_TYPE.into(), VFIO_BASE + 2);
ioctl_io_nr!(VFIO_GROUP_SET_CONTAINER, VFIO_TYPE.into(), VFIO_BASE + 4);
ioctl_io_nr!(VFIO_GROUP_GET_DEVICE_FD, VFIO_TYPE.into(), VFIO_BASE + 6);
ioctl_io_nr!(VFIO_DEVICE_GET_REGION_INFO, VFIO_TYPE.into(), VFIO_BASE + 8);
ioctl_io_nr!(VFIO_DEVICE_BIND_IOMMUFD, VFIO_TYPE.into(), VFIO_BASE + 18);
ioctl_io_nr!(ATTACH_IOMMUFD_PT, VFIO_TYPE.into(), VFIO_BASE + 19);
ioctl_io_nr!(
    IOMMU_IOAS_ALLOC,
    IOMMUFD_TYPE as u32,
    IOMMUFD_CMD_IOAS_ALLOC
);

/// The files that are open so far, and the number of the I/O address space.
#[derive(Default)]
struct Taken {
    address: String,
    container: Option<File>,
    group: Option<File>,
    device: Option<File>,
    iommufd: Option<File>,
    space: u32,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut taken = Taken {
        address: arguments.next().unwrap_or_default(),
        ..Taken::default()
    };
    for word in arguments {
        match taken.call(&word) {
            Ok(said) => println!("{word}: {said}"),
            Err(why) => {
                println!("{word}: {why}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

impl Taken {
    /// One call.
    fn call(&mut self, word: &str) -> Result<String> {
        match word {
            "container" => self.container = Some(open("/dev/vfio/vfio")?),
            "group" => {
                let link = fs::read_link(self.sysfs("iommu_group"))?;
                let number = link.file_name().unwrap_or_default().to_string_lossy();
                self.group = Some(open(&format!("/dev/vfio/{number}"))?);
            }
            "join" => {
                let (group, container) = (file(&self.group)?, file(&self.container)?);
                // SAFETY: the kernel reads one number.
                let ret = unsafe {
                    ioctl_with_ref(group, VFIO_GROUP_SET_CONTAINER(), &container.as_raw_fd())
                };
                done(ret)?;
            }
            "iommu" => {
                let container = file(&self.container)?;
                // SAFETY: the argument is a number.
                done(unsafe {
                    ioctl_with_val(container, VFIO_SET_IOMMU(), VFIO_TYPE1v2_IOMMU.into())
                })?;
            }
            "device" => {
                let name = CString::new(self.address.clone())?;
                let group = file(&self.group)?;
                // SAFETY: the kernel reads a string that ends with a zero.
                let ret =
                    unsafe { ioctl_with_ptr(group, VFIO_GROUP_GET_DEVICE_FD(), name.as_ptr()) };
                // SAFETY: the kernel has just opened the descriptor for us.
                self.device = Some(unsafe { File::from_raw_fd(done(ret)?) });
            }
            "iommufd" => self.iommufd = Some(open("/dev/iommu")?),
            "space" => {
                let mut alloc = iommu_ioas_alloc {
                    size: size_of::<iommu_ioas_alloc>() as u32,
                    ..Default::default()
                };
                let iommufd = file(&self.iommufd)?;
                // SAFETY: a whole structure that has its size.
                done(unsafe { ioctl_with_mut_ref(iommufd, IOMMU_IOAS_ALLOC(), &mut alloc) })?;
                self.space = alloc.out_ioas_id;
            }
            "node" => {
                let mut entries = fs::read_dir(self.sysfs("vfio-dev"))?;
                let entry = entries.next().ok_or(Error::other("no node"))??;
                let name = entry.file_name();
                self.device = Some(open(&format!(
                    "/dev/vfio/devices/{}",
                    name.to_string_lossy()
                ))?);
            }
            "bind" => self.bind()?,
            "attach" => self.attach()?,
            "read" => return self.read(),
            _ => return Err(Error::other("there is no such call")),
        }
        Ok("done".into())
    }

    fn bind(&self) -> Result<()> {
        let mut bind = vfio_device_bind_iommufd {
            argsz: size_of::<vfio_device_bind_iommufd>() as u32,
            iommufd: file(&self.iommufd)?.as_raw_fd(),
            ..Default::default()
        };
        let device = file(&self.device)?;
        // SAFETY: a whole structure that has its size.
        done(unsafe { ioctl_with_mut_ref(device, VFIO_DEVICE_BIND_IOMMUFD(), &mut bind) })?;
        Ok(())
    }

    fn attach(&self) -> Result<()> {
        let mut attach = vfio_device_attach_iommufd_pt {
            argsz: size_of::<vfio_device_attach_iommufd_pt>() as u32,
            pt_id: self.space,
            ..Default::default()
        };
        let device = file(&self.device)?;
        // SAFETY: a whole structure that has its size.
        done(unsafe { ioctl_with_mut_ref(device, ATTACH_IOMMUFD_PT(), &mut attach) })?;
        Ok(())
    }

    /// The first register of BAR 0, through the device's file.
    fn read(&self) -> Result<String> {
        let device = file(&self.device)?;
        let mut info = vfio_region_info {
            argsz: size_of::<vfio_region_info>() as u32,
            index: VFIO_PCI_BAR0_REGION_INDEX,
            ..Default::default()
        };
        // SAFETY: a whole structure that has its size.
        done(unsafe { ioctl_with_mut_ref(device, VFIO_DEVICE_GET_REGION_INFO(), &mut info) })?;
        let mut register = [0; 4];
        device.read_exact_at(&mut register, info.offset)?;
        Ok(format!("{:#010x}", u32::from_le_bytes(register)))
    }

    fn sysfs(&self, name: &str) -> String {
        format!("/sys/bus/pci/devices/{}/{name}", self.address)
    }
}

fn open(path: &str) -> Result<File> {
    File::options().read(true).write(true).open(path)
}

fn file(open: &Option<File>) -> Result<&File> {
    open.as_ref()
        .ok_or(Error::other("no such file is open yet"))
}

fn done(ret: i32) -> Result<i32> {
    if ret < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(ret)
    }
}
