use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

fn path() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("mini-vmm-listener-{}-{number}.sock", std::process::id());
    std::env::temp_dir().join(name)
}

#[test]
fn a_socket_is_made_and_removed() {
    let path = path();
    let listener = Listener::bind(&path).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    UnixStream::connect(&path).unwrap();
    let second = Listener::bind(&path).unwrap_err();
    let own = std::process::id().cast_signed();
    assert!(matches!(&second, ListenError::InUse { pid, .. } if *pid == Some(own)));
    assert!(second.hint().contains(&format!("kill {own}")));
    listener.close();
    assert!(!path.exists());
}

#[test]
fn a_dead_socket_is_replaced() {
    let path = path();
    drop(UnixListener::bind(&path).unwrap());
    let before = id(&fs::symlink_metadata(&path).unwrap());
    assert!(Listener::check(&path).is_ok());
    assert_eq!(
        id(&fs::symlink_metadata(&path).unwrap()),
        before,
        "only looked at"
    );
    let listener = Listener::bind(&path).unwrap();
    UnixStream::connect(&path).unwrap();
    // Another program has taken the path over: its file stays.
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(listener);
    assert!(path.exists());
    drop(other);
    fs::remove_file(&path).unwrap();
}

/// A listener whose queue is full does not answer, and is alive.
#[test]
fn a_busy_socket_is_alive() {
    let path = path();
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _waits = UnixStream::connect(&path).unwrap();
    let busy = Listener::bind(&path).unwrap_err();
    assert!(
        matches!(busy, ListenError::InUse { pid: None, .. }),
        "{busy}"
    );
    fs::remove_file(&path).unwrap();
}

#[test]
fn of_two_runs_one_gets_a_dead_socket() {
    for _ in 0..20 {
        let path = path();
        drop(UnixListener::bind(&path).unwrap());
        let outcomes = thread::scope(|scope| {
            let all: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| Listener::bind(&path)))
                .collect();
            all.into_iter()
                .map(|t| t.join().unwrap())
                .collect::<Vec<_>>()
        });
        assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1);
        UnixStream::connect(&path).unwrap();
    }
}

#[test]
fn an_inherited_socket_must_listen() {
    let path = path();
    let listener = UnixListener::bind(&path).unwrap();
    let inherited = Listener::inherit(listener.into()).unwrap();
    UnixStream::connect(&path).unwrap();
    inherited.close();
    assert!(path.exists(), "it is not ours");
    fs::remove_file(&path).unwrap();
    let (one, _other) = UnixStream::pair().unwrap();
    let file = File::open("/dev/null").unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for wrong in [OwnedFd::from(one), file.into(), tcp.into()] {
        let error = Listener::inherit(wrong).unwrap_err();
        assert!(matches!(error, ListenError::NoListener(_)), "{error}");
    }
}
