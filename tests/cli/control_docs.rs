//! Every script of docs/control.md that names `$socket` does what the page says. Those that name
//! `$device` too are run in the lab, by a guest that gets a device
//! (integration/tests/lab/hot_plug.rs).

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use crate::control::Guest;
use crate::process::PROGRAM;
use crate::{kvm, skipped};

/// The shell scripts of a page.
fn scripts(page: &str) -> Vec<&str> {
    let blocks = page.split("```sh\n").skip(1);
    blocks
        .filter_map(|rest| rest.split("```").next())
        .filter(|script| script.contains("$socket") && !script.contains("$device"))
        .collect()
}

#[test]
fn each_script_works() {
    if !kvm() {
        return;
    }
    if Command::new("curl").arg("--version").output().is_err() {
        return skipped("there is no curl");
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/control.md");
    let page = fs::read_to_string(page).unwrap();
    let scripts = scripts(&page);
    assert!(scripts.len() >= 7, "{scripts:?}");
    let guest = Guest::start(
        |g| {
            g.print("boot\n").hang();
        },
        &[],
    );
    let folder = Path::new(PROGRAM).parent().unwrap();
    let path = format!("{}:{}", folder.display(), env::var("PATH").unwrap());
    for script in scripts {
        let output = Command::new("bash")
            .args(["-e", "-u", "-c", script])
            .env("PATH", &path)
            .env("socket", guest.socket.path())
            .output()
            .unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{script}\n{out}\n{err}");
        let info = guest.info();
        assert_eq!(info["state"], "Running", "after {script}");
    }
}
