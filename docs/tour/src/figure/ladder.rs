//! Draws which call on which file makes or names which other, from lines of `mini-vmm trace`
//! without their times: `FILE CALL(...) = RESULT (MADE)`.

use std::fmt::Write;

/// A call, as a line has it.
struct Call<'a> {
    file: &'a str,
    name: &'a str,
    /// The file that the call has made.
    makes: Option<&'a str>,
    /// Fields in and out.
    rest: &'a str,
}

/// The call of a line; `None` for other lines.
fn call(line: &str) -> Option<Call<'_>> {
    let (head, rest) = line.split_once('(')?;
    let (file, name) = head.trim_end().rsplit_once(' ')?;
    let file = file.trim_end_matches(['└', ' ']);
    let result = rest.rsplit_once(" = ")?.1;
    let makes = result
        .split_once(" (")
        .and_then(|(_, made)| Some(made.split_once(')')?.0));
    let known = !file.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    known.then_some(Call {
        file,
        name,
        makes,
        rest,
    })
}

/// Whether fields name a file, as a whole: `kvm` is not named by `(kvm-vfio)`.
fn names(fields: &str, file: &str) -> bool {
    fields.match_indices(file).any(|(at, _)| {
        let before = fields.get(..at).unwrap_or_default();
        let after = fields.get(at + file.len()..).unwrap_or_default();
        before.ends_with(['(', '=']) && after.starts_with([')', ',', '}'])
    })
}

/// The width of a column.
const COLUMN: usize = 4;

/// The columns of the files that a call is on and that it makes or names.
fn columns(call: &Call<'_>, files: &[&str]) -> (usize, Option<usize>) {
    let own = files.iter().position(|file| *file == call.file);
    let made = call.makes.filter(|made| *made != call.file);
    let other = match made {
        Some(made) => files.iter().position(|file| *file == made),
        None => files
            .iter()
            .position(|file| *file != call.file && names(call.rest, file)),
    };
    (own.unwrap_or(0), other)
}

/// One column for each file, whose name stands at the column's top, and one line for each call.
/// Closing is left out.
///
/// # Errors
/// There is no call.
pub fn ladder(data: &str) -> Result<String, String> {
    let calls = data.lines().filter_map(call);
    let calls: Vec<_> = calls.filter(|call| call.name != "close").collect();
    let mut files: Vec<&str> = Vec::new();
    for call in &calls {
        for file in [Some(call.file), call.makes].into_iter().flatten() {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    if files.is_empty() {
        return Err("there is no call".into());
    }
    let mut drawn = String::new();
    for (column, file) in files.iter().enumerate() {
        let _ = writeln!(drawn, "{}{file}", "│   ".repeat(column));
    }
    for call in &calls {
        let (own, other) = columns(call, &files);
        let (own, other) = (own * COLUMN, other.map(|column| column * COLUMN));
        let (first, last) = (own.min(other.unwrap_or(own)), own.max(other.unwrap_or(own)));
        let line: String = (0..files.len() * COLUMN)
            .map(|x| match x {
                x if Some(x) == other => '●',
                x if x == own && call.makes == Some(call.file) => '●',
                x if x == own => '○',
                x if x > first && x < last => match x % COLUMN {
                    0 => '┼',
                    _ => '─',
                },
                x if x % COLUMN == 0 => '│',
                _ => ' ',
            })
            .collect();
        let _ = writeln!(drawn, "{line}{}", call.name);
    }
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_stands_below_its_files() {
        let data = "container    openat(pathname=\"/dev/vfio/vfio\") = 3 (container)\n\
            group 5      openat(pathname=\"/dev/vfio/5\") = 4 (group 5)\n\
            group 5      VFIO_GROUP_SET_CONTAINER(arg=3 (container)) = 0\n\
            container    VFIO_SET_IOMMU(arg=VFIO_TYPE1v2_IOMMU) = 0\n\
            group 5      VFIO_GROUP_GET_DEVICE_FD(arg=\"x\") = 5 (device x)\n\
            device x       └ close(fd=5) = 0\nnothing else\n";
        let drawn = ladder(data).unwrap();
        assert_eq!(
            drawn,
            "container\n\
             │   group 5\n\
             │   │   device x\n\
             ●   │   │   openat\n\
             │   ●   │   openat\n\
             ●───○   │   VFIO_GROUP_SET_CONTAINER\n\
             ○   │   │   VFIO_SET_IOMMU\n\
             │   ○───●   VFIO_GROUP_GET_DEVICE_FD\n"
        );
        assert!(ladder("nothing").is_err());
    }

    #[test]
    fn a_name_inside_of_another_is_not_that_file() {
        let data = "kvm   openat(pathname=\"/dev/kvm\") = 3 (kvm)\n\
            kvm   KVM_CREATE_VM(arg=0) = 4 (vm)\n\
            vm    KVM_CREATE_DEVICE(type=x) = 0 (kvm-vfio) {fd=3 (kvm-vfio)}\n\
            iommufd IOMMU_IOAS_ALLOC(size=12) = 0 {out_ioas_id=ioas 1}\n\
            ioas 1 x(a=ioas 1, b=kvm) = 0\n";
        let drawn = ladder(data).unwrap();
        let lines: Vec<_> = drawn.lines().collect();
        assert_eq!(lines[4], "│   │   │   │   ioas 1", "{drawn}");
        assert!(lines[5].starts_with("●   │"), "{drawn}");
        assert!(lines[6].starts_with("○───●   │"), "{drawn}");
        assert!(lines[7].starts_with("│   ○───●   │"), "{drawn}");
        assert_eq!(lines[8], "│   │   │   ○───●   IOMMU_IOAS_ALLOC", "{drawn}");
        assert!(lines[9].starts_with("●───┼───┼───┼───○   x"), "{drawn}");
    }
}
