use std::os::fd::RawFd;

use super::*;
use crate::vfio::kernel_calls::opener_here;
use crate::vfio::open::closing_watch::Watch;

/// A container that maps no memory, and logs when it closes.
struct Silent {
    file: File,
    watch: Watch,
}

impl VfioOps for Silent {}

impl AsRawFd for Silent {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.watch.note("the container closes");
    }
}

fn container(watch: &Watch, members: usize) -> Arc<Container> {
    let silent = Silent {
        file: watch.file("container"),
        watch: watch.clone(),
    };
    Arc::new(Container {
        vfio: Arc::new(silent),
        kvm: Arc::new(KvmVfio::refusing()),
        opener: opener_here(),
        members: Mutex::new(members),
        groups: Arc::default(),
    })
}

fn group(watch: &Watch, container: Arc<Container>, stage: Stage) -> Group {
    Group {
        number: 7,
        file: Arc::new(watch.file("group")),
        stage,
        container,
    }
}

/// Every call is refused, as by a removed device, and closing goes on to the end.
#[test]
fn a_device_closes_then_its_group_then_the_container() {
    let watch = Watch::default();
    let container = container(&watch, 1);
    let group = Arc::new(group(&watch, container, Stage::KnownToKvm));
    let device = |name: &'static str| GroupDevice {
        file: DeviceFile::new(name.into(), watch.file(name), &group.container.opener),
        group: Arc::clone(&group),
    };
    let (first, second) = (device("first"), device("second"));
    drop(group);
    // The group stays for its other device.
    let lines = watch.lines_of(|| {
        drop(first);
        watch.note("the first has closed");
    });
    assert_eq!(lines, ["the first has closed [container group second]"]);
    let refused = "Inappropriate ioctl for device (os error 25)";
    assert_eq!(
        watch.lines_of(|| drop(second)),
        [
            format!("IOMMU group 7: KVM_DEV_VFIO_FILE_DEL failed: {refused} [container group]"),
            format!(
                "IOMMU group 7: VFIO_GROUP_UNSET_CONTAINER failed: {refused} [container group]"
            ),
            "the container closes [container]".into(),
        ]
    );
}

#[test]
fn a_group_that_is_refused_has_nothing_to_undo() {
    let watch = Watch::default();
    let container = container(&watch, 0);
    let mut group = group(&watch, Arc::clone(&container), Stage::Open);
    let Err(StepError::SetContainer(e)) = group.join() else {
        panic!("a pipe has joined a container");
    };
    assert_eq!(e.raw_os_error(), Some(libc::ENOTTY));
    assert_eq!(watch.lines_of(|| drop(group)), Vec::<String>::new());
    assert_eq!(*container.members(), 0);
}

#[test]
fn a_hot_reset_finds_the_groups_that_are_open() {
    let watch = Watch::default();
    let group = Arc::new(group(&watch, container(&watch, 0), Stage::Open));
    group.container.groups.add(group.number, &group.file);
    let device = GroupDevice {
        file: DeviceFile::new(
            "device".into(),
            watch.file("device"),
            &group.container.opener,
        ),
        group: Arc::clone(&group),
    };
    let found = device.group_file(7).map(|file| file.as_raw_fd());
    assert_eq!(found, Some(group.file.as_raw_fd()));
    assert!(device.group_file(8).is_none());
    let groups = Arc::clone(&group.container.groups);
    drop((group, device));
    assert!(groups.file(7).is_none());
}
