//! Resets that do not end: a device whose bus is taken away answers no more, and the kernel waits a
//! minute for each reset of it (drivers/pci/pci.c, `pci_dev_wait`). The wait cannot be interrupted.
//! With its bus the device answers again, and the reset ends.

use lab::Result;
use lab::disk::Disk;
use lab::expect::{exit, expect, run};
use lab::outcome::Outcome;
use lab::scenario::Scenario;

const DISK: Disk = Disk::new("lab-disk", 5);
/// A controller without a disk, below a root port.
const SLOW: &str = "0000:01:00.0";
const DEVICES: [&str; 4] = [
    "-device",
    "pcie-root-port,id=deaf,chassis=1,slot=1,addr=1c",
    "-device",
    "nvme,serial=slow,bus=deaf,addr=0",
];

pub fn all() -> Vec<Scenario> {
    let scenario = |name, interface| {
        Scenario::new(name)
            .limit(240)
            .disk(DISK)
            .qemu(&DEVICES)
            .script(script(interface), check)
    };
    vec![
        scenario("a_reset_without_end_in_a_container", "container"),
        scenario("a_reset_without_end_by_iommufd", "iommufd"),
    ]
}

/// The port's register of its secondary bus is at 0x19. `deaf` takes the bus away, and `hear` gives
/// it back. Afterwards the device has lost its addresses, and `anew` lets the kernel find it again.
fn script(interface: &str) -> String {
    let bdf = DISK.bdf();
    format!(
        "port=$sys/0000:00:1c.0\n\
         secondary() {{ printf $1 | dd of=$port/config bs=1 seek=25 conv=notrunc 2>/dev/null; }}\n\
         deaf() {{ secondary '\\376'; }}\nhear() {{ secondary '\\001'; }}\n\
         timed() {{ name=$1; shift; from=$(milliseconds); \"$@\"; \
             say took $name $(($(milliseconds) - from)); }}\n\
         helpers() {{ grep -lx vmm-guardian /proc/[0-9]*/comm | wc -l; }}\n\
         let_end() {{ hear; for _ in $(seq 200); do [ $(helpers) = 0 ] && break; sleep 0.1; done; \
             say helpers $1 $(helpers); host list; }}\n\
         anew() {{ echo 1 >$sys/{SLOW}/remove; echo 1 >/sys/bus/pci/rescan; \
             await_driver {SLOW} nvme; }}\n\
         beside() {{ say helpers $1 $(helpers); host list; \
             timed $1-again run_vmm $boot --memory 256M --vfio {SLOW}; \
             timed $1-unbind host unbind {SLOW}; \
             timed $1-disk host bind {bdf}; host unbind {bdf}; }}\n\
         options=\"$boot --memory 256M --iommu {interface} --host-timeout 3\"\n\
         await_driver {SLOW} nvme\ndrivers >/run/drivers\nhost bind {SLOW}\n\
         deaf\ntimed opening run_vmm $options --vfio {SLOW}\nbeside opening\nlet_end opening\n\
         host unbind {SLOW}\nanew\nstate opening\n\
         host bind {SLOW}\n\
         start_vmm $options --cmdline \"$cmdline\" --vfio {SLOW}\nawait 'L2: init' 90\n\
         deaf\nkill -TERM $vmm_pid\ntimed closing wait_vmm\nbeside closing\nlet_end closing\n\
         host unbind {SLOW}\nanew\nstate closing\n\
         start_vmm $options --cmdline \"$cmdline\" --vfio {SLOW},managed=on\nawait 'L2: init' 90\n\
         deaf\nkill -TERM $vmm_pid\ntimed managed wait_vmm\nlet_end managed\n\
         await_driver {SLOW} nvme || :\nanew\nstate managed\n"
    )
}

fn check(outcome: &Outcome) -> Result<()> {
    let _ = (exit as fn(_, _) -> _, run(outcome, 0)?);
    expect(false, || "look at it".into())
}
