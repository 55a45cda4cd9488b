//! The prolog with a made-up squeue and scontrol: which index does it find for the job?

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::{Tree, host, text, written};
use crate::cdi::Interface;

/// A record as Slurm 22.05 prints it, of a job with this name and this comment.
fn record(name: &str, comment: &str, gres: &str) -> String {
    format!(
        "JobId=5 JobName={name}\n   UserId=u(1000) GroupId=u(1000) MCS_label=N/A\n   \
         NodeList=n1\n   Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=*\n   \
         JOB_GRES=vfio:1\n     Nodes=n2 CPU_IDs=0 Mem=0 GRES=vfio:1(IDX:3)\n     \
         Nodes=n1 CPU_IDs=0 Mem=0 GRES={gres}\n   MinCPUsNode=1\n   Comment={comment}\n   \
         WorkDir=/\n"
    )
}

/// The status of the prolog, and what it says.
fn run(listed: &str, asked: &str, record: &str) -> (bool, String) {
    let tree: Tree = host();
    let program = |name: &str, body: &str| {
        let name = format!("bin/{name}");
        tree.file(&name, &format!("#!/bin/sh\n{body}\n"));
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(tree.path(&name), mode).unwrap();
    };
    tree.file("record", record).file("listed", listed);
    // No index has a row, so that the prolog tells the first one that it looks for.
    tree.file("etc/slurm/devices.n1", "");
    let at = |name: &str| tree.path(name).display().to_string();
    program("squeue", &format!("cat {}", at("listed")));
    program(
        "scontrol",
        &format!(
            "case \"$*\" in\n'--details show job {asked}') cat {} ;;\n\
             'show hostnames '*) echo \"$3\" ;;\n*) exit 1 ;;\nesac",
            at("record")
        ),
    );
    let script = text(&written(&tree, Interface::Container).unwrap(), "prolog.sh");
    let here = script
        .replace("\nPATH=", &format!("\nPATH={}:", at("bin")))
        .replace("=/etc/slurm/vfio\n", &format!("={}\n", at("etc/slurm")))
        .replace("=/run/mini-vmm/", &format!("={}/", at("run")));
    let mut shell = Command::new("sh");
    shell.args(["-c", &here]);
    shell.env("SLURMD_NODENAME", "n1").env("SLURM_JOB_ID", "5");
    let output = shell.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said)
}

#[track_caller]
fn finds(index: u32, (success, said): (bool, String)) {
    let wanted = format!("has no device {index}");
    assert!(!success && said.contains(&wanted), "{said}");
}

#[test]
fn the_index_of_the_jobs_record() {
    let job = record("job", "(null)", "gpu:1(IDX:7),vfio:1(IDX:0)");
    finds(0, run("5 5\n", "5", &job));
    // A task of an array, whose other tasks have other devices.
    let task = record("job", "(null)", "vfio:2(IDX:1-2)");
    finds(1, run("6 5_1\n5 5_3\n7 5_2\n", "5_3", &task));
    let (success, said) = run("5 5\n", "5", &record("job", "(null)", ""));
    assert!(success && said.is_empty(), "{said}");
    // Another job of the list is none.
    let (success, said) = run("55 55\n", "5", &job);
    assert!(!success && said.contains("squeue does not know"), "{said}");
}

#[test]
fn a_users_text_gives_no_other_device_and_drains_no_node() {
    let fake = "x\n     Nodes=n1 CPU_IDs=0 Mem=0 GRES=vfio:1(IDX:9)";
    let whole = record("x", "x", "vfio:1(IDX:9)");
    let gres = "vfio:1(IDX:0)";
    for job in [
        record(fake, "x", gres),
        record("x", fake, gres),
        record("x", &format!("{fake}\n   x"), gres),
        record(&whole, "x", gres),
        record(&format!("x\n\n{whole}"), "x", gres),
        record("x", &format!("x\n\n{whole}"), gres),
        // Of a job without a device.
        record(fake, "x", ""),
        record("x", "x\nNodes=n1 GRES=vfio:1(IDX:9)", ""),
    ] {
        let (success, said) = run("5 5\n", "5", &job);
        assert!(
            success && said.contains("has no device: its name"),
            "{said}"
        );
    }
    // Other lines do no harm.
    finds(
        0,
        run("5 5\n", "5", &record("a\n\nb", "c\n\nJobId=5 d", gres)),
    );
}
