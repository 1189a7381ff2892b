//! `reload.type: exec` with real processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

#[path = "support/reload.rs"]
mod support;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use leasehold::config::model::{ExecReload, OnChange, ProcessUser, ReloadConfig};
use leasehold::process::{procfs, reap};
use leasehold::reload::exec::{MARK, Stdin, sweep_leftovers};
use leasehold::reload::{Context, Exit, Reload, ReloadErrorKind, Taken, build};
use leasehold::secret::SecretBytes;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use support::*;
use tempfile::TempDir;

/// A folder with the state directory, where the scripts run and leave their notes.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.file("state")
    }

    fn config(&self, script: &str) -> ExecReload {
        ExecReload {
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: Vec::new(),
            on_change: OnChange::Signal(Signal::SIGHUP),
            listen: Vec::new(),
            stop_timeout: Duration::from_secs(10),
            drain: Duration::ZERO,
            user: None,
            gid: None,
            cwd: Some(self.0.path().to_owned()),
        }
    }

    fn exec(&self, script: &str) -> Box<dyn Reload> {
        supervise(self.config(script), &context(&self.state()))
    }

    fn record(&self) -> Option<serde_json::Value> {
        let text = fs::read(self.state().join("targets/app/process.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn recorded_pid(&self) -> i32 {
        i32::try_from(self.record().unwrap()["pid"].as_i64().unwrap()).unwrap()
    }
}

fn supervise(config: ExecReload, context: &Context) -> Box<dyn Reload> {
    build(&ReloadConfig::Exec(config), context).unwrap()
}

/// Starts it, and answers its pid once it has made `ready`.
async fn started(exec: &mut Box<dyn Reload>, place: &Place) -> i32 {
    let _ = fs::remove_file(place.file("ready"));
    assert_eq!(exec.apply(NOTHING_NEW).await, Ok(Taken::Done));
    until("the program is ready", || place.file("ready").exists()).await;
    place.recorded_pid()
}

const LIVES: &str = ": > ready; while :; do sleep 0.02; done";
const HANDLES_HUP: &str = "trap 'echo >> told' HUP; : > ready; while :; do sleep 0.02; done";

#[tokio::test]
async fn it_starts_once_leads_a_group_and_stops() {
    let place = Place::new();
    let mut exec = place.exec(LIVES);
    assert!(!exec.running().await.unwrap());
    let pid = started(&mut exec, &place).await;
    assert_eq!(procfs::stat(pid).unwrap().unwrap().pgrp, pid);
    assert_eq!(exec.apply(NOTHING_NEW).await, Ok(Taken::Done));
    assert_eq!(place.recorded_pid(), pid);
    assert!(exec.running().await.unwrap());
    assert_eq!(exec.stop().await, Ok(Some(Exit::Signal(15))));
    assert!(!exists(pid) && !exec.running().await.unwrap() && place.record().is_none());
    assert_eq!(exec.stop().await, Ok(None));
}

#[tokio::test]
async fn changed_files_signal_it_and_a_changed_env_restarts_it() {
    let place = Place::new();
    let mut exec = place.exec(HANDLES_HUP);
    let first = started(&mut exec, &place).await;
    assert_eq!(exec.apply(NEW_FILES).await, Ok(Taken::Done));
    until("it was told", || place.file("told").exists()).await;
    assert_eq!(place.recorded_pid(), first);
    let env = [("KEY".to_owned(), SecretBytes::from("new"))];
    assert_eq!(exec.apply(with_env(&env)).await, Ok(Taken::Done));
    let second = place.recorded_pid();
    assert!(second != first && !exists(first));
    assert!(environ(second).contains(&"KEY=new".to_owned()));
    assert_eq!(exec.apply(with_env(&env)).await, Ok(Taken::Done));
    assert_eq!(place.recorded_pid(), second);
    exec.stop().await.unwrap();
}

#[tokio::test]
async fn on_change_restart_starts_it_anew_for_new_files_only() {
    let place = Place::new();
    let config = ExecReload { on_change: OnChange::Restart, ..place.config(LIVES) };
    let mut exec = supervise(config, &context(&place.state()));
    let first = started(&mut exec, &place).await;
    assert_eq!(exec.apply(NOTHING_NEW).await, Ok(Taken::Done));
    assert_eq!(place.recorded_pid(), first);
    assert_eq!(exec.apply(NEW_FILES).await, Ok(Taken::Done));
    assert!(place.recorded_pid() != first && !exists(first));
    exec.stop().await.unwrap();
}

#[tokio::test]
async fn a_stop_in_a_restart_starts_nothing_and_answers_how_it_ended() {
    let place = Place::new();
    let script = "trap ': > told' TERM; : > ready; while [ ! -e go ]; do sleep 0.02; done; exit 5";
    let config = ExecReload { on_change: OnChange::Restart, ..place.config(script) };
    let context = context(&place.state());
    let mut exec = supervise(config, &context);
    started(&mut exec, &place).await;
    fs::remove_file(place.file("ready")).unwrap();
    let stop = async {
        until("it was told to end", || place.file("told").exists()).await;
        context.stop.cancel();
        fs::write(place.file("go"), "").unwrap();
    };
    let (applied, ()) = tokio::join!(exec.apply(NEW_FILES), stop);
    assert_eq!(applied.unwrap_err().message, "the agent is stopping");
    assert_eq!(exec.stop().await, Ok(Some(Exit::Code(5))));
    assert!(!place.file("ready").exists());
}

#[tokio::test]
async fn a_signal_that_it_dies_of_is_a_failure_and_the_next_apply_starts_it_again() {
    let place = Place::new();
    let mut exec = place.exec("trap 'exit 9' HUP; : > ready; while :; do sleep 0.02; done");
    let first = started(&mut exec, &place).await;
    let error = exec.apply(NEW_FILES).await.unwrap_err();
    assert!(error.message.starts_with(&format!("SIGHUP ended process {first}")), "{error}");
    assert_eq!(exec.died().await, Exit::Code(9));
    assert_eq!(exec.apply(NEW_FILES).await, Ok(Taken::Done));
    assert!(place.recorded_pid() != first);
    exec.stop().await.unwrap();
}

#[tokio::test]
async fn a_signal_that_it_does_not_handle_is_not_sent() {
    let place = Place::new();
    let mut exec = place.exec(LIVES);
    let pid = started(&mut exec, &place).await;
    let error = exec.apply(NEW_FILES).await.unwrap_err();
    assert!(error.message.contains("does not handle SIGHUP, which would end it: not sent"), "{error}");
    assert!(alive(pid));
    exec.stop().await.unwrap();
}

#[tokio::test]
async fn a_group_that_ignores_term_is_killed_after_the_stop_timeout() {
    let place = Place::new();
    let loops = "trap '' TERM; while :; do sleep 0.02; done";
    let script = format!("({loops}) & echo $! > grandchild; : > ready; {loops}");
    let config = ExecReload { stop_timeout: Duration::from_millis(300), ..place.config(&script) };
    let mut exec = supervise(config, &context(&place.state()));
    let pid = started(&mut exec, &place).await;
    let grandchild = pid_in(&place.file("grandchild")).await;
    until("both ignore TERM", || [pid, grandchild].iter().all(|p| ignores_term(*p))).await;
    let before = Instant::now();
    assert_eq!(exec.stop().await, Ok(Some(Exit::Signal(9))));
    assert!(before.elapsed() >= Duration::from_millis(300));
    assert!(!exists(pid) && !alive(grandchild));
}

fn ignores_term(pid: i32) -> bool {
    procfs::disposition(pid, Signal::SIGTERM).unwrap() == Some(procfs::Disposition::Ignored)
}

#[tokio::test]
async fn a_stopped_process_and_a_descendant_in_its_own_session_are_ended_too() {
    let place = Place::new();
    let mut exec = place.exec("setsid sh -c 'echo $$ > daemon; while :; do sleep 0.02; done' & : > ready; wait");
    let pid = started(&mut exec, &place).await;
    let daemon = pid_in(&place.file("daemon")).await;
    assert_ne!(procfs::stat(daemon).unwrap().unwrap().pgrp, pid);
    exec.forward().unwrap().send(Signal::SIGSTOP).unwrap();
    until("it is stopped", || procfs::stat(pid).unwrap().unwrap().state == 'T').await;
    let before = Instant::now();
    assert_eq!(exec.stop().await, Ok(Some(Exit::Signal(15))));
    assert!(before.elapsed() < Duration::from_secs(9));
    assert!(!exists(pid) && !alive(daemon));
}

#[tokio::test]
async fn death_is_told_once_and_stragglers_go_before_the_next_start() {
    let place = Place::new();
    let mut exec =
        place.exec("trap '' TERM; (trap - TERM; while :; do sleep 0.02; done) & echo $! > child; : > ready; exit 3");
    assert_eq!(exec.apply(NOTHING_NEW).await, Ok(Taken::Done));
    assert_eq!(exec.died().await, Exit::Code(3));
    assert!(tokio::time::timeout(Duration::from_millis(50), exec.died()).await.is_err());
    assert!(!exec.running().await.unwrap());
    let straggler = pid_in(&place.file("child")).await;
    assert!(alive(straggler));
    fs::remove_file(place.file("child")).unwrap();
    assert_eq!(exec.apply(NOTHING_NEW).await, Ok(Taken::Done));
    assert!(!alive(straggler));
    pid_in(&place.file("child")).await;
    exec.stop().await.unwrap();
}

#[tokio::test]
async fn signals_are_forwarded_to_the_process_at_any_time() {
    let place = Place::new();
    let mut exec = place.exec("trap ': > told' USR1; : > ready; while :; do sleep 0.02; done");
    let forward = exec.forward().unwrap();
    assert!(!forward.send(Signal::SIGUSR1).unwrap());
    started(&mut exec, &place).await;
    assert!(forward.send(Signal::SIGUSR1).unwrap());
    until("it was told", || place.file("told").exists()).await;
    exec.stop().await.unwrap();
    assert!(!forward.send(Signal::SIGUSR1).unwrap());
}

#[tokio::test]
async fn what_cannot_start_says_why_and_leaves_nothing_behind() {
    let place = Place::new();
    let plain = place.file("plain");
    fs::write(&plain, "x").unwrap();
    let refusal = async |config: ExecReload| {
        let mut exec = supervise(config, &context(&place.state()));
        let error = exec.apply(NOTHING_NEW).await.unwrap_err();
        assert!(place.record().is_none() && !exec.running().await.unwrap());
        error
    };
    let of = |program: &str| ExecReload { command: vec![program.to_owned()], ..place.config("") };
    let error = refusal(of("no-such-program")).await;
    assert!(error.message.starts_with("process `no-such-program`: cannot start: no such program in PATH"), "{error}");
    let error = refusal(of("/no/such")).await;
    assert_eq!(error.message, "process `/no/such`: cannot start: no such file");
    let error = refusal(of(plain.to_str().unwrap())).await;
    assert_eq!(error.kind, ReloadErrorKind::Denied);
    assert!(error.message.contains("cannot start: permission denied"), "{error}");
    let error = refusal(ExecReload { cwd: Some("/no/such".into()), ..of("true") }).await;
    assert_eq!(error.message, "process `true`: cannot enter cwd /no/such: No such file or directory (os error 2)");
}

#[tokio::test]
async fn a_process_that_cannot_be_recorded_is_not_started() {
    let place = Place::new();
    fs::write(place.state(), "a file where the state directory should be").unwrap();
    let mut exec = place.exec(": > ready");
    assert!(exec.apply(NOTHING_NEW).await.is_err());
    // What was spawned for it is killed and reaped by now.
    assert!(!place.file("ready").exists() && !exec.running().await.unwrap());
}

#[tokio::test]
async fn a_value_with_a_nul_byte_is_refused_by_the_variables_name() {
    let place = Place::new();
    let env = [("KEY".to_owned(), SecretBytes::from("se\0cret"))];
    let error = place.exec(LIVES).apply(with_env(&env)).await.unwrap_err();
    assert!(error.message.contains("env KEY holds a NUL byte") && !error.message.contains("cret"), "{error}");
}

#[tokio::test]
async fn it_starts_with_a_clean_slate() {
    let place = Place::new();
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE).unwrap();
    let soft = hard.min(4096);
    let context = Context { original_core: Some((soft, hard)), original_umask: Some(0o027), ..context(&place.state()) };
    let mut exec = supervise(place.config("exec sleep 600"), &context);
    assert_eq!(exec.apply(NOTHING_NEW).await, Ok(Taken::Done));
    let pid = place.recorded_pid();
    assert_eq!(procfs::stat(pid).unwrap().unwrap().ppid, i32::try_from(std::process::id()).unwrap());
    until("the shell became sleep", || procfs::stat(pid).unwrap().unwrap().comm == "sleep").await;
    for mask in ["SigBlk:", "SigIgn:", "SigCgt:"] {
        let signals = u64::from_str_radix(&status_line(pid, mask), 16).unwrap();
        // 32 and 33 are the C library's own: its posix_spawn leaves them ignored.
        assert_eq!(signals & !(0b11 << 31), 0, "{mask}");
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core: Vec<&str> = limits.lines().find(|l| l.starts_with("Max core")).unwrap().split_whitespace().collect();
    assert_eq!(core[4], soft.to_string());
    assert_eq!(status_line(pid, "Umask:"), "0027");
    assert_eq!(fs::read_link(format!("/proc/{pid}/fd/0")).unwrap(), Path::new("/dev/null"));
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), place.0.path().canonicalize().unwrap());
    for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let path = descriptor.unwrap().path();
        assert!(!fs::read_link(&path).unwrap().to_string_lossy().contains("anon_inode"), "{path:?}");
    }
    exec.stop().await.unwrap();
}

