//! What the reload tests share.
#![allow(dead_code)] // each test file uses its part

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use leasehold::dbus::Bus;
use leasehold::digest::Key;
use leasehold::process::procfs;
use leasehold::reload::exec::Stdin;
use leasehold::reload::{Change, Context};
use leasehold::secret::SecretBytes;

/// No state takes longer to come about on the slowest machine.
pub const LONG: Duration = Duration::from_secs(30);

pub fn context(state_dir: &Path) -> Context {
    Context {
        target: "app".into(),
        state_dir: state_dir.to_owned(),
        key: key(),
        inherit: Default::default(),
        original_core: None,
        original_umask: None,
        stdin: Stdin::Null,
        trampoline: PathBuf::from(env!("CARGO_BIN_EXE_agent")),
        bus: Bus::system(),
        sockets: Default::default(),
        stop: Default::default(),
    }
}

pub fn key() -> Key {
    Key::new(b"the key of a test")
}

pub const NEW_FILES: Change<'static> = Change { generation: 2, env: &[], files_changed: true };
pub const NOTHING_NEW: Change<'static> = Change { generation: 2, env: &[], files_changed: false };

pub fn with_env(env: &[(String, SecretBytes)]) -> Change<'_> {
    Change { generation: 3, env, files_changed: false }
}

/// Waits for a state, not for a while.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "not so in {LONG:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads a file that holds a process id once it is whole (a line).
pub async fn pid_in(path: &Path) -> i32 {
    let mut pid = None;
    until(&format!("{} holds a pid", path.display()), || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        pid = text.strip_suffix('\n').and_then(|line| line.parse().ok());
        pid.is_some()
    })
    .await;
    pid.unwrap()
}

pub fn alive(pid: i32) -> bool {
    procfs::stat(pid).unwrap().is_some_and(|stat| stat.alive())
}

/// True while a process with that name is left at all, zombies included.
pub fn exists(pid: i32) -> bool {
    procfs::stat(pid).unwrap().is_some()
}

pub fn status_line(pid: i32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

pub fn environ(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    bytes.split(|b| *b == 0).filter(|v| !v.is_empty()).map(|v| String::from_utf8_lossy(v).into_owned()).collect()
}

/// Says that a test cannot run here; a failure where everything is required.
pub fn skip(why: &str) {
    eprintln!("SKIP: {why}");
    assert!(std::env::var("LEASEHOLD_REQUIRE").as_deref() != Ok("all"), "required, but skipped: {why}");
}
