//! The subjects of one run.

use std::iter;
use std::path::PathBuf;

use super::kind::Kind;
use super::mini_vmm::Abilities;
use super::subject::Subject;
use crate::error::{Error, Result};
use crate::names::{FLOOR, LEAST, SUBJECT, UNCONFINED};

/// The programs of this project.
#[derive(Clone, Debug)]
pub struct Own {
    /// mini-vmm.
    pub mini_vmm: PathBuf,
    /// The features of this mini-vmm.
    pub abilities: Abilities,
    /// The bare calls (src/bin/floor).
    pub bare_calls: PathBuf,
}

/// All subjects.
#[derive(Clone, Debug)]
pub struct Subjects {
    /// The bare calls with CPUID, and without CPUID.
    bare_calls: [Subject; 2],
    ours: Subject,
    /// mini-vmm without its sandbox, if it has one.
    unconfined: Option<Subject>,
    peers: Vec<Subject>,
    abilities: Abilities,
}

impl Subjects {
    /// Makes the list: this project's programs, QEMU if it is installed, and other VMMs.
    pub fn new(own: Own, qemu: Option<PathBuf>, others: Vec<Subject>) -> Self {
        let bare_calls = [
            (FLOOR, Kind::BareCalls),
            (LEAST, Kind::BareCallsWithoutCpuid),
        ];
        let mut peers = Vec::new();
        if let Some(qemu) = qemu {
            peers.push(Subject::new("QEMU microvm", Kind::QemuMicrovm, &qemu));
            peers.push(Subject::new("QEMU q35", Kind::QemuQ35, &qemu));
        }
        peers.extend(others);
        let unconfined = own.abilities.sandbox.then(|| {
            let kind = Kind::MiniVmmUnconfined;
            Subject::new(UNCONFINED, kind, own.mini_vmm.clone())
        });
        Self {
            unconfined,
            bare_calls: bare_calls.map(|(name, kind)| Subject::new(name, kind, &own.bare_calls)),
            ours: Subject::new(SUBJECT, Kind::MiniVmm, own.mini_vmm),
            peers,
            abilities: own.abilities,
        }
    }

    /// A list with a mini-vmm that has all features, and with these peers.
    #[cfg(test)]
    pub fn example(peers: Vec<Subject>) -> Self {
        let own = Own {
            mini_vmm: "/bin/true".into(),
            abilities: Abilities {
                stats: true,
                hugepages: true,
                idle: true,
                ports: false,
                sandbox: false,
            },
            bare_calls: "/bin/true".into(),
        };
        Self::new(own, None, peers)
    }

    /// The features of this mini-vmm.
    pub fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// mini-vmm.
    pub fn ours(&self) -> &Subject {
        &self.ours
    }

    /// The bare calls, with CPUID.
    pub fn bare_calls(&self) -> &Subject {
        &self.bare_calls[0]
    }

    /// All subjects: both kinds of bare calls, mini-vmm with and without its sandbox, and its
    /// peers.
    pub fn all(&self) -> impl Iterator<Item = &Subject> {
        let bare_calls = self.bare_calls.iter();
        bare_calls.chain(&self.unconfined).chain(self.vmms())
    }

    /// mini-vmm, then its peers.
    pub fn vmms(&self) -> impl Iterator<Item = &Subject> {
        iter::once(&self.ours).chain(&self.peers)
    }

    /// The VMMs that pass devices through with VFIO.
    pub fn with_vfio(&self) -> impl Iterator<Item = &Subject> {
        self.vmms().filter(|subject| subject.kind.has_vfio())
    }
}

/// Parses the variable PEERS: words of "name=/path/to/program".
pub fn parse(text: &str) -> Result<Vec<Subject>> {
    text.split_whitespace().map(peer).collect()
}

fn peer(word: &str) -> Result<Subject> {
    let peer = word
        .split_once('=')
        .and_then(|(name, path)| Some(Subject::new(name, Kind::of(name)?, path)));
    let peer = peer.ok_or_else(|| {
        Error::with_hint(
            format!("PEERS holds {word:?}, and the bench cannot start such a peer"),
            "PEERS=\"cloud-hypervisor=/path/to/binary\"; \
             firecracker, alioth and crosvm are known too",
        )
    })?;
    if peer.program.is_file() {
        return Ok(peer);
    }
    let path = peer.program.display();
    Err(Error::with_hint(
        format!("PEERS names {path}, and there is no such file"),
        "give the path of a program",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_must_be_known_and_be_there() {
        assert_eq!(parse("").unwrap(), []);
        let me = std::env::current_exe().unwrap();
        let peers = parse(&format!("alioth={}", me.display())).unwrap();
        assert_eq!((peers[0].kind, &peers[0].program), (Kind::Alioth, &me));
        for bad in ["bhyve=/bin/sh", "alioth", "crosvm=/no/such/file"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
