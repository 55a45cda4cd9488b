//! What the kernel's refusals mean: the table of docs/errnos.md, which is a part of the program.
//!
//! Every error of a call to KVM, VFIO or iommufd makes its text with [`text`] and its hint with
//! [`hint`]. A row is looked up only when a call has failed, so the document is read then.

use std::io;

/// The document.
const TEXT: &str = include_str!("../../docs/errnos.md");

/// A call and an errno, and what they mean together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The call, as the kernel's headers name it.
    pub call: &'static str,
    /// The errno's name.
    pub errno: &'static str,
    /// The interface that makes the call: kvm, container, iommufd, or both of the last two.
    pub interface: &'static str,
    /// When the call is made: start, run, guest, reset or end.
    pub when: &'static str,
    /// What the errno means for this call.
    pub meaning: &'static str,
    /// The remedy.
    pub hint: &'static str,
}

/// All rows, in the document's order.
pub fn rows() -> impl Iterator<Item = Row> {
    let lines = TEXT.lines().skip_while(|line| !line.starts_with("| -"));
    lines.skip(1).filter_map(row)
}

fn row(line: &'static str) -> Option<Row> {
    let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
    let row = Row {
        call: cells.next()?,
        errno: cells.next()?,
        interface: cells.next()?,
        when: cells.next()?,
        meaning: cells.next()?,
        hint: cells.next()?,
    };
    cells.next().is_none().then_some(row)
}

/// The row of a call and an errno. `call` may have an argument behind the call's name:
/// `KVM_ENABLE_CAP KVM_CAP_X86_DISABLE_EXITS`.
pub fn find(call: &str, errno: i32) -> Option<Row> {
    let name = call.split(' ').next()?;
    rows().find(|row| row.call == name && number(row.errno) == Some(errno))
}

/// The sentence about a failed call: the meaning of the errno, with the call's name. Without a row
/// the sentence says only that the call failed; the error's source has the errno's own text.
pub fn text(call: &str, errno: impl Errno) -> String {
    match errno.number().and_then(|number| find(call, number)) {
        Some(row) => format!("{} ({call})", row.meaning),
        None => format!("{call} failed"),
    }
}

/// The remedy of a failed call; `None` if the table does not have the call with this errno.
pub fn hint(call: &str, errno: impl Errno) -> Option<String> {
    let row = errno.number().and_then(|number| find(call, number));
    row.map(|row| row.hint.into())
}

/// An error that may hold an errno.
pub trait Errno {
    /// The errno.
    fn number(&self) -> Option<i32>;
}

impl Errno for &io::Error {
    fn number(&self) -> Option<i32> {
        self.raw_os_error()
    }
}

impl Errno for &vmm_sys_util::errno::Error {
    fn number(&self) -> Option<i32> {
        Some(self.errno())
    }
}

/// The errnos that the table has.
const NUMBERS: &[(&str, i32)] = &[
    ("E2BIG", libc::E2BIG),
    ("EADDRINUSE", libc::EADDRINUSE),
    ("EAGAIN", libc::EAGAIN),
    ("EBADF", libc::EBADF),
    ("EBADFD", libc::EBADFD),
    ("EBUSY", libc::EBUSY),
    ("EEXIST", libc::EEXIST),
    ("EFAULT", libc::EFAULT),
    ("EINVAL", libc::EINVAL),
    ("EIO", libc::EIO),
    ("EMFILE", libc::EMFILE),
    ("EMSGSIZE", libc::EMSGSIZE),
    ("ENFILE", libc::ENFILE),
    ("ENODEV", libc::ENODEV),
    ("ENOENT", libc::ENOENT),
    ("ENOMEM", libc::ENOMEM),
    ("ENOSPC", libc::ENOSPC),
    ("ENOTTY", libc::ENOTTY),
    ("ENXIO", libc::ENXIO),
    ("EOPNOTSUPP", libc::EOPNOTSUPP),
    ("EOVERFLOW", libc::EOVERFLOW),
    ("EPERM", libc::EPERM),
];

/// The number of an errno that the table has.
pub fn number(errno: &str) -> Option<i32> {
    let known = NUMBERS.iter().find(|(name, _)| *name == errno);
    known.map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_row_is_whole_and_there_once() {
        let lines = TEXT.lines().filter(|line| line.starts_with("| ")).count();
        // The head and the line below it are no rows.
        assert_eq!(rows().count(), lines - 2);
        assert!(rows().count() > 100);
        let mut seen = HashSet::new();
        for row in rows() {
            assert!(seen.insert((row.call, row.errno)), "{row:?} is there twice");
            assert!(number(row.errno).is_some(), "{row:?}");
            let interfaces = ["kvm", "container", "iommufd", "both"];
            assert!(interfaces.contains(&row.interface), "{row:?}");
            let moments = ["start", "run", "guest", "reset", "end"];
            assert!(moments.contains(&row.when), "{row:?}");
            assert!(row.meaning.len() > 10 && row.hint.len() > 5, "{row:?}");
        }
    }

    /// Two causes of one call's failure never have the same sentence.
    #[test]
    fn every_call_has_a_sentence_for_each_errno() {
        let mut seen = HashSet::new();
        for row in rows() {
            assert!(seen.insert((row.call, row.meaning)), "{row:?}");
        }
    }

    #[test]
    fn a_call_may_have_an_argument() {
        let row = find("KVM_ENABLE_CAP KVM_CAP_X86_DISABLE_EXITS", libc::EINVAL);
        assert_eq!(row.map(|row| row.call), Some("KVM_ENABLE_CAP"));
        assert_eq!(find("KVM_ENABLE_CAP", libc::ENODEV), None);
        assert_eq!(find("KVM_ENABLE", libc::EINVAL), None);
    }

    #[test]
    fn a_known_errno_has_its_meaning_and_an_unknown_one_no_hint() {
        let said = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            (text("KVM_CREATE_VM", &error), hint("KVM_CREATE_VM", &error))
        };
        let (known, what_helps) = said(libc::EBUSY);
        assert_eq!(
            known,
            "another hypervisor uses the processor's virtualisation (KVM_CREATE_VM)"
        );
        assert!(what_helps.is_some_and(|hint| hint.contains("vboxdrv")));
        assert_eq!(said(libc::EXDEV), ("KVM_CREATE_VM failed".into(), None));
        let none = io::Error::other("no errno");
        assert_eq!(text("KVM_CREATE_VM", &none), "KVM_CREATE_VM failed");
    }
}
