//! The pod in docs/fleet.md is valid for the version of Kubernetes that the document names.

use std::process::Command;

use vmm_sys_util::tempdir::TempDir;

use crate::{find, skipped, text_of, write};

const DOCUMENT: &str = include_str!("../../docs/fleet.md");

/// The part of a text between two others.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).expect(start);
    rest.split_once(end).expect(end).0
}

#[test]
fn the_pod_is_valid() {
    let Some(program) = find("kubernetes-validate") else {
        return skipped("there is no kubernetes-validate: pip install kubernetes-validate");
    };
    let version = between(DOCUMENT, "the schema of Kubernetes ", "\n");
    let pod = between(DOCUMENT, "```yaml\n", "```");
    let dir = TempDir::new().unwrap();
    let file = dir.as_path().join("pod.yaml");
    let check = |pod: &str| {
        write(&file, pod);
        let mut validate = Command::new(&program);
        validate.args(["--strict", "--kubernetes-version", version]);
        validate.arg(&file).output().unwrap()
    };
    text_of(check(pod));
    // A field that Kubernetes does not know is found.
    assert!(
        !check(&pod.replace("restartPolicy", "restartPolice"))
            .status
            .success()
    );
}