#[tokio::test]
async fn it_runs_as_the_user_that_the_config_names() {
    if !nix::unistd::geteuid().is_root() {
        return skip("switching users needs root");
    }
    let place = Place::new();
    let user = ProcessUser { name: "nobody".into(), uid: 65534, gid: 65534 };
    let config = ExecReload {
        command: vec!["sleep".into(), "600".into()],
        user: Some(user),
        cwd: Some("/".into()),
        ..place.config("")
    };
    let mut exec = supervise(ExecReload { gid: Some(1), ..config.clone() }, &context(&place.state()));
    assert_eq!(exec.apply(NOTHING_NEW).await, Ok(Taken::Done));
    let pid = place.recorded_pid();
    assert_eq!(status_line(pid, "Uid:"), "65534 65534 65534 65534");
    assert_eq!(status_line(pid, "Gid:"), "1 1 1 1");
    assert_eq!(status_line(pid, "Groups:"), "1");
    assert_eq!(status_line(pid, "CapEff:"), "0000000000000000");
    assert!(environ(pid).contains(&"USER=nobody".to_owned()));
    exec.stop().await.unwrap();
    // A folder that only root may enter is entered as the user.
    let error = supervise(ExecReload { cwd: Some("/root".into()), ..config }, &context(&place.state()));
    let error = { error }.apply(NOTHING_NEW).await.unwrap_err();
    assert_eq!(error.kind, ReloadErrorKind::Denied, "{error}");
}

