//! Opens devices behind an IOMMU, and maps RAM for their DMA. The interface is VFIO's type 1
//! (Documentation/driver-api/vfio.rst) or iommufd (Documentation/userspace-api/iommufd.rst).

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::thread;

use bench::error::{Context, Error, Result};
use iommufd_bindings::iommufd::*;
use vfio_bindings::bindings::vfio::*;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::ioctl_io_nr;

use crate::ram::{Ram, done};

ioctl_io_nr!(VFIO_SET_IOMMU, VFIO_TYPE.into(), VFIO_BASE + 2);
ioctl_io_nr!(VFIO_GROUP_SET_CONTAINER, VFIO_TYPE.into(), VFIO_BASE + 4);
ioctl_io_nr!(VFIO_IOMMU_MAP_DMA, VFIO_TYPE.into(), VFIO_BASE + 13);
ioctl_io_nr!(VFIO_IOMMU_UNMAP_DMA, VFIO_TYPE.into(), VFIO_BASE + 14);
ioctl_io_nr!(VFIO_DEVICE_BIND_IOMMUFD, VFIO_TYPE.into(), VFIO_BASE + 18);
ioctl_io_nr!(
    VFIO_DEVICE_ATTACH_IOMMUFD_PT,
    VFIO_TYPE.into(),
    VFIO_BASE + 19
);
ioctl_io_nr!(
    IOMMU_IOAS_ALLOC,
    IOMMUFD_TYPE as u32,
    IOMMUFD_CMD_IOAS_ALLOC
);
ioctl_io_nr!(IOMMU_IOAS_MAP, IOMMUFD_TYPE as u32, IOMMUFD_CMD_IOAS_MAP);
ioctl_io_nr!(
    IOMMU_IOAS_UNMAP,
    IOMMUFD_TYPE as u32,
    IOMMUFD_CMD_IOAS_UNMAP
);

/// An IOMMU interface that maps RAM for DMA. Its files stay open until it is dropped.
pub enum Iommu {
    /// A container, and a group that was added to the container.
    Type1(File, #[expect(dead_code, reason = "it is kept open")] File),
    /// /dev/iommu, the ID of an I/O address space, and the devices attached to it.
    Iommufd(
        File,
        u32,
        #[expect(dead_code, reason = "they are kept open")] Vec<File>,
    ),
}

impl Iommu {
    /// Opens the interface with this name, and one device.
    pub fn new(interface: &str, bdf: &str) -> Result<Self> {
        match interface {
            "type1" => Self::type1(bdf),
            "iommufd" => Self::iommufd(&[bdf]),
            _ => Err(Error::new(format!("no such interface: {interface}"))),
        }
    }

    fn type1(bdf: &str) -> Result<Self> {
        let container = open("/dev/vfio/vfio")?;
        let group = fs::read_link(format!("/sys/bus/pci/devices/{bdf}/iommu_group"))
            .context(format!("find the group of {bdf}"))?;
        let group = group.file_name().unwrap_or_default().to_string_lossy();
        let group = open(&format!("/dev/vfio/{group}"))?;
        // SAFETY: the kernel reads one int.
        let ret =
            unsafe { ioctl_with_ref(&group, VFIO_GROUP_SET_CONTAINER(), &container.as_raw_fd()) };
        done(ret, "put the group into the container")?;
        // SAFETY: the argument is a number.
        let ret =
            unsafe { ioctl_with_val(&container, VFIO_SET_IOMMU(), VFIO_TYPE1v2_IOMMU.into()) };
        done(ret, "choose the kind of IOMMU")?;
        Ok(Self::Type1(container, group))
    }

