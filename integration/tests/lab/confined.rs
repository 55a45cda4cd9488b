//! What else keeps a process from a device: another process that has it, the locked memory of
//! another guest, a control group, a /dev of its own, a user namespace. Each is named.

use std::path::PathBuf;

use lab::Result;
use lab::disk::Disk;
use lab::expect::{back, expect};
use lab::outcome::Outcome;
use lab::scenario::Scenario;

const DISKS: [Disk; 2] = [Disk::new("first", 5), Disk::new("second", 6)];

/// Shell functions: `refused NAME COMMAND...` reports the exit status and the message of a command;
/// `started` waits until the guest's memory is mapped.
const FUNCTIONS: &str = "\
refused() {
\tname=$1
\tshift
\tstatus=0
\t\"$@\" >/run/refused.out 2>&1 </dev/null || status=$?
\tsay \"refused $name status=$status $(tr '\\n' ' ' </run/refused.out)\"
}
started() {
\tfor _ in $(seq 200); do
\t\tgrep -q 'vcpu 0' /proc/$vmm_pid/task/*/comm 2>/dev/null && return 0
\t\tsleep 0.05
\tdone
\tsay 'await-failed the first guest'
}
refuse
bind_vfio 0000:00:05.0
bind_vfio 0000:00:06.0
group=/dev/vfio/$(group_of 0000:00:05.0)
node=/dev/vfio/devices/$(ls $sys/0000:00:05.0/vfio-dev)
other=/dev/vfio/$(group_of 0000:00:06.0)
other_node=/dev/vfio/devices/$(ls $sys/0000:00:06.0/vfio-dev)
off='mini-vmm --kernel /run/off.elf --vfio 0000:00:05.0'
";

pub fn all() -> Vec<Scenario> {
    vec![
        scenario("the_holder_of_a_device_is_named", HOLDERS, holders),
        scenario("locked_memory_of_two_guests", TWO_GUESTS, two_guests),
        scenario("what_confines_a_process_is_named", CONFINED, confined),
    ]
}

fn scenario(
    name: &'static str,
    script: &str,
    check: impl Fn(&Outcome) -> Result<()> + Send + Sync + 'static,
) -> Scenario {
    let script = format!(
        "{FUNCTIONS}{script}\
         say \"records $(find /run/mini-vmm -type f 2>/dev/null | wc -l)\"\n\
         give_back 0000:00:05.0\ngive_back 0000:00:06.0\n"
    );
    Scenario::new(name)
        .machine(|l1| l1.programs = vec![PathBuf::from(env!("CARGO_BIN_EXE_refuse"))])
        .disks(&DISKS)
        .script(script, move |outcome| {
            check(outcome)?;
            let records: Vec<_> = outcome.transcript.lab("records").collect();
            expect(records == ["0"], || format!("{records:?} records"))?;
            DISKS.iter().try_for_each(|disk| back(outcome, disk))
        })
}

/// Checks the message of the command NAME: its status is 1, and it has all of `words`.
fn refusal(outcome: &Outcome, name: &str, words: &[&str]) -> Result<()> {
    let all: Vec<_> = outcome.transcript.lab("refused").collect();
    let found = all.iter().find_map(|line| {
        let (case, rest) = line.split_once(' ')?;
        (case == name).then_some(rest)
    });
    let said = found.unwrap_or("nothing");
    let good = said.starts_with("status=1 ") && words.iter().all(|word| said.contains(word));
    expect(good, || format!("{name}: {words:?} are not all in: {said}"))
}

const HOLDERS: &str = "\
ulimit -l unlimited
chmod 666 /dev/kvm /dev/vfio/vfio /dev/iommu $group $node
for first in container iommufd; do
\tstart_vmm --kernel /run/halt.elf --memory 64M --iommu $first --vfio 0000:00:05.0
\tstarted
\tsay \"first-$first $vmm_pid\"
\tfor second in container iommufd; do
\t\trefused $first-$second $off --memory 64M --iommu $second
\t\trefused user-$first-$second su -s /bin/sh -c \"$off --memory 64M --iommu $second\" user
\tdone
\tkill $vmm_pid
\twait_vmm
done
";

fn holders(outcome: &Outcome) -> Result<()> {
    for first in ["container", "iommufd"] {
        let key = format!("first-{first}");
        let pid = outcome.transcript.lab(&key).next().unwrap_or("none");
        let named = format!("process {pid} (mini-vmm) has it open");
        let ended = format!("`kill {pid}`");
        for second in ["container", "iommufd"] {
            let name = format!("{first}-{second}");
            refusal(
                outcome,
                &name,
                &["0000:00:05.0", &named, "hint: end it", &ended],
            )?;
            let hidden = [
                "that this user cannot see",
                "hint: as root: fuser -v /dev/vfio/",
            ];
            refusal(outcome, &format!("user-{name}"), &hidden)?;
        }
    }
    Ok(())
}

const TWO_GUESTS: &str = "\
chmod 666 /dev/kvm /dev/vfio/vfio /dev/iommu
chown user $group $node $other $other_node
ulimit -l 131072
start_as user mini-vmm --kernel /run/halt.elf --memory 96M,prefault=on --iommu iommufd \
\t--vfio 0000:00:06.0
started
say \"first $vmm_pid\"
in_use first
refused second su -s /bin/sh -c \"$off --memory 64M --iommu iommufd\" user
su -s /bin/sh -c 'mini-vmm host check --memory 64M' user | grep -A 4 memlock >/run/check || :
say \"check $(tr '\\n' ' ' </run/check)\"
run=0
su -s /bin/sh -c \"$off --memory 64M --iommu container\" user || run=$?
say \"by-container $run\"
kill $vmm_pid
wait_vmm
again=0
su -s /bin/sh -c \"$off --memory 64M --iommu iommufd\" user || again=$?
say \"alone $again\"
";

fn two_guests(outcome: &Outcome) -> Result<()> {
    let pid = outcome.transcript.lab("first").next().unwrap_or("none");
    let named = format!("process {pid} (mini-vmm) locked 100663296 of it");
    // 64 MiB and 96 MiB, and 64 MiB to spare.
    let words = [
        &named,
        "67108864 bytes",
        "134217728",
        "`ulimit -l 229376`",
        "--iommu container",
    ];
    refusal(outcome, "second", &words)?;
    let lab = |key| outcome.transcript.lab(key).next().unwrap_or("nothing");
    let check = lab("check");
    let warned = check.contains("WARN") && check.contains("96M") && check.contains(pid);
    expect(warned, || format!("host check says: {check}"))?;
    expect((lab("by-container"), lab("alone")) == ("0", "0"), || {
        format!(
            "by container: {}, alone: {}",
            lab("by-container"),
            lab("alone")
        )
    })
}

const CONFINED: &str = "\
mkdir /tmp/cg
mount -t cgroup -o devices none /tmp/cg
mkdir /tmp/cg/x
limited() {
\tname=$1
\tdenied=$2
\tshift 2
\techo \"c $denied rwm\" >/tmp/cg/x/devices.deny
\trefused $name sh -c \"echo \\$\\$ >/tmp/cg/x/cgroup.procs; exec $*\"
\techo \"c $denied rwm\" >/tmp/cg/x/devices.allow
}
by_group=\"$off --memory 64M --iommu container\"
by_node=\"$off --memory 64M --iommu iommufd\"
limited cgroup-kvm 10:232 $by_group
limited cgroup-group $(cat /sys/class/vfio/*/dev | head -n 1 | cut -d: -f1):'*' $by_group
limited cgroup-node $(cat /sys/class/vfio-dev/*/dev | head -n 1 | cut -d: -f1):'*' $by_node
limited cgroup-iommu $(cat /sys/class/misc/iommu/dev) $by_node
own_dev() {
\tname=$1
\toptions=$2
\tshift 2
\trefused $name unshare -m sh -c \"mount -t tmpfs -o $options none /dev && cd /dev &&
\tmknod null c 1 3 && chmod 666 null && $*\"
}
own_dev dev-kvm rw $by_group
own_dev dev-container rw \"mknod kvm c 10 232 && $by_group\"
own_dev dev-group rw \"mknod kvm c 10 232 && mkdir vfio && mknod vfio/vfio c 10 196 && $by_group\"
own_dev dev-iommu rw \"mknod kvm c 10 232 && $by_node\"
own_dev nodev nodev \"mknod kvm c 10 232 && $by_group\"
own_dev no-driver rw \"mknod kvm c 10 254 && $by_group\"
refused namespace unshare -U -r sh -c \"ulimit -l 1024; $by_group\"
";

fn confined(outcome: &Outcome) -> Result<()> {
    let group = "the device control group of this process forbids it";
    let missing = "the kernel has the device, but this /dev does not have the node";
    for (name, words) in [
        (
            "cgroup-kvm",
            ["/dev/kvm", group, "`DeviceAllow=/dev/kvm rw`"],
        ),
        (
            "cgroup-group",
            ["/dev/vfio/", group, "`DeviceAllow=/dev/vfio/"],
        ),
        (
            "cgroup-node",
            ["/dev/vfio/devices/", group, "--device /dev/vfio/devices/"],
        ),
        (
            "cgroup-iommu",
            ["/dev/iommu", group, "`DeviceAllow=/dev/iommu rw`"],
        ),
        ("dev-kvm", ["/dev/kvm", missing, "mknod /dev/kvm c 10 232"]),
        (
            "dev-container",
            ["/dev/vfio/vfio", missing, "mknod /dev/vfio/vfio c 10 196"],
        ),
        (
            "dev-group",
            ["cannot open /dev/vfio/", missing, "--device /dev/vfio/"],
        ),
        ("dev-iommu", ["/dev/iommu", missing, "--device /dev/iommu"]),
        (
            "nodev",
            ["/dev/kvm", "mounted with nodev", "hint: give the node"],
        ),
        (
            "no-driver",
            [
                "/dev/kvm",
                "no driver is behind the node",
                "modprobe kvm_intel",
            ],
        ),
        (
            "namespace",
            ["1048576", "CAP_IPC_LOCK of a user namespace", "ulimit -l"],
        ),
    ] {
        refusal(outcome, name, &words)?;
    }
    Ok(())
}
