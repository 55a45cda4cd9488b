//! A disk whose speed QEMU changes while L1 runs: mini-vmm-bench finds a difference of 3 % between
//! two runs, and a subject whose turns alone are slow.

use lab::expect::expect;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Error, Result, vmm};
use serde_json::Value;

/// The disk.
const DISK: &str = "0000:00:06.0";

/// The serial port whose other end is QEMU's monitor.
const MONITOR: &str = "0000:00:0c.0";

/// The monitor's socket is the other end of the serial port.
const QEMU: [&str; 12] = [
    "-drive",
    "if=none,id=slow,format=raw,file={dir}/slow.img,throttling.iops-total=400",
    "-device",
    "nvme,drive=slow,serial=slow,addr=6",
    "-chardev",
    "socket,id=monitor,path={dir}/monitor,server=on,wait=off",
    "-mon",
    "chardev=monitor,mode=readline",
    "-chardev",
    "socket,id=serial,path={dir}/monitor",
    "-device",
    "pci-serial,chardev=serial,addr=c",
];

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a_measured_difference_of_three_per_cent_is_found")
            .built("mini-vmm-bench", vmm::bench)
            .apart()
            .limit(900)
            .machine(|l1| l1.files = vec![("slow.img", vec![1; 32 << 20])])
            .qemu(&QEMU)
            .script(script(), check),
    ]
}

fn script() -> String {
    let bench = format!(
        "mini-vmm-bench {DISK} --guest-kernel /boot/bzImage --memory 256M \
         --guest-cmdline \"$cmdline\" --quick --rounds 5 --measure 1.5"
    );
    format!(
        "cd /run\n\
         tty=/dev/$(ls $sys/{MONITOR}/tty)\nstty -F $tty raw -echo 115200\nexec 9<>$tty\n\
         throttle() {{ echo \"block_set_io_throttle slow 0 0 0 $1 0 0\" >&9; }}\n\
         {bench} --output a >a.log 2>&1\n\
         throttle 388\n{bench} --output b >b.log 2>&1\n\
         mini-vmm-bench compare a.json b.json >compared\n\
         while read -r line; do say compared \"$line\"; done <compared\n\
         throttle 400\n\
         {bench} --output c 2>&1 >c.log | while read -r line; do\n\
         case \"$line\" in\n\
         *', mini-vmm again;'*) throttle 200 ;;\n\
         round*) throttle 400 ;;\n\
         esac\ndone\n\
         for run in a b c; do say report-$run $(cat $run.json); done\n"
    )
}

fn check(outcome: &Outcome) -> Result<()> {
    let (a, b, c) = (
        report(outcome, "report-a")?,
        report(outcome, "report-b")?,
        report(outcome, "report-c")?,
    );
    speeds(&a, &[400.0, 400.0, 400.0])?;
    speeds(&b, &[388.0, 388.0, 388.0])?;
    speeds(&c, &[400.0, 400.0, 200.0])?;
    let compared: Vec<_> = outcome.transcript.lab("compared").collect();
    let rows: Vec<Vec<&str>> = compared
        .iter()
        .map(|line| line.split('|').map(str::trim).collect())
        .filter(|cells: &Vec<&str>| {
            cells
                .get(1)
                .is_some_and(|work| work.contains("32 at a time"))
        })
        .collect();
    expect(rows.len() == 3, || format!("compare said {compared:#?}"))?;
    for row in rows {
        let ratio = row.get(6).and_then(|cell| cell.parse::<f64>().ok());
        let is_it = ratio.is_some_and(|ratio| (0.96..0.98).contains(&ratio));
        expect(is_it && row.get(8) == Some(&"less"), || {
            format!("compare said {row:?}")
        })?;
    }
    // In the third run, the pair of equal subjects differs, and nothing else does.
    for (work, base, other, verdict) in [(1, 1, 2, "less"), (1, 0, 1, "no difference")] {
        let name = &c["works"][work]["name"];
        let mut all = c["comparisons"].as_array().into_iter().flatten();
        let row =
            all.find(|row| row["work"] == *name && row["base"] == base && row["other"] == other);
        let said = row.and_then(|row| row["verdict"].as_str());
        // 400 and 400 may differ by less than one per cent, and be known to.
        let near = row
            .and_then(|row| row["ratio"].as_f64())
            .is_some_and(|r| (r - 1.0).abs() < 0.01);
        let fits = said == Some(verdict) || (verdict == "no difference" && near);
        expect(fits, || format!("{row:?} is not {verdict:?}"))?;
    }
    Ok(())
}

fn report(outcome: &Outcome, key: &str) -> Result<Value> {
    let text = outcome.transcript.lab(key).next().unwrap_or_default();
    serde_json::from_str(text).map_err(|e| Error::failed(format!("{key}: {e}")))
}

/// Each subject's reads in each second, 32 at a time, are within 2 % of what QEMU lets through, in
/// the median of the rounds.
fn speeds(report: &Value, wanted: &[f64]) -> Result<()> {
    for (subject, wanted) in wanted.iter().enumerate() {
        let rounds = report["rounds"].as_array().into_iter().flatten();
        let mut speeds: Vec<f64> = rounds
            .filter_map(|turns| turns[subject]["samples"][1]["per_second"].as_f64())
            .collect();
        speeds.sort_by(f64::total_cmp);
        let middle = speeds.get(speeds.len() / 2).copied().unwrap_or(0.0);
        expect((middle / wanted - 1.0).abs() <= 0.02, || {
            format!("subject {subject}: {speeds:?} instead of {wanted}")
        })?;
    }
    Ok(())
}
