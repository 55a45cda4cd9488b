//! Sockets that a service manager has opened for this process (sd_listen_fds(3)).
//!
//! `LISTEN_FDS` is their number, and the first has descriptor 3. `LISTEN_PID` is the process that
//! they are for: another process inherits the variables, and must not take them for its own.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::process;

use crate::sys::descriptor::{Descriptor, DescriptorError};

/// The descriptor of the first socket (SD_LISTEN_FDS_START).
const FIRST: i32 = 3;
const PID: &str = "LISTEN_PID";
const COUNT: &str = "LISTEN_FDS";
/// The names of the descriptors, which are not used.
const NAMES: &str = "LISTEN_FDNAMES";

/// The reason why the variables give no descriptors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenFdsError {
    /// A variable is no number, or out of range.
    #[error("{name} in the environment is `{}`, which is no number of this kind", text.display())]
    Number {
        /// The variable.
        name: &'static str,
        /// Its value.
        text: OsString,
    },
    /// A descriptor is not open.
    #[error("LISTEN_FDS in the environment promises more: {0}")]
    Descriptor(DescriptorError),
}

/// The descriptors that the variables name for the process `own`; empty if they are for another
/// process.
///
/// # Errors
/// A variable has no valid number.
fn numbers(
    own: u32,
    pid: Option<&OsStr>,
    count: Option<&OsStr>,
) -> Result<std::ops::Range<i32>, ListenFdsError> {
    let (Some(pid), Some(count)) = (pid, count) else {
        return Ok(FIRST..FIRST);
    };
    if number(PID, pid)?.cast_unsigned() != own {
        return Ok(FIRST..FIRST);
    }
    let after = number(COUNT, count)?.checked_add(FIRST);
    let after = after.ok_or_else(|| ListenFdsError::Number {
        name: COUNT,
        text: count.into(),
    })?;
    Ok(FIRST..after)
}

/// A number from 1 on, in digits alone.
fn number(name: &'static str, text: &OsStr) -> Result<i32, ListenFdsError> {
    let digits = text
        .to_str()
        .filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok());
    number
        .filter(|n| *n > 0)
        .ok_or_else(|| ListenFdsError::Number {
            name,
            text: text.into(),
        })
}

/// Takes the descriptors of this process over, and removes the variables from the environment, so
/// that no program that this process executes takes the descriptors for its own. Descriptors that
/// were handed over before are left out: a service manager passes files for `fd=N` in the same way.
///
/// To be called while the process has one thread.
///
/// # Errors
/// A variable has no valid number, or a descriptor is not open. The variables are removed.
pub fn take() -> Result<Vec<OwnedFd>, ListenFdsError> {
    let (pid, count) = (env::var_os(PID), env::var_os(COUNT));
    for name in [PID, COUNT, NAMES] {
        if env::var_os(name).is_some() {
            // SAFETY: no other thread reads the environment.
            unsafe { env::remove_var(name) };
        }
    }
    let mut taken = Vec::new();
    for number in numbers(process::id(), pid.as_deref(), count.as_deref())? {
        let given = match Descriptor::take_over(number) {
            Ok(given) => given,
            Err(DescriptorError::Twice(_)) => continue,
            Err(e) => return Err(ListenFdsError::Descriptor(e)),
        };
        let file = given.take();
        let file = file.map_err(|_| ListenFdsError::Descriptor(DescriptorError::Closed(number)))?;
        taken.push(file.into());
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::in_one_thread;

    fn found(pid: &str, count: &str) -> Result<std::ops::Range<i32>, ListenFdsError> {
        numbers(42, Some(OsStr::new(pid)), Some(OsStr::new(count)))
    }

    #[test]
    fn only_the_named_process_has_them() {
        assert_eq!(found("42", "1"), Ok(3..4));
        assert_eq!(found("42", "3"), Ok(3..6));
        assert_eq!(found("43", "1"), Ok(3..3));
        // Another process's number is not read.
        assert_eq!(found("43", "many"), Ok(3..3));
        let one = Some(OsStr::new("1"));
        for (pid, count) in [(None, None), (None, one), (one, None)] {
            assert_eq!(numbers(1, pid, count), Ok(3..3));
        }
    }

    #[test]
    fn numbers_that_are_none_are_errors() {
        for (pid, count, name) in [
            ("", "1", PID),
            ("x", "1", PID),
            ("+42", "1", PID),
            ("0", "1", PID),
            ("99999999999", "1", PID),
            ("42", "", COUNT),
            ("42", "0", COUNT),
            ("42", "-1", COUNT),
            ("42", " 1", COUNT),
            ("42", "2147483645", COUNT),
        ] {
            match found(pid, count) {
                Err(ListenFdsError::Number { name: which, .. }) => assert_eq!(which, name),
                other => panic!("{pid} {count}: {other:?}"),
            }
        }
        let error = found("42", "x").unwrap_err().to_string();
        assert_eq!(
            error,
            "LISTEN_FDS in the environment is `x`, which is no number of this kind"
        );
    }

    /// Descriptors are taken in tests/cli/given.rs, by a process that has inherited them.
    fn the_variables_go() {
        for name in [PID, COUNT, NAMES] {
            // SAFETY: this process has one thread.
            unsafe { env::set_var(name, "1") };
        }
        assert!(take().unwrap().is_empty());
        for name in [PID, COUNT, NAMES] {
            assert_eq!(env::var_os(name), None);
        }
    }

    #[test]
    fn the_variables_are_removed() {
        assert!(in_one_thread(the_variables_go));
    }
}
