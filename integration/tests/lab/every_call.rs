//! Every call with a known value in every field, made on real files of KVM, VFIO and iommufd, below
//! mini-vmm-trace. What the trace shows is what the program's memory had.

use std::path::PathBuf;
use std::sync::OnceLock;

use headers::calls::{compare, program};
use lab::disk::Disk;
use lab::error::Error;
use lab::expect::expect;
use lab::headers::KernelHeaders;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Result, host, vmm};

/// The disk on which L1 leaves what the program and the tracer have written.
const DISK: Disk = Disk::new("calls-disk", 5);

/// The device whose calls are made.
const EDU: &str = "0000:00:0b.0";

const SCRIPT: &str = "\
bdf=0000:00:0b.0
bind_vfio $bdf
export CALLS_GROUP=/dev/vfio/$(group_of $bdf) CALLS_DEVICE=$bdf
ulimit -l unlimited
status=0
mini-vmm-trace --json --output /run/trace -- calls call >/run/said 2>/run/errors || status=$?
say \"traced $status $(wc -c </run/said) $(wc -c </run/trace) $(head -n 1 /run/errors)\"
cat /run/said /run/trace | dd of=$(disk_of 0000:00:05.0) bs=64k conv=fsync 2>/dev/null
say \"written\"
";

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("every_call_is_traced_with_its_values")
            .qemu(&["-device", "edu,addr=b"])
            .disk(DISK)
            .built("mini-vmm-trace", vmm::tracer)
            .built("calls", calls)
            .script(SCRIPT, values),
    ]
}

/// The program that makes each call.
fn calls() -> Result<PathBuf> {
    static PROGRAM: OnceLock<Result<PathBuf>> = OnceLock::new();
    let build = || {
        let kernel = KernelHeaders::get()?;
        let path = host::target().join("lab/every-call/calls");
        headers::read(&kernel.include)
            .and_then(|headers| program::text(&headers))
            .and_then(|text| program::compile(&text, &kernel.include, &path, true))
            .map_err(Error::failed)?;
        Ok(path)
    };
    PROGRAM.get_or_init(build).clone()
}

fn values(outcome: &Outcome) -> Result<()> {
    let line = outcome.transcript.lab("traced").next().unwrap_or_default();
    let words: Vec<&str> = line.split(' ').collect();
    let sizes = match words[..] {
        ["0", said, trace, ..] => said.parse::<usize>().ok().zip(trace.parse::<usize>().ok()),
        _ => None,
    };
    let (said, trace) = sizes.ok_or_else(|| Error::failed(format!("the tracer ended: {line}")))?;
    let image = outcome.image(DISK.serial);
    let bytes = std::fs::read(&image)
        .map_err(|error| Error::failed(format!("read {}: {error}", image.display())))?;
    let text = bytes.get(..said + trace).unwrap_or_default();
    let (said, trace) = text.split_at_checked(said).unwrap_or_default();
    let kernel = KernelHeaders::get()?;
    let headers = headers::read(&kernel.include).map_err(Error::failed)?;
    let seen = compare::compare(
        &String::from_utf8_lossy(said),
        &String::from_utf8_lossy(trace),
        &headers,
    )
    .map_err(Error::failed)?;
    // Linux 6.12 has no file of a TDX machine or of a device's state.
    expect(seen.calls > 220 && seen.values > 8000, || {
        format!("{seen:?} of {EDU}")
    })
}