#[tokio::test]
async fn orphans_are_reaped_and_nobodys_status_is_taken() {
    let place = Place::new();
    reap::become_subreaper().unwrap();
    let reaper = tokio::spawn(reap::reap_for_ever());
    let mut exec = place
        .exec("for i in 1 2 3 4 5; do (sh -c 'echo $$ >> orphans' &); done; : > ready; while :; do sleep 0.02; done");
    started(&mut exec, &place).await;
    let orphans = || -> Vec<i32> {
        let text = fs::read_to_string(place.file("orphans")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    until("all orphans ran and are gone for good", || {
        let pids = orphans();
        pids.len() == 5 && !pids.iter().any(|pid| exists(*pid))
    })
    .await;
    for code in 0..20 {
        let argv = ["sh".to_owned(), "-c".to_owned(), format!("exit {code}")];
        let outcome = leasehold::process::run(&argv, LONG, &Default::default()).await.unwrap();
        assert_eq!(outcome.exit, Exit::Code(code));
        let mut other = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        tokio::task::yield_now().await;
        reap::reap_orphans();
        assert_eq!(other.wait().unwrap().code(), Some(7));
    }
    assert_eq!(exec.stop().await, Ok(Some(Exit::Signal(15))));
    reaper.abort();
}

#[test]
fn a_trampoline_whose_agent_is_gone_starts_nothing() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut trampoline = Command::new(env!("CARGO_BIN_EXE_agent"))
        .args(["__spawn", "app"])
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .spawn()
        .unwrap();
    drop(ours);
    assert_eq!(trampoline.wait().unwrap().code(), Some(127));
    let by_hand = Command::new(env!("CARGO_BIN_EXE_agent")).arg("__spawn").stdin(Stdio::null()).status().unwrap();
    assert_eq!(by_hand.code(), Some(127));
}

/// An agent in a process of its own, to be killed: this test's own binary, in [`an_agent_to_kill`].
fn agent_to_kill(place: &Place, script: &str) -> Command {
    let mut agent = Command::new(std::env::current_exe().unwrap());
    agent.args(["--exact", "an_agent_to_kill", "--ignored", "--nocapture", "--test-threads=1"]);
    agent.env("TEST_PLACE", place.0.path()).env("TEST_SCRIPT", script);
    agent.stdin(Stdio::null()).stdout(Stdio::null());
    agent
}

#[tokio::test]
#[ignore = "not a test: the process that other tests start and kill"]
async fn an_agent_to_kill() {
    let (Some(place), Ok(script)) = (std::env::var_os("TEST_PLACE"), std::env::var("TEST_SCRIPT")) else { return };
    let place = PathBuf::from(place);
    let mut context = Context { stdin: Stdin::Inherit, ..context(&place.join("state")) };
    context.inherit.pass = vec!["AWS_ACCESS_KEY_ID".into()];
    context.inherit.withhold = vec!["MY_OWN_TOKEN".into()];
    let config = ExecReload {
        command: ["/bin/sh", "-c", &script].map(str::to_owned).to_vec(),
        env: Vec::new(),
        on_change: OnChange::Restart,
        listen: Vec::new(),
        stop_timeout: Duration::from_millis(300),
        drain: Duration::ZERO,
        user: None,
        gid: None,
        cwd: Some(place.clone()),
    };
    let mut exec = supervise(config, &context);
    let env = [("RENDERED".to_owned(), SecretBytes::from("value-of-a-secret"))];
    exec.apply(with_env(&env)).await.unwrap();
    fs::write(place.join("applied"), "").unwrap();
    exec.died().await;
}

const STUBBORN: &str = "trap '' TERM HUP; echo $$ > pid; \
    (while :; do sleep 0.02; done) & \
    setsid sh -c 'trap \"\" TERM; echo $$ > daemon; while :; do sleep 0.02; done' & \
    env -i sh -c 'trap \"\" TERM; echo $$ > bare; while :; do sleep 0.02; done' & \
    : > ready; while :; do sleep 0.02; done";

#[tokio::test]
async fn after_a_killed_agent_everything_it_had_started_is_found_and_ended() {
    let place = Place::new();
    let mut agent = agent_to_kill(&place, STUBBORN).spawn().unwrap();
    until("the program is ready", || place.file("ready").exists() && place.file("applied").exists()).await;
    let mut left = Vec::new();
    for name in ["pid", "daemon", "bare"] {
        left.push(pid_in(&place.file(name)).await);
    }
    until("all ignore TERM", || left.iter().all(|pid| ignores_term(*pid))).await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(left.iter().all(|pid| alive(*pid)));
    // Another state directory's sweep, and another key's, do not touch them.
    assert_eq!(sweep_leftovers(&place.file("other"), &key(), |_| Duration::ZERO, |_| false).await, Ok(Vec::new()));
    assert!(left.iter().all(|pid| alive(*pid)));
    let swept = sweep_leftovers(&place.state(), &key(), |_| Duration::from_millis(200), |_| false).await.unwrap();
    assert!(!left.iter().any(|pid| alive(*pid)), "{swept:?}");
    assert_eq!(swept[0].target.as_deref(), Some("app"));
    assert!(swept[0].processes >= 4, "{swept:?}");
    assert!(place.record().is_none());
    assert_eq!(sweep_leftovers(&place.state(), &key(), |_| Duration::ZERO, |_| false).await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_leftover_is_found_also_while_it_becomes_another_program() {
    for _ in 0..5 {
        let place = Place::new();
        fs::write(place.file("again"), "[ -e pid ] || echo $$ > pid\nexec sh ./again\n").unwrap();
        let script = "trap '' TERM; setsid sh ./again & : > ready; while :; do sleep 0.02; done";
        let mut agent = agent_to_kill(&place, script).spawn().unwrap();
        until("the program is ready", || place.file("ready").exists() && place.file("applied").exists()).await;
        let restless = pid_in(&place.file("pid")).await;
        agent.kill().unwrap();
        agent.wait().unwrap();
        sweep_leftovers(&place.state(), &key(), |_| Duration::ZERO, |_| false).await.unwrap();
        assert!(!alive(restless), "it was missed in the middle of execve(2)");
    }
}

#[tokio::test]
async fn at_the_start_each_leftover_gets_its_own_stop_timeout() {
    let place = Place::new();
    let mut agent = agent_to_kill(&place, STUBBORN).spawn().unwrap();
    until("the program is ready", || place.file("ready").exists() && place.file("applied").exists()).await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    let long = Duration::from_secs(600);
    let own = |target: Option<&str>| if target == Some("app") { Duration::from_millis(100) } else { long };
    let swept =
        tokio::time::timeout(Duration::from_secs(60), sweep_leftovers(&place.state(), &key(), own, |_| false)).await;
    assert_eq!(swept.unwrap().unwrap()[0].target.as_deref(), Some("app"));
}

#[tokio::test]
async fn a_new_agent_starts_nothing_beside_what_a_killed_one_left() {
    let place = Place::new();
    let mut agent = agent_to_kill(&place, STUBBORN).spawn().unwrap();
    until("the program is ready", || place.file("ready").exists() && place.file("applied").exists()).await;
    let first = pid_in(&place.file("pid")).await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    let config = ExecReload { stop_timeout: Duration::from_millis(200), ..place.config(LIVES) };
    let mut exec = supervise(config, &context(&place.state()));
    let second = started(&mut exec, &place).await;
    assert!(!alive(first) && alive(second));
    exec.stop().await.unwrap();
}

#[tokio::test]
async fn a_process_that_heeds_term_goes_with_its_killed_agent() {
    let place = Place::new();
    let script = "echo $$ > pid; : > ready; while :; do sleep 0.02; done";
    let mut agent = agent_to_kill(&place, script).spawn().unwrap();
    until("the program is ready", || place.file("ready").exists() && place.file("applied").exists()).await;
    let pid = pid_in(&place.file("pid")).await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    until("it is gone without a sweep", || !alive(pid)).await;
}

#[tokio::test]
async fn an_agent_killed_at_any_moment_of_a_start_leaves_nothing_that_the_sweep_does_not_find() {
    let script = "trap '' TERM; echo $$ > pid; while :; do sleep 0.02; done";
    let whole = {
        let place = Place::new();
        let before = Instant::now();
        let mut agent = agent_to_kill(&place, script).spawn().unwrap();
        until("it was applied", || place.file("applied").exists()).await;
        let whole = before.elapsed();
        agent.kill().unwrap();
        agent.wait().unwrap();
        sweep_leftovers(&place.state(), &key(), |_| Duration::ZERO, |_| false).await.unwrap();
        whole
    };
    let (mut recorded, mut ran) = (0, 0);
    for step in 1..=24 {
        let delay = whole * step / 20;
        let place = Place::new();
        let mut agent = agent_to_kill(&place, script).spawn().unwrap();
        tokio::time::sleep(delay).await;
        agent.kill().unwrap();
        agent.wait().unwrap();
        recorded += u32::from(place.record().is_some());
        ran += u32::from(place.file("pid").exists());
        sweep_leftovers(&place.state(), &key(), |_| Duration::ZERO, |_| false).await.unwrap();
        let place_path = place.0.path().canonicalize().unwrap();
        let stays = |stat: &procfs::Stat| {
            stat.alive() && fs::read_link(format!("/proc/{}/cwd", stat.pid)).is_ok_and(|cwd| cwd == place_path)
        };
        assert!(!procfs::all().unwrap().iter().any(stays), "after {delay:?}");
    }
    println!("of 24 kills, {recorded} found a record and {ran} a running program");
    assert!(recorded > 0, "the kills came too early to prove anything");
}

#[tokio::test]
async fn the_agents_credentials_are_in_neither_environment_nor_command_line() {
    let place = Place::new();
    let withheld = [
        "VAULT_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "MY_OWN_TOKEN",
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "LEASEHOLD_FAILPOINT",
    ];
    let mut agent = agent_to_kill(&place, "echo $$ > pid; : > ready; cat > input; while :; do sleep 0.02; done");
    agent.envs(withheld.map(|name| (name, "canary-value"))).env("AWS_ACCESS_KEY_ID", "passed").env("PLAIN", "kept");
    let (read, write) = std::io::pipe().unwrap();
    let mut agent = agent.stdin(read).spawn().unwrap();
    until("the program is ready", || place.file("ready").exists() && place.file("applied").exists()).await;
    let pid = pid_in(&place.file("pid")).await;
    let environment = environ(pid);
    for kept in ["AWS_ACCESS_KEY_ID=passed", "PLAIN=kept", "RENDERED=value-of-a-secret"] {
        assert!(environment.iter().any(|v| v == kept), "{kept}");
    }
    assert!(environment.iter().any(|v| v.starts_with(&format!("{MARK}="))));
    assert!(
        !environment.iter().any(|v| v.contains("canary-value") || v.split('=').any(|part| withheld.contains(&part)))
    );
    let everything = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(!String::from_utf8_lossy(&everything).contains("value-of-a-secret"));
    // Standard input is the agent's own here.
    std::io::Write::write_all(&mut { write }, b"typed").unwrap();
    until("the input arrived", || fs::read(place.file("input")).is_ok_and(|input| input == b"typed")).await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    sweep_leftovers(&place.state(), &key(), |_| Duration::from_millis(200), |_| false).await.unwrap();
    assert!(!alive(pid));
}
