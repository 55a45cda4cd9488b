//! `make soak SECONDS=… SEED=…`: guests under load in L1, until the time is over. Prints the
//! counters each minute, and what is lost at once. The exit status is 0 only if nothing was lost.

use std::env;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use lab::kernel::Choice;
use lab::setup::Lab;
use lab::soak::Soak;
use lab::transcript::Speaker;
use lab::{Error, Result, runner};

const USAGE: &str = "usage: soak [SECONDS [SEED]]   (120 seconds, and a seed of the time)";

/// Seconds without another wish.
const SECONDS: u64 = 120;

fn main() -> ExitCode {
    match soak() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The number that an argument is, if there is one.
fn number<T: std::str::FromStr>(argument: Option<String>) -> Result<Option<T>> {
    let argument = argument.filter(|text| !text.is_empty());
    let wrong = |text: &str| Error::failed(format!("{text} is no number\n{USAGE}"));
    let parse = |text: String| text.parse().map_err(|_| wrong(&text));
    argument.map(parse).transpose()
}

fn soak() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let seconds = number(arguments.next())?.unwrap_or(SECONDS);
    let seed = number(arguments.next())?.unwrap_or_else(of_time);
    println!("a soak of {seconds} s; the same again: make soak SECONDS={seconds} SEED={seed}");
    let lab = Lab::prepare(&[Choice::Lab], &[]);
    let scenario = Soak { seconds, seed }.scenario("soak");
    let passed = runner::run(&scenario, &lab, &mut |line| {
        let text = line.text.as_str();
        let told = ["soak ", "lost ", "soak-done "];
        if line.from == Speaker::Lab && told.iter().any(|word| text.starts_with(word)) {
            println!("  {text}");
        }
    })?;
    println!("nothing was lost in {:.0} s", passed.took.as_secs_f64());
    Ok(())
}

/// A seed that nobody has chosen.
fn of_time() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |now| now.subsec_nanos())
}