    /// Opens each device in a thread of its own: opening resets the device, which takes long.
    pub fn iommufd(bdfs: &[&str]) -> Result<Self> {
        let iommufd = open("/dev/iommu")?;
        let mut space = iommu_ioas_alloc {
            size: size_of::<iommu_ioas_alloc>() as u32,
            ..Default::default()
        };
        // SAFETY: a whole structure whose length is in it.
        let ret = unsafe { ioctl_with_mut_ref(&iommufd, IOMMU_IOAS_ALLOC(), &mut space) };
        done(ret, "make an I/O address space")?;
        let space = space.out_ioas_id;
        let devices = thread::scope(|scope| {
            let openers: Vec<_> = bdfs
                .iter()
                .map(|bdf| scope.spawn(|| attach(bdf, &iommufd, space)))
                .collect();
            openers
                .into_iter()
                .map(|opener| {
                    opener
                        .join()
                        .unwrap_or_else(|_| Err(Error::new("a thread died")))
                })
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(Self::Iommufd(iommufd, space, devices))
    }

    /// Maps RAM for reading and writing.
    pub fn map(&self, iova: u64, ram: &Ram) -> Result<()> {
        let ret = match self {
            Self::Type1(container, _) => {
                let map = vfio_iommu_type1_dma_map {
                    argsz: size_of::<vfio_iommu_type1_dma_map>() as u32,
                    flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                    vaddr: ram.start as u64,
                    iova,
                    size: ram.size as u64,
                };
                // SAFETY: a whole structure whose length is in it; the RAM stays mapped until the
                // process ends.
                unsafe { ioctl_with_ref(container, VFIO_IOMMU_MAP_DMA(), &map) }
            }
            Self::Iommufd(iommufd, space, _) => {
                let map = iommu_ioas_map {
                    size: size_of::<iommu_ioas_map>() as u32,
                    flags: iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA
                        | iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE
                        | iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE,
                    ioas_id: *space,
                    user_va: ram.start as u64,
                    length: ram.size as u64,
                    iova,
                    ..Default::default()
                };
                // SAFETY: the same.
                unsafe { ioctl_with_ref(iommufd, IOMMU_IOAS_MAP(), &map) }
            }
        };
        done(ret, "map for DMA")
    }

    /// Unmaps RAM.
    pub fn unmap(&self, iova: u64, size: usize) -> Result<()> {
        let ret = match self {
            Self::Type1(container, _) => {
                let mut unmap = vfio_iommu_type1_dma_unmap {
                    argsz: size_of::<vfio_iommu_type1_dma_unmap>() as u32,
                    iova,
                    size: size as u64,
                    ..Default::default()
                };
                // SAFETY: a whole structure whose length is in it.
                unsafe { ioctl_with_mut_ref(container, VFIO_IOMMU_UNMAP_DMA(), &mut unmap) }
            }
            Self::Iommufd(iommufd, space, _) => {
                let mut unmap = iommu_ioas_unmap {
                    size: size_of::<iommu_ioas_unmap>() as u32,
                    ioas_id: *space,
                    iova,
                    length: size as u64,
                };
                // SAFETY: the same.
                unsafe { ioctl_with_mut_ref(iommufd, IOMMU_IOAS_UNMAP(), &mut unmap) }
            }
        };
        done(ret, "unmap")
    }
}

/// Opens a device, binds it to iommufd and attaches it to the I/O address space. Returns the
/// device's file.
fn attach(bdf: &str, iommufd: &File, space: u32) -> Result<File> {
    let sysfs = format!("/sys/bus/pci/devices/{bdf}/vfio-dev");
    let entry = fs::read_dir(&sysfs)
        .context(format!("list {sysfs}"))?
        .next()
        .ok_or_else(|| Error::new(format!("{sysfs} is empty")))?
        .context(format!("list {sysfs}"))?;
    let device = open(&format!(
        "/dev/vfio/devices/{}",
        entry.file_name().to_string_lossy()
    ))?;
    let mut bind = vfio_device_bind_iommufd {
        argsz: size_of::<vfio_device_bind_iommufd>() as u32,
        iommufd: iommufd.as_raw_fd(),
        ..Default::default()
    };
    // SAFETY: a whole structure whose length is in it, and no token.
    let ret = unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_BIND_IOMMUFD(), &mut bind) };
    done(ret, "bind a device to iommufd")?;
    let mut attach = vfio_device_attach_iommufd_pt {
        argsz: size_of::<vfio_device_attach_iommufd_pt>() as u32,
        pt_id: space,
        ..Default::default()
    };
    // SAFETY: a whole structure whose length is in it.
    let ret = unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_ATTACH_IOMMUFD_PT(), &mut attach) };
    done(ret, "attach a device to an I/O address space")?;
    Ok(device)
}

fn open(path: &str) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .context(format!("open {path}"))
}
