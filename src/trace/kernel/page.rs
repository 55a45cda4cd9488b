//! A page of the kernel's ring buffer, as trace_pipe_raw gives it (include/linux/ring_buffer.h,
//! `enum ring_buffer_type`; events/header_page and events/header_event describe it).

/// Bits of the commit field: records were lost before the page, and their number stands behind the
/// last record (kernel/trace/ring_buffer.c, `RB_MISSED_EVENTS` and `RB_MISSED_STORED`).
const MISSED: u64 = 1 << 31;
const MISSED_STORED: u64 = 1 << 30;
/// The types of a record that are not data.
const PADDING: u32 = 29;
const EXTEND: u32 = 30;
const STAMP: u32 = 31;
/// Bits of the time in a record's head, and of a time stamp.
const DELTA_BITS: u32 = 27;
const STAMP_BITS: u32 = 59;

/// Where the parts of a page are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    commit: usize,
    commit_size: usize,
    data: usize,
    /// Bytes of a page.
    pub size: usize,
}

impl Layout {
    /// Reads events/header_page.
    pub fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find(|line| {
                let declaration = line.split(';').next().unwrap_or_default();
                declaration.split_whitespace().next_back() == Some(name)
            })?;
            let number = |key: &str| {
                let word = line
                    .split(';')
                    .find_map(|word| word.trim().strip_prefix(key))?;
                word.parse::<usize>().ok()
            };
            Some((number("offset:")?, number("size:")?))
        };
        let (commit, commit_size) = field("commit")?;
        let (data, size) = field("data")?;
        let size = data.checked_add(size)?;
        let fits = commit.checked_add(commit_size)? <= size;
        let is_sane = fits && matches!(commit_size, 4 | 8) && (64..=1 << 20).contains(&size);
        is_sane.then_some(Self {
            commit,
            commit_size,
            data,
            size,
        })
    }
}

/// The records of a page, with their times.
#[derive(Debug, Default)]
pub struct Records<'a> {
    /// Time and bytes of each.
    pub records: Vec<(u64, &'a [u8])>,
    /// Records that were lost before the page: their number, or 0 if it is not known.
    pub lost: Option<u64>,
}

