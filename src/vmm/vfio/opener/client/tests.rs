use super::*;

struct NoCalls;

impl Calls for NoCalls {
    fn make(&self, _: &Request, _: Vec<File>) -> io::Result<Option<OwnedFd>> {
        panic!("the other process makes the calls")
    }
}

#[test]
fn a_call_long_after_the_end_is_not_made() {
    let (ours, theirs) = Packets::pair().unwrap();
    let opener = Opener::by(
        Way::Process(ours),
        Arc::new(NoCalls),
        Duration::from_secs(60),
    );
    let long_ago = Instant::now().checked_sub(AFTER_THE_END);
    opener.ended.set(long_ago.unwrap()).unwrap();
    let e = opener.open("0000:01:00.0", "/dev/null").unwrap_err();
    assert_eq!(e.raw_os_error(), Some(libc::ECANCELED));
    assert!(!opener.is_stuck());
    assert!(!ready(theirs.as_fd(), PollFlags::IN, Some(Duration::ZERO)));
}
