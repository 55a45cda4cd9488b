//! Whether two descriptors lead to one open file (kcmp(2)).

use libc::pid_t;

/// KCMP_FILE of linux/kcmp.h.
const FILE: libc::c_int = 0;

/// Whether the descriptors lead to one open file. `None` if the kernel cannot tell: it may be built
/// without CONFIG_KCMP, or a process may have ended.
pub fn same(a: (pid_t, i32), b: (pid_t, i32)) -> Option<bool> {
    // SAFETY: kcmp(2) takes numbers only.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, a.0, b.0, FILE, a.1, b.1) };
    (order >= 0).then_some(order == 0)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_copy_is_the_same_file() {
        let own = std::process::id() as pid_t;
        let file = File::open("/dev/null").unwrap();
        let copy = file.try_clone().unwrap();
        let other = File::open("/dev/null").unwrap();
        let [file, copy, other] = [file, copy, other].map(|file| (own, file.as_raw_fd()));
        // A kernel without the call says so for both.
        assert_ne!(same(file, copy), Some(false));
        assert_ne!(same(file, other), Some(true));
        assert_eq!(same(file, (own, -1)), None);
    }
}