/// Takes a page apart. What does not fit ends the page.
pub fn records<'a>(layout: &Layout, page: &'a [u8]) -> Records<'a> {
    let mut all = Records::default();
    let Some(mut time) = number(page, 0, 8) else {
        return all;
    };
    let Some(commit) = number(page, layout.commit, layout.commit_size) else {
        return all;
    };
    let data = page.get(layout.data..).unwrap_or_default();
    let end = ((commit & (MISSED_STORED - 1)) as usize).min(data.len());
    if commit & MISSED != 0 {
        let stored = (commit & MISSED_STORED != 0).then(|| number(data, end, 8));
        all.lost = Some(stored.flatten().unwrap_or(0));
    }
    let data = &data[..end];
    let mut at = 0;
    while let Some(head) = number(data, at, 4).map(|head| head as u32) {
        let (kind, delta) = (head & 31, u64::from(head >> 5));
        let array = number(data, at + 4, 4);
        at += 4;
        match (kind, array) {
            (PADDING, _) if delta == 0 => break,
            (PADDING, Some(len)) => at = at.saturating_add(len as usize),
            (EXTEND, Some(high)) => {
                time = time.wrapping_add(high << DELTA_BITS | delta);
                at += 4;
                continue;
            }
            (STAMP, Some(high)) => {
                let low = (1 << STAMP_BITS) - 1;
                time = (time & !low) | ((high << DELTA_BITS | delta) & low);
                at += 4;
                continue;
            }
            (PADDING..=STAMP, None) => break,
            (0, Some(len)) if len >= 4 => {
                let Some(record) = data.get(at + 4..at.saturating_add(len as usize)) else {
                    break;
                };
                time = time.wrapping_add(delta);
                all.records.push((time, record));
                at = at.saturating_add(len.next_multiple_of(4) as usize);
                continue;
            }
            (0, _) => break,
            (words, _) => {
                let Some(record) = data.get(at..at + 4 * words as usize) else {
                    break;
                };
                time = time.wrapping_add(delta);
                all.records.push((time, record));
                at += record.len();
                continue;
            }
        }
        time = time.wrapping_add(delta);
    }
    all
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    let mut value = [0; 8];
    value.get_mut(..size)?.copy_from_slice(bytes);
    Some(u64::from_le_bytes(value))
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    /// events/header_page of a kernel for x86-64.
    pub const HEADER: &str = "\
\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;
\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;
\tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;
";

    fn word(to: &mut Vec<u8>, kind: u32, delta: u32) {
        to.extend((delta << 5 | kind).to_le_bytes());
    }

    /// A page with these records, whose length is a multiple of 4.
    pub fn page(start: u64, records: &[(u64, Vec<u8>)], lost: Option<u64>) -> Vec<u8> {
        let (mut data, mut time) = (Vec::new(), start);
        for (at, record) in records {
            let delta = at - time;
            word(&mut data, EXTEND, (delta & 0x7ff_ffff) as u32);
            data.extend(((delta >> DELTA_BITS) as u32).to_le_bytes());
            time = *at;
            match record.len() / 4 {
                words @ 1..=28 => word(&mut data, words as u32, 0),
                _ => {
                    word(&mut data, 0, 0);
                    data.extend((record.len() as u32 + 4).to_le_bytes());
                }
            }
            data.extend(record);
        }
        let flags = lost.map_or(0, |_| MISSED | MISSED_STORED);
        let mut page = start.to_le_bytes().to_vec();
        page.extend((data.len() as u64 | flags).to_le_bytes());
        page.extend(data);
        page.extend(lost.unwrap_or(0).to_le_bytes());
        page.resize(4096, 0);
        page
    }

    #[test]
    fn times_lengths_and_losses() {
        let layout = Layout::parse(HEADER).unwrap();
        assert_eq!(layout.size, 4096);
        let far = 1 << 40;
        let all = [
            (1_000, vec![1; 8]),
            (far, vec![2; 200]),
            (far + 5, vec![3; 4]),
        ];
        let page = page(500, &all, Some(7));
        let read = records(&layout, &page);
        assert_eq!(read.lost, Some(7));
        let seen: Vec<_> = read.records.iter().map(|(t, r)| (*t, r.to_vec())).collect();
        assert_eq!(seen, all);
    }

    #[test]
    fn time_stamps_and_padding() {
        let layout = Layout::parse(HEADER).unwrap();
        let mut data = Vec::new();
        word(&mut data, STAMP, 9);
        data.extend(1u32.to_le_bytes());
        word(&mut data, PADDING, 3);
        data.extend(8u32.to_le_bytes());
        data.extend([0; 4]);
        word(&mut data, 1, 2);
        data.extend([5; 4]);
        word(&mut data, PADDING, 0);
        let mut page = 1u64.to_le_bytes().to_vec();
        page.extend((data.len() as u64).to_le_bytes());
        page.extend(&data);
        let read = records(&layout, &page);
        assert_eq!(read.records, [((1 << DELTA_BITS) + 9 + 3 + 2, &[5; 4][..])]);
        assert_eq!(read.lost, None);
    }

    #[test]
    fn headers_that_lie_are_none() {
        for text in [
            "",
            "field: char data; offset:16; size:18446744073709551615;",
        ] {
            assert_eq!(Layout::parse(text), None);
        }
        let huge = HEADER.replace("4080", "99999999");
        assert_eq!(Layout::parse(&huge), None);
        assert_eq!(Layout::parse(&HEADER.replace("size:8", "size:3")), None);
    }

    proptest! {
        #[test]
        fn no_page_panics(mut page in prop::collection::vec(any::<u8>(), 0..300), commit: u64) {
            let layout = Layout::parse(HEADER).unwrap();
            records(&layout, &page);
            if let Some(field) = page.get_mut(8..16) {
                field.copy_from_slice(&(commit & 0xc000_00ff).to_le_bytes());
            }
            records(&layout, &page);
        }
    }
}
