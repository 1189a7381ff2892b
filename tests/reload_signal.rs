//! `reload.type: signal` and `command` with real processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

#[path = "support/reload.rs"]
mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, SystemTime};

use leasehold::config::model::{CommandReload, ExpectProcess, ReloadConfig, SignalReload};
use leasehold::reload::{Reload, ReloadError, ReloadErrorKind, Taken, build};
use nix::sys::signal::Signal;
use support::*;
use tempfile::TempDir;

/// A process of a shell script, and its pidfile.
struct Target {
    dir: TempDir,
    child: Child,
}

impl Target {
    /// Runs `script` in a folder of its own, and waits until it has made the file `ready` there.
    async fn start(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new("/bin/sh").args(["-c", script]).current_dir(dir.path()).spawn().unwrap();
        let target = Self { dir, child };
        until("the target is ready", || target.file("ready").exists()).await;
        fs::write(target.file("pid"), format!("{}\n", target.child.id())).unwrap();
        target
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    fn reload(&self, expect: ExpectProcess) -> Box<dyn Reload> {
        signal(&self.file("pid"), expect)
    }

    fn age_pidfile(&self, by: Duration) {
        let then = SystemTime::now().checked_sub(by).unwrap();
        File::options().write(true).open(self.file("pid")).unwrap().set_modified(then).unwrap();
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(pidfile: &Path, expect: ExpectProcess) -> Box<dyn Reload> {
    let config = SignalReload { pidfile: pidfile.to_owned(), signal: Signal::SIGHUP, expect };
    build(&ReloadConfig::Signal(config), &context(Path::new("/nonexistent"))).unwrap()
}

async fn told(reload: &mut Box<dyn Reload>) -> Result<Taken, ReloadError> {
    reload.apply(NEW_FILES).await
}

/// Notes each HUP, and lives on.
const HANDLES_HUP: &str = "trap 'echo >> told' HUP; : > ready; while :; do sleep 0.02; done";
/// Does not know HUP.
const PLAIN: &str = ": > ready; while :; do sleep 0.02; done";

#[tokio::test]
async fn a_process_that_handles_the_signal_is_told_and_lives_on() {
    let target = Target::start(HANDLES_HUP).await;
    let mut reload = target.reload(ExpectProcess::default());
    assert!(reload.running().await.unwrap());
    assert_eq!(told(&mut reload).await, Ok(Taken::Done));
    until("the handler ran", || target.file("told").exists()).await;
    assert!(alive(target.pid()));
}

#[tokio::test]
async fn no_pidfile_a_dead_pid_and_a_zombie_are_not_running() {
    let mut target = Target::start(PLAIN).await;
    let mut reload = target.reload(ExpectProcess::default());
    assert_eq!(told(&mut signal(&target.file("none"), ExpectProcess::default())).await, Ok(Taken::NotRunning));
    target.child.kill().unwrap();
    until("it is a zombie", || exists(target.pid()) && !alive(target.pid())).await;
    assert_eq!(told(&mut reload).await, Ok(Taken::NotRunning));
    target.child.wait().unwrap();
    assert_eq!(told(&mut reload).await, Ok(Taken::NotRunning));
    assert!(!reload.running().await.unwrap());
}

#[tokio::test]
async fn a_process_younger_than_its_pidfile_is_a_stranger_unless_it_is_as_expected() {
    let target = Target::start(HANDLES_HUP).await;
    target.age_pidfile(Duration::from_secs(3600));
    assert_eq!(told(&mut target.reload(ExpectProcess::default())).await, Ok(Taken::NotRunning));
    let other = ExpectProcess { comm: Some("other".into()), ..Default::default() };
    assert_eq!(told(&mut target.reload(other)).await, Ok(Taken::NotRunning));
    assert!(!target.file("told").exists());
    // A clock that was set makes the right process look young too.
    let right = ExpectProcess { comm: Some("sh".into()), ..Default::default() };
    assert_eq!(told(&mut target.reload(right)).await, Ok(Taken::Done));
}

#[tokio::test]
async fn a_process_that_is_not_as_expected_is_not_told() {
    let target = Target::start(HANDLES_HUP).await;
    let pid = target.pid();
    let refusal = async |expect| told(&mut target.reload(expect)).await.unwrap_err().message;
    let message = refusal(ExpectProcess { exe: Some("/usr/sbin/nginx".into()), ..Default::default() }).await;
    let exe = fs::canonicalize("/bin/sh").unwrap();
    assert!(
        message.contains(&format!("names pid {pid}, but it runs {}, not the expected /usr/sbin/nginx", exe.display())),
        "{message}"
    );
    let message = refusal(ExpectProcess { comm: Some("nginx".into()), ..Default::default() }).await;
    assert!(message.contains("its name is `sh`, not the expected `nginx`"), "{message}");
    let message = refusal(ExpectProcess { uid: Some(4_000_000), ..Default::default() }).await;
    assert!(message.contains("not the expected 4000000"), "{message}");
    assert!(!target.file("told").exists());
    let all = ExpectProcess {
        exe: Some("/bin/sh".into()),
        comm: Some("sh".into()),
        uid: Some(nix::unistd::geteuid().as_raw()),
    };
    assert_eq!(told(&mut target.reload(all)).await, Ok(Taken::Done));
}

#[tokio::test]
async fn a_signal_that_would_end_the_process_is_not_sent_and_one_that_it_ignores_tells_nothing() {
    // Its handler may still be to come while it is young: the answers take as long, side by side.
    let plain = Target::start(PLAIN).await;
    let deaf = Target::start("trap '' HUP; : > ready; while :; do sleep 0.02; done").await;
    let (mut plainly, mut deafly) = (plain.reload(ExpectProcess::default()), deaf.reload(ExpectProcess::default()));
    let (ended, ignored) = tokio::join!(told(&mut plainly), told(&mut deafly));
    let ended = ended.unwrap_err();
    assert_eq!(ended.kind, ReloadErrorKind::Failed);
    let expected = format!("process {} does not handle SIGHUP, which would end it: not sent", plain.pid());
    assert!(ended.message.starts_with(&expected), "{ended}");
    assert!(ignored.unwrap_err().message.contains("ignores SIGHUP"));
    assert!(alive(plain.pid()) && alive(deaf.pid()));
}

#[tokio::test]
async fn a_process_that_sets_its_handler_up_late_is_waited_for() {
    let script = ": > ready; sleep 0.3; trap 'echo >> told' HUP; while :; do sleep 0.02; done";
    let target = Target::start(script).await;
    assert_eq!(told(&mut target.reload(ExpectProcess::default())).await, Ok(Taken::Done));
    until("the handler ran", || target.file("told").exists()).await;
}

#[tokio::test]
async fn a_process_found_dead_after_the_signal_is_a_failure_that_says_so() {
    let target = Target::start("trap 'exit 1' HUP; : > ready; while :; do sleep 0.02; done").await;
    let error = told(&mut target.reload(ExpectProcess::default())).await.unwrap_err();
    assert!(error.message.starts_with(&format!("SIGHUP ended process {}", target.pid())), "{error}");
}

#[tokio::test]
async fn a_pidfile_that_names_no_possible_target_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let pidfile = dir.path().join("pid");
    let refusal = async |content: &str| {
        fs::write(&pidfile, content).unwrap();
        told(&mut signal(&pidfile, ExpectProcess::default())).await.unwrap_err().message
    };
    assert!(refusal("").await.ends_with("is empty: it must hold one process id"));
    assert!(refusal("nginx").await.contains("not a number"));
    assert!(refusal("-1").await.contains("not a number"));
    assert!(refusal("0").await.contains("no process id"));
    assert!(refusal("1").await.contains("pid 1, which is init"));
    assert!(refusal(&std::process::id().to_string()).await.contains("this agent itself"));
    let error = told(&mut signal(dir.path(), ExpectProcess::default())).await.unwrap_err();
    assert!(error.message.contains("not a regular file"), "{error}");
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(told(&mut signal(&fifo, ExpectProcess::default())).await.is_err());
}

#[tokio::test]
async fn a_pidfile_of_a_third_user_does_not_choose_what_root_signals() {
    if !nix::unistd::geteuid().is_root() {
        return skip("a pidfile of another user needs root");
    }
    let target = Target::start(HANDLES_HUP).await;
    std::os::unix::fs::chown(target.file("pid"), Some(65534), None).unwrap();
    let error = told(&mut target.reload(ExpectProcess::default())).await.unwrap_err();
    assert!(error.message.contains("belongs to uid 65534") && error.message.contains("refused"), "{error}");
    assert!(!target.file("told").exists());
}

fn command(run: &[&str], timeout: Duration) -> Box<dyn Reload> {
    let run = run.iter().map(|s| (*s).to_owned()).collect();
    build(&ReloadConfig::Command(CommandReload { run, timeout }), &context(Path::new("/nonexistent"))).unwrap()
}

#[tokio::test]
async fn a_command_tells_by_its_exit_code() {
    assert_eq!(told(&mut command(&["true"], LONG)).await, Ok(Taken::Done));
    let error = told(&mut command(&["sh", "-c", "echo no such worker >&2; exit 4"], LONG)).await.unwrap_err();
    assert_eq!(error.message, "reload command `sh` failed with exit code 4: no such worker");
    assert_eq!(error.kind, ReloadErrorKind::Failed);
    let error = told(&mut command(&["no-such-program"], LONG)).await.unwrap_err();
    assert!(error.message.starts_with("reload command: cannot start `no-such-program`: no such program in PATH"));
    let error = told(&mut command(&["sleep", "600"], Duration::from_millis(50))).await.unwrap_err();
    assert_eq!(error.kind, ReloadErrorKind::TimedOut);
    assert_eq!(error.message, "reload command: `sleep` did not end within 50ms and was killed");
}

#[tokio::test]
async fn none_tells_nobody() {
    let mut none = build(&ReloadConfig::None, &context(Path::new("/nonexistent"))).unwrap();
    assert_eq!(told(&mut none).await, Ok(Taken::Done));
    assert!(none.running().await.unwrap());
    assert_eq!(none.stop().await, Ok(None));
}
