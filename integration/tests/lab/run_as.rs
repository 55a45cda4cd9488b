//! `--run-as`: root starts a run whose process is another user's before the guest runs. The limit
//! on locked memory is low, and /dev/kvm, /dev/iommu and the nodes of devices are root's alone.

use lab::Result;
use lab::command::{INTERFACES, Vmm};
use lab::expect::expect;
use lab::scenario::Scenario;
use lab::transcript::{Run, number, value};

use crate::hot_plug::{DISK, all_plugged, all_worked};

/// Shell functions of L1: `whose NAME` reports of how many threads of mini-vmm user, group and
/// groups are the user's, that no capability is left and none comes back (no_new_privs), and that
/// there is a filter (proc_pid_status(5)); whose the socket and the file of `--stats` are; and the
/// limit on locked memory, which L1's shell has low.
const WHOSE: &str = r#"
whose() {
	say "whose $1 $(cat /proc/$vmm_pid/task/*/status | awk '
		$1 == "Name:" { threads++ }
		/^[UG]id:/ && $2 == 1000 && $3 == 1000 && $4 == 1000 && $5 == 1000 { good++ }
		$1 == "Groups:" && NF == 1 { good++ }
		/^Cap(Eff|Prm|Inh|Amb):/ && $2 ~ /^0+$/ { good++ }
		$1 == "NoNewPrivs:" && $2 == 1 { good++ }
		$1 == "Seccomp:" && $2 == 2 { good++ }
		END { print "threads=" (threads + 0) " lacks=" (9 * threads - good) }') \
		socket=$(stat -c %U /run/api/socket) stats=$(stat -c %U /run/user.json) \
		own=$(ulimit -l) limit=$(awk '/^Max locked memory/ { print $4 }' /proc/$vmm_pid/limits) \
		helpers=$(cat $(child_of $vmm_pid | sed 's|.*|/proc/&/status|') |
			awk '$1 == "Uid:" { printf "%s", $3 }')"
}
"#;

/// Shell functions of L1: `ctl USER ARGS` sends a request as USER, and reports its status and what
/// is said. `give_nodes USER` does with the nodes of the disk what `host bind --user` does.
const CLIENTS: &str = r#"
ctl() {
	ctl_user=$1
	shift
	ctl_status=0
	su -s /bin/sh -c 'exec mini-vmm ctl /run/api/socket "$@"' "$ctl_user" -- sh "$@" \
		>/run/ctl.out 2>&1 || ctl_status=$?
	say "ctl $ctl_user $1 status=$ctl_status $(tr '\n' ' ' </run/ctl.out)"
}
give_nodes() {
	chown "$1" /dev/vfio/$(group_of $bdf)
	for node in $sys/$bdf/vfio-dev/*/dev; do
		node=/dev/vfio/devices/$(basename $(dirname $node))
		[ ! -e $node ] || chown "$1" $node
	done
}
"#;

const OPTIONS: &str = "-v --run-as user --api-socket /run/api/socket --stats=/run/user.json";
const BEFORE: &str = "mkdir /run/api\nulimit -l 64\nchmod 600 /dev/kvm /dev/iommu";

pub fn all() -> Vec<Scenario> {
    vec![
        scenario("a_disk_of_another_users_run", "512M"),
        // Pages of 4 KiB, so that the maps take long.
        scenario("eight_gibibytes_of_another_users_run", "8G,hugepages=off")
            .machine(|l1| {
                l1.memory = 10752;
                l1.parameters = " transparent_hugepage=never";
            })
            .limit(600)
            .apart(),
        clients(),
    ]
}

fn scenario(name: &'static str, memory: &'static str) -> Scenario {
    Scenario::new(name)
        .limit(240)
        .disk(DISK)
        .before(BEFORE)
        .by_each_interface(move |_| {
            Vmm::new(format!("{OPTIONS} --ports 1 --memory {memory}")).meanwhile(format!(
                "{WHOSE}\n\
                 await 'L2: init' 200\n\
                 whose run\n\
                 mini-vmm ctl /run/api/socket info >/dev/null && say \"asked by root\"\n"
            ))
        })
        .each_run(|_, run| {
            is_the_users(run, "run")?;
            expect(run.lab("asked").count() == 1, || {
                "root has no answer".into()
            })
        })
}

/// A client of the user's adds a disk only while its nodes are the user's, and has none bound.
fn clients() -> Scenario {
    let bdf = DISK.bdf();
    let scenario = Scenario::new("clients_of_another_users_run")
        .limit(240)
        .disk(DISK)
        .before(BEFORE);
    INTERFACES
        .into_iter()
        .fold(scenario, |scenario, interface| {
            scenario.vmm(
                Vmm::new(format!("{OPTIONS} --ports 2 --memory 512M"))
                    .by(interface)
                    .devices("")
                    .cmdline("lab.act=plug-1 lab.hurry=1")
                    .meanwhile(format!(
                        "bdf={bdf}\n{WHOSE}\n{CLIENTS}\n\
                         await 'L2: listening' 90\n\
                         ctl user add {bdf}\n\
                         ctl user add {bdf},managed=on\n\
                         give_nodes user\n\
                         ctl user add {bdf},managed=on\n\
                         ctl user add {bdf}\n\
                         await 'L2: plugged n=1 ' 60\n\
                         whose plugged\n\
                         ctl user remove {bdf}\n\
                         await 'L2: unplugged n=1 ' 60\n\
                         give_nodes root\n\
                         ctl user add {bdf}\n\
                         ctl root add {bdf}\n"
                    )),
            )
        })
        .each_run(|_, run| {
            is_the_users(run, "plugged")?;
            all_plugged(run, 1)?;
            answered(run)
        })
        .check(all_worked)
}

/// Whose request has which end, and what it is told.
fn answered(run: &Run<'_>) -> Result<()> {
    let refused = "A client of user adds only devices of which user may open the node";
    let wanted = [
        ("user add", 1, refused),
        ("user add", 1, refused),
        ("user add", 1, refused),
        ("user add", 0, ""),
        ("user remove", 0, ""),
        ("user add", 1, refused),
        ("root add", 0, ""),
    ];
    let said: Vec<_> = run.lab("ctl").collect();
    let good = |(fact, (begin, status, text)): (&&str, &(&str, u64, &str))| {
        fact.starts_with(begin) && number(fact, "status") == Some(*status) && fact.contains(text)
    };
    let all = said.len() == wanted.len() && said.iter().zip(&wanted).all(good);
    expect(all, || format!("a client has another answer: {said:?}"))
}

fn is_the_users(run: &Run<'_>, when: &str) -> Result<()> {
    let said: Vec<_> = run.lab("whose").collect();
    // The shell's text has more than one space between two words.
    let words = said.first().map(|fact| fact.split_whitespace());
    let fact = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let good = fact.starts_with(when)
        && [
            ("lacks", "0"),
            ("socket", "user"),
            ("stats", "user"),
            ("own", "64"),
            ("limit", "unlimited"),
            // The process that opens devices, and the one that binds them.
            ("helpers", "00"),
        ]
        .iter()
        .all(|(key, wanted)| value(&fact, key) == Some(*wanted))
        && number(&fact, "threads").is_some_and(|threads| threads >= 3);
    expect(good, || format!("the run is not all the user's: {said:?}"))
}
